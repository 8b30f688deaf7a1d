//! The contract of destinations, on each kind of account.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use bytes::Bytes;
use proto::backup::v1::SshDestination;
use vault::{
    error::StoreErrorKind,
    store::testing::{contract, each_call_fails_once},
};

use super::support::{account, account_with_password, key, outside, random, store, variable};

#[tokio::test]
async fn on_an_account_with_a_key() {
    let destination = account("nora-key");
    contract(&*store(&destination)).await;
    let left = fs::read_dir(outside(&destination).join(".nora-tmp")).expect("list");
    assert_eq!(left.count(), 0, "unfinished writes are left");
}

#[tokio::test]
async fn on_an_account_with_a_password() {
    contract(&*store(&account_with_password())).await;
}

#[tokio::test]
async fn on_an_account_confined_to_a_folder() {
    contract(&*store(&account("nora-chroot"))).await;
}

#[tokio::test]
async fn on_a_server_without_extensions() {
    contract(&*store(&account("nora-plain"))).await;
}

#[tokio::test]
async fn on_a_path_relative_to_the_home() {
    let absolute = account("nora-key");
    let own = absolute.remote_path.rsplit('/').next().expect("a name");
    for path in [format!("data/{own}"), format!("~/data/{own}/")] {
        let relative = SshDestination {
            remote_path: path,
            ..absolute.clone()
        };
        contract(&*store(&relative)).await;
    }
    assert!(outside(&absolute).exists());
}

#[tokio::test]
async fn with_keys_of_every_kind_and_form() {
    let passphrase = variable("NORA_TEST_SSH_PASSPHRASE");
    for (name, passphrase) in [
        ("key_passphrase", passphrase.as_str()),
        ("key_rsa_pem", ""),
        ("key_rsa", &passphrase),
        ("key_ecdsa_pkcs8", ""),
    ] {
        let with = SshDestination {
            private_key: key(name),
            passphrase: passphrase.to_owned(),
            ..account("nora-key")
        };
        store(&with)
            .check()
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        // As in a variable that holds one line.
        let one_line = SshDestination {
            private_key: key(name).replace('\n', "\\n"),
            ..with
        };
        store(&one_line).check().await.expect("one line");
    }
}

#[tokio::test]
async fn with_two_factors() {
    // The key is not accepted there; the password is.
    let both = SshDestination {
        private_key: key("key"),
        ..account_with_password()
    };
    store(&both)
        .check()
        .await
        .expect("the password after the key");
}

#[tokio::test]
async fn folders_and_files_are_for_their_owner_alone() {
    let destination = account("nora-key");
    let store = store(&destination);
    store
        .put("a/b", Bytes::from_static(b"c"))
        .await
        .expect("put");
    let root = outside(&destination);
    for (path, mode) in [
        ("", 0o700),
        (".nora-tmp", 0o700),
        ("a", 0o700),
        ("a/b", 0o600),
    ] {
        let found = root.join(path).metadata().expect("look").permissions();
        assert_eq!(found.mode() & 0o777, mode, "{path}");
    }
}

#[tokio::test]
async fn folders_that_were_removed_meanwhile_are_made_again() {
    let destination = account("nora-key");
    let store = store(&destination);
    store.put("v/a/x", random(10)).await.expect("put");
    fs::remove_dir_all(outside(&destination)).expect("remove");
    store.put("v/a/x", random(10)).await.expect("put again");
    fs::remove_dir_all(outside(&destination).join("v")).expect("remove");
    store.put("v/a/y", random(10)).await.expect("put again");
}

#[tokio::test]
async fn large_objects_and_parts_of_them() {
    let store = store(&account("nora-key"));
    let bytes = random((20 << 20) + 12_345);
    store.put("packs/large", bytes.clone()).await.expect("put");
    assert_eq!(store.get("packs/large", 1 << 30).await.expect("get"), bytes);
    for (offset, length) in [
        (0, 1),
        (255 * 1024 - 1, 2),
        (5_000_000, 9_000_000),
        (20 << 20, 1 << 20),
    ] {
        let end = bytes.len().min(offset + length);
        let part = store
            .get_range("packs/large", offset as u64, length as u64)
            .await;
        assert!(
            part.expect("a part") == bytes[offset..end],
            "{offset} {length}"
        );
    }
}

#[tokio::test]
async fn a_folder_of_many_objects_is_listed_whole() {
    let destination = account("nora-key");
    let store = store(&destination);
    store.put("many/0", Bytes::new()).await.expect("put");
    for n in 1..3000 {
        fs::write(outside(&destination).join(format!("many/{n}")), b"").expect("write");
    }
    fs::create_dir(outside(&destination).join("many/folder")).expect("make");
    assert_eq!(store.list("many/").await.expect("list").len(), 3000);
    assert_eq!(store.list_folders("many/").await.expect("list"), ["folder"]);
}

#[tokio::test]
async fn what_dead_writers_left_is_swept_by_the_servers_clock() {
    let destination = account("nora-key");
    let store = store(&destination);
    store.put("x", Bytes::new()).await.expect("put");
    let temporary = outside(&destination).join(".nora-tmp");
    for name in ["old", "young"] {
        fs::write(temporary.join(name), b"half").expect("write");
    }
    let old = fs::File::options()
        .write(true)
        .open(temporary.join("old"))
        .expect("open");
    let hours = Duration::from_hours(2);
    old.set_modified(std::time::SystemTime::now() - hours)
        .expect("set the time");
    // The server's account can't remove what is not its own: it is in its folder.
    assert_eq!(store.sweep(3_600_000).await.expect("sweep"), 1);
    assert!(!temporary.join("old").exists() && temporary.join("young").exists());
    assert_eq!(store.sweep(0).await.expect("sweep"), 1);
    assert_eq!(fs::read_dir(&temporary).expect("list").count(), 0);
}

#[tokio::test]
async fn a_write_that_is_given_up_leaves_nothing() {
    let destination = account("nora-key");
    let store = store(&destination);
    store.check().await.expect("check");
    let bytes = random(30 << 20);
    for wait_ms in [1, 5, 20, 60] {
        let put = store.put("given-up", bytes.clone());
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), put).await;
    }
    // Requests are answered in order, channel by channel.
    let temporary = outside(&destination).join(".nora-tmp");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while fs::read_dir(&temporary).expect("list").count() > 0 {
        assert!(std::time::Instant::now() < deadline, "drafts are left");
        store.stat("anything").await.expect("stat");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_data_key_is_never_between_two_names() {
    let (old, new) = (random(500), random(500));
    for (account_name, replaces) in [("nora-key", true), ("nora-plain", false)] {
        let store = store(&account(account_name));
        store
            .put("vaults/a/keys/k", old.clone())
            .await
            .expect("put");
        let again = store.put("vaults/a/keys/k", new.clone()).await;
        let kept = if replaces { &new } else { &old };
        match again {
            Ok(()) => assert!(replaces),
            Err(error) => {
                assert_eq!(error.kind, StoreErrorKind::Misconfigured, "{error}");
                assert!(error.to_string().contains("posix-rename"), "{error}");
                assert!(!replaces, "{error}");
            }
        }
        let stored = store.get("vaults/a/keys/k", 500).await.expect("get");
        assert_eq!(stored, kept, "{account_name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_which_each_call_fails_once() {
    for account_name in ["nora-key", "nora-plain"] {
        let failed = each_call_fails_once(store(&account(account_name))).await;
        assert!(failed > 20, "{failed} calls failed");
    }
}
