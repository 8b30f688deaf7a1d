use bollard::models::{
    DeviceMapping, EndpointSettings, NetworkSettings, RestartPolicy, RestartPolicyNameEnum,
};
use proto::backup::v1::{RestoreDecision, restore_decision::Kind};

use super::*;

fn mark() -> Mark {
    Mark {
        restore_id: "r".to_owned(),
        attempt: 2,
    }
}

fn image() -> Image {
    Image {
        reference: "image:1".to_owned(),
        labels: HashMap::new(),
    }
}

fn choices(list: &[(&str, &str)]) -> Choices {
    let decisions: Vec<RestoreDecision> = list
        .iter()
        .map(|(id, choice)| RestoreDecision {
            decision_id: (*id).to_owned(),
            kind: Kind::Unspecified.into(),
            choice: (*choice).to_owned(),
            ..RestoreDecision::default()
        })
        .collect();
    Choices::of(&decisions)
}

fn description() -> Description {
    let bindings = |ip: &str, port: &str| {
        Some(vec![PortBinding {
            host_ip: Some(ip.to_owned()),
            host_port: Some(port.to_owned()),
        }])
    };
    let inspect = ContainerInspectResponse {
        id: Some("0123456789abcdef".to_owned()),
        config: Some(ContainerConfig {
            hostname: Some("0123456789ab".to_owned()),
            env: Some(vec!["A=b".to_owned()]),
            labels: Some(HashMap::from([
                ("mine".to_owned(), "1".to_owned()),
                ("com.docker.compose.project".to_owned(), "x".to_owned()),
                (labels::RESTORE_ID.to_owned(), "earlier".to_owned()),
                (labels::DELETED_PATHS.to_owned(), "[]".to_owned()),
            ])),
            ..ContainerConfig::default()
        }),
        host_config: Some(HostConfig {
            binds: Some(vec!["original-volume:/data".to_owned()]),
            volumes_from: Some(vec!["other".to_owned()]),
            memory: Some(1 << 26),
            privileged: Some(true),
            cap_add: Some(vec!["NET_ADMIN".to_owned(), "SYS_TIME".to_owned()]),
            devices: Some(vec![DeviceMapping {
                path_on_host: Some("/dev/fuse".to_owned()),
                ..DeviceMapping::default()
            }]),
            pid_mode: Some("host".to_owned()),
            ipc_mode: Some("private".to_owned()),
            security_opt: Some(vec![
                "seccomp=unconfined".to_owned(),
                "no-new-privileges".to_owned(),
            ]),
            network_mode: Some("inner".to_owned()),
            port_bindings: Some(HashMap::from([
                ("80/tcp".to_owned(), bindings("127.0.0.1", "8080")),
                ("81/tcp".to_owned(), bindings("", "8081")),
                ("82/tcp".to_owned(), bindings("", "8082")),
            ])),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::ALWAYS),
                maximum_retry_count: None,
            }),
            auto_remove: Some(true),
            ..HostConfig::default()
        }),
        network_settings: Some(NetworkSettings {
            networks: Some(HashMap::from([
                ("inner".to_owned(), EndpointSettings::default()),
                ("outer".to_owned(), EndpointSettings::default()),
            ])),
            ..NetworkSettings::default()
        }),
        ..ContainerInspectResponse::default()
    };
    let runtime = RuntimeDocument {
        inspect_json: serde_json::to_vec(&inspect).unwrap(),
        ..RuntimeDocument::default()
    };
    Description::read(&runtime).unwrap()
}

fn made(choices: &Choices) -> (ContainerCreateBody, Networks, Vec<String>) {
    let description = description();
    let networks = Networks::of(&description, choices);
    let mut warnings = Warnings::default();
    let mounts = Mounts::none();
    let made = body(
        &description,
        choices,
        &networks,
        &image(),
        &mounts,
        &mark(),
        &mut warnings,
    );
    (made, networks, warnings.into_messages())
}

#[test]
fn without_decisions_nothing_reaches_beyond_the_container() {
    let (made, networks, warnings) = made(&choices(&[]));
    let host = made.host_config.unwrap();
    assert_eq!(host.binds, None, "never the original's volumes");
    assert_eq!(host.volumes_from, None);
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.cap_add, Some(vec![]));
    assert_eq!(host.devices, Some(vec![]));
    assert_eq!(host.pid_mode, None);
    assert_eq!(host.ipc_mode.as_deref(), Some("private"));
    assert_eq!(
        host.security_opt,
        Some(vec!["no-new-privileges".to_owned()])
    );
    assert_eq!(host.port_bindings, Some(HashMap::new()));
    assert_eq!(host.network_mode.as_deref(), Some("default"));
    assert_eq!(host.auto_remove, None);
    assert_eq!(networks.named().count(), 0);
    assert_eq!(made.hostname, None, "it was only the original's id");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn what_is_its_own_is_taken_over() {
    let (made, ..) = made(&choices(&[]));
    let labels = made.labels.unwrap();
    assert_eq!(labels["mine"], "1");
    assert_eq!(labels[labels::RESTORE_ID], "r");
    assert_eq!(labels.len(), 3, "{labels:?}");
    assert_eq!(made.env, Some(vec!["A=b".to_owned()]));
    let host = made.host_config.unwrap();
    assert_eq!(host.memory, Some(1 << 26));
    assert_eq!(
        host.restart_policy.unwrap().name,
        Some(RestartPolicyNameEnum::ALWAYS)
    );
}

#[test]
fn decisions_are_kept_to() {
    let (made, networks, _) = made(&choices(&[
        ("port:80/tcp", "random"),
        ("port:81/tcp", "same"),
        ("port:82/tcp", "drop"),
        ("network:inner", "same"),
        ("network:outer", "same"),
        ("privilege:privileged", "same"),
        ("privilege:cap:SYS_TIME", "same"),
        ("privilege:device:/dev/fuse", "same"),
        ("privilege:pid", "same"),
        ("privilege:security-opt:seccomp=unconfined", "same"),
    ]));
    let host = made.host_config.unwrap();
    let ports = host.port_bindings.unwrap();
    let of = |port: &str| ports[port].clone().unwrap()[0].clone();
    assert_eq!(ports.len(), 2);
    assert_eq!(of("80/tcp").host_ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(of("80/tcp").host_port, None);
    assert_eq!(of("81/tcp").host_port.as_deref(), Some("8081"));
    assert_eq!(host.privileged, Some(true));
    assert_eq!(host.cap_add, Some(vec!["SYS_TIME".to_owned()]));
    assert_eq!(host.devices.unwrap().len(), 1);
    assert_eq!(host.pid_mode.as_deref(), Some("host"));
    assert_eq!(host.security_opt.unwrap().len(), 2);
    assert_eq!(host.network_mode.as_deref(), Some("inner"));
    let further: Vec<&str> = networks
        .further
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(further, ["outer"]);
    assert_eq!(networks.named().collect::<Vec<_>>(), ["inner", "outer"]);
}
