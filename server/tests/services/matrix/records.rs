//! The audit log that the calls leave.

use std::collections::BTreeMap;

use catalog::{AuditEntry, AuditFilter, PageRequest};

use super::ME;
use crate::harness::{Rig, eventually};

pub async fn check_audit(
    rig: &Rig,
    audited: &BTreeMap<String, (String, &str)>,
    unaudited: &[String],
) {
    let read = async || {
        let (mut all, mut page) = (Vec::new(), PageRequest::first(1_000));
        loop {
            let found = rig.catalog.list_audit(&AuditFilter::default(), &page).await;
            let found = found.unwrap();
            all.extend(found.items);
            match found.next {
                Some(next) => page.after = Some(next),
                None => return all,
            }
        }
    };
    // A stream's row comes when it has ended.
    eventually("all rows of the audit log", || async {
        let rows = read().await;
        audited
            .keys()
            .all(|name| rows.iter().any(|row| &row.request_id == name))
    })
    .await;
    let rows = read().await;
    for name in unaudited {
        assert!(rows.iter().all(|row| &row.request_id != name), "{name}");
    }
    for (name, (request, code)) in audited {
        let rows: Vec<&AuditEntry> = rows.iter().filter(|row| &row.request_id == name).collect();
        let [row] = rows[..] else {
            panic!("{name}: {} rows", rows.len());
        };
        let (rpc, role) = (name.split('-').next().unwrap(), &row.role);
        assert_eq!(row.method, rpc, "{name}");
        // What goes on is watched no longer than to the first answer.
        let left = rpc.contains("/Watch") && *code == "OK" && row.code == "CANCELLED";
        assert!(
            left || row.code == *code,
            "{name}: {}, not {code}",
            row.code
        );
        assert_eq!(row.caller_id, ME);
        assert!(name.contains(&format!("-{role}-")), "{name}: {role}");
        assert!(row.peer.starts_with("127.0.0.1:"), "{name}: {}", row.peer);
        let listener = if rpc.starts_with("AdminService") {
            "admin"
        } else {
            "public"
        };
        assert_eq!(row.listener, listener, "{name}");
        assert_eq!(
            row.reason.is_empty(),
            *code == "OK",
            "{name}: {}",
            row.reason
        );
        let request: serde_json::Value = serde_json::from_str(request).unwrap();
        for (field, id) in ids_in(&request) {
            assert!(
                row.resources.contains(&(field.clone(), id.clone())),
                "{name}: {field} {id}"
            );
        }
        if rpc.starts_with("BackupService/Download") && *code == "OK" {
            assert!(row.sent_bytes > 0, "{name}");
        }
        if rpc == "BackupService/CreateBackup" && *code == "OK" {
            let made = row.resources.iter().any(|(field, _)| field == "backup_id");
            assert!(made, "{name}: what it made is missing: {:?}", row.resources);
        }
    }
}

fn ids_in(request: &serde_json::Value) -> Vec<(String, String)> {
    let serde_json::Value::Object(fields) = request else {
        return Vec::new();
    };
    let mut ids = Vec::new();
    for (name, value) in fields {
        match value {
            serde_json::Value::String(id) if name.ends_with("_id") => {
                ids.push((name.clone(), id.clone()));
            }
            inner => ids.extend(ids_in(inner)),
        }
    }
    ids
}
