//! The settings of `NORA_BACKUP_STORAGE=s3` and `r2`.

use clap::Args;
use proto::backup::v1::{R2Destination, S3Destination, s3_destination::AddressingStyle};

use super::{
    SettingsError,
    secret::{self, Secret},
    wrong,
};

/// A bucket of an S3-compatible service.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Destination: S3")]
pub struct S3Settings {
    /// Bucket of an S3-compatible service (with NORA_BACKUP_STORAGE=s3); it must exist.
    #[arg(
        id = "s3_bucket",
        long = "s3-bucket",
        env = "NORA_BACKUP_S3_BUCKET",
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    pub bucket: String,
    /// Region of the bucket (when not set: us-east-1).
    #[arg(
        id = "s3_region",
        long = "s3-region",
        env = "NORA_BACKUP_S3_REGION",
        default_value = "",
        hide_default_value = true,
        value_name = "REGION"
    )]
    pub region: String,
    /// Address of the service, http:// or https:// (when not set: AWS's own of the region).
    #[arg(
        id = "s3_endpoint",
        long = "s3-endpoint",
        env = "NORA_BACKUP_S3_ENDPOINT",
        default_value = "",
        hide_default_value = true,
        value_name = "URL"
    )]
    pub endpoint: String,
    /// Access key id.
    #[arg(
        id = "s3_access_key_id",
        long = "s3-access-key-id",
        env = "NORA_BACKUP_S3_ACCESS_KEY_ID",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        value_name = "ID"
    )]
    pub access_key_id: String,
    /// Secret access key.
    #[arg(id = "s3_secret_access_key", long = "s3-secret-access-key",
          env = "NORA_BACKUP_S3_SECRET_ACCESS_KEY", default_value = "", hide_default_value = true,
          hide_env_values = true, value_name = "SECRET", value_parser = secret::parser())]
    pub secret_access_key: Secret,
    /// Session token of temporary credentials.
    #[arg(id = "s3_session_token", long = "s3-session-token", env = "NORA_BACKUP_S3_SESSION_TOKEN",
          default_value = "", hide_default_value = true, hide_env_values = true,
          value_name = "TOKEN", value_parser = secret::parser())]
    pub session_token: Secret,
    /// What object names begin with, for example nora/prod.
    #[arg(
        id = "s3_prefix",
        long = "s3-prefix",
        env = "NORA_BACKUP_S3_PREFIX",
        default_value = "",
        hide_default_value = true,
        value_name = "PREFIX"
    )]
    pub prefix: String,
    /// How the bucket is addressed: `path` or `virtual-host` (when not set: by path when an endpoint
    /// is set, else by host name).
    #[arg(
        id = "s3_addressing_style",
        long = "s3-addressing-style",
        env = "NORA_BACKUP_S3_ADDRESSING_STYLE",
        default_value = "",
        hide_default_value = true,
        value_name = "STYLE"
    )]
    pub addressing_style: String,
    /// Storage class of new objects, for example STANDARD_IA (when not set: the bucket's).
    #[arg(
        id = "s3_storage_class",
        long = "s3-storage-class",
        env = "NORA_BACKUP_S3_STORAGE_CLASS",
        default_value = "",
        hide_default_value = true,
        value_name = "CLASS"
    )]
    pub storage_class: String,
    /// Server-side encryption of new objects: `AES256` or `aws:kms` (when not set: the bucket's).
    #[arg(
        id = "s3_server_side_encryption",
        long = "s3-server-side-encryption",
        env = "NORA_BACKUP_S3_SERVER_SIDE_ENCRYPTION",
        default_value = "",
        hide_default_value = true,
        value_name = "KIND"
    )]
    pub server_side_encryption: String,
    /// Key of aws:kms (when not set: the account's own).
    #[arg(
        id = "s3_kms_key_id",
        long = "s3-kms-key-id",
        env = "NORA_BACKUP_S3_KMS_KEY_ID",
        default_value = "",
        hide_default_value = true,
        value_name = "KEY"
    )]
    pub kms_key_id: String,
}

impl S3Settings {
    pub(super) fn destination(&self) -> Result<S3Destination, SettingsError> {
        let style = match self.addressing_style.trim() {
            "" | "auto" => AddressingStyle::Unspecified,
            "path" => AddressingStyle::Path,
            "virtual-host" => AddressingStyle::VirtualHost,
            other => {
                return Err(wrong(
                    "NORA_BACKUP_S3_ADDRESSING_STYLE",
                    format!("is {other:?}: set it to `path` or `virtual-host`, or leave it out"),
                ));
            }
        };
        Ok(S3Destination {
            bucket: trimmed(&self.bucket),
            region: trimmed(&self.region),
            endpoint: trimmed(&self.endpoint),
            access_key_id: trimmed(&self.access_key_id),
            secret_access_key: trimmed(self.secret_access_key.expose()),
            session_token: trimmed(self.session_token.expose()),
            prefix: trimmed(&self.prefix),
            addressing_style: style.into(),
            storage_class: trimmed(&self.storage_class),
            server_side_encryption: trimmed(&self.server_side_encryption),
            kms_key_id: trimmed(&self.kms_key_id),
        })
    }
}

/// A bucket of Cloudflare R2.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Destination: R2")]
pub struct R2Settings {
    /// Bucket of Cloudflare R2 (with NORA_BACKUP_STORAGE=r2); it must exist.
    #[arg(
        id = "r2_bucket",
        long = "r2-bucket",
        env = "NORA_BACKUP_R2_BUCKET",
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    pub bucket: String,
    /// Address of the account: https://ACCOUNT_ID.r2.cloudflarestorage.com.
    #[arg(
        id = "r2_endpoint",
        long = "r2-endpoint",
        env = "NORA_BACKUP_R2_ENDPOINT",
        default_value = "",
        hide_default_value = true,
        value_name = "URL"
    )]
    pub endpoint: String,
    /// Region (when not set: auto, the only one).
    #[arg(
        id = "r2_region",
        long = "r2-region",
        env = "NORA_BACKUP_R2_REGION",
        default_value = "",
        hide_default_value = true,
        value_name = "REGION"
    )]
    pub region: String,
    /// Access key id of an API token.
    #[arg(
        id = "r2_access_key_id",
        long = "r2-access-key-id",
        env = "NORA_BACKUP_R2_ACCESS_KEY_ID",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        value_name = "ID"
    )]
    pub access_key_id: String,
    /// Secret access key of the token.
    #[arg(id = "r2_secret_access_key", long = "r2-secret-access-key",
          env = "NORA_BACKUP_R2_SECRET_ACCESS_KEY", default_value = "", hide_default_value = true,
          hide_env_values = true, value_name = "SECRET", value_parser = secret::parser())]
    pub secret_access_key: Secret,
    /// Session token of temporary credentials.
    #[arg(id = "r2_session_token", long = "r2-session-token", env = "NORA_BACKUP_R2_SESSION_TOKEN",
          default_value = "", hide_default_value = true, hide_env_values = true,
          value_name = "TOKEN", value_parser = secret::parser())]
    pub session_token: Secret,
    /// What object names begin with, for example nora/prod.
    #[arg(
        id = "r2_prefix",
        long = "r2-prefix",
        env = "NORA_BACKUP_R2_PREFIX",
        default_value = "",
        hide_default_value = true,
        value_name = "PREFIX"
    )]
    pub prefix: String,
}

impl R2Settings {
    pub(super) fn destination(&self) -> R2Destination {
        R2Destination {
            bucket: trimmed(&self.bucket),
            endpoint: trimmed(&self.endpoint),
            region: trimmed(&self.region),
            access_key_id: trimmed(&self.access_key_id),
            secret_access_key: trimmed(self.secret_access_key.expose()),
            session_token: trimmed(self.session_token.expose()),
            prefix: trimmed(&self.prefix),
        }
    }
}

fn trimmed(text: &str) -> String {
    text.trim().to_owned()
}
