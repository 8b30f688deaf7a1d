//! AgentService: which agents exist.

use std::sync::Arc;

use catalog::{AgentFilter, BackupsOfGone, NewAgent, PageRequest};
use proto::backup::v1::{
    Agent, DeregisterAgentRequest, DeregisterAgentResponse, GetAgentRequest, GetAgentResponse,
    ListAgentsRequest, ListAgentsResponse, RegisterAgentRequest, RegisterAgentResponse,
    agent_service_server::AgentService,
};
use tonic::{Request, Response, Status, async_trait};

use super::Call;
use crate::{
    access,
    clock::now_ms,
    convert, page,
    page::Listing,
    state::State,
    status::ApiError,
    validation::{Checks, PAGE_DEFAULT},
};

/// The service.
#[derive(Clone)]
pub struct Agents {
    state: Arc<State>,
}

impl Agents {
    /// The service over its parts.
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    async fn register(
        &self,
        call: Call<RegisterAgentRequest>,
    ) -> Result<RegisterAgentResponse, ApiError> {
        access::may_register(&call.caller)?;
        let mut checks = Checks::new();
        let agent = call.message.agent.unwrap_or_default();
        checks.agent(&agent);
        checks.done()?;
        let etag = (!agent.etag.is_empty()).then(|| agent.etag.clone());
        let (agent, created) = self
            .state
            .catalog
            .register_agent(with_defaults(agent), etag.as_deref(), now_ms())
            .await?;
        tracing::info!(agent_id = agent.agent_id, created, "agent registered");
        Ok(RegisterAgentResponse {
            agent: Some(convert::agent(agent)),
            created,
        })
    }

    async fn get(&self, call: Call<GetAgentRequest>) -> Result<GetAgentResponse, ApiError> {
        let mut checks = Checks::new();
        checks.id("agent_id", &call.message.agent_id);
        checks.done()?;
        let agent =
            access::registration_for(&self.state, &call.caller, &call.message.agent_id).await?;
        Ok(GetAgentResponse {
            agent: Some(convert::agent(agent)),
        })
    }

    async fn list(&self, call: Call<ListAgentsRequest>) -> Result<ListAgentsResponse, ApiError> {
        let request = call.message;
        let mut checks = Checks::new();
        let limit = checks.page_size(request.page_size, PAGE_DEFAULT);
        checks.page_token(&request.page_token);
        checks.owner("owner_id", &request.owner_id);
        checks.workspace("workspace_id", &request.workspace_id);
        checks.done()?;
        let listing = Listing::new(
            "agents",
            [request.owner_id.as_bytes(), request.workspace_id.as_bytes()],
        );
        let after = listing.open_text(&request.page_token)?;
        let Ok(owner_id) = access::agents_scope(&call.caller, &request.owner_id) else {
            return Ok(ListAgentsResponse::default());
        };
        let filter = AgentFilter {
            owner_id,
            workspace_id: (!request.workspace_id.is_empty()).then_some(request.workspace_id),
        };
        let found = self
            .state
            .catalog
            .list_agents(&filter, &PageRequest { limit, after })
            .await?;
        let mut agents: Vec<Agent> = found.items.into_iter().map(convert::agent).collect();
        let fitting = page::fitting(&agents);
        let next = if fitting < agents.len() {
            agents.truncate(fitting);
            agents.last().map(|agent| agent.agent_id.clone())
        } else {
            found.next
        };
        Ok(ListAgentsResponse {
            agents,
            next_page_token: next.map_or_else(String::new, |key| listing.token(key.as_bytes())),
        })
    }

    async fn deregister(
        &self,
        call: Call<DeregisterAgentRequest>,
    ) -> Result<DeregisterAgentResponse, ApiError> {
        access::may_register(&call.caller)?;
        let request = call.message;
        let mut checks = Checks::new();
        checks.id("agent_id", &request.agent_id);
        checks.that(
            !(request.keep_backups && (request.delete_backups || request.crypto_erase)),
            "keep_backups",
            "can't be set together with delete_backups or crypto_erase",
        );
        checks.done()?;
        let catalog = &self.state.catalog;
        if request.crypto_erase {
            catalog.erase_agent(&request.agent_id, now_ms()).await?;
        } else {
            let of_backups = match (request.delete_backups, request.keep_backups) {
                (true, _) => BackupsOfGone::Deleted,
                (_, true) => BackupsOfGone::Kept,
                _ => BackupsOfGone::None,
            };
            catalog
                .deregister_agent(&request.agent_id, of_backups, now_ms())
                .await?;
        }
        tracing::info!(
            agent_id = request.agent_id,
            delete_backups = request.delete_backups,
            keep_backups = request.keep_backups,
            crypto_erase = request.crypto_erase,
            "agent deregistered"
        );
        Ok(DeregisterAgentResponse {})
    }
}

fn with_defaults(agent: Agent) -> NewAgent {
    let or = |text: String, default: &str| {
        if text.is_empty() {
            default.to_owned()
        } else {
            text
        }
    };
    NewAgent {
        display_name: or(agent.display_name, &agent.agent_id),
        agent_id: agent.agent_id,
        owner_id: agent.owner_id,
        workspace_id: agent.workspace_id,
        source: agent.source.unwrap_or_default(),
        integrations: agent.integrations,
        pool: or(agent.pool, "default"),
        patterns: agent.patterns,
        size_warning_bytes: agent.size_warning_bytes,
        destination_id: agent.destination_id,
        second_destination_id: agent.second_destination_id,
    }
}

#[async_trait]
impl AgentService for Agents {
    async fn register_agent(
        &self,
        request: Request<RegisterAgentRequest>,
    ) -> Result<Response<RegisterAgentResponse>, Status> {
        Ok(Response::new(self.register(Call::of(request)?).await?))
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        Ok(Response::new(self.get(Call::of(request)?).await?))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        Ok(Response::new(self.list(Call::of(request)?).await?))
    }

    async fn deregister_agent(
        &self,
        request: Request<DeregisterAgentRequest>,
    ) -> Result<Response<DeregisterAgentResponse>, Status> {
        Ok(Response::new(self.deregister(Call::of(request)?).await?))
    }
}
