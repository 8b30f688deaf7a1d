//! What of a container can't be copied as it was, so that someone must say how.
//!
//! All of it is read from the engine's own description of the container, kept in the backup. Each
//! decision comes with its safest choice made. "same" is only offered, and only accepted from, who
//! may give a container what reaches beyond it.
//!
//! Whether the image is on the engine only the worker can tell; it fails with IMAGE_MISSING when
//! it is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::{
    backup::v1::{RestoreDecision, restore_decision::Kind},
    vault::v1::RuntimeDocument,
};
use serde::Deserialize;

use crate::validation::Checks;

/// Decisions at the most; what lies beyond is dropped from the container, and said in a warning.
const DECISIONS_MAX: usize = 200;

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Inspect {
    host_config: HostConfig,
    network_settings: NetworkSettings,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig {
    port_bindings: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
    publish_all_ports: Option<bool>,
    network_mode: Option<String>,
    privileged: Option<bool>,
    cap_add: Option<Vec<String>>,
    devices: Option<Vec<Device>>,
    device_requests: Option<Vec<serde::de::IgnoredAny>>,
    device_cgroup_rules: Option<Vec<String>>,
    pid_mode: Option<String>,
    ipc_mode: Option<String>,
    #[serde(rename = "UTSMode")]
    uts_mode: Option<String>,
    userns_mode: Option<String>,
    cgroupns_mode: Option<String>,
    security_opt: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct PortBinding {
    host_ip: Option<String>,
    host_port: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Device {
    path_on_host: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    networks: Option<BTreeMap<String, Anything>>,
    ports: Option<BTreeMap<String, Anything>>,
}

/// What a value is does not matter, only that it is there; null counts.
#[derive(Deserialize)]
struct Anything(#[allow(dead_code)] serde_json::Value);

/// The decisions of a container, and warnings for people. `admin`: "same" is offered where it is
/// for administrators only.
pub(super) fn of(runtime: &RuntimeDocument, admin: bool) -> (Vec<RestoreDecision>, Vec<String>) {
    let mut warnings = Vec::new();
    let inspect = serde_json::from_slice(&runtime.inspect_json).unwrap_or_else(|_| {
        warnings.push(
            "the backup's description of the container cannot be read: ports, networks and \
             privileges are left out"
                .to_owned(),
        );
        Inspect::default()
    });
    let mut all = Vec::new();
    ports(&inspect, &mut all);
    bind_mounts(runtime, admin, &mut all);
    networks(&inspect, admin, &mut all);
    privileges(&inspect.host_config, admin, &mut all);
    if all.len() > DECISIONS_MAX {
        warnings.push(format!(
            "the container has {} things to decide; those beyond {DECISIONS_MAX} are left out",
            all.len()
        ));
        all.truncate(DECISIONS_MAX);
    }
    (all, warnings)
}

fn decision(kind: Kind, id: String, message: String, options: &[&str]) -> RestoreDecision {
    RestoreDecision {
        decision_id: id,
        kind: kind.into(),
        message,
        options: options.iter().map(|&option| option.to_owned()).collect(),
        choice: options.first().copied().unwrap_or_default().to_owned(),
        required: false,
    }
}

fn ports(inspect: &Inspect, all: &mut Vec<RestoreDecision>) {
    let empty = BTreeMap::new();
    let bindings = inspect.host_config.port_bindings.as_ref().unwrap_or(&empty);
    for (port, hosts) in bindings {
        let hosts: Vec<String> = hosts
            .iter()
            .flatten()
            .map(|host| {
                let address = host.host_ip.as_deref().unwrap_or_default();
                let address = if address.is_empty() { "*" } else { address };
                let port = host.host_port.as_deref().unwrap_or_default();
                format!("{address}:{}", if port.is_empty() { "any" } else { port })
            })
            .collect();
        all.push(decision(
            Kind::Port,
            format!("port:{port}"),
            format!(
                "the original publishes its port {port} at {}: two containers cannot share a port \
                 of the host",
                hosts.join(", ")
            ),
            &["drop", "random", "same"],
        ));
    }
    if inspect.host_config.publish_all_ports == Some(true) {
        let exposed = inspect
            .network_settings
            .ports
            .iter()
            .flat_map(BTreeMap::keys);
        for port in exposed.filter(|port| !bindings.contains_key(*port)) {
            all.push(decision(
                Kind::Port,
                format!("port:{port}"),
                format!("the original publishes its port {port} at a free port of the host"),
                &["drop", "random"],
            ));
        }
    }
}

fn bind_mounts(runtime: &RuntimeDocument, admin: bool, all: &mut Vec<RestoreDecision>) {
    for mount in runtime.mounts.iter().filter(|mount| mount.r#type == "bind") {
        let mut options = vec!["drop"];
        if mount.captured {
            options.push("volume");
        }
        if admin {
            options.push("same");
        }
        // The host's path is for those only who may use it.
        let host_path = if admin {
            format!(" ({})", mount.source)
        } else {
            String::new()
        };
        let contents = if mount.captured {
            "the backup holds its contents"
        } else {
            "the backup does not hold its contents"
        };
        all.push(decision(
            Kind::BindMount,
            format!("bind:{}", mount.target),
            format!(
                "the original has a folder of the host{host_path} at {}: {contents}",
                mount.target
            ),
            &options,
        ));
    }
}

fn networks(inspect: &Inspect, admin: bool, all: &mut Vec<RestoreDecision>) {
    let mode = inspect
        .host_config
        .network_mode
        .as_deref()
        .unwrap_or_default();
    let mut names: BTreeSet<&str> = inspect
        .network_settings
        .networks
        .iter()
        .flat_map(BTreeMap::keys)
        .map(String::as_str)
        .collect();
    if !mode.is_empty() {
        names.insert(mode);
    }
    // "none" is kept without asking: it gives nothing away.
    for name in names {
        if matches!(name, "default" | "bridge" | "none") {
            continue;
        }
        let options: &[&str] = if !admin && reaches_beyond(name) {
            &["default"]
        } else {
            &["default", "same"]
        };
        all.push(decision(
            Kind::Network,
            format!("network:{name}"),
            format!("the original is in the network {name}; the default is the engine's bridge"),
            options,
        ));
    }
}

/// Whether a network is not one among containers, but the host's or another container's own.
fn reaches_beyond(network: &str) -> bool {
    network == "host" || network.starts_with("container:")
}

fn privileges(host: &HostConfig, admin: bool, all: &mut Vec<RestoreDecision>) {
    let options: &[&str] = if admin { &["drop", "same"] } else { &["drop"] };
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    if host.privileged == Some(true) {
        found.insert("privileged".into(), "runs privileged".into());
    }
    for capability in host.cap_add.iter().flatten() {
        let what = format!("has the capability {capability}");
        found.insert(format!("cap:{capability}"), what);
    }
    for device in host.devices.iter().flatten() {
        let path = device.path_on_host.as_deref().unwrap_or_default();
        let what = format!("has the host's device {path}");
        found.insert(format!("device:{path}"), what);
    }
    if host
        .device_requests
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        found.insert(
            "device-requests".into(),
            "asks for devices by driver, such as GPUs".into(),
        );
    }
    for rule in host.device_cgroup_rules.iter().flatten() {
        found.insert(
            format!("device-rule:{rule}"),
            format!("may use devices by the rule {rule}"),
        );
    }
    for (name, mode) in [
        ("pid", &host.pid_mode),
        ("ipc", &host.ipc_mode),
        ("uts", &host.uts_mode),
        ("userns", &host.userns_mode),
        ("cgroupns", &host.cgroupns_mode),
    ] {
        if let Some(mode) = mode
            && reaches_beyond(mode)
        {
            let what = format!("shares its {name} namespace ({mode})");
            found.insert(name.to_owned(), what);
        }
    }
    for option in host.security_opt.iter().flatten() {
        if !option.starts_with("no-new-privileges") {
            let what = format!("has the security option {option}");
            found.insert(format!("security-opt:{option}"), what);
        }
    }
    for (id, what) in found {
        all.push(decision(
            Kind::Privilege,
            format!("privilege:{id}"),
            format!("the original {what}"),
            options,
        ));
    }
}

/// Notes choices that no decision of the restore allows. Unknown decisions are the catalog's to
/// refuse.
pub(super) fn check_choices(
    checks: &mut Checks,
    decisions: &[RestoreDecision],
    choices: &HashMap<String, String>,
    admin: bool,
) {
    for decision in decisions {
        let Some(choice) = choices.get(&decision.decision_id) else {
            continue;
        };
        let field = format!("choices[{}]", decision.decision_id);
        if decision.kind() == Kind::Image {
            checks.image(&field, choice);
            continue;
        }
        let guarded = match decision.kind() {
            Kind::BindMount | Kind::Privilege => true,
            Kind::Network => decision
                .decision_id
                .strip_prefix("network:")
                .is_none_or(reaches_beyond),
            _ => false,
        };
        // The draft may be an administrator's, and the start the owner's.
        let options: Vec<&str> = decision
            .options
            .iter()
            .map(String::as_str)
            .filter(|option| admin || !guarded || *option != "same")
            .collect();
        if !options.contains(&choice.as_str()) {
            checks.fault(field, format!("must be one of: {}", options.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests;
