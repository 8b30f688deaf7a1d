//! Restores.

use proto::backup::v1::{Restore, restore, restore_plan};

use super::{SHORT_ID, beginning, id_width, optional_time, took, unended, why};
use crate::output::{
    human,
    table::{Align, Table, fields},
};

/// "COMPLETED".
pub fn restore_state(restore: &Restore) -> String {
    restore
        .state()
        .as_str_name()
        .trim_start_matches("STATE_")
        .to_string()
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
        ("read from", human::printable(&restore.destination_id)),
        (
            if restore.in_place {
                "in place of"
            } else {
                "new agent"
            },
            human::printable(&plan.agent_id),
        ),
        ("safety backup", restore.safety_backup_id.clone()),
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
