//! The gRPC listeners: what each serves.
//!
//! The public one serves what owners and Nora's control plane call. The administrators' one serves
//! the same, and AdminService: its rpcs exist nowhere else, so that a mistake in a token or a role
//! can't open them to the public network.

use std::sync::Arc;

use prost::Message as _;
use proto::backup::v1::{
    admin_service_server::AdminServiceServer, agent_service_server::AgentServiceServer,
    backup_service_server::BackupServiceServer, restore_service_server::RestoreServiceServer,
    schedule_service_server::ScheduleServiceServer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::{
    admission::AdmissionGate,
    audit::{AuditGate, AuditLog},
    auth::AuthGate,
    connection::incoming,
    gate::Gates,
    limits::LimitsGate,
    methods::Methods,
    services::{Admin, Agents, Backups, Restores, Schedules},
    state::State,
};

/// Largest request: an agent with all the integrations that it may have.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Where the administrators' service is described.
const ADMIN_FILE: &str = "nora/backup/v1/admin_service.proto";

/// Whom a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// Everyone.
    Public,
    /// Administrators.
    Admin,
}

impl Face {
    /// As the audit log names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admin => "admin",
        }
    }
}

/// What all listeners share.
pub struct Listeners<H> {
    /// With TLS and the limits of connections set.
    pub builder: Server,
    /// Who calls.
    pub auth: Gates<AuthGate>,
    /// How much at the same time.
    pub admission: Gates<AdmissionGate>,
    /// How much of one caller.
    pub limits: Gates<LimitsGate>,
    /// What the rpcs are.
    pub methods: Arc<Methods>,
    /// Who did what.
    pub audit: AuditLog,
    /// Health of the server.
    pub health: HealthServer<H>,
    /// Whether services are described to whoever asks.
    pub reflection: bool,
    /// What the services work with.
    pub state: Arc<State>,
    /// Connections of one listener at the same time.
    pub connections_max: usize,
    /// Canceled when connections are cut.
    pub connections_end: CancellationToken,
}

impl<H: Health> Listeners<H> {
    /// Serves on one listener until the server is told to stop and its calls have ended.
    pub async fn serve(&self, listener: TcpListener, face: Face) -> anyhow::Result<()> {
        let (v1, v1alpha) = if self.reflection {
            (
                Some(reflection(face).build_v1()?),
                Some(reflection(face).build_v1alpha()?),
            )
        } else {
            (None, None)
        };
        let state = &self.state;
        let admin = (face == Face::Admin).then(|| {
            AdminServiceServer::new(Admin::new(state.clone()))
                .max_decoding_message_size(REQUEST_BYTES_MAX)
        });
        self.builder
            .clone()
            .layer(self.auth.clone())
            .layer(self.admission.clone())
            .layer(self.limits.clone())
            .layer(Gates::new(AuditGate::new(
                self.methods.clone(),
                self.audit.clone(),
                face,
            )))
            .add_service(self.health.clone())
            .add_optional_service(v1)
            .add_optional_service(v1alpha)
            .add_optional_service(admin)
            .add_service(
                AgentServiceServer::new(Agents::new(state.clone()))
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(
                BackupServiceServer::new(Backups::new(state.clone()))
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(
                ScheduleServiceServer::new(Schedules::new(state.clone()))
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(
                RestoreServiceServer::new(Restores::new(state.clone()))
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .serve_with_incoming_shutdown(
                incoming(listener, self.connections_max, self.connections_end.clone()),
                self.state.stop.asked.clone().cancelled_owned(),
            )
            .await?;
        Ok(())
    }
}

/// Describes what the listener serves, and nothing else.
fn reflection(face: Face) -> tonic_reflection::server::Builder<'static> {
    let mut described =
        prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap_or_default();
    if face == Face::Public {
        described.file.retain(|file| file.name() != ADMIN_FILE);
    }
    tonic_reflection::server::Builder::configure()
        .register_file_descriptor_set(described)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
