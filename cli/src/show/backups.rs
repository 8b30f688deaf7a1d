//! Backups.

use proto::backup::v1::{Backup, backup};

use super::{beginning, copies, failure, id_width, optional_time, took, unended, why};
use crate::output::{
    human,
    table::{Align, Table, fields},
};

/// "COMPLETED".
pub fn backup_state(backup: &Backup) -> String {
    backup
        .state()
        .as_str_name()
        .trim_start_matches("STATE_")
        .to_string()
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
        ("lies at", human::printable(&backup.destination_id)),
        ("copies", copies(&backup.copies)),
        ("warnings", warnings(backup, usize::MAX)),
    ])
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

#[cfg(test)]
mod tests {
    use proto::backup::v1::Failure;

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
}
