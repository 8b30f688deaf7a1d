//! Single files and listings.

use vault::format::Content;

use crate::support::{Bench, add_file, add_sparse, file, folder, noise, read_content, walk_all};

/// Lengths around every limit of the format.
const LENGTHS: &[usize] = &[
    0, 1, 511, 512, 513, 16_383, 16_384, 16_385, 262_143, 262_144, 262_145, 1_048_576, 5_000_000,
];

#[test]
fn contents_of_all_lengths_come_back() {
    let bench = Bench::new();
    let at = bench.back_up("b1", |writer| {
        writer.add(folder("")).unwrap();
        for (n, length) in LENGTHS.iter().enumerate() {
            add_file(writer, &format!("f{n:02}"), &noise(n as u32, *length));
        }
    });
    let reader = bench.reader(&at).unwrap();
    for (n, length) in LENGTHS.iter().enumerate() {
        let entry = reader.find(format!("f{n:02}").as_bytes()).unwrap().unwrap();
        let (content, data) = (entry.content.unwrap(), noise(n as u32, *length));
        assert_eq!(content.size_bytes, *length as u64);
        assert!(read_content(&reader, &content, 0) == data, "{length} bytes");
        for offset in [
            1,
            512,
            100_000,
            262_144,
            length / 2,
            length.saturating_sub(1),
            *length,
            length + 7,
        ] {
            let rest = &data[offset.min(*length)..];
            assert!(
                read_content(&reader, &content, offset as u64) == rest,
                "{length} bytes from {offset}"
            );
        }
    }
    let walked = walk_all(&reader).unwrap();
    assert_eq!(walked.len(), LENGTHS.len() + 1);
    for (n, (_, data)) in walked[1..].iter().enumerate() {
        assert!(*data == noise(n as u32, LENGTHS[n]), "{}", LENGTHS[n]);
    }
}

#[test]
fn holes_come_back_as_zeros() {
    type Runs = Vec<(u64, Vec<u8>)>;
    let files: Vec<(u64, Runs)> = vec![
        (1 << 20, vec![]),
        (4096, vec![(1000, noise(1, 5))]),
        (
            3_000_000,
            vec![(0, noise(2, 100)), (2_999_000, noise(3, 1000))],
        ),
        (
            2_000_000,
            vec![
                (4096, noise(4, 300_000)),
                (400_000, noise(5, 1)),
                (400_001, noise(6, 70_000)),
                (1_000_000, noise(7, 600_000)),
            ],
        ),
    ];
    let bench = Bench::new();
    let at = bench.back_up("b1", |writer| {
        for (n, (size, runs)) in files.iter().enumerate() {
            add_sparse(writer, &format!("s{n}"), *size, runs);
        }
    });
    let reader = bench.reader(&at).unwrap();
    let walked = walk_all(&reader).unwrap();
    for (n, (size, runs)) in files.iter().enumerate() {
        let mut expected = vec![0; *size as usize];
        for (offset, data) in runs {
            expected[*offset as usize..][..data.len()].copy_from_slice(data);
        }
        let entry = reader.find(format!("s{n}").as_bytes()).unwrap().unwrap();
        let content = entry.content.unwrap();
        for offset in [
            0, 1, 1002, 4096, 399_999, 400_001, 999_999, 1_500_000, *size,
        ] {
            let rest = &expected[(offset as usize).min(expected.len())..];
            assert!(
                read_content(&reader, &content, offset) == rest,
                "s{n} from {offset}"
            );
        }
        assert!(walked[n].1 == expected, "s{n} walked");
    }
}

#[test]
fn listings_begin_anywhere_and_entries_are_found() {
    let bench = Bench::new();
    let mut paths: Vec<String> = vec![String::new()];
    for outer in 0..40 {
        paths.push(format!("d{outer:02}"));
        for inner in 0..50 {
            paths.push(format!("d{outer:02}/file-{inner:03}"));
        }
    }
    let at = bench.back_up("b1", |writer| {
        for path in &paths {
            if path.contains('/') {
                add_file(writer, path, path.as_bytes());
            } else {
                writer.add(folder(path)).unwrap();
            }
        }
    });
    let reader = bench.reader(&at).unwrap();
    let list = |after: Option<&str>| -> Vec<String> {
        reader
            .entries(after.map(str::as_bytes))
            .unwrap()
            .map(|entry| String::from_utf8(entry.unwrap().path).unwrap())
            .collect()
    };
    assert_eq!(list(None), paths);
    assert_eq!(list(Some("")), paths[1..]);
    assert_eq!(list(Some("d07")), paths[1 + 7 * 51 + 1..]);
    assert_eq!(list(Some("d07/not there")), paths[8 * 51 + 1..]);
    assert_eq!(list(Some("z")), [""; 0]);
    let entry = reader.find(b"d39/file-049").unwrap().unwrap();
    assert_eq!(entry.content.unwrap().inline, b"d39/file-049");
    assert_eq!(reader.find(b"").unwrap().unwrap().path, b"");
    for missing in [&b"d"[..], b"d07/", b"d07/file-0000", b"zz"] {
        assert!(reader.find(missing).unwrap().is_none());
    }
}

#[test]
fn long_id_lists_are_followed() {
    // Three times the same 110 MB: more chunks than one list holds, few stored.
    let part = noise(9, 110_000_000);
    let whole = [&part[..], &part, &part].concat();
    let bench = Bench::new();
    let at = bench.back_up("b1", |writer| add_file(writer, "big", &whole));
    let reader = bench.reader(&at).unwrap();
    let content = reader.find(b"big").unwrap().unwrap().content.unwrap();
    assert!(content.depth >= 1, "depth {}", content.depth);
    assert!(content.chunk_ids.len() < 32 * 4096);
    for offset in [0, 109_999_999, 250_000_001, 329_999_999] {
        let read = read_content(&reader, &content, offset);
        assert!(read == whole[offset as usize..], "from {offset}");
    }
    let walked = walk_all(&reader).unwrap();
    assert!(walked[0].1 == whole);
}

#[test]
fn lists_of_lists_of_lists_are_followed() {
    const REPEATS: usize = 33;
    let data = noise(3, 6_000_000);
    let bench = Bench::new();
    let mut contents = Vec::new();
    let at = bench.back_up("b1", |writer| {
        let mut content = writer.write_content(&mut &data[..]).unwrap();
        contents.push(content.clone());
        for depth in 1..=3 {
            // The list itself as a content: its one chunk is a list of this depth.
            let list = writer.write_content(&mut &content.chunk_ids[..]).unwrap();
            assert!(list.inline.is_empty());
            content = Content {
                size_bytes: content.size_bytes * REPEATS as u64,
                chunk_ids: list.chunk_ids.repeat(REPEATS),
                depth,
                ..Content::default()
            };
            contents.push(content.clone());
        }
    });
    let reader = bench.reader(&at).unwrap();
    assert!(read_content(&reader, &contents[1], 0) == data.repeat(REPEATS));
    for content in &contents[2..] {
        let last = content.size_bytes - 7_000_000;
        let expected = [&data[5_000_000..], &data[..]].concat();
        assert!(read_content(&reader, content, last) == expected);
    }
}

#[test]
fn contents_that_contradict_themselves_are_refused() {
    let bench = Bench::new();
    let mut stored = Content::default();
    let at = bench.back_up("b1", |writer| {
        stored = writer.write_content(&mut &noise(1, 300_000)[..]).unwrap();
        // Longer and shorter than its chunks are.
        for (path, size_bytes) in [("a", 300_001), ("b", 299_999)] {
            let content = Content {
                size_bytes,
                ..stored.clone()
            };
            writer.add(file(path, content)).unwrap();
        }
    });
    let reader = bench.reader(&at).unwrap();
    let error = walk_all(&reader).unwrap_err().to_string();
    assert!(error.contains("backups/b1.1"), "{error}");
    for path in ["a", "b"] {
        let content = reader
            .find(path.as_bytes())
            .unwrap()
            .unwrap()
            .content
            .unwrap();
        let mut out = Vec::new();
        let mut content = reader.content(&content, 0).unwrap();
        let error = std::io::Read::read_to_end(&mut content, &mut out).unwrap_err();
        assert!(error.to_string().contains("another length"), "{error}");
    }
    for bad in [
        Content {
            size_bytes: 10,
            chunk_ids: vec![0; 33],
            ..Content::default()
        },
        Content {
            depth: 9,
            ..stored.clone()
        },
        Content {
            inline: vec![1],
            ..stored.clone()
        },
        Content {
            depth: 1,
            ..stored.clone()
        },
        Content {
            size_bytes: u64::MAX,
            chunk_ids: vec![7; 32],
            ..Content::default()
        },
    ] {
        let mut out = Vec::new();
        let read = reader
            .content(&bad, 0)
            .map_err(std::io::Error::from)
            .and_then(|mut content| std::io::Read::read_to_end(&mut content, &mut out));
        assert!(read.is_err());
        assert!(out.is_empty());
    }
}
