//! Descriptions under the keys that they shall be under: what a rotation of keys does with
//! them. While replicas may still hold an older key, a description is sealed under each;
//! once the older ones are retired, under the writing key alone.

use catalog::StoredDestination;
use vault::destination::{seal, seal_for_writing_key, sealed_under};

use crate::{Destinations, DestinationsError};

/// How often a description that others change at the same time is looked at again.
const ROUNDS_MAX: u32 = 8;

/// What became of the descriptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Destinations whose description was sealed anew.
    pub changed: Vec<String>,
    /// Those whose description no key at hand opens, and why.
    pub failed: Vec<(String, String)>,
}

impl Destinations {
    /// Whether a description is sealed under every key at hand.
    pub(crate) fn holds_all_keys(&self, known: &StoredDestination) -> bool {
        let under = sealed_under(&known.sealed);
        self.keyring.key_ids().iter().all(|id| under.contains(id))
    }

    /// Ids of the destinations whose descriptions the writing key does not open.
    pub async fn not_under_writing_key(&self) -> Result<Vec<String>, DestinationsError> {
        let writing = self.keyring.writing().id();
        let mut without = Vec::new();
        for id in self.catalog.destination_ids().await? {
            if let Some(known) = self.catalog.get_destination(&id).await?
                && !sealed_under(&known.sealed).contains(&writing)
            {
                without.push(id);
            }
        }
        Ok(without)
    }

    /// Seals every description under the writing key: beside the other keys at hand, or
    /// (`retire`) alone.
    pub async fn reseal(&self, retire: bool) -> Result<Resealed, DestinationsError> {
        let mut resealed = Resealed::default();
        for id in self.catalog.destination_ids().await? {
            for _ in 0..ROUNDS_MAX {
                let Some(known) = self.catalog.get_destination(&id).await? else {
                    break;
                };
                if self.is_under(&known, retire) {
                    break;
                }
                let described = match self.unseal(&known) {
                    Ok(described) => described,
                    Err(error) => {
                        resealed.failed.push((id.clone(), error.to_string()));
                        break;
                    }
                };
                let sealed = if retire {
                    seal_for_writing_key(&described, &self.keyring)
                } else {
                    seal(&described, &self.keyring)
                };
                if self.catalog.reseal_destination(&known, sealed).await? {
                    resealed.changed.push(id.clone());
                    break;
                }
            }
        }
        Ok(resealed)
    }

    fn is_under(&self, known: &StoredDestination, retire: bool) -> bool {
        if retire {
            return sealed_under(&known.sealed) == [self.keyring.writing().id()];
        }
        self.holds_all_keys(known)
    }
}
