//! Operations HTTP: what orchestrators and Prometheus ask.
//!
//! - `/health`: JSON; 503 with the reasons when the server is not able to work
//! - `/livez`: 200 as long as the process runs
//! - `/readyz`: 200 when calls can be served
//! - `/metrics`: Prometheus text

use std::time::Duration;

use anyhow::Context as _;
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::{Findings, Health};

/// How often the recorder tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Buckets of all histograms of seconds: from quick calls to long jobs. Unlike quantiles they can be
/// summed over replicas.
const SECONDS: [f64; 14] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0,
];

/// Makes the process's one metrics recorder. The program calls this, once, however many parts of
/// it record or show metrics.
pub fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .context("set the buckets of histograms")?
        .install_recorder()
        .context("install the metrics recorder")
}

/// The port of operations HTTP, and what it shows.
pub struct Ops {
    /// Where it listens.
    pub listener: TcpListener,
    /// What `/metrics` shows; from [`install_metrics`].
    pub metrics: PrometheusHandle,
}

#[derive(Clone)]
struct Shown {
    findings: Findings,
    metrics: PrometheusHandle,
}

/// Serves until `stop` is canceled.
pub async fn run(ops: Ops, findings: Findings, stop: CancellationToken) -> anyhow::Result<()> {
    let handle = ops.metrics.clone();
    let routes = Router::new()
        .route("/health", get(health))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route(
            "/metrics",
            get(|shown: State<Shown>| async move { shown.0.metrics.render() }),
        )
        .with_state(Shown {
            findings,
            metrics: ops.metrics,
        });
    let upkeep = async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            handle.run_upkeep();
        }
    };
    // Not drained: who asks for health does not mind, and would hold the stop up.
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        served = async { axum::serve(ops.listener, routes).await } => {
            served.context("serve operations HTTP")
        }
        () = upkeep => Ok(()),
    }
}

fn code(health: &Health) -> StatusCode {
    if health.is_able() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn health(State(shown): State<Shown>) -> impl IntoResponse {
    let health = shown.findings.borrow().clone();
    (code(&health), Json(health))
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    let health = shown.findings.borrow().clone();
    (code(&health), format!("{}\n", health.status))
}
