//! Tar headers, as POSIX.1-2001 (pax) has them: every byte follows from the
//! entry alone, so that the same backup gives the same archive.
//!
//! What does not fit the old header stands in an extended one before it: long
//! names and names that are not ASCII, times with nanoseconds or out of range,
//! large numbers, extended attributes (`SCHILY.xattr.*`, as GNU tar and star
//! have them), sparse maps (`GNU.sparse.*`, version 1.0). Names that are no
//! UTF-8 stand there as they are, declared by `hdrcharset=BINARY`.

use proto::vault::v1::{DataRun, Entry, EntryType};

/// What a tar counts in.
pub(super) const BLOCK: usize = 512;
/// Largest number in an octal field of twelve bytes.
const OCTAL_12_MAX: u64 = 0o777_7777_7777;
/// Largest number in an octal field of eight bytes.
const OCTAL_8_MAX: u64 = 0o777_7777;

/// How one entry stands in the archive.
pub(super) struct Member<'a> {
    pub entry: &'a Entry,
    /// Its name; a folder's ends in '/'.
    pub name: &'a [u8],
    /// Symbolic and hard links: what they point to.
    pub link: &'a [u8],
    pub kind: MemberKind<'a>,
}

/// What follows an entry's header.
pub(super) enum MemberKind<'a> {
    /// Nothing.
    Plain,
    /// Another name of a member before.
    Link,
    /// So many bytes.
    Whole(u64),
    /// A map, then the bytes of these runs.
    Sparse {
        size_bytes: u64,
        runs: &'a [DataRun],
    },
}

/// Zeros that fill a block up after so many bytes.
pub(super) fn padding(bytes: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let over = (bytes % BLOCK as u64) as usize;
    &ZEROS[..(BLOCK - over) % BLOCK]
}

/// Everything of a member that comes before its data.
pub(super) fn header(member: &Member) -> Vec<u8> {
    let entry = member.entry;
    let map = match member.kind {
        MemberKind::Sparse { size_bytes, runs } => sparse_map(size_bytes, runs),
        _ => Vec::new(),
    };
    let (size, short_name) = match member.kind {
        MemberKind::Plain | MemberKind::Link => (0, member.name.to_vec()),
        MemberKind::Whole(bytes) => (bytes, member.name.to_vec()),
        MemberKind::Sparse { runs, .. } => {
            let data: u64 = runs.iter().map(|run| run.length_bytes).sum();
            // A reader that knows nothing of sparse files must not take the map
            // and the runs for the file.
            let name = [b"GNUSparseFile.0/", base_name(member.name)].concat();
            (map.len() as u64 + data, name)
        }
    };
    let extended = extended_records(member, size);
    let mut out = Vec::with_capacity(4 * BLOCK);
    if !extended.is_empty() {
        let name = [b"PaxHeaders/", base_name(member.name)].concat();
        Header::new(&name, b'x', extended.len() as u64, 0o644).finish_into(&mut out);
        out.extend_from_slice(&extended);
        out.extend_from_slice(padding(extended.len() as u64));
    }
    let mut header = Header::new(&short_name, type_flag(member), size, entry.mode & 0o7777);
    header.octal(108..116, u64::from(entry.uid).min(OCTAL_8_MAX));
    header.octal(116..124, u64::from(entry.gid).min(OCTAL_8_MAX));
    header.octal(
        136..148,
        entry.mtime_seconds.clamp(0, OCTAL_12_MAX as i64) as u64,
    );
    header.text(157..257, member.link);
    header.text(265..297, entry.user_name.as_bytes());
    header.text(297..329, entry.group_name.as_bytes());
    if matches!(
        entry.r#type(),
        EntryType::CharacterDevice | EntryType::BlockDevice
    ) {
        header.device(329..337, entry.device_major);
        header.device(337..345, entry.device_minor);
    }
    header.finish_into(&mut out);
    out.extend_from_slice(&map);
    out
}

fn type_flag(member: &Member) -> u8 {
    if matches!(member.kind, MemberKind::Link) {
        return b'1';
    }
    match member.entry.r#type() {
        EntryType::Symlink => b'2',
        EntryType::CharacterDevice => b'3',
        EntryType::BlockDevice => b'4',
        EntryType::Directory => b'5',
        EntryType::Fifo => b'6',
        EntryType::Regular | EntryType::HardLink | EntryType::Unspecified => b'0',
    }
}

/// The last component, without a '/' at its end.
fn base_name(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    name.rsplit(|byte| *byte == b'/').next().unwrap_or(name)
}

/// The records of the extended header; none where the old header says it all.
fn extended_records(member: &Member, size: u64) -> Vec<u8> {
    let entry = member.entry;
    let sparse = matches!(member.kind, MemberKind::Sparse { .. });
    let mut records = Records::default();
    let texts = [member.name, member.link];
    if texts.iter().any(|text| std::str::from_utf8(text).is_err()) {
        records.add(b"hdrcharset", b"BINARY");
    }
    if let MemberKind::Sparse { size_bytes, .. } = member.kind {
        records.add(b"GNU.sparse.major", b"1");
        records.add(b"GNU.sparse.minor", b"0");
        records.add(b"GNU.sparse.name", member.name);
        records.add_number(b"GNU.sparse.realsize", size_bytes);
    }
    if !sparse && !fits(member.name, 100) {
        records.add(b"path", member.name);
    }
    if !fits(member.link, 100) {
        records.add(b"linkpath", member.link);
    }
    if size > OCTAL_12_MAX {
        records.add_number(b"size", size);
    }
    for (key, id) in [(b"uid", entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > OCTAL_8_MAX {
            records.add_number(key, u64::from(id));
        }
    }
    // A name field ends in a NUL, a path field need not.
    for (key, name) in [(b"uname", &entry.user_name), (b"gname", &entry.group_name)] {
        if !fits(name.as_bytes(), 31) {
            records.add(key, name.as_bytes());
        }
    }
    let whole = 0..=OCTAL_12_MAX as i64;
    if entry.mtime_nanos != 0 || !whole.contains(&entry.mtime_seconds) {
        let time = time(entry.mtime_seconds, entry.mtime_nanos.min(999_999_999));
        records.add(b"mtime", time.as_bytes());
    }
    if !matches!(member.kind, MemberKind::Link) {
        for xattr in &entry.xattrs {
            records.add(&xattr_key(&xattr.name), &xattr.value);
        }
    }
    records.0
}

/// Whether a text can stand in a field of the old header.
fn fits(text: &[u8], length: usize) -> bool {
    text.len() <= length && text.is_ascii() && !text.contains(&0)
}

/// Seconds with a decimal fraction, negative before 1970.
fn time(seconds: i64, nanos: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (
        total.unsigned_abs() / 1_000_000_000,
        total.unsigned_abs() % 1_000_000_000,
    );
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A record's key can't hold a '='; GNU tar writes it, and its escape, so.
fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            other => key.push(*other),
        }
    }
    key
}

/// The map of a sparse member: how many runs, then offset and length of each. A
/// hole at the end is told by an empty run there.
fn sparse_map(size_bytes: u64, runs: &[DataRun]) -> Vec<u8> {
    let end = runs
        .last()
        .map_or(0, |run| run.offset_bytes + run.length_bytes);
    let hole = (end < size_bytes || runs.is_empty()).then_some((size_bytes, 0));
    let all = runs
        .iter()
        .map(|run| (run.offset_bytes, run.length_bytes))
        .chain(hole);
    let count = runs.len() + usize::from(hole.is_some());
    let mut map = format!("{count}\n").into_bytes();
    for (offset, length) in all {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    map.extend_from_slice(padding(map.len() as u64));
    map
}

/// Records of an extended header: `length key=value\n`, the length with itself.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() > length {
            length += 1;
        }
        self.0.extend_from_slice(format!("{length} ").as_bytes());
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    fn add_number(&mut self, key: &[u8], number: u64) {
        self.add(key, number.to_string().as_bytes());
    }
}

/// One header block.
struct Header([u8; BLOCK]);

impl Header {
    fn new(name: &[u8], type_flag: u8, size: u64, mode: u32) -> Self {
        let mut this = Self([0; BLOCK]);
        this.text(0..100, name);
        this.octal(100..108, u64::from(mode));
        this.octal(108..116, 0);
        this.octal(116..124, 0);
        // What does not fit stands in the extended header.
        this.octal(124..136, size.min(OCTAL_12_MAX));
        this.octal(136..148, 0);
        this.0[156] = type_flag;
        this.0[257..265].copy_from_slice(b"ustar\x0000");
        this
    }

    fn text(&mut self, field: std::ops::Range<usize>, text: &[u8]) {
        let field = &mut self.0[field];
        let length = text.len().min(field.len());
        field[..length].copy_from_slice(&text[..length]);
    }

    fn octal(&mut self, field: std::ops::Range<usize>, number: u64) {
        let digits = field.len() - 1;
        self.text(field, format!("{number:0digits$o}").as_bytes());
    }

    /// A device number: octal, or in base 256 where it is too large for that.
    fn device(&mut self, field: std::ops::Range<usize>, number: u32) {
        if u64::from(number) <= OCTAL_8_MAX {
            return self.octal(field, u64::from(number));
        }
        let mut bytes = u64::from(number).to_be_bytes();
        bytes[0] |= 0x80;
        self.0[field].copy_from_slice(&bytes);
    }

    fn finish_into(mut self, out: &mut Vec<u8>) {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.text(148..156, format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact() {
        assert_eq!(time(5, 0), "5");
        assert_eq!(time(10, 500_000_000), "10.5");
        assert_eq!(time(0, 1), "0.000000001");
        assert_eq!(time(-1, 500_000_000), "-0.5");
        assert_eq!(time(-2, 0), "-2");
        assert_eq!(time(-3, 999_999_999), "-2.000000001");
        assert_eq!(time(100, 0), "100");
    }

    #[test]
    fn a_records_length_counts_itself() {
        for value in 0..1200 {
            let mut records = Records::default();
            records.add(b"path", &vec![b'x'; value]);
            let text = String::from_utf8(records.0).unwrap();
            let (length, _) = text.split_once(' ').unwrap();
            assert_eq!(length.parse(), Ok(text.len()));
        }
    }

    #[test]
    fn maps_tell_of_a_hole_at_the_end() {
        let run = |offset_bytes, length_bytes| DataRun {
            offset_bytes,
            length_bytes,
        };
        assert!(sparse_map(10, &[]).starts_with(b"1\n10\n0\n\0"));
        assert!(sparse_map(10, &[run(4, 6)]).starts_with(b"1\n4\n6\n\0"));
        assert!(sparse_map(10, &[run(4, 5)]).starts_with(b"2\n4\n5\n10\n0\n\0"));
        assert_eq!(sparse_map(10, &[]).len(), BLOCK);
    }
}
