//! Puts the parts together, serves, and stops in order.
//!
//! How it stops, once told to:
//! 1. no new connection, no new call (UNAVAILABLE, SHUTTING_DOWN); health says NOT_SERVING; watch
//!    streams end with SHUTTING_DOWN; the loops end
//! 2. calls and downloads go on for at most the drain time; then they end with SHUTTING_DOWN
//! 3. connections close by themselves when their streams have ended; those that don't are cut

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use catalog::Catalog;
use destinations::Destinations;
use queue::{Announcer, EventBus, JobQueue};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;
use tracing::{info, warn};
use vault::{Keyring, VaultSettings};

use crate::{
    admission::AdmissionGate,
    announcer,
    audit::AuditLog,
    auth::{AuthGate, Authenticator},
    dispatcher,
    gate::Gates,
    health::Monitor,
    limits::{Limits, LimitsGate},
    listeners::{Face, Listeners},
    methods::Methods,
    ops::{self, Ops},
    reaper,
    settings::ServerSettings,
    state::{State, Stop},
    tls,
};

/// Streams of one connection at the same time.
const STREAMS_MAX: u32 = 1_024;
/// Pings that tell dead connections from silent ones.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(20);
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// How long tasks and connections may take to end when all is said.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a server is made of.
pub struct ServerParts {
    /// What is known; its schema is up to date.
    pub catalog: Catalog,
    /// Where jobs go.
    pub queue: Arc<dyn JobQueue>,
    /// Where events come from.
    pub bus: Arc<dyn EventBus>,
    /// Who tells other services how jobs ended.
    pub announcer: Arc<dyn Announcer>,
    /// Where vaults lie; the environment's own destination is registered.
    pub destinations: Arc<Destinations>,
    /// What opens them.
    pub keyring: Keyring,
    /// How much reading a vault may use.
    pub vault: VaultSettings,
    /// The server's own settings.
    pub settings: ServerSettings,
    /// Operations HTTP, when it is wanted.
    pub ops: Option<Ops>,
    /// Where administrators call, when they may.
    pub admin: Option<TcpListener>,
}

/// Serves on `listener` (and for administrators on their own) until `shutdown` is canceled, then stops in order. An error is something
/// that keeps the server from working: a wrong setting, or a loop that died.
pub async fn run(
    parts: ServerParts,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let settings = parts.settings;
    let authenticator = Authenticator::new(&settings)?;
    let mut builder = Server::builder();
    if let Some(config) = tls::config(&settings)? {
        builder = builder.tls_config(config).map_err(|error| {
            anyhow!(
                "NORA_BACKUP_TLS_CERT, NORA_BACKUP_TLS_KEY: {}; set them to a PEM certificate \
                 chain and its key",
                crate::status::chain(Box::from(error.to_string()))
            )
        })?;
    }
    let stop = Stop {
        asked: shutdown.child_token(),
        deadline: CancellationToken::new(),
    };
    // Whatever way this function is left, nothing that it began stays.
    let _stop_all = [
        stop.asked.clone().drop_guard(),
        stop.deadline.clone().drop_guard(),
    ];
    let tasks = TaskTracker::new();
    let state = Arc::new(State {
        catalog: parts.catalog,
        queue: parts.queue,
        bus: parts.bus,
        announcer: parts.announcer,
        destinations: parts.destinations,
        keyring: parts.keyring,
        vault_settings: parts.vault,
        slow_reader: settings.slow_reader,
        redispatch: settings.redispatch,
        dispatch_poll: settings.dispatch_poll,
        schedule_poll: settings.schedule_poll,
        retention: crate::retention::rules(settings.limit_per_agent, settings.retention_days),
        storage_limit_bytes: settings.storage_mb as u64 * 1024 * 1024,
        audit_kept: Duration::from_hours(24 * settings.access.audit_days as u64),
        stop: stop.clone(),
        tasks: tasks.clone(),
    });

    let (reporter, health) = tonic_health::server::health_reporter();
    let (monitor, findings) = Monitor::new(state.clone(), reporter);
    let mut loops = JoinSet::new();
    loops.spawn(dispatcher::run(state.clone()));
    loops.spawn(reaper::run(state.clone()));
    loops.spawn(announcer::run(state.clone()));
    loops.spawn(crate::scheduler::run(state.clone()));
    loops.spawn(crate::retention::run(state.clone()));
    loops.spawn(crate::presence::run(state.clone()));
    loops.spawn(monitor.run());
    if let Some(ops) = parts.ops {
        let asked = stop.asked.clone();
        loops.spawn(async move {
            if let Err(error) = ops::run(ops, findings, asked).await {
                warn!(error = format!("{error:#}"), "operations HTTP");
            }
        });
    }

    let connections_end = CancellationToken::new();
    let _end_connections = connections_end.clone().drop_guard();
    let methods = Arc::new(Methods::load());
    let (audit, audit_writer) = AuditLog::start(state.catalog.clone());
    let limits = LimitsGate::new(
        methods.clone(),
        Limits::new(&settings.access),
        state.catalog.clone(),
    );
    let admission = AdmissionGate::new(
        &settings,
        methods.clone(),
        stop.asked.clone(),
        tasks.clone(),
    );
    let listeners = Listeners {
        builder: builder
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_PATIENCE))
            .http2_max_header_list_size(HEADERS_BYTES_MAX)
            .max_concurrent_streams(STREAMS_MAX),
        auth: Gates::new(AuthGate::new(authenticator)),
        admission: Gates::new(admission),
        limits: Gates::new(limits),
        methods,
        audit,
        health,
        reflection: settings.reflection,
        state,
        connections_max: settings.connections_max,
        connections_end: connections_end.clone(),
    };
    let address = listener.local_addr().context("listen")?;
    let admin_address = parts.admin.as_ref().map(TcpListener::local_addr);
    let admin_address = admin_address.transpose().context("listen")?;
    let serving = async {
        let public = listeners.serve(listener, Face::Public);
        match parts.admin {
            None => public.await,
            Some(admin) => {
                tokio::try_join!(public, listeners.serve(admin, Face::Admin)).map(|_| ())
            }
        }
    };
    tokio::pin!(serving);
    info!(%address, admin_address = admin_address.map(tracing::field::display), "server listens");

    let failure = tokio::select! {
        // Asked to stop, `serving` may end in the same moment: it is waited for below,
        // and must not be polled to its end here.
        biased;
        () = stop.asked.cancelled() => None,
        served = &mut serving => Some(match served {
            Ok(()) => anyhow!("the gRPC server ended"),
            Err(error) => error.context("serve gRPC"),
        }),
        ended = loops.join_next() => Some(match ended {
            Some(Err(error)) => anyhow!(error).context("a loop of the server died"),
            _ => anyhow!("a loop of the server ended"),
        }),
    };
    // A loop that ends because it was told to is no failure.
    let failure = failure.filter(|_| !stop.asked.is_cancelled());

    stop.asked.cancel();
    info!("server stops");
    tasks.close();
    let drain = async {
        if timeout(settings.server_drain, tasks.wait()).await.is_err() {
            warn!(tasks = tasks.len(), "drain time is over");
            stop.deadline.cancel();
            if timeout(LAST_WORDS, tasks.wait()).await.is_err() {
                warn!(tasks = tasks.len(), "work goes on after the deadline");
            }
        }
    };
    let mut served = false;
    tokio::pin!(drain);
    loop {
        tokio::select! {
            () = &mut drain => break,
            _ = &mut serving, if failure.is_none() && !served => served = true,
        }
    }
    if failure.is_none() && !served && timeout(LAST_WORDS, &mut serving).await.is_err() {
        connections_end.cancel();
        let _ = timeout(LAST_WORDS, &mut serving).await;
    }
    audit_writer.close(LAST_WORDS).await;
    if timeout(LAST_WORDS, async {
        while loops.join_next().await.is_some() {}
    })
    .await
    .is_err()
    {
        loops.shutdown().await;
    }
    info!("server stopped");
    failure.map_or(Ok(()), Err)
}
