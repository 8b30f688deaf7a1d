//! `backup files`.

use clap::Args;
use proto::backup::v1::{BackupEntry, ListBackupEntriesRequest};

use crate::{
    connect::{Session, call},
    error::Result,
    find::{self, Latest},
    output::json::Document as _,
    show,
};

/// Arguments of `backup files`.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// The backup: its id, the beginning of it, or AGENT@latest (the newest completed one)
    pub backup: String,
    /// Only this path and what lies under it
    #[arg(default_value = "", hide_default_value = true)]
    pub path: String,
    /// Everything below, not only the direct children
    #[arg(long, short, visible_short_alias = 'R')]
    pub recursive: bool,
    /// The destination where it is read, of one of its copies [default: where it lies]
    #[arg(long, value_name = "DESTINATION")]
    pub from: Option<String>,
}

/// A path as backups have it: no '/' at the ends, no "./" before it.
pub(super) fn path_bytes(path: &str) -> Vec<u8> {
    let path = path.strip_prefix("./").unwrap_or(path).trim_matches('/');
    if path == "." {
        Vec::new()
    } else {
        path.as_bytes().to_vec()
    }
}

/// Lists entries page by page: a backup can have millions.
pub(super) async fn files(session: &Session, args: FilesArgs) -> Result<()> {
    let out = session.out;
    let backup_id = find::backup_id(session, &args.backup, Latest::Completed).await?;
    let mut request = ListBackupEntriesRequest {
        backup_id,
        path_prefix: path_bytes(&args.path),
        recursive: args.recursive,
        page_size: 1000,
        page_token: String::new(),
        destination_id: args.from.unwrap_or_default(),
    };
    let mut shown = 0_u64;
    loop {
        let page = session
            .backups()
            .list_backup_entries(call(request.clone()))
            .await?
            .into_inner();
        for entry in &page.entries {
            match (out.json, out.quiet) {
                (true, _) => {
                    let before = if shown == 0 {
                        "{\"entries\": [\n"
                    } else {
                        ",\n"
                    };
                    json_part(session, before, entry)?;
                }
                (false, true) => out.line(crate::output::human::printable(&entry.path_text))?,
                (false, false) => out.line(show::entry(entry))?,
            }
            shown += 1;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if out.json {
        return out.line(if shown == 0 {
            "{\"entries\": []}"
        } else {
            "\n]}"
        });
    }
    if shown == 0 {
        out.note("nothing there");
    }
    Ok(())
}

fn json_part(session: &Session, before: &str, entry: &BackupEntry) -> Result<()> {
    session.out.part(&format!("{before}{}", entry.to_json()))
}

#[cfg(test)]
mod tests {
    use super::path_bytes;

    #[test]
    fn paths_as_backups_have_them() {
        for (typed, path) in [
            ("/a/b/", "a/b"),
            ("./a", "a"),
            (".", ""),
            ("/", ""),
            ("a b", "a b"),
        ] {
            assert_eq!(path_bytes(typed), path.as_bytes(), "{typed}");
        }
    }
}
