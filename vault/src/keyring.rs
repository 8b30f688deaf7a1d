//! Keys: the operator's key-encryption keys, and a vault's data keys.
//!
//! A key-encryption key wraps data keys; data keys seal everything else. A key
//! is named by an id derived from it, so that people can be told which key is
//! needed without anything of the key being shown. What is stored of them is in
//! `object`.

use std::fmt;

use ring::aead::LessSafeKey;
use zeroize::Zeroizing;

use crate::{
    error::{Result, VaultError},
    id::ChunkId,
    limits::CHUNK_ID_BYTES,
    random,
    seal::{cipher, derive},
};

mod object;

use object::Opened;
pub(crate) use object::{KeyInfo, Rewrapped, copied, inspect, rewrapped};

/// A key of the operator, which wraps data keys.
#[derive(Clone)]
pub struct KeyEncryptionKey {
    id: [u8; 8],
    secret: Zeroizing<[u8; 32]>,
}

impl KeyEncryptionKey {
    /// From 32 secret bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        let derived = derive(&secret, &[], b"nora-backup key id");
        let mut id = [0; 8];
        id.copy_from_slice(&derived[..8]);
        Self {
            id,
            secret: Zeroizing::new(secret),
        }
    }

    /// A fresh random key, and its 64 hexadecimal digits.
    pub fn generate() -> (Self, Zeroizing<String>) {
        let secret = Zeroizing::new(random::bytes());
        (Self::new(*secret), Zeroizing::new(hex::encode(*secret)))
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits.trim(), secret.as_mut()).ok()?;
        Some(Self::new(*secret))
    }

    /// The key's id, which may be shown.
    pub fn id(&self) -> String {
        hex::encode(self.id)
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    fn cipher(&self) -> LessSafeKey {
        cipher(&self.secret)
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyEncryptionKey({})", self.id())
    }
}

/// The key-encryption keys at hand: one writes, all read.
#[derive(Debug, Clone)]
pub struct Keyring {
    writing: KeyEncryptionKey,
    previous: Vec<KeyEncryptionKey>,
}

impl Keyring {
    /// A keyring whose first key wraps new data keys.
    pub fn new(writing: KeyEncryptionKey, previous: Vec<KeyEncryptionKey>) -> Self {
        Self { writing, previous }
    }

    /// The key that wraps new data keys.
    pub fn writing(&self) -> &KeyEncryptionKey {
        &self.writing
    }

    /// Ids of all keys, the writing one first.
    pub fn key_ids(&self) -> Vec<String> {
        self.all().map(KeyEncryptionKey::id).collect()
    }

    /// The writing key alone.
    fn writing_only(&self) -> Self {
        Self::new(self.writing.clone(), Vec::new())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &KeyEncryptionKey> {
        std::iter::once(&self.writing).chain(&self.previous)
    }

    /// Ids of all keys, for people.
    pub fn ids(&self) -> String {
        self.key_ids().join(", ")
    }
}

/// None of the configured keys is one of those that would open a vault.
fn not_configured(agent_id: &str, keyring: &Keyring, mut needed: Vec<String>) -> VaultError {
    needed.sort();
    needed.dedup();
    VaultError::KeyNotConfigured {
        agent_id: agent_id.to_owned(),
        needed: needed.join(" or "),
        configured: keyring.ids(),
    }
}

/// A vault's data key, opened.
#[derive(Clone)]
pub(crate) struct DataKey {
    id: [u8; 16],
    vault_id: [u8; 16],
    create_time_ms: i64,
    secret: Zeroizing<[u8; 32]>,
    chunk_key: Zeroizing<[u8; 32]>,
}

impl DataKey {
    fn new(
        id: [u8; 16],
        vault_id: [u8; 16],
        create_time_ms: i64,
        secret: Zeroizing<[u8; 32]>,
    ) -> Self {
        let chunk_key = derive(secret.as_ref(), &[], b"nora-vault v1 chunk id");
        Self {
            id,
            vault_id,
            create_time_ms,
            secret,
            chunk_key,
        }
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// What every box under this key is bound to.
    pub(crate) fn vault_id(&self) -> [u8; 16] {
        self.vault_id
    }

    pub(crate) fn secret(&self) -> &[u8] {
        self.secret.as_ref()
    }

    /// What a chunk is called: BLAKE3 of its bytes, keyed by a secret of the vault.
    pub(crate) fn chunk_id(&self, chunk: &[u8]) -> ChunkId {
        let hash = blake3::keyed_hash(&self.chunk_key, chunk);
        hash.as_bytes()[..CHUNK_ID_BYTES]
            .try_into()
            .expect("a hash is longer than an id")
    }

    /// The gear table for cutting: 256 numbers that only this vault knows.
    pub(crate) fn gear(&self) -> [u64; 256] {
        let seed = derive(self.secret(), &[], b"nora-vault v1 gear");
        let mut bytes = Zeroizing::new([0; 2048]);
        blake3::Hasher::new_keyed(&seed)
            .finalize_xof()
            .fill(bytes.as_mut());
        let mut gear = [0; 256];
        for (number, bytes) in gear.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        }
        gear
    }

    fn commitment(&self) -> [u8; 32] {
        *derive(self.secret(), &[], b"nora-vault v1 commitment")
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({})", hex::encode(self.id))
    }
}

/// The data keys of one vault.
#[derive(Debug, Clone)]
pub(crate) struct VaultKeys {
    /// Ordered by age: the oldest writes, so that all attempts agree. All read:
    /// two first attempts may have made a key each, and sealed with it.
    keys: Vec<DataKey>,
    /// Ids of the key-encryption keys that any of them is wrapped under.
    wrapped_under: Vec<String>,
    /// Data keys that no configured key opens, with the ids of those that would.
    locked: Vec<Locked>,
}

/// A data key that no configured key opens.
#[derive(Debug, Clone)]
struct Locked {
    /// Its object's name.
    name: String,
    agent_id: String,
    needed: Vec<String>,
    configured: String,
}

impl VaultKeys {
    /// A new vault's keys, and the key object to store under the returned name.
    pub(crate) fn create(
        agent_id: &str,
        keyring: &Keyring,
        now_ms: i64,
    ) -> (Self, String, Vec<u8>) {
        let vault_id: [u8; 16] = random::bytes();
        let key = DataKey::new(
            random::bytes(),
            vault_id,
            now_ms,
            Zeroizing::new(random::bytes()),
        );
        let name = format!("keys/{}", hex::encode(key.id));
        let object = object::encode(agent_id, &keyring.writing, &key);
        let keys = Self {
            keys: vec![key],
            wrapped_under: vec![keyring.writing.id()],
            locked: Vec::new(),
        };
        (keys, name, object)
    }

    /// Opens a vault's keys from its key objects (name, bytes).
    pub(crate) fn open(
        agent_id: &str,
        keyring: &Keyring,
        objects: &[(String, Vec<u8>)],
    ) -> Result<Self> {
        let (keys, broken) = Self::open_what_opens(agent_id, keyring, objects)?;
        match broken.into_iter().next_back() {
            Some(error) => Err(error),
            None => Ok(keys),
        }
    }

    /// The same for a damaged vault: those of the keys that open, and what is wrong
    /// with others. An error when none opens.
    pub(crate) fn open_what_opens(
        agent_id: &str,
        keyring: &Keyring,
        objects: &[(String, Vec<u8>)],
    ) -> Result<(Self, Vec<VaultError>)> {
        let mut keys: Vec<DataKey> = Vec::new();
        let mut wrapped_under = Vec::new();
        let mut locked = Vec::new();
        let mut broken = Vec::new();
        for (name, bytes) in objects {
            if let Ok(info) = inspect(agent_id, keyring, name, bytes) {
                wrapped_under.extend(info.wrapped_under);
            }
            match object::open(agent_id, keyring, name, bytes) {
                Ok(Opened::Key(key)) => keys.push(key),
                Ok(Opened::OtherKeys(needed)) => locked.push(Locked {
                    name: name.clone(),
                    agent_id: agent_id.to_owned(),
                    needed,
                    configured: keyring.ids(),
                }),
                Err(error) => broken.push(error),
            }
        }
        if keys.is_empty() {
            if let Some(error) = broken.pop() {
                return Err(error);
            }
            let needed = locked.into_iter().flat_map(|l: Locked| l.needed).collect();
            return Err(not_configured(agent_id, keyring, needed));
        }
        keys.sort_by_key(|key| (key.create_time_ms, key.id));
        wrapped_under.sort();
        wrapped_under.dedup();
        let keys = Self {
            keys,
            wrapped_under,
            locked,
        };
        Ok((keys, broken))
    }

    /// Ids of the key-encryption keys that any of them is wrapped under.
    pub(crate) fn wrapped_under(&self) -> &[String] {
        &self.wrapped_under
    }

    /// The key that writes.
    pub(crate) fn writing(&self) -> &DataKey {
        &self.keys[0]
    }

    /// The key that an object's header names.
    pub(crate) fn by_id(&self, id: &[u8; 16], object: &str) -> Result<&DataKey> {
        self.keys.iter().find(|key| key.id == *id).ok_or_else(|| {
            let name = format!("keys/{}", hex::encode(id));
            if let Some(locked) = self.locked.iter().find(|locked| locked.name == name) {
                return VaultError::KeyNotConfigured {
                    agent_id: locked.agent_id.clone(),
                    needed: locked.needed.join(" or "),
                    configured: locked.configured.clone(),
                };
            }
            VaultError::corrupt(
                object,
                format!(
                    "it names data key {}, which the vault does not have",
                    hex::encode(id)
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(byte: u8) -> Keyring {
        Keyring::new(KeyEncryptionKey::new([byte; 32]), vec![])
    }

    #[test]
    fn a_key_opens_what_it_wrapped_and_another_key_is_told_which_one_it_needs() {
        let (keys, name, object) = VaultKeys::create("a1", &keyring(1), 5);
        let objects = [(name, object)];
        let opened = VaultKeys::open("a1", &keyring(1), &objects).unwrap();
        assert_eq!(opened.writing().vault_id(), keys.writing().vault_id());
        assert_eq!(
            opened.writing().chunk_id(b"x"),
            keys.writing().chunk_id(b"x")
        );
        assert_eq!(opened.writing().gear(), keys.writing().gear());

        let error = VaultKeys::open("a1", &keyring(2), &objects).unwrap_err();
        assert_eq!(error.reason(), "KEY_NOT_CONFIGURED");
        assert!(
            error
                .to_string()
                .contains(&KeyEncryptionKey::new([1; 32]).id()),
            "{error}"
        );
        let both = Keyring::new(
            KeyEncryptionKey::new([2; 32]),
            vec![KeyEncryptionKey::new([1; 32])],
        );
        assert!(VaultKeys::open("a1", &both, &objects).is_ok());
        assert!(VaultKeys::open("a2", &keyring(1), &objects).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_key_object_is_found() {
        let (keys, name, object) = VaultKeys::create("a1", &keyring(1), 5);
        for bit in 0..object.len() * 8 {
            let mut flipped = object.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(opened) = VaultKeys::open("a1", &keyring(1), &[(name.clone(), flipped)]) {
                assert_eq!(
                    opened.writing().secret(),
                    keys.writing().secret(),
                    "bit {bit}"
                );
                assert_eq!(
                    opened.writing().vault_id(),
                    keys.writing().vault_id(),
                    "bit {bit}"
                );
            }
        }
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        let kek = KeyEncryptionKey::new([0xab; 32]);
        assert!(!format!("{kek:?}").contains("abab"));
    }
}
