//! The records of an extended header: `length key=value\n`, values of any bytes.

use proto::vault::v1::Xattr;

use super::archive::ArchiveError;

/// What extended headers say of the member after them.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds since 1970, and nanoseconds to add to them.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) is_sparse: bool,
}

impl Extended {
    /// Takes over the records of a pax header.
    pub(super) fn read_pax(&mut self, mut records: &[u8]) -> Result<(), ArchiveError> {
        while !records.is_empty() {
            let (key, value, rest) =
                split(records).ok_or(ArchiveError::Malformed("a pax record is none"))?;
            self.take(key, value)
                .ok_or(ArchiveError::Malformed("a pax record's value is none"))?;
            records = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push(Xattr {
                        name: name.to_vec(),
                        value: value.to_vec(),
                    });
                }
                self.is_sparse |= key.starts_with(b"GNU.sparse.");
            }
        }
        Some(())
    }
}

/// Splits the first record off: key, value, and what comes after it.
fn split(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&records[..space])?).ok()?;
    let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &records[length..]))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, negative before 1970.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok().filter(|whole| *whole >= 0)?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: u32 = digits.parse().ok()?;
    Some(match (is_negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(records: &[u8]) -> Result<Extended, ArchiveError> {
        let mut extended = Extended::default();
        extended.read_pax(records).map(|()| extended)
    }

    #[test]
    fn times_are_exact() {
        assert_eq!(time(b"5"), Some((5, 0)));
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time(b"-2"), Some((-2, 0)));
        assert_eq!(time(b"-2.000000001"), Some((-3, 999_999_999)));
        assert_eq!(time(b"0.0000000019"), Some((0, 1)));
        for wrong in [&b""[..], b"x", b"--1", b"1.-5", b"+-1"] {
            assert_eq!(time(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn values_may_hold_any_bytes() {
        let found = read(b"9 path=\xff\n27 SCHILY.xattr.user.x=\n=\0\n").unwrap();
        assert_eq!(found.path.as_deref(), Some(&b"\xff"[..]));
        assert_eq!(found.xattrs[0].name, b"user.x");
        assert_eq!(found.xattrs[0].value, b"\n=\0");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for wrong in [
            &b"x"[..],
            b"99 path=a\n",
            b"0 path=a\n",
            b"3 path=a\n",
            b"10 path=ab ",
            b"9 pathab\n ",
            b"99999999999999999999 path=a\n",
            b"10 size=-1\n",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
