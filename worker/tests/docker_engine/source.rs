//! Containers are read.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bollard::models::HostConfig;
use proto::{
    backup::v1::Consistency,
    vault::v1::{Entry, EntryType},
};
use worker::{
    settings::WorkerSettings,
    sources::{SourceError, docker},
};

use crate::support::{Bench, Pauses, finish, source, unique, with_capability};

fn by_path(entries: Vec<Entry>) -> HashMap<Vec<u8>, Entry> {
    entries
        .into_iter()
        .map(|entry| (entry.path.clone(), entry))
        .collect()
}

#[tokio::test]
async fn what_is_its_own_is_captured_and_nothing_else() {
    let bench = Bench::new().await;
    let host_folder = tempfile::tempdir().unwrap();
    std::fs::write(host_folder.path().join("secret"), "of the host").unwrap();
    let host = HostConfig {
        binds: Some(vec![
            format!("{}:/data", unique("own")),
            format!("{}:/srv/host", host_folder.path().display()),
        ]),
        ..HostConfig::default()
    };
    let name = bench.container("own", host).await;
    bench
        .run(
            &name,
            r#"
            mkdir -p /data/deep/er /srv/new/empty
            echo one > /data/a; echo two > /data/a.b; mkdir /data/a-b; echo x > /data/a-b/x
            ln /data/a /data/deep/hard; ln -s ../a /data/deep/er/link
            mkfifo /data/pipe; mknod /data/null c 1 3
            chown 3000000000:70000 /data/a.b; chmod 4711 /data/a.b
            touch -d '1960-02-03 04:05:06' /data/a-b/x
            echo new > /srv/new/file
            echo odd > "$(printf '/opt/agent/n\377m')"
            echo temperature=1 >> /etc/agent.conf
            rm /opt/agent/unwanted
            head -c 3000000 /dev/urandom > /data/noise
            ln /data/pipe /data/pipe2; ln -s a /data/soft1; ln /data/soft1 /data/soft2
            "#,
        )
        .await;
    bench.put(&name, with_capability("home/agent/ping")).await;
    let manifest = bench.backup(&name, &[]).await;
    let (manifest_read, entries) = bench.contents(&manifest).await;
    let paths: Vec<String> = entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
        .collect();
    assert_eq!(
        paths,
        [
            "",
            "data",
            "data/a",
            "data/a-b",
            "data/a-b/x",
            "data/a.b",
            "data/deep",
            "data/deep/er",
            "data/deep/er/link",
            "data/deep/hard",
            "data/noise",
            "data/null",
            "data/pipe",
            "data/pipe2",
            "data/soft1",
            "data/soft2",
            "etc",
            "etc/agent.conf",
            "home",
            "home/agent",
            "home/agent/ping",
            "opt",
            "opt/agent",
            "opt/agent/n\u{fffd}m",
            "srv",
            "srv/new",
            "srv/new/empty",
            "srv/new/file"
        ]
    );
    let found = by_path(entries);
    let entry = |path: &[u8]| &found[path];
    assert_eq!(entry(b"data/a.b").uid, 3_000_000_000);
    assert_eq!(entry(b"data/a.b").gid, 70_000);
    assert_eq!(entry(b"data/a.b").mode, 0o4711);
    assert_eq!(entry(b"data/a-b/x").mtime_seconds, -312_753_294);
    assert_eq!(entry(b"data/deep/hard").r#type(), EntryType::HardLink);
    assert_eq!(entry(b"data/deep/hard").link_target, b"data/a");
    assert_eq!(entry(b"data/deep/er/link").link_target, b"../a");
    assert_eq!(entry(b"data/pipe").r#type(), EntryType::Fifo);
    // Only files have further names in a backup.
    assert_eq!(entry(b"data/pipe2").r#type(), EntryType::Fifo);
    assert_eq!(entry(b"data/soft2").r#type(), EntryType::Symlink);
    assert_eq!(entry(b"data/soft2").link_target, b"a");
    let null = entry(b"data/null");
    assert_eq!((null.device_major, null.device_minor), (1, 3));
    assert!(found.contains_key(&b"opt/agent/n\xffm"[..]));
    assert_eq!(entry(b"etc/agent.conf").mode, 0o640);
    let capability = &entry(b"home/agent/ping").xattrs[0];
    assert_eq!(capability.name, b"security.capability");
    assert_eq!(capability.value.len(), 20);
    assert_eq!(
        bench.content(&manifest, "data/noise").await.len(),
        3_000_000
    );
    let config = bench.content(&manifest, "etc/agent.conf").await;
    assert!(config.ends_with(b"temperature=1\n"));

    let runtime = manifest_read.runtime.unwrap();
    assert_eq!(runtime.container_name, name);
    assert!(runtime.was_running);
    assert!(runtime.image_id.starts_with("sha256:"));
    assert_eq!(runtime.deleted_paths, [b"/opt/agent/unwanted"]);
    let mounts: Vec<_> = runtime
        .mounts
        .iter()
        .map(|mount| (mount.r#type.as_str(), mount.target.as_str(), mount.captured))
        .collect();
    assert_eq!(
        mounts,
        [("volume", "/data", true), ("bind", "/srv/host", false)]
    );
    let described: serde_json::Value = serde_json::from_slice(&runtime.inspect_json).unwrap();
    assert_eq!(described["Config"]["Env"][0], "AGENT_MODE=careful");
    assert!(
        manifest_read.warnings.is_empty(),
        "{:?}",
        manifest_read.warnings
    );
    bench.tidy().await;
}

#[tokio::test]
async fn registered_paths_are_captured_through_links() {
    let bench = Bench::new().await;
    let host_folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(host_folder.path().join("part")).unwrap();
    std::fs::write(host_folder.path().join("part/mine"), "mine").unwrap();
    std::fs::write(host_folder.path().join("other"), "not mine").unwrap();
    let host = HostConfig {
        binds: Some(vec![format!("{}:/host", host_folder.path().display())]),
        ..HostConfig::default()
    };
    let name = bench.container("paths", host).await;
    bench
        .run(
            &name,
            "mkdir -p /srv/real/state /srv/other; echo s > /srv/real/state/s; ln -s real /srv/link;
             ln -s /nowhere /srv/dead; rm /opt/agent/unwanted; echo x > /srv/other/x",
        )
        .await;
    let paths = [
        "/srv/link/state",
        "/srv/dead",
        "/opt/agent/",
        "/host/part",
        "/gone",
    ];
    let manifest = bench.backup(&name, &paths).await;
    let (manifest, entries) = bench.contents(&manifest).await;
    let found: Vec<String> = entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
        .collect();
    assert_eq!(
        found,
        [
            "",
            "host",
            "host/part",
            "host/part/mine",
            "opt",
            "opt/agent",
            "opt/agent/README",
            "srv",
            "srv/dead",
            "srv/link",
            "srv/real",
            "srv/real/state",
            "srv/real/state/s"
        ]
    );
    let runtime = manifest.runtime.unwrap();
    assert_eq!(runtime.deleted_paths, [b"/opt/agent/unwanted"]);
    assert!(runtime.mounts[0].captured);
    assert_eq!(manifest.warnings.len(), 1, "{:?}", manifest.warnings);
    assert_eq!(manifest.warnings[0].path, b"gone");

    let context = Bench::context(&Arc::default());
    let nothing = source(&name, &["/gone", "/gone/too"], Consistency::Live);
    let error = bench.capture(&nothing, context).await.unwrap_err();
    assert_eq!(error.reason(), "SOURCE_NOT_FOUND", "{error}");
    bench.tidy().await;
}

#[tokio::test]
async fn a_further_name_of_what_is_left_out_is_a_file() {
    let bench = Bench::new().await;
    let host_folder = tempfile::tempdir().unwrap();
    for folder in ["left-out", "taken"] {
        std::fs::create_dir(host_folder.path().join(folder)).unwrap();
    }
    let (first, second) = (
        host_folder.path().join("left-out/first"),
        host_folder.path().join("taken/second"),
    );
    std::fs::write(&first, "one content").unwrap();
    std::fs::hard_link(&first, second).unwrap();
    std::fs::write(host_folder.path().join("taken/third"), "after it").unwrap();
    let bind = |folder: &str, target: &str| {
        format!("{}/{folder}:/srv/{target}", host_folder.path().display())
    };
    let host = HostConfig {
        binds: Some(vec![bind("left-out", "a"), bind("taken", "b")]),
        ..HostConfig::default()
    };
    let name = bench.container("links", host).await;
    let manifest = bench.backup(&name, &["/srv", "/srv/b"]).await;
    let (_, entries) = bench.contents(&manifest).await;
    let found = by_path(entries);
    assert!(!found.contains_key(&b"srv/a/first"[..]));
    let second = &found[&b"srv/b/second"[..]];
    assert_eq!(second.r#type(), EntryType::Regular);
    let content = bench.content(&manifest, "srv/b/second").await;
    assert_eq!(content, b"one content");
    let content = bench.content(&manifest, "srv/b/third").await;
    assert_eq!(content, b"after it");
    bench.tidy().await;
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let bench = Bench::new().await;
    let missing = source(&unique("none"), &[], Consistency::Live);
    let context = Bench::context(&Arc::default());
    let error = bench.capture(&missing, context.clone()).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.is_retryable()),
        ("SOURCE_NOT_FOUND", false)
    );
    assert!(error.to_string().contains(&missing.container), "{error}");

    let odd = source("../images/json?x=", &[], Consistency::Live);
    let error = bench.capture(&odd, context.clone()).await.unwrap_err();
    assert_eq!(error.reason(), "SOURCE_NOT_FOUND", "{error}");

    let mut nowhere = Bench::new().await;
    nowhere.settings.docker_host = Some("unix:///nonexistent/docker.sock".to_owned());
    let error = nowhere.capture(&missing, context).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.is_retryable()),
        ("ENGINE_UNAVAILABLE", true)
    );
    assert!(docker::check(&nowhere.settings).await.unwrap().is_err());
    assert!(docker::check(&bench.settings).await.unwrap().is_ok());
    assert!(docker::check(&WorkerSettings::default()).await.is_none());
}

/// Runs a capture and cancels it once some bytes were read.
async fn canceled(bench: &Bench, name: &str, pauses: &Arc<Pauses>) -> SourceError {
    let context = Bench::context(pauses);
    let (cancel, meter) = (context.cancel.clone(), context.meter.clone());
    let paused = source(name, &[], Consistency::Pause);
    let capture = bench.capture(&paused, context);
    let watch = async {
        while meter.bytes_done.load(Relaxed) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        captured = capture => captured.unwrap_err(),
        () = watch => unreachable!(),
    }
}

#[tokio::test]
async fn what_was_paused_is_resumed_whatever_happens() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("pause").await;
    bench
        .run(&name, "head -c 300000000 /dev/zero > /data/big")
        .await;
    let id = bench.inspect(&name).await.id;

    let pauses = Arc::new(Pauses::default());
    let error = canceled(&bench, &name, &pauses).await;
    assert_eq!(error.reason(), "CANCELED", "{error}");
    assert!(!bench.is_paused(&name).await, "after a cancel");
    assert_eq!(*pauses.notes.lock().unwrap(), [id.clone(), None]);

    let pauses = Arc::new(Pauses::default());
    let paused = source(&name, &[], Consistency::Pause);
    let context = Bench::context(&pauses);
    finish(bench.capture(&paused, context).await.unwrap()).await;
    assert!(!bench.is_paused(&name).await, "after success");
    assert_eq!(*pauses.notes.lock().unwrap(), [id, None]);

    let none = source(&name, &["/gone"], Consistency::Pause);
    let context = Bench::context(&pauses);
    bench.capture(&none, context).await.unwrap_err();
    assert!(!bench.is_paused(&name).await, "after an error");

    let refuses = Arc::new(Pauses {
        refuses: true,
        ..Pauses::default()
    });
    let error = bench.capture(&paused, Bench::context(&refuses)).await;
    assert!(matches!(error, Err(SourceError::Catalog(_))));
    assert!(!bench.is_paused(&name).await, "not paused without a note");
    bench.tidy().await;
}

#[tokio::test]
async fn who_was_paused_already_stays_paused() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("kept").await;
    bench.run(&name, "echo x > /data/x").await;
    bench.docker.pause_container(&name).await.unwrap();
    let pauses = Arc::new(Pauses::default());
    let paused = source(&name, &[], Consistency::Pause);
    let context = Bench::context(&pauses);
    finish(bench.capture(&paused, context).await.unwrap()).await;
    assert!(bench.is_paused(&name).await);
    assert!(pauses.notes.lock().unwrap().is_empty());

    // A container of a dead attempt is resumed; one that runs, or is gone, is fine.
    docker::resume(&bench.settings, &name).await.unwrap();
    assert!(!bench.is_paused(&name).await);
    docker::resume(&bench.settings, &name).await.unwrap();
    docker::resume(&bench.settings, &unique("gone"))
        .await
        .unwrap();
    bench.tidy().await;
}

#[tokio::test]
async fn a_stopped_container_is_read_as_well() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("stopped").await;
    bench.run(&name, "echo kept > /data/kept").await;
    bench.docker.kill_container(&name, None).await.unwrap();
    let pauses = Arc::new(Pauses::default());
    let paused = source(&name, &[], Consistency::Pause);
    let context = Bench::context(&pauses);
    let manifest = finish(bench.capture(&paused, context).await.unwrap()).await;
    assert_eq!(bench.content(&manifest, "data/kept").await, b"kept\n");
    let (manifest, _) = bench.contents(&manifest).await;
    assert!(!manifest.runtime.unwrap().was_running);
    bench.tidy().await;
}

#[tokio::test]
async fn files_that_shrink_and_vanish_do_not_end_a_backup() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("busy").await;
    bench
        .run(
            &name,
            "mkdir /data/d; for i in $(seq 1 300); do echo $i > /data/d/$i; done
             echo last > /data/z; head -c 100000000 /dev/zero > /data/large
             (while true; do
                head -c 2000000 /dev/zero > /data/log; echo x > /data/d/new; rm /data/d/new
                sleep 0.05
              done) > /dev/null 2>&1 &
             # Without a pause, so that it grows while it is read, however busy the machine is.
             (while true; do echo more >> /data/appended; done) > /dev/null 2>&1 &
             until [ -s /data/appended ]; do :; done",
        )
        .await;
    for _ in 0..3 {
        let manifest = bench.backup(&name, &[]).await;
        let (manifest_read, entries) = bench.contents(&manifest).await;
        let warned = |path: &[u8]| manifest_read.warnings.iter().any(|w| w.path == path);
        assert!(warned(b"data/appended"), "{:?}", manifest_read.warnings);
        let found = by_path(entries);
        for number in 1..=300 {
            assert!(found.contains_key(format!("data/d/{number}").as_bytes()));
        }
        assert_eq!(bench.content(&manifest, "data/z").await, b"last\n");
    }
    bench.tidy().await;
}
