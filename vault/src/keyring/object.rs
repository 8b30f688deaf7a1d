//! Key objects: a data key as it is stored, once under each key-encryption key that
//! may open it. They are the only objects that are ever rewritten: what is written is
//! opened here before, and the data key in it never changes.

use prost::Message as _;
use proto::vault::v1::{KeyObject, WrappedKey};
use ring::aead::{Aad, Nonce};
use zeroize::Zeroizing;

use super::{DataKey, KeyEncryptionKey, Keyring, not_configured};
use crate::{
    error::{Result, VaultError},
    random,
    rewrap::RewrapPolicy,
};

/// Version of the key objects that this program writes and reads.
const KEY_FORMAT_VERSION: u32 = 1;

/// A key object as far as this keyring opens it.
pub(super) enum Opened {
    Key(DataKey),
    /// Ids of the key-encryption keys that would open it.
    OtherKeys(Vec<String>),
}

/// What can be told of a key object without the data key.
#[derive(Debug)]
pub(crate) struct KeyInfo {
    pub(crate) data_key_id: String,
    /// Ids of the key-encryption keys it is wrapped under.
    pub(crate) wrapped_under: Vec<String>,
    /// Whether a key of the keyring opens it.
    pub(crate) opens: bool,
}

/// What a key object shall be.
#[derive(Debug)]
pub(crate) enum Rewrapped {
    /// What it is.
    AsIs,
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A new key's object, under one key-encryption key.
pub(super) fn encode(agent_id: &str, kek: &KeyEncryptionKey, key: &DataKey) -> Vec<u8> {
    let mut object = KeyObject {
        format_version: KEY_FORMAT_VERSION,
        vault_id: key.vault_id.to_vec(),
        agent_id: agent_id.to_owned(),
        key_id: key.id.to_vec(),
        commitment: key.commitment().to_vec(),
        wrapped_keys: Vec::new(),
        create_time_ms: key.create_time_ms,
    };
    object.wrapped_keys.push(wrap(kek, &object, key));
    object.encode_to_vec()
}

/// Opens a key object with whichever key of the keyring does.
pub(super) fn open(agent_id: &str, keyring: &Keyring, name: &str, bytes: &[u8]) -> Result<Opened> {
    open_decoded(keyring, name, &decode(agent_id, name, bytes)?)
}

/// Looks at a key object.
pub(crate) fn inspect(
    agent_id: &str,
    keyring: &Keyring,
    name: &str,
    bytes: &[u8],
) -> Result<KeyInfo> {
    let object = decode(agent_id, name, bytes)?;
    let opens = matches!(open_decoded(keyring, name, &object)?, Opened::Key(_));
    Ok(KeyInfo {
        data_key_id: hex::encode(&object.key_id),
        wrapped_under: wrapped_under(&object),
        opens,
    })
}

/// What a key object shall be under the keyring's writing key: with a wrap of it beside
/// those that are there, or with that one alone.
pub(crate) fn rewrapped(
    agent_id: &str,
    keyring: &Keyring,
    name: &str,
    bytes: &[u8],
    policy: RewrapPolicy,
) -> Result<Rewrapped> {
    let object = decode(agent_id, name, bytes)?;
    let key = match open_decoded(keyring, name, &object)? {
        Opened::Key(key) => key,
        Opened::OtherKeys(needed) => return Err(not_configured(agent_id, keyring, needed)),
    };
    let writing = keyring.writing();
    let is_writings = |wrapped: &WrappedKey| wrapped.key_encryption_key_id == writing.id;
    let mut after = KeyObject {
        wrapped_keys: Vec::new(),
        ..object.clone()
    };
    let mut has_writings = false;
    for wrapped in &object.wrapped_keys {
        if is_writings(wrapped) {
            // Of this key one that is right, whatever there was.
            let secret = unwrap(writing, &object, wrapped);
            if has_writings || secret.is_none_or(|secret| *secret != *key.secret) {
                continue;
            }
            has_writings = true;
        } else if policy == RewrapPolicy::Retire {
            continue;
        }
        after.wrapped_keys.push(wrapped.clone());
    }
    if !has_writings {
        after.wrapped_keys.push(wrap(writing, &after, &key));
    }
    if after == object {
        return Ok(Rewrapped::AsIs);
    }
    let bytes = after.encode_to_vec();
    // What is to replace the only way to the data is opened once here, by the key that
    // shall open it.
    let again = open(agent_id, &keyring.writing_only(), name, &bytes)?;
    let same = |other: &DataKey| {
        *other.secret == *key.secret
            && (other.id, other.vault_id) == (key.id, key.vault_id)
            && other.create_time_ms == key.create_time_ms
    };
    match again {
        Opened::Key(other) if same(&other) => Ok(Rewrapped::Bytes(bytes)),
        _ => Err(VaultError::Internal(format!(
            "{name} does not open to the data key that was wrapped"
        ))),
    }
}

/// What a key object shall be where a copy of the vault is, by what it is in the vault
/// and what it is there. One that the writing key opens stays; otherwise it gets
/// the wraps that it lacks, and loses none. One that is damaged is replaced.
pub(crate) fn copied(
    agent_id: &str,
    keyring: &Keyring,
    name: &str,
    from_bytes: &[u8],
    there: &[u8],
) -> Result<Rewrapped> {
    let from = decode(agent_id, name, from_bytes)?;
    let there = match decode(agent_id, name, there) {
        Ok(there) => there,
        Err(VaultError::Corrupt { .. }) => return Ok(Rewrapped::Bytes(from_bytes.to_vec())),
        Err(error) => return Err(error),
    };
    let identity = |object: &KeyObject| KeyObject {
        wrapped_keys: Vec::new(),
        ..object.clone()
    };
    if identity(&from) != identity(&there) {
        if let Ok(Opened::Key(_)) = open_decoded(keyring, name, &there) {
            return Err(VaultError::corrupt(name, "it holds another data key"));
        }
        return Ok(Rewrapped::Bytes(from_bytes.to_vec()));
    }
    if let Ok(Opened::Key(_)) = open_decoded(&keyring.writing_only(), name, &there) {
        return Ok(Rewrapped::AsIs);
    }
    let mut after = there.clone();
    for wrapped in from.wrapped_keys {
        let id = &wrapped.key_encryption_key_id;
        let same = |other: &&mut WrappedKey| other.key_encryption_key_id == *id;
        let Some(other) = after.wrapped_keys.iter_mut().find(same) else {
            after.wrapped_keys.push(wrapped);
            continue;
        };
        let kek = keyring.all().find(|kek| kek.id[..] == id[..]);
        if kek.is_some_and(|kek| unwrap(kek, &there, other).is_none()) {
            *other = wrapped;
        }
    }
    if after == there {
        return Ok(Rewrapped::AsIs);
    }
    Ok(Rewrapped::Bytes(after.encode_to_vec()))
}

fn wrapped_under(object: &KeyObject) -> Vec<String> {
    let ids = object.wrapped_keys.iter();
    ids.map(|w| hex::encode(&w.key_encryption_key_id)).collect()
}

/// Decodes a key object and checks that it is what its name says.
fn decode(agent_id: &str, name: &str, bytes: &[u8]) -> Result<KeyObject> {
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
    if object.key_id.len() != 16 {
        return Err(corrupt("its key id is not 16 bytes"));
    }
    if object.vault_id.len() != 16 {
        return Err(corrupt("its vault id is not 16 bytes"));
    }
    if name != format!("keys/{}", hex::encode(&object.key_id)) {
        return Err(corrupt("it is named as another key"));
    }
    if object.wrapped_keys.is_empty() {
        return Err(corrupt("it holds no wrapped key"));
    }
    Ok(object)
}

/// Opens a decoded key object. One wrap that is damaged is no obstacle while another
/// opens.
fn open_decoded(keyring: &Keyring, name: &str, object: &KeyObject) -> Result<Opened> {
    let mut damage = None;
    for wrapped in &object.wrapped_keys {
        let Some(kek) = keyring
            .all()
            .find(|kek| kek.id[..] == wrapped.key_encryption_key_id[..])
        else {
            continue;
        };
        let Some(secret) = unwrap(kek, object, wrapped) else {
            damage = Some("its data key does not open");
            continue;
        };
        let id = |bytes: &[u8]| bytes.try_into().expect("checked when decoded");
        let key = DataKey::new(
            id(&object.key_id),
            id(&object.vault_id),
            object.create_time_ms,
            secret,
        );
        if key.commitment()[..] == object.commitment[..] {
            return Ok(Opened::Key(key));
        }
        damage = Some("its data key is not the one it commits to");
    }
    match damage {
        Some(what) => Err(VaultError::corrupt(name, what)),
        None => Ok(Opened::OtherKeys(wrapped_under(object))),
    }
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
