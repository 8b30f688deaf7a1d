//! Backups: accepted, shown, canceled.

use prost::Message as _;
use sea_orm::{
    ActiveEnum as _, ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, Iterable as _,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, QueryTrait as _, Select,
    sea_query::{Query, UnionType},
};

use crate::{
    Backup, BackupFilter, BackupState, Catalog, CatalogError, JobKind, NewBackup, Page,
    PageRequest, Trigger, Urgency, agents,
    connection::Tx,
    copies, destinations,
    entities::{agents as agent_rows, backups, jobs},
    error::Doing as _,
    pages, requests, stored,
    transitions::{self, NewJob},
};

impl Catalog {
    /// Accepts a backup: backup, job and request in one transaction.
    ///
    /// Errors: `AgentNotFound`, `RequestIdReused`, `BackupNotFound` when the
    /// backup of the first call with this `request_id` is gone already.
    pub async fn create_backup(
        &self,
        backup: NewBackup,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        match self.create_backup_once(&backup, now_ms).await {
            // The same request came twice at the same moment: the other was first.
            Err(error) if error.is_unique_violation() => {
                self.create_backup_once(&backup, now_ms).await
            }
            result => result,
        }
    }

    async fn create_backup_once(
        &self,
        new: &NewBackup,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        let tx = self.begin("create backup").await?;
        let backup_id = transitions::new_id(now_ms);
        let before = requests::note(&tx, new.request.as_ref(), &backup_id, now_ms).await?;
        if let Some(before) = before {
            drop(tx);
            let backup = self.get_backup(&before).await?;
            return backup.ok_or_else(|| not_found(&before));
        }
        let agent = agents::lock_agent(&tx, &new.agent_id).await?;
        let agent = agent
            .filter(|agent| agent.owner_id == new.owner_id && agent.deregister_time_ms.is_none());
        let Some(agent) = agent else {
            return Err(agents::not_found(&new.agent_id));
        };
        let backup = insert(
            &tx,
            new,
            &agent,
            &backup_id,
            self.retry.max_attempts,
            now_ms,
        )
        .await?;
        tx.commit_with_work().await?;
        Ok(backup)
    }

    /// A backup.
    pub async fn get_backup(&self, backup_id: &str) -> Result<Option<Backup>, CatalogError> {
        let row = backups::Entity::find_by_id(backup_id).find_also_related(jobs::Entity);
        let row = row.one(self.read()).await.doing("read backup")?;
        let mut backup = row.map(stored::backup).transpose()?;
        copies::attach(self.read(), &mut backup).await?;
        Ok(backup)
    }

    /// Backups, newest first.
    pub async fn list_backups(
        &self,
        filter: &BackupFilter,
        page: &PageRequest,
    ) -> Result<Page<Backup>, CatalogError> {
        let query = listed(filter, page).find_also_related(jobs::Entity);
        let rows = query.all(self.read()).await.doing("list backups")?;
        let mut page = pages::page(page, rows, stored::backup, |backup| &backup.backup_id)?;
        copies::attach(self.read(), &mut page.items).await?;
        Ok(page)
    }

    /// The agent's COMPLETED backup of the highest sequence: at one destination, or (None)
    /// anywhere.
    pub async fn latest_completed(
        &self,
        agent_id: &str,
        destination_id: Option<&str>,
    ) -> Result<Option<Backup>, CatalogError> {
        let mut query = backups::Entity::find()
            .filter(backups::Column::AgentId.eq(agent_id))
            .filter(backups::Column::State.eq(BackupState::Completed));
        if let Some(destination_id) = destination_id {
            query = query.filter(backups::Column::DestinationId.eq(destination_id));
        }
        let row = query
            .order_by_desc(backups::Column::Sequence)
            .limit(1)
            .find_also_related(jobs::Entity)
            .one(self.read())
            .await;
        row.doing("read latest backup")?
            .map(stored::backup)
            .transpose()
    }

    /// Cancels a backup: at once while its job is queued, otherwise by asking
    /// its worker. Asking again changes nothing.
    ///
    /// Errors: `BackupNotFound`, `AlreadyEnded`.
    pub async fn cancel_backup(
        &self,
        backup_id: &str,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        let tx = self.begin("cancel backup").await?;
        let backup = backups::Entity::find_by_id(backup_id).one(tx.db()).await;
        let Some(backup) = backup.doing(tx.doing())? else {
            return Err(not_found(backup_id));
        };
        // Workers lock the job first, so this does too; the job's state is the
        // backup's, as long as that has not ended.
        let job = transitions::lock_job(&tx, &backup.job_id).await?;
        let job = job.filter(|job| !job.state.is_ended());
        let Some(job) = job else {
            return Err(CatalogError::AlreadyEnded {
                what: "backup",
                id: backup_id.to_owned(),
            });
        };
        crate::jobs::cancel(&tx, &job, now_ms).await?;
        if job.state == crate::JobState::Queued && job.attempt > 0 {
            // No worker comes any more that would ask for what attempts stored to be removed.
            let (agent_id, owner_id) = (&job.agent_id, &job.owner_id);
            self.insert_compact(&tx, agent_id, owner_id, &job.pool, now_ms, now_ms)
                .await?;
        }
        let backup = backups::Entity::find_by_id(backup_id).find_also_related(jobs::Entity);
        let backup = backup.one(tx.db()).await.doing(tx.doing())?;
        tx.commit_with_work().await?;
        let backup = backup.ok_or_else(|| not_found(backup_id))?;
        stored::backup(backup)
    }
}

pub(crate) fn not_found(backup_id: &str) -> CatalogError {
    CatalogError::BackupNotFound {
        backup_id: backup_id.to_owned(),
    }
}

/// A page, and one more, of what the filter lets through, newest first.
///
/// An index is in the order of the list for one state, or for any. Of several states the newest of
/// each are taken, and of these the newest: in one statement, so that none changes between.
fn listed(filter: &BackupFilter, page: &PageRequest) -> Select<backups::Entity> {
    let limit = pages::limit(page) + 1;
    let states: Vec<BackupState> = BackupState::iter()
        .filter(|state| filter.states.contains(state))
        .collect();
    let newest_of = |state: BackupState| {
        let ids = newest(filter, page, limit)
            .select_only()
            .column(backups::Column::BackupId)
            .filter(backups::Column::State.eq(state));
        Query::select()
            .column(backups::Column::BackupId)
            .from_subquery(ids.into_query(), state.to_value())
            .to_owned()
    };
    let mut query = newest(filter, page, limit);
    if let [state] = states[..] {
        query = query.filter(backups::Column::State.eq(state));
    } else if let Some((first, others)) = states.split_first() {
        let mut ids = newest_of(*first);
        for state in others {
            ids.union(UnionType::All, newest_of(*state));
        }
        query = query.filter(backups::Column::BackupId.in_subquery(ids));
    }
    query
}

fn newest(filter: &BackupFilter, page: &PageRequest, limit: u64) -> Select<backups::Entity> {
    let mut query = backups::Entity::find()
        .order_by_desc(backups::Column::BackupId)
        .limit(limit);
    if let Some(owner_id) = &filter.owner_id {
        query = query.filter(backups::Column::OwnerId.eq(owner_id));
    }
    if let Some(agent_id) = &filter.agent_id {
        query = query.filter(backups::Column::AgentId.eq(agent_id));
    }
    if let Some(after) = &page.after {
        query = query.filter(backups::Column::BackupId.lt(after));
    }
    query
}

/// Reads a backup that the transaction depends on.
pub(crate) async fn lock_backup(
    tx: &Tx,
    backup_id: &str,
) -> Result<Option<backups::Model>, CatalogError> {
    let row = backups::Entity::find_by_id(backup_id).lock_exclusive();
    row.one(tx.db()).await.doing(tx.doing())
}

/// A backup that can be read: COMPLETED, and the owner's when one is named.
pub(crate) async fn lock_readable(
    tx: &Tx,
    backup_id: &str,
    owner_id: Option<&str>,
) -> Result<backups::Model, CatalogError> {
    let backup = lock_backup(tx, backup_id).await?;
    let backup = backup.filter(|backup| owner_id.is_none_or(|owner| owner == backup.owner_id));
    let backup = backup.ok_or_else(|| not_found(backup_id))?;
    if backup.state != BackupState::Completed {
        return Err(CatalogError::BackupNotCompleted {
            backup_id: backup_id.to_owned(),
        });
    }
    Ok(backup)
}

/// Adds a backup and its job.
pub(crate) async fn insert(
    tx: &Tx,
    new: &NewBackup,
    agent: &agent_rows::Model,
    backup_id: &str,
    max_attempts: u32,
    now_ms: i64,
) -> Result<Backup, CatalogError> {
    let job = NewJob {
        job_id: transitions::new_id(now_ms),
        kind: JobKind::Backup,
        agent_id: &agent.agent_id,
        owner_id: &agent.owner_id,
        backup_id: Some(backup_id),
        restore_id: None,
        depth: None,
        destination_id: "",
        pool: &agent.pool,
        urgency: match new.trigger {
            Trigger::Manual | Trigger::Safety => Urgency::Manual,
            Trigger::Schedule => Urgency::Scheduled,
        },
        due_time_ms: now_ms,
        max_attempts,
    };
    let job = transitions::insert_job(tx, job, now_ms).await?;
    let destination_id = destinations::or_default(&agent.destination_id);
    let row = pending(new, backup_id, &job.job_id, destination_id, now_ms);
    backups::Entity::insert(backups::ActiveModel::from(row.clone()).reset_all())
        .exec_without_returning(tx.db())
        .await
        .doing(tx.doing())?;
    stored::backup((row, Some(job)))
}

pub(crate) fn pending(
    new: &NewBackup,
    backup_id: &str,
    job_id: &str,
    destination_id: String,
    now_ms: i64,
) -> backups::Model {
    backups::Model {
        backup_id: backup_id.to_owned(),
        agent_id: new.agent_id.clone(),
        owner_id: new.owner_id.clone(),
        name: new.name.clone(),
        state: BackupState::Pending,
        trigger_kind: new.trigger,
        job_id: job_id.to_owned(),
        manifest_attempt: None,
        manifest_digest: None,
        sequence: None,
        size_bytes: 0,
        stored_bytes: 0,
        new_bytes: 0,
        entries: 0,
        warnings: stored::BackupWarnings::default().encode_to_vec(),
        warnings_total: 0,
        verify_time_ms: None,
        verify_failure_reason: None,
        verify_failure_message: None,
        failure_reason: None,
        failure_message: None,
        create_time_ms: now_ms,
        start_time_ms: None,
        end_time_ms: None,
        // Until the restore has succeeded that it is made for.
        protected: new.trigger == Trigger::Safety,
        destination_id,
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait as _, DbBackend};

    use super::*;
    use crate::CatalogSettings;

    #[tokio::test]
    async fn any_list_is_read_off_an_index_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let settings = CatalogSettings::sqlite(folder.path().join("catalog.db"));
        let catalog = Catalog::connect(&settings).await.unwrap();
        catalog.migrate().await.unwrap();
        let some = |yes: bool, text: &str| yes.then(|| text.to_owned());
        let all: Vec<BackupState> = BackupState::iter().collect();
        for owner in [false, true] {
            for agent in [false, true] {
                for states in [&[], &all[..1], &all[..]] {
                    for after in [false, true] {
                        let filter = BackupFilter {
                            owner_id: some(owner, "owner"),
                            agent_id: some(agent, "agent"),
                            states: states.to_vec(),
                        };
                        let page = PageRequest {
                            after: some(after, "backup"),
                            ..PageRequest::first(50)
                        };
                        let mut statement = listed(&filter, &page).build(DbBackend::Sqlite);
                        statement.sql = format!("EXPLAIN QUERY PLAN {}", statement.sql);
                        let plan = catalog.read().query_all_raw(statement).await.unwrap();
                        let plan: Vec<String> = plan
                            .iter()
                            .map(|row| row.try_get("", "detail").unwrap())
                            .collect();
                        // Of several states, only the few that were found are sorted.
                        let sorts = plan.iter().any(|step| step.contains("TEMP B-TREE"));
                        assert!(!sorts || states.len() > 1, "{filter:?}: {plan:#?}");
                        let scans = |step: &&String| {
                            step.starts_with("SCAN")
                                && !step.contains("USING")
                                && step.contains("backups")
                        };
                        assert_eq!(plan.iter().find(scans), None, "{filter:?}: {plan:#?}");
                    }
                }
            }
        }
    }
}
