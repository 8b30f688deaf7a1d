//! What the server can and can't reach: looked at regularly, so that asking costs nothing.
//!
//! Without its database the server can't work. Without the queue or the destination it accepts
//! work all the same, and says that something is wrong.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use destinations::DestinationsError;
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{debug, info, warn};

use crate::{
    pools::{Look, Shown},
    state::State,
};

/// How often to look.
const POLL: Duration = Duration::from_secs(2);
/// How often to look at the destination.
const DESTINATION_POLL: Duration = Duration::from_secs(30);
/// How often to look at what waits in the queues.
const POOLS_POLL: Duration = Duration::from_secs(10);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A name that nothing is stored under: asking for it shows whether the destination answers.
const DESTINATION_PROBE: &str = "vaults/.health";
const UNKNOWN: &str = "unknown";
const STOPPING: &str = "stopping";
/// The services that health is told for; the empty name stands for the server.
pub const SERVICES: [&str; 4] = [
    "",
    "nora.backup.v1.AgentService",
    "nora.backup.v1.BackupService",
    "nora.backup.v1.RestoreService",
];

/// What is known of the server's health.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// "ok", "degraded", "failing", "stopping", or "unknown" before the first look.
    pub status: &'static str,
    /// What is reached, by name: "ok", or what is wrong.
    pub checks: BTreeMap<&'static str, String>,
    /// What somebody should look at, though calls are served.
    pub notes: Vec<String>,
    /// What waits for each pool that was served lately, as last seen.
    pub pools: BTreeMap<String, Shown>,
}

impl Health {
    fn unknown() -> Self {
        Self {
            status: UNKNOWN,
            checks: BTreeMap::new(),
            notes: Vec::new(),
            pools: BTreeMap::new(),
        }
    }

    /// Whether both of these answer.
    fn is_reached(&self, one: &str, other: &str) -> bool {
        [one, other]
            .iter()
            .all(|name| self.checks.get(name).is_some_and(|found| found == "ok"))
    }

    /// Whether calls can be served.
    pub fn is_able(&self) -> bool {
        matches!(self.status, "ok" | "degraded")
    }
}

/// Where the latest findings are.
pub type Findings = watch::Receiver<Health>;

/// Looks, until the server is told to stop.
pub struct Monitor {
    state: Arc<State>,
    reporter: HealthReporter,
    findings: watch::Sender<Health>,
}

impl Monitor {
    /// A monitor that tells gRPC health, and whoever holds the findings.
    pub fn new(state: Arc<State>, reporter: HealthReporter) -> (Self, Findings) {
        let (findings, receiver) = watch::channel(Health::unknown());
        (
            Self {
                state,
                reporter,
                findings,
            },
            receiver,
        )
    }

    /// Runs until the server is told to stop; then says that it is stopping.
    pub async fn run(self) {
        let mut destination = String::new();
        let mut next_destination = Instant::now();
        let mut pools = Look::new(self.state.clone());
        let mut next_pools = Instant::now();
        loop {
            if Instant::now() >= next_destination {
                next_destination = Instant::now() + DESTINATION_POLL;
                destination = self.destination().await;
            }
            let mut health = self.look(destination.clone()).await;
            if health.is_reached("database", "queue") && Instant::now() >= next_pools {
                next_pools = Instant::now() + POOLS_POLL;
                match timeout(PATIENCE, pools.again()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "look at the pools"),
                    Err(_) => debug!("looking at the pools took too long"),
                }
            }
            health.notes = pools.notes();
            health.pools.clone_from(pools.latest());
            self.tell(health).await;
            tokio::select! {
                biased;
                () = self.state.stop.asked.cancelled() => break,
                () = tokio::time::sleep(POLL) => {}
            }
        }
        let mut last = self.findings.borrow().clone();
        last.status = STOPPING;
        self.tell(last).await;
    }

    async fn look(&self, destination: String) -> Health {
        let database = match timeout(PATIENCE, self.state.catalog.ping()).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => slow("database"),
        };
        let queue = match timeout(PATIENCE, self.state.queue.check()).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => slow("queue"),
        };
        let status = match (database == "ok", queue == "ok" && destination == "ok") {
            (false, _) => "failing",
            (true, false) => "degraded",
            (true, true) => "ok",
        };
        Health {
            status,
            checks: BTreeMap::from([
                ("database", database),
                ("queue", queue),
                ("destination", destination),
            ]),
            ..Health::unknown()
        }
    }

    async fn destination(&self) -> String {
        let look = async {
            let store = self.state.destinations.store(destinations::DEFAULT).await?;
            Ok::<_, DestinationsError>(store.stat(DESTINATION_PROBE).await?)
        };
        match timeout(PATIENCE, look).await {
            Ok(Ok(_)) => "ok".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => slow("destination"),
        }
    }

    async fn tell(&self, health: Health) {
        let before = self.findings.borrow().clone();
        if before.status != health.status {
            let checks = format!("{:?}", health.checks);
            if health.is_able() || health.status == STOPPING {
                info!(status = health.status, checks, "health changed");
            } else {
                warn!(status = health.status, checks, "health changed");
            }
        }
        // Whoever watches is told of changes only.
        if before.status == UNKNOWN || before.is_able() != health.is_able() {
            let serving = if health.is_able() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            for service in SERVICES {
                self.reporter.set_service_status(service, serving).await;
            }
        }
        metrics::gauge!("nora_backup_server_able").set(f64::from(u8::from(health.is_able())));
        self.findings.send_replace(health);
    }
}

fn slow(what: &str) -> String {
    format!("the {what} did not answer within {} s", PATIENCE.as_secs())
}
