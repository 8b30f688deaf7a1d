//! What vaults tell, for a catalog that was lost: agents and their COMPLETED
//! backups. What the catalog knows already stays; what contradicts it is named,
//! and changed only when that is asked for.

use prost::Message as _;
use sea_orm::{
    ActiveModelTrait as _, ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _,
    QuerySelect as _, sea_query::OnConflict,
};

use crate::{
    BackupResult, BackupState, Catalog, CatalogError, CopyState, NewAgent, NewBackup, Trigger,
    agents,
    backups::pending,
    connection::Tx,
    entities::{agents as agent_rows, backup_copies, backups},
    error::Doing as _,
    limits, stored, transitions,
};

/// The rules of retention look at a recovered agent this much later at the soonest:
/// somebody shall have looked first.
const RETENTION_WAIT_MS: i64 = 24 * 3_600_000;

/// An agent as its vault tells.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveredAgent {
    /// The agent as of its newest backup.
    pub agent: NewAgent,
    /// The destination that the vault lies at.
    pub destination_id: String,
    /// Bytes that its vault takes.
    pub vault_bytes: u64,
    /// Its complete backups.
    pub backups: Vec<RecoveredBackup>,
}

/// A complete backup as its manifest tells.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveredBackup {
    /// Its id.
    pub backup_id: String,
    /// Its name for people.
    pub name: String,
    /// What was stored; `vault_bytes` and `progress` are not used.
    pub result: BackupResult,
    /// When it began.
    pub start_time_ms: i64,
    /// When its manifest was sealed.
    pub end_time_ms: i64,
}

/// What becomes of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// Nothing: what would be done is told.
    Look,
    /// What is not known is added, unless the catalog knows something different.
    Add,
    /// What is not known is added, and what is different is replaced.
    Replace,
}

/// What was, or would be, added of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Whether the agent was not known.
    pub agent_added: bool,
    /// Backups that were not known.
    pub added: Vec<String>,
    /// Backups that were known to lie elsewhere, and not that a copy lies here.
    pub copies: Vec<String>,
    /// Backups that were known just so.
    pub known: u64,
    /// Backups about which the catalog knows better: they failed, were canceled, run
    /// or are being removed.
    pub left: Vec<String>,
    /// What the catalog knows differently, in words.
    pub conflicts: Vec<String>,
}

impl Catalog {
    /// Takes in what an agent's vault tells, in one transaction. With conflicts,
    /// nothing is changed unless they are to be replaced.
    pub async fn adopt(
        &self,
        found: &RecoveredAgent,
        how: Adopt,
        now_ms: i64,
    ) -> Result<Adopted, CatalogError> {
        let tx = self.begin("adopt agent").await?;
        let mut adopted = Adopted::default();
        adopt_agent(&tx, found, how, &mut adopted, now_ms).await?;
        for backup in &found.backups {
            adopt_backup(&tx, found, backup, how, &mut adopted, now_ms).await?;
        }
        let change = match how {
            Adopt::Look => false,
            Adopt::Add => adopted.conflicts.is_empty(),
            Adopt::Replace => true,
        };
        if change {
            if !adopted.copies.is_empty() {
                copies_go_on(&tx, found, now_ms).await?;
            }
            // What lies at other destinations was counted with them, and what was known here too.
            let is_more = !adopted.added.is_empty() || !adopted.copies.is_empty();
            if is_more && adopted.known == 0 {
                let agent_id = &found.agent.agent_id;
                agents::add_vault_bytes(&tx, agent_id, found.vault_bytes).await?;
            }
            if !adopted.added.is_empty() {
                let at_ms = now_ms + RETENTION_WAIT_MS;
                agents::look_at_retention(&tx, &found.agent.agent_id, at_ms).await?;
            }
            tx.commit().await?;
        }
        Ok(adopted)
    }
}

async fn adopt_agent(
    tx: &Tx,
    found: &RecoveredAgent,
    how: Adopt,
    adopted: &mut Adopted,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let new = &found.agent;
    let Some(row) = agents::lock_agent(tx, &new.agent_id).await? else {
        adopted.agent_added = true;
        let first = found
            .backups
            .iter()
            .map(|backup| backup.start_time_ms)
            .min();
        agents::insert_agent(tx, new, None, first.unwrap_or(now_ms)).await?;
        return Ok(());
    };
    let agent_id = &new.agent_id;
    if row.deregister_time_ms.is_some() {
        adopted.conflicts.push(format!(
            "agent {agent_id} was deregistered and its backups are being removed"
        ));
    } else if row.owner_id != new.owner_id {
        adopted.conflicts.push(format!(
            "agent {agent_id} belongs to {:?} here and to {:?} by its vault",
            row.owner_id, new.owner_id
        ));
    } else {
        // A name or a source that changed since the newest backup is newer here.
        return Ok(());
    }
    if how != Adopt::Replace {
        return Ok(());
    }
    let change = agent_rows::ActiveModel {
        owner_id: Set(new.owner_id.clone()),
        workspace_id: Set(new.workspace_id.clone()),
        display_name: Set(new.display_name.clone()),
        source: Set(new.source.encode_to_vec()),
        deregister_time_ms: Set(None),
        etag: Set(uuid::Uuid::new_v4().simple().to_string()),
        update_time_ms: Set(now_ms),
        ..Default::default()
    };
    agent_rows::Entity::update_many()
        .set(change)
        .filter(agent_rows::Column::AgentId.eq(agent_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    let owner = backups::ActiveModel {
        owner_id: Set(new.owner_id.clone()),
        ..Default::default()
    };
    backups::Entity::update_many()
        .set(owner)
        .filter(backups::Column::AgentId.eq(agent_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// An agent whose backups have copies at a destination goes on to copy them there, unless it
/// has a second destination already.
async fn copies_go_on(tx: &Tx, found: &RecoveredAgent, now_ms: i64) -> Result<(), CatalogError> {
    let change = agent_rows::ActiveModel {
        second_destination_id: Set(found.destination_id.clone()),
        etag: Set(uuid::Uuid::new_v4().simple().to_string()),
        update_time_ms: Set(now_ms),
        ..Default::default()
    };
    agent_rows::Entity::update_many()
        .set(change)
        .filter(agent_rows::Column::AgentId.eq(&found.agent.agent_id))
        .filter(agent_rows::Column::SecondDestinationId.eq(""))
        .filter(agent_rows::Column::DestinationId.ne(&found.destination_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

async fn adopt_backup(
    tx: &Tx,
    vault: &RecoveredAgent,
    found: &RecoveredBackup,
    how: Adopt,
    adopted: &mut Adopted,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let (agent, backup_id) = (&vault.agent, &found.backup_id);
    let row = backups::Entity::find_by_id(backup_id.as_str()).lock_exclusive();
    let Some(row) = row.one(tx.db()).await.doing(tx.doing())? else {
        let row = completed(vault, found, now_ms);
        backups::Entity::insert(backups::ActiveModel::from(row).reset_all())
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
        adopted.added.push(backup_id.clone());
        return Ok(());
    };
    let digest = row.manifest_digest.as_deref();
    if row.agent_id != agent.agent_id {
        adopted.conflicts.push(format!(
            "backup {backup_id} is of agent {} here and of agent {} by its vault",
            row.agent_id, agent.agent_id
        ));
    } else if row.state != BackupState::Completed {
        adopted.left.push(backup_id.clone());
        return Ok(());
    } else if digest == Some(&found.result.manifest_digest[..]) {
        if row.destination_id == vault.destination_id
            || !adopt_copy(tx, vault, &row, now_ms).await?
        {
            adopted.known += 1;
        } else {
            adopted.copies.push(backup_id.clone());
        }
        return Ok(());
    } else {
        adopted.conflicts.push(format!(
            "backup {backup_id} is known with another manifest (attempt {}) than the vault has \
             (attempt {})",
            row.manifest_attempt.unwrap_or_default(),
            found.result.manifest_attempt
        ));
    }
    if how != Adopt::Replace {
        return Ok(());
    }
    let replaced = backups::Model {
        job_id: row.job_id,
        protected: row.protected,
        trigger_kind: row.trigger_kind,
        ..completed(vault, found, now_ms)
    };
    backups::Entity::update_many()
        .set(backups::ActiveModel::from(replaced).reset_all())
        .filter(backups::Column::BackupId.eq(backup_id.as_str()))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// Notes that a copy of a backup lies in a vault; false when that is known.
async fn adopt_copy(
    tx: &Tx,
    vault: &RecoveredAgent,
    backup: &backups::Model,
    now_ms: i64,
) -> Result<bool, CatalogError> {
    let key = (backup.backup_id.clone(), vault.destination_id.clone());
    let known = backup_copies::Entity::find_by_id(key).one(tx.db()).await;
    let known = known.doing(tx.doing())?;
    if known.is_some_and(|copy| copy.state == CopyState::Completed) {
        return Ok(false);
    }
    let row = backup_copies::ActiveModel::from(backup_copies::Model {
        backup_id: backup.backup_id.clone(),
        destination_id: vault.destination_id.clone(),
        agent_id: backup.agent_id.clone(),
        state: CopyState::Completed,
        failure_reason: None,
        failure_message: None,
        update_time_ms: now_ms,
    });
    // One that was pending or had failed is there all the same.
    let again = OnConflict::columns([
        backup_copies::Column::BackupId,
        backup_copies::Column::DestinationId,
    ])
    .update_columns([
        backup_copies::Column::State,
        backup_copies::Column::FailureReason,
        backup_copies::Column::FailureMessage,
        backup_copies::Column::UpdateTimeMs,
    ])
    .to_owned();
    backup_copies::Entity::insert(row)
        .on_conflict(again)
        .exec_without_returning(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(true)
}

/// The row of a backup that a vault tells of.
fn completed(vault: &RecoveredAgent, found: &RecoveredBackup, now_ms: i64) -> backups::Model {
    let new = NewBackup {
        agent_id: vault.agent.agent_id.clone(),
        owner_id: vault.agent.owner_id.clone(),
        name: found.name.clone(),
        trigger: Trigger::Manual,
        request: None,
    };
    let result = &found.result;
    let mut warnings = result.warnings.clone();
    warnings.truncate(limits::WARNINGS_MAX);
    // The job that made it is forgotten; its id stays free.
    let job_id = transitions::new_id(now_ms);
    backups::Model {
        state: BackupState::Completed,
        manifest_attempt: Some(result.manifest_attempt as i32),
        manifest_digest: Some(result.manifest_digest.to_vec()),
        sequence: Some(result.sequence as i64),
        size_bytes: result.size_bytes as i64,
        stored_bytes: result.stored_bytes as i64,
        new_bytes: result.new_bytes as i64,
        entries: result.entries as i64,
        warnings: stored::BackupWarnings { items: warnings }.encode_to_vec(),
        warnings_total: result.warnings_total as i64,
        start_time_ms: Some(found.start_time_ms),
        end_time_ms: Some(found.end_time_ms),
        ..pending(
            &new,
            &found.backup_id,
            &job_id,
            vault.destination_id.clone(),
            found.start_time_ms,
        )
    }
}
