//! The demonstration, step by step.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use proto::backup::v1::{
    Agent, Backup, CreateRestoreDraftRequest, RegisterAgentRequest, Restore, RestorePlan, Source,
    backup, restore, restore_plan, source,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use super::{DemoArgs, compare::Differences, container, folder, interruptible};
use crate::{
    commands::{backup::request_backup, restore::start_restore},
    connect::{Server, Session, call},
    error::{CliError, Result},
    find::incomplete,
    output::{Output, human, json::Document as _},
    standalone::{
        data_dir::{ADMIN, DataDir},
        service,
        welcome::{quoted, url},
    },
    watch,
};

/// The agent that is backed up.
pub const AGENT: &str = "demo-agent";
/// The agent that the restore makes.
pub const COPY: &str = "demo-agent-copy";

/// Where the demonstration works; a temporary folder goes away with it.
struct Place {
    path: PathBuf,
    temporary: Option<TempDir>,
    made: bool,
}

impl Place {
    fn new(args: &DemoArgs) -> Result<Self> {
        if let Some(path) = &args.dir {
            let path = std::path::absolute(path)
                .map_err(|error| CliError::io(format!("find {}", path.display()), &error))?;
            let doing = || format!("use {}", path.display());
            let made = !path.exists();
            std::fs::create_dir_all(&path).map_err(|error| CliError::io(doing(), &error))?;
            let mut entries =
                std::fs::read_dir(&path).map_err(|error| CliError::io(doing(), &error))?;
            if entries.next().is_some() {
                return Err(CliError::usage(format!("{} is not empty", path.display())));
            }
            return Ok(Self {
                path,
                temporary: None,
                made,
            });
        }
        let temporary = tempfile::Builder::new()
            .prefix("nora-demo-")
            .tempdir()
            .map_err(|error| CliError::io("make a temporary folder", &error))?;
        Ok(Self {
            path: temporary.path().to_path_buf(),
            temporary: Some(temporary),
            made: true,
        })
    }

    /// Leaves everything, or nothing.
    fn leave(mut self, keep: bool) {
        match self.temporary.take() {
            Some(temporary) if keep => {
                let _ = temporary.keep();
            }
            Some(_) => {}
            None if keep => {}
            None => {
                let _ = std::fs::remove_dir_all(self.path.join("data"));
                let _ = std::fs::remove_dir_all(self.path.join("agents"));
                if self.made {
                    let _ = std::fs::remove_dir(&self.path);
                }
            }
        }
    }
}

/// What the steps speak with.
pub struct Stage {
    /// The service.
    pub session: Session,
    /// Where people look.
    pub out: Output,
    /// Where agents lie.
    pub agents: PathBuf,
    /// The figures, for `--json`.
    pub figures: Value,
}

impl Stage {
    /// One line of what was done.
    pub fn say(&self, step: &str, text: impl AsRef<str>) {
        self.out.tell(format!("{step:<15} {}", text.as_ref()));
    }
}

/// What was seen of the original and of its copy.
pub struct Comparison {
    /// What differs.
    pub differences: Differences,
    /// How many entries were compared.
    pub entries: usize,
    /// What was compared of each.
    pub of_each: &'static str,
}

/// Runs the demonstration.
pub async fn run(args: DemoArgs, out: Output) -> Result<()> {
    let place = Place::new(&args)?;
    let ended = in_place(&args, &place.path, out).await;
    place.leave(args.keep);
    ended
}

async fn in_place(args: &DemoArgs, path: &Path, out: Output) -> Result<()> {
    let agents = path.join("agents");
    std::fs::create_dir_all(&agents)
        .map_err(|error| CliError::io(format!("make {}", agents.display()), &error))?;
    let dir = DataDir::open(path.join("data"))?;
    let service = Service::start(args, &dir, &agents).await?;
    let session = service.session(out).await?;
    let mut stage = Stage {
        session,
        out,
        agents,
        figures: json!({}),
    };
    let place = if args.keep {
        path.display().to_string()
    } else {
        "a temporary folder".into()
    };
    stage.say(
        "Service",
        format!("ready at {}, everything in {place}", service.url),
    );
    let ended = if args.docker {
        container::run(args, &mut stage).await
    } else {
        interruptible(folder::run(&mut stage)).await
    };
    service.stop().await?;
    let comparison = ended?;
    conclude(&stage, &comparison)?;
    out.tell(next_commands(args, &dir, path));
    Ok(())
}

/// A standalone in this process, reached over its port like any other.
struct Service {
    url: String,
    token: String,
    stop: CancellationToken,
    running: AbortOnDropHandle<Result<()>>,
}

impl Service {
    async fn start(args: &DemoArgs, dir: &DataDir, agents: &Path) -> Result<Self> {
        let (key, _) = dir.key(dir.path())?;
        let secret = dir.jwt_secret()?;
        let token = dir.admin_token(&secret, "", "")?;
        let mut settings = service::Settings::in_one_place(dir, key, secret);
        settings.worker.source_roots = [agents.to_path_buf()].into();
        settings.worker.docker_host.clone_from(&args.docker_host);
        settings.worker.docker_host_fallback = std::env::var("DOCKER_HOST").ok();
        let (listener, address) = service::listen_anywhere().await?;
        let parts = service::Parts::open(settings).await?;
        let stop = CancellationToken::new();
        let running = AbortOnDropHandle::new(tokio::spawn(parts.run(listener, stop.clone())));
        Ok(Self {
            url: url(address, false),
            token,
            stop,
            running,
        })
    }

    async fn session(&self, out: Output) -> Result<Session> {
        use std::io::IsTerminal as _;
        // Bars are for terminals; elsewhere the lines of the steps are enough.
        let quiet = out.quiet || out.json || !std::io::stderr().is_terminal();
        let server = Server::parse(Some(&self.url))?;
        Session::open(
            server,
            Some(&self.token),
            None,
            Output { json: false, quiet },
        )
        .await
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.running.await.unwrap_or_else(|error| {
            Err(CliError::failed(format!("the service broke off: {error}")))
        })
    }
}

/// Registers the agent and makes its first backup.
pub async fn first_backup(stage: &mut Stage, kind: source::Kind) -> Result<()> {
    let agent = Agent {
        agent_id: AGENT.into(),
        display_name: "Demo agent".into(),
        owner_id: ADMIN.into(),
        source: Some(Source { kind: Some(kind) }),
        ..Agent::default()
    };
    let request = RegisterAgentRequest { agent: Some(agent) };
    stage.session.agents().register_agent(call(request)).await?;
    let backup = back_up(stage, "first").await?;
    let percent = (backup.stored_bytes * 100)
        .checked_div(backup.size_bytes)
        .unwrap_or(0);
    stage.say(
        "First backup",
        format!(
            "{} in {}, stored encrypted in {} ({percent}%)",
            human::bytes(backup.size_bytes),
            took(&backup),
            human::bytes(backup.stored_bytes),
        ),
    );
    stage.figures["first_backup"] = backup.to_json();
    Ok(())
}

/// Makes the second backup, and says what deduplication saved.
pub async fn second_backup(stage: &mut Stage) -> Result<Backup> {
    let backup = back_up(stage, "after an hour").await?;
    let known = backup.size_bytes.saturating_sub(backup.new_bytes);
    let percent = known as f64 * 100.0 / backup.size_bytes.max(1) as f64;
    stage.say(
        "Second backup",
        format!(
            "{} in {}: {} new, {} stored; {percent:.1}% was there already",
            human::bytes(backup.size_bytes),
            took(&backup),
            human::bytes(backup.new_bytes),
            human::bytes(backup.stored_bytes),
        ),
    );
    stage.figures["second_backup"] = backup.to_json();
    Ok(backup)
}

async fn back_up(stage: &Stage, name: &str) -> Result<Backup> {
    let session = &stage.session;
    let pending = request_backup(session, AGENT, Some(name.into()), None).await?;
    let ended = watch::backup(session, &pending.backup_id).await?;
    if ended.state() != backup::State::Completed {
        return watch::conclude_backup(session, &ended).map(|()| ended);
    }
    for warning in crate::show::warnings(&ended, 5).lines() {
        stage.say("", format!("warning: {warning}"));
    }
    Ok(ended)
}

fn took(backup: &Backup) -> String {
    human::between(backup.start_time.as_ref(), backup.end_time.as_ref())
        .map_or_else(|| "no time".into(), human::duration)
}

/// Restores a backup into a new agent.
pub async fn restore(
    stage: &mut Stage,
    backup: &Backup,
    target: restore_plan::Target,
) -> Result<Restore> {
    let session = &stage.session;
    let plan = RestorePlan {
        agent_id: COPY.into(),
        display_name: "Demo agent (copy)".into(),
        target: Some(target),
        ..RestorePlan::default()
    };
    let request = CreateRestoreDraftRequest {
        backup_id: backup.backup_id.clone(),
        plan: Some(plan),
        request_id: Uuid::now_v7().to_string(),
        destination_id: String::new(),
    };
    let started = Instant::now();
    let answer = session
        .restores()
        .create_restore_draft(call(request))
        .await?
        .into_inner();
    let draft = answer.restore.ok_or_else(incomplete)?;
    // The safest of the options wherever the draft asks.
    let choices = draft
        .decisions
        .iter()
        .filter(|decision| decision.required && decision.choice.is_empty())
        .filter_map(|d| Some((d.decision_id.clone(), d.options.first()?.clone())))
        .collect();
    start_restore(session, &draft.restore_id, choices).await?;
    let ended = watch::restore(session, &draft.restore_id).await?;
    if ended.state() != restore::State::Completed {
        return watch::conclude_restore(session, &ended).map(|()| ended);
    }
    let span = human::between(ended.start_time.as_ref(), ended.end_time.as_ref());
    stage.say(
        "Restore",
        format!(
            "into new agent {COPY} in {}",
            human::duration(span.unwrap_or_else(|| started.elapsed()))
        ),
    );
    for warning in &ended.warnings {
        stage.say("", format!("warning: {}", human::printable(warning)));
    }
    stage.figures["restore"] = ended.to_json();
    Ok(ended)
}

/// Says what the comparison found: any difference is a failure.
fn conclude(stage: &Stage, comparison: &Comparison) -> Result<()> {
    let Comparison {
        differences,
        entries,
        of_each,
    } = comparison;
    let compared = format!(
        "{}, {}",
        human::plural(*entries as u64, "entry", "entries"),
        human::bytes(differences.bytes)
    );
    if stage.out.json {
        let mut document = stage.figures.clone();
        document["compared_entries"] = json!(entries);
        document["compared_bytes"] = json!(differences.bytes);
        document["differences"] = json!(differences.lines);
        document["differences_total"] = json!(differences.total);
        stage.out.document(&document)?;
    }
    if differences.total == 0 {
        stage.say("Compared", format!("{compared}: {of_each} are the same"));
        return Ok(());
    }
    let mut error = CliError::failed(format!(
        "the copy is not the same: {} in {compared}",
        human::plural(differences.total as u64, "difference", "differences")
    ));
    for line in &differences.lines {
        let _ = write!(error.message, "\n  {line}");
    }
    Err(error.hint("`nora-backup demo --keep` keeps both, to look at"))
}

/// How to go on by hand.
fn next_commands(args: &DemoArgs, dir: &DataDir, path: &Path) -> String {
    if !args.keep {
        let docker = if args.docker { " --docker" } else { "" };
        return format!(
            "\nGo on by hand:\n  \
             nora-backup demo{docker} --keep    (the same, and everything stays)\n  \
             nora-backup standalone     (a service of your own)\n  \
             nora-backup --help"
        );
    }
    let docker_host = args
        .docker_host
        .as_ref()
        .filter(|_| args.docker)
        .map_or_else(String::new, |host| format!(" --docker-host {host}"));
    format!(
        "\nGo on by hand:\n  \
         nora-backup standalone --data-dir {} --source-root {}{docker_host}\n\
         and, in another terminal:\n  \
         export NORA_BACKUP_TOKEN_FILE={}\n  \
         nora-backup backup list\n  \
         nora-backup backup files {AGENT}@latest\n  \
         nora-backup restore create {AGENT}@latest --agent {AGENT}-2 --watch",
        quoted(dir.path()),
        quoted(&path.join("agents")),
        quoted(&dir.token_file()),
    )
}
