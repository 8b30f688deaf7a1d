//! Compiles the .proto files with protox: no protoc is needed.

use std::{env, fs, path::PathBuf};

use protox::prost::Message as _;

const FILES: &[&str] = &[
    "nora/backup/v1/admin_service.proto",
    "nora/backup/v1/agent_service.proto",
    "nora/backup/v1/backup_service.proto",
    "nora/backup/v1/destination.proto",
    "nora/backup/v1/restore_service.proto",
    "nora/backup/v1/schedule_service.proto",
    "nora/backup/v1/error_reason.proto",
    "nora/vault/v1/vault.proto",
    "nora/queue/v1/queue.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=nora");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".nora.backup.v1.DownloadBackupResponse.data")
        .bytes(".nora.backup.v1.DownloadEntryResponse.data")
        // These hold secrets: their `Debug` is written by hand.
        .skip_debug([
            ".nora.backup.v1.S3Destination",
            ".nora.backup.v1.R2Destination",
            ".nora.backup.v1.SshDestination",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
