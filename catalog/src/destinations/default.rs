//! The destination that the environment gives, under the id `default`, and the places that
//! it gave before.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::Expr,
};

use super::{change, insert, new_etag, remove, row};
use crate::{
    Catalog, CatalogError, DEFAULT_DESTINATION, JobState, NewDestination,
    connection::Tx,
    entities::{agents, backup_copies, backups, destinations, jobs, restores, vault_keys},
    error::Doing as _,
};

/// What the places are called that the environment gave before.
const FORMER: &str = "former-";
/// How often the default one is registered before its failure is told.
const REGISTER_ATTEMPTS_MAX: u32 = 5;

impl Catalog {
    /// Makes what the environment describes the destination `default`. When it is another
    /// place than before, the place before keeps its row under a new id, and whatever lies
    /// there names that from then on; a place that was the default before takes over what
    /// lies there.
    pub async fn register_default(
        &self,
        new: &NewDestination,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.register_default_once(new, now_ms).await {
                // Another process did so at the same moment, or works on what is repointed.
                Err(error)
                    if attempt < REGISTER_ATTEMPTS_MAX
                        && (error.is_unique_violation() || error.is_retryable()) => {}
                result => return result,
            }
        }
    }

    async fn register_default_once(
        &self,
        new: &NewDestination,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("register default destination").await?;
        let rows = destinations::Entity::find()
            .order_by_asc(destinations::Column::DestinationId)
            .lock_exclusive()
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        let before = rows
            .iter()
            .find(|row| row.destination_id == DEFAULT_DESTINATION);
        if let Some(before) = before.filter(|before| before.place == new.place) {
            change(&tx, &before.destination_id, new, now_ms).await?;
            return tx.commit().await;
        }
        if let Some(before) = before {
            let former = free_former_id(&rows);
            let moved = destinations::Model {
                destination_id: former.clone(),
                display_name: former.clone(),
                etag: new_etag(),
                update_time_ms: now_ms,
                ..before.clone()
            };
            remove(&tx, DEFAULT_DESTINATION).await?;
            insert(&tx, moved).await?;
            repoint(&tx, DEFAULT_DESTINATION, &former).await?;
            tracing::info!(
                destination_id = former,
                place = before.place,
                "the former default destination"
            );
        }
        insert(&tx, row(new, now_ms)).await?;
        let back = rows
            .iter()
            .find(|row| row.destination_id.starts_with(FORMER) && row.place == new.place);
        if let Some(back) = back {
            repoint(&tx, &back.destination_id, DEFAULT_DESTINATION).await?;
            repoint_agents(&tx, &back.destination_id).await?;
            remove(&tx, &back.destination_id).await?;
        }
        tx.commit().await
    }
}

/// Whatever names one destination names another from now on. What agents name stays: they
/// follow the default.
async fn repoint(tx: &Tx, from: &str, to: &str) -> Result<(), CatalogError> {
    macro_rules! repoint {
        ($table:ident) => {
            $table::Entity::update_many()
                .col_expr($table::Column::DestinationId, Expr::value(to))
                .filter($table::Column::DestinationId.eq(from))
        };
    }
    repoint!(backups).exec(tx.db()).await.doing(tx.doing())?;
    repoint!(backup_copies)
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    repoint!(vault_keys).exec(tx.db()).await.doing(tx.doing())?;
    repoint!(restores).exec(tx.db()).await.doing(tx.doing())?;
    repoint!(jobs)
        .filter(jobs::Column::State.is_in([JobState::Queued, JobState::Running]))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// Agents that name a former place which is the default one again.
async fn repoint_agents(tx: &Tx, from: &str) -> Result<(), CatalogError> {
    for column in [
        agents::Column::DestinationId,
        agents::Column::SecondDestinationId,
    ] {
        agents::Entity::update_many()
            .col_expr(column, Expr::value(DEFAULT_DESTINATION))
            .filter(column.eq(from))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
    }
    Ok(())
}

fn free_former_id(rows: &[destinations::Model]) -> String {
    let numbers = rows.iter().filter_map(|row| {
        let number = row.destination_id.strip_prefix(FORMER)?;
        number.parse::<u64>().ok()
    });
    format!("{FORMER}{}", numbers.max().unwrap_or(0) + 1)
}
