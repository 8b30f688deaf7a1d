//! A RabbitMQ of a test's own, to be mistreated.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use queue::{AmqpSettings, RabbitMq};
use tempfile::TempDir;

/// How long it may take until it answers.
const STARTS_WITHIN: Duration = Duration::from_secs(90);
/// Where packages put the programs themselves, beside wrappers that change the user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// A RabbitMQ that ends with its test.
pub struct Broker {
    folder: TempDir,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    epmd: Child,
    server: Option<Child>,
}

impl Broker {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["home", "data", "log"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        fs::write(folder.path().join("plugins"), "[].").expect("write");
        let config = "disk_free_limit.absolute = 1MB\nlog.file.level = warning\n";
        fs::write(folder.path().join("rabbitmq.conf"), config).expect("write");
        let [port, dist_port, epmd_port] = free_ports();
        // Of its own, and in the foreground, so that it ends with the test too.
        let epmd = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start epmd (it comes with RabbitMQ's Erlang)");
        let mut broker = Self {
            folder,
            port,
            dist_port,
            epmd_port,
            epmd,
            server: None,
        };
        broker.start_again().await;
        broker
    }

    /// Starts it, with the data that it has.
    pub async fn start_again(&mut self) {
        let log = fs::File::create(self.folder.path().join("output")).expect("a file");
        let errors = log.try_clone().expect("a file");
        let mut command = self.command("rabbitmq-server");
        let server = command
            // Lets the shell script become the server: its id is the server's.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        self.server = Some(server.spawn().expect("start rabbitmq-server"));
        let begun = Instant::now();
        loop {
            match RabbitMq::connect(&self.settings(), "waits").await {
                Ok(rabbit) => return rabbit.close().await,
                Err(error) if begun.elapsed() > STARTS_WITHIN => {
                    let output = self.folder.path().join("output");
                    let output = fs::read_to_string(output).unwrap_or_default();
                    panic!("RabbitMQ did not start: {error}\n{output}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Ends it as a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    pub fn settings(&self) -> AmqpSettings {
        AmqpSettings::new(&self.url())
    }

    /// Runs `rabbitmqctl`.
    pub async fn control(&self, arguments: &[&str]) {
        let mut command = self.command("rabbitmqctl");
        command.args(arguments);
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = run.await.expect("run").expect("run rabbitmqctl");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
    }

    fn command(&self, program: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(find(program));
        command
            .env("HOME", folder.join("home"))
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODENAME", format!("test-{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .current_dir(folder);
        command
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(Path::new(PROGRAMS).to_owned())
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("{program} is not installed: run `make test`, which installs RabbitMQ")
        })
}

/// Ports that nobody uses now.
fn free_ports<const N: usize>() -> [u16; N] {
    // All are held until all are known, so that they differ.
    let held: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    held.map(|listener| listener.local_addr().expect("its address").port())
}
