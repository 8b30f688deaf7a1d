//! With a catalog in a file, and folders as destinations.

use std::path::Path;

use bytes::Bytes;
use catalog::CatalogSettings;
use proto::backup::v1::{LocalDestination, destination::Kind};
use vault::KeyEncryptionKey;

use super::*;

fn keyring(keys: &[u8]) -> Keyring {
    let key = |byte: &u8| KeyEncryptionKey::new([*byte; 32]);
    Keyring::new(key(&keys[0]), keys[1..].iter().map(key).collect())
}

async fn catalog(folder: &Path) -> Catalog {
    let settings = CatalogSettings::sqlite(folder.join("catalog.db"));
    let catalog = Catalog::connect(&settings).await.unwrap();
    catalog.migrate().await.unwrap();
    catalog
}

fn local(id: &str, path: &Path) -> Destination {
    Destination {
        destination_id: id.to_owned(),
        display_name: id.to_owned(),
        kind: Some(Kind::Local(LocalDestination {
            path: path.to_str().unwrap().to_owned(),
        })),
        ..Destination::default()
    }
}

async fn put(destinations: &Destinations, id: &str, name: &str) {
    let store = destinations.store(id).await.unwrap();
    store.put(name, Bytes::from_static(b"x")).await.unwrap();
}

async fn has(destinations: &Destinations, id: &str, name: &str) -> bool {
    let store = destinations.store(id).await.unwrap();
    store.stat(name).await.unwrap().is_some()
}

#[tokio::test]
async fn another_place_in_the_environment_leaves_the_former_one_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let destinations = Destinations::new(catalog.clone(), keyring(&[1]));
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    destinations
        .register_default(&local(DEFAULT, &one))
        .await
        .unwrap();
    put(&destinations, DEFAULT, "a").await;
    let etag = destinations.known(DEFAULT).await.unwrap().etag;
    destinations
        .register_default(&local(DEFAULT, &one))
        .await
        .unwrap();
    assert_eq!(destinations.known(DEFAULT).await.unwrap().etag, etag);

    // A process that runs on follows.
    let other = Destinations::new(catalog.clone(), keyring(&[1]));
    assert!(has(&other, DEFAULT, "a").await);
    destinations
        .register_default(&local(DEFAULT, &two))
        .await
        .unwrap();
    assert!(!has(&other, DEFAULT, "a").await);
    assert!(has(&other, "former-1", "a").await);
    assert_eq!(other.ids().await.unwrap(), [DEFAULT, "former-1"]);

    // And back.
    destinations
        .register_default(&local(DEFAULT, &one))
        .await
        .unwrap();
    assert!(has(&other, DEFAULT, "a").await);
    assert!(other.store("former-1").await.is_err());
    let place = destinations.known("former-2").await.unwrap().place;
    assert_eq!(place, two.to_str().unwrap());
}

#[tokio::test]
async fn descriptions_follow_the_keys() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let old = Destinations::new(catalog.clone(), keyring(&[1]));
    let described = local("more", &folder.path().join("more"));
    catalog
        .create_destination(&old.sealed(&described), 1)
        .await
        .unwrap();

    // While one holds the old key only, and another the new one too.
    let both = Destinations::new(catalog.clone(), keyring(&[2, 1]));
    assert_eq!(both.not_under_writing_key().await.unwrap(), ["more"]);
    assert_eq!(both.reseal(false).await.unwrap().changed, ["more"]);
    assert_eq!(both.reseal(false).await.unwrap(), Resealed::default());
    let new = Destinations::new(catalog.clone(), keyring(&[2]));
    for one in [&old, &both, &new] {
        let known = one.known("more").await.unwrap();
        assert_eq!(one.unseal(&known).unwrap(), described);
    }

    assert_eq!(both.reseal(true).await.unwrap().changed, ["more"]);
    let known = old.known("more").await.unwrap();
    let refused = old.unseal(&known).unwrap_err().to_string();
    assert!(refused.contains("NORA_BACKUP_ENCRYPTION_KEY"), "{refused}");
    assert_eq!(new.unseal(&known).unwrap(), described);
    let failed = old.reseal(false).await.unwrap().failed;
    assert_eq!(failed.len(), 1, "{failed:?}");
}

#[tokio::test]
async fn a_host_key_is_remembered_by_all_processes() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let one = HostKeysInCatalog::new(catalog.clone());
    let other = HostKeysInCatalog::new(catalog);
    assert_eq!(one.remembered("h", 22).await.unwrap(), None);
    assert_eq!(
        one.remember("h", 22, "ssh-ed25519 A").await.unwrap(),
        "ssh-ed25519 A"
    );
    assert_eq!(
        other.remember("h", 22, "ssh-ed25519 B").await.unwrap(),
        "ssh-ed25519 A"
    );
    assert_eq!(
        other.remembered("h", 22).await.unwrap().as_deref(),
        Some("ssh-ed25519 A")
    );
    assert_eq!(other.remembered("h", 23).await.unwrap(), None);
}
