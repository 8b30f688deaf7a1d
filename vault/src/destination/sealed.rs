//! A destination's description, sealed for the catalog: under each key-encryption key at
//! hand, so that every process opens it that holds any of them. It is bound to the place
//! that it describes: a row of the catalog can't be given another one's credentials.

use prost::Message as _;
use proto::backup::v1::Destination;
use ring::aead::{Aad, Nonce};
use zeroize::Zeroizing;

use super::place;
use crate::{
    keyring::{KeyEncryptionKey, Keyring},
    random,
    seal::{cipher, derive},
};

/// The same description under several keys.
#[derive(Clone, PartialEq, prost::Message)]
struct Sealed {
    #[prost(message, repeated, tag = "1")]
    copies: Vec<Copy>,
}

/// A description under one key.
#[derive(Clone, PartialEq, prost::Message)]
struct Copy {
    /// The key-encryption key.
    #[prost(string, tag = "1")]
    key_id: String,
    /// What makes a key of its own of it.
    #[prost(bytes = "vec", tag = "2")]
    salt: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    ciphertext: Vec<u8>,
}

/// Why a description does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// None of the keys at hand.
    #[error(
        "its description is sealed under key {needed}, and the configured keys are {configured}: \
         set NORA_BACKUP_ENCRYPTION_KEY or NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS to the key with that id"
    )]
    KeyNotConfigured {
        /// Ids of the keys that would open it.
        needed: String,
        /// Ids of the keys at hand.
        configured: String,
    },
    /// It is not what was written.
    #[error("its description in the catalog is damaged: remove it and add it again")]
    Damaged,
}

/// Seals a description under every key of the keyring.
pub fn seal(destination: &Destination, keyring: &Keyring) -> Vec<u8> {
    sealed(destination, keyring.all())
}

/// Seals a description under the writing key alone.
pub fn seal_for_writing_key(destination: &Destination, keyring: &Keyring) -> Vec<u8> {
    sealed(destination, std::iter::once(keyring.writing()))
}

/// Ids of the keys that open a sealed description.
pub fn sealed_under(sealed: &[u8]) -> Vec<String> {
    let sealed = Sealed::decode(sealed).unwrap_or_default();
    sealed.copies.into_iter().map(|copy| copy.key_id).collect()
}

/// Opens what was sealed; `at` is the place that it must describe.
pub fn unseal(sealed: &[u8], at: &str, keyring: &Keyring) -> Result<Destination, UnsealError> {
    let copies = Sealed::decode(sealed)
        .map_err(|_| UnsealError::Damaged)?
        .copies;
    let mut held = false;
    for copy in &copies {
        let Some(key) = keyring.all().find(|key| key.id() == copy.key_id) else {
            continue;
        };
        held = true;
        if let Some(destination) = open(key, copy, at) {
            return Ok(destination);
        }
    }
    if held || copies.is_empty() {
        return Err(UnsealError::Damaged);
    }
    let needed: Vec<String> = copies.into_iter().map(|copy| copy.key_id).collect();
    Err(UnsealError::KeyNotConfigured {
        needed: needed.join(" or "),
        configured: keyring.ids(),
    })
}

fn sealed<'a>(
    destination: &Destination,
    keys: impl Iterator<Item = &'a KeyEncryptionKey>,
) -> Vec<u8> {
    let plain = Zeroizing::new(destination.encode_to_vec());
    let at = place(destination);
    let copies = keys
        .map(|key| {
            let salt: [u8; 32] = random::bytes();
            let mut ciphertext = plain.to_vec();
            cipher(&derive(key.secret(), &salt, INFO))
                .seal_in_place_append_tag(nonce(), Aad::from(at.as_bytes()), &mut ciphertext)
                .expect("a description is within AES-GCM's limit");
            Copy {
                key_id: key.id(),
                salt: salt.to_vec(),
                ciphertext,
            }
        })
        .collect();
    Sealed { copies }.encode_to_vec()
}

const INFO: &[u8] = b"nora-backup destination v1";

/// Each key is derived for one message only.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn open(key: &KeyEncryptionKey, copy: &Copy, at: &str) -> Option<Destination> {
    let mut ciphertext = Zeroizing::new(copy.ciphertext.clone());
    let plain = cipher(&derive(key.secret(), &copy.salt, INFO))
        .open_in_place(nonce(), Aad::from(at.as_bytes()), &mut ciphertext)
        .ok()?;
    Destination::decode(&*plain).ok()
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::{S3Destination, destination::Kind};

    use super::*;

    fn key(byte: u8) -> KeyEncryptionKey {
        KeyEncryptionKey::new([byte; 32])
    }

    fn s3() -> Destination {
        Destination {
            kind: Some(Kind::S3(S3Destination {
                bucket: "nora".into(),
                secret_access_key: "very-secret".into(),
                ..S3Destination::default()
            })),
            ..Destination::default()
        }
    }

    #[test]
    fn whoever_holds_one_of_the_keys_opens_it() {
        let both = Keyring::new(key(1), vec![key(2)]);
        let sealed = seal(&s3(), &both);
        assert_eq!(sealed_under(&sealed), both.key_ids());
        let shown = String::from_utf8_lossy(&sealed);
        assert!(!shown.contains("very-secret"));
        for one in [1, 2] {
            let one = Keyring::new(key(one), Vec::new());
            assert_eq!(unseal(&sealed, "s3://nora", &one), Ok(s3()));
        }
        let other = Keyring::new(key(3), Vec::new());
        let refused = unseal(&sealed, "s3://nora", &other).unwrap_err();
        assert!(refused.to_string().contains(&key(1).id()), "{refused}");
        let newer = seal_for_writing_key(&s3(), &both);
        assert_eq!(sealed_under(&newer), [key(1).id()]);
        let older = Keyring::new(key(2), Vec::new());
        assert!(unseal(&newer, "s3://nora", &older).is_err());
    }

    #[test]
    fn it_describes_its_own_place_only() {
        let keyring = Keyring::new(key(1), Vec::new());
        let sealed = seal(&s3(), &keyring);
        let moved = unseal(&sealed, "s3://elsewhere", &keyring);
        assert_eq!(moved, Err(UnsealError::Damaged));
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone();
            bytes[at] ^= 1;
            assert!(unseal(&bytes, "s3://nora", &keyring).is_err(), "{at}");
        }
    }
}
