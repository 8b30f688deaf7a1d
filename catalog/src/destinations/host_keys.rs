//! Host keys that were trusted at first sight.

use sea_orm::{ActiveValue::Set, EntityTrait as _, sea_query::OnConflict};

use crate::{Catalog, CatalogError, entities::host_keys, error::Doing as _};

impl Catalog {
    /// The key that is remembered of a host.
    pub async fn host_key(&self, host: &str, port: u16) -> Result<Option<String>, CatalogError> {
        let row = host_keys::Entity::find_by_id((host.to_owned(), i32::from(port)))
            .one(self.read())
            .await;
        Ok(row.doing("read host key")?.map(|row| row.host_key))
    }

    /// Remembers the key of a host that is not known yet; returns the one that counts.
    pub async fn remember_host_key(
        &self,
        host: &str,
        port: u16,
        host_key: &str,
        now_ms: i64,
    ) -> Result<String, CatalogError> {
        let tx = self.begin("remember host key").await?;
        let row = host_keys::ActiveModel {
            host: Set(host.to_owned()),
            port: Set(i32::from(port)),
            host_key: Set(host_key.to_owned()),
            first_seen_ms: Set(now_ms),
        };
        let known = OnConflict::columns([host_keys::Column::Host, host_keys::Column::Port])
            .do_nothing()
            .to_owned();
        host_keys::Entity::insert(row)
            .on_conflict(known)
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
        let counts = host_keys::Entity::find_by_id((host.to_owned(), i32::from(port)))
            .one(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(counts.map_or_else(|| host_key.to_owned(), |row| row.host_key))
    }
}
