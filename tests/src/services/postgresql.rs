//! A private PostgreSQL. It refuses to run as root, so it runs as the user that
//! Debian's package makes; that user may not reach the target folder, and then its
//! data lies elsewhere.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    life::{Plan, Service, Started, remove, run, run_dir_away, secret, text, write_private},
    packages, ports, wire,
    world::Launch,
};

/// The variable that carries its address.
const URL: &str = "NORA_TEST_POSTGRES_URL";
/// The superuser of the tests, and their database.
const USER: &str = "nora";
const DATABASE: &str = "nora";
/// The user of this machine that it runs as.
const ACCOUNT: &str = "postgres";
/// Where Debian keeps the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Fast where only the machine's power could do harm: what is written survives a
/// killed process also without fsync.
const CONFIGURATION: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
fsync = off
full_page_writes = off
jit = off
shared_memory_type = mmap
dynamic_shared_memory_type = mmap
log_line_prefix = '%m [%p] %q%u@%d '
";
/// Everyone gives a password.
const ACCESS: &str = "host all all 127.0.0.1/32 scram-sha-256\n";

pub(super) struct Postgresql;

impl Service for Postgresql {
    fn name(&self) -> &'static str {
        "postgresql"
    }

    fn install(&self) -> Result<()> {
        if programs().is_none() {
            packages::install("postgresql")?;
        }
        Ok(())
    }

    fn prepare(&self, folder: &Path) -> Result<Plan> {
        let programs = programs().with_context(|| format!("no PostgreSQL in {VERSIONS}"))?;
        let (root, run_dir) = if reachable(folder)? {
            (folder.to_path_buf(), None)
        } else {
            let away = run_dir_away(folder);
            fs::create_dir(&away).with_context(|| format!("make {}", away.display()))?;
            (away.clone(), Some(away))
        };
        let (port, password) = (ports::free()?, secret());
        let data = root.join("data");
        make_data(&programs, &root, &data, &password)?;
        let mut configuration = CONFIGURATION.to_owned();
        writeln!(configuration, "port = {port}")?;
        append(&data.join("postgresql.conf"), &configuration)?;
        fs::write(data.join("pg_hba.conf"), ACCESS).context("say who may connect")?;

        let server = [text(&programs.join("postgres"))?, "-D".into(), text(&data)?];
        let launch = Launch {
            // The small piece of shared memory that is left by a kill goes as well.
            namespaces: vec!["--ipc".into()],
            ..Launch::new(as_account().into_iter().map(String::from).chain(server))
        };
        let url = format!("postgres://{USER}:{password}@127.0.0.1:{port}/{DATABASE}");
        Ok(Plan {
            launch,
            env: BTreeMap::from([(URL.to_owned(), url)]),
            run_dir,
        })
    }

    /// It asks for a password: earlier it says that it is starting up.
    fn answers(&self, started: &Started) -> bool {
        let Some(port) = started.port(URL) else {
            return false;
        };
        let parameters = format!("user\0{USER}\0database\0postgres\0\0");
        let mut hello = Vec::new();
        hello.extend((parameters.len() as u32 + 8).to_be_bytes());
        hello.extend(196_608_u32.to_be_bytes());
        hello.extend(parameters.as_bytes());
        wire::first_bytes(port, &hello, 1).is_some_and(|answer| answer == b"R")
    }

    fn fill(&self, _folder: &Path, started: &Started) -> Result<()> {
        let programs = programs().context("PostgreSQL was removed")?;
        let port = started.port(URL).context("an address has a port")?;
        let (_, login) = started.value(URL)?.split_once("//").context("an address")?;
        let (login, _) = login.split_once('@').context("an address has a login")?;
        let (_, password) = login.split_once(':').context("a login has a password")?;
        // By the environment: a command line can be read by others.
        run(Command::new(programs.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--dbname=postgres", "--command"])
            .arg(format!("CREATE DATABASE {DATABASE}"))
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", password))
        .context("create the database")
    }
}

/// The programs of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let programs = entry.path().join("bin");
            programs
                .join("initdb")
                .is_file()
                .then_some((version, programs))
        })
        .max()
        .map(|(_, programs)| programs)
}

fn as_account() -> [&'static str; 6] {
    [
        "setpriv",
        "--reuid",
        ACCOUNT,
        "--regid",
        ACCOUNT,
        "--init-groups",
    ]
}

/// A command that runs as the account.
fn command() -> Command {
    let [program, arguments @ ..] = as_account();
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Whether the account gets as far as this folder: its parents may be closed.
fn reachable(folder: &Path) -> Result<bool> {
    let status = command()
        .args(["test", "-x"])
        .arg(folder)
        .status()
        .context("run setpriv")?;
    Ok(status.success())
}

fn make_data(programs: &Path, root: &Path, data: &Path, password: &str) -> Result<()> {
    run(Command::new("install")
        .args(["-d", "-m", "700", "-o", ACCOUNT, "-g", ACCOUNT])
        .arg(data))?;
    let owner = data.metadata().context("find the new data folder")?;
    let password_file = root.join("password");
    write_private(&password_file, password.as_bytes())?;
    chown(&password_file, Some(owner.uid()), Some(owner.gid())).context("hand over a password")?;
    run(command()
        .arg(programs.join("initdb"))
        .args([
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ])
        .args(["--no-sync", "--username", USER, "--pwfile"])
        .arg(&password_file)
        .arg("-D")
        .arg(data))?;
    remove(&password_file)
}

fn append(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let file = fs::OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
