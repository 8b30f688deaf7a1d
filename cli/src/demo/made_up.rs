//! A made-up agent: what one has after some weeks of work, and what an hour
//! more does to it. Some 60 MB, the same in every run.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, setxattr, utimensat,
};

use super::chance::Chance;

/// Bytes of a page of the memory file, as in SQLite.
const PAGE: usize = 4096;
/// Pages of the memory file at first.
const PAGES: u64 = 5000;
/// 2026-10-01, when the agent was young.
const BIRTH: u64 = 1_790_812_800;

/// Makes the agent's folder.
pub fn make(root: &Path) -> io::Result<()> {
    let mut chance = Chance::new(1);
    fs::create_dir_all(root)?;
    source_tree(root, &mut chance)?;
    memory(root, &mut chance)?;
    logs(root, &mut chance)?;
    binaries(root, &mut chance)?;
    oddities(root, &mut chance)?;
    settle_times(root, &mut chance)
}

/// What an hour of work changes. Returns the paths that it removed.
pub fn work_an_hour(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut chance = Chance::new(2);
    // Some pages of the memory, here and there, and new ones at its end.
    let memory = OpenOptions::new()
        .write(true)
        .open(root.join("memory/memory.db"))?;
    for _ in 0..40 {
        memory.write_all_at(&page(&mut chance), chance.below(PAGES) * PAGE as u64)?;
    }
    for number in 0..30 {
        memory.write_all_at(&page(&mut chance), (PAGES + number) * PAGE as u64)?;
    }
    // The day's log goes on.
    let mut log = OpenOptions::new()
        .append(true)
        .open(root.join("logs/2026-11-08.jsonl"))?;
    log_lines(&mut log, 150_000, &mut chance)?;
    // Someone edits the source.
    for number in 0..12 {
        let path = root.join(format!("src/module_{:02}/file_{number:02}.py", number * 3));
        let mut text = fs::read_to_string(&path)?;
        let mut line = String::from("# ");
        chance.words(60, &mut line);
        text.insert_str(text.len() / 2, &line);
        fs::write(&path, text)?;
    }
    write_text(&root.join("notes/after the hour.md"), 3000, &mut chance)?;
    fs::set_permissions(root.join("bin/run.sh"), fs::Permissions::from_mode(0o700))?;
    fs::rename(root.join("src/module_05"), root.join("src/module_05_old"))?;
    fs::remove_file(root.join("src/module_07/file_03.py"))?;
    fs::remove_file(root.join("current"))?;
    symlink("src/module_08", root.join("current"))?;
    Ok(vec![
        "src/module_05".into(),
        "src/module_07/file_03.py".into(),
    ])
}

fn source_tree(root: &Path, chance: &mut Chance) -> io::Result<()> {
    for module in 0..40 {
        let folder = root.join(format!("src/module_{module:02}"));
        fs::create_dir_all(&folder)?;
        for number in 0..40 {
            let bytes = 500 + chance.below(6000) as usize;
            write_text(&folder.join(format!("file_{number:02}.py")), bytes, chance)?;
        }
    }
    fs::create_dir_all(root.join("notes"))?;
    write_text(&root.join("README.md"), 4000, chance)?;
    write_text(&root.join("notes/ideas.md"), 9000, chance)
}

/// A database of memories: pages of text and of vectors.
fn memory(root: &Path, chance: &mut Chance) -> io::Result<()> {
    fs::create_dir_all(root.join("memory"))?;
    let mut file = io::BufWriter::new(File::create(root.join("memory/memory.db"))?);
    let mut first = page(chance);
    first[..16].copy_from_slice(b"SQLite format 3\0");
    file.write_all(&first)?;
    for _ in 1..PAGES {
        file.write_all(&page(chance))?;
    }
    file.flush()
}

fn page(chance: &mut Chance) -> Vec<u8> {
    let mut page = vec![0_u8; PAGE];
    page[0] = 0x0d;
    let mut text = String::new();
    chance.words(2400, &mut text);
    page[64..2464].copy_from_slice(&text.as_bytes()[..2400]);
    let vector = chance.bytes(1400);
    page[2600..4000].copy_from_slice(&vector);
    page
}

fn logs(root: &Path, chance: &mut Chance) -> io::Result<()> {
    fs::create_dir_all(root.join("logs"))?;
    for day in 1..=8 {
        let mut file = File::create(root.join(format!("logs/2026-11-{day:02}.jsonl")))?;
        log_lines(&mut file, 1_500_000, chance)?;
    }
    Ok(())
}

fn log_lines(file: &mut File, bytes: usize, chance: &mut Chance) -> io::Result<()> {
    const EVENTS: [&str; 5] = [
        "tool.call",
        "tool.result",
        "message",
        "plan",
        "memory.write",
    ];
    let mut text = String::with_capacity(bytes + 400);
    let mut moment = BIRTH * 1000 + chance.below(1 << 30);
    while text.len() < bytes {
        moment += chance.below(4000);
        let event = EVENTS[chance.below(5) as usize];
        let _ = write!(
            text,
            r#"{{"ts_ms":{moment},"level":"info","event":"{event}","session":"{:08x}","tokens":{},"text":""#,
            chance.below(40) * 0x0101_0101,
            chance.below(4000)
        );
        let mut words = String::new();
        chance.words(60 + chance.clone().below(120) as usize, &mut words);
        text.push_str(&words.replace('\n', " "));
        text.push_str("\"}\n");
    }
    file.write_all(text.as_bytes())
}

/// What nothing can compress: weights, pictures.
fn binaries(root: &Path, chance: &mut Chance) -> io::Result<()> {
    fs::create_dir_all(root.join("models"))?;
    fs::create_dir_all(root.join("cache"))?;
    fs::write(root.join("models/small.weights"), chance.bytes(10 << 20))?;
    for number in 0..8 {
        fs::write(
            root.join(format!("cache/picture_{number}.bin")),
            chance.bytes(500_000),
        )?;
    }
    Ok(())
}

/// Everything that is not a plain file in a plain folder.
fn oddities(root: &Path, chance: &mut Chance) -> io::Result<()> {
    let mode =
        |path: &str, mode| fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode));
    for folder in ["bin", "secrets", "state/tmp", "shared"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::write(
        root.join("bin/run.sh"),
        "#!/bin/sh\nexec python3 src/main.py \"$@\"\n",
    )?;
    fs::write(root.join("secrets/token.json"), r#"{"token":"made up"}"#)?;
    fs::write(root.join("state/empty"), "")?;
    fs::write(root.join("shared/plugin"), chance.bytes(30_000))?;
    fs::hard_link(root.join("shared/plugin"), root.join("bin/plugin"))?;
    mode("bin/run.sh", 0o755)?;
    mode("secrets/token.json", 0o600)?;
    mode("secrets", 0o700)?;
    mode("state/tmp", 0o1777)?;
    mode("shared/plugin", 0o2755)?;
    mode("README.md", 0o444)?;
    symlink("src/module_07", root.join("current"))?;
    symlink("../does/not/exist", root.join("state/dangling"))?;
    mknodat(
        CWD,
        root.join("state/pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )?;
    // A file of 16 MiB of which little is there.
    let sparse = File::create(root.join("state/sparse.img"))?;
    sparse.set_len(16 << 20)?;
    for offset in [0, 5 << 20, 12 << 20] {
        sparse.write_all_at(&chance.bytes(64 << 10), offset)?;
    }
    let mut deep = root.join("state");
    for level in 0..20 {
        deep.push(format!("level-{level}"));
    }
    fs::create_dir_all(&deep)?;
    fs::write(deep.join("bottom"), "as deep as it gets\n")?;
    fs::write(
        root.join("notes/Zoë – 名前.md"),
        "names need not be ASCII\n",
    )?;
    // Not every file system takes these two.
    let latin1 = root.join("notes").join(OsStr::from_bytes(b"caf\xe9.txt"));
    let _ = fs::write(latin1, "nor UTF-8\n");
    let _ = setxattr(
        root.join("README.md"),
        "user.nora.demo",
        b"kept",
        XattrFlags::empty(),
    );
    Ok(())
}

fn write_text(path: &Path, bytes: usize, chance: &mut Chance) -> io::Result<()> {
    let mut text = String::with_capacity(bytes + 20);
    chance.words(bytes, &mut text);
    fs::write(path, text)
}

/// Gives everything a time of its own, to the nanosecond; one of them lies before
/// 1970. Folders come after what is in them.
fn settle_times(root: &Path, chance: &mut Chance) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            settle_times(&entry.path(), chance)?;
        } else {
            let mut time = moment(chance);
            if entry.file_name() == "empty" {
                time.tv_sec = -86_400;
            }
            set_time(&entry.path(), time)?;
        }
    }
    set_time(root, moment(chance))
}

fn moment(chance: &mut Chance) -> Timespec {
    Timespec {
        tv_sec: (BIRTH + chance.below(40 * 86_400)) as i64,
        tv_nsec: chance.below(1_000_000_000) as i64,
    }
}

fn set_time(path: &Path, time: Timespec) -> io::Result<()> {
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::compare::{differences, entries};

    #[test]
    fn two_runs_make_the_same_and_an_hour_changes_it() {
        let scratch = tempfile::tempdir().expect("folder");
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        make(&one).expect("make");
        make(&two).expect("make");
        let found = entries(&one).expect("list");
        assert!(found.len() > 1600);
        assert_eq!(differences(&one, &two).expect("compare").lines, [""; 0]);
        let removed = work_an_hour(&two).expect("work");
        assert!(
            removed
                .iter()
                .all(|path| !two.join(path).exists() && one.join(path).exists())
        );
        let changed = differences(&one, &two).expect("compare");
        assert!(changed.total > 50, "{changed:?}");
    }
}
