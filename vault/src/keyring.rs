//! Keys: the operator's key-encryption keys, and a vault's data keys.
//!
//! A key-encryption key wraps data keys; data keys seal everything else. A key
//! is named by an id derived from it, so that people can be told which key is
//! needed without anything of the key being shown.

use std::fmt;

use prost::Message as _;
use proto::vault::v1::{KeyObject, WrappedKey};
use ring::aead::{Aad, LessSafeKey, Nonce};
use zeroize::Zeroizing;

use crate::{
    error::{Result, VaultError},
    id::ChunkId,
    limits::CHUNK_ID_BYTES,
    random,
    seal::{cipher, derive},
};

/// Version of the key objects that this program writes and reads.
const KEY_FORMAT_VERSION: u32 = 1;

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

    fn all(&self) -> impl Iterator<Item = &KeyEncryptionKey> {
        std::iter::once(&self.writing).chain(&self.previous)
    }

    /// Ids of all keys, for people.
    pub fn ids(&self) -> String {
        self.all()
            .map(KeyEncryptionKey::id)
            .collect::<Vec<_>>()
            .join(", ")
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
        let mut object = KeyObject {
            format_version: KEY_FORMAT_VERSION,
            vault_id: vault_id.to_vec(),
            agent_id: agent_id.to_owned(),
            key_id: key.id.to_vec(),
            commitment: key.commitment().to_vec(),
            wrapped_keys: Vec::new(),
            create_time_ms: now_ms,
        };
        object
            .wrapped_keys
            .push(wrap(&keyring.writing, &object, &key));
        let name = format!("keys/{}", hex::encode(key.id));
        (Self { keys: vec![key] }, name, object.encode_to_vec())
    }

    /// Opens a vault's keys from its key objects (name, bytes).
    pub(crate) fn open(
        agent_id: &str,
        keyring: &Keyring,
        objects: &[(String, Vec<u8>)],
    ) -> Result<Self> {
        let mut keys: Vec<DataKey> = Vec::new();
        let mut needed = Vec::new();
        let mut broken = None;
        for (name, bytes) in objects {
            match open_key_object(agent_id, keyring, name, bytes) {
                Ok(Opened::Key(key)) => keys.push(key),
                Ok(Opened::OtherKeys(ids)) => needed.extend(ids),
                Err(error) => broken = Some(error),
            }
        }
        if let Some(error) = broken {
            return Err(error);
        }
        if keys.is_empty() {
            needed.sort();
            needed.dedup();
            return Err(VaultError::KeyNotConfigured {
                agent_id: agent_id.to_owned(),
                needed: needed.join(" or "),
                configured: keyring.ids(),
            });
        }
        keys.sort_by_key(|key| (key.create_time_ms, key.id));
        Ok(Self { keys })
    }

    /// The key that writes.
    pub(crate) fn writing(&self) -> &DataKey {
        &self.keys[0]
    }

    /// The key that an object's header names.
    pub(crate) fn by_id(&self, id: &[u8; 16], object: &str) -> Result<&DataKey> {
        self.keys.iter().find(|key| key.id == *id).ok_or_else(|| {
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

enum Opened {
    Key(DataKey),
    OtherKeys(Vec<String>),
}

fn open_key_object(agent_id: &str, keyring: &Keyring, name: &str, bytes: &[u8]) -> Result<Opened> {
    let corrupt = |what: &str| VaultError::corrupt(name, what);
    let object = KeyObject::decode(bytes).map_err(|_| corrupt("not a key object"))?;
    if object.format_version != KEY_FORMAT_VERSION {
        if object.format_version > KEY_FORMAT_VERSION && object.format_version < 1000 {
            return Err(VaultError::Version {
                object: name.to_owned(),
                version: object.format_version,
                supported: KEY_FORMAT_VERSION,
            });
        }
        return Err(corrupt("not a key object"));
    }
    if object.agent_id != agent_id {
        return Err(corrupt("it belongs to another agent"));
    }
    let key_id: [u8; 16] = object
        .key_id
        .as_slice()
        .try_into()
        .map_err(|_| corrupt("its key id is not 16 bytes"))?;
    let vault_id: [u8; 16] = object
        .vault_id
        .as_slice()
        .try_into()
        .map_err(|_| corrupt("its vault id is not 16 bytes"))?;
    if name != format!("keys/{}", hex::encode(key_id)) {
        return Err(corrupt("it is named as another key"));
    }
    for wrapped in &object.wrapped_keys {
        let Some(kek) = keyring
            .all()
            .find(|kek| kek.id[..] == wrapped.key_encryption_key_id[..])
        else {
            continue;
        };
        let secret =
            unwrap(kek, &object, wrapped).ok_or_else(|| corrupt("its data key does not open"))?;
        let key = DataKey::new(key_id, vault_id, object.create_time_ms, secret);
        if key.commitment()[..] != object.commitment[..] {
            return Err(corrupt("its data key is not the one it commits to"));
        }
        return Ok(Opened::Key(key));
    }
    if object.wrapped_keys.is_empty() {
        return Err(corrupt("it holds no wrapped key"));
    }
    Ok(Opened::OtherKeys(
        object
            .wrapped_keys
            .iter()
            .map(|w| hex::encode(&w.key_encryption_key_id))
            .collect(),
    ))
}

fn wrap_aad(object: &KeyObject) -> Aad<Vec<u8>> {
    let mut aad = b"nora-vault v1 wrap".to_vec();
    aad.extend_from_slice(&object.vault_id);
    aad.extend_from_slice(&object.key_id);
    aad.extend_from_slice(&object.commitment);
    aad.extend_from_slice(&object.create_time_ms.to_be_bytes());
    aad.extend_from_slice(object.agent_id.as_bytes());
    Aad::from(aad)
}

fn wrap(kek: &KeyEncryptionKey, object: &KeyObject, key: &DataKey) -> WrappedKey {
    let nonce: [u8; 12] = random::bytes();
    let mut ciphertext = key.secret.to_vec();
    kek.cipher()
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            wrap_aad(object),
            &mut ciphertext,
        )
        .expect("32 bytes are within AES-GCM's limit");
    WrappedKey {
        key_encryption_key_id: kek.id.to_vec(),
        nonce: nonce.to_vec(),
        ciphertext,
    }
}

fn unwrap(
    kek: &KeyEncryptionKey,
    object: &KeyObject,
    wrapped: &WrappedKey,
) -> Option<Zeroizing<[u8; 32]>> {
    let nonce = Nonce::try_assume_unique_for_key(&wrapped.nonce).ok()?;
    let mut ciphertext = Zeroizing::new(wrapped.ciphertext.clone());
    let plain = kek
        .cipher()
        .open_in_place(nonce, wrap_aad(object), &mut ciphertext)
        .ok()?;
    let mut secret = Zeroizing::new([0; 32]);
    (plain.len() == 32).then(|| secret.copy_from_slice(plain))?;
    Some(secret)
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
