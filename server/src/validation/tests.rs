//! Limits of fields, each named by the field.

use proto::backup::v1::{DirectoryTarget, HookCommand};

use super::*;

/// Makes an agent wrong.
type Change = Box<dyn FnOnce(&mut Agent)>;

fn agent() -> Agent {
    Agent {
        agent_id: "my-agent".into(),
        owner_id: "ann".into(),
        source: Some(Source {
            kind: Some(Kind::Directory(DirectorySource {
                path: "/agents/one".into(),
            })),
        }),
        ..Agent::default()
    }
}

/// The field that a changed agent is refused for.
fn refused(change: impl FnOnce(&mut Agent)) -> Vec<String> {
    let mut agent = agent();
    change(&mut agent);
    let mut checks = Checks::new();
    checks.agent(&agent);
    checks.faults.into_iter().map(|fault| fault.field).collect()
}

fn docker(agent: &mut Agent, change: impl FnOnce(&mut DockerSource)) {
    let mut source = DockerSource {
        container: "box".into(),
        ..DockerSource::default()
    };
    change(&mut source);
    agent.source = Some(Source {
        kind: Some(Kind::Docker(source)),
    });
}

fn integration(agent: &mut Agent, change: impl FnOnce(&mut Integration)) {
    let mut integration = Integration {
        r#type: "slack".into(),
        name: "team".into(),
        config_json: "{\"a\": 1}".into(),
    };
    change(&mut integration);
    agent.integrations.push(integration);
}

#[test]
fn agents_within_the_limits_pass() {
    assert!(refused(|_| {}).is_empty());
    assert!(refused(|agent| agent.agent_id = "0".repeat(64)).is_empty());
    assert!(refused(|agent| agent.display_name = "ü".repeat(200)).is_empty());
    assert!(refused(|agent| docker(agent, |_| {})).is_empty());
    assert!(refused(|agent| integration(agent, |_| {})).is_empty());
    assert!(refused(|agent| integration(agent, |it| it.config_json.clear())).is_empty());
}

#[test]
fn commands_and_patterns_name_their_fields() {
    let hook = |change: fn(&mut HookCommand)| {
        let mut command = HookCommand {
            argv: vec!["/bin/sync".into()],
            ..HookCommand::default()
        };
        change(&mut command);
        refused(|agent| {
            docker(agent, |source| {
                source.hooks = Some(Hooks {
                    after: Some(command),
                    ..Hooks::default()
                });
            });
        })
    };
    assert!(hook(|_| {}).is_empty());
    let argv = ["agent.source.docker.hooks.after.argv"];
    assert_eq!(hook(|command| command.argv.clear()), argv);
    assert_eq!(hook(|command| command.argv = vec!["x".into(); 65]), argv);
    assert_eq!(hook(|command| command.argv.push("x".repeat(16_384))), argv);
    assert_eq!(hook(|command| command.argv[0].clear()), argv);
    let timeout = ["agent.source.docker.hooks.after.timeout"];
    for seconds in [0, -1, 601] {
        let found = refused(|agent| {
            docker(agent, |source| {
                source.hooks = Some(Hooks {
                    after: Some(HookCommand {
                        argv: vec!["/bin/sync".into()],
                        timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
                        ..HookCommand::default()
                    }),
                    ..Hooks::default()
                });
            });
        });
        assert_eq!(found, timeout, "{seconds}");
    }
    assert_eq!(
        refused(|agent| docker(agent, |source| source.hooks = Some(Hooks::default()))),
        ["agent.source.docker.hooks"]
    );
    assert_eq!(
        refused(|agent| agent.patterns = vec!["fine/".into(), "[z-a]".into()]),
        ["agent.patterns[1]"]
    );
    assert_eq!(
        refused(|agent| agent.patterns = vec!["x".into(); 101]),
        ["agent.patterns[100]"]
    );
    assert_eq!(
        refused(|agent| agent.size_warning_bytes = u64::MAX),
        ["agent.size_warning_bytes"]
    );
}

#[test]
fn each_fault_names_its_field() {
    let cases: Vec<(&str, Change)> = vec![
        ("agent.agent_id", Box::new(|agent| agent.agent_id.clear())),
        (
            "agent.agent_id",
            Box::new(|agent| agent.agent_id = "a".repeat(65)),
        ),
        (
            "agent.agent_id",
            Box::new(|agent| agent.agent_id = "Upper".into()),
        ),
        (
            "agent.agent_id",
            Box::new(|agent| agent.agent_id = "-first".into()),
        ),
        (
            "agent.agent_id",
            Box::new(|agent| agent.agent_id = "../up".into()),
        ),
        (
            "agent.display_name",
            Box::new(|agent| agent.display_name = "x".repeat(201)),
        ),
        (
            "agent.display_name",
            Box::new(|agent| agent.display_name = "a\nb".into()),
        ),
        ("agent.owner_id", Box::new(|agent| agent.owner_id.clear())),
        (
            "agent.owner_id",
            Box::new(|agent| agent.owner_id = "x".repeat(129)),
        ),
        (
            "agent.workspace_id",
            Box::new(|agent| agent.workspace_id = "x".repeat(129)),
        ),
        (
            "agent.pool",
            Box::new(|agent| agent.pool = "Fast Pool".into()),
        ),
        ("agent.source", Box::new(|agent| agent.source = None)),
        (
            "agent.source.directory.path",
            Box::new(|agent| {
                agent.source = Some(Source {
                    kind: Some(Kind::Directory(DirectorySource {
                        path: "/a/../b".into(),
                    })),
                });
            }),
        ),
        (
            "agent.source.docker.container",
            Box::new(|agent| docker(agent, |it| it.container = "a/b".into())),
        ),
        (
            "agent.source.docker.paths",
            Box::new(|agent| docker(agent, |it| it.paths = vec!["/x".into(); 101])),
        ),
        (
            "agent.source.docker.paths[1]",
            Box::new(|agent| docker(agent, |it| it.paths = vec!["/x".into(), "y".into()])),
        ),
        (
            "agent.source.docker.consistency",
            Box::new(|agent| docker(agent, |it| it.consistency = 99)),
        ),
        (
            "agent.integrations",
            Box::new(|agent| {
                for number in 0..101 {
                    integration(agent, |it| it.name = number.to_string());
                }
            }),
        ),
        (
            "agent.integrations[0].type",
            Box::new(|agent| integration(agent, |it| it.r#type = "x".repeat(65))),
        ),
        (
            "agent.integrations[0].name",
            Box::new(|agent| integration(agent, |it| it.name.clear())),
        ),
        (
            "agent.integrations[1].name",
            Box::new(|agent| {
                integration(agent, |_| {});
                integration(agent, |_| {});
            }),
        ),
        (
            "agent.integrations[0].config_json",
            Box::new(|agent| integration(agent, |it| it.config_json = "{".into())),
        ),
        (
            "agent.integrations[0].config_json",
            Box::new(|agent| {
                integration(agent, |it| {
                    it.config_json = format!("\"{}\"", "x".repeat(65_536));
                });
            }),
        ),
    ];
    for (field, change) in cases {
        assert_eq!(refused(change), [field]);
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let faults = refused(|agent| *agent = Agent::default());
    assert_eq!(faults, ["agent.agent_id", "agent.owner_id", "agent.source"]);
}

#[test]
fn pages_have_their_size() {
    let mut checks = Checks::new();
    assert_eq!(checks.page_size(0, PAGE_DEFAULT), PAGE_DEFAULT);
    assert_eq!(checks.page_size(7, PAGE_DEFAULT), 7);
    assert_eq!(checks.page_size(5_000, PAGE_DEFAULT), PAGE_MAX);
    assert!(checks.faults.is_empty());
    checks.page_size(-1, PAGE_DEFAULT);
    assert_eq!(checks.faults[0].field, "page_size");
}

#[test]
fn requests_ids_paths_and_plans() {
    let mut checks = Checks::new();
    checks.request_id("0192-abc ~");
    checks.entry_path("path", b"a/b\xff");
    checks.entry_path("path", b"");
    checks.plan(&RestorePlan::default());
    assert!(checks.faults.is_empty());
    checks.request_id("tab\t");
    checks.request_id(&"x".repeat(65));
    for path in [&b"/a"[..], b"a/", b"a//b", b".", b"a/../b", b"a\0b"] {
        checks.entry_path("path", path);
    }
    checks.plan(&RestorePlan {
        agent_id: "No".into(),
        target: Some(restore_plan::Target::Directory(DirectoryTarget {
            path: "relative".into(),
        })),
        ..RestorePlan::default()
    });
    let fields: Vec<&str> = checks
        .faults
        .iter()
        .map(|fault| fault.field.as_str())
        .collect();
    assert_eq!(fields[..2], ["request_id"; 2]);
    assert_eq!(fields[2..8], ["path"; 6]);
    assert_eq!(fields[8..], ["plan.agent_id", "plan.directory.path"]);
}
