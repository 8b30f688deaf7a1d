//! Ends that other services are told of. A row is written in the transaction
//! that ends the job, so none is forgotten; it goes once it was published, so
//! that one may be published twice, under the same id.

use prost::Message as _;
use proto::{backup::v1::Progress, queue::v1::JobEnded};
use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, LockBehavior, LockType},
};

use crate::{
    Catalog, CatalogError, Failure, JobKind, JobState,
    connection::Tx,
    entities::{announcements, jobs},
    error::Doing as _,
    limits, transitions,
};

/// Version of the rows that this program writes.
pub(crate) const VERSION: u32 = 1;

/// An end that was not announced yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    /// Its id: the same however often it is published.
    pub announcement_id: String,
    /// What ended, and how.
    pub ended: JobEnded,
}

impl Catalog {
    /// Takes ends that are to be announced, the oldest first, into one server's
    /// hands until `now_ms + hold_ms`. At most `limit` of them.
    pub async fn claim_announcements(
        &self,
        limit: u64,
        hold_ms: i64,
        now_ms: i64,
    ) -> Result<Vec<Announcement>, CatalogError> {
        let free = || {
            announcements::Entity::find()
                .filter(announcements::Column::HoldMs.lte(now_ms))
                .limit(limit.clamp(1, limits::PAGE_MAX))
        };
        // Mostly there are none: no transaction then.
        let some = free().one(self.read()).await.doing("read announcements")?;
        if some.is_none() {
            return Ok(Vec::new());
        }
        let tx = self.begin("claim announcements").await?;
        let rows = free()
            .order_by_asc(announcements::Column::AnnouncementId)
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        let ids: Vec<&str> = rows.iter().map(|row| &*row.announcement_id).collect();
        announcements::Entity::update_many()
            .col_expr(
                announcements::Column::HoldMs,
                Expr::value(now_ms.saturating_add(hold_ms)),
            )
            .filter(announcements::Column::AnnouncementId.is_in(ids))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        rows.into_iter()
            .map(|row| {
                let ended = JobEnded::decode(&*row.body).map_err(|_| CatalogError::Damaged {
                    what: "announcement",
                    id: row.announcement_id.clone(),
                })?;
                Ok(Announcement {
                    announcement_id: row.announcement_id,
                    ended,
                })
            })
            .collect()
    }

    /// These were published: forgets them.
    pub async fn announced(&self, announcement_ids: &[String]) -> Result<(), CatalogError> {
        let tx = self.begin("forget announcements").await?;
        announcements::Entity::delete_many()
            .filter(announcements::Column::AnnouncementId.is_in(announcement_ids))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await
    }

    /// These could not be published: anybody may try now.
    pub async fn release_announcements(
        &self,
        announcement_ids: &[String],
    ) -> Result<(), CatalogError> {
        let tx = self.begin("release announcements").await?;
        announcements::Entity::update_many()
            .col_expr(announcements::Column::HoldMs, Expr::value(0_i64))
            .filter(announcements::Column::AnnouncementId.is_in(announcement_ids))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await
    }
}

/// Notes the end of a job, in the transaction that ends it.
pub(crate) async fn note(
    tx: &Tx,
    job: &jobs::Model,
    state: JobState,
    failure: Option<&Failure>,
    last: Option<&Progress>,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let (kind, subject_id) = match job.kind {
        JobKind::Backup => ("backup", job.backup_id.as_deref()),
        JobKind::Restore => ("restore", job.restore_id.as_deref()),
        JobKind::Verify => ("verification", Some(job.job_id.as_str())),
        JobKind::Delete => ("deletion", job.backup_id.as_deref()),
        // Of nobody's interest.
        JobKind::Compact | JobKind::Rotate | JobKind::Erase | JobKind::Copy => return Ok(()),
    };
    let state = match state {
        JobState::Completed => "completed",
        JobState::Failed => "failed",
        JobState::Canceled => "canceled",
        JobState::Queued | JobState::Running => return Ok(()),
    };
    let failure = failure.cloned().unwrap_or_default();
    let last = last.cloned().unwrap_or_default();
    let ended = JobEnded {
        version: VERSION,
        kind: kind.to_owned(),
        state: state.to_owned(),
        subject_id: subject_id.unwrap_or_default().to_owned(),
        job_id: job.job_id.clone(),
        agent_id: job.agent_id.clone(),
        owner_id: job.owner_id.clone(),
        reason: failure.reason,
        message: failure.message,
        attempts: job.attempt as u32,
        create_time_ms: job.create_time_ms,
        end_time_ms: now_ms,
        size_bytes: last.bytes_done,
        stored_bytes: last.stored_bytes,
        limit_bytes: 0,
    };
    let kind = format!("{kind}.{state}");
    insert(tx, kind, ended.encode_to_vec(), now_ms).await
}

/// Adds what is to be announced.
pub(crate) async fn insert(
    tx: &Tx,
    kind: String,
    body: Vec<u8>,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let row = announcements::Model {
        announcement_id: transitions::new_id(now_ms),
        kind,
        body,
        hold_ms: 0,
        create_time_ms: now_ms,
    };
    announcements::Entity::insert(announcements::ActiveModel::from(row))
        .exec_without_returning(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}
