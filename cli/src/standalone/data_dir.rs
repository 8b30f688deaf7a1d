//! The data directory of a standalone: what lies in it, and who may use it.
//!
//! ```text
//! <data dir>            mode 0700, held by one process at a time
//!   lock                flock, with the holder's process id
//!   key                 the key-encryption key: 64 hexadecimal digits
//!   jwt-secret          signs tokens
//!   token               an administrator's token for this machine
//!   catalog.db          what is known: agents, backups, jobs
//!   vaults/             the backups (the local destination)
//! ```
//!
//! Secrets are made at the first start, mode 0600, and never written again. A
//! key is not made where vaults lie already: backups that nobody can open would
//! follow.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rand::{TryRng as _, rngs::SysRng};
use rustix::fs::{FlockOperation, flock};

use crate::{
    commands::token::{Claims, Role},
    error::{CliError, Result},
    exit::Exit,
};

/// The administrator's token.
pub const TOKEN_FILE: &str = "token";
const KEY_FILE: &str = "key";
const SECRET_FILE: &str = "jwt-secret";
const LOCK_FILE: &str = "lock";
const CATALOG_FILE: &str = "catalog.db";
/// The destination's folder for vaults.
const VAULTS: &str = "vaults";
/// How long the administrator's token is valid: it lives as long as its folder.
const TOKEN_TTL: Duration = Duration::from_hours(24 * 3650);
/// Whom the administrator's token names.
pub const ADMIN: &str = "admin";

/// A data directory that this process holds. Dropping it lets go.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock goes with the open file.
    _lock: File,
}

/// Where a standalone keeps its data when nothing is said.
pub fn default_path() -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("nora-backup"))
        .ok_or_else(|| CliError::usage("neither XDG_DATA_HOME nor HOME is set: give --data-dir"))
}

/// The given directory, or the default one, as an absolute path.
pub fn resolve(given: Option<PathBuf>) -> Result<PathBuf> {
    match given.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => std::path::absolute(&path)
            .map_err(|error| CliError::io(format!("find {}", path.display()), &error)),
        None => default_path(),
    }
}

/// The secret that signs tokens, from a data directory that exists.
pub fn read_jwt_secret(given: Option<PathBuf>) -> Result<String> {
    let path = resolve(given)?.join(SECRET_FILE);
    let secret = fs::read_to_string(&path).map_err(|error| {
        CliError::io(format!("read the secret in {}", path.display()), &error)
            .hint("set JWT_SECRET to the service's secret, or name its --data-dir")
    })?;
    Ok(secret.trim().to_string())
}

impl DataDir {
    /// Makes the directory where needed, and takes hold of it.
    pub fn open(path: PathBuf) -> Result<Self> {
        let doing = |what: &str| format!("{what} {}", path.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| CliError::io(doing("make the data directory"), &error))?;
        let metadata = fs::metadata(&path)
            .map_err(|error| CliError::io(doing("look at the data directory"), &error))?;
        let open_to_others = metadata.permissions().mode() & 0o077 != 0;
        if open_to_others && metadata.uid() == rustix::process::geteuid().as_raw() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(|error| {
                CliError::io(doing("close to others the data directory"), &error)
            })?;
        }
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The catalog's file.
    pub fn catalog(&self) -> PathBuf {
        self.path.join(CATALOG_FILE)
    }

    /// The key's file.
    pub fn key_file(&self) -> PathBuf {
        self.path.join(KEY_FILE)
    }

    /// The token's file.
    pub fn token_file(&self) -> PathBuf {
        self.path.join(TOKEN_FILE)
    }

    /// The key-encryption key; made when there is none yet, but never where
    /// `destination` holds vaults, which that key could not open.
    pub fn key(&self, destination: &Path) -> Result<(String, bool)> {
        let path = self.key_file();
        if let Some(key) = read_secret(&path)? {
            return Ok((key, false));
        }
        if holds_vaults(destination)? {
            return Err(self.key_is_gone(&destination.join(VAULTS).display().to_string()));
        }
        self.make_key().map(|key| (key, true))
    }

    /// Makes the key-encryption key. Only for destinations that hold no vaults.
    pub fn make_key(&self) -> Result<String> {
        self.make_secret(&self.key_file())
    }

    /// There are backups in that place, and no key.
    pub fn key_is_gone(&self, place: &str) -> CliError {
        CliError::new(
            Exit::Refused,
            format!(
                "{place} holds backups, but the key that opens them is missing: there is no file {}. \
                 A new key would not open them, so that none was made",
                self.key_file().display()
            ),
        )
        .hint(format!(
            "put the key file back, or set NORA_BACKUP_ENCRYPTION_KEY; to begin anew, move {place} away",
        ))
    }

    /// The key-encryption key in the directory, when there is one.
    pub fn kept_key(&self) -> Result<Option<String>> {
        read_secret(&self.key_file())
    }

    /// The secret that signs tokens; made when there is none yet.
    pub fn jwt_secret(&self) -> Result<String> {
        let path = self.path.join(SECRET_FILE);
        match read_secret(&path)? {
            Some(secret) => Ok(secret),
            None => self.make_secret(&path),
        }
    }

    /// The administrator's token; made again when the secret is another one.
    pub fn admin_token(&self, secret: &str, audience: &str, issuer: &str) -> Result<String> {
        let path = self.token_file();
        let optional = |text: &str| (!text.is_empty()).then(|| text.to_string());
        if let Some(token) = read_secret(&path)? {
            if is_signed_with(&token, secret, audience, issuer) {
                return Ok(token);
            }
            fs::remove_file(&path)
                .map_err(|error| CliError::io(format!("replace {}", path.display()), &error))?;
        }
        let mut claims = Claims::new(ADMIN, Role::Admin, TOKEN_TTL);
        (claims.aud, claims.iss) = (optional(audience), optional(issuer));
        let token = claims.sign(secret)?;
        self.write_secret(&path, &token)?;
        Ok(token)
    }

    fn make_secret(&self, path: &Path) -> Result<String> {
        let mut bytes = [0_u8; 32];
        SysRng.try_fill_bytes(&mut bytes).map_err(|error| {
            CliError::failed(format!("the system gives no random bytes: {error}"))
        })?;
        let text = hex::encode(bytes);
        self.write_secret(path, &text)?;
        Ok(text)
    }

    /// Writes a file that must not be there, for this user only, down to the disk.
    fn write_secret(&self, path: &Path, text: &str) -> Result<()> {
        let write = || -> io::Result<()> {
            // A name of its own first: a crash leaves no half key behind.
            let unfinished = path.with_extension("new");
            match fs::remove_file(&unfinished) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            // Unlike a rename, a link never takes the place of a file that is there.
            fs::hard_link(&unfinished, path)?;
            fs::remove_file(&unfinished)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| CliError::io(format!("write {}", path.display()), &error))
    }
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK_FILE);
    let failed = |error: &io::Error| CliError::io(format!("lock {}", path.display()), error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed(&error))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(&error.into()));
        }
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = match holder.trim() {
            "" => String::new(),
            pid => format!(" (process {pid})"),
        };
        return Err(CliError::new(
            Exit::Refused,
            format!(
                "another nora-backup{holder} uses the data directory {}",
                dir.display()
            ),
        )
        .hint("stop it, or give this one a --data-dir of its own"));
    }
    file.set_len(0).map_err(|error| failed(&error))?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
        .map_err(|error| failed(&error))?;
    Ok(file)
}

fn read_secret(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Err(CliError::new(
            Exit::Refused,
            format!(
                "{} is empty: put back what it held, or remove it",
                path.display()
            ),
        )),
        Ok(text) => Ok(Some(text.trim().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::io(format!("read {}", path.display()), &error)),
    }
}

fn holds_vaults(destination: &Path) -> Result<bool> {
    let vaults = destination.join(VAULTS);
    match fs::read_dir(&vaults) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CliError::io(
            format!("look into {}", vaults.display()),
            &error,
        )),
    }
}

fn is_signed_with(token: &str, secret: &str, audience: &str, issuer: &str) -> bool {
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    if audience.is_empty() {
        rules.validate_aud = false;
    } else {
        rules.set_audience(&[audience]);
    }
    if !issuer.is_empty() {
        rules.set_issuer(&[issuer]);
    }
    let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::decode::<serde_json::Value>(token, &key, &rules).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o7777
    }

    #[test]
    fn the_first_start_makes_secrets_for_this_user_only() {
        let scratch = tempfile::tempdir().expect("folder");
        let path = scratch.path().join("deep/data");
        let dir = DataDir::open(path.clone()).expect("open");
        let (key, made) = dir.key(&path).expect("key");
        assert!(made && key.len() == 64);
        let secret = dir.jwt_secret().expect("secret");
        let token = dir.admin_token(&secret, "", "").expect("token");
        assert_eq!(mode(&path), 0o700);
        for file in ["key", "jwt-secret", "token", "lock"] {
            assert_eq!(mode(&path.join(file)), 0o600, "{file}");
        }
        drop(dir);

        let again = DataDir::open(path.clone()).expect("open again");
        assert_eq!(again.key(&path).expect("key"), (key, false));
        assert_eq!(again.jwt_secret().expect("secret"), secret);
        assert_eq!(again.admin_token(&secret, "", "").expect("token"), token);
        let other = again.admin_token("another secret of at least 32 bytes", "", "");
        assert_ne!(other.expect("made again"), token);
    }

    #[test]
    fn two_processes_never_share_a_directory() {
        let scratch = tempfile::tempdir().expect("folder");
        let first = DataDir::open(scratch.path().into()).expect("open");
        let error = DataDir::open(scratch.path().into()).expect_err("held");
        assert_eq!(error.exit, Exit::Refused);
        assert!(
            error.message.contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(first);
        DataDir::open(scratch.path().into()).expect("free again");
    }

    #[test]
    fn no_new_key_where_vaults_are() {
        let scratch = tempfile::tempdir().expect("folder");
        let dir = DataDir::open(scratch.path().into()).expect("open");
        fs::create_dir_all(scratch.path().join("vaults/my-agent/packs")).expect("vault");
        let error = dir.key(scratch.path()).expect_err("refused");
        assert_eq!(error.exit, Exit::Refused);
        assert!(
            error.to_string().contains("put the key file back"),
            "{error}"
        );
        assert!(!dir.key_file().exists());
    }

    #[test]
    fn an_empty_key_file_is_not_replaced() {
        let scratch = tempfile::tempdir().expect("folder");
        let dir = DataDir::open(scratch.path().into()).expect("open");
        fs::write(dir.key_file(), "\n").expect("write");
        assert!(dir.key(scratch.path()).is_err());
        assert_eq!(fs::read(dir.key_file()).expect("read"), b"\n");
    }
}
