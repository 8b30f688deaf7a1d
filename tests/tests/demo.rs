//! The first thing that a newcomer does works.

use std::{
    fs,
    path::Path,
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use services::{
    cli::{command, said},
    place, services as real,
};

/// How long a demonstration may take.
const DEMO_MAX: Duration = Duration::from_mins(3);

#[test]
fn the_demo_passes_and_leaves_nothing() -> Result<()> {
    let scratch = place::scratch("demo");
    let output = demo(scratch.path(), &[], &[])?;
    assert!(
        output.status.success(),
        "{}\n{}",
        output.status,
        said(&output)
    );
    // It ends with commands to go on by hand.
    assert!(
        said(&output).contains("nora-backup standalone"),
        "{}",
        said(&output)
    );
    let left: Vec<_> = fs::read_dir(scratch.path())?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?} stays\n{}", said(&output));
    Ok(())
}

#[test]
fn the_demo_with_a_container_passes() -> Result<()> {
    let scratch = place::scratch("demo-docker");
    let host = real::address("NORA_TEST_DOCKER_HOST");
    let output = demo(
        scratch.path(),
        &["--docker"],
        &[("NORA_BACKUP_DOCKER_HOST", &host)],
    )?;
    assert!(
        output.status.success(),
        "{}\n{}",
        output.status,
        said(&output)
    );
    Ok(())
}

fn demo(temporary: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Result<Output> {
    let mut child = command(temporary)?
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary)
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nora-backup demo")?;
    bounded(&mut child)?;
    Ok(child.wait_with_output()?)
}

/// Waits for the end; its output fits into the pipes.
fn bounded(child: &mut Child) -> Result<()> {
    let deadline = Instant::now() + DEMO_MAX;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            bail!("the demo takes longer than {DEMO_MAX:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
