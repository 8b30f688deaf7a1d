//! Where a content's data lies in its file.

use bytes::Bytes;
use proto::vault::v1::{Content, DataRun};

use crate::limits::{CHUNK_ID_BYTES, INLINE_BYTES_MAX, LIST_DEPTH_MAX};

/// A content's data runs, checked: ordered, apart, within its size, none empty.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub size_bytes: u64,
    /// Sum of the runs.
    pub data_bytes: u64,
    pub runs: Vec<DataRun>,
}

impl Layout {
    /// What is wrong with the content, if anything.
    pub(super) fn of(content: &Content) -> Result<Self, &'static str> {
        let size_bytes = content.size_bytes;
        let runs = match content.data_runs[..] {
            [] if size_bytes == 0 => Vec::new(),
            [] => vec![DataRun {
                offset_bytes: 0,
                length_bytes: size_bytes,
            }],
            // How a file is written that is one hole.
            [run] if run.length_bytes == 0 => Vec::new(),
            _ => content.data_runs.clone(),
        };
        let (mut end, mut data_bytes) = (0u64, 0);
        for run in &runs {
            let run_end = run.offset_bytes.checked_add(run.length_bytes);
            match run_end {
                Some(run_end)
                    if run.length_bytes > 0 && run.offset_bytes >= end && run_end <= size_bytes =>
                {
                    end = run_end;
                    data_bytes += run.length_bytes;
                }
                _ => return Err("its data runs contradict its size or one another"),
            }
        }
        if content.depth > LIST_DEPTH_MAX || !content.chunk_ids.len().is_multiple_of(CHUNK_ID_BYTES)
        {
            return Err("its list of chunk ids is malformed");
        }
        if content.chunk_ids.is_empty() && content.inline.len() as u64 != data_bytes
            || !content.inline.is_empty() && !content.chunk_ids.is_empty()
            || content.inline.len() > INLINE_BYTES_MAX
        {
            return Err("its data has another length than its size says");
        }
        Ok(Self {
            size_bytes,
            data_bytes,
            runs,
        })
    }

    /// The data before a place in the file, and the number of the run that holds
    /// the place or comes next.
    pub(super) fn data_before(&self, offset: u64) -> (u64, usize) {
        let mut data = 0;
        for (number, run) in self.runs.iter().enumerate() {
            if offset < run.offset_bytes + run.length_bytes {
                return (data + offset.saturating_sub(run.offset_bytes), number);
            }
            data += run.length_bytes;
        }
        (data, self.runs.len())
    }
}

/// Puts data, as it comes, where it belongs in the file.
#[derive(Debug)]
pub(super) struct Placer {
    layout: Layout,
    run: usize,
    within: u64,
}

impl Placer {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout,
            run: 0,
            within: 0,
        }
    }

    /// The file offset of the next data, and how many of `bytes` go there;
    /// `None` when there is no room left.
    pub(super) fn next(&mut self, bytes: usize) -> Option<(u64, usize)> {
        let run = self.layout.runs.get(self.run)?;
        let left = run.length_bytes - self.within;
        let taken = left.min(bytes as u64);
        let offset = run.offset_bytes + self.within;
        self.within += taken;
        if self.within == run.length_bytes {
            (self.run, self.within) = (self.run + 1, 0);
        }
        Some((offset, taken as usize))
    }

    /// Whether all data has come.
    pub(super) fn is_full(&self) -> bool {
        self.run == self.layout.runs.len()
    }
}

/// Splits data at the boundaries of runs; false when it is more than fits.
pub(super) fn split_at_runs(
    placer: &mut Placer,
    mut data: Bytes,
    mut emit: impl FnMut(Bytes, u64),
) -> bool {
    while !data.is_empty() {
        let Some((offset, bytes)) = placer.next(data.len()) else {
            return false;
        };
        emit(data.split_to(bytes), offset);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(size_bytes: u64, runs: &[(u64, u64)], data: usize) -> Content {
        Content {
            size_bytes,
            inline: vec![7; data],
            data_runs: runs
                .iter()
                .map(|(offset_bytes, length_bytes)| DataRun {
                    offset_bytes: *offset_bytes,
                    length_bytes: *length_bytes,
                })
                .collect(),
            ..Content::default()
        }
    }

    #[test]
    fn data_goes_where_the_runs_say() {
        let layout = Layout::of(&sparse(100, &[(10, 5), (20, 3)], 8)).unwrap();
        assert_eq!(layout.data_bytes, 8);
        assert_eq!(layout.data_before(0), (0, 0));
        assert_eq!(layout.data_before(12), (2, 0));
        assert_eq!(layout.data_before(15), (5, 1));
        assert_eq!(layout.data_before(99), (8, 2));
        let mut placer = Placer::new(layout);
        let mut pieces = Vec::new();
        let fits = split_at_runs(&mut placer, Bytes::from_static(b"abcdefgh"), |data, at| {
            pieces.push((data, at));
        });
        assert!(fits && placer.is_full());
        assert_eq!(pieces[0], (Bytes::from_static(b"abcde"), 10));
        assert_eq!(pieces[1], (Bytes::from_static(b"fgh"), 20));
    }

    #[test]
    fn a_file_that_is_one_hole_has_no_data() {
        let layout = Layout::of(&sparse(1 << 40, &[(0, 0)], 0)).unwrap();
        assert!(Placer::new(layout).is_full());
    }

    #[test]
    fn contradictions_are_refused() {
        for content in [
            sparse(100, &[(10, 5), (14, 3)], 8),
            sparse(100, &[(99, 2)], 2),
            sparse(100, &[(u64::MAX, 2)], 2),
            sparse(100, &[(0, 5), (10, 0)], 5),
            sparse(100, &[], 99),
            sparse(0, &[], 1),
            sparse(513, &[], 513),
            Content {
                size_bytes: 5,
                chunk_ids: vec![0; 31],
                ..Content::default()
            },
            Content {
                size_bytes: 5,
                chunk_ids: vec![0; 32],
                depth: 4,
                ..Content::default()
            },
        ] {
            assert!(Layout::of(&content).is_err(), "{content:?}");
        }
    }
}
