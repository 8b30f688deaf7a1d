//! What compaction must know of an agent's manifests.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
};

use crate::{
    BackupState, Catalog, CatalogError, CopyState, KnownManifest,
    entities::{backup_copies, backups},
    error::Doing as _,
    limits,
};

/// The columns read, in this order.
type Row = (String, BackupState, Option<i32>, Option<Vec<u8>>, String);

impl Catalog {
    /// Everything known of the agent's backups, for its compact job: which
    /// manifests count and which are garbage. A manifest of a backup that is
    /// not named here is garbage too (its backup was removed). Empty for an
    /// agent that is gone: then nothing in its vault counts.
    pub async fn known_manifests(
        &self,
        agent_id: &str,
    ) -> Result<Vec<KnownManifest>, CatalogError> {
        let mut known = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = backups::Entity::find()
                .select_only()
                .columns([
                    backups::Column::BackupId,
                    backups::Column::State,
                    backups::Column::ManifestAttempt,
                    backups::Column::ManifestDigest,
                    backups::Column::DestinationId,
                ])
                .filter(backups::Column::AgentId.eq(agent_id))
                .order_by_asc(backups::Column::BackupId)
                .limit(limits::BATCH_ROWS_MAX);
            if let Some(after) = &after {
                query = query.filter(backups::Column::BackupId.gt(after));
            }
            let rows: Vec<Row> = query
                .into_tuple()
                .all(self.read())
                .await
                .doing("read manifests")?;
            let more = rows.len() as u64 == limits::BATCH_ROWS_MAX;
            for row in rows {
                known.push(manifest(row)?);
            }
            if !more {
                break;
            }
            after = known.last().map(|manifest| manifest.backup_id.clone());
        }
        let copies = backup_copies::Entity::find()
            .filter(backup_copies::Column::AgentId.eq(agent_id))
            .filter(backup_copies::Column::State.eq(CopyState::Completed))
            .all(self.read())
            .await
            .doing("read copies")?;
        for copy in copies {
            // In the order of their ids.
            let at = known.binary_search_by(|one| one.backup_id.cmp(&copy.backup_id));
            if let Ok(at) = at {
                known[at].destination_ids.push(copy.destination_id);
            }
        }
        Ok(known)
    }
}

fn manifest(
    (backup_id, state, attempt, digest, destination_id): Row,
) -> Result<KnownManifest, CatalogError> {
    let manifest_digest = digest.map(<[u8; 32]>::try_from).transpose();
    Ok(KnownManifest {
        manifest_digest: manifest_digest.map_err(|_| CatalogError::Damaged {
            what: "manifest_digest",
            id: backup_id.clone(),
        })?,
        backup_id,
        state,
        manifest_attempt: attempt.map(|attempt| attempt as u32),
        destination_ids: vec![destination_id],
    })
}
