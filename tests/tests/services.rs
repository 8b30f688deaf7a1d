//! The services themselves: private, stopped whole, and started anew after a
//! crash.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, StartContainerOptions,
    },
};
use rustix::process::{Pid, Signal, kill_process};
use services::{
    place,
    services::{IMAGE, Services},
};

/// Those that are told apart by their folder on the command line.
const OTHERS: &[&str] = &["postgresql", "rabbitmq", "sshd", "seaweedfs"];

fn connect(services: &Services) -> Result<Docker> {
    let env = services.env()?;
    let host = env
        .get("NORA_TEST_DOCKER_HOST")
        .context("the engine's address")?;
    Ok(Docker::connect_with_unix(
        host.trim_start_matches("unix://"),
        60,
        API_DEFAULT_VERSION,
    )?)
}

/// Whether a process with this in its command line or environment runs anywhere
/// on this machine, besides this one.
fn runs_anywhere(sign: &str) -> bool {
    let own = std::process::id().to_string();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str() != Some(&own))
        .any(|entry| {
            ["cmdline", "environ"].iter().any(|file| {
                let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
                bytes
                    .windows(sign.len())
                    .any(|window| window == sign.as_bytes())
            })
        })
}

fn pid_of(folder: &Path, name: &str) -> Result<Pid> {
    let state = fs::read(folder.join(format!("{name}.json")))?;
    let state: serde_json::Value = serde_json::from_slice(&state)?;
    let pid = state["process"]["pid"].as_i64().context("a process id")?;
    Pid::from_raw(i32::try_from(pid)?).context("a process id")
}

/// What a command prints; its failure is this test's.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

struct Addresses<'a>(&'a Services);

impl Addresses<'_> {
    fn get(&self, variable: &str) -> Result<String> {
        let value = self.0.env()?.remove(variable);
        value.with_context(|| format!("{variable} is not there"))
    }

    fn sql(&self, statement: &str) -> Result<String> {
        let url = self.get("NORA_TEST_POSTGRES_URL")?;
        output(Command::new("psql").args([&url, "-XAtqc", statement]))
    }

    fn rabbitmqctl(&self, arguments: &[&str]) -> Result<String> {
        output(Command::new(self.get("NORA_TEST_RABBITMQCTL")?).args(arguments))
    }

    /// Logs in as a client does, up to the server's wish to tune the connection.
    fn amqp_login(&self) -> Result<()> {
        let url = self.get("NORA_TEST_AMQP_URL")?;
        let (login, host) = url
            .trim_start_matches("amqp://")
            .split_once('@')
            .context("an address with a login")?;
        let (address, _) = host.split_once('/').context("a virtual host")?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        ensure!(read_method(&mut stream)? == [0, 10, 0, 10], "start");
        let response = format!("\0{}", login.replace(':', "\0"));
        let mut method = vec![0, 10, 0, 11, 0, 0, 0, 0, 5];
        method.extend(b"PLAIN");
        method.extend((response.len() as u32).to_be_bytes());
        method.extend(response.as_bytes());
        method.extend(b"\x05en_US");
        let mut frame = vec![1, 0, 0];
        frame.extend((method.len() as u32).to_be_bytes());
        frame.extend(method);
        frame.push(0xce);
        stream.write_all(&frame)?;
        ensure!(read_method(&mut stream)? == [0, 10, 0, 30], "tune");
        Ok(())
    }

    fn ssh(&self, command: &str) -> Result<String> {
        let port = self.get("NORA_TEST_SSH_PORT")?;
        let host = self.get("NORA_TEST_SSH_HOST")?;
        let path = self.get("NORA_TEST_SSH_PATH")?;
        let known = Path::new(&path).with_file_name("known_hosts");
        let host_key = self.get("NORA_TEST_SSH_HOST_KEY")?;
        fs::write(&known, format!("[{host}]:{port} {host_key}\n"))?;
        let user = self.get("NORA_TEST_SSH_USERNAME")?;
        output(
            Command::new("ssh")
                .args(["-F", "/dev/null", "-o", "BatchMode=yes", "-p", &port])
                .args(["-o", "StrictHostKeyChecking=yes", "-o"])
                .arg(format!("UserKnownHostsFile={}", known.display()))
                .args(["-o", "IdentitiesOnly=yes", "-i"])
                .arg(self.get("NORA_TEST_SSH_KEY_FILE")?)
                .args([&format!("{user}@{host}"), command]),
        )
    }

    fn s3(&self, key: &str, arguments: &[&str]) -> Result<String> {
        let region = self.get("NORA_TEST_S3_REGION")?;
        let bucket = self.get("NORA_TEST_S3_BUCKET")?;
        output(
            Command::new("curl")
                // Some versions of curl sign another digest of a body than they send.
                .args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
                .args(["-sS", "--fail-with-body", "--aws-sigv4"])
                .args([&format!("aws:amz:{region}:s3"), "--user"])
                .arg(format!(
                    "{}:{}",
                    self.get("NORA_TEST_S3_ACCESS_KEY_ID")?,
                    self.get("NORA_TEST_S3_SECRET_ACCESS_KEY")?
                ))
                .args(arguments)
                .arg(format!(
                    "{}/{bucket}/{key}",
                    self.get("NORA_TEST_S3_ENDPOINT")?
                )),
        )
    }

    /// Puts a piece of data into each service.
    fn write(&self) -> Result<()> {
        self.sql("CREATE TABLE kept AS SELECT 7 AS value")?;
        self.rabbitmqctl(&["-q", "add_vhost", "kept"])?;
        let path = self.get("NORA_TEST_SSH_PATH")?;
        self.ssh(&format!("echo 7 > {path}/kept"))?;
        self.s3("kept", &["--request", "PUT", "--data-binary", "7"])?;
        Ok(())
    }

    /// Finds it there, by the addresses and secrets of now.
    fn check(&self) -> Result<()> {
        ensure!(self.sql("SELECT value FROM kept")?.trim() == "7");
        ensure!(
            self.rabbitmqctl(&["-q", "list_vhosts"])?
                .lines()
                .any(|line| line == "kept")
        );
        self.amqp_login()?;
        let path = self.get("NORA_TEST_SSH_PATH")?;
        ensure!(self.ssh(&format!("cat {path}/kept"))?.trim() == "7");
        ensure!(self.s3("kept", &[])? == "7");
        Ok(())
    }
}

/// Class and method of the next frame, which is read whole.
fn read_method(stream: &mut TcpStream) -> Result<[u8; 4]> {
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let size = u32::from_be_bytes(head[3..].try_into()?);
    // The payload and its end mark.
    let mut payload = vec![0; size as usize + 1];
    stream.read_exact(&mut payload)?;
    Ok(payload[..4].try_into()?)
}

/// The services of a folder, stopped again however a test ends.
fn with_services(test: impl FnOnce(&Services, &Path) -> Result<()>) -> Result<()> {
    let scratch = place::scratch("services");
    let services = Services::at(scratch.path().to_path_buf());
    let outcome = test(&services, scratch.path());
    services.down()?;
    outcome
}

#[test]
fn every_service_answers_keeps_its_data_when_killed_and_leaves_no_trace() -> Result<()> {
    with_services(|services, path| {
        services.up_only(OTHERS)?;
        let addresses = Addresses(services);
        let before = services.env()?;
        addresses.write()?;
        addresses.check()?;

        for name in OTHERS {
            services.kill(name)?;
            let sign = format!("{}/{name}/", path.display());
            ensure!(!runs_anywhere(&sign), "{name} is gone whole");
        }
        ensure!(services.env()?.is_empty(), "no address of what is away");
        for name in OTHERS {
            services.restart(name)?;
        }
        ensure!(services.env()? == before, "the same addresses and secrets");
        addresses.check()?;

        services.down_only(OTHERS)?;
        let sign = path.display().to_string();
        ensure!(!runs_anywhere(&sign), "no process is left");
        for name in OTHERS {
            let left: Vec<_> = fs::read_dir(path.join(name))?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<Result<_, _>>()?;
            ensure!(left == ["log"], "{name} left {left:?}");
            ensure!(!path.join(format!("{name}.json")).exists());
        }
        Ok(())
    })
}

#[test]
fn a_paused_service_is_silent_until_it_goes_on() -> Result<()> {
    with_services(|services, path| {
        services.up_only(&["postgresql"])?;
        let addresses = Addresses(services);
        addresses.sql("CREATE TABLE seen (value int)")?;
        services.pause("postgresql")?;
        let url = addresses.get("NORA_TEST_POSTGRES_URL")?;
        let mut waiting = Command::new("psql")
            .args([&url, "-XAtqc", "INSERT INTO seen VALUES (1)"])
            .spawn()?;
        std::thread::sleep(Duration::from_millis(300));
        let early = waiting.try_wait()?;
        services.resume("postgresql")?;
        ensure!(waiting.wait()?.success(), "it is answered in the end");
        ensure!(early.is_none(), "it was not while the service stood still");
        ensure!(addresses.sql("SELECT count(*) FROM seen")?.trim() == "1");

        // One that ends while it is paused ends whole, too.
        services.pause("postgresql")?;
        kill_process(pid_of(path, "postgresql")?, Signal::KILL)?;
        services.up_only(&["postgresql"])?;
        ensure!(
            addresses.sql("SELECT count(*) FROM seen").is_err(),
            "begun anew"
        );
        Ok(())
    })
}

#[test]
fn a_name_that_is_not_known_is_refused_with_those_that_are() -> Result<()> {
    with_services(|services, _| {
        let Err(cause) = services.up_only(&["postgres"]) else {
            bail!("it was taken");
        };
        ensure!(
            cause.to_string().contains("known are docker, postgresql"),
            "{cause:#}"
        );
        let Err(cause) = services.kill("sshd") else {
            bail!("it was not started");
        };
        ensure!(cause.to_string().contains("services up sshd"), "{cause:#}");
        Ok(())
    })
}

#[tokio::test]
async fn an_engine_that_was_killed_is_cleared_away_and_started_anew() -> Result<()> {
    // A second engine beside that of the other tests: they share nothing.
    let scratch = place::scratch("services");
    let folder = scratch.path().to_path_buf();
    // What tells its container's process from all others.
    let nap = rand::random_range(1_000_000_000..2_000_000_000_u32).to_string();
    let services = || Services::at(folder.clone());
    let up = || {
        let services = services();
        tokio::task::spawn_blocking(move || services.up_only(&["docker"]))
    };
    let outcome = async {
        up().await??;
        let docker = connect(&services())?;
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["/bin/sleep".into(), nap.clone()]),
            ..ContainerCreateBody::default()
        };
        let name = CreateContainerOptionsBuilder::new().name("napper").build();
        docker.create_container(Some(name), body).await?;
        docker
            .start_container("napper", None::<StartContainerOptions>)
            .await?;
        // A frozen process does not even die of SIGKILL.
        docker.pause_container("napper").await?;
        ensure!(runs_anywhere(&nap), "it runs, frozen");

        // Killed and started again, it knows its containers.
        let restarted = services();
        tokio::task::spawn_blocking(move || restarted.restart("docker")).await??;
        ensure!(!runs_anywhere(&nap), "what the first engine ran is gone");
        docker
            .start_container("napper", None::<StartContainerOptions>)
            .await?;
        docker.pause_container("napper").await?;

        kill_process(pid_of(&folder, "docker")?, Signal::KILL)?;
        while services().status()?.iter().any(|(_, running)| *running) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        up().await??;
        ensure!(!runs_anywhere(&nap), "what the second engine ran is gone");
        let all = ListContainersOptionsBuilder::new().all(true).build();
        let containers = connect(&services())?.list_containers(Some(all)).await?;
        ensure!(containers.is_empty(), "the new one begins empty");
        anyhow::Ok(())
    }
    .await;
    tokio::task::spawn_blocking({
        let services = services();
        move || services.down()
    })
    .await??;
    outcome?;
    assert!(services().status()?.iter().all(|(_, running)| !running));
    assert!(!folder.join("docker/data").exists());
    Ok(())
}
