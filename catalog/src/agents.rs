//! Agents: registered by the control plane, or made by restores.

use prost::Message as _;
use proto::backup::v1::Source;
use sea_orm::{
    ActiveModelTrait as _,
    ActiveValue::Set,
    ColumnTrait as _, EntityTrait as _, PaginatorTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};
use uuid::Uuid;

use crate::{
    Agent, AgentFilter, BackupsOfGone, Catalog, CatalogError, JobKind, JobState, NewAgent, Page,
    PageRequest,
    connection::Tx,
    deletion, destinations,
    entities::{agents, backups, jobs},
    error::Doing as _,
    pages, schedules, stored,
};

impl Catalog {
    /// Makes the agent known, or replaces what is known of it; tells whether it
    /// was not known before. With `expected_etag`, only when it still is the
    /// present one. The etag changes only when something does.
    ///
    /// Errors: `OwnerMismatch`, `DestinationNotFound`, `EtagMismatch` (also when it does not exist),
    /// `AgentBusy` while a deregistered agent of this id is being removed.
    pub async fn register_agent(
        &self,
        agent: NewAgent,
        expected_etag: Option<&str>,
        now_ms: i64,
    ) -> Result<(Agent, bool), CatalogError> {
        let first = self.register_once(&agent, expected_etag, now_ms).await;
        match first {
            // Somebody else registered it at the same moment: now it is there.
            Err(error) if error.is_unique_violation() => {
                self.register_once(&agent, expected_etag, now_ms).await
            }
            result => result,
        }
    }

    async fn register_once(
        &self,
        new: &NewAgent,
        expected_etag: Option<&str>,
        now_ms: i64,
    ) -> Result<(Agent, bool), CatalogError> {
        let tx = self.begin("register agent").await?;
        for destination_id in [&new.destination_id, &new.second_destination_id] {
            destinations::check_known(&tx, destination_id).await?;
        }
        let agent_id = || new.agent_id.clone();
        let Some(row) = lock_agent(&tx, &new.agent_id).await? else {
            if expected_etag.is_some() {
                return Err(CatalogError::EtagMismatch {
                    agent_id: agent_id(),
                });
            }
            let agent = insert_agent(&tx, new, None, now_ms).await?;
            tx.commit().await?;
            return Ok((agent, true));
        };
        let is_gone = row.deregister_time_ms.is_some();
        if is_gone && !row.backups_kept {
            return Err(CatalogError::AgentBusy {
                agent_id: agent_id(),
                doing: "it was deregistered and its backups are being removed",
            });
        }
        let before = stored::agent(row)?;
        if before.owner_id != new.owner_id {
            return Err(CatalogError::OwnerMismatch {
                agent_id: agent_id(),
            });
        }
        if expected_etag.is_some_and(|etag| is_gone || etag != before.etag) {
            return Err(CatalogError::EtagMismatch {
                agent_id: agent_id(),
            });
        }
        if !is_gone && is_same(&before, new) {
            return Ok((before, false));
        }
        let mut agent = update_agent(&tx, before, new, now_ms).await?;
        if is_gone {
            come_back(&tx, &agent.agent_id, now_ms).await?;
            agent.create_time_ms = now_ms;
            agent.restore_id = None;
        }
        tx.commit_with_work().await?;
        Ok((agent, is_gone))
    }

    /// An agent; None when it is not there or deregistered.
    pub async fn get_agent(&self, agent_id: &str) -> Result<Option<Agent>, CatalogError> {
        let row = agents::Entity::find_by_id(agent_id)
            .filter(agents::Column::DeregisterTimeMs.is_null())
            .one(self.read())
            .await;
        row.doing("read agent")?.map(stored::agent).transpose()
    }

    /// An agent, also one that is gone and whose backups were kept.
    pub async fn get_agent_or_kept(&self, agent_id: &str) -> Result<Option<Agent>, CatalogError> {
        let there = agents::Column::DeregisterTimeMs.is_null();
        let row = agents::Entity::find_by_id(agent_id)
            .filter(there.or(agents::Column::BackupsKept.eq(true)))
            .one(self.read())
            .await;
        row.doing("read agent")?.map(stored::agent).transpose()
    }

    /// Agents in the order of their ids.
    pub async fn list_agents(
        &self,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<Agent>, CatalogError> {
        let mut query = agents::Entity::find()
            .filter(agents::Column::DeregisterTimeMs.is_null())
            .order_by_asc(agents::Column::AgentId)
            .limit(pages::limit(page) + 1);
        if let Some(owner_id) = &filter.owner_id {
            query = query.filter(agents::Column::OwnerId.eq(owner_id));
        }
        if let Some(workspace_id) = &filter.workspace_id {
            query = query.filter(agents::Column::WorkspaceId.eq(workspace_id));
        }
        if let Some(after) = &page.after {
            query = query.filter(agents::Column::AgentId.gt(after));
        }
        let rows = query.all(self.read()).await.doing("list agents")?;
        pages::page(page, rows, stored::agent, |agent| &agent.agent_id)
    }

    /// Forgets an agent. Its backups stay, or become DELETING; the agent is hidden
    /// at once and its row goes with the last of them. Kept ones can be deleted by
    /// forgetting the agent once more.
    ///
    /// Errors: `AgentNotFound`, `AgentHasBackups`, `AgentBusy` (a backup,
    /// restore or verification waits or runs), `BackupInUse`.
    pub async fn deregister_agent(
        &self,
        agent_id: &str,
        of_backups: BackupsOfGone,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("deregister agent").await?;
        let row = lock_agent(&tx, agent_id).await?;
        let row = row.filter(|row| {
            let deletes = of_backups == BackupsOfGone::Deleted;
            row.deregister_time_ms.is_none() || (deletes && row.backups_kept)
        });
        let Some(row) = row else {
            return Err(not_found(agent_id));
        };
        if has_callers_job(&tx, agent_id).await? {
            return Err(CatalogError::AgentBusy {
                agent_id: agent_id.to_owned(),
                doing: "a backup, restore or verification waits or runs",
            });
        }
        let backups = backups::Entity::find()
            .filter(backups::Column::AgentId.eq(agent_id))
            .count(tx.db())
            .await
            .doing(tx.doing())?;
        if backups == 0 {
            schedules::remove(&tx, agent_id).await?;
            let deleted = agents::Entity::delete_by_id(agent_id).exec(tx.db()).await;
            deleted.doing(tx.doing())?;
            if row.vault_bytes > 0 {
                self.insert_compact(&tx, agent_id, &row.owner_id, &row.pool, now_ms, now_ms)
                    .await?;
            }
            return tx.commit_with_work().await;
        }
        let kept = of_backups == BackupsOfGone::Kept;
        match of_backups {
            BackupsOfGone::None => {
                return Err(CatalogError::AgentHasBackups {
                    agent_id: agent_id.to_owned(),
                });
            }
            BackupsOfGone::Deleted => {
                deletion::delete_all(&tx, &row, self.retry.max_attempts, now_ms).await?;
            }
            BackupsOfGone::Kept => {}
        }
        schedules::remove(&tx, agent_id).await?;
        agents::Entity::update_many()
            .col_expr(agents::Column::BackupsKept, Expr::value(kept))
            .col_expr(agents::Column::DeregisterTimeMs, Expr::value(now_ms))
            .filter(agents::Column::AgentId.eq(agent_id))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit_with_work().await
    }
}

pub(crate) fn not_found(agent_id: &str) -> CatalogError {
    CatalogError::AgentNotFound {
        agent_id: agent_id.to_owned(),
    }
}

/// Reads an agent that the transaction depends on, deregistered or not.
pub(crate) async fn lock_agent(
    tx: &Tx,
    agent_id: &str,
) -> Result<Option<agents::Model>, CatalogError> {
    let row = agents::Entity::find_by_id(agent_id).lock_exclusive();
    row.one(tx.db()).await.doing(tx.doing())
}

/// Adds an agent. An id that is taken violates the primary key.
pub(crate) async fn insert_agent(
    tx: &Tx,
    new: &NewAgent,
    restore_id: Option<&str>,
    now_ms: i64,
) -> Result<Agent, CatalogError> {
    let row = agents::Model {
        agent_id: new.agent_id.clone(),
        display_name: new.display_name.clone(),
        owner_id: new.owner_id.clone(),
        workspace_id: new.workspace_id.clone(),
        source: new.source.encode_to_vec(),
        integrations: encode_integrations(new),
        pool: new.pool.clone(),
        etag: new_etag(),
        restore_id: restore_id.map(str::to_owned),
        vault_bytes: 0,
        create_time_ms: now_ms,
        update_time_ms: now_ms,
        deregister_time_ms: None,
        backups_kept: false,
        retention_due_ms: now_ms,
        patterns: encode_patterns(new),
        size_warning_bytes: size_warning(new),
        destination_id: new.destination_id.clone(),
        second_destination_id: new.second_destination_id.clone(),
    };
    agents::Entity::insert(agents::ActiveModel::from(row.clone()).reset_all())
        .exec_without_returning(tx.db())
        .await
        .doing(tx.doing())?;
    stored::agent(row)
}

/// Replaces what is known of an agent. Jobs that wait go where it can be reached now.
async fn update_agent(
    tx: &Tx,
    before: Agent,
    new: &NewAgent,
    now_ms: i64,
) -> Result<Agent, CatalogError> {
    let etag = new_etag();
    let change = agents::ActiveModel {
        display_name: Set(new.display_name.clone()),
        workspace_id: Set(new.workspace_id.clone()),
        source: Set(new.source.encode_to_vec()),
        integrations: Set(encode_integrations(new)),
        pool: Set(new.pool.clone()),
        patterns: Set(encode_patterns(new)),
        size_warning_bytes: Set(size_warning(new)),
        destination_id: Set(new.destination_id.clone()),
        second_destination_id: Set(new.second_destination_id.clone()),
        etag: Set(etag.clone()),
        update_time_ms: Set(now_ms),
        ..Default::default()
    };
    agents::Entity::update_many()
        .set(change)
        .filter(agents::Column::AgentId.eq(&new.agent_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    if before.pool != new.pool {
        jobs::Entity::update_many()
            .col_expr(jobs::Column::Pool, Expr::value(new.pool.clone()))
            .col_expr(jobs::Column::DispatchTimeMs, Expr::value(None::<i64>))
            .col_expr(jobs::Column::DispatchHoldMs, Expr::value(0_i64))
            .col_expr(
                jobs::Column::DispatchVersion,
                Expr::col(jobs::Column::DispatchVersion).add(1),
            )
            .filter(jobs::Column::AgentId.eq(&new.agent_id))
            .filter(jobs::Column::State.eq(JobState::Queued))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
    }
    Ok(Agent {
        display_name: new.display_name.clone(),
        workspace_id: new.workspace_id.clone(),
        source: new.source.clone(),
        integrations: new.integrations.clone(),
        pool: new.pool.clone(),
        patterns: new.patterns.clone(),
        size_warning_bytes: new.size_warning_bytes,
        destination_id: new.destination_id.clone(),
        second_destination_id: new.second_destination_id.clone(),
        etag,
        update_time_ms: now_ms,
        ..before
    })
}

/// Makes an agent known again whose backups were kept.
async fn come_back(tx: &Tx, agent_id: &str, now_ms: i64) -> Result<(), CatalogError> {
    let change = agents::ActiveModel {
        deregister_time_ms: Set(None),
        backups_kept: Set(false),
        create_time_ms: Set(now_ms),
        restore_id: Set(None),
        ..Default::default()
    };
    agents::Entity::update_many()
        .set(change)
        .filter(agents::Column::AgentId.eq(agent_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// Notes where an agent's state lives now; its etag changes only when that does.
pub(crate) async fn move_source(
    tx: &Tx,
    agent_id: &str,
    source: &Source,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let row = lock_agent(tx, agent_id).await?;
    let row = row.filter(|row| row.deregister_time_ms.is_none());
    let row = row.ok_or_else(|| not_found(agent_id))?;
    let source = source.encode_to_vec();
    if row.source == source {
        return Ok(());
    }
    let change = agents::ActiveModel {
        source: Set(source),
        etag: Set(new_etag()),
        update_time_ms: Set(now_ms),
        ..Default::default()
    };
    agents::Entity::update_many()
        .set(change)
        .filter(agents::Column::AgentId.eq(agent_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// Whether registering changes nothing.
fn is_same(before: &Agent, new: &NewAgent) -> bool {
    before.display_name == new.display_name
        && before.workspace_id == new.workspace_id
        && before.source == new.source
        && before.integrations == new.integrations
        && before.pool == new.pool
        && before.patterns == new.patterns
        && before.size_warning_bytes == new.size_warning_bytes
        && before.destination_id == new.destination_id
        && before.second_destination_id == new.second_destination_id
}

/// Whether a job that a caller asked for waits or runs. Deletions and
/// compactions are the service's own business.
pub(crate) async fn has_callers_job(tx: &Tx, agent_id: &str) -> Result<bool, CatalogError> {
    let jobs = jobs::Entity::find()
        .filter(jobs::Column::AgentId.eq(agent_id))
        .filter(jobs::Column::State.is_in([JobState::Queued, JobState::Running]))
        .filter(jobs::Column::Kind.is_in([JobKind::Backup, JobKind::Restore, JobKind::Verify]))
        .count(tx.db())
        .await;
    Ok(jobs.doing(tx.doing())? > 0)
}

/// Removes a deregistered agent once its last backup is gone.
pub(crate) async fn remove_if_last(tx: &Tx, agent_id: &str) -> Result<(), CatalogError> {
    let row = lock_agent(tx, agent_id).await?;
    if row.is_none_or(|row| row.deregister_time_ms.is_none()) {
        return Ok(());
    }
    let left = backups::Entity::find()
        .filter(backups::Column::AgentId.eq(agent_id))
        .count(tx.db())
        .await
        .doing(tx.doing())?;
    if left == 0 {
        let deleted = agents::Entity::delete_by_id(agent_id).exec(tx.db()).await;
        deleted.doing(tx.doing())?;
    }
    Ok(())
}

/// Adds to what the agent's vaults take: of several, a job knows the size of one. The next
/// compaction finds out what they take in all.
pub(crate) async fn add_vault_bytes(
    tx: &Tx,
    agent_id: &str,
    added_bytes: u64,
) -> Result<(), CatalogError> {
    agents::Entity::update_many()
        .col_expr(
            agents::Column::VaultBytes,
            Expr::col(agents::Column::VaultBytes).add(added_bytes as i64),
        )
        .filter(agents::Column::AgentId.eq(agent_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// Keeps what the vault takes, as of a job's end.
pub(crate) async fn set_vault_bytes(
    tx: &Tx,
    agent_id: &str,
    vault_bytes: u64,
) -> Result<(), CatalogError> {
    agents::Entity::update_many()
        .col_expr(
            agents::Column::VaultBytes,
            Expr::value(i64::try_from(vault_bytes).unwrap_or(i64::MAX)),
        )
        .filter(agents::Column::AgentId.eq(agent_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// When the rules of retention look at the agent's backups next.
pub(crate) async fn look_at_retention(
    tx: &Tx,
    agent_id: &str,
    at_ms: i64,
) -> Result<(), CatalogError> {
    agents::Entity::update_many()
        .col_expr(agents::Column::RetentionDueMs, Expr::value(at_ms))
        .filter(agents::Column::AgentId.eq(agent_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

fn encode_integrations(new: &NewAgent) -> Vec<u8> {
    let items = new.integrations.clone();
    stored::Integrations { items }.encode_to_vec()
}

fn encode_patterns(new: &NewAgent) -> Vec<u8> {
    let items = new.patterns.clone();
    stored::Texts { items }.encode_to_vec()
}

fn size_warning(new: &NewAgent) -> i64 {
    i64::try_from(new.size_warning_bytes).unwrap_or(i64::MAX)
}

fn new_etag() -> String {
    Uuid::new_v4().simple().to_string()
}
