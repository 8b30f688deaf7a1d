//! A client that is not told which server lives: it asks any, and asks again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rand::RngExt as _;
use tonic::{Code, Status};

use super::{ledger::Ledger, site::OWNER};
use crate::api::{Api, reason};

/// How long a call to one server may take: a frozen one does not answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(6);
/// How long calls are repeated, over all servers.
const PATIENCE: Duration = Duration::from_mins(2);

/// One caller, with a connection to each server.
#[derive(Clone)]
pub(super) struct Caller {
    servers: Arc<Vec<Api>>,
    pub(super) ledger: Arc<Ledger>,
}

impl Caller {
    /// As the owner of all agents.
    pub(super) fn new(urls: &[String], ledger: &Arc<Ledger>) -> Result<Self> {
        let servers: Result<Vec<Api>> = urls
            .iter()
            .map(|url| Api::lazy(url, OWNER, "user", CALL_TIMEOUT))
            .collect();
        Ok(Self {
            servers: Arc::new(servers?),
            ledger: ledger.clone(),
        })
    }

    /// Any server.
    pub(super) fn any(&self) -> Api {
        let number = rand::rng().random_range(0..self.servers.len());
        self.servers[number].clone()
    }

    /// Asks one server after the other until one answers; then that is the answer,
    /// and whether an earlier call may have had an effect.
    pub(super) async fn ask<T, F>(
        &self,
        what: &str,
        call: impl Fn(Api) -> F,
    ) -> Result<(Result<T, Status>, bool)>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let begun = Instant::now();
        let mut repeated = false;
        loop {
            let status = match call(self.any()).await {
                Ok(answer) => return Ok((Ok(answer), repeated)),
                Err(status) => status,
            };
            if reason(&status) == "INTERNAL" {
                self.ledger
                    .internal_error(format!("{what}: {}", status.message()));
            } else if !is_passing(&status) {
                return Ok((Err(status), repeated));
            }
            if begun.elapsed() > PATIENCE {
                bail!(
                    "{what} is not answered for {} s: {status}",
                    PATIENCE.as_secs()
                );
            }
            repeated = true;
            let wait = rand::rng().random_range(20..200);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
}

/// Whether the same call may be answered a little later, or by another server.
pub(super) fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::ResourceExhausted => true,
        // From the transport: the service names a reason.
        Code::Internal => reason(status).is_empty(),
        _ => false,
    }
}
