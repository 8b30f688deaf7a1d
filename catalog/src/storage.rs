//! How full the storage is: measured against a limit, and announced when it
//! crosses 80 or 100 %, once, however many servers look.

use prost::Message as _;
use proto::queue::v1::JobEnded;
use sea_orm::{
    ActiveModelTrait as _, ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _,
    QuerySelect as _,
};

use crate::{
    Catalog, CatalogError, announcements,
    entities::{agents, storage_levels},
    error::Doing as _,
    usage,
};

/// The one row.
const ALL: &str = "all";
/// Levels that are announced, in percent.
const LEVELS: [u32; 2] = [100, 80];
/// A level counts as left only so much below it, so that it isn't crossed to and fro.
const SLACK: u32 = 5;

impl Catalog {
    /// Bytes that all vaults take, as of each one's last job.
    pub async fn stored_bytes(&self) -> Result<u64, CatalogError> {
        let sum: Option<Option<i64>> = agents::Entity::find()
            .select_only()
            .expr(usage::sum(agents::Column::VaultBytes))
            .into_tuple()
            .one(self.read())
            .await
            .doing("sum up vaults")?;
        Ok(sum.flatten().unwrap_or_default() as u64)
    }

    /// Notes how much of `limit_bytes` is used, and announces it when a level is
    /// reached or left. Tells the new level when it changed.
    pub async fn note_storage(
        &self,
        stored_bytes: u64,
        limit_bytes: u64,
        now_ms: i64,
    ) -> Result<Option<u32>, CatalogError> {
        let known = storage_levels::Entity::find_by_id(ALL).one(self.read());
        let known = known.await.doing("read storage level")?;
        let before = known.as_ref().map_or(0, |row| row.percent as u32);
        if level(before, stored_bytes, limit_bytes) == before {
            return Ok(None);
        }
        let tx = self.begin("note storage level").await?;
        let row = storage_levels::Entity::find_by_id(ALL).lock_exclusive();
        let row = row.one(tx.db()).await.doing(tx.doing())?;
        // Another server may have been faster.
        let before = row.as_ref().map_or(0, |row| row.percent as u32);
        let now = level(before, stored_bytes, limit_bytes);
        if now == before {
            return Ok(None);
        }
        let change = storage_levels::ActiveModel {
            name: Set(ALL.to_owned()),
            percent: Set(now as i32),
            change_time_ms: Set(now_ms),
        };
        if row.is_some() {
            let changed = storage_levels::Entity::update_many()
                .set(change)
                .filter(storage_levels::Column::Name.eq(ALL))
                .filter(storage_levels::Column::Percent.eq(before as i32))
                .exec(tx.db())
                .await
                .doing(tx.doing())?;
            if changed.rows_affected == 0 {
                return Ok(None);
            }
        } else if let Err(error) = storage_levels::Entity::insert(change.reset_all())
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())
        {
            // Another server made the row at this very moment, and announces.
            return if error.is_unique_violation() {
                Ok(None)
            } else {
                Err(error)
            };
        }
        let state = if now > before {
            format!("reached_{now}")
        } else {
            format!("below_{before}")
        };
        let ended = JobEnded {
            version: announcements::VERSION,
            kind: "storage".to_owned(),
            state,
            end_time_ms: now_ms,
            stored_bytes,
            limit_bytes,
            ..JobEnded::default()
        };
        let kind = format!("{}.{}", ended.kind, ended.state);
        announcements::insert(&tx, kind, ended.encode_to_vec(), now_ms).await?;
        tx.commit().await?;
        Ok(Some(now))
    }
}

/// The level as of now, in percent: 0, 80 or 100.
fn level(before: u32, stored_bytes: u64, limit_bytes: u64) -> u32 {
    let reaches = |percent: u32| {
        u128::from(stored_bytes) * 100 >= u128::from(limit_bytes) * u128::from(percent)
    };
    LEVELS
        .into_iter()
        .find(|level| {
            reaches(if before >= *level {
                level - SLACK
            } else {
                *level
            })
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_reached_at_once_and_left_with_slack() {
        for (before, stored, expected) in [
            (0, 0, 0),
            (0, 799, 0),
            (0, 800, 80),
            (0, 1_000, 100),
            (0, u64::MAX, 100),
            (80, 999, 80),
            (80, 750, 80),
            (80, 749, 0),
            (100, 950, 100),
            (100, 949, 80),
            (100, 700, 0),
        ] {
            assert_eq!(level(before, stored, 1_000), expected, "{before} {stored}");
        }
    }
}
