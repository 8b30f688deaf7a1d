//! The data keys of a vault, beside the copy of what they seal.

use bytes::Bytes;

use super::{CopyReport, there};
use crate::{
    error::{Result, VaultError},
    keyring::{self, Keyring, Rewrapped},
    rewrap::KeyObjects,
    store::Store,
    vault::{Vault, holds_data},
};

/// Copies the data keys that the target lacks. One that is there keeps what it is wrapped
/// under. Where there is data and no key, keys were destroyed: none is brought back.
pub(super) async fn copy(
    source: &Vault,
    to: &dyn Store,
    keyring: &Keyring,
    report: &mut CopyReport,
) -> Result<()> {
    let agent_id = source.agent_id();
    let from = KeyObjects::new(&*source.store, agent_id, keyring);
    let objects = KeyObjects::new(to, agent_id, keyring);
    let listed = to.list(&format!("{}keys/", source.root)).await;
    let is_empty = listed.map_err(|e| there(e.into()))?.is_empty();
    if is_empty && holds_data(to, &source.root).await.map_err(there)? {
        return Err(there(VaultError::KeysGone {
            agent_id: agent_id.to_owned(),
        }));
    }
    for name in from.names().await? {
        let Some(bytes) = from.read(&name).await? else {
            return Err(VaultError::Changed { object: name });
        };
        let info = keyring::inspect(agent_id, keyring, &name, &bytes)?;
        report.data_key_ids.push(info.data_key_id);
        let wanted = match objects.read(&name).await.map_err(there)? {
            None => bytes,
            Some(stored) => {
                match keyring::copied(agent_id, keyring, &name, &bytes, &stored).map_err(there)? {
                    Rewrapped::AsIs => continue,
                    Rewrapped::Bytes(wanted) => Bytes::from(wanted),
                }
            }
        };
        report.stored_bytes += wanted.len() as u64;
        objects.replace(&name, wanted).await.map_err(there)?;
    }
    Ok(())
}
