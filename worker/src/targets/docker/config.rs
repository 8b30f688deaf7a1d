//! From the backup's description of a container to the new one.
//!
//! What is taken over is named here, field by field: what is not named would share something with
//! the original, or reach beyond the container, and is left out.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HostConfig,
    HostConfigCgroupnsModeEnum, NetworkingConfig, PortBinding,
};
use proto::vault::v1::RuntimeDocument;

use super::{
    super::warnings::Warnings,
    choices::{Choice, Choices},
    leftovers::Mark,
    mounts::Mounts,
    without::Image,
};
use crate::{sources::docker::labels, targets::TargetError};

/// Labels of Docker Compose: it would take the new container for one of its own.
const COMPOSE: &str = "com.docker.compose.";
/// Length of the id that a container has as its host name unless told otherwise.
const SHORT_ID: usize = 12;

/// What the engine said of the original.
pub(super) struct Description {
    id: String,
    config: ContainerConfig,
    pub(super) host: HostConfig,
    networks: BTreeMap<String, EndpointSettings>,
    ports: Vec<String>,
}

impl Description {
    /// As the backup has it.
    pub(super) fn read(runtime: &RuntimeDocument) -> Result<Self, TargetError> {
        let inspect: ContainerInspectResponse = serde_json::from_slice(&runtime.inspect_json)
            .map_err(|error| {
                TargetError::Unusable(format!(
                    "the backup's description of the container can't be read ({error}): restore \
                     another backup"
                ))
            })?;
        let settings = inspect.network_settings.unwrap_or_default();
        Ok(Self {
            id: inspect.id.unwrap_or_default(),
            config: inspect.config.unwrap_or_default(),
            host: inspect.host_config.unwrap_or_default(),
            networks: settings.networks.unwrap_or_default().into_iter().collect(),
            ports: settings.ports.unwrap_or_default().into_keys().collect(),
        })
    }

    /// Whether the container may not write to its own root.
    pub(super) fn is_read_only(&self) -> bool {
        self.host.readonly_rootfs == Some(true)
    }

    /// How it was connected to a network, as far as that was wished and not given.
    fn endpoint(&self, settings: &EndpointSettings) -> EndpointSettings {
        let aliases = settings.aliases.clone().map(|mut all| {
            all.retain(|alias| alias.len() != SHORT_ID || !self.id.starts_with(alias.as_str()));
            all
        });
        EndpointSettings {
            aliases,
            ipam_config: settings.ipam_config.clone(),
            links: settings.links.clone(),
            driver_opts: settings.driver_opts.clone(),
            ..EndpointSettings::default()
        }
    }

    fn network_mode(&self) -> &str {
        self.host.network_mode.as_deref().unwrap_or_default()
    }
}

/// The networks of the new container.
pub(super) struct Networks {
    mode: String,
    /// Those that it is connected to beyond the first, and how.
    pub(super) further: Vec<(String, EndpointSettings)>,
    /// How it is connected to the first, where that is not left to the engine.
    first: Option<EndpointSettings>,
}

impl Networks {
    /// As decided.
    pub(super) fn of(description: &Description, choices: &Choices) -> Self {
        let mode = match description.network_mode() {
            "none" => "none",
            mode if choices.keeps_network(mode) => mode,
            _ => "default",
        };
        let alone = mode == "none" || mode == "host" || mode.starts_with("container:");
        let connected = |name: &String| match description.networks.get(name) {
            // Addresses and names in the network are the original's, or the one's that takes its
            // place.
            Some(settings) if choices.keeps_all() => description.endpoint(settings),
            _ => EndpointSettings::default(),
        };
        let is_own = description.networks.contains_key(mode) && mode != "bridge";
        Self {
            mode: mode.to_owned(),
            first: (choices.keeps_all() && is_own && !alone).then(|| connected(&mode.to_owned())),
            further: description
                .networks
                .keys()
                .filter(|name| !alone && *name != mode && choices.keeps_network(name))
                .map(|name| (name.clone(), connected(name)))
                .collect(),
        }
    }

    /// Those that must be there.
    pub(super) fn named(&self) -> impl Iterator<Item = &str> {
        let built_in = ["default", "none", "host"].contains(&self.mode.as_str())
            || self.mode.starts_with("container:");
        (!built_in)
            .then_some(self.mode.as_str())
            .into_iter()
            .chain(self.further.iter().map(|(name, _)| name.as_str()))
    }
}

/// The new container.
pub(super) fn body(
    description: &Description,
    choices: &Choices,
    networks: &Networks,
    image: &Image,
    mounts: &Mounts,
    mark: &Mark,
    warnings: &mut Warnings,
) -> ContainerCreateBody {
    let config = description.config.clone();
    let own_name =
        |name: &String| !description.id.starts_with(name.as_str()) || name.len() != SHORT_ID;
    let shares_network = networks.mode == "host" || networks.mode.starts_with("container:");
    ContainerCreateBody {
        hostname: config
            .hostname
            .filter(|name| !shares_network && own_name(name)),
        domainname: config.domainname.filter(|_| !shares_network),
        user: config.user,
        attach_stdin: config.attach_stdin,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        exposed_ports: config.exposed_ports,
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        env: config.env,
        cmd: config.cmd,
        healthcheck: config.healthcheck,
        args_escaped: config.args_escaped,
        image: Some(image.reference.clone()),
        working_dir: config.working_dir,
        entrypoint: config.entrypoint,
        network_disabled: config.network_disabled,
        labels: Some(labels_of(config.labels, image, mark, choices, warnings)),
        stop_signal: config.stop_signal,
        stop_timeout: config.stop_timeout,
        shell: config.shell,
        host_config: Some(host(description, choices, networks, mounts, warnings)),
        networking_config: networks.first.clone().map(|first| NetworkingConfig {
            endpoints_config: Some(HashMap::from([(networks.mode.clone(), first)])),
        }),
        ..ContainerCreateBody::default()
    }
}

/// A container that only takes the contents of volumes, and is never started.
pub(super) fn loader(image: &Image, mounts: &Mounts, mark: &Mark) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(image.reference.clone()),
        entrypoint: Some(vec!["/".to_owned()]),
        network_disabled: Some(true),
        labels: Some(mark.labels()),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            mounts: Some(mounts.writable()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn labels_of(
    original: Option<HashMap<String, String>>,
    image: &Image,
    mark: &Mark,
    choices: &Choices,
    warnings: &mut Warnings,
) -> HashMap<String, String> {
    let mut all = original.unwrap_or_default();
    all.retain(|name, _| !labels::ALL.contains(&name.as_str()));
    let before = all.len();
    all.retain(|name, _| !name.starts_with(COMPOSE) || choices.keeps_all());
    if all.len() < before {
        warnings.add(
            "the labels of Docker Compose are left out: it would take the new container for the \
             original",
        );
    }
    all.extend(mark.labels());
    all.extend(image.labels.clone());
    all
}

fn host(
    description: &Description,
    choices: &Choices,
    networks: &Networks,
    mounts: &Mounts,
    warnings: &mut Warnings,
) -> HostConfig {
    let host = description.host.clone();
    let host_has_links = host.links.as_ref().is_some_and(|links| !links.is_empty());
    if host.auto_remove == Some(true) {
        warnings.add("the original is removed when it ends; the new container stays");
    }
    let links = host.links.filter(|_| choices.keeps_all());
    if links.is_none() && host_has_links {
        warnings.add("links to other containers are left out: connect it by a network");
    }
    let keeps = |name: &str| choices.keeps_privilege(name);
    let mode =
        |name: &str, mode: Option<String>| mode.filter(|mode| !reaches_beyond(mode) || keeps(name));
    HostConfig {
        // Resources.
        cpu_shares: host.cpu_shares,
        memory: host.memory,
        blkio_weight: host.blkio_weight,
        cpu_period: host.cpu_period,
        cpu_quota: host.cpu_quota,
        cpuset_cpus: host.cpuset_cpus,
        cpuset_mems: host.cpuset_mems,
        memory_reservation: host.memory_reservation,
        memory_swap: host.memory_swap,
        memory_swappiness: host.memory_swappiness.filter(|value| *value >= 0),
        nano_cpus: host.nano_cpus,
        oom_kill_disable: host.oom_kill_disable.filter(|value| *value),
        pids_limit: host.pids_limit,
        ulimits: host.ulimits,
        shm_size: host.shm_size,
        storage_opt: host.storage_opt,
        oom_score_adj: host.oom_score_adj.filter(|value| *value >= 0),
        // How it runs.
        init: host.init,
        log_config: host.log_config,
        restart_policy: host.restart_policy,
        annotations: host.annotations,
        group_add: host.group_add,
        readonly_rootfs: host.readonly_rootfs,
        tmpfs: host.tmpfs,
        sysctls: host.sysctls.filter(|_| networks.mode != "host"),
        runtime: host.runtime,
        isolation: host.isolation,
        cap_drop: host.cap_drop,
        dns: host.dns,
        dns_options: host.dns_options,
        dns_search: host.dns_search,
        extra_hosts: host.extra_hosts,
        // What was decided.
        network_mode: Some(networks.mode.clone()),
        port_bindings: Some(ports(description, choices)),
        publish_all_ports: host.publish_all_ports.filter(|_| choices.keeps_all()),
        links,
        mounts: Some(mounts.of_container()),
        privileged: Some(host.privileged == Some(true) && keeps("privileged")),
        cap_add: host.cap_add.map(|mut all| {
            all.retain(|name| keeps(&format!("cap:{name}")));
            all
        }),
        devices: host.devices.map(|mut all| {
            all.retain(|device| {
                let path = device.path_on_host.as_deref().unwrap_or_default();
                keeps(&format!("device:{path}"))
            });
            all
        }),
        device_requests: host.device_requests.filter(|_| keeps("device-requests")),
        device_cgroup_rules: host.device_cgroup_rules.map(|mut all| {
            all.retain(|rule| keeps(&format!("device-rule:{rule}")));
            all
        }),
        pid_mode: mode("pid", host.pid_mode),
        ipc_mode: mode("ipc", host.ipc_mode),
        uts_mode: mode("uts", host.uts_mode),
        userns_mode: mode("userns", host.userns_mode),
        cgroupns_mode: host
            .cgroupns_mode
            .filter(|mode| *mode != HostConfigCgroupnsModeEnum::HOST || keeps("cgroupns")),
        security_opt: host.security_opt.map(|mut all| {
            all.retain(|option| {
                option.starts_with("no-new-privileges") || keeps(&format!("security-opt:{option}"))
            });
            all
        }),
        ..HostConfig::default()
    }
}

fn reaches_beyond(mode: &str) -> bool {
    mode == "host" || mode.starts_with("container:")
}

fn ports(
    description: &Description,
    choices: &Choices,
) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut all = HashMap::new();
    for (port, bindings) in description.host.port_bindings.iter().flatten() {
        let bindings = bindings.iter().flatten();
        let bindings: Vec<PortBinding> = match choices.port(port) {
            Choice::Same => bindings.cloned().collect(),
            // At the same address of the host: what was only reachable from there stays so.
            Choice::Random => bindings
                .map(|binding| PortBinding {
                    host_ip: binding.host_ip.clone(),
                    host_port: None,
                })
                .collect(),
            _ => continue,
        };
        all.insert(port.clone(), Some(bindings));
    }
    if description.host.publish_all_ports == Some(true) {
        for port in &description.ports {
            if !all.contains_key(port) && choices.port(port) == Choice::Random {
                all.insert(port.clone(), Some(vec![PortBinding::default()]));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;
