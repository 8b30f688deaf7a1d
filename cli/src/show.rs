//! Agents, backups and restores as people read them.

use proto::backup::v1::{
    Agent, Backup, BackupEntry, Consistency, Failure, Restore, backup, backup_entry, restore,
    restore_plan, source,
};

use crate::output::{
    human,
    table::{Align, Table, fields},
};

/// How much of an id a list shows at least: the time in a UUIDv7, to the millisecond.
const SHORT_ID: usize = 13;

/// "COMPLETED".
pub fn backup_state(backup: &Backup) -> String {
    backup
        .state()
        .as_str_name()
        .trim_start_matches("STATE_")
        .to_string()
}

/// "COMPLETED".
pub fn restore_state(restore: &Restore) -> String {
    restore
        .state()
        .as_str_name()
        .trim_start_matches("STATE_")
        .to_string()
}

/// The message, with the reason behind it.
pub fn failure(failure: &Failure) -> String {
    let message = human::printable(&failure.message);
    match (failure.message.is_empty(), failure.reason.is_empty()) {
        (_, true) => message,
        (true, false) => human::printable(&failure.reason),
        (false, false) => format!("{message} ({})", human::printable(&failure.reason)),
    }
}

/// Why it failed, or what it waits for.
fn why(failed: Option<&Failure>, progress: Option<&proto::backup::v1::Progress>) -> String {
    match (failed, progress) {
        (Some(failed), _) => failure(failed),
        (None, Some(progress)) => human::printable(&progress.waiting_reason),
        (None, None) => String::new(),
    }
}

/// How many characters of the ids are needed to tell them apart, at the least
/// those of a time.
fn id_width<'a>(ids: impl Iterator<Item = &'a str>) -> usize {
    let ids: Vec<&str> = ids.collect();
    [SHORT_ID, 18, 23, 36]
        .into_iter()
        .find(|&width| {
            let mut short: Vec<&str> = ids.iter().map(|id| beginning(id, width)).collect();
            short.sort_unstable();
            short.windows(2).all(|pair| pair[0] != pair[1])
        })
        .unwrap_or(36)
}

fn beginning(id: &str, width: usize) -> &str {
    id.get(..width).unwrap_or(id)
}

/// A list of backups.
pub fn backups(backups: &[Backup]) -> Vec<String> {
    let mut table = Table::new(&[
        ("BACKUP", Align::Left),
        ("AGENT", Align::Left),
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("SIZE", Align::Right),
        ("STORED", Align::Right),
        ("CREATED", Align::Left),
        ("WHY", Align::Left),
    ]);
    let width = id_width(backups.iter().map(|backup| backup.backup_id.as_str()));
    for backup in backups {
        let done = backup.state() == backup::State::Completed;
        let size = |bytes| {
            if done {
                human::bytes(bytes)
            } else {
                "-".to_string()
            }
        };
        table.row(vec![
            beginning(&backup.backup_id, width).to_string(),
            human::printable(&backup.agent_id),
            human::or_dash(&backup.name),
            backup_state(backup),
            size(backup.size_bytes),
            size(backup.stored_bytes),
            human::time(backup.create_time.as_ref()),
            why(
                backup.failure.as_ref(),
                unended(done, backup.progress.as_ref()),
            ),
        ]);
    }
    table.lines()
}

fn unended<T>(done: bool, progress: Option<T>) -> Option<T> {
    if done { None } else { progress }
}

/// One backup in full.
pub fn backup(backup: &Backup) -> Vec<String> {
    let done = backup.state() == backup::State::Completed;
    let figures = |bytes: u64| {
        if done {
            human::bytes(bytes)
        } else {
            String::new()
        }
    };
    let verified = match (&backup.verify_failure, &backup.verify_time) {
        (Some(failed), _) => format!("NOT RIGHT: {}", failure(failed)),
        (None, Some(time)) => format!("right on {}", human::time_with_zone(Some(time))),
        (None, None) => String::new(),
    };
    fields(&[
        ("backup", backup.backup_id.clone()),
        ("agent", human::printable(&backup.agent_id)),
        ("name", human::printable(&backup.name)),
        ("state", backup_state(backup)),
        (
            "why",
            why(
                backup.failure.as_ref(),
                unended(done, backup.progress.as_ref()),
            ),
        ),
        (
            "trigger",
            backup
                .trigger()
                .as_str_name()
                .trim_start_matches("TRIGGER_")
                .to_lowercase(),
        ),
        ("size", figures(backup.size_bytes)),
        (
            "entries",
            if done {
                human::count(backup.entries)
            } else {
                String::new()
            },
        ),
        ("new", figures(backup.new_bytes)),
        ("stored", figures(backup.stored_bytes)),
        (
            "created",
            human::time_with_zone(backup.create_time.as_ref()),
        ),
        ("started", optional_time(backup.start_time.as_ref())),
        ("ended", optional_time(backup.end_time.as_ref())),
        (
            "took",
            took(backup.start_time.as_ref(), backup.end_time.as_ref()),
        ),
        ("verified", verified),
        ("warnings", warnings(backup, usize::MAX)),
    ])
}

fn optional_time(time: Option<&prost_types::Timestamp>) -> String {
    time.map_or_else(String::new, |time| human::time_with_zone(Some(time)))
}

fn took(from: Option<&prost_types::Timestamp>, to: Option<&prost_types::Timestamp>) -> String {
    human::between(from, to).map_or_else(String::new, human::duration)
}

/// The first warnings of a backup, one a line, and how many there are besides.
pub fn warnings(backup: &Backup, limit: usize) -> String {
    let mut lines: Vec<String> = backup
        .warnings
        .iter()
        .take(limit)
        .map(|warning| match warning.path.as_str() {
            "" => human::printable(&warning.message),
            path => format!(
                "{}: {}",
                human::printable(path),
                human::printable(&warning.message)
            ),
        })
        .collect();
    let more = backup.warnings_total.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("and {} more", human::count(more)));
    }
    lines.join("\n")
}

/// A list of agents.
pub fn agents(agents: &[Agent]) -> Vec<String> {
    let mut table = Table::new(&[
        ("AGENT", Align::Left),
        ("NAME", Align::Left),
        ("OWNER", Align::Left),
        ("WORKSPACE", Align::Left),
        ("SOURCE", Align::Left),
        ("POOL", Align::Left),
        ("CREATED", Align::Left),
    ]);
    for agent in agents {
        table.row(vec![
            human::printable(&agent.agent_id),
            human::printable(&agent.display_name),
            human::printable(&agent.owner_id),
            human::printable(&agent.workspace_id),
            source(agent),
            human::printable(&agent.pool),
            human::time(agent.create_time.as_ref()),
        ]);
    }
    table.lines()
}

/// One agent in full.
pub fn agent(agent: &Agent) -> Vec<String> {
    let integrations: Vec<String> = agent
        .integrations
        .iter()
        .map(|i| {
            format!(
                "{} ({})",
                human::printable(&i.name),
                human::printable(&i.r#type)
            )
        })
        .collect();
    fields(&[
        ("agent", human::printable(&agent.agent_id)),
        ("name", human::printable(&agent.display_name)),
        ("owner", human::printable(&agent.owner_id)),
        ("workspace", human::printable(&agent.workspace_id)),
        ("source", source(agent)),
        ("integrations", integrations.join("\n")),
        ("pool", human::printable(&agent.pool)),
        ("created", human::time_with_zone(agent.create_time.as_ref())),
        ("changed", human::time_with_zone(agent.update_time.as_ref())),
        ("from restore", agent.restore_id.clone()),
        ("etag", human::printable(&agent.etag)),
    ])
}

/// Where an agent's state lives, on one line.
fn source(agent: &Agent) -> String {
    match agent
        .source
        .as_ref()
        .and_then(|source| source.kind.as_ref())
    {
        Some(source::Kind::Directory(directory)) => human::printable(&directory.path),
        Some(source::Kind::Docker(docker)) => {
            let pause = match docker.consistency() {
                Consistency::Pause => ", paused while it is read",
                _ => "",
            };
            let paths = docker.paths.join(" ");
            let paths = if paths.is_empty() {
                paths
            } else {
                format!(" {paths}")
            };
            human::printable(&format!("container {}{paths}{pause}", docker.container))
        }
        None => "-".into(),
    }
}

/// A list of restores.
pub fn restores(restores: &[Restore]) -> Vec<String> {
    let mut table = Table::new(&[
        ("RESTORE", Align::Left),
        ("BACKUP", Align::Left),
        ("NEW AGENT", Align::Left),
        ("STATE", Align::Left),
        ("TARGET", Align::Left),
        ("CREATED", Align::Left),
        ("WHY", Align::Left),
    ]);
    let width = id_width(restores.iter().map(|restore| restore.restore_id.as_str()));
    for restore in restores {
        let done = restore.state() == restore::State::Completed;
        table.row(vec![
            beginning(&restore.restore_id, width).to_string(),
            beginning(&restore.backup_id, SHORT_ID).to_string(),
            restore
                .plan
                .as_ref()
                .map_or_else(String::new, |p| human::printable(&p.agent_id)),
            restore_state(restore),
            target(restore),
            human::time(restore.create_time.as_ref()),
            why(
                restore.failure.as_ref(),
                unended(done, restore.progress.as_ref()),
            ),
        ]);
    }
    table.lines()
}

/// One restore in full.
pub fn restore(restore: &Restore) -> Vec<String> {
    let plan = restore.plan.clone().unwrap_or_default();
    let done = restore.state() == restore::State::Completed;
    let is_draft = restore.state() == restore::State::Draft;
    let warnings: Vec<String> = restore
        .warnings
        .iter()
        .map(|w| human::printable(w))
        .collect();
    fields(&[
        ("restore", restore.restore_id.clone()),
        ("state", restore_state(restore)),
        (
            "why",
            why(
                restore.failure.as_ref(),
                unended(done, restore.progress.as_ref()),
            ),
        ),
        ("backup", restore.backup_id.clone()),
        ("new agent", human::printable(&plan.agent_id)),
        ("name", human::printable(&plan.display_name)),
        ("workspace", human::printable(&plan.workspace_id)),
        ("target", target(restore)),
        ("decisions", decisions(restore)),
        (
            "created",
            human::time_with_zone(restore.create_time.as_ref()),
        ),
        ("started", optional_time(restore.start_time.as_ref())),
        ("ended", optional_time(restore.end_time.as_ref())),
        (
            "took",
            took(restore.start_time.as_ref(), restore.end_time.as_ref()),
        ),
        (
            "goes away",
            if is_draft {
                optional_time(restore.expire_time.as_ref())
            } else {
                String::new()
            },
        ),
        ("warnings", warnings.join("\n")),
    ])
}

/// Where a restore puts the new agent.
pub fn target(restore: &Restore) -> String {
    match restore.plan.as_ref().and_then(|plan| plan.target.as_ref()) {
        Some(restore_plan::Target::Directory(directory)) => human::printable(&directory.path),
        Some(restore_plan::Target::Docker(docker)) => human::printable(&format!(
            "container {} of {}{}",
            docker.container_name,
            docker.image,
            if docker.start { ", started" } else { "" }
        )),
        None => "-".into(),
    }
}

/// What has to be decided, and what was, one a line.
fn decisions(restore: &Restore) -> String {
    let lines: Vec<String> = restore
        .decisions
        .iter()
        .map(|decision| {
            let chosen = match (decision.choice.as_str(), decision.required) {
                ("", true) => "to be decided".to_string(),
                ("", false) => "nothing chosen".to_string(),
                (choice, _) => human::printable(choice),
            };
            format!(
                "{} = {chosen}  [{}]  {}",
                human::printable(&decision.decision_id),
                human::printable(&decision.options.join("|")),
                human::printable(&decision.message)
            )
        })
        .collect();
    lines.join("\n")
}

/// One entry of a backup, as `ls -l` would show it.
pub fn entry(entry: &BackupEntry) -> String {
    use backup_entry::Type;
    let (letter, tail) = match entry.r#type() {
        Type::Directory => ('d', "/".to_string()),
        Type::Symlink => (
            'l',
            format!(" -> {}", String::from_utf8_lossy(&entry.link_target)),
        ),
        Type::HardLink => (
            'h',
            format!(" == {}", String::from_utf8_lossy(&entry.link_target)),
        ),
        Type::Fifo => ('p', String::new()),
        Type::CharacterDevice => ('c', String::new()),
        Type::BlockDevice => ('b', String::new()),
        Type::File | Type::Unspecified => ('-', String::new()),
    };
    let size = if letter == '-' {
        human::bytes(entry.size_bytes)
    } else {
        String::new()
    };
    format!(
        "{letter}{}  {:>5} {:>5}  {size:>10}  {}  {}{}",
        permissions(entry.mode),
        entry.uid,
        entry.gid,
        human::time(entry.modify_time.as_ref()),
        human::printable(&entry.path_text),
        human::printable(&tail),
    )
}

/// "rwxr-x---", with the bits for set-user-id, set-group-id and sticky.
fn permissions(mode: u32) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::with_capacity(9);
    for (class, (bit, with_execute, without)) in special.into_iter().enumerate() {
        let bits = mode >> (6 - 3 * class) & 0o7;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & bit != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => with_execute,
            (true, false) => without,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::{DirectorySource, Source};

    use super::*;

    fn sample(id: &str, state: backup::State) -> Backup {
        Backup {
            backup_id: id.into(),
            agent_id: "my-agent".into(),
            name: "my-agent 2026-11-23".into(),
            state: state.into(),
            size_bytes: 3 << 20,
            stored_bytes: 1 << 20,
            ..Backup::default()
        }
    }

    #[test]
    fn lists_show_why_a_backup_failed() {
        let mut failed = sample(
            "01932f3e-7c4b-7000-8000-000000000001",
            backup::State::Failed,
        );
        failed.failure = Some(Failure {
            reason: "DESTINATION_FULL".into(),
            message: "no room left".into(),
        });
        let done = sample(
            "01932f3e-7c4c-7000-8000-000000000002",
            backup::State::Completed,
        );
        let lines = backups(&[failed, done]);
        assert!(lines[0].starts_with("BACKUP         AGENT"));
        assert!(
            lines[1].starts_with("01932f3e-7c4b  my-agent"),
            "{}",
            lines[1]
        );
        assert!(
            lines[1].ends_with("no room left (DESTINATION_FULL)"),
            "{}",
            lines[1]
        );
        assert!(
            lines[2].contains("COMPLETED  3.0 MiB  1.0 MiB"),
            "{}",
            lines[2]
        );
    }

    #[test]
    fn ids_that_begin_alike_are_shown_longer() {
        let a = "01932f3e-7c4b-7000-8000-000000000001";
        let b = "01932f3e-7c4b-7111-8000-000000000001";
        assert_eq!(id_width([a].into_iter()), 13);
        assert_eq!(id_width([a, b].into_iter()), 18);
    }

    #[test]
    fn permissions_as_ls_shows_them() {
        assert_eq!(permissions(0o755), "rwxr-xr-x");
        assert_eq!(permissions(0o4711), "rws--x--x");
        assert_eq!(permissions(0o3640), "rw-r-S--T");
    }

    #[test]
    fn entries_and_agents() {
        let link = BackupEntry {
            path_text: "a/b".into(),
            r#type: backup_entry::Type::Symlink.into(),
            mode: 0o777,
            link_target: b"../c".to_vec(),
            ..BackupEntry::default()
        };
        assert!(entry(&link).starts_with("lrwxrwxrwx"));
        assert!(entry(&link).ends_with("a/b -> ../c"));
        let registered = Agent {
            agent_id: "x".into(),
            source: Some(Source {
                kind: Some(source::Kind::Directory(DirectorySource {
                    path: "/srv/x".into(),
                })),
            }),
            ..Agent::default()
        };
        assert!(agent(&registered).contains(&"source: /srv/x".to_string()));
    }
}
