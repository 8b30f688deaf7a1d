//! Looks at what lies in a destination, from the outside.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a compaction may take until the vault is as expected.
const SETTLE_MS_MAX: u64 = 60_000;
/// How often the vault is looked at meanwhile.
const LOOK_MS: u64 = 50;

/// A vault's objects by folder: `keys`, `packs`, `indexes`, `backups`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// Names in each folder, with their sizes.
    pub folders: BTreeMap<String, BTreeMap<String, u64>>,
    /// Files that are no objects: unfinished or forgotten.
    pub strays: Vec<PathBuf>,
}

impl Objects {
    /// How many objects a folder has.
    pub fn count(&self, folder: &str) -> usize {
        self.folders.get(folder).map_or(0, BTreeMap::len)
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.folders.values().flat_map(BTreeMap::values).sum()
    }
}

/// The objects of one agent's vault under a local destination, and every stray
/// file of the whole destination.
pub fn objects(destination: &Path, agent_id: &str) -> Result<Objects> {
    let mut found = Objects::default();
    let vault = destination.join("vaults").join(agent_id);
    for file in files(destination)? {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let inside = file.strip_prefix(&vault).ok();
        match inside.and_then(|path| path.parent()).and_then(Path::to_str) {
            Some(folder) if is_object(folder, &name) => {
                let size = file
                    .metadata()
                    .with_context(|| format!("look at {}", file.display()))?
                    .len();
                found
                    .folders
                    .entry(folder.to_owned())
                    .or_default()
                    .insert(name, size);
            }
            _ if is_elsewhere(destination, &file) => {}
            _ => found.strays.push(file),
        }
    }
    Ok(found)
}

/// Waits until the vault is as expected: compactions have no event to wait for.
pub async fn wait_until(
    destination: &Path,
    agent_id: &str,
    expected: impl Fn(&Objects) -> bool,
) -> Result<Objects> {
    let deadline = Instant::now() + Duration::from_millis(SETTLE_MS_MAX);
    loop {
        // Files may go while they are listed.
        match objects(destination, agent_id) {
            Ok(found) if expected(&found) => return Ok(found),
            Ok(found) if Instant::now() > deadline => bail!("the vault stays as it is: {found:#?}"),
            Err(cause) if Instant::now() > deadline => return Err(cause),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

/// Whether it is an object of another agent's vault.
fn is_elsewhere(destination: &Path, file: &Path) -> bool {
    let Ok(path) = file.strip_prefix(destination.join("vaults")) else {
        return false;
    };
    let parts: Vec<String> = path
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    matches!(parts.as_slice(), [_, folder, name] if is_object(folder, name))
}

fn is_object(folder: &str, name: &str) -> bool {
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    match folder {
        "keys" => is_hex(name, 32),
        "packs" | "indexes" => is_hex(name, 64),
        "backups" => name
            .split_once('.')
            .is_some_and(|(id, attempt)| id.len() == 36 && attempt.parse::<u32>().is_ok()),
        _ => false,
    }
}

fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
