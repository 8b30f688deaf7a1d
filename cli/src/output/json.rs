//! The API's messages as JSON: protobuf's own mapping, with the field names of
//! the .proto files, 64-bit integers as numbers, and every field present.
//!
//! The mapping is driven by the descriptors, so that a field added to the API
//! appears here by itself.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use proto::backup::v1::{
    Agent, AuditEntry, Backup, BackupEntry, CheckWorkspaceCreationResponse, Destination,
    GetStorageUsageResponse, Integration, Job, KeyRotation, ListAgentsResponse,
    ListBackupsResponse, ListKeysResponse, ListPoolsResponse, ListRestoresResponse,
    ListWorkersResponse, OwnedBackup, PreviewRetentionResponse, RegisterAgentResponse, Restore,
    Schedule, Source, TestDestinationResponse, VerifyBackupResponse, WatchVerificationResponse,
};
use serde_json::Value;

/// The descriptors of the API.
pub static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(proto::DESCRIPTORS).expect("the descriptors were made by our own build")
});

/// A message that can be shown as JSON.
pub trait Document: prost::Message {
    /// Name in `nora.backup.v1`.
    const NAME: &'static str;

    /// The message as JSON.
    fn to_json(&self) -> Value
    where
        Self: Sized,
    {
        let descriptor = POOL
            .get_message_by_name(&format!("nora.backup.v1.{}", Self::NAME))
            .expect("the message stands in the descriptors that its code was made from");
        let message = DynamicMessage::decode(descriptor, self.encode_to_vec().as_slice())
            .expect("a message that was just encoded can be decoded");
        let options = SerializeOptions::new()
            .stringify_64_bit_integers(false)
            .use_proto_field_name(true)
            .skip_default_fields(false);
        message
            .serialize_with_options(serde_json::value::Serializer, &options)
            .unwrap_or(Value::Null)
    }
}

macro_rules! documents {
    ($($name:ident),* $(,)?) => {
        $(impl Document for $name {
            const NAME: &'static str = stringify!($name);
        })*
    };
}

documents!(
    Agent,
    AuditEntry,
    Backup,
    BackupEntry,
    CheckWorkspaceCreationResponse,
    Destination,
    GetStorageUsageResponse,
    Integration,
    KeyRotation,
    ListAgentsResponse,
    ListBackupsResponse,
    ListKeysResponse,
    ListRestoresResponse,
    ListPoolsResponse,
    Job,
    ListWorkersResponse,
    OwnedBackup,
    RegisterAgentResponse,
    Restore,
    PreviewRetentionResponse,
    Schedule,
    Source,
    TestDestinationResponse,
    VerifyBackupResponse,
    WatchVerificationResponse,
);

#[cfg(test)]
mod tests {
    use proto::backup::v1::backup::State;

    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_the_api() {
        let backup = Backup {
            backup_id: "b-1".into(),
            state: State::Completed.into(),
            size_bytes: 1 << 40,
            create_time: Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 500_000_000,
            }),
            ..Backup::default()
        };
        let json = backup.to_json();
        assert_eq!(json["backup_id"], "b-1");
        assert_eq!(json["state"], "STATE_COMPLETED");
        assert_eq!(json["size_bytes"], 1_u64 << 40);
        assert_eq!(json["create_time"], "1970-01-01T00:00:01.500Z");
        assert_eq!(json["stored_bytes"], 0);
    }

    #[test]
    fn every_document_is_in_the_descriptors() {
        let _ = (Agent::default().to_json(), BackupEntry::default().to_json());
        let _ = (
            Restore::default().to_json(),
            RegisterAgentResponse::default().to_json(),
        );
        let _ = (
            GetStorageUsageResponse::default().to_json(),
            ListAgentsResponse::default().to_json(),
        );
        let _ = (
            ListBackupsResponse::default().to_json(),
            ListRestoresResponse::default().to_json(),
        );
        let _ = VerifyBackupResponse::default().to_json();
        let _ = WatchVerificationResponse::default().to_json();
    }
}
