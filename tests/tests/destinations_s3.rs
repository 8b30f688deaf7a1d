//! Backups on a real S3 server, through the whole program: made and restored, with a
//! server that is killed in the middle, over lines that are bad, and with what is wrong
//! named.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use proto::backup::v1::{Backup, backup};
use services::{
    api::Api,
    fixture,
    one_agent::{OWNER, launch, restores},
    proxy::{Fault, Proxy},
    services::{Services, address},
    standalone::Standalone,
    tls::TlsFront,
    tree::{assert_same, describe},
};

const WRONG: &str = "not-the-secret-of-this-key";
/// Within this a failure that stays is told.
const TOLD: Duration = Duration::from_secs(15);

/// A standalone whose vaults lie in the tests' bucket, with a prefix of its own; under
/// the key with the rights of `who`.
fn prepare(name: &str, kind: &str, who: &str) -> Result<Standalone> {
    let mut standalone = Standalone::prepare(name)?
        // All that is ever said, for the secrets that must not be in it.
        .with_env("RUST_LOG", "trace,h2=info,sqlx=info,tonic=info,hyper=info")
        .with_env("NORA_BACKUP_STORAGE", kind);
    let prefix = format!("test-{:016x}", rand::random::<u64>());
    let mut set = |name: &str, value: String| {
        let kind = kind.to_uppercase();
        standalone.set_env(&format!("NORA_BACKUP_{kind}_{name}"), value);
    };
    set("PREFIX", prefix);
    set("BUCKET", address("NORA_TEST_S3_BUCKET"));
    set("ENDPOINT", address("NORA_TEST_S3_ENDPOINT"));
    for name in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY"] {
        set(name, address(&format!("NORA_TEST_S3_{who}{name}")));
    }
    Ok(standalone)
}

fn assert_no_secret(said: &str) {
    let secrets = ["", "READER_", "LISTER_"]
        .map(|who| address(&format!("NORA_TEST_S3_{who}SECRET_ACCESS_KEY")));
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).chain([WRONG]).collect();
    assert_none_of(&secrets, said);
}

fn assert_none_of(secrets: &[&str], said: &str) {
    for line in said.lines() {
        let shows = secrets.iter().any(|secret| line.contains(secret));
        assert!(!shows, "a credential is in: {line}");
    }
}

fn server() -> Result<SocketAddr> {
    server_at(&address("NORA_TEST_S3_ENDPOINT"))
}

fn server_at(endpoint: &str) -> Result<SocketAddr> {
    Ok(endpoint.trim_start_matches("http://").parse()?)
}

/// A backup that fails, with this cause and these words, soon.
async fn fails(user: &mut Api, reason: &str, words: &[&str]) -> Result<()> {
    let begin = Instant::now();
    let failed = user.make_backup("agent").await?;
    let elapsed = begin.elapsed();
    assert_eq!(failed.state(), backup::State::Failed, "{words:?}");
    let failure = failed.failure.context("a failure")?;
    println!("{} ({elapsed:.1?})", failure.message);
    assert_eq!(failure.reason, reason, "{failure:?}");
    for word in words {
        ensure!(failure.message.contains(word), "{word:?}: {failure:?}");
    }
    ensure!(elapsed < TOLD, "late: {elapsed:?}");
    assert_no_secret(&failure.message);
    Ok(())
}

#[tokio::test]
async fn backups_on_s3_and_r2() -> Result<()> {
    for kind in ["s3", "r2"] {
        let standalone = prepare("s3-kinds", kind, "")?;
        let (standalone, mut user) = launch(standalone, 6).await?;
        let agent = standalone.agent_dir("agent");
        fixture::every_kind(&agent.join("tree"))?;
        let first = user.complete_backup("agent").await?;
        restores(&standalone, &mut user, &first.backup_id).await?;
        fixture::random_files(&agent, 8, 1 << 20, 2)?;
        let second = user.complete_backup("agent").await?;
        restores(&standalone, &mut user, &second.backup_id).await?;
        assert_no_secret(&standalone.log());
    }
    Ok(())
}

#[tokio::test]
async fn a_server_restarted_in_the_middle_of_a_backup() -> Result<()> {
    // A server of its own, so that no other test loses its connection.
    let folder = services::place::scratch("seaweedfs");
    let own = Services::at(folder.path().to_path_buf());
    own.up_only(&["seaweedfs"])?;
    let outcome = restarted_in_the_middle(&own).await;
    own.down()?;
    outcome
}

async fn restarted_in_the_middle(own: &Services) -> Result<()> {
    let env: BTreeMap<String, String> = own.env()?;
    let of = |name: &str| {
        let value = env.get(&format!("NORA_TEST_S3_{name}")).cloned();
        value.context("a variable of seaweedfs")
    };
    let proxy = Proxy::start(server_at(&of("ENDPOINT")?)?).await?;
    let mut standalone = prepare("s3-restarted", "s3", "")?.with_env(
        "NORA_BACKUP_S3_ENDPOINT",
        format!("http://127.0.0.1:{}", proxy.port()),
    );
    for name in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY"] {
        standalone.set_env(&format!("NORA_BACKUP_S3_{name}"), of(name)?);
    }
    let (standalone, mut user) = launch(standalone, 4).await?;
    let first = user.complete_backup("agent").await?;
    let before = describe(&standalone.agent_dir("agent"))?;

    // In the middle: some packs are there, and some are not.
    fixture::random_files(&standalone.agent_dir("agent"), 120, 1 << 20, 2)?;
    let carried = proxy.carried();
    let mut backing_up = standalone.user(OWNER).await?;
    let making = tokio::spawn(async move { backing_up.make_backup("agent").await });
    while proxy.carried() < carried + (60 << 20) {
        ensure!(!making.is_finished(), "it ended too soon");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    own.restart("seaweedfs")?;
    let second = making.await??;
    assert_eq!(second.state(), backup::State::Completed, "{second:?}");
    // Some packs were under way, and each try of them counts.
    let written = proxy.carried() - carried;
    ensure!(
        written < 200 << 20,
        "what was stored before is used: {written} bytes went over the line"
    );
    restores(&standalone, &mut user, &second.backup_id).await?;

    // Away for longer than is waited for: the cause is named, and the rest stays.
    own.kill("seaweedfs")?;
    fixture::random_files(&standalone.agent_dir("agent"), 2, 1 << 20, 3)?;
    let failed = user.make_backup("agent").await?;
    assert_eq!(failed.state(), backup::State::Failed);
    let failure = failed.failure.context("a failure")?;
    println!("{}", failure.message);
    assert_eq!(failure.reason, "DESTINATION_UNAVAILABLE", "{failure:?}");
    own.restart("seaweedfs")?;
    let third = user.complete_backup("agent").await?;
    restores(&standalone, &mut user, &third.backup_id).await?;
    let earlier = standalone.agent_dir("earlier");
    user.restore_directory(&first.backup_id, "earlier", &earlier)
        .await?;
    assert_same(&before, &describe(&earlier)?);
    assert_none_of(&[&of("SECRET_ACCESS_KEY")?], &standalone.log());
    Ok(())
}

/// Makes a backup while the line gets faults, each some MiB after the one before.
async fn backed_up_through(proxy: &Proxy, user: &Api, faults: &[Fault]) -> Result<Backup> {
    let mut backing_up = user.clone();
    let making = tokio::spawn(async move { backing_up.make_backup("agent").await });
    let mut faults = faults.iter().cycle().take(5);
    while !making.is_finished() {
        if proxy.has_struck()
            && let Some(fault) = faults.next()
        {
            proxy.fault_after(8 << 20, *fault);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    making.await?
}

#[tokio::test]
async fn a_connection_cut_again_and_again_during_a_backup() -> Result<()> {
    let proxy = Proxy::start(server()?).await?;
    let standalone = prepare("s3-cut", "s3", "")?.with_env(
        "NORA_BACKUP_S3_ENDPOINT",
        format!("http://127.0.0.1:{}", proxy.port()),
    );
    let (standalone, mut user) = launch(standalone, 60).await?;
    let made = backed_up_through(&proxy, &user, &[Fault::Cut]).await?;
    assert_eq!(made.state(), backup::State::Completed, "{made:?}");
    let connections = proxy.connections();
    ensure!(connections > 3, "{connections} connections");
    proxy.fault_after(20 << 20, Fault::Cut);
    restores(&standalone, &mut user, &made.backup_id).await?;
    ensure!(proxy.has_struck(), "a restore was cut");
    assert_no_secret(&standalone.log());
    Ok(())
}

#[tokio::test]
async fn over_tls_damage_is_noticed_and_an_authority_is_named_by_its_file() -> Result<()> {
    let tls = TlsFront::start(server()?).await?;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], tls.port()))).await?;
    let standalone = prepare("s3-tls", "s3", "")?.with_env(
        "NORA_BACKUP_S3_ENDPOINT",
        format!("https://localhost:{}", proxy.port()),
    );
    let (mut standalone, mut user) = launch(standalone, 60).await?;
    let words = ["the certificate of localhost:", "SSL_CERT_FILE"];
    fails(&mut user, "DESTINATION_UNTRUSTED", &words).await?;
    standalone.stop()?;

    let authority = standalone.outside_dir("authority.pem");
    fs::write(&authority, tls.certificate())?;
    standalone.set_env("SSL_CERT_FILE", authority.display().to_string());
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let made = backed_up_through(&proxy, &user, &[Fault::Garbage, Fault::Cut]).await?;
    assert_eq!(made.state(), backup::State::Completed, "{made:?}");
    ensure!(proxy.connections() > 3);
    for fault in [Fault::Garbage, Fault::Cut] {
        proxy.fault_after(20 << 20, fault);
        restores(&standalone, &mut user, &made.backup_id).await?;
        ensure!(proxy.has_struck(), "{fault:?} met a restore");
    }
    assert_no_secret(&standalone.log());
    Ok(())
}

/// Variables that are changed, the reason that comes of it, and words of its message.
type Case<'a> = (&'a [(&'a str, String)], &'a str, &'a [&'a str]);

#[tokio::test]
async fn what_is_wrong_is_named_and_no_credential_shown() -> Result<()> {
    let reader = ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY"]
        .map(|name| (name, address(&format!("NORA_TEST_S3_READER_{name}"))));
    let cases: [Case<'_>; 3] = [
        (
            &[("SECRET_ACCESS_KEY", WRONG.to_owned())],
            "DESTINATION_DENIED",
            &["NORA_BACKUP_S3_SECRET_ACCESS_KEY is not the secret"],
        ),
        (
            &[("BUCKET", "no-such-bucket".to_owned())],
            "DESTINATION_MISCONFIGURED",
            &[
                "there is no bucket \"no-such-bucket\"",
                "NORA_BACKUP_S3_BUCKET",
            ],
        ),
        (
            &reader,
            "DESTINATION_DENIED",
            &[
                "may not do s3:PutObject on nora/test-",
                "allow it in its policy",
            ],
        ),
    ];
    let proxy = Proxy::start(server()?).await?;
    for (wrong, reason, words) in cases {
        let standalone = prepare("s3-wrong", "s3", "LISTER_")?.with_env(
            "NORA_BACKUP_S3_ENDPOINT",
            format!("http://127.0.0.1:{}", proxy.port()),
        );
        let (mut standalone, mut user) = launch(standalone, 8).await?;
        let earlier = user.complete_backup("agent").await?;
        let before = describe(&standalone.agent_dir("agent"))?;
        fixture::random_files(&standalone.agent_dir("agent"), 4, 1 << 20, 2)?;

        standalone.stop()?;
        let mut right = Vec::new();
        for (name, value) in wrong {
            let variable = format!("NORA_BACKUP_S3_{name}");
            let set = standalone.env(&variable).context("it was set")?;
            standalone.set_env(&variable, value.clone());
            right.push((variable, set));
        }
        standalone.launch().await?;
        let mut user = standalone.user(OWNER).await?;
        fails(&mut user, reason, words).await?;
        assert_no_secret(&standalone.log());

        // Set right, the next one succeeds, and stores what is new.
        standalone.stop()?;
        for (variable, value) in right {
            standalone.set_env(&variable, value);
        }
        standalone.launch().await?;
        let mut user = standalone.user(OWNER).await?;
        let carried = proxy.carried();
        let made = user.complete_backup("agent").await?;
        let written = proxy.carried() - carried;
        ensure!(written < 6 << 20, "{written} bytes for 4 MiB that are new");
        restores(&standalone, &mut user, &made.backup_id).await?;
        let target = standalone.agent_dir("earlier");
        user.restore_directory(&earlier.backup_id, "earlier", &target)
            .await?;
        assert_same(&before, &describe(&target)?);
        assert_no_secret(&standalone.log());
    }
    Ok(())
}
