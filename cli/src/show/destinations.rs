//! Destinations, the steps of their tests, and the copies that lie there.

use proto::backup::v1::{
    BackupCopy, Destination, DestinationStep, Failure, destination::Kind,
    s3_destination::AddressingStyle,
};

use super::{failure, optional_time};
use crate::output::{
    human,
    table::{Align, Table, fields},
};

/// A list of destinations.
pub fn destinations(destinations: &[Destination]) -> Vec<String> {
    let mut table = Table::new(&[
        ("DESTINATION", Align::Left),
        ("NAME", Align::Left),
        ("KIND", Align::Left),
        ("DEFAULT", Align::Left),
        ("PLACE", Align::Left),
    ]);
    for destination in destinations {
        let is_named = destination.display_name != destination.destination_id;
        table.row(vec![
            human::printable(&destination.destination_id),
            human::printable(if is_named {
                &destination.display_name
            } else {
                ""
            }),
            kind(destination).to_owned(),
            yes(destination.is_default),
            human::printable(&destination.place),
        ]);
    }
    table.lines()
}

/// One destination in full.
pub fn destination(destination: &Destination) -> Vec<String> {
    let mut shown = vec![
        ("destination", human::printable(&destination.destination_id)),
        ("name", human::printable(&destination.display_name)),
        ("kind", kind(destination).to_owned()),
        ("place", human::printable(&destination.place)),
        ("default", yes(destination.is_default)),
    ];
    shown.extend(settings(destination.kind.as_ref()));
    shown.extend([
        ("added", optional_time(destination.create_time.as_ref())),
        ("changed", optional_time(destination.update_time.as_ref())),
        ("etag", human::printable(&destination.etag)),
    ]);
    fields(&shown)
}

/// What is set of a place, besides where it is.
fn settings(kind: Option<&Kind>) -> Vec<(&'static str, String)> {
    match kind {
        Some(Kind::S3(s3)) => vec![
            ("region", human::printable(&s3.region)),
            ("access key id", human::printable(&s3.access_key_id)),
            (
                "addressing",
                match s3.addressing_style() {
                    AddressingStyle::Unspecified => String::new(),
                    AddressingStyle::Path => "by path".to_owned(),
                    AddressingStyle::VirtualHost => "by host name".to_owned(),
                },
            ),
            ("storage class", human::printable(&s3.storage_class)),
            ("encryption", human::printable(&s3.server_side_encryption)),
            ("kms key", human::printable(&s3.kms_key_id)),
        ],
        Some(Kind::R2(r2)) => vec![
            ("region", human::printable(&r2.region)),
            ("access key id", human::printable(&r2.access_key_id)),
        ],
        Some(Kind::Ssh(ssh)) => {
            let keys: Vec<String> = ssh.host_key.lines().map(human::printable).collect();
            let first = if ssh.trust_first_key {
                "trusted, and remembered"
            } else {
                ""
            };
            vec![
                ("host key", keys.join("\n")),
                ("first key shown", first.to_owned()),
            ]
        }
        Some(Kind::Local(_)) | None => Vec::new(),
    }
}

fn kind(destination: &Destination) -> &'static str {
    destination
        .kind
        .as_ref()
        .map_or("unknown", |kind| match kind {
            Kind::Local(_) => "local",
            Kind::S3(_) => "s3",
            Kind::R2(_) => "r2",
            Kind::Ssh(_) => "ssh",
        })
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "" }.to_owned()
}

/// The steps of a test, one a line.
pub fn steps(steps: &[DestinationStep]) -> Vec<String> {
    let mut table = Table::new(&[
        ("STEP", Align::Left),
        ("RESULT", Align::Left),
        ("TOOK", Align::Right),
        ("WHY", Align::Left),
    ]);
    for step in steps {
        let took = step.duration.as_ref().map(human::proto_duration);
        table.row(vec![
            human::printable(&step.name),
            if step.ok { "ok" } else { "failed" }.to_owned(),
            took.map_or_else(|| "-".to_owned(), human::duration),
            failure(&Failure {
                reason: step.reason.clone(),
                message: step.message.clone(),
            }),
        ]);
    }
    table.lines()
}

/// The copies of a backup, one a line.
pub fn copies(copies: &[BackupCopy]) -> String {
    let lines: Vec<String> = copies
        .iter()
        .map(|copy| {
            let state = copy.state().as_str_name().trim_start_matches("STATE_");
            let since = match copy.update_time.as_ref() {
                Some(time) => format!(" since {}", human::time_with_zone(Some(time))),
                None => String::new(),
            };
            let why = match &copy.failure {
                Some(failed) => format!(": {}", failure(failed)),
                None => String::new(),
            };
            let id = human::printable(&copy.destination_id);
            format!("{id}  {state}{since}{why}")
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::{S3Destination, backup_copy};

    use super::*;

    fn bucket() -> Destination {
        Destination {
            destination_id: "offsite".into(),
            display_name: "offsite".into(),
            kind: Some(Kind::S3(S3Destination {
                bucket: "nora".into(),
                access_key_id: "AKIDEXAMPLE".into(),
                secret_access_key: "very-secret".into(),
                session_token: "also-secret".into(),
                ..S3Destination::default()
            })),
            place: "s3://nora".into(),
            ..Destination::default()
        }
    }

    #[test]
    fn lists_show_where_and_never_a_secret() {
        let mut here = Destination {
            destination_id: "default".into(),
            display_name: "default".into(),
            place: "/srv/nora".into(),
            is_default: true,
            ..Destination::default()
        };
        here.kind = Some(Kind::Local(proto::backup::v1::LocalDestination {
            path: "/srv/nora".into(),
        }));
        let list = destinations(&[here, bucket()]);
        assert_eq!(
            list,
            [
                "DESTINATION  KIND   DEFAULT  PLACE",
                "default      local  yes      /srv/nora",
                "offsite      s3              s3://nora",
            ]
        );
        let one = destination(&bucket()).join("\n");
        assert!(one.contains("AKIDEXAMPLE"), "{one}");
        assert!(!one.contains("secret"), "{one}");
    }

    #[test]
    fn a_test_is_shown_step_by_step() {
        let step = |name: &str, millis: i32| DestinationStep {
            name: name.into(),
            ok: true,
            duration: Some(prost_types::Duration {
                seconds: 0,
                nanos: millis * 1_000_000,
            }),
            ..DestinationStep::default()
        };
        let good = [step("connect", 120), step("write", 80)];
        assert_eq!(
            steps(&good),
            [
                "STEP     RESULT    TOOK",
                "connect  ok      120 ms",
                "write    ok       80 ms",
            ]
        );
        let bad = DestinationStep {
            ok: false,
            reason: "DESTINATION_DENIED".into(),
            message: "s3:PutObject is not allowed\non nora".into(),
            ..step("write", 80)
        };
        let shown = steps(&[step("connect", 120), bad]);
        assert_eq!(
            shown[2],
            "write    failed   80 ms  s3:PutObject is not allowed\\non nora (DESTINATION_DENIED)"
        );
    }

    #[test]
    fn copies_say_where_they_stand_and_why() {
        let copy = |id: &str, state: backup_copy::State| BackupCopy {
            destination_id: id.into(),
            state: state.into(),
            ..BackupCopy::default()
        };
        let failed = BackupCopy {
            failure: Some(Failure {
                reason: "DESTINATION_FULL".into(),
                message: "no room left".into(),
            }),
            ..copy("tape", backup_copy::State::Failed)
        };
        assert_eq!(
            copies(&[copy("offsite", backup_copy::State::Completed), failed]),
            "offsite  COMPLETED\ntape  FAILED: no room left (DESTINATION_FULL)"
        );
        assert_eq!(copies(&[]), "");
    }
}
