//! The destination that is read, as the database knows it: under which id, and that it is the
//! same place. What lies at one destination must never be looked for at another.

use catalog::{Catalog, CatalogError, DEFAULT_DESTINATION};
use destinations::{Destinations, DestinationsError};
use proto::backup::v1::{Destination, destination::Kind};
use vault::{Keyring, destination::place};

use super::catalog::failed;
use crate::error::{CliError, Result};

/// A destination that is, or will be, in the database.
pub(super) struct Registered {
    destinations: Destinations,
    described: Destination,
    is_known: bool,
}

impl Registered {
    /// Looks whether the database knows the destination, and as the same place.
    pub(super) async fn look(
        catalog: &Catalog,
        keyring: &Keyring,
        read: &Destination,
        destination_id: &str,
    ) -> Result<Self> {
        let destinations = Destinations::new(catalog.clone(), keyring.clone());
        let described = Destination {
            destination_id: destination_id.to_owned(),
            display_name: destination_id.to_owned(),
            ..read.clone()
        };
        let is_known = match destinations.known(destination_id).await {
            Ok(known) if is_same_place(&known.place, &described) => true,
            Ok(known) => return Err(another_place(destination_id, &known.place, &described)),
            Err(DestinationsError::Catalog(CatalogError::DestinationNotFound { .. })) => {
                check_new(&destinations, &described).await?;
                false
            }
            Err(DestinationsError::Catalog(error)) => return Err(failed(error)),
            Err(DestinationsError::Vault(error)) => return Err(error.into()),
        };
        Ok(Self {
            destinations,
            described,
            is_known,
        })
    }

    /// In words, when it is to be added.
    pub(super) fn new_one(&self) -> Option<String> {
        let (id, place) = (&self.described.destination_id, place(&self.described));
        (!self.is_known).then(|| format!("destination {id} is new to the database: {place}"))
    }

    /// Adds it, described as the settings have it.
    pub(super) async fn add(&self, catalog: &Catalog, now_ms: i64) -> Result<()> {
        if self.is_known {
            return Ok(());
        }
        let sealed = self.destinations.sealed(&self.described);
        let added = if self.described.destination_id == DEFAULT_DESTINATION {
            catalog.register_default(&sealed, now_ms).await
        } else {
            catalog.create_destination(&sealed, now_ms).await.map(drop)
        };
        added.map_err(failed)
    }
}

/// A destination that is new must not be the place of another one.
async fn check_new(destinations: &Destinations, new: &Destination) -> Result<()> {
    for id in destinations.ids().await.map_err(failed)? {
        let known = destinations.known(&id).await;
        if known.is_ok_and(|known| is_same_place(&known.place, new)) {
            return Err(CliError::usage(format!(
                "the vaults were to be read at {}, which is destination {id} in the database, not \
                 {}: name it with --destination {id}; nothing was changed",
                place(new),
                new.destination_id
            )));
        }
    }
    Ok(())
}

/// A folder may be named in more than one way.
fn is_same_place(known: &str, read: &Destination) -> bool {
    let same_folder = |path: &str| {
        let (known, read) = (std::fs::canonicalize(known), std::fs::canonicalize(path));
        matches!((known, read), (Ok(known), Ok(read)) if known == read)
    };
    match &read.kind {
        Some(Kind::Local(local)) => known == place(read) || same_folder(&local.path),
        _ => known == place(read),
    }
}

fn another_place(destination_id: &str, known: &str, read: &Destination) -> CliError {
    CliError::usage(format!(
        "destination {destination_id} is {known} in the database, and the vaults were to be read at \
         {}: nothing was changed",
        place(read)
    ))
    .hint("--destination ID says which destination it is that is read; an id that is new is added")
}
