//! What an agent is besides its files: how its container ran, and its integrations.
//! It is written beside the folder, as JSON.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use prost::Message as _;
use proto::{
    backup::v1::{Integration, Source},
    vault::v1::{Manifest, MountDocument, RuntimeDocument},
};
use serde_json::{Value, json};

use super::list::rfc3339;
use crate::{
    error::{CliError, Result},
    exit::Exit,
    output::json::Document as _,
};

/// Where the document of a folder stands, when the backup has anything for it.
pub(super) fn path_for(folder: &Path, manifest: &Manifest) -> Result<Option<PathBuf>> {
    if manifest.runtime.is_none() && manifest.integrations.is_empty() {
        return Ok(None);
    }
    let mut name = folder.as_os_str().to_owned();
    name.push(".agent.json");
    let path = PathBuf::from(name);
    if path.symlink_metadata().is_ok() {
        return Err(CliError::new(
            Exit::Refused,
            format!(
                "{} exists already: remove it, or choose another folder",
                path.display()
            ),
        ));
    }
    Ok(Some(path))
}

/// Writes it, for its owner's eyes only: it may hold secrets of the agent.
pub(super) fn write(path: &Path, manifest: &Manifest) -> Result<()> {
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        writeln!(file, "{:#}", document(manifest))?;
        file.sync_all()
    };
    written().map_err(|error| CliError::io(format!("write {}", path.display()), &error))
}

fn document(manifest: &Manifest) -> Value {
    let integrations: Vec<Value> = manifest
        .integrations
        .iter()
        .filter_map(|stored| Integration::decode(&**stored).ok())
        .map(|integration| integration.to_json())
        .collect();
    json!({
        "agent_id": manifest.agent_id,
        "display_name": manifest.agent_name,
        "owner_id": manifest.owner_id,
        "workspace_id": manifest.workspace_id,
        "backup_id": manifest.backup_id,
        "backup_name": manifest.name,
        "sequence": manifest.sequence,
        "start_time": rfc3339(manifest.start_time_ms),
        "end_time": rfc3339(manifest.end_time_ms),
        "source": Source::decode(&*manifest.source).ok().map(|source| source.to_json()),
        "integrations": integrations,
        "runtime": manifest.runtime.as_ref().map(runtime),
    })
}

fn runtime(runtime: &RuntimeDocument) -> Value {
    let paths = |paths: &[Vec<u8>]| -> Vec<String> {
        let shown = paths.iter().map(|path| String::from_utf8_lossy(path));
        shown.map(std::borrow::Cow::into_owned).collect()
    };
    let inspect: Value = serde_json::from_slice(&runtime.inspect_json).unwrap_or(Value::Null);
    let mounts: Vec<Value> = runtime.mounts.iter().map(mount).collect();
    json!({
        "image": runtime.image,
        "image_id": runtime.image_id,
        "image_digests": runtime.image_digests,
        "container_name": runtime.container_name,
        "was_running": runtime.was_running,
        "captured_paths": paths(&runtime.captured_paths),
        "deleted_paths": paths(&runtime.deleted_paths),
        "mounts": mounts,
        "inspect": inspect,
    })
}

fn mount(mount: &MountDocument) -> Value {
    json!({
        "type": mount.r#type,
        "source": mount.source,
        "target": mount.target,
        "driver": mount.driver,
        "read_only": mount.read_only,
        "captured": mount.captured,
        "labels": mount.labels,
    })
}
