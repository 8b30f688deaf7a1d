//! Destinations: those that were added, and what lies where.
//!
//! - `default`: the one that the environment gives
//! - `host_keys`: host keys that were trusted at first sight
//! - `users`: who uses one

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, Condition, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, sea_query::Expr,
};

use crate::{
    Catalog, CatalogError, DEFAULT_DESTINATION, NewDestination, Page, PageRequest,
    StoredDestination,
    connection::Tx,
    entities::{agents, backup_copies, backups, destinations, vault_keys},
    error::Doing as _,
    pages,
};

mod default;
mod host_keys;
mod users;

impl Catalog {
    /// A destination.
    pub async fn get_destination(
        &self,
        destination_id: &str,
    ) -> Result<Option<StoredDestination>, CatalogError> {
        let row = destinations::Entity::find_by_id(destination_id)
            .one(self.read())
            .await;
        Ok(row.doing("read destination")?.map(stored))
    }

    /// Destinations in the order of their ids.
    pub async fn list_destinations(
        &self,
        page: &PageRequest,
    ) -> Result<Page<StoredDestination>, CatalogError> {
        let mut query = destinations::Entity::find()
            .order_by_asc(destinations::Column::DestinationId)
            .limit(pages::limit(page) + 1);
        if let Some(after) = &page.after {
            query = query.filter(destinations::Column::DestinationId.gt(after));
        }
        let rows = query.all(self.read()).await.doing("list destinations")?;
        let convert = |row| Ok(stored(row));
        pages::page(page, rows, convert, |found| &found.destination_id)
    }

    /// Ids of all destinations.
    pub async fn destination_ids(&self) -> Result<Vec<String>, CatalogError> {
        destinations::Entity::find()
            .select_only()
            .column(destinations::Column::DestinationId)
            .order_by_asc(destinations::Column::DestinationId)
            .into_tuple()
            .all(self.read())
            .await
            .doing("list destinations")
    }

    /// Where something of an agent may lie: where it is backed up and copied to now, and
    /// where its backups, copies and keys are known to be.
    pub async fn agent_destinations(&self, agent_id: &str) -> Result<Vec<String>, CatalogError> {
        const DOING: &str = "read an agent's destinations";
        let agent = agents::Entity::find_by_id(agent_id)
            .one(self.read())
            .await
            .doing(DOING)?;
        let mut ids: Vec<String> = agent
            .into_iter()
            .flat_map(|agent| {
                [
                    or_default(&agent.destination_id),
                    agent.second_destination_id,
                ]
            })
            .collect();
        let lie: Vec<String> = backups::Entity::find()
            .select_only()
            .column(backups::Column::DestinationId)
            .filter(backups::Column::AgentId.eq(agent_id))
            .distinct()
            .into_tuple()
            .all(self.read())
            .await
            .doing(DOING)?;
        let copied: Vec<String> = backup_copies::Entity::find()
            .select_only()
            .column(backup_copies::Column::DestinationId)
            .filter(backup_copies::Column::AgentId.eq(agent_id))
            .distinct()
            .into_tuple()
            .all(self.read())
            .await
            .doing(DOING)?;
        let keys: Vec<String> = vault_keys::Entity::find()
            .select_only()
            .column(vault_keys::Column::DestinationId)
            .filter(vault_keys::Column::AgentId.eq(agent_id))
            .distinct()
            .into_tuple()
            .all(self.read())
            .await
            .doing(DOING)?;
        ids.extend(lie.into_iter().chain(copied).chain(keys));
        if ids.is_empty() {
            ids.push(DEFAULT_DESTINATION.to_owned());
        }
        ids.retain(|id| !id.is_empty());
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Adds a destination. Errors: `DestinationExists`, also for a place that is known.
    pub async fn create_destination(
        &self,
        new: &NewDestination,
        now_ms: i64,
    ) -> Result<StoredDestination, CatalogError> {
        let tx = self.begin("create destination").await?;
        let known = Condition::any()
            .add(destinations::Column::DestinationId.eq(&new.destination_id))
            .add(destinations::Column::Place.eq(&new.place));
        let known = destinations::Entity::find()
            .filter(known)
            .one(tx.db())
            .await
            .doing(tx.doing())?;
        if let Some(known) = known {
            return Err(CatalogError::DestinationExists {
                destination_id: known.destination_id,
                place: known.place,
            });
        }
        let row = row(new, now_ms);
        match insert(&tx, row.clone()).await {
            // Added at this very moment.
            Err(error) if error.is_unique_violation() => {
                return Err(CatalogError::DestinationExists {
                    destination_id: row.destination_id,
                    place: row.place,
                });
            }
            inserted => inserted?,
        }
        tx.commit().await?;
        Ok(stored(row))
    }

    /// Changes the name and the sealed description of a destination, as long as it is what
    /// the caller read. Errors: `DestinationNotFound`, `DestinationChanged`.
    pub async fn update_destination(
        &self,
        new: &NewDestination,
        expected_etag: &str,
        now_ms: i64,
    ) -> Result<StoredDestination, CatalogError> {
        let tx = self.begin("update destination").await?;
        check_etag(&tx, &new.destination_id, Some(expected_etag)).await?;
        let after = change(&tx, &new.destination_id, new, now_ms).await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Replaces how a description is sealed, not what it says; false when it has changed
    /// meanwhile.
    pub async fn reseal_destination(
        &self,
        before: &StoredDestination,
        sealed: Vec<u8>,
    ) -> Result<bool, CatalogError> {
        let tx = self.begin("reseal destination").await?;
        let changed = destinations::Entity::update_many()
            .col_expr(destinations::Column::Sealed, Expr::value(sealed))
            .filter(destinations::Column::DestinationId.eq(&before.destination_id))
            .filter(destinations::Column::Etag.eq(&before.etag))
            .filter(destinations::Column::Sealed.eq(before.sealed.clone()))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(changed.rows_affected == 1)
    }

    /// Forgets a destination. Errors: `DestinationNotFound`, `DestinationChanged`,
    /// `DestinationInUse`.
    pub async fn delete_destination(
        &self,
        destination_id: &str,
        expected_etag: Option<&str>,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("delete destination").await?;
        check_etag(&tx, destination_id, expected_etag).await?;
        let used = users::users(&tx, destination_id).await?;
        if !used.is_empty() {
            return Err(CatalogError::DestinationInUse {
                destination_id: destination_id.to_owned(),
                used: used.join("; "),
            });
        }
        vault_keys::Entity::delete_many()
            .filter(vault_keys::Column::DestinationId.eq(destination_id))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        remove(&tx, destination_id).await?;
        tx.commit().await
    }
}

/// The destination that an agent means.
pub(crate) fn or_default(destination_id: &str) -> String {
    if destination_id.is_empty() {
        DEFAULT_DESTINATION.to_owned()
    } else {
        destination_id.to_owned()
    }
}

/// A destination must be known; the default one is, whether a process has told of it or not.
/// It is not forgotten while the transaction lasts.
pub(crate) async fn check_known(tx: &Tx, destination_id: &str) -> Result<(), CatalogError> {
    if matches!(destination_id, "" | DEFAULT_DESTINATION) {
        return Ok(());
    }
    lock(tx, destination_id).await.map(drop)
}

/// The place of a destination; None when it is not known.
pub(crate) async fn place(tx: &Tx, destination_id: &str) -> Result<Option<String>, CatalogError> {
    let row = destinations::Entity::find_by_id(destination_id)
        .one(tx.db())
        .await;
    Ok(row.doing(tx.doing())?.map(|row| row.place))
}

async fn lock(tx: &Tx, destination_id: &str) -> Result<destinations::Model, CatalogError> {
    let row = destinations::Entity::find_by_id(destination_id).lock_exclusive();
    let row = row.one(tx.db()).await.doing(tx.doing())?;
    row.ok_or_else(|| CatalogError::DestinationNotFound {
        destination_id: destination_id.to_owned(),
    })
}

async fn check_etag(tx: &Tx, destination_id: &str, etag: Option<&str>) -> Result<(), CatalogError> {
    let row = lock(tx, destination_id).await?;
    if etag.is_some_and(|etag| etag != row.etag) {
        return Err(CatalogError::DestinationChanged {
            destination_id: destination_id.to_owned(),
        });
    }
    Ok(())
}

async fn insert(tx: &Tx, row: destinations::Model) -> Result<(), CatalogError> {
    destinations::Entity::insert(destinations::ActiveModel::from(row))
        .exec_without_returning(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

async fn remove(tx: &Tx, destination_id: &str) -> Result<(), CatalogError> {
    destinations::Entity::delete_by_id(destination_id)
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

async fn change(
    tx: &Tx,
    destination_id: &str,
    new: &NewDestination,
    now_ms: i64,
) -> Result<StoredDestination, CatalogError> {
    let change = destinations::ActiveModel {
        display_name: Set(new.display_name.clone()),
        sealed: Set(new.sealed.clone()),
        etag: Set(new_etag()),
        update_time_ms: Set(now_ms),
        ..Default::default()
    };
    destinations::Entity::update_many()
        .set(change)
        .filter(destinations::Column::DestinationId.eq(destination_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    lock(tx, destination_id).await.map(stored)
}

fn row(new: &NewDestination, now_ms: i64) -> destinations::Model {
    destinations::Model {
        destination_id: new.destination_id.clone(),
        display_name: new.display_name.clone(),
        place: new.place.clone(),
        sealed: new.sealed.clone(),
        etag: new_etag(),
        create_time_ms: now_ms,
        update_time_ms: now_ms,
    }
}

fn stored(row: destinations::Model) -> StoredDestination {
    StoredDestination {
        destination_id: row.destination_id,
        display_name: row.display_name,
        place: row.place,
        sealed: row.sealed,
        etag: row.etag,
        create_time_ms: row.create_time_ms,
        update_time_ms: row.update_time_ms,
    }
}

fn new_etag() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
