//! What goes on over all owners: everyone's backups, and jobs with what is the
//! matter with them.

use sea_orm::{
    ColumnTrait as _, Condition, EntityTrait as _, PaginatorTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, QueryTrait as _,
};

use crate::{
    Backup, BackupState, Catalog, CatalogError, Job, JobKind, JobState, Page, PageRequest, Trigger,
    Urgency, copies,
    entities::{agents, backups, jobs},
    error::Doing as _,
    limits, pages,
    partial::is_in_state,
    stored, transitions,
};

/// Which of all backups to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllBackupsFilter {
    /// Only this owner's.
    pub owner_id: Option<String>,
    /// Only this agent's.
    pub agent_id: Option<String>,
    /// Only those of agents that are in this workspace now.
    pub workspace_id: Option<String>,
    /// Only these states; empty: all.
    pub states: Vec<BackupState>,
    /// Only what this asked for.
    pub trigger: Option<Trigger>,
    /// Only those made at this time or later.
    pub from_ms: Option<i64>,
    /// Only those made before this time.
    pub before_ms: Option<i64>,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only of this kind.
    pub kind: Option<JobKind>,
    /// Only in this state.
    pub state: Option<JobState>,
    /// Only those with which this is the matter.
    pub condition: Option<JobCondition>,
    /// Only of this pool.
    pub pool: Option<String>,
    /// Only of this agent.
    pub agent_id: Option<String>,
}

/// What may be the matter with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobCondition {
    /// Nobody takes it, or whoever has taken it is silent.
    Stuck,
    /// An attempt failed, and it waits for the next one.
    Retrying,
    /// It has failed for good.
    Dead,
}

impl JobCondition {
    /// What is the matter with a job now.
    pub fn of(job: &Job, now_ms: i64) -> Option<Self> {
        let held_out = job.lease_expire_time_ms.unwrap_or(now_ms);
        match job.state {
            JobState::Failed => Some(Self::Dead),
            JobState::Running if held_out < now_ms - limits::SILENT_MS => Some(Self::Stuck),
            JobState::Queued if job.due_time_ms < now_ms - limits::UNTAKEN_MS => Some(Self::Stuck),
            JobState::Queued if job.tries > 0 => Some(Self::Retrying),
            _ => None,
        }
    }

    /// The same as a condition of a query; the two must agree.
    fn filter(self, now_ms: i64) -> Condition {
        let untaken = jobs::Column::DueTimeMs.lt(now_ms - limits::UNTAKEN_MS);
        let silent = jobs::Column::LeaseExpireTimeMs.lt(now_ms - limits::SILENT_MS);
        match self {
            Self::Dead => Condition::all().add(is_in_state(JobState::Failed)),
            Self::Retrying => Condition::all()
                .add(is_in_state(JobState::Queued))
                .add(jobs::Column::Tries.gt(0))
                .add(jobs::Column::DueTimeMs.gte(now_ms - limits::UNTAKEN_MS)),
            Self::Stuck => Condition::any()
                .add(
                    Condition::all()
                        .add(is_in_state(JobState::Queued))
                        .add(untaken),
                )
                .add(
                    Condition::all()
                        .add(is_in_state(JobState::Running))
                        .add(silent),
                ),
        }
    }
}

impl Catalog {
    /// Everyone's backups, newest first.
    pub async fn list_all_backups(
        &self,
        filter: &AllBackupsFilter,
        page: &PageRequest,
    ) -> Result<Page<Backup>, CatalogError> {
        let id = backups::Column::BackupId;
        let mut query = backups::Entity::find()
            .order_by_desc(id)
            .limit(pages::limit(page) + 1);
        if let Some(owner_id) = &filter.owner_id {
            query = query.filter(backups::Column::OwnerId.eq(owner_id));
        }
        if let Some(agent_id) = &filter.agent_id {
            query = query.filter(backups::Column::AgentId.eq(agent_id));
        }
        if let Some(workspace_id) = &filter.workspace_id {
            let inside = agents::Entity::find()
                .select_only()
                .column(agents::Column::AgentId)
                .filter(agents::Column::WorkspaceId.eq(workspace_id));
            query = query.filter(backups::Column::AgentId.in_subquery(inside.into_query()));
        }
        if !filter.states.is_empty() {
            query = query.filter(backups::Column::State.is_in(filter.states.iter().copied()));
        }
        if let Some(trigger) = filter.trigger {
            query = query.filter(backups::Column::TriggerKind.eq(trigger));
        }
        // Ids begin with the time at which they were made.
        if let Some(from_ms) = filter.from_ms {
            query = query.filter(id.gte(transitions::first_id(from_ms)));
        }
        if let Some(before_ms) = filter.before_ms {
            query = query.filter(id.lt(transitions::first_id(before_ms)));
        }
        if let Some(after) = &page.after {
            query = query.filter(id.lt(after));
        }
        let rows = query.find_also_related(jobs::Entity).all(self.read()).await;
        let rows = rows.doing("list all backups")?;
        let mut page = pages::page(page, rows, stored::backup, |backup| &backup.backup_id)?;
        copies::attach(self.read(), &mut page.items).await?;
        Ok(page)
    }

    /// Jobs, newest first.
    pub async fn list_jobs(
        &self,
        filter: &JobFilter,
        page: &PageRequest,
        now_ms: i64,
    ) -> Result<Page<Job>, CatalogError> {
        let mut query = jobs::Entity::find()
            .order_by_desc(jobs::Column::JobId)
            .limit(pages::limit(page) + 1);
        if let Some(kind) = filter.kind {
            query = query.filter(jobs::Column::Kind.eq(kind));
        }
        if let Some(state) = filter.state {
            query = query.filter(is_in_state(state));
        }
        if let Some(condition) = filter.condition {
            query = query.filter(condition.filter(now_ms));
        }
        if let Some(pool) = &filter.pool {
            query = query.filter(jobs::Column::Pool.eq(pool));
        }
        if let Some(agent_id) = &filter.agent_id {
            query = query.filter(jobs::Column::AgentId.eq(agent_id));
        }
        if let Some(after) = &page.after {
            query = query.filter(jobs::Column::JobId.lt(after));
        }
        let rows = query.all(self.read()).await.doing("list jobs")?;
        pages::page(page, rows, stored::job, |job| &job.job_id)
    }

    /// How many jobs that an owner asked for wait or run.
    pub async fn open_jobs(&self, owner_id: &str) -> Result<u64, CatalogError> {
        jobs::Entity::find()
            .filter(jobs::Column::OwnerId.eq(owner_id))
            .filter(jobs::Column::State.is_in([JobState::Queued, JobState::Running]))
            .filter(jobs::Column::Urgency.eq(Urgency::Manual))
            .filter(jobs::Column::Kind.is_in([JobKind::Backup, JobKind::Restore, JobKind::Verify]))
            .count(self.read())
            .await
            .doing("count open jobs")
    }
}
