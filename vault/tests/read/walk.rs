//! The whole backup in order.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use vault::{BackupWriter, Meter};

use crate::support::{Bench, add_file, add_sparse, folder, noise, read_content, walk_all};

/// Files of many lengths, some alike, some of several segments.
fn fill(writer: &mut BackupWriter) {
    writer.add(folder("")).unwrap();
    for n in 0..300u32 {
        let path = format!("f{n:04}");
        match n % 6 {
            0 => add_file(writer, &path, &noise(n, 3_000_000 / 7 * (n as usize % 7))),
            1 => add_file(writer, &path, &noise(n % 5, 90_000)),
            2 => add_file(writer, &path, b"short"),
            3 => add_sparse(writer, &path, 1 << 20, &[(70_000, noise(n, 3000))]),
            4 => add_file(writer, &path, &vec![n as u8; 400_000]),
            _ => writer.add(folder(&path)).unwrap(),
        }
    }
}

#[test]
fn walking_gives_what_reading_one_by_one_gives() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let reader = bench.reader(&at).unwrap();
    let walked = walk_all(&reader).unwrap();
    let entries: Vec<_> = reader.entries(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(walked.len(), entries.len());
    for (entry, (path, data)) in entries.iter().zip(&walked) {
        assert_eq!(entry.path, *path);
        if let Some(content) = &entry.content {
            assert!(read_content(&reader, content, 0) == *data, "{path:?}");
        }
    }
}

#[test]
fn the_meter_ends_at_the_totals_even_when_data_is_passed_over() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let reader = bench.reader(&at).unwrap();
    let statistics = reader.manifest().statistics.unwrap();
    for every in [1, 3] {
        let meter = Arc::new(Meter::default());
        let mut walk = reader.walk(meter.clone()).unwrap();
        let mut n = 0;
        while walk.next_entry().unwrap().is_some() {
            n += 1;
            while n % every == 0 && walk.next_data().unwrap().is_some() {}
        }
        assert!(walk.next_entry().unwrap().is_none());
        assert!(walk.next_data().unwrap().is_none());
        assert_eq!(meter.entries_done.load(Relaxed), statistics.entries);
        assert_eq!(meter.entries_total.load(Relaxed), statistics.entries);
        assert_eq!(meter.bytes_done.load(Relaxed), statistics.size_bytes);
        assert_eq!(meter.bytes_total.load(Relaxed), statistics.size_bytes);
    }
}

#[test]
fn a_walk_ends_when_canceled_or_dropped() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let cancel = CancellationToken::new();
    let reader = bench.reader_until(&at, cancel.clone()).unwrap();
    let mut dropped = reader.walk(Arc::default()).unwrap();
    dropped.next_entry().unwrap().unwrap();
    let begun = Instant::now();
    drop(dropped);
    assert!(begun.elapsed() < Duration::from_secs(1));

    let mut walk = reader.walk(Arc::default()).unwrap();
    walk.next_entry().unwrap().unwrap();
    cancel.cancel();
    let begun = Instant::now();
    assert_eq!(walk.next_entry().unwrap_err().reason(), "CANCELED");
    assert_eq!(walk.next_data().unwrap_err().reason(), "CANCELED");
    drop(walk);
    assert!(begun.elapsed() < Duration::from_secs(1));
    let error = reader
        .entries(None)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>);
    assert_eq!(error.unwrap_err().reason(), "CANCELED");
}
