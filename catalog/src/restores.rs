//! Restores: planned, started, shown, canceled.

use std::collections::HashMap;

use prost::Message as _;
use proto::backup::v1::RestoreDecision;
use sea_orm::{
    ActiveModelTrait as _, ActiveValue::Set, ColumnTrait as _, EntityTrait as _,
    PaginatorTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
};

use crate::{
    Catalog, CatalogError, JobKind, NewDraft, Page, PageRequest, Restore, RestoreFilter,
    RestoreState, Urgency, agents, backups,
    connection::Tx,
    copies,
    entities::{jobs, restores},
    error::Doing as _,
    limits, pages, requests, stored,
    transitions::{self, NewJob},
};

impl Catalog {
    /// Keeps a plan; it goes away after [`crate::limits::DRAFT_TTL_MS`].
    ///
    /// Errors: `BackupNotFound`, `BackupNotCompleted`, `CopyNotCompleted`, `AgentExists`,
    /// `RequestIdReused`, `RestoreNotFound` when the draft of the first call
    /// with this `request_id` is gone already.
    pub async fn create_draft(
        &self,
        draft: NewDraft,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        match self.create_draft_once(&draft, now_ms).await {
            // The same request came twice at the same moment: the other was first.
            Err(error) if error.is_unique_violation() => {
                self.create_draft_once(&draft, now_ms).await
            }
            result => result,
        }
    }

    async fn create_draft_once(
        &self,
        new: &NewDraft,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let tx = self.begin("create restore draft").await?;
        let restore_id = transitions::new_id(now_ms);
        let before = requests::note(&tx, new.request.as_ref(), &restore_id, now_ms).await?;
        if let Some(before) = before {
            drop(tx);
            let restore = self.get_restore(&before).await?;
            return restore.ok_or_else(|| not_found(&before));
        }
        let backup = backups::lock_readable(&tx, &new.backup_id, Some(&new.owner_id)).await?;
        copies::check_readable_at(&tx, &backup, &new.destination_id).await?;
        refuse_taken(&tx, &new.plan.agent_id).await?;
        let row = restores::Model {
            restore_id,
            backup_id: backup.backup_id,
            agent_id: backup.agent_id,
            owner_id: backup.owner_id,
            state: RestoreState::Draft,
            plan: new.plan.encode_to_vec(),
            new_agent_id: new.plan.agent_id.clone(),
            decisions: encode_decisions(new.decisions.clone()),
            warnings: encode_warnings(new.warnings.clone()),
            job_id: None,
            failure_reason: None,
            failure_message: None,
            create_time_ms: now_ms,
            start_time_ms: None,
            end_time_ms: None,
            expire_time_ms: Some(now_ms.saturating_add(limits::DRAFT_TTL_MS)),
            in_place: false,
            safety_backup_id: None,
            destination_id: new.destination_id.clone(),
        };
        restores::Entity::insert(restores::ActiveModel::from(row.clone()).reset_all())
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
        let restore = stored::restore((row, None))?;
        tx.commit().await?;
        Ok(restore)
    }

    /// A restore.
    pub async fn get_restore(&self, restore_id: &str) -> Result<Option<Restore>, CatalogError> {
        let row = restores::Entity::find_by_id(restore_id).find_also_related(jobs::Entity);
        let row = row.one(self.read()).await.doing("read restore")?;
        row.map(stored::restore).transpose()
    }

    /// Restores, newest first.
    pub async fn list_restores(
        &self,
        filter: &RestoreFilter,
        page: &PageRequest,
    ) -> Result<Page<Restore>, CatalogError> {
        let mut query = restores::Entity::find()
            .order_by_desc(restores::Column::RestoreId)
            .limit(pages::limit(page) + 1);
        if let Some(owner_id) = &filter.owner_id {
            query = query.filter(restores::Column::OwnerId.eq(owner_id));
        }
        if let Some(backup_id) = &filter.backup_id {
            query = query.filter(restores::Column::BackupId.eq(backup_id));
        }
        if let Some(after) = &page.after {
            query = query.filter(restores::Column::RestoreId.lt(after));
        }
        let rows = query.find_also_related(jobs::Entity).all(self.read()).await;
        let rows = rows.doing("list restores")?;
        pages::page(page, rows, stored::restore, |restore| &restore.restore_id)
    }

    /// Starts a draft with these choices (`decision_id` to choice; whether a
    /// choice is one of the options is the caller's to check): PENDING, with its
    /// job, in one transaction. One that waits or runs already is left as it is.
    ///
    /// Errors: `RestoreNotFound` (also a draft whose time is over),
    /// `AlreadyEnded`, `DecisionUnknown`, `DecisionMissing`,
    /// `BackupNotCompleted`, `AgentExists` (also when another restore that waits
    /// or runs will make it).
    pub async fn start_restore(
        &self,
        restore_id: &str,
        choices: &HashMap<String, String>,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let tx = self.begin("start restore").await?;
        let draft = restores::Entity::find_by_id(restore_id).lock_exclusive();
        let draft = draft.one(tx.db()).await.doing(tx.doing())?;
        let draft = draft.ok_or_else(|| not_found(restore_id))?;
        match draft.state {
            RestoreState::Draft => {}
            RestoreState::Pending | RestoreState::Running => {
                drop(tx);
                let restore = self.get_restore(restore_id).await?;
                return restore.ok_or_else(|| not_found(restore_id));
            }
            RestoreState::Completed | RestoreState::Failed | RestoreState::Canceled => {
                return Err(already_ended(restore_id));
            }
        }
        if draft.expire_time_ms.is_some_and(|expire| expire <= now_ms) {
            return Err(not_found(restore_id));
        }
        let decisions: stored::Decisions =
            stored::decode(&draft.decisions, "decisions", restore_id)?;
        let decisions = decide(restore_id, decisions.items, choices)?;
        backups::lock_readable(&tx, &draft.backup_id, None).await?;
        refuse_taken(&tx, &draft.new_agent_id).await?;
        let agent = agents::lock_agent(&tx, &draft.agent_id).await?;
        let agent = agent.ok_or_else(|| agents::not_found(&draft.agent_id))?;
        let job = NewJob {
            job_id: transitions::new_id(now_ms),
            kind: JobKind::Restore,
            agent_id: &draft.agent_id,
            owner_id: &draft.owner_id,
            backup_id: Some(&draft.backup_id),
            restore_id: Some(restore_id),
            depth: None,
            destination_id: "",
            pool: &agent.pool,
            urgency: Urgency::Manual,
            due_time_ms: now_ms,
            max_attempts: self.retry.max_attempts,
        };
        let job = transitions::insert_job(&tx, job, now_ms).await?;
        let change = restores::ActiveModel {
            state: Set(RestoreState::Pending),
            decisions: Set(encode_decisions(decisions)),
            job_id: Set(Some(job.job_id)),
            expire_time_ms: Set(None),
            ..Default::default()
        };
        change_draft(&tx, restore_id, change).await?;
        let restore = read_in(&tx, restore_id).await?;
        tx.commit_with_work().await?;
        Ok(restore)
    }

    /// Cancels a restore: at once before a worker began, otherwise by asking
    /// the worker. Asking again changes nothing.
    ///
    /// Errors: `RestoreNotFound`, `AlreadyEnded`.
    pub async fn cancel_restore(
        &self,
        restore_id: &str,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let tx = self.begin("cancel restore").await?;
        let row = restores::Entity::find_by_id(restore_id).one(tx.db()).await;
        let row = row
            .doing(tx.doing())?
            .ok_or_else(|| not_found(restore_id))?;
        match &row.job_id {
            Some(job_id) => {
                let job = transitions::lock_job(&tx, job_id).await?;
                let job = job.filter(|job| !job.state.is_ended());
                let job = job.ok_or_else(|| already_ended(restore_id))?;
                crate::jobs::cancel(&tx, &job, now_ms).await?;
            }
            None if row.state == RestoreState::Draft => {
                let change = restores::ActiveModel {
                    state: Set(RestoreState::Canceled),
                    end_time_ms: Set(Some(now_ms)),
                    expire_time_ms: Set(None),
                    ..Default::default()
                };
                change_draft(&tx, restore_id, change).await?;
            }
            None => return Err(already_ended(restore_id)),
        }
        let restore = read_in(&tx, restore_id).await?;
        tx.commit_with_work().await?;
        Ok(restore)
    }
}

pub(crate) fn not_found(restore_id: &str) -> CatalogError {
    CatalogError::RestoreNotFound {
        restore_id: restore_id.to_owned(),
    }
}

fn already_ended(restore_id: &str) -> CatalogError {
    CatalogError::AlreadyEnded {
        what: "restore",
        id: restore_id.to_owned(),
    }
}

/// Changes a restore, provided that it still is a draft.
async fn change_draft(
    tx: &Tx,
    restore_id: &str,
    change: restores::ActiveModel,
) -> Result<(), CatalogError> {
    let changed = restores::Entity::update_many()
        .set(change)
        .filter(restores::Column::RestoreId.eq(restore_id))
        .filter(restores::Column::State.eq(RestoreState::Draft))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    if changed.rows_affected == 1 {
        Ok(())
    } else {
        // Started, canceled or gone between the reading and now.
        Err(not_found(restore_id))
    }
}

pub(crate) async fn read_in(tx: &Tx, restore_id: &str) -> Result<Restore, CatalogError> {
    let row = restores::Entity::find_by_id(restore_id).find_also_related(jobs::Entity);
    let row = row.one(tx.db()).await.doing(tx.doing())?;
    stored::restore(row.ok_or_else(|| not_found(restore_id))?)
}

/// Refuses an agent id that is taken, or will be by a restore under way.
pub(crate) async fn refuse_taken(tx: &Tx, agent_id: &str) -> Result<(), CatalogError> {
    let under_way = restores::Entity::find()
        .filter(restores::Column::NewAgentId.eq(agent_id))
        .filter(restores::Column::State.is_in([RestoreState::Pending, RestoreState::Running]))
        .count(tx.db())
        .await
        .doing(tx.doing())?;
    if under_way > 0 || agents::lock_agent(tx, agent_id).await?.is_some() {
        return Err(CatalogError::AgentExists {
            agent_id: agent_id.to_owned(),
        });
    }
    Ok(())
}

/// Puts the choices to the decisions.
fn decide(
    restore_id: &str,
    mut decisions: Vec<RestoreDecision>,
    choices: &HashMap<String, String>,
) -> Result<Vec<RestoreDecision>, CatalogError> {
    for (decision_id, choice) in choices {
        let decision = decisions
            .iter_mut()
            .find(|decision| decision.decision_id == *decision_id);
        let decision = decision.ok_or_else(|| CatalogError::DecisionUnknown {
            restore_id: restore_id.to_owned(),
            decision_id: decision_id.clone(),
        })?;
        decision.choice.clone_from(choice);
    }
    let missing: Vec<String> = decisions
        .iter()
        .filter(|decision| decision.required && decision.choice.is_empty())
        .map(|decision| decision.decision_id.clone())
        .collect();
    if missing.is_empty() {
        return Ok(decisions);
    }
    Err(CatalogError::DecisionMissing {
        restore_id: restore_id.to_owned(),
        decision_ids: missing,
    })
}

pub(crate) fn encode_decisions(items: Vec<RestoreDecision>) -> Vec<u8> {
    stored::Decisions { items }.encode_to_vec()
}

pub(crate) fn encode_warnings(mut items: Vec<String>) -> Vec<u8> {
    items.truncate(limits::WARNINGS_MAX);
    stored::Texts { items }.encode_to_vec()
}
