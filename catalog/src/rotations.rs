//! Rotations of keys: one at a time, each a job.
//!
//! ```text
//!  add:     every vault gets a wrap under the writing key; older keys go on opening
//!  retire:  all other wraps go. Only when an add to this key is complete, and every
//!           process that is there holds the key
//! ```

use prost::Message;
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
};

use crate::{
    Catalog, CatalogError, DestinationRotation, Fence, JobKind, JobState, KeyRotation,
    NewKeyRotation, RotationCounts, RotationStep, Urgency, VaultProblem,
    connection::Tx,
    entities::{jobs, key_rotations},
    error::Doing as _,
    limits, requests, stored,
    transitions::{self, NewJob},
};

/// What the column `problems` holds.
#[derive(Clone, PartialEq, Message)]
struct Account {
    #[prost(message, repeated, tag = "1")]
    problems: Vec<VaultProblem>,
    /// Programs that did not know of it began anew with each attempt that took over.
    #[prost(message, repeated, tag = "2")]
    destinations: Vec<DestinationRotation>,
}

/// A rotation tries for as long as it takes: what it did is done.
const ATTEMPTS_MAX: u32 = 100;

impl Catalog {
    /// Queues a rotation.
    ///
    /// Errors: `RequestIdReused`, `KeyRotationRunning`; with `retire_previous` also
    /// `KeyNotHeld` and `KeysNotRotated`.
    pub async fn create_key_rotation(
        &self,
        new: NewKeyRotation,
        now_ms: i64,
    ) -> Result<KeyRotation, CatalogError> {
        let first = self.create_rotation_once(&new, now_ms).await;
        match first {
            // The same request came twice at the same moment: the other was first.
            Err(error) if error.is_unique_violation() => {
                self.create_rotation_once(&new, now_ms).await
            }
            result => result,
        }
    }

    async fn create_rotation_once(
        &self,
        new: &NewKeyRotation,
        now_ms: i64,
    ) -> Result<KeyRotation, CatalogError> {
        let pool = self.served_pool(now_ms).await?;
        let tx = self.begin("create key rotation").await?;
        let job_id = transitions::new_id(now_ms);
        let before = requests::note(&tx, new.request.as_ref(), &job_id, now_ms).await?;
        if let Some(before) = before {
            drop(tx);
            let rotation = self.get_key_rotation(&before).await?;
            return rotation.ok_or_else(|| not_found(&before));
        }
        if let Some(running) = open_rotation(&tx).await? {
            return Err(CatalogError::KeyRotationRunning {
                rotation_id: running,
            });
        }
        if new.retire_previous {
            self.check_retire(&tx, &new.writing_key_id, now_ms).await?;
        }
        let job = NewJob {
            job_id: job_id.clone(),
            kind: JobKind::Rotate,
            // Of no agent: so the database itself lets only one of them run.
            agent_id: "",
            owner_id: &new.owner_id,
            backup_id: None,
            restore_id: None,
            depth: None,
            destination_id: "",
            pool: &pool,
            urgency: Urgency::Manual,
            due_time_ms: now_ms,
            max_attempts: ATTEMPTS_MAX,
        };
        transitions::insert_job(&tx, job, now_ms).await?;
        let row = key_rotations::ActiveModel {
            job_id: Set(job_id.clone()),
            writing_key_id: Set(new.writing_key_id.clone()),
            retire_previous: Set(new.retire_previous),
            cursor: Set(String::new()),
            vaults_done: Set(0),
            vaults_total: Set(0),
            vaults_changed: Set(0),
            vaults_failed: Set(0),
            problems: Set(Vec::new()),
        };
        key_rotations::Entity::insert(row)
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit_with_work().await?;
        let rotation = self.get_key_rotation(&job_id).await?;
        rotation.ok_or_else(|| not_found(&job_id))
    }

    /// Whether the older keys' wraps may go.
    async fn check_retire(&self, tx: &Tx, key_id: &str, now_ms: i64) -> Result<(), CatalogError> {
        let replicas = self.replicas_without(key_id, now_ms).await?;
        if !replicas.is_empty() {
            return Err(CatalogError::KeyNotHeld {
                key_id: key_id.to_owned(),
                replicas,
            });
        }
        let last = key_rotations::Entity::find()
            .find_also_related(jobs::Entity)
            .filter(key_rotations::Column::WritingKeyId.eq(key_id))
            .filter(key_rotations::Column::RetirePrevious.eq(false))
            .filter(jobs::Column::State.eq(JobState::Completed))
            .order_by_desc(key_rotations::Column::JobId)
            .one(tx.db())
            .await
            .doing(tx.doing())?;
        let (mut agents, mut destinations) = (Vec::new(), Vec::new());
        if let Some((row, _)) = last {
            let account = account(&row)?;
            let left = account.destinations.into_iter().filter(|at| !at.is_done);
            destinations.extend(left.map(|at| at.destination_id));
            if row.vaults_failed == 0 && destinations.is_empty() {
                return Ok(());
            }
            agents.extend(account.problems.into_iter().map(|p| p.agent_id));
        }
        Err(CatalogError::KeysNotRotated {
            key_id: key_id.to_owned(),
            agents,
            destinations,
        })
    }

    /// A rotation.
    pub async fn get_key_rotation(
        &self,
        rotation_id: &str,
    ) -> Result<Option<KeyRotation>, CatalogError> {
        let row = key_rotations::Entity::find_by_id(rotation_id)
            .find_also_related(jobs::Entity)
            .one(self.read())
            .await;
        row.doing("read key rotation")?.map(rotation).transpose()
    }

    /// The rotation that was asked for last.
    pub async fn latest_key_rotation(&self) -> Result<Option<KeyRotation>, CatalogError> {
        let row = key_rotations::Entity::find()
            .find_also_related(jobs::Entity)
            .order_by_desc(key_rotations::Column::JobId)
            .one(self.read())
            .await;
        row.doing("read key rotation")?.map(rotation).transpose()
    }

    /// Notes how far an attempt is. Errors: `Fenced`.
    pub async fn note_rotation(
        &self,
        fence: &Fence,
        step: &RotationStep,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("note key rotation").await?;
        transitions::lock_held(&tx, fence).await?;
        note(&tx, &fence.job_id, step).await?;
        tx.commit().await
    }

    /// Every destination was tried. Errors: `Fenced`.
    pub async fn complete_rotation(
        &self,
        fence: &Fence,
        step: &RotationStep,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("complete key rotation").await?;
        let job = transitions::lock_held(&tx, fence).await?;
        if job.kind != JobKind::Rotate {
            return Err(transitions::fenced(&fence.job_id, fence.attempt));
        }
        note(&tx, &fence.job_id, step).await?;
        let mut progress = stored::job_progress(&job)?;
        let counts = step.counts();
        progress.entries_done = counts.vaults_done;
        progress.entries_total = counts.vaults_total;
        transitions::end_job(&tx, &job, JobState::Completed, None, Some(progress), now_ms).await?;
        tx.commit_with_work().await
    }

    /// A pool that workers serve: any of them reaches the vaults.
    async fn served_pool(&self, now_ms: i64) -> Result<String, CatalogError> {
        const DEFAULT: &str = "default";
        let since_ms = now_ms.saturating_sub(limits::REPLICA_GONE_MS);
        let workers = self.workers_since(since_ms).await?;
        let served = |pool: &str| workers.iter().any(|worker| worker.pool == pool);
        Ok(match workers.first() {
            Some(first) if !served(DEFAULT) => first.pool.clone(),
            _ => DEFAULT.to_owned(),
        })
    }
}

pub(crate) async fn open_rotation(tx: &Tx) -> Result<Option<String>, CatalogError> {
    let open = jobs::Entity::find()
        .filter(jobs::Column::AgentId.eq(""))
        .filter(jobs::Column::State.is_in([JobState::Queued, JobState::Running]))
        .filter(jobs::Column::Kind.eq(JobKind::Rotate))
        .one(tx.db())
        .await;
    Ok(open.doing(tx.doing())?.map(|job| job.job_id))
}

async fn note(tx: &Tx, job_id: &str, step: &RotationStep) -> Result<(), CatalogError> {
    let mut problems = step.problems.clone();
    problems.truncate(limits::PROBLEMS_MAX);
    let account = Account {
        problems,
        destinations: step.destinations.clone(),
    };
    let counts = step.counts();
    let change = key_rotations::ActiveModel {
        vaults_done: Set(counts.vaults_done as i64),
        vaults_total: Set(counts.vaults_total as i64),
        vaults_changed: Set(counts.vaults_changed as i64),
        vaults_failed: Set(counts.vaults_failed as i64),
        problems: Set(account.encode_to_vec()),
        ..Default::default()
    };
    key_rotations::Entity::update_many()
        .set(change)
        .filter(key_rotations::Column::JobId.eq(job_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

fn account(row: &key_rotations::Model) -> Result<Account, CatalogError> {
    stored::decode(&row.problems, "problems", &row.job_id)
}

fn rotation(
    (row, job): (key_rotations::Model, Option<jobs::Model>),
) -> Result<KeyRotation, CatalogError> {
    let job = job.ok_or_else(|| CatalogError::Damaged {
        what: "job",
        id: row.job_id.clone(),
    })?;
    let account = account(&row)?;
    let job = stored::job(job)?;
    Ok(KeyRotation {
        rotation_id: row.job_id,
        writing_key_id: row.writing_key_id,
        retire_previous: row.retire_previous,
        counts: RotationCounts {
            vaults_done: row.vaults_done as u64,
            vaults_total: row.vaults_total as u64,
            vaults_changed: row.vaults_changed as u64,
            vaults_failed: row.vaults_failed as u64,
        },
        destinations: account.destinations,
        problems: account.problems,
        state: job.state,
        attempt: job.attempt,
        failure: job.failure,
        progress: job.progress,
        create_time_ms: job.create_time_ms,
        start_time_ms: job.start_time_ms,
        end_time_ms: job.end_time_ms,
    })
}

fn not_found(rotation_id: &str) -> CatalogError {
    CatalogError::KeyRotationNotFound {
        rotation_id: rotation_id.to_owned(),
    }
}
