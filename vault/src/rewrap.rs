//! Rotation of key-encryption keys: a vault's `keys/` objects are rewritten, its data is
//! not touched.
//!
//! Each object is read, opened, wrapped anew in memory, opened again with the writing key
//! alone, put, and read back. Whatever is at the destination at any moment opens with a
//! key that opened it before, so that readers, and writers that begin meanwhile, notice
//! nothing; a call that was interrupted is made again.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Result, StoreErrorKind, VaultError},
    keyring::{self, KeyInfo, Keyring, Rewrapped},
    store::Store,
    vault::{KEY_OBJECT_BYTES_MAX, holds_data},
};

/// How often a key object is put before its last failure is told.
const PUTS_MAX: u32 = 3;
/// How often a key object that others rewrite at the same time is looked at again.
const ROUNDS_MAX: u32 = 8;

/// What becomes of the wraps that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewrapPolicy {
    /// They stay: who holds an older key goes on.
    Add,
    /// All but the writing key's go: who holds only an older key can't open the vault.
    Retire,
}

/// What a vault's keys are wrapped under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RewrapReport {
    /// The vault's data keys.
    pub keys: Vec<KeyState>,
}

impl RewrapReport {
    /// How many key objects were rewritten.
    pub fn rewritten(&self) -> usize {
        self.keys.iter().filter(|key| key.rewritten).count()
    }

    /// Ids of the data keys.
    pub fn data_key_ids(&self) -> Vec<String> {
        self.keys.iter().map(|k| k.data_key_id.clone()).collect()
    }

    /// Ids of the key-encryption keys that any of the data keys is wrapped under.
    pub fn wrapped_under(&self) -> Vec<String> {
        let mut ids: Vec<String> = self
            .keys
            .iter()
            .flat_map(|key| key.wrapped_under.clone())
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Whether this key-encryption key alone opens the whole vault.
    pub fn is_under(&self, key_id: &str) -> bool {
        let holds = |key: &KeyState| key.wrapped_under.iter().any(|id| id == key_id);
        !self.keys.is_empty() && self.keys.iter().all(holds)
    }
}

/// What one data key is wrapped under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyState {
    /// The data key.
    pub data_key_id: String,
    /// Ids of the key-encryption keys.
    pub wrapped_under: Vec<String>,
    /// Whether a key of the keyring opens it.
    pub opens: bool,
    /// Whether this call has rewritten it.
    pub rewritten: bool,
}

impl KeyState {
    fn of(info: KeyInfo, rewritten: bool) -> Self {
        Self {
            data_key_id: info.data_key_id,
            wrapped_under: info.wrapped_under,
            opens: info.opens,
            rewritten,
        }
    }
}

/// Wraps the data keys of an agent's vault under the keyring's writing key. Nothing is
/// written where that is so already. All data keys are seen to before the first failure is
/// told; a canceled call stops before its next write.
pub async fn rewrap(
    store: &dyn Store,
    agent_id: &str,
    keyring: &Keyring,
    policy: RewrapPolicy,
    cancel: &CancellationToken,
) -> Result<RewrapReport> {
    let objects = KeyObjects::new(store, agent_id, keyring);
    let mut report = RewrapReport::default();
    let (mut failure, mut gone) = (None, Vec::new());
    for name in objects.names().await? {
        match objects.rewrap(&name, policy, cancel).await {
            Ok(Some(state)) => report.keys.push(state),
            Ok(None) => gone.push(name),
            Err(VaultError::Canceled) => return Err(VaultError::Canceled),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    objects.check_gone(&gone).await?;
    Ok(report)
}

/// Tells what the data keys of an agent's vault are wrapped under; writes nothing.
pub async fn survey(store: &dyn Store, agent_id: &str, keyring: &Keyring) -> Result<RewrapReport> {
    let objects = KeyObjects::new(store, agent_id, keyring);
    let (mut report, mut gone) = (RewrapReport::default(), Vec::new());
    for name in objects.names().await? {
        let Some(bytes) = objects.read(&name).await? else {
            gone.push(name);
            continue;
        };
        let info = keyring::inspect(agent_id, keyring, &name, &bytes)?;
        report.keys.push(KeyState::of(info, false));
    }
    objects.check_gone(&gone).await?;
    Ok(report)
}

/// The key objects of one vault.
pub(crate) struct KeyObjects<'a> {
    store: &'a dyn Store,
    agent_id: &'a str,
    keyring: &'a Keyring,
    root: String,
}

impl<'a> KeyObjects<'a> {
    pub(crate) fn new(store: &'a dyn Store, agent_id: &'a str, keyring: &'a Keyring) -> Self {
        Self {
            store,
            agent_id,
            keyring,
            root: format!("vaults/{agent_id}/"),
        }
    }

    /// Names of the key objects below the vault.
    pub(crate) async fn names(&self) -> Result<Vec<String>> {
        let listed = self.store.list(&format!("{}keys/", self.root)).await?;
        let mut names: Vec<String> = listed
            .into_iter()
            .filter_map(|object| object.name.strip_prefix(&self.root).map(str::to_owned))
            .collect();
        names.sort();
        if names.is_empty() {
            let agent_id = self.agent_id.to_owned();
            return Err(if holds_data(self.store, &self.root).await? {
                VaultError::KeysGone { agent_id }
            } else {
                VaultError::NoVault { agent_id }
            });
        }
        Ok(names)
    }

    /// Key objects that were listed and could not be read must have been removed: one that
    /// still is listed was not seen to.
    async fn check_gone(&self, gone: &[String]) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let names = self.names().await?;
        match gone.iter().find(|name| names.contains(name)) {
            Some(name) => Err(VaultError::Changed {
                object: name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// A key object's bytes; None when it is gone.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let full = format!("{}{name}", self.root);
        match self.store.get(&full, KEY_OBJECT_BYTES_MAX).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind == StoreErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Rewraps one key object until it reads as it shall be; None when it is gone.
    async fn rewrap(
        &self,
        name: &str,
        policy: RewrapPolicy,
        cancel: &CancellationToken,
    ) -> Result<Option<KeyState>> {
        let mut rewritten = false;
        for _ in 0..ROUNDS_MAX {
            let Some(bytes) = self.read(name).await? else {
                return Ok(None);
            };
            match keyring::rewrapped(self.agent_id, self.keyring, name, &bytes, policy)? {
                Rewrapped::AsIs => {
                    let info = keyring::inspect(self.agent_id, self.keyring, name, &bytes)?;
                    return Ok(Some(KeyState::of(info, rewritten)));
                }
                Rewrapped::Bytes(wanted) => {
                    if cancel.is_cancelled() {
                        return Err(VaultError::Canceled);
                    }
                    fail::fail_point!("vault-rewrap-before-put");
                    self.replace(name, Bytes::from(wanted)).await?;
                    fail::fail_point!("vault-rewrap-stored");
                    rewritten = true;
                }
            }
        }
        Err(VaultError::Changed {
            object: name.to_owned(),
        })
    }

    /// Puts a key object. After a failure its outcome is unknown: what is there decides,
    /// and what is no key object any more is put again while its bytes are at hand.
    pub(crate) async fn replace(&self, name: &str, wanted: Bytes) -> Result<()> {
        let full = format!("{}{name}", self.root);
        let mut failure = None;
        for _ in 0..PUTS_MAX {
            let put = self.store.put(&full, wanted.clone()).await;
            let failed = put.is_err();
            if let Err(error) = put {
                failure = Some(error.into());
            }
            match self.read(name).await {
                Ok(Some(stored)) if stored == wanted => return Ok(()),
                Ok(Some(stored)) => {
                    let agent_id = self.agent_id;
                    if keyring::inspect(agent_id, self.keyring, name, &stored).is_ok() {
                        // What it was before, or another's: the caller looks again.
                        return failure.map_or(Ok(()), Err);
                    }
                }
                // Removed after it was put: it is not brought back.
                Ok(None) if !failed => return Ok(()),
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| VaultError::corrupt(name, "it reads back otherwise")))
    }
}
