//! Keys from a file.

use std::{fs::File, io::Read as _, os::unix::fs::PermissionsExt as _, path::Path};

use zeroize::Zeroizing;

use super::super::{SettingsError, wrong};

/// Longest file of keys.
const BYTES_MAX: u64 = 64 * 1024;

/// Reads a file of keys; says in the log when others can read it too.
pub(super) fn read(
    variable: &'static str,
    path: &Path,
) -> Result<Zeroizing<String>, SettingsError> {
    let refused = |error: &std::io::Error| {
        wrong(
            variable,
            format!(
                "names a file that cannot be read ({}: {error}): check the path and its permissions",
                path.display()
            ),
        )
    };
    let file = File::open(path).map_err(|error| refused(&error))?;
    let metadata = file.metadata().map_err(|error| refused(&error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 {
        tracing::warn!(
            variable,
            path = %path.display(),
            mode = format!("{mode:03o}"),
            "the key file can be read or changed by others: give it mode 600"
        );
    }
    let mut text = Zeroizing::new(String::new());
    file.take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| refused(&error))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(wrong(
            variable,
            format!("names a file of more than {BYTES_MAX} bytes: it is no list of keys"),
        ));
    }
    Ok(text)
}
