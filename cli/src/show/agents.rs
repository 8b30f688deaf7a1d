//! Agents.

use proto::backup::v1::{Agent, Consistency, source};

use crate::output::{
    human,
    table::{Align, Table, fields},
};

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
    let patterns: Vec<String> = agent
        .patterns
        .iter()
        .map(|it| human::printable(it))
        .collect();
    fields(&[
        ("agent", human::printable(&agent.agent_id)),
        ("name", human::printable(&agent.display_name)),
        ("owner", human::printable(&agent.owner_id)),
        ("workspace", human::printable(&agent.workspace_id)),
        ("source", source(agent)),
        ("integrations", integrations.join("\n")),
        ("commands", hooks(agent)),
        ("left out", patterns.join("\n")),
        ("large from", size_warning(agent)),
        ("pool", human::printable(&agent.pool)),
        ("destination", destination(agent)),
        (
            "copies go to",
            human::printable(&agent.second_destination_id),
        ),
        ("created", human::time_with_zone(agent.create_time.as_ref())),
        ("changed", human::time_with_zone(agent.update_time.as_ref())),
        ("from restore", agent.restore_id.clone()),
        ("etag", human::printable(&agent.etag)),
    ])
}

/// The commands around its backups, one a line.
fn hooks(agent: &Agent) -> String {
    let kind = agent.source.as_ref().and_then(|it| it.kind.as_ref());
    let Some(source::Kind::Docker(docker)) = kind else {
        return String::new();
    };
    let hooks = docker.hooks.clone().unwrap_or_default();
    let lines: Vec<String> = [("before", hooks.before), ("after", hooks.after)]
        .into_iter()
        .filter_map(|(when, command)| {
            let argv = command?.argv.join(" ");
            Some(format!("{when}: {}", human::printable(&argv)))
        })
        .collect();
    lines.join("\n")
}

fn destination(agent: &Agent) -> String {
    match agent.destination_id.as_str() {
        "" => "the default".to_owned(),
        id => human::printable(id),
    }
}

fn size_warning(agent: &Agent) -> String {
    match agent.size_warning_bytes {
        0 => String::new(),
        bytes => human::bytes(bytes),
    }
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

#[cfg(test)]
mod tests {
    use proto::backup::v1::{DirectorySource, Source};

    use super::*;

    #[test]
    fn a_folder_is_shown_as_its_path() {
        let registered = Agent {
            agent_id: "x".into(),
            source: Some(Source {
                kind: Some(source::Kind::Directory(DirectorySource {
                    path: "/srv/x".into(),
                })),
            }),
            ..Agent::default()
        };
        let shown = agent(&registered).join("\n");
        assert!(shown.contains("source:      /srv/x"), "{shown}");
        assert!(shown.contains("destination: the default"), "{shown}");
    }

    #[test]
    fn destinations_are_named() {
        let registered = Agent {
            destination_id: "disk-2".into(),
            second_destination_id: "offsite".into(),
            ..Agent::default()
        };
        let shown = agent(&registered).join("\n");
        assert!(shown.contains("destination:  disk-2"), "{shown}");
        assert!(shown.contains("copies go to: offsite"), "{shown}");
    }
}
