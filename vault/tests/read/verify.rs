//! Verification names what is wrong, all of it.

use std::{fs, sync::Arc};

use tokio_util::sync::CancellationToken;
use vault::{BackupWriter, ManifestRef, VerifyDepth, VerifyReport};

use crate::support::{Bench, add_file, folder, noise};

fn fill(writer: &mut BackupWriter) {
    writer.add(folder("")).unwrap();
    add_file(writer, "a", b"inline");
    for n in 0..70 {
        add_file(writer, &format!("f{n:02}"), &noise(n % 60, 700_000));
    }
}

fn verify(bench: &Bench, at: &ManifestRef, depth: VerifyDepth) -> VerifyReport {
    let reader = bench.reader(at).unwrap();
    reader.verify(depth, Arc::default()).unwrap()
}

#[test]
fn a_backup_as_written_has_no_faults() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let structure = verify(&bench, &at, VerifyDepth::Structure);
    assert_eq!(structure.faults, [""; 0]);
    assert_eq!((structure.entries, structure.bytes), (72, 0));
    let full = verify(&bench, &at, VerifyDepth::Full);
    assert_eq!(full.faults, [""; 0]);
    // Ten files are the same as others.
    assert_eq!((full.entries, full.bytes), (72, 6 + 60 * 700_000));
    assert!(!full.missing);
}

#[test]
fn flipped_bytes_are_found_by_a_full_verification_only() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let mut damaged = Vec::new();
    for (object, path) in bench.objects() {
        let mut bytes = fs::read(&path).unwrap();
        if object.starts_with("packs/") && bytes.len() > 8_000_000 {
            for at in [3_000_000, 7_000_000] {
                bytes[at] ^= 1;
            }
            fs::write(&path, bytes).unwrap();
            damaged.push(object);
        }
    }
    assert!(damaged.len() > 1);
    let full = verify(&bench, &at, VerifyDepth::Full);
    assert_eq!(full.faults.len(), 2 * damaged.len(), "{:?}", full.faults);
    for object in damaged {
        assert!(full.faults.iter().any(|fault| fault.contains(&object)));
    }
    assert!(!full.missing);
    let structure = verify(&bench, &at, VerifyDepth::Structure);
    assert_eq!(structure.faults, [""; 0]);
}

#[test]
fn missing_and_shortened_packs_are_named() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    for (object, path) in bench.objects() {
        let bytes = fs::read(&path).unwrap();
        if !object.starts_with("packs/") {
            continue;
        }
        for (missing, depth) in [
            (true, VerifyDepth::Structure),
            (true, VerifyDepth::Full),
            (false, VerifyDepth::Structure),
            (false, VerifyDepth::Full),
        ] {
            if missing {
                fs::remove_file(&path).unwrap();
            } else {
                fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
            }
            let report = verify(&bench, &at, depth);
            assert!(!report.faults.is_empty());
            assert!(
                report.faults.iter().all(|fault| fault.contains(&object)),
                "{:?}",
                report.faults
            );
            assert_eq!(report.missing, missing);
            fs::write(&path, &bytes).unwrap();
        }
    }
}

#[test]
fn packs_that_vanish_while_the_backup_is_open_are_named() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let reader = bench.reader(&at).unwrap();
    let packs: Vec<_> = bench
        .objects()
        .into_iter()
        .filter(|(object, _)| object.starts_with("packs/"))
        .collect();
    for (_, path) in &packs {
        fs::remove_file(path).unwrap();
    }
    for depth in [VerifyDepth::Structure, VerifyDepth::Full] {
        let report = reader.verify(depth, Arc::default()).unwrap();
        assert!(report.missing);
        for fault in &report.faults {
            assert!(
                packs.iter().any(|(object, _)| fault.contains(object)),
                "{fault}"
            );
        }
    }
}

#[test]
fn a_canceled_verification_reports_nothing() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let cancel = CancellationToken::new();
    let reader = bench.reader_until(&at, cancel.clone()).unwrap();
    cancel.cancel();
    let error = reader
        .verify(VerifyDepth::Full, Arc::default())
        .unwrap_err();
    assert_eq!(error.reason(), "CANCELED");
}
