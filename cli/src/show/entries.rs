//! Entries of a backup.

use proto::backup::v1::{BackupEntry, backup_entry};

use crate::output::human;

/// One entry of a backup, as `ls -l` would show it.
pub fn entry(entry: &BackupEntry) -> String {
    use backup_entry::Type;
    let (letter, tail) = match entry.r#type() {
        Type::Directory => ('d', "/".to_string()),
        Type::Symlink => (
            'l',
            format!(" -> {}", String::from_utf8_lossy(&entry.link_target)),
        ),
        Type::HardLink => (
            'h',
            format!(" == {}", String::from_utf8_lossy(&entry.link_target)),
        ),
        Type::Fifo => ('p', String::new()),
        Type::CharacterDevice => ('c', String::new()),
        Type::BlockDevice => ('b', String::new()),
        Type::File | Type::Unspecified => ('-', String::new()),
    };
    let size = if letter == '-' {
        human::bytes(entry.size_bytes)
    } else {
        String::new()
    };
    format!(
        "{letter}{}  {:>5} {:>5}  {size:>10}  {}  {}{}",
        permissions(entry.mode),
        entry.uid,
        entry.gid,
        human::time(entry.modify_time.as_ref()),
        human::printable(&entry.path_text),
        human::printable(&tail),
    )
}

/// "rwxr-x---", with the bits for set-user-id, set-group-id and sticky.
fn permissions(mode: u32) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::with_capacity(9);
    for (class, (bit, with_execute, without)) in special.into_iter().enumerate() {
        let bits = mode >> (6 - 3 * class) & 0o7;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & bit != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => with_execute,
            (true, false) => without,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_as_ls_shows_them() {
        assert_eq!(permissions(0o755), "rwxr-xr-x");
        assert_eq!(permissions(0o4711), "rws--x--x");
        assert_eq!(permissions(0o3640), "rw-r-S--T");
    }

    #[test]
    fn links_show_where_they_lead() {
        let link = BackupEntry {
            path_text: "a/b".into(),
            r#type: backup_entry::Type::Symlink.into(),
            mode: 0o777,
            link_target: b"../c".to_vec(),
            ..BackupEntry::default()
        };
        assert!(entry(&link).starts_with("lrwxrwxrwx"));
        assert!(entry(&link).ends_with("a/b -> ../c"));
    }
}
