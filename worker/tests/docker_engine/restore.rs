//! Containers come back as new ones.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering::Relaxed};

use bollard::{
    models::{HostConfig, PortBinding},
    query_parameters::{
        ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListVolumesOptionsBuilder,
        RemoveVolumeOptions,
    },
};
use proto::backup::v1::{
    DockerTarget, RestoreDecision, RestorePlan, restore_decision::Kind, restore_plan, source,
};
use tokio_util::sync::CancellationToken;
use vault::{ManifestRef, Meter};
use worker::targets::{self, RestoreContext, Restored, Target, TargetError};

use crate::support::{Bench, unique, with_capability};

/// What the tests of restores do with the bench.
struct Restores<'a> {
    bench: &'a Bench,
    restore_id: String,
    name: String,
    agent_id: String,
}

impl<'a> Restores<'a> {
    fn new(bench: &'a Bench, name: &str) -> Self {
        let name = unique(name);
        bench.remove_later(&name);
        Self {
            bench,
            restore_id: uuid::Uuid::now_v7().to_string(),
            agent_id: format!("agent-{name}"),
            name,
        }
    }

    fn context(&self, attempt: u32, start: bool, decisions: &[(&str, &str)]) -> RestoreContext {
        let target = DockerTarget {
            container_name: self.name.clone(),
            start,
            ..DockerTarget::default()
        };
        RestoreContext {
            restore_id: self.restore_id.clone(),
            attempt,
            plan: RestorePlan {
                agent_id: self.agent_id.clone(),
                target: Some(restore_plan::Target::Docker(target)),
                ..RestorePlan::default()
            },
            in_place: false,
            decisions: decisions
                .iter()
                .map(|(id, choice)| RestoreDecision {
                    decision_id: (*id).to_owned(),
                    kind: match *id {
                        "image" => Kind::Image.into(),
                        _ => Kind::Unspecified.into(),
                    },
                    choice: (*choice).to_owned(),
                    ..RestoreDecision::default()
                })
                .collect(),
            cancel: CancellationToken::new(),
            meter: Arc::new(Meter::default()),
        }
    }

    fn target(&self, context: RestoreContext) -> Box<dyn Target> {
        targets::open(&self.bench.settings, context).unwrap()
    }

    async fn restore(
        &self,
        manifest: &ManifestRef,
        context: RestoreContext,
    ) -> Result<Restored, TargetError> {
        let target = self.target(context);
        let made = async {
            target.clean().await?;
            let reader = self.bench.reader(manifest).await;
            let restored = target.write(reader).await?;
            target.publish().await?;
            target.settle().await?;
            Ok(restored)
        }
        .await;
        if made.is_err() {
            target.clean().await.unwrap();
        }
        made
    }

    /// Everything on the engine that carries the restore's label.
    async fn left(&self) -> Vec<String> {
        let label = format!("nora.backup.restore_id={}", self.restore_id);
        let filters = HashMap::from([("label", vec![label])]);
        let docker = &self.bench.docker;
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let containers = docker.list_containers(Some(options)).await.unwrap();
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let volumes = docker.list_volumes(Some(options)).await.unwrap();
        let options = ListImagesOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let images = docker.list_images(Some(options)).await.unwrap();
        containers
            .into_iter()
            .filter_map(|container| container.id)
            .chain(volumes.volumes.into_iter().flatten().map(|v| v.name))
            .chain(images.into_iter().map(|image| image.id))
            .collect()
    }
}

#[tokio::test]
async fn a_new_container_is_the_same_to_the_last_byte() {
    const PATHS: &[&str] = &["/data", "/etc/agent.conf", "/opt", "/home", "/srv"];
    let bench = Bench::new().await;
    let name = bench.container_with_volume("origin").await;
    bench
        .run(
            &name,
            r#"
            mkdir -p /data/deep/er /srv/new/empty
            echo one > /data/a; echo two > /data/a.b; mkdir /data/a-b; echo x > /data/a-b/x
            ln /data/a /data/deep/hard; ln -s ../a /data/deep/er/link; ln -s /no /data/dead
            mkfifo /data/pipe; mknod /data/null c 1 3
            chown 3000000000:70000 /data/a.b; chmod 4711 /data/a.b; chmod 1777 /data
            touch -d '2001-02-03 04:05:06' /data/a-b/x /data/deep
            long=$(head -c 200 /dev/zero | tr '\0' l); mkdir -p /data/$long/$long
            echo long > /data/$long/$long/$long
            echo new > /srv/new/file; echo odd > "$(printf '/data/n\377m')"
            echo temperature=1 >> /etc/agent.conf
            rm /opt/agent/unwanted; rm -r /home/agent; echo file > /home/agent
            head -c 3000000 /dev/urandom > /data/noise; : > /data/nothing
            touch -d '2001-02-03 04:05:06' /data /srv /srv/new
            "#,
        )
        .await;
    bench.put(&name, with_capability("srv/ping")).await;
    let before = bench.describe(&name, PATHS).await;
    let was = bench.inspect(&name).await;
    let manifest = bench.backup(&name, &[]).await;

    let restores = Restores::new(&bench, "copy");
    let restored = restores
        .restore(&manifest, restores.context(1, false, &[]))
        .await
        .unwrap();
    assert!(restored.warnings.is_empty(), "{:?}", restored.warnings);
    let Some(source::Kind::Docker(source)) = restored.source.kind else {
        panic!("a container's source")
    };
    assert_eq!(source.container, restores.name);

    let after = bench.describe(&restores.name, PATHS).await;
    for (path, text) in &before {
        assert_eq!(after.get(path), Some(text), "{path}");
    }
    let more: Vec<_> = after
        .keys()
        .filter(|path| !before.contains_key(*path))
        .collect();
    assert!(more.is_empty(), "{more:?}");

    let is = bench.inspect(&restores.name).await;
    assert_eq!(is.state.unwrap().running, Some(false));
    let (config, original) = (is.config.unwrap(), was.config.unwrap());
    assert_eq!((config.cmd, config.env), (original.cmd, original.env));
    let volume = is.mounts.unwrap()[0].name.clone().unwrap();
    assert_eq!(volume, format!("nora-{}-1", restores.agent_id));

    // The new one is backed up like the original, and names the same image.
    let again = bench.backup(&restores.name, &[]).await;
    let (first, _) = bench.contents(&manifest).await;
    let (second, _) = bench.contents(&again).await;
    let (first, second) = (first.runtime.unwrap(), second.runtime.unwrap());
    assert_eq!(second.image, first.image);
    assert_eq!(second.image_id, first.image_id);
    assert_eq!(second.deleted_paths, first.deleted_paths);
    let third = Restores::new(&bench, "copy-of-copy");
    let context = third.context(1, true, &[]);
    third.restore(&again, context).await.unwrap();
    let after = bench.describe(&third.name, &["/opt"]).await;
    assert!(
        !after.keys().any(|path| path.contains("unwanted")),
        "{after:?}"
    );
    let state = bench.inspect(&third.name).await.state.unwrap();
    assert_eq!(state.running, Some(true), "started when asked to");

    for restores in [&restores, &third] {
        bench.tidy().await;
        restores
            .target(restores.context(1, false, &[]))
            .clean()
            .await
            .unwrap();
        assert_eq!(restores.left().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_read_only_container_gets_its_volumes() {
    let bench = Bench::new().await;
    let (writable, read_only) = (unique("rw"), unique("ro"));
    let filler = bench
        .container(
            "filler",
            HostConfig {
                binds: Some(vec![format!("{read_only}:/fixed")]),
                ..HostConfig::default()
            },
        )
        .await;
    bench.run(&filler, "echo fixed > /fixed/file").await;
    let host = HostConfig {
        binds: Some(vec![
            format!("{writable}:/data"),
            format!("{read_only}:/fixed:ro"),
        ]),
        readonly_rootfs: Some(true),
        ..HostConfig::default()
    };
    let name = bench.container("sealed", host).await;
    bench.run(&name, "echo mine > /data/mine").await;
    let manifest = bench.backup(&name, &[]).await;
    let restores = Restores::new(&bench, "sealed-copy");
    let restored = restores
        .restore(&manifest, restores.context(1, false, &[]))
        .await
        .unwrap();
    assert_eq!(restored.warnings.len(), 1, "{:?}", restored.warnings);
    for path in ["/data", "/fixed"] {
        assert_eq!(
            bench.describe(&restores.name, &[path]).await,
            bench.describe(&name, &[path]).await
        );
    }
    let mounts = bench.inspect(&restores.name).await.mounts.unwrap();
    let fixed = mounts
        .iter()
        .find(|mount| mount.destination.as_deref() == Some("/fixed"));
    assert_eq!(fixed.unwrap().rw, Some(false));
    bench.tidy().await;
}

#[tokio::test]
async fn decisions_are_kept_to() {
    let bench = Bench::new().await;
    let host_folder = tempfile::tempdir().unwrap();
    std::fs::write(host_folder.path().join("file"), "of the host").unwrap();
    let binding = |port: &str| {
        Some(vec![PortBinding {
            host_ip: Some("127.0.0.1".to_owned()),
            host_port: Some(port.to_owned()),
        }])
    };
    let host = HostConfig {
        binds: Some(vec![format!("{}:/host", host_folder.path().display())]),
        port_bindings: Some(HashMap::from([
            ("80/tcp".to_owned(), binding("")),
            ("81/tcp".to_owned(), binding("")),
        ])),
        cap_add: Some(vec!["NET_ADMIN".to_owned()]),
        ..HostConfig::default()
    };
    let name = bench.container("decided", host).await;
    let manifest = bench.backup(&name, &["/host", "/etc/motd"]).await;

    let dropped = Restores::new(&bench, "dropped");
    let context = dropped.context(1, false, &[("port:80/tcp", "random")]);
    let restored = dropped.restore(&manifest, context).await.unwrap();
    assert!(
        restored.warnings[0].contains("/host"),
        "{:?}",
        restored.warnings
    );
    let is = bench.inspect(&dropped.name).await;
    let host = is.host_config.unwrap();
    let ports = host.port_bindings.unwrap();
    assert_eq!(ports.keys().collect::<Vec<_>>(), ["80/tcp"]);
    assert!(host.cap_add.unwrap_or_default().is_empty());
    assert!(is.mounts.unwrap().is_empty());

    let volume = Restores::new(&bench, "volume");
    let context = volume.context(1, false, &[("bind:/host", "volume")]);
    volume.restore(&manifest, context).await.unwrap();
    let mounts = bench.inspect(&volume.name).await.mounts.unwrap();
    assert_eq!(mounts[0].typ.as_deref(), Some("volume"));
    let held = bench.describe(&volume.name, &["/host/file"]).await;
    assert_eq!(held, bench.describe(&name, &["/host/file"]).await);

    let same = Restores::new(&bench, "same");
    std::fs::write(host_folder.path().join("file"), "changed since").unwrap();
    let context = same.context(1, false, &[("bind:/host", "same")]);
    same.restore(&manifest, context).await.unwrap();
    let still = std::fs::read(host_folder.path().join("file")).unwrap();
    assert_eq!(
        still, b"changed since",
        "the host's files are not a restore's to write"
    );
    bench.tidy().await;
}

#[tokio::test]
async fn networks_are_the_default_unless_decided() {
    let bench = Bench::new().await;
    let network = unique("net");
    let request = bollard::models::NetworkCreateRequest {
        name: network.clone(),
        ..Default::default()
    };
    bench.docker.create_network(request).await.unwrap();
    let host = HostConfig {
        network_mode: Some(network.clone()),
        ..HostConfig::default()
    };
    let name = bench.container("networked", host).await;
    let manifest = bench.backup(&name, &["/etc/motd"]).await;
    let mode = async |name: &str| {
        let host = bench.inspect(name).await.host_config.unwrap();
        host.network_mode.unwrap_or_default()
    };
    let default = Restores::new(&bench, "default");
    let context = default.context(1, true, &[]);
    default.restore(&manifest, context).await.unwrap();
    assert!(["default", "bridge"].contains(&mode(&default.name).await.as_str()));
    let decision = format!("network:{network}");
    let same = Restores::new(&bench, "networked-too");
    let context = same.context(1, true, &[(&decision, "same")]);
    same.restore(&manifest, context).await.unwrap();
    assert_eq!(mode(&same.name).await, network);
    bench.tidy().await;
    bench.docker.remove_network(&network).await.unwrap();

    let gone = Restores::new(&bench, "gone");
    let context = gone.context(1, false, &[(&decision, "same")]);
    let error = gone.restore(&manifest, context).await.unwrap_err();
    assert_eq!(error.reason(), "TARGET_UNUSABLE");
    assert!(error.to_string().contains(&network), "{error}");
    assert_eq!(gone.left().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_in_the_way_is_said() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("way").await;
    bench.run(&name, "echo x > /data/x").await;
    let manifest = bench.backup(&name, &[]).await;

    let taken = Restores {
        name: name.clone(),
        ..Restores::new(&bench, "unused")
    };
    let error = taken
        .restore(&manifest, taken.context(1, false, &[]))
        .await
        .unwrap_err();
    assert_eq!(
        (error.reason(), error.is_retryable()),
        ("TARGET_UNUSABLE", false)
    );
    assert!(error.to_string().contains(&name), "{error}");

    let other = Restores::new(&bench, "other-image");
    let context = other.context(1, false, &[("image", "nora-no-such-image:7")]);
    let error = other.restore(&manifest, context).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.is_retryable()),
        ("IMAGE_MISSING", false)
    );
    assert!(
        error.to_string().contains("nora-no-such-image:7"),
        "{error}"
    );

    // Volumes that others have are nobody's to write to.
    let volumes = Restores::new(&bench, "volumes");
    let foreign = format!("nora-{}-1", volumes.agent_id);
    let request = bollard::models::VolumeCreateRequest {
        name: Some(foreign.clone()),
        ..Default::default()
    };
    bench.docker.create_volume(request).await.unwrap();
    let context = volumes.context(1, false, &[]);
    volumes.restore(&manifest, context).await.unwrap();
    let mounts = bench.inspect(&volumes.name).await.mounts.unwrap();
    assert_eq!(mounts[0].name, Some(format!("nora-{}-2", volumes.agent_id)));
    bench.tidy().await;
    bench
        .docker
        .remove_volume(&foreign, None::<RemoveVolumeOptions>)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_interrupted_leaves_nothing() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("torn").await;
    bench
        .run(
            &name,
            "head -c 100000000 /dev/zero > /data/big; rm /opt/agent/unwanted",
        )
        .await;
    let manifest = bench.backup(&name, &[]).await;

    let restores = Restores::new(&bench, "torn-copy");
    let context = restores.context(1, false, &[]);
    let (cancel, meter) = (context.cancel.clone(), context.meter.clone());
    let target = restores.target(context);
    let reader = bench.reader(&manifest).await;
    let watch = async {
        while meter.bytes_done.load(Relaxed) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!(!restores.left().await.is_empty());
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        written = target.write(reader) => written.unwrap_err(),
        () = watch => unreachable!(),
    };
    assert_eq!(error.reason(), "CANCELED", "{error}");
    target.clean().await.unwrap();
    assert_eq!(
        restores.left().await,
        Vec::<String>::new(),
        "after a cancel"
    );

    // Attempts that died: one out of sight, one published.
    for publishes in [false, true] {
        let dead = restores.target(restores.context(1, false, &[]));
        dead.write(bench.reader(&manifest).await).await.unwrap();
        if publishes {
            dead.publish().await.unwrap();
            // Published is not out of sight any more.
            dead.abandon().await.unwrap();
            assert!(!restores.left().await.is_empty());
        }
        let next = restores.target(restores.context(2, false, &[]));
        next.abandon().await.unwrap();
        assert!(!restores.left().await.is_empty(), "it is another attempt's");
        next.clean().await.unwrap();
        assert_eq!(restores.left().await, Vec::<String>::new(), "{publishes}");
    }
    let lost = restores.target(restores.context(3, false, &[]));
    lost.write(bench.reader(&manifest).await).await.unwrap();
    let earlier = restores.target(restores.context(2, false, &[]));
    earlier.clean().await.unwrap();
    assert!(
        !restores.left().await.is_empty(),
        "a later attempt's is not touched"
    );
    lost.abandon().await.unwrap();
    assert_eq!(restores.left().await, Vec::<String>::new());
    // The original is as it was.
    assert_eq!(
        bench.inspect(&name).await.state.unwrap().running,
        Some(true)
    );
    bench.tidy().await;
}
