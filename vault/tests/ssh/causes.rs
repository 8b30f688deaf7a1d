//! What is said when something is wrong: the cause, what to do, and no secret.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use proto::backup::v1::SshDestination;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use vault::{
    destination::HostKeys,
    error::{StoreError, StoreErrorKind},
};

use super::{
    proxy::Proxy,
    support::{
        Remembered, account, account_with_password, assert_no_secret, key, other_port, port,
        random, store, store_with, try_store, variable,
    },
};

/// Checks a destination that must fail soon, with this kind and these words.
async fn fails(destination: &SshDestination, kind: StoreErrorKind, words: &[&str]) -> StoreError {
    let begin = Instant::now();
    let error = match try_store(destination) {
        Ok(store) => store.check().await.expect_err("it must fail"),
        Err(error) => error,
    };
    assert!(begin.elapsed() < Duration::from_secs(20), "late: {error}");
    expect(&error, kind, words);
    error
}

fn expect(error: &StoreError, kind: StoreErrorKind, words: &[&str]) {
    println!("{error}");
    assert_eq!(error.kind, kind, "{error}");
    let said = error.to_string();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("Error") && !said.contains('\n'), "{said}");
    assert_no_secret(&said);
}

#[tokio::test]
async fn a_host_that_is_not_there() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let closed = free.local_addr().expect("address").port();
    drop(free);
    let refused = SshDestination {
        port: closed.into(),
        ..account("nora-key")
    };
    let place = format!("127.0.0.1:{closed}");
    fails(
        &refused,
        StoreErrorKind::Unavailable,
        &[&place, "refuses connections"],
    )
    .await;
    let unknown = SshDestination {
        host: "no-such-host.invalid".to_owned(),
        ..account("nora-key")
    };
    fails(
        &unknown,
        StoreErrorKind::Unavailable,
        &["no-such-host.invalid has no address", "check ssh.host"],
    )
    .await;
}

#[tokio::test]
async fn a_host_that_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let silent_port = silent.local_addr().expect("address").port();
    let destination = SshDestination {
        port: silent_port.into(),
        ..account("nora-key")
    };
    fails(
        &destination,
        StoreErrorKind::Timeout,
        &["no answer within 15 s at the key exchange"],
    )
    .await;
    drop(silent);
}

#[tokio::test]
async fn a_server_that_does_not_speak_ssh() {
    let web = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let destination = SshDestination {
        port: web.local_addr().expect("address").port().into(),
        ..account("nora-key")
    };
    let serve = tokio::spawn(async move {
        while let Ok((mut client, _)) = web.accept().await {
            let mut request = [0; 256];
            let _ = client.read(&mut request).await;
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    fails(
        &destination,
        StoreErrorKind::Unavailable,
        &["is it an SSH server", "127.0.0.1:"],
    )
    .await;
    serve.abort();
}

#[tokio::test]
async fn a_host_key_that_is_unknown_or_another_one() {
    let stranger = key("key_stranger.pub");
    let stranger = stranger.trim();
    let shown = variable("NORA_TEST_SSH_HOST_KEY");
    let another = SshDestination {
        host_key: stranger.to_owned(),
        ..account("nora-key")
    };
    let error = fails(
        &another,
        StoreErrorKind::Untrusted,
        &[
            "shows the host key ssh-ed25519 SHA256:",
            "expected is ssh-ed25519 SHA256:",
            "ssh-keygen -lf",
            &shown,
        ],
    )
    .await;
    assert_eq!(error.to_string().matches("SHA256:").count(), 2);
    let several = SshDestination {
        host_key: format!("# two\n{stranger}\n\n[127.0.0.1]:22 {shown} comment\n"),
        ..account("nora-key")
    };
    store(&several).check().await.expect("one of several");
    let unknown = SshDestination {
        host_key: String::new(),
        ..account("nora-key")
    };
    fails(
        &unknown,
        StoreErrorKind::Untrusted,
        &["SHA256:", &shown, "host_key"],
    )
    .await;
    let no_key = SshDestination {
        host_key: "ssh-ed25519 nonsense".to_owned(),
        ..account("nora-key")
    };
    fails(
        &no_key,
        StoreErrorKind::Misconfigured,
        &["line 1 is no host key"],
    )
    .await;
}

#[tokio::test]
async fn the_first_key_is_remembered_and_another_one_refused() {
    let upstream = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let proxy = Proxy::start(upstream(port())).await.expect("proxy");
    let destination = SshDestination {
        port: proxy.port().into(),
        host_key: String::new(),
        trust_first_key: true,
        ..account("nora-key")
    };
    let remembered: Arc<dyn HostKeys> = Arc::new(Remembered::default());
    store_with(&destination, &remembered)
        .expect("open")
        .check()
        .await
        .expect("the first time");
    let kept = remembered
        .remembered("127.0.0.1", proxy.port())
        .await
        .expect("look up");
    assert_eq!(kept, Some(variable("NORA_TEST_SSH_HOST_KEY")));
    store_with(&destination, &remembered)
        .expect("open")
        .check()
        .await
        .expect("the same again");
    proxy.lead_to(upstream(other_port()));
    let store = store_with(&destination, &remembered).expect("open");
    let error = store.check().await.expect_err("another server");
    expect(
        &error,
        StoreErrorKind::Untrusted,
        &[
            "remembered from the first connection",
            &variable("NORA_TEST_SSH_OTHER_HOST_KEY"),
        ],
    );
    // What is set counts more than what was remembered.
    let pinned = SshDestination {
        host_key: variable("NORA_TEST_SSH_OTHER_HOST_KEY"),
        ..destination
    };
    store_with(&pinned, &remembered)
        .expect("open")
        .check()
        .await
        .expect("pinned");
}

#[tokio::test]
async fn credentials_that_are_refused() {
    let wrong = SshDestination {
        password: "not-the-password".to_owned(),
        ..account_with_password()
    };
    fails(
        &wrong,
        StoreErrorKind::Refused,
        &[
            "does not let nora-password log in with the password",
            "it offers password",
            "check ssh.username and ssh.password",
        ],
    )
    .await;
    let stranger = SshDestination {
        private_key: key("key_stranger"),
        ..account("nora-key")
    };
    let public = key("key_stranger.pub");
    let public: Vec<&str> = public.split_whitespace().take(2).collect();
    fails(
        &stranger,
        StoreErrorKind::Refused,
        &[
            "nora-key",
            "the key ssh-ed25519 SHA256:",
            "it offers publickey",
            "authorized_keys",
            &public.join(" "),
        ],
    )
    .await;
    let nobody = SshDestination {
        username: "nobody-of-this-name".to_owned(),
        ..account("nora-key")
    };
    fails(&nobody, StoreErrorKind::Refused, &["nobody-of-this-name"]).await;
    let no_way = SshDestination {
        private_key: String::new(),
        password: "not-the-password".to_owned(),
        ..account("nora-key")
    };
    fails(
        &no_way,
        StoreErrorKind::Refused,
        &["nothing that is set here", "it offers publickey"],
    )
    .await;
}

#[tokio::test]
async fn keys_that_cannot_be_read() {
    let without = SshDestination {
        private_key: key("key_passphrase"),
        ..account("nora-key")
    };
    fails(
        &without,
        StoreErrorKind::Misconfigured,
        &["passphrase", "is not set"],
    )
    .await;
    let wrong = SshDestination {
        passphrase: "not-the-password".to_owned(),
        ..without
    };
    fails(
        &wrong,
        StoreErrorKind::Misconfigured,
        &["passphrase", "does not open"],
    )
    .await;
    let whole = key("key");
    for text in [
        "secret words that are no key",
        &whole[..whole.len() / 2],
        &key("key.pub"),
    ] {
        let broken = SshDestination {
            private_key: text.to_owned(),
            ..account("nora-key")
        };
        let error = fails(
            &broken,
            StoreErrorKind::Misconfigured,
            &["private_key", "BEGIN line"],
        )
        .await;
        assert!(!error.to_string().contains("secret words"));
    }
}

#[tokio::test]
async fn paths_that_cannot_be_written() {
    let at = |path: &str| SshDestination {
        remote_path: format!("/run/nora-homes/nora-key/{path}"),
        ..account("nora-key")
    };
    fails(
        &at("not/there"),
        StoreErrorKind::Misconfigured,
        &[
            "remote_path",
            "/run/nora-homes/nora-key/not is not there",
            "make it",
        ],
    )
    .await;
    fails(
        &at("refused/below"),
        StoreErrorKind::Denied,
        &[
            "nora-key at 127.0.0.1",
            "/run/nora-homes/nora-key/refused/below",
        ],
    )
    .await;
    fails(
        &at("refused"),
        StoreErrorKind::Denied,
        &["/run/nora-homes/nora-key/refused"],
    )
    .await;
    fails(
        &at("read-only"),
        StoreErrorKind::Denied,
        &["mounted read-only", "read-only/.nora-tmp"],
    )
    .await;
    let other = store(&account("nora-key"));
    other.put("file", random(1)).await.expect("put");
}

#[tokio::test]
async fn a_disk_that_is_full() {
    let full = SshDestination {
        remote_path: "/run/nora-homes/nora-key/full/data".to_owned(),
        ..account("nora-key")
    };
    let store = store(&full);
    let kept = random(2 << 20);
    store.put("earlier", kept.clone()).await.expect("put");
    for _ in 0..2 {
        let error = store.put("later", random(8 << 20)).await.expect_err("full");
        expect(
            &error,
            StoreErrorKind::Full,
            &["bytes are available", "8388608 are needed"],
        );
    }
    assert_eq!(store.get("earlier", 1 << 30).await.expect("get"), kept);
    assert_eq!(store.stat("later").await.expect("stat"), None);
    // What did not fit is gone, so what fits does.
    store.put("smaller", random(2 << 20)).await.expect("put");
    for name in ["earlier", "smaller"] {
        store.delete(name).await.expect("delete");
    }
}

#[tokio::test]
async fn a_user_who_has_no_sftp() {
    fails(
        &account("nora-talker"),
        StoreErrorKind::Misconfigured,
        &["does not speak it", "forced command"],
    )
    .await;
}
