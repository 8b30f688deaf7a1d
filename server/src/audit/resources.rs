//! What a call was about: the ids in its messages, found by the contract's descriptors.

use bytes::Bytes;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value};

/// Ids of one message at the most.
const IDS_MAX: usize = 32;
/// A longer value is no id; its beginning is kept.
const ID_CHARS_MAX: usize = 200;
/// Bytes before each message of a gRPC stream: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;
/// Messages in messages: `agent.agent_id` is two.
const DEPTH_MAX: usize = 2;

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Fields and the ids in them.
    pub(super) resources: Vec<(String, String)>,
    /// The field `request_id`, when there is one.
    pub(super) request_id: String,
}

/// Reads the first message of a gRPC body. What can't be read names nothing: the service will
/// refuse it.
pub(super) fn first_message(descriptor: &MessageDescriptor, body: &Bytes) -> Found {
    let mut found = Found::default();
    if body.len() < FRAME_HEAD_BYTES || body[0] != 0 {
        return found;
    }
    let length = u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize;
    let Some(message) = body.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length) else {
        return found;
    };
    if let Ok(message) = DynamicMessage::decode(descriptor.clone(), message) {
        walk(&message, 1, &mut found);
    }
    found
}

fn walk(message: &DynamicMessage, depth: usize, found: &mut Found) {
    for field in message.descriptor().fields() {
        if !message.has_field(&field) {
            continue;
        }
        let name = field.name();
        match (field.kind(), message.get_field(&field).as_ref()) {
            (Kind::String, Value::String(id)) if name == "request_id" => {
                found.request_id = kept(id);
            }
            (Kind::String, Value::String(id)) if name.ends_with("_id") => note(name, id, found),
            (Kind::String, Value::List(ids)) if name.ends_with("_ids") => {
                for id in ids.iter().filter_map(Value::as_str) {
                    note(name.trim_end_matches('s'), id, found);
                }
            }
            (Kind::Message(_), Value::Message(inner)) if depth < DEPTH_MAX => {
                walk(inner, depth + 1, found);
            }
            _ => {}
        }
    }
}

fn note(field: &str, id: &str, found: &mut Found) {
    let resource = (field.to_owned(), kept(id));
    if found.resources.len() < IDS_MAX && !id.is_empty() && !found.resources.contains(&resource) {
        found.resources.push(resource);
    }
}

fn kept(id: &str) -> String {
    id.chars().take(ID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::{
        Agent, Backup, CreateBackupRequest, CreateBackupResponse, ListBackupsResponse,
        RegisterAgentRequest,
    };

    use super::*;
    use crate::methods::Methods;

    fn framed(message: &impl prost::Message) -> Bytes {
        let bytes = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend((bytes.len() as u32).to_be_bytes());
        frame.extend(bytes);
        frame.into()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(field, id): &(&str, &str)| ((*field).to_owned(), (*id).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn ids_are_found_by_the_names_of_their_fields() {
        let methods = Methods::load();
        let method = |name: &str| methods.get(&format!("/nora.backup.v1.{name}")).unwrap();
        let create = method("BackupService/CreateBackup");
        let request = CreateBackupRequest {
            agent_id: "a".into(),
            name: "not an id".into(),
            request_id: "r".into(),
        };
        let found = first_message(&create.input, &framed(&request));
        assert_eq!(found.resources, pairs(&[("agent_id", "a")]));
        assert_eq!(found.request_id, "r");
        let response = CreateBackupResponse {
            backup: Some(Backup {
                backup_id: "b".into(),
                agent_id: "a".into(),
                ..Backup::default()
            }),
        };
        let found = first_message(&create.output, &framed(&response));
        assert_eq!(
            found.resources,
            pairs(&[("backup_id", "b"), ("agent_id", "a")])
        );
        let register = RegisterAgentRequest {
            agent: Some(Agent {
                agent_id: "a".into(),
                owner_id: "ann".into(),
                ..Agent::default()
            }),
        };
        let input = &method("AgentService/RegisterAgent").input;
        assert_eq!(
            first_message(input, &framed(&register)).resources,
            pairs(&[("agent_id", "a"), ("owner_id", "ann")])
        );
        // What a list shows is no subject of the call.
        let list = ListBackupsResponse {
            backups: vec![Backup {
                backup_id: "b".into(),
                ..Backup::default()
            }],
            ..ListBackupsResponse::default()
        };
        let output = &method("BackupService/ListBackups").output;
        assert_eq!(first_message(output, &framed(&list)), Found::default());
    }

    #[test]
    fn what_cannot_be_read_names_nothing() {
        let methods = Methods::load();
        let input = &methods
            .get("/nora.backup.v1.BackupService/GetBackup")
            .unwrap()
            .input;
        for body in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\0",
            b"\0\xff\xff\xff\xffx",
            b"\0\0\0\0\x02\xff\xff",
        ] {
            let found = first_message(input, &Bytes::copy_from_slice(body));
            assert_eq!(found, Found::default());
        }
    }
}
