//! Who uses a destination, in words.

use sea_orm::{
    ColumnTrait as _, Condition, EntityTrait, FromQueryResult, PaginatorTrait as _,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, Select,
};

use crate::{
    CatalogError,
    connection::Tx,
    entities::{agents, backup_copies, backups},
    error::Doing as _,
};

/// Users of a destination that a refusal names.
const NAMED_MAX: u64 = 5;

/// Who uses a destination, one text for each kind of user; empty: nobody.
pub(super) async fn users(tx: &Tx, destination_id: &str) -> Result<Vec<String>, CatalogError> {
    let names_it = Condition::any()
        .add(agents::Column::DestinationId.eq(destination_id))
        .add(agents::Column::SecondDestinationId.eq(destination_id));
    let named_by = agents::Entity::find().filter(names_it);
    let lie = backups::Entity::find().filter(backups::Column::DestinationId.eq(destination_id));
    let copied = backup_copies::Entity::find()
        .filter(backup_copies::Column::DestinationId.eq(destination_id));
    let found = [
        (
            "it is named by",
            "agent",
            ids(tx, named_by, agents::Column::AgentId).await?,
        ),
        (
            "it holds",
            "backup",
            ids(tx, lie, backups::Column::BackupId).await?,
        ),
        (
            "it holds copies of",
            "backup",
            ids(tx, copied, backup_copies::Column::BackupId).await?,
        ),
    ];
    let used = found.into_iter().filter(|(_, _, (_, count))| *count > 0);
    Ok(used
        .map(|(how, what, (ids, count))| format!("{how} {}", named(what, &ids, count)))
        .collect())
}

/// The first ids that a query finds, in order, and how many there are.
async fn ids<E>(
    tx: &Tx,
    query: Select<E>,
    column: E::Column,
) -> Result<(Vec<String>, u64), CatalogError>
where
    E: EntityTrait<Model: FromQueryResult + Send + Sync>,
{
    let count = query.clone().count(tx.db()).await.doing(tx.doing())?;
    let ids = query
        .select_only()
        .column(column)
        .order_by_asc(column)
        .limit(NAMED_MAX)
        .into_tuple()
        .all(tx.db())
        .await
        .doing(tx.doing())?;
    Ok((ids, count))
}

/// "agents a, b and 3 more".
fn named(what: &str, names: &[String], count: u64) -> String {
    let s = if count == 1 { "" } else { "s" };
    let shown = names.join(", ");
    match count.saturating_sub(names.len() as u64) {
        0 => format!("{what}{s} {shown}"),
        more => format!("{what}{s} {shown} and {more} more"),
    }
}
