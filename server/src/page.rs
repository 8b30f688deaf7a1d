//! Page tokens: opaque to callers, and of use only with the filter they were made for.
//!
//! A token is the hexadecimal form of a version, a fingerprint of the list's name and filter, and
//! the key of the last item of its page. It carries no rights: a page shows what the caller of the
//! page may see.

use tonic_types::FieldViolation;

use crate::status::ApiError;

const VERSION: u8 = 1;
const FINGERPRINT_BYTES: usize = 8;
/// Bytes of items in one response: callers' libraries refuse messages over 4 MiB by default.
pub const RESPONSE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What a list shows: its name and all of its filter.
#[derive(Debug, Clone)]
pub struct Listing {
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl Listing {
    /// A list by its name and the values of its filter, in a fixed order.
    pub fn new<'a>(name: &'a str, filter: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in std::iter::once(name.as_bytes()).chain(filter) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..FINGERPRINT_BYTES]);
        Self { fingerprint }
    }

    /// The token of the page after the item with this key.
    pub fn token(&self, key: &[u8]) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.fingerprint);
        bytes.extend_from_slice(key);
        hex::encode(bytes)
    }

    /// The key in a token; `None` when the token is empty: the first page.
    pub fn open(&self, token: &str) -> Result<Option<Vec<u8>>, ApiError> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = hex::decode(token).map_err(|_| refused("is not a token of this service"))?;
        match bytes.split_first() {
            Some((&VERSION, rest)) if rest.len() >= FINGERPRINT_BYTES => {
                let (fingerprint, key) = rest.split_at(FINGERPRINT_BYTES);
                if fingerprint == self.fingerprint {
                    Ok(Some(key.to_vec()))
                } else {
                    Err(refused(
                        "belongs to a list with another filter: repeat the filter, or begin \
                         without a token",
                    ))
                }
            }
            _ => Err(refused("is not a token of this service")),
        }
    }

    /// As [`Listing::open`], for lists whose keys are text.
    pub fn open_text(&self, token: &str) -> Result<Option<String>, ApiError> {
        self.open(token)?
            .map(|key| {
                String::from_utf8(key).map_err(|_| refused("is not a token of this service"))
            })
            .transpose()
    }
}

fn refused(what: &str) -> ApiError {
    ApiError::invalid(vec![FieldViolation::new("page_token", what)])
}

/// How many of the items fit into one response; at least one.
pub fn fitting<T: prost::Message>(items: &[T]) -> usize {
    let mut bytes = 0;
    let fits = items.iter().take_while(|item| {
        bytes += item.encoded_len();
        bytes <= RESPONSE_BYTES_MAX
    });
    fits.count().max(1).min(items.len())
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::ErrorReason;

    use super::*;

    #[test]
    fn tokens_belong_to_their_filter() {
        let mine = Listing::new("backups", [&b"owner"[..], b"agent"]);
        let token = mine.token(b"key");
        assert_eq!(mine.open_text(&token).unwrap().unwrap(), "key");
        assert_eq!(mine.open("").unwrap(), None);
        for other in [
            Listing::new("backups", [&b"owner"[..], b"other"]),
            Listing::new("restores", [&b"owner"[..], b"agent"]),
            Listing::new("backups", [&b"ownera"[..], b"gent"]),
        ] {
            assert!(other.open(&token).is_err());
        }
        for broken in ["x", "00", "01ff", &token[..10], "zz"] {
            assert_eq!(
                mine.open(broken).unwrap_err().reason(),
                ErrorReason::InvalidField
            );
        }
    }

    #[test]
    fn a_page_is_cut_before_it_grows_too_large() {
        let items = vec!["x".repeat(RESPONSE_BYTES_MAX / 3); 10];
        assert_eq!(fitting(&items), 2);
        assert_eq!(fitting(&["x".repeat(RESPONSE_BYTES_MAX * 2)]), 1);
        assert_eq!(fitting::<String>(&[]), 0);
    }
}
