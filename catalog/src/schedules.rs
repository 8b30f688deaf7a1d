//! Schedules: set, shown, removed, and claimed when they are due.
//!
//! A schedule that is due is claimed by one transaction that makes the backup and
//! its job and moves the schedule on, so each due time is taken once, whatever is
//! killed when. The end of the backup moves it again, in the transaction that
//! ends the backup.

use std::collections::HashMap;

use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{LockBehavior, LockType, OnConflict},
};
use uuid::Uuid;

use crate::{
    BackupState, Catalog, CatalogError, JobKind, JobState, NewBackup, Page, PageRequest, Schedule,
    ScheduleRound, ScheduleSpec, SkipReason, Trigger, Urgency, agents, backups,
    connection::Tx,
    destinations,
    entities::{agents as agent_rows, backups as backup_rows, jobs, schedules},
    error::Doing as _,
    pages,
    timing::{self, Rhythm},
    transitions::{self, NewJob},
};

impl Catalog {
    /// Sets an agent's schedule; tells whether there was none. With
    /// `expected_etag`, only when it still is the present one; with `update_only`,
    /// only when there is one.
    ///
    /// Errors: `AgentNotFound`, `ScheduleNotFound`, `EtagMismatch`.
    pub async fn set_schedule(
        &self,
        agent_id: &str,
        spec: ScheduleSpec,
        expected_etag: Option<&str>,
        update_only: bool,
        now_ms: i64,
    ) -> Result<(Schedule, bool), CatalogError> {
        let tx = self.begin("set schedule").await?;
        let agent = agents::lock_agent(&tx, agent_id).await?;
        let agent = agent.filter(|agent| agent.deregister_time_ms.is_none());
        let Some(agent) = agent else {
            return Err(agents::not_found(agent_id));
        };
        let before = lock_schedule(&tx, agent_id).await?;
        check_etag(agent_id, before.as_ref(), expected_etag)?;
        if before.is_none() && update_only {
            return Err(not_found(agent_id));
        }
        let created = before.is_none();
        let mut row = before.unwrap_or_else(|| fresh(&agent, now_ms));
        if !created && schedule(row.clone()).spec == spec {
            return Ok((schedule(row), false));
        }
        let rhythm = rhythm(&spec);
        let same_times = !created
            && row.frequency == spec.frequency
            && row.time_of_day == spec.time_of_day.map(i32::from)
            && row.time_zone == spec.time_zone;
        let goes_on = same_times && row.enabled && spec.enabled;
        row.enabled = spec.enabled;
        row.frequency = spec.frequency;
        row.retain = spec.retain as i32;
        row.time_of_day = spec.time_of_day.map(i32::from);
        row.time_zone = spec.time_zone;
        row.etag = Uuid::new_v4().simple().to_string();
        row.update_time_ms = now_ms;
        if !spec.enabled {
            row.next_run_time_ms = None;
        } else if !goes_on {
            let (anchor_ms, next_ms) = if same_times && row.last_due_time_ms.is_some() {
                let last = row.last_success_due_ms.unwrap_or(row.anchor_time_ms);
                (row.anchor_time_ms, rhythm.next(row.anchor_time_ms, last))
            } else {
                rhythm.resume(row.last_success_due_ms, now_ms)
            };
            row.anchor_time_ms = anchor_ms;
            row.next_run_time_ms = Some(next_ms);
            if next_ms < now_ms {
                row.skip_due_time_ms = Some(next_ms);
                row.skip_reason = Some(SkipReason::Missed);
                row.next_run_time_ms = Some(now_ms + rhythm.spread(agent_id));
            }
        }
        save(&tx, vec![row.clone()]).await?;
        agents::look_at_retention(&tx, agent_id, now_ms).await?;
        tx.commit().await?;
        Ok((schedule(row), created))
    }

    /// An agent's schedule.
    pub async fn get_schedule(&self, agent_id: &str) -> Result<Option<Schedule>, CatalogError> {
        let row = schedules::Entity::find_by_id(agent_id).one(self.read());
        Ok(row.await.doing("read schedule")?.map(schedule))
    }

    /// Schedules in the order of their agents' ids: an owner's, or all.
    pub async fn list_schedules(
        &self,
        owner_id: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<Schedule>, CatalogError> {
        let mut query = schedules::Entity::find()
            .order_by_asc(schedules::Column::AgentId)
            .limit(pages::limit(page) + 1);
        if let Some(owner_id) = owner_id {
            query = query.filter(schedules::Column::OwnerId.eq(owner_id));
        }
        if let Some(after) = &page.after {
            query = query.filter(schedules::Column::AgentId.gt(after));
        }
        let rows = query.all(self.read()).await.doing("list schedules")?;
        pages::page(page, rows, |row| Ok(schedule(row)), |item| &item.agent_id)
    }

    /// Removes an agent's schedule; what it began goes on.
    ///
    /// Errors: `ScheduleNotFound`, `EtagMismatch`.
    pub async fn delete_schedule(
        &self,
        agent_id: &str,
        expected_etag: Option<&str>,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("delete schedule").await?;
        let Some(row) = lock_schedule(&tx, agent_id).await? else {
            return Err(not_found(agent_id));
        };
        check_etag(agent_id, Some(&row), expected_etag)?;
        remove(&tx, agent_id).await?;
        tx.commit().await
    }

    /// Claims schedules that are due, at most `limit`: begins their backups, skips
    /// those whose last run goes on, and spreads those that were missed. Call it
    /// again until it finds nothing.
    pub async fn claim_due(&self, limit: u64, now_ms: i64) -> Result<ScheduleRound, CatalogError> {
        let due = || {
            schedules::Entity::find()
                .filter(schedules::Column::NextRunTimeMs.lte(now_ms))
                .order_by_asc(schedules::Column::NextRunTimeMs)
        };
        // Mostly there are none: no transaction then.
        let one = due().one(self.read()).await.doing("read due schedules")?;
        if one.is_none() {
            return Ok(ScheduleRound::default());
        }
        let tx = self.begin("claim schedules").await?;
        let rows = due()
            .limit(limit.clamp(1, crate::limits::BATCH_ROWS_MAX))
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        // Nothing is waited for while others' schedules are held: an agent that is
        // being changed has its turn next time.
        let agents: HashMap<String, agent_rows::Model> = agent_rows::Entity::find()
            .filter(agent_rows::Column::AgentId.is_in(rows.iter().map(|row| &row.agent_id)))
            .filter(agent_rows::Column::DeregisterTimeMs.is_null())
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .all(tx.db())
            .await
            .doing(tx.doing())?
            .into_iter()
            .map(|agent| (agent.agent_id.clone(), agent))
            .collect();
        let last = rows
            .iter()
            .filter_map(|row| row.last_run_backup_id.as_ref());
        let running: Vec<String> = backup_rows::Entity::find()
            .select_only()
            .column(backup_rows::Column::BackupId)
            .filter(backup_rows::Column::BackupId.is_in(last))
            .filter(backup_rows::Column::State.is_in([BackupState::Pending, BackupState::Running]))
            .into_tuple()
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        let mut batch = Batch::new(self.retry.max_attempts, now_ms);
        for row in rows {
            let Some(agent) = agents.get(&row.agent_id) else {
                continue;
            };
            let goes_on = row
                .last_run_backup_id
                .as_ref()
                .is_some_and(|last| running.contains(last));
            batch.take(row, agent, goes_on);
        }
        batch.write(tx).await
    }
}

/// What a round of claims writes.
struct Batch {
    max_attempts: u32,
    now_ms: i64,
    round: ScheduleRound,
    schedules: Vec<schedules::Model>,
    backups: Vec<backup_rows::ActiveModel>,
    jobs: Vec<jobs::ActiveModel>,
}

impl Batch {
    fn new(max_attempts: u32, now_ms: i64) -> Self {
        Self {
            max_attempts,
            now_ms,
            round: ScheduleRound::default(),
            schedules: Vec::new(),
            backups: Vec::new(),
            jobs: Vec::new(),
        }
    }

    /// Decides on one schedule that is due.
    fn take(&mut self, mut row: schedules::Model, agent: &agent_rows::Model, goes_on: bool) {
        let now_ms = self.now_ms;
        let due_ms = row.next_run_time_ms.unwrap_or(now_ms);
        let rhythm = rhythm_of(&row);
        let skip = if goes_on {
            row.next_run_time_ms = Some(rhythm.next(row.anchor_time_ms, now_ms));
            self.round.skipped.push(row.agent_id.clone());
            Some(SkipReason::StillRunning)
        } else if now_ms - due_ms > timing::MISSED_AFTER_MS {
            row.next_run_time_ms = Some(now_ms + rhythm.spread(&row.agent_id));
            self.round.spread.push(row.agent_id.clone());
            Some(SkipReason::Missed)
        } else {
            None
        };
        if skip.is_some() {
            row.skip_due_time_ms = Some(due_ms);
            row.skip_reason = skip;
        } else {
            let backup_id = self.begin(agent);
            row.next_run_time_ms = Some(rhythm.next(row.anchor_time_ms, now_ms.max(due_ms)));
            row.last_due_time_ms = Some(due_ms);
            row.last_run_time_ms = Some(now_ms);
            row.last_run_backup_id = Some(backup_id.clone());
            // A run that was put off says so until the one after it.
            if row.skip_reason == Some(SkipReason::StillRunning) {
                (row.skip_due_time_ms, row.skip_reason) = (None, None);
            }
            self.round.begun.push((row.agent_id.clone(), backup_id));
        }
        self.schedules.push(row);
    }

    /// Makes a backup and its job.
    fn begin(&mut self, agent: &agent_rows::Model) -> String {
        let backup_id = transitions::new_id(self.now_ms);
        let job = transitions::job_row(
            NewJob {
                job_id: transitions::new_id(self.now_ms),
                kind: JobKind::Backup,
                agent_id: &agent.agent_id,
                owner_id: &agent.owner_id,
                backup_id: Some(&backup_id),
                restore_id: None,
                depth: None,
                destination_id: "",
                pool: &agent.pool,
                urgency: Urgency::Scheduled,
                due_time_ms: self.now_ms,
                max_attempts: self.max_attempts,
            },
            self.now_ms,
        );
        let time = jiff::Timestamp::from_millisecond(self.now_ms).unwrap_or_default();
        let new = NewBackup {
            agent_id: agent.agent_id.clone(),
            owner_id: agent.owner_id.clone(),
            name: format!("{} {}", agent.agent_id, time.strftime("%Y-%m-%d %H:%M:%SZ")),
            trigger: Trigger::Schedule,
            request: None,
        };
        let destination_id = destinations::or_default(&agent.destination_id);
        let backup = backups::pending(&new, &backup_id, &job.job_id, destination_id, self.now_ms);
        self.jobs.push(jobs::ActiveModel::from(job).reset_all());
        self.backups
            .push(backup_rows::ActiveModel::from(backup).reset_all());
        backup_id
    }

    async fn write(self, tx: Tx) -> Result<ScheduleRound, CatalogError> {
        if self.schedules.is_empty() {
            return Ok(self.round);
        }
        if !self.jobs.is_empty() {
            jobs::Entity::insert_many(self.jobs)
                .exec_without_returning(tx.db())
                .await
                .doing(tx.doing())?;
            backup_rows::Entity::insert_many(self.backups)
                .exec_without_returning(tx.db())
                .await
                .doing(tx.doing())?;
        }
        save(&tx, self.schedules).await?;
        tx.commit_with_work().await?;
        Ok(self.round)
    }
}

/// The backup that a schedule began has ended: when it runs next.
pub(crate) async fn note_end(
    tx: &Tx,
    job: &jobs::Model,
    state: JobState,
    now_ms: i64,
) -> Result<(), CatalogError> {
    if job.kind != JobKind::Backup || job.urgency != Urgency::Scheduled {
        return Ok(());
    }
    let row = lock_schedule(tx, &job.agent_id).await?;
    let row = row.filter(|row| row.last_run_backup_id == job.backup_id);
    let Some(mut row) = row else {
        return Ok(());
    };
    let rhythm = rhythm_of(&row);
    let due_ms = row.last_due_time_ms.unwrap_or(now_ms);
    match state {
        JobState::Completed => {
            row.failures = 0;
            row.last_success_due_ms = Some(due_ms);
            row.last_success_time_ms = Some(now_ms);
            row.last_success_backup_id.clone_from(&job.backup_id);
            if row.time_of_day.is_none() {
                row.anchor_time_ms = due_ms;
            }
        }
        JobState::Failed => row.failures += 1,
        JobState::Queued | JobState::Running | JobState::Canceled => {}
    }
    if row.enabled {
        let anchor_ms = row.anchor_time_ms;
        row.next_run_time_ms = Some(if state == JobState::Failed {
            rhythm.retry(anchor_ms, row.failures as u32, now_ms)
        } else {
            rhythm.next(anchor_ms, now_ms.max(due_ms))
        });
    }
    save(tx, vec![row]).await
}

/// Removes an agent's schedule, when it has one.
pub(crate) async fn remove(tx: &Tx, agent_id: &str) -> Result<(), CatalogError> {
    let deleted = schedules::Entity::delete_by_id(agent_id)
        .exec(tx.db())
        .await;
    deleted.doing(tx.doing())?;
    Ok(())
}

async fn lock_schedule(tx: &Tx, agent_id: &str) -> Result<Option<schedules::Model>, CatalogError> {
    let row = schedules::Entity::find_by_id(agent_id).lock_exclusive();
    row.one(tx.db()).await.doing(tx.doing())
}

/// Writes schedules in one statement, those that are there and new ones.
async fn save(tx: &Tx, rows: Vec<schedules::Model>) -> Result<(), CatalogError> {
    use sea_orm::Iterable as _;
    let rows = rows
        .into_iter()
        .map(|row| schedules::ActiveModel::from(row).reset_all());
    let columns = schedules::Column::iter().filter(|c| !matches!(c, schedules::Column::AgentId));
    let replace = OnConflict::column(schedules::Column::AgentId)
        .update_columns(columns)
        .to_owned();
    schedules::Entity::insert_many(rows)
        .on_conflict(replace)
        .exec_without_returning(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

fn check_etag(
    agent_id: &str,
    row: Option<&schedules::Model>,
    expected: Option<&str>,
) -> Result<(), CatalogError> {
    match expected {
        Some(etag) if row.is_none_or(|row| row.etag != etag) => {
            Err(CatalogError::ScheduleChanged {
                agent_id: agent_id.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

pub(crate) fn not_found(agent_id: &str) -> CatalogError {
    CatalogError::ScheduleNotFound {
        agent_id: agent_id.to_owned(),
    }
}

fn fresh(agent: &agent_rows::Model, now_ms: i64) -> schedules::Model {
    schedules::Model {
        agent_id: agent.agent_id.clone(),
        owner_id: agent.owner_id.clone(),
        enabled: true,
        frequency: crate::Frequency::Daily,
        retain: 1,
        time_of_day: None,
        time_zone: "UTC".to_owned(),
        etag: String::new(),
        anchor_time_ms: now_ms,
        next_run_time_ms: None,
        last_due_time_ms: None,
        last_run_time_ms: None,
        last_run_backup_id: None,
        last_success_due_ms: None,
        last_success_time_ms: None,
        last_success_backup_id: None,
        failures: 0,
        skip_due_time_ms: None,
        skip_reason: None,
        create_time_ms: now_ms,
        update_time_ms: now_ms,
    }
}

fn rhythm_of(row: &schedules::Model) -> Rhythm {
    rhythm(&schedule(row.clone()).spec)
}

/// A zone that is not known any more counts as UTC: a run at another hour is
/// better than none.
fn rhythm(spec: &ScheduleSpec) -> Rhythm {
    Rhythm {
        frequency: spec.frequency,
        time_of_day: spec.time_of_day,
        zone: timing::zone(&spec.time_zone).unwrap_or(jiff::tz::TimeZone::UTC),
    }
}

fn schedule(row: schedules::Model) -> Schedule {
    Schedule {
        agent_id: row.agent_id,
        owner_id: row.owner_id,
        spec: ScheduleSpec {
            enabled: row.enabled,
            frequency: row.frequency,
            retain: row.retain as u32,
            time_of_day: row.time_of_day.map(|minutes| minutes as u16),
            time_zone: row.time_zone,
        },
        etag: row.etag,
        next_run_time_ms: row.next_run_time_ms,
        last_run: row.last_run_time_ms.zip(row.last_run_backup_id),
        last_success: row.last_success_time_ms.zip(row.last_success_backup_id),
        failures: row.failures as u32,
        skip: row.skip_due_time_ms.zip(row.skip_reason),
        create_time_ms: row.create_time_ms,
        update_time_ms: row.update_time_ms,
    }
}
