//! Retention done: which agents to look at, what goes, and the record of it.
//! A rule removes a backup on the ordinary way: DELETING, and a delete job.

use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, LockBehavior, LockType},
};

use crate::{
    Backup, BackupState, Catalog, CatalogError, JobKind, RemovalRule, Removed, agents, backups,
    connection::Tx,
    deletion,
    entities::{agents as agent_rows, backups as backup_rows, removals, schedules},
    error::Doing as _,
    limits,
    retention::{self, Candidate, Removal, Rules},
    transitions,
};

/// When an agent is looked at again whose backup could not be removed yet.
const BLOCKED_RETRY_MS: i64 = 60_000;
/// When every agent is looked at again at the latest: rules may have changed.
const LOOK_MAX_MS: i64 = 60 * 60 * 1_000;

impl Catalog {
    /// Agents whose backups the rules are to look at, the longest due first; no
    /// other caller gets them within `hold_ms`. Finish each with `prune`.
    pub async fn claim_retention(
        &self,
        limit: u64,
        hold_ms: i64,
        now_ms: i64,
    ) -> Result<Vec<String>, CatalogError> {
        let due = || {
            agent_rows::Entity::find()
                .select_only()
                .column(agent_rows::Column::AgentId)
                .filter(agent_rows::Column::RetentionDueMs.lte(now_ms))
                .order_by_asc(agent_rows::Column::RetentionDueMs)
        };
        let one: Option<String> = due()
            .limit(1)
            .into_tuple()
            .one(self.read())
            .await
            .doing("read retention")?;
        if one.is_none() {
            return Ok(Vec::new());
        }
        let tx = self.begin("claim retention").await?;
        let agent_ids: Vec<String> = due()
            .limit(limit.clamp(1, limits::BATCH_ROWS_MAX))
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .into_tuple()
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        agent_rows::Entity::update_many()
            .col_expr(
                agent_rows::Column::RetentionDueMs,
                Expr::value(now_ms.saturating_add(hold_ms)),
            )
            .filter(agent_rows::Column::AgentId.is_in(&agent_ids))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(agent_ids)
    }

    /// Removes what the rules say of an agent's backups, and notes when to look
    /// again, unless somebody wished it meanwhile: `held_until_ms` is what
    /// `claim_retention` made of it. `rules.retain` is the schedule's, whatever it
    /// holds. What is being read stays until it is not.
    pub async fn prune(
        &self,
        agent_id: &str,
        rules: Rules,
        held_until_ms: i64,
        now_ms: i64,
    ) -> Result<Vec<Removal>, CatalogError> {
        let tx = self.begin("plan retention").await?;
        let Some(facts) = facts(&tx, agent_id, rules).await? else {
            return Ok(Vec::new());
        };
        let planned = retention::plan(&facts.backups, &facts.rules, now_ms);
        let next_age_ms = retention::next_age_ms(&facts.backups, &facts.rules);
        drop(tx);
        let mut removed = Vec::new();
        for removal in &planned {
            if self.prune_one(agent_id, removal, rules, now_ms).await? {
                removed.push(removal.clone());
            }
        }
        let wait_ms = if removed.len() < planned.len() {
            BLOCKED_RETRY_MS
        } else {
            let aged_ms = next_age_ms.map_or(LOOK_MAX_MS, |at_ms| at_ms - now_ms);
            aged_ms.clamp(BLOCKED_RETRY_MS, LOOK_MAX_MS)
        };
        let tx = self.begin("note retention").await?;
        agent_rows::Entity::update_many()
            .col_expr(
                agent_rows::Column::RetentionDueMs,
                Expr::value(now_ms.saturating_add(wait_ms)),
            )
            .filter(agent_rows::Column::AgentId.eq(agent_id))
            .filter(agent_rows::Column::RetentionDueMs.eq(held_until_ms))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(removed)
    }

    /// Removes one backup, when the rules still say so once nobody else can
    /// remove another one of the agent.
    async fn prune_one(
        &self,
        agent_id: &str,
        removal: &Removal,
        rules: Rules,
        now_ms: i64,
    ) -> Result<bool, CatalogError> {
        let tx = self.begin("prune backup").await?;
        let backup_id = removal.backup_id.as_str();
        let Some(backup) = backups::lock_backup(&tx, backup_id).await? else {
            return Ok(false);
        };
        if deletion::has_open_jobs(&tx, backup_id, &[JobKind::Restore, JobKind::Verify]).await?
            || deletion::is_pinned(&tx, backup_id, now_ms).await?
        {
            return Ok(false);
        }
        let Some(agent) = agents::lock_agent(&tx, agent_id).await? else {
            return Ok(false);
        };
        let Some(facts) = facts(&tx, agent_id, rules).await? else {
            return Ok(false);
        };
        if !retention::plan(&facts.backups, &facts.rules, now_ms).contains(removal) {
            return Ok(false);
        }
        let job = deletion::delete_job(&agent, backup_id, self.retry.max_attempts, now_ms);
        transitions::insert_job(&tx, job, now_ms).await?;
        deletion::mark_deleting(&tx, backup_rows::Column::BackupId, backup_id).await?;
        note(&tx, &[backup], removal.rule, now_ms).await?;
        tx.commit_with_work().await?;
        Ok(true)
    }

    /// What `prune` would remove now, and the rules with the schedule's retain,
    /// or with another one.
    pub async fn preview_retention(
        &self,
        agent_id: &str,
        mut rules: Rules,
        retain: Option<u32>,
        now_ms: i64,
    ) -> Result<(Rules, Vec<(Removal, Backup)>), CatalogError> {
        let schedule = self.get_schedule(agent_id).await?;
        rules.retain = retain.or(schedule.map(|schedule| schedule.spec.retain));
        let backups = candidates(agent_id).into_tuple().all(self.read()).await;
        let backups: Vec<Row> = backups.doing("read retention")?;
        let backups: Vec<Candidate> = backups.into_iter().map(candidate).collect();
        let mut shown = Vec::new();
        for removal in retention::plan(&backups, &rules, now_ms) {
            if let Some(backup) = self.get_backup(&removal.backup_id).await? {
                shown.push((removal, backup));
            }
        }
        Ok((rules, shown))
    }

    /// An agent's backups that were removed, newest first.
    pub async fn list_removals(
        &self,
        agent_id: &str,
        limit: u64,
    ) -> Result<Vec<Removed>, CatalogError> {
        let rows = removals::Entity::find()
            .filter(removals::Column::AgentId.eq(agent_id))
            .order_by_desc(removals::Column::RemovalId)
            .limit(limit.clamp(1, limits::PAGE_MAX))
            .all(self.read())
            .await
            .doing("list removals")?;
        Ok(rows
            .into_iter()
            .map(|row| Removed {
                backup_id: row.backup_id,
                name: row.name,
                rule: row.rule,
                create_time_ms: row.create_time_ms,
                removal_time_ms: row.removal_time_ms,
            })
            .collect())
    }

    /// Forgets removals before a time; returns how many.
    pub async fn expire_removals(&self, before_ms: i64) -> Result<u64, CatalogError> {
        let tx = self.begin("expire removals").await?;
        let deleted = removals::Entity::delete_many()
            .filter(removals::Column::RemovalTimeMs.lt(before_ms))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(deleted.rows_affected)
    }

    /// Protects a backup from every rule and deletion, or takes that back.
    ///
    /// Errors: `BackupNotFound`, `AlreadyEnded` when it is being removed.
    pub async fn protect_backup(
        &self,
        backup_id: &str,
        protected: bool,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        let tx = self.begin("protect backup").await?;
        let Some(row) = backups::lock_backup(&tx, backup_id).await? else {
            return Err(backups::not_found(backup_id));
        };
        if row.state == BackupState::Deleting {
            return Err(CatalogError::AlreadyEnded {
                what: "backup",
                id: backup_id.to_owned(),
            });
        }
        backup_rows::Entity::update_many()
            .col_expr(backup_rows::Column::Protected, Expr::value(protected))
            .filter(backup_rows::Column::BackupId.eq(backup_id))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        agents::look_at_retention(&tx, &row.agent_id, now_ms).await?;
        tx.commit().await?;
        let backup = self.get_backup(backup_id).await?;
        backup.ok_or_else(|| backups::not_found(backup_id))
    }
}

/// The columns that the rules look at, in this order.
type Row = (
    String,
    BackupState,
    crate::Trigger,
    bool,
    Option<i64>,
    Option<i64>,
);

/// What the rules look at, and the rules with the schedule's retain.
struct Facts {
    backups: Vec<Candidate>,
    rules: Rules,
}

/// None when the agent is gone.
async fn facts(tx: &Tx, agent_id: &str, mut rules: Rules) -> Result<Option<Facts>, CatalogError> {
    let agent = agent_rows::Entity::find_by_id(agent_id).one(tx.db()).await;
    if agent.doing(tx.doing())?.is_none() {
        return Ok(None);
    }
    let schedule = schedules::Entity::find_by_id(agent_id).one(tx.db()).await;
    rules.retain = schedule.doing(tx.doing())?.map(|row| row.retain as u32);
    let backups = candidates(agent_id).into_tuple().all(tx.db()).await;
    let backups: Vec<Row> = backups.doing(tx.doing())?;
    let backups = backups.into_iter().map(candidate).collect();
    Ok(Some(Facts { backups, rules }))
}

fn candidates(agent_id: &str) -> sea_orm::Select<backup_rows::Entity> {
    backup_rows::Entity::find()
        .select_only()
        .columns([
            backup_rows::Column::BackupId,
            backup_rows::Column::State,
            backup_rows::Column::TriggerKind,
            backup_rows::Column::Protected,
            backup_rows::Column::Sequence,
            backup_rows::Column::EndTimeMs,
        ])
        .filter(backup_rows::Column::AgentId.eq(agent_id))
}

fn candidate((backup_id, state, trigger, protected, sequence, end_time_ms): Row) -> Candidate {
    Candidate {
        backup_id,
        state,
        trigger,
        protected,
        sequence: sequence.map(|sequence| sequence as u64),
        end_time_ms,
    }
}

/// Records that these are being removed.
pub(crate) async fn note(
    tx: &Tx,
    backups: &[backup_rows::Model],
    rule: RemovalRule,
    now_ms: i64,
) -> Result<(), CatalogError> {
    for backup in backups {
        // A removal that failed and is asked for again is recorded already.
        if backup.state == BackupState::Deleting {
            continue;
        }
        let row = removals::Model {
            removal_id: transitions::new_id(now_ms),
            backup_id: backup.backup_id.clone(),
            agent_id: backup.agent_id.clone(),
            name: backup.name.clone(),
            rule,
            create_time_ms: backup.create_time_ms,
            removal_time_ms: now_ms,
        };
        removals::Entity::insert(removals::ActiveModel::from(row).reset_all())
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
    }
    Ok(())
}
