//! Damaged and missing objects are reported by name; wrong bytes never appear.

use std::fs;

use vault::{BackupWriter, ManifestRef, Result};

use crate::support::{Bench, add_file, add_sparse, folder, noise, walk_all};

fn fill(writer: &mut BackupWriter) {
    writer.add(folder("")).unwrap();
    add_file(writer, "a", b"inline");
    add_file(writer, "b", &noise(1, 900));
    add_sparse(writer, "c", 70_000, &[(100, vec![5; 2000])]);
}

type Everything = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads everything both ways.
fn read(bench: &Bench, at: &ManifestRef) -> Result<Everything> {
    let reader = bench.reader(at)?;
    for entry in reader.entries(None)? {
        if let Some(content) = &entry?.content {
            let mut sink = std::io::sink();
            let read = std::io::copy(&mut reader.content(content, 0)?, &mut sink);
            if let Err(error) = read {
                return Err(*error.into_inner().unwrap().downcast().unwrap());
            }
        }
    }
    walk_all(&reader)
}

fn check(bench: &Bench, at: &ManifestRef, right: &Everything, object: &str, what: &str) -> bool {
    match read(bench, at) {
        Ok(all) => {
            assert!(all == *right, "{object} {what}: other bytes");
            true
        }
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.contains(object),
                "{object} {what}: the message does not name it: {message}"
            );
            assert!(
                ["OBJECT_CORRUPT", "OBJECT_MISSING"].contains(&error.reason()),
                "{object} {what}: {message}"
            );
            false
        }
    }
}

#[test]
fn every_flipped_byte_is_found_or_does_not_matter() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let right = read(&bench, &at).unwrap();
    let mut found = 0;
    for (object, path) in bench.objects() {
        if object.starts_with("keys/") {
            continue; // The keyring's own tests flip every bit of these.
        }
        let bytes = fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[n] ^= 0x10;
            fs::write(&path, flipped).unwrap();
            found += usize::from(!check(&bench, &at, &right, &object, &format!("byte {n}")));
        }
        fs::write(&path, bytes).unwrap();
    }
    assert!(found > 1000, "{found}");
    assert!(read(&bench, &at).unwrap() == right);
}

#[test]
fn every_shortened_object_is_found_or_does_not_matter() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let right = read(&bench, &at).unwrap();
    for (object, path) in bench.objects() {
        if object.starts_with("keys/") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let fine = check(
                &bench,
                &at,
                &right,
                &object,
                &format!("{length} bytes long"),
            );
            assert!(!fine || object.starts_with("indexes/"), "{object} {length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        fs::write(&path, longer).unwrap();
        check(&bench, &at, &right, &object, "one byte longer");
        fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn every_missing_object_is_named() {
    let bench = Bench::new();
    let at = bench.back_up("b1", |writer| {
        fill(writer);
        for n in 0..40 {
            add_file(writer, &format!("d{n:02}"), &noise(n as u32, 700_000));
        }
    });
    let right = read(&bench, &at).unwrap();
    let objects = bench.objects();
    assert!(objects.keys().filter(|o| o.starts_with("packs/")).count() > 1);
    for (object, path) in objects {
        if object.starts_with("keys/") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let fine = check(&bench, &at, &right, &object, "removed");
        assert_eq!(fine, object.starts_with("indexes/"), "{object}");
        fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn another_backups_manifest_is_not_taken_for_this_one() {
    let bench = Bench::new();
    let first = bench.back_up("b1", fill);
    let second = bench.back_up("b2", fill);
    let objects = bench.objects();
    fs::copy(&objects["backups/b2.1"], &objects["backups/b1.1"]).unwrap();
    let error = bench.reader(&first).unwrap_err();
    assert!(error.to_string().contains("backups/b1.1"), "{error}");
    assert!(bench.reader(&second).is_ok());
}
