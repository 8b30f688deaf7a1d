//! A private RabbitMQ: one node with a port mapper (epmd) of its own. Debian's
//! wrappers in /usr/sbin switch users and read /etc; the scripts below them do not.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, bail};

use super::{
    life::{Plan, Service, Started, secret, text, write_private},
    packages, ports, wire,
    world::Launch,
};

/// The variables that carry its address, and the program to steer it with.
const URL: &str = "NORA_TEST_AMQP_URL";
const CTL: &str = "NORA_TEST_RABBITMQCTL";
/// The user and virtual host of the tests.
const USER: &str = "nora";
const VHOST: &str = "nora";
/// Its port mapper tells nodes of one name apart.
const NODE: &str = "nora-test@localhost";
/// The scripts below Debian's wrappers.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";
/// Between nodes nothing leaves this machine.
const LOOPBACK: &str = "-kernel inet_dist_use_interface {127,0,0,1}";

pub(super) struct Rabbitmq;

impl Service for Rabbitmq {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    fn install(&self) -> Result<()> {
        let server = Path::new(SCRIPTS).join("rabbitmq-server");
        if !server.is_file() {
            packages::install("rabbitmq-server")?;
        }
        if !server.is_file() {
            bail!(
                "rabbitmq-server is installed, but {} is missing",
                server.display()
            );
        }
        Ok(())
    }

    fn prepare(&self, folder: &Path) -> Result<Plan> {
        let password = secret();
        let (port, between_nodes, mapper) = (ports::free()?, ports::free()?, ports::free()?);
        let home = folder.join("home");
        fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
        let cookie = home.join(".erlang.cookie");
        write_private(&cookie, secret().as_bytes())?;
        // Erlang wants it exactly so.
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        let configuration = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\n\
             default_user = {USER}\n\
             default_pass = {password}\n\
             default_vhost = {VHOST}\n\
             default_user_tags.administrator = true\n\
             default_permissions.configure = .*\n\
             default_permissions.read = .*\n\
             default_permissions.write = .*\n\
             raft.wal_max_size_bytes = 64000000\n\
             log.console = true\n\
             log.console.level = info\n"
        );
        write_private(&folder.join("rabbitmq.conf"), configuration.as_bytes())?;
        fs::write(folder.join("plugins"), "[].\n").context("name no plugins")?;

        let own = |name: &str| text(&folder.join(name));
        // What both the node and its ctl need.
        let mut environment = BTreeMap::from([
            ("HOME", own("home")?),
            ("ERL_EPMD_PORT", mapper.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_NODENAME", NODE.into()),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
            ("RABBITMQ_MNESIA_BASE", own("mnesia")?),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", own("plugins")?),
            ("LANG", "C.UTF-8".into()),
        ]);
        let ctl = folder.join("rabbitmqctl");
        write_ctl(&ctl, &environment)?;
        environment.extend([
            ("RABBITMQ_CONFIG_FILE", own("rabbitmq.conf")?),
            ("RABBITMQ_DIST_PORT", between_nodes.to_string()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", LOOPBACK.into()),
            ("RABBITMQ_LOG_BASE", own("logs")?),
            ("RABBITMQ_LOGS", "-".into()),
            ("RABBITMQ_PID_FILE", own("pid")?),
            ("ERL_CRASH_DUMP", own("crash.dump")?),
            // The script makes itself the server, instead of waiting for it.
            ("RABBITMQ_ALLOW_INPUT", "true".into()),
        ]);
        let launch = Launch {
            environment: environment
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            ..Launch::new([format!("{SCRIPTS}/rabbitmq-server"), "-noinput".into()])
        };
        let url = format!("amqp://{USER}:{password}@127.0.0.1:{port}/{VHOST}");
        Ok(Plan {
            launch,
            env: BTreeMap::from([(URL.to_owned(), url), (CTL.to_owned(), text(&ctl)?)]),
            run_dir: None,
        })
    }

    /// It listens at the end of its start, and tells its side of the protocol.
    fn answers(&self, started: &Started) -> bool {
        started.port(URL).is_some_and(|port| {
            // A frame of type 1, channel 0: the method connection.start.
            let answer = wire::first_bytes(port, b"AMQP\0\0\x09\x01", 3);
            answer.is_some_and(|answer| answer == [1, 0, 0])
        })
    }
}

/// A rabbitmqctl for this node alone. It must not start a port mapper: that would
/// stay when the node is away.
fn write_ctl(path: &Path, environment: &BTreeMap<&str, String>) -> Result<()> {
    let exports: Vec<String> = environment
        .iter()
        .map(|(name, value)| format!("export {name}='{value}'\n"))
        .collect();
    let script = format!(
        "#!/bin/sh\n{}export RABBITMQ_CTL_ERL_ARGS='-start_epmd false {LOOPBACK}'\n\
         cd / && exec {SCRIPTS}/rabbitmqctl \"$@\"\n",
        exports.concat(),
    );
    write_private(path, script.as_bytes())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).context("let a script run")
}
