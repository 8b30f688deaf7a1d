//! Boxes: how an object is sealed.
//!
//! Every sealed object begins with a header of 64 bytes:
//!
//! | offset | length | field |
//! | --- | --- | --- |
//! | 0 | 7 | magic `NORAVLT` |
//! | 7 | 1 | format version, now 1 |
//! | 8 | 1 | kind: 1 pack, 2 index, 3 manifest |
//! | 9 | 7 | zero |
//! | 16 | 16 | id of the data key |
//! | 32 | 32 | salt (of a pack or an index: its id) |
//!
//! The object's key is HKDF-SHA256 of the data key with that salt, so it is
//! used for one object only and a counter is a safe nonce. Each box is
//! AES-256-GCM; authenticated with it are format version, vault, kind, the
//! object's name, its position and whether it is the object's last.

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use zeroize::Zeroizing;

use crate::{
    error::{Result, VaultError},
    keyring::DataKey,
};

/// Newest format version, and the only one so far.
pub const FORMAT_VERSION: u8 = 1;
/// Length of the header.
pub const HEADER_BYTES: usize = 64;
/// What a box is longer than its contents.
pub const TAG_BYTES: usize = 16;
const MAGIC: &[u8; 7] = b"NORAVLT";

/// Kinds of sealed objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Pack = 1,
    Index = 2,
    Manifest = 3,
}

impl Kind {
    fn info(self) -> &'static [u8] {
        match self {
            Self::Pack => b"nora-vault v1 pack",
            Self::Index => b"nora-vault v1 index",
            Self::Manifest => b"nora-vault v1 manifest",
        }
    }
}

/// Derives 32 bytes from a secret.
pub(crate) fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut out = Zeroizing::new([0; 32]);
    let info = [info];
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(&info, Length)
        .and_then(|okm| okm.fill(out.as_mut()))
        .expect("32 bytes are within HKDF's limit");
    out
}

pub(crate) fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes"))
}

/// A sealed object's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub key_id: [u8; 16],
    pub salt: [u8; 32],
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..7].copy_from_slice(MAGIC);
        out[7] = FORMAT_VERSION;
        out[8] = self.kind as u8;
        out[16..32].copy_from_slice(&self.key_id);
        out[32..].copy_from_slice(&self.salt);
        out
    }

    pub(crate) fn decode(kind: Kind, name: &str, bytes: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| VaultError::corrupt(name, what);
        let header = bytes
            .get(..HEADER_BYTES)
            .ok_or_else(|| corrupt("cut short"))?;
        if &header[..7] != MAGIC {
            return Err(corrupt("it does not begin as an object of a vault"));
        }
        if header[7] != FORMAT_VERSION {
            return Err(VaultError::Version {
                object: name.to_owned(),
                version: u32::from(header[7]),
                supported: u32::from(FORMAT_VERSION),
            });
        }
        if header[8] != kind as u8 || header[9..16] != [0; 7] {
            return Err(corrupt("it is of another kind than its name says"));
        }
        let mut this = Self {
            kind,
            key_id: [0; 16],
            salt: [0; 32],
        };
        this.key_id.copy_from_slice(&header[16..32]);
        this.salt.copy_from_slice(&header[32..]);
        Ok(this)
    }
}

/// Seals and opens the boxes of one object.
pub(crate) struct Sealer {
    cipher: LessSafeKey,
    aad_prefix: Vec<u8>,
    name: String,
}

impl Sealer {
    /// `name` is the object's name below the vault, for example `packs/…`.
    pub(crate) fn new(key: &DataKey, header: &Header, name: &str) -> Self {
        let derived = derive(key.secret(), &header.salt, header.kind.info());
        let mut aad_prefix = Vec::with_capacity(64 + name.len());
        aad_prefix.extend_from_slice(b"nora-vault");
        aad_prefix.push(FORMAT_VERSION);
        aad_prefix.extend_from_slice(&key.vault_id());
        aad_prefix.push(header.kind as u8);
        aad_prefix.extend_from_slice(&(name.len() as u32).to_be_bytes());
        aad_prefix.extend_from_slice(name.as_bytes());
        Self {
            cipher: cipher(&derived),
            aad_prefix,
            name: name.to_owned(),
        }
    }

    fn aad(&self, position: u64, last: bool) -> Aad<Vec<u8>> {
        let mut aad = Vec::with_capacity(self.aad_prefix.len() + 9);
        aad.extend_from_slice(&self.aad_prefix);
        aad.extend_from_slice(&position.to_be_bytes());
        aad.push(u8::from(last));
        Aad::from(aad)
    }

    fn nonce(position: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&position.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Appends the box of `plain` to `out`.
    pub(crate) fn seal_into(&self, out: &mut Vec<u8>, plain: &[u8], position: u64, last: bool) {
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = self
            .cipher
            .seal_in_place_separate_tag(
                Self::nonce(position),
                self.aad(position, last),
                &mut out[start..],
            )
            .expect("a box is far shorter than AES-GCM's limit");
        out.extend_from_slice(tag.as_ref());
    }

    /// Opens a box in place; the plain text is the returned part of it.
    pub(crate) fn open<'a>(
        &self,
        sealed: &'a mut [u8],
        position: u64,
        last: bool,
    ) -> Result<&'a mut [u8]> {
        self.cipher
            .open_in_place(Self::nonce(position), self.aad(position, last), sealed)
            .map_err(|_| VaultError::corrupt(&self.name, format!("box {position} does not open")))
    }
}

/// Seals a document (index, manifest): a header and one box.
pub(crate) fn seal_document(
    key: &DataKey,
    kind: Kind,
    salt: [u8; 32],
    name: &str,
    plain: &[u8],
) -> Result<Vec<u8>> {
    let header = Header {
        kind,
        key_id: key.id(),
        salt,
    };
    let mut out = Vec::with_capacity(HEADER_BYTES + plain.len() + TAG_BYTES);
    out.extend_from_slice(&header.encode());
    Sealer::new(key, &header, name).seal_into(&mut out, plain, 0, true);
    // What leaves this machine is opened once here first.
    let mut copy = out.clone();
    if open_document(key, kind, name, &mut copy)? != plain {
        return Err(VaultError::Internal(format!(
            "{name} does not open to what was sealed"
        )));
    }
    Ok(out)
}

/// Opens a document that `seal_document` made. The caller has chosen the key by
/// the header's `key_id`.
pub(crate) fn open_document<'a>(
    key: &DataKey,
    kind: Kind,
    name: &str,
    sealed: &'a mut [u8],
) -> Result<&'a [u8]> {
    let header = Header::decode(kind, name, sealed)?;
    let sealer = Sealer::new(key, &header, name);
    Ok(sealer.open(&mut sealed[HEADER_BYTES..], 0, true)?)
}
