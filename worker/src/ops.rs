//! `/health` and `/metrics` over HTTP, for operators and orchestrators.
//!
//! `/health` says in JSON what this worker can and can't reach, and is 503 when it can't work;
//! `/livez` is 200 while the process answers.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, response::IntoResponse, routing::get};
use destinations::DestinationsError;
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
        match timeout(CHECK_MAX, check).await {
            Ok(answer) => Self::from(answer.map_err(|error| error.to_string())),
            Err(_) => Self::from(Err(no_answer())),
        }
    }
}

impl From<Result<(), String>> for Check {
    fn from(answer: Result<(), String>) -> Self {
        Self {
            ok: answer.is_ok(),
            reason: answer.err(),
        }
    }
}

fn no_answer() -> String {
    format!("no answer within {} s", CHECK_MAX.as_secs())
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
            Ok(None) => None,
            Ok(Some(answer)) => Some(Check::from(answer.map_err(|error| error.to_string()))),
            Err(_) => Some(Check::from(Err(no_answer()))),
        }
    };
    let (database, queue, destination, docker) = tokio::join!(
        Check::of(worker.catalog.ping()),
        Check::of(worker.queue.check()),
        Check::of(async {
            let store = worker.destinations.store(destinations::DEFAULT).await?;
            Ok::<_, DestinationsError>(store.check().await?)
        }),
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::testing::Site;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_says_what_can_and_cannot_be_reached() {
        for queue_is_there in [true, false] {
            let site = Site::new().await;
            let running = site.start();
            if !queue_is_there {
                site.queue.close();
            }
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let stop = CancellationToken::new();
            let ops = Ops {
                listener,
                metrics: None,
            };
            let serving = tokio::spawn(serve(ops, running.shared.clone(), stop.clone()));
            let health = get(address, "/health").await;
            let (head, body) = health.split_once("\r\n\r\n").unwrap();
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(json["queue"]["ok"], queue_is_there, "{health}");
            assert_eq!(json["database"]["ok"], true, "{health}");
            assert_eq!(json["destination"]["ok"], true, "{health}");
            let code = if queue_is_there { " 200 " } else { " 503 " };
            assert!(head.lines().next().unwrap().contains(code), "{health}");
            assert!(get(address, "/livez").await.contains(" 200 "));
            assert!(get(address, "/metrics").await.contains("text/plain"));
            stop.cancel();
            serving.await.unwrap().unwrap();
        }
    }
}
