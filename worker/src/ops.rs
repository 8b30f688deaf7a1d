//! `/health` and `/metrics` over HTTP, for operators and orchestrators.
//!
//! `/health` says in JSON what this worker can and can't reach, and is 503 when it can't work;
//! `/livez` is 200 while the process answers.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, response::IntoResponse, routing::get};
use http::{StatusCode, header};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::{
    net::TcpListener,
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{runner::Shared, sources};

/// How long a check may take.
const CHECK_MAX: Duration = Duration::from_secs(5);
/// How long an answer holds: whoever asks often must not burden what is asked about.
const ANSWER_HOLDS: Duration = Duration::from_secs(5);

/// Where health and metrics are served.
pub struct Ops {
    /// A bound listener.
    pub listener: TcpListener,
    /// Renders the metrics; `None`: `/metrics` has nothing.
    pub metrics: Option<PrometheusHandle>,
}

/// What a worker can reach.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// "ok" or "failing".
    pub status: &'static str,
    /// Whether the worker takes no more jobs because it was told to stop.
    pub stopping: bool,
    /// The catalog's database.
    pub database: Check,
    /// The queue.
    pub queue: Check,
    /// The destination.
    pub destination: Check,
    /// The Docker Engine, where one is configured; only some agents need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker: Option<Check>,
}

/// One thing that can be reached or not.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Whether it can.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Check {
    async fn of<E: std::fmt::Display>(check: impl Future<Output = Result<(), E>>) -> Self {
        let reason = match timeout(CHECK_MAX, check).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", CHECK_MAX.as_secs())),
        };
        Self {
            ok: reason.is_none(),
            reason,
        }
    }
}

struct Served {
    worker: Arc<Shared>,
    metrics: Option<PrometheusHandle>,
    last: Mutex<Option<(Instant, Health)>>,
}

/// Serves until told to stop.
pub(crate) async fn serve(
    ops: Ops,
    worker: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let served = Arc::new(Served {
        worker,
        metrics: ops.metrics,
        last: Mutex::new(None),
    });
    let router = Router::new()
        .route("/health", get(health))
        .route("/readyz", get(health))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .with_state(served);
    axum::serve(ops.listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await?;
    Ok(())
}

async fn health(State(served): State<Arc<Served>>) -> impl IntoResponse {
    let mut last = served.last.lock().await;
    let health = match &*last {
        Some((at, health)) if at.elapsed() < ANSWER_HOLDS => health.clone(),
        _ => {
            let health = look(&served.worker).await;
            *last = Some((Instant::now(), health.clone()));
            health
        }
    };
    let code = match health.status {
        "ok" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(health))
}

async fn look(worker: &Shared) -> Health {
    let docker = async {
        match timeout(CHECK_MAX, sources::docker::check(&worker.settings)).await {
            Ok(Some(result)) => Some(Check::of(async { result }).await),
            Ok(None) => None,
            Err(_) => Some(Check::of(std::future::pending::<Result<(), String>>()).await),
        }
    };
    let (database, queue, destination, docker) = tokio::join!(
        Check::of(worker.catalog.ping()),
        Check::of(worker.queue.check()),
        Check::of(worker.store.check()),
        docker,
    );
    let stopping = worker.shutdown.is_cancelled();
    let works = database.ok && queue.ok && destination.ok && !stopping;
    Health {
        status: if works { "ok" } else { "failing" },
        stopping,
        database,
        queue,
        destination,
        docker,
    }
}

async fn metrics(State(served): State<Arc<Served>>) -> impl IntoResponse {
    let text = served
        .metrics
        .as_ref()
        .map(PrometheusHandle::render)
        .unwrap_or_default();
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text)
}
