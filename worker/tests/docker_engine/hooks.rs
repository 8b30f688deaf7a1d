//! Commands around a capture, and what patterns leave out of one, in real containers.

use std::{sync::Arc, time::Duration};

use catalog::{AfterHook, Patterns};
use proto::backup::v1::{Consistency, DockerSource, HookCommand, Hooks};
use worker::sources::docker;

use crate::support::{Bench, Pauses, finish, source};

fn shell(script: &str) -> HookCommand {
    HookCommand {
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        ..HookCommand::default()
    }
}

fn hooked(name: &str, before: &str, after: &str, continue_on_error: bool) -> DockerSource {
    DockerSource {
        hooks: Some(Hooks {
            before: Some(shell(before)),
            after: Some(shell(after)),
            continue_on_error,
        }),
        ..source(name, &["/data"], Consistency::Pause)
    }
}

#[tokio::test]
async fn commands_run_around_the_capture_and_the_one_after_always() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("hooks").await;
    let id = bench.inspect(&name).await.id.unwrap();
    let log = Arc::new(Pauses::default());
    // The container is not paused while they run, and what `before` wrote is captured.
    let good = hooked(
        &name,
        "id -u > /data/before",
        "cat /data/before > /data/after",
        false,
    );
    let manifest = finish(bench.capture(&good, Bench::context(&log)).await.unwrap()).await;
    assert_eq!(bench.content(&manifest, "data/before").await, b"0\n");
    let (document, entries) = bench.contents(&manifest).await;
    assert!(!entries.iter().any(|entry| entry.path == b"data/after"));
    assert!(document.warnings.is_empty(), "{:?}", document.warnings);
    assert_eq!(bench.run(&name, "cat /data/after").await, "0\n");
    {
        let owed = log.owed.lock().unwrap();
        let first = owed[0].as_ref().expect("noted before anything ran");
        assert_eq!((&first.container, owed.len()), (&id, 2));
        assert!(owed[1].is_none());
    }

    let failing = hooked(
        &name,
        "echo first; echo 'no space' >&2; exit 7",
        "echo x >> /data/afters",
        false,
    );
    let error = bench
        .capture(&failing, Bench::context(&log))
        .await
        .unwrap_err();
    assert_eq!(
        (error.reason(), error.is_retryable()),
        ("HOOK_FAILED", false)
    );
    let message = error.to_string();
    assert!(message.contains("exit code 7"), "{message}");
    // The two streams come from the engine one beside the other.
    let (_, said) = message.split_once("it said last:\n").expect(&message);
    let mut said: Vec<&str> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(said, ["first", "no space"], "{message}");
    assert_eq!(bench.run(&name, "cat /data/afters").await, "x\n");

    let lenient = hooked(&name, "exit 7", "echo y >> /data/afters; exit 3", true);
    let manifest = finish(bench.capture(&lenient, Bench::context(&log)).await.unwrap()).await;
    let (document, _) = bench.contents(&manifest).await;
    let warnings: Vec<&str> = document
        .warnings
        .iter()
        .map(|it| it.message.as_str())
        .collect();
    assert!(
        warnings[0].contains("exit code 7") && warnings[1].contains("exit code 3"),
        "{warnings:?}"
    );
    assert_eq!(bench.run(&name, "cat /data/afters").await, "x\ny\n");
    bench.tidy().await;
}

#[tokio::test]
async fn commands_have_a_user_a_time_limit_and_an_end_when_the_job_has() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("limits").await;
    let log = Arc::new(Pauses::default());
    let mut slow = hooked(
        &name,
        "echo slow; sleep 30",
        "echo x >> /data/afters",
        false,
    );
    let hooks = slow.hooks.as_mut().unwrap();
    hooks.before.as_mut().unwrap().timeout = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let message = bench
        .capture(&slow, Bench::context(&log))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("longer than 1 s") && message.ends_with("slow"),
        "{message}"
    );
    assert_eq!(bench.run(&name, "cat /data/afters").await, "x\n");

    // Canceled while the command before runs.
    let waiting = hooked(
        &name,
        "touch /data/begun; sleep 30",
        "echo x >> /data/afters",
        false,
    );
    let context = Bench::context(&log);
    let cancel = context.cancel.clone();
    let begun = std::time::Instant::now();
    let (captured, ()) = tokio::join!(bench.capture(&waiting, context), async {
        bench
            .run(&name, "while [ ! -e /data/begun ]; do sleep 0.02; done")
            .await;
        cancel.cancel();
    });
    assert_eq!(captured.unwrap_err().reason(), "CANCELED");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(bench.run(&name, "cat /data/afters").await, "x\nx\n");

    let mut as_user = hooked(&name, "id -u > /tmp/who", "true", false);
    let hooks = as_user.hooks.as_mut().unwrap();
    hooks.before.as_mut().unwrap().user = "1000".into();
    bench.run(&name, "mkdir -p /tmp && chmod 1777 /tmp").await;
    finish(bench.capture(&as_user, Bench::context(&log)).await.unwrap()).await;
    assert_eq!(bench.run(&name, "cat /tmp/who").await, "1000\n");

    let mut missing = hooked(&name, "true", "true", false);
    missing
        .hooks
        .as_mut()
        .unwrap()
        .before
        .as_mut()
        .unwrap()
        .argv = vec!["/no/such".into()];
    let error = bench
        .capture(&missing, Bench::context(&log))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "HOOK_FAILED", "{error}");

    // Nothing runs in a container that does not.
    bench.docker.kill_container(&name, None).await.unwrap();
    let log = Arc::new(Pauses::default());
    let failing = hooked(&name, "exit 1", "exit 1", false);
    finish(bench.capture(&failing, Bench::context(&log)).await.unwrap()).await;
    assert!(log.owed.lock().unwrap().is_empty());
    bench.tidy().await;
}

#[tokio::test]
async fn what_a_dead_attempt_owes_is_run_and_nothing_begins_without_a_note() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("owed").await;
    let owed = |container: &str, script: &str| AfterHook {
        container: container.to_owned(),
        command: Some(shell(script)),
    };
    docker::run_owed(&bench.settings, &owed(&name, "echo x > /data/owed; exit 1"))
        .await
        .unwrap();
    assert_eq!(bench.run(&name, "cat /data/owed").await, "x\n");
    docker::run_owed(&bench.settings, &owed("nora-test-no-such", "true"))
        .await
        .unwrap();

    let refuses = Arc::new(Pauses {
        refuses: true,
        ..Pauses::default()
    });
    let never = hooked(&name, "touch /data/never", "touch /data/never", false);
    bench
        .capture(&never, Bench::context(&refuses))
        .await
        .unwrap_err();
    bench.run(&name, "test ! -e /data/never").await;
    bench.tidy().await;
}

#[tokio::test]
async fn patterns_leave_out_what_they_name() {
    let bench = Bench::new().await;
    let name = bench.container_with_volume("patterns").await;
    bench
        .run(
            &name,
            "cd /data; mkdir -p app/node_modules/deep keep logs
             echo 1 > app/main; echo 2 > app/node_modules/deep/x
             echo 3 > logs/a.log; echo 4 > logs/important.log; echo 5 > keep/node_modules
             ln app/node_modules/deep/x app/linked; ln app/main app/node_modules/main
             echo 6 > zz; mkdir -p /opt/own/cache; echo 7 > /opt/own/cache/x; echo 8 > /opt/own/y
             mkdir -p /home/agent/.cache/z; echo 9 > /home/agent/.cache/z/w",
        )
        .await;
    let lines = [
        "node_modules/",
        "*.log",
        "!important.log",
        "cache/",
        "/home/agent/.cache",
    ];
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let mut context = Bench::context(&Arc::default());
    context.patterns = Arc::new(Patterns::new(&lines).unwrap());
    let docker = source(&name, &[], Consistency::Live);
    let manifest = finish(bench.capture(&docker, context).await.unwrap()).await;
    let (document, entries) = bench.contents(&manifest).await;
    assert!(document.warnings.is_empty(), "{:?}", document.warnings);
    let names: Vec<String> = entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
        .collect();
    let has = |path: &str| names.iter().any(|name| name == path);
    for path in [
        "data/app/main",
        "data/app/linked",
        "data/keep/node_modules",
        "data/logs/important.log",
        "data/zz",
        "opt/own/y",
    ] {
        assert!(has(path), "{path}: {names:?}");
    }
    for path in [
        "data/app/node_modules",
        "data/logs/a.log",
        "opt/own/cache",
        "home/agent/.cache",
    ] {
        assert!(
            !names
                .iter()
                .any(|name| name == path || name.starts_with(&format!("{path}/"))),
            "{path}: {names:?}"
        );
    }
    // A further name of what is left out is a file by itself.
    assert_eq!(bench.content(&manifest, "data/app/linked").await, b"2\n");
    bench.tidy().await;
}
