//! Idempotency: a `request_id` makes one thing, once.

use sea_orm::{ActiveValue::Set, EntityTrait as _};

use crate::{
    CatalogError, RequestKey, connection::Tx, entities::requests, error::Doing as _, limits,
};

/// Notes that this request makes `resource_id`. When the same request was made
/// before, nothing is noted and what that one made is returned.
pub(crate) async fn note(
    tx: &Tx,
    key: Option<&RequestKey>,
    resource_id: &str,
    now_ms: i64,
) -> Result<Option<String>, CatalogError> {
    let Some(key) = key else { return Ok(None) };
    let id = (key.caller.clone(), key.request_id.clone());
    let before = requests::Entity::find_by_id(id.clone()).one(tx.db()).await;
    match before.doing(tx.doing())? {
        Some(before) if before.expire_time_ms > now_ms => {
            return if before.fingerprint == key.fingerprint {
                Ok(Some(before.resource_id))
            } else {
                Err(CatalogError::RequestIdReused {
                    request_id: key.request_id.clone(),
                })
            };
        }
        Some(_) => {
            let deleted = requests::Entity::delete_by_id(id).exec(tx.db()).await;
            deleted.doing(tx.doing())?;
        }
        None => {}
    }
    let row = requests::ActiveModel {
        caller: Set(key.caller.clone()),
        request_id: Set(key.request_id.clone()),
        fingerprint: Set(key.fingerprint.clone()),
        resource_id: Set(resource_id.to_owned()),
        expire_time_ms: Set(now_ms.saturating_add(limits::REQUEST_TTL_MS)),
    };
    requests::Entity::insert(row)
        .exec_without_returning(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(None)
}
