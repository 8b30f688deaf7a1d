//! Decisions of containers.

use proto::vault::v1::MountDocument;
use serde_json::json;

use super::*;

fn runtime(inspect: &serde_json::Value) -> RuntimeDocument {
    RuntimeDocument {
        inspect_json: inspect.to_string().into_bytes(),
        ..RuntimeDocument::default()
    }
}

fn shown(decisions: &[RestoreDecision]) -> Vec<(String, String)> {
    decisions
        .iter()
        .map(|decision| (decision.decision_id.clone(), decision.options.join(" ")))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(id, options)| ((*id).to_owned(), (*options).to_owned()))
        .collect()
}

#[test]
fn a_plain_container_needs_none() {
    let plain = json!({
        "HostConfig": {
            "PortBindings": {}, "NetworkMode": "default", "Privileged": false, "CapAdd": null,
            "Devices": [], "PidMode": "", "IpcMode": "private", "SecurityOpt": null,
        },
        "NetworkSettings": {"Networks": {"bridge": {}}, "Ports": {"80/tcp": null}},
    });
    let (decisions, warnings) = of(&runtime(&plain), false);
    assert!(decisions.is_empty(), "{decisions:?}");
    assert!(warnings.is_empty());
}

#[test]
fn everything_that_reaches_beyond_is_asked_for() {
    let inspect = json!({
        "HostConfig": {
            "PortBindings": {
                "8080/tcp": [{"HostIp": "", "HostPort": "80"}],
                "53/udp": null,
            },
            "NetworkMode": "backend",
            "Privileged": true,
            "CapAdd": ["NET_ADMIN"],
            "Devices": [{"PathOnHost": "/dev/fuse"}],
            "DeviceRequests": [{"Driver": "nvidia"}],
            "PidMode": "host",
            "IpcMode": "container:abc",
            "UTSMode": "host",
            "SecurityOpt": ["seccomp=unconfined", "no-new-privileges"],
        },
        "NetworkSettings": {"Networks": {"backend": {}, "bridge": {}}},
    });
    let mut document = runtime(&inspect);
    for (target, captured) in [("/data", true), ("/etc/x", false)] {
        document.mounts.push(MountDocument {
            r#type: "bind".into(),
            source: "/host/secret".into(),
            target: target.into(),
            captured,
            ..MountDocument::default()
        });
    }
    let user = pairs(&[
        ("port:53/udp", "drop random same"),
        ("port:8080/tcp", "drop random same"),
        ("bind:/data", "drop volume"),
        ("bind:/etc/x", "drop"),
        ("network:backend", "default same"),
        ("privilege:cap:NET_ADMIN", "drop"),
        ("privilege:device-requests", "drop"),
        ("privilege:device:/dev/fuse", "drop"),
        ("privilege:ipc", "drop"),
        ("privilege:pid", "drop"),
        ("privilege:privileged", "drop"),
        ("privilege:security-opt:seccomp=unconfined", "drop"),
        ("privilege:uts", "drop"),
    ]);
    let (decisions, _) = of(&document, false);
    assert_eq!(shown(&decisions), user);
    for decision in &decisions {
        assert_eq!(decision.choice, decision.options[0]);
        assert!(!decision.message.contains("/host/secret"));
    }
    let (decisions, _) = of(&document, true);
    assert_eq!(
        shown(&decisions)[2],
        ("bind:/data".into(), "drop volume same".into())
    );
    assert_eq!(
        shown(&decisions)[10],
        ("privilege:privileged".into(), "drop same".into())
    );
}

#[test]
fn the_hosts_network_is_for_administrators() {
    let inspect = json!({
        "HostConfig": {"NetworkMode": "host"},
        "NetworkSettings": {"Networks": {"host": {}}},
    });
    let (decisions, _) = of(&runtime(&inspect), false);
    assert_eq!(shown(&decisions), pairs(&[("network:host", "default")]));
    let none = json!({"HostConfig": {"NetworkMode": "none"}});
    assert!(of(&runtime(&none), false).0.is_empty());
}

#[test]
fn what_cannot_be_read_is_left_out_with_a_warning() {
    let document = RuntimeDocument {
        inspect_json: b"{\"HostConfig\": 7}".to_vec(),
        ..RuntimeDocument::default()
    };
    let (decisions, warnings) = of(&document, true);
    assert!(decisions.is_empty());
    assert_eq!(warnings.len(), 1);
}

#[test]
fn choices_are_of_the_options_and_same_is_for_those_who_may() {
    let inspect = json!({"HostConfig": {
        "Privileged": true,
        "NetworkMode": "host",
        "PortBindings": {"80/tcp": []},
    }});
    // An administrator made the draft.
    let (decisions, _) = of(&runtime(&inspect), true);
    let faults = |id: &str, choice: &str, admin: bool| {
        let mut checks = Checks::new();
        let choices = HashMap::from([(id.to_owned(), choice.to_owned())]);
        check_choices(&mut checks, &decisions, &choices, admin);
        checks.done().err().map(|error| error.to_string())
    };
    assert_eq!(faults("port:80/tcp", "same", false), None);
    assert_eq!(
        faults("port:80/tcp", "8080", false).unwrap(),
        "choices[port:80/tcp] must be one of: drop, random, same"
    );
    for id in ["privilege:privileged", "network:host"] {
        assert_eq!(faults(id, "same", true), None);
        assert!(faults(id, "same", false).is_some(), "{id}");
    }
}
