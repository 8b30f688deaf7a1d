//! Agents: registered by the control plane, or made by restores.

use crate::{Agent, AgentFilter, Catalog, CatalogError, NewAgent, Page, PageRequest};

impl Catalog {
    /// Makes the agent known, or replaces what is known of it; tells whether it
    /// was not known before. With `expected_etag`, only when it still is the
    /// present one. The etag changes only when something does.
    ///
    /// Errors: `OwnerMismatch`, `EtagMismatch` (also when it does not exist),
    /// `AgentBusy` while a deregistered agent of this id is being removed.
    pub async fn register_agent(
        &self,
        agent: NewAgent,
        expected_etag: Option<&str>,
        now_ms: i64,
    ) -> Result<(Agent, bool), CatalogError> {
        let _ = (agent, expected_etag, now_ms);
        unimplemented!()
    }

    /// An agent; None when it is not there or deregistered.
    pub async fn get_agent(&self, agent_id: &str) -> Result<Option<Agent>, CatalogError> {
        let _ = agent_id;
        unimplemented!()
    }

    /// Agents in the order of their ids.
    pub async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<Agent>, CatalogError> {
        let _ = (filter, page);
        unimplemented!()
    }

    /// Forgets an agent. With `delete_backups`, its backups become DELETING; the
    /// agent is hidden at once and its row goes with the last of them.
    ///
    /// Errors: `AgentNotFound`, `AgentHasBackups`, `AgentBusy` (a backup,
    /// restore or verification waits or runs), `BackupInUse`.
    pub async fn deregister_agent(
        &self,
        agent_id: &str,
        delete_backups: bool,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let _ = (agent_id, delete_backups, now_ms);
        unimplemented!()
    }
}
