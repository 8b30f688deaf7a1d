//! How much goes on at the same time: the gate after authentication.
//!
//! Each sort of rpc has its own bound, so that watchers do not keep calls out, nor downloads
//! watchers. What is over the bound is answered at once with RESOURCE_EXHAUSTED (OVERLOADED) and
//! RetryInfo; nothing queues. A call holds its slot until its response is made; a stream's
//! [`Slot`] goes into the request's extensions, and the work behind the stream keeps it.
//! Health and reflection pass: they must answer when nothing else does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body};

use crate::{
    gate::{Answer, Behind, Gate},
    limits::Download,
    methods::{Methods, Sort},
    settings::ServerSettings,
    status::{ApiError, deadline_exceeded},
};

/// A place among those of a sort; given back when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Slot {
    _permit: Arc<OwnedSemaphorePermit>,
    _download: Option<Arc<Download>>,
}

impl Slot {
    /// The same place, and one among its caller's downloads.
    pub fn with(self, download: Option<Download>) -> Self {
        Self {
            _download: download.map(Arc::new),
            ..self
        }
    }
}

#[derive(Debug, Clone)]
struct Places {
    what: &'static str,
    bound: usize,
    free: Arc<Semaphore>,
}

impl Places {
    fn new(what: &'static str, bound: usize) -> Self {
        let bound = bound.min(Semaphore::MAX_PERMITS);
        Self {
            what,
            bound,
            free: Arc::new(Semaphore::new(bound)),
        }
    }

    fn take(&self) -> Result<Slot, ApiError> {
        match self.free.clone().try_acquire_owned() {
            Ok(permit) => Ok(Slot {
                _permit: Arc::new(permit),
                _download: None,
            }),
            Err(_) => Err(ApiError::overloaded(self.what, self.bound)),
        }
    }
}

/// Bounds what goes on at the same time.
#[derive(Debug)]
pub struct AdmissionGate {
    methods: Arc<Methods>,
    calls: Places,
    watches: Places,
    downloads: Places,
    call_timeout: Duration,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl AdmissionGate {
    /// Bounds as set. Once `stopping` is canceled nothing new is let in; `tasks` knows of every
    /// call that goes on.
    pub fn new(
        settings: &ServerSettings,
        methods: Arc<Methods>,
        stopping: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            methods,
            calls: Places::new("calls", settings.calls_max),
            watches: Places::new("watch streams", settings.watches_max),
            downloads: Places::new("downloads", settings.downloads_max),
            call_timeout: settings.call_timeout,
            stopping,
            tasks,
        }
    }

    fn admit(&self, sort: Sort) -> Result<Slot, ApiError> {
        if self.stopping.is_cancelled() {
            return Err(ApiError::shutting_down());
        }
        match sort {
            Sort::Call => self.calls.take(),
            Sort::Watch => self.watches.take(),
            Sort::Download => self.downloads.take(),
        }
    }
}

impl Gate for AdmissionGate {
    fn pass<S: Behind>(&self, mut behind: S, mut request: http::Request<Body>) -> Answer<S::Error> {
        let path = request.uri().path();
        let label = self.methods.label(path);
        let Some(sort) = self.methods.sort(path) else {
            return Box::pin(behind.call(request));
        };
        let slot = match self.admit(sort) {
            Ok(slot) => slot,
            Err(error) => {
                let answer = Status::from(error).into_http();
                count(label, &answer, Duration::ZERO);
                return Box::pin(std::future::ready(Ok(answer)));
            }
        };
        let going_on = self.tasks.token();
        let limit = self.call_timeout;
        if sort != Sort::Call {
            request.extensions_mut().insert(slot.clone());
        }
        let answer = behind.call(request);
        Box::pin(async move {
            let begun = Instant::now();
            // Of a stream this bounds the time to its beginning.
            let answer = match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer?,
                Err(_) => deadline_exceeded(limit).into_http(),
            };
            drop((slot, going_on));
            count(label, &answer, begun.elapsed());
            Ok(answer)
        })
    }
}

/// Counts an answered rpc, by method and code. Of a stream, its beginning.
fn count(method: &'static str, answer: &http::Response<Body>, took: Duration) {
    let code = answer
        .headers()
        .get("grpc-status")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("0")
        .to_owned();
    metrics::counter!("nora_backup_rpcs_total", "method" => method, "code" => code).increment(1);
    metrics::histogram!("nora_backup_rpc_seconds", "method" => method).record(took.as_secs_f64());
}
