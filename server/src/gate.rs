//! Gates: what every call passes on its way to a service, and its answer on the way back. Each
//! decides over a request; the tower around them is the same for all.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::body::Body;
use tower::{Layer, Service};

/// An answer that is being made.
pub type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

/// What lies behind a gate: the next one, or the services.
pub trait Behind:
    Service<http::Request<Body>, Response = http::Response<Body>, Future: Send, Error: Send>
    + Send
    + 'static
{
}

impl<S> Behind for S where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Future: Send, Error: Send>
        + Send
        + 'static
{
}

/// Decides over calls.
pub trait Gate {
    /// Hands the call on to what lies behind, which is ready for it, or answers it itself.
    fn pass<S: Behind>(&self, behind: S, request: http::Request<Body>) -> Answer<S::Error>;
}

/// A gate as a layer of a tonic server.
#[derive(Debug)]
pub struct Gates<G>(Arc<G>);

impl<G> Gates<G> {
    /// Of this one.
    pub fn new(gate: G) -> Self {
        Self(Arc::new(gate))
    }
}

// Not derived: that would want a gate that can be cloned.
impl<G> Clone for Gates<G> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<G: Gate, S> Layer<S> for Gates<G> {
    type Service = Gated<G, S>;

    fn layer(&self, behind: S) -> Self::Service {
        Gated {
            gate: self.0.clone(),
            behind,
        }
    }
}

/// What lies behind a gate, with the gate.
#[derive(Debug)]
pub struct Gated<G, S> {
    gate: Arc<G>,
    behind: S,
}

impl<G, S: Clone> Clone for Gated<G, S> {
    fn clone(&self) -> Self {
        Self {
            gate: self.gate.clone(),
            behind: self.behind.clone(),
        }
    }
}

impl<G: Gate, S: Behind + Clone> Service<http::Request<Body>> for Gated<G, S> {
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.behind.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The one that is ready is used; its clone is made ready for the next call.
        let next = self.behind.clone();
        let ready = std::mem::replace(&mut self.behind, next);
        self.gate.pass(ready, request)
    }
}
