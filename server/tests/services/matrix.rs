//! Every rpc of the contract, in every role, about one's own, somebody else's and no resource,
//! against the table in `docs/access.md`; and the audit log that this leaves.
//!
//! A new rpc needs a row in the table, and a request here.

use std::collections::{BTreeMap, HashMap};

use catalog::{AuditEntry, AuditFilter, Failure, PageRequest};
use proto::backup::v1::{
    CreateDestinationRequest, CreateRestoreDraftRequest, Destination, GetKeyRotationRequest,
    LocalDestination, RotateKeysRequest, UpdateScheduleRequest, VerifyBackupRequest,
    destination::Kind,
};
use tonic::{Code, Status, transport::Endpoint};

use crate::{
    harness::{Rig, SECRET, eventually, file, folder, now_ms, reason, token},
    raw::{Call, call, rpcs},
};

const DOCUMENT: &str = include_str!("../../../docs/access.md");
const ME: &str = "ann";
const SOMEBODY: &str = "bob";
const ROLES: [&str; 3] = ["user", "service", "admin"];
const SEPARATOR: &str = " / ";

/// The request of each rpc. What stands in braces is made for each call.
const REQUESTS: &[(&str, &str)] = &[
    (
        "AgentService/RegisterAgent",
        r#"{"agent": {"agent_id": "{agent}", "owner_id": "{owner}",
            "source": {"directory": {"path": "/agents/x"}}}}"#,
    ),
    ("AgentService/GetAgent", r#"{"agent_id": "{agent}"}"#),
    ("AgentService/ListAgents", r#"{"owner_id": "{owner}"}"#),
    ("AgentService/DeregisterAgent", r#"{"agent_id": "{agent}"}"#),
    ("BackupService/CreateBackup", r#"{"agent_id": "{agent}"}"#),
    ("BackupService/GetBackup", r#"{"backup_id": "{backup}"}"#),
    (
        "BackupService/ListBackups",
        r#"{"agent_id": "{backed_up}"}"#,
    ),
    ("BackupService/WatchBackup", r#"{"backup_id": "{backup}"}"#),
    (
        "BackupService/CancelBackup",
        r#"{"backup_id": "{pending}"}"#,
    ),
    ("BackupService/DeleteBackup", r#"{"backup_id": "{backup}"}"#),
    (
        "BackupService/UpdateBackup",
        r#"{"backup": {"backup_id": "{backup}", "protected": true},
            "update_mask": "protected"}"#,
    ),
    (
        "BackupService/DownloadBackup",
        r#"{"backup_id": "{backup}"}"#,
    ),
    (
        "BackupService/ListBackupEntries",
        r#"{"backup_id": "{backup}"}"#,
    ),
    (
        "BackupService/DownloadEntry",
        r#"{"backup_id": "{backup}", "path": "YQ=="}"#,
    ),
    ("BackupService/VerifyBackup", r#"{"backup_id": "{backup}"}"#),
    (
        "BackupService/WatchVerification",
        r#"{"backup_id": "{verified}", "verification_id": "{verification}"}"#,
    ),
    (
        "BackupService/GetStorageUsage",
        r#"{"agent_id": "{agent}"}"#,
    ),
    (
        "ScheduleService/GetSchedule",
        r#"{"agent_id": "{scheduled}"}"#,
    ),
    (
        "ScheduleService/UpdateSchedule",
        r#"{"schedule": {"agent_id": "{scheduled}", "retain": 3}}"#,
    ),
    ("ScheduleService/ListSchedules", "{}"),
    (
        "ScheduleService/DeleteSchedule",
        r#"{"agent_id": "{scheduled}"}"#,
    ),
    (
        "ScheduleService/PreviewRetention",
        r#"{"agent_id": "{agent}"}"#,
    ),
    (
        "RestoreService/CreateRestoreDraft",
        r#"{"backup_id": "{backup}"}"#,
    ),
    (
        "RestoreService/GetRestore",
        r#"{"restore_id": "{restore}"}"#,
    ),
    (
        "RestoreService/ListRestores",
        r#"{"backup_id": "{planned}"}"#,
    ),
    (
        "RestoreService/StartRestore",
        r#"{"restore_id": "{restore}"}"#,
    ),
    (
        "RestoreService/WatchRestore",
        r#"{"restore_id": "{restore}"}"#,
    ),
    (
        "RestoreService/CancelRestore",
        r#"{"restore_id": "{restore}"}"#,
    ),
    ("AdminService/ListWorkers", "{}"),
    (
        "AdminService/ListAllBackups",
        r#"{"agent_id": "{backed_up}"}"#,
    ),
    ("AdminService/ListJobs", r#"{"agent_id": "{backed_up}"}"#),
    ("AdminService/RetryJob", r#"{"job_id": "{failed}"}"#),
    ("AdminService/GetAuditLog", "{}"),
    (
        "AdminService/RestoreInPlace",
        r#"{"agent_id": "{its_agent}", "backup_id": "{backup}", "confirm_agent_id": "{its_agent}"}"#,
    ),
    (
        "AdminService/CreateDestination",
        r#"{"destination": {"destination_id": "{new_destination}",
            "local": {"path": "/proc/nowhere/{new_destination}"}}}"#,
    ),
    (
        "AdminService/GetDestination",
        r#"{"destination_id": "{destination}"}"#,
    ),
    ("AdminService/ListDestinations", "{}"),
    (
        "AdminService/UpdateDestination",
        r#"{"destination": {"destination_id": "{destination}", "display_name": "A name"},
            "update_mask": "displayName"}"#,
    ),
    (
        "AdminService/DeleteDestination",
        r#"{"destination_id": "{destination}"}"#,
    ),
    (
        "AdminService/TestDestination",
        r#"{"destination_id": "{destination}"}"#,
    ),
    ("AdminService/CheckWorkspaceCreation", "{}"),
    ("AdminService/ListKeys", "{}"),
    ("AdminService/ListPools", "{}"),
    ("AdminService/RotateKeys", "{}"),
    (
        "AdminService/GetKeyRotation",
        r#"{"rotation_id": "{rotation}"}"#,
    ),
    (
        "AdminService/WatchKeyRotation",
        r#"{"rotation_id": "{rotation}"}"#,
    ),
];

/// A row of the table.
struct Row {
    rpc: String,
    /// By role: what comes of one's own, somebody else's, none; or of a call about nothing.
    expected: HashMap<&'static str, Vec<String>>,
    audited: bool,
}

fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    for line in DOCUMENT.lines().filter(|line| line.contains("Service/")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [rpc, user, service, admin, audited] = cells[..] else {
            continue;
        };
        let words = |cell: &str| cell.split(SEPARATOR).map(str::to_owned).collect();
        rows.push(Row {
            rpc: rpc.to_owned(),
            expected: ROLES
                .into_iter()
                .zip([user, service, admin].map(words))
                .collect(),
            audited: audited == "yes",
        });
    }
    rows
}

/// Makes what requests are about.
struct Maker<'a> {
    rig: &'a Rig,
    made: usize,
}

impl Maker<'_> {
    /// Fills in what stands in braces, with what belongs to this owner, or with what is not there.
    async fn fill(&mut self, template: &str, owner: Option<&str>) -> String {
        let mut text = template.to_owned();
        self.made += 1;
        let fresh = format!("agent-{}", self.made);
        let names = [
            "agent",
            "scheduled",
            "backed_up",
            "backup",
            "pending",
            "failed",
            "restore",
            "verified",
            "planned",
            "rotation",
            "destination",
            "new_destination",
        ];
        for name in names {
            let hole = format!("{{{name}}}");
            if text.contains(&hole) {
                let id = match owner {
                    Some(owner) => self.make(name, &fresh, owner).await,
                    None => missing(name, self.made),
                };
                if name == "verified" {
                    let verification = match owner {
                        Some(owner) => self.verification(owner, &id).await,
                        None => missing(name, self.made),
                    };
                    text = text.replace("{verification}", &verification);
                }
                text = text.replace(&hole, &id);
            }
        }
        let its_agent = owner.map_or_else(|| missing("agent", self.made), |_| fresh.clone());
        text = text.replace("{its_agent}", &its_agent);
        let nobody = format!("nobody-{}", self.made);
        text.replace("{owner}", owner.unwrap_or(&nobody))
    }

    async fn make(&self, what: &str, agent_id: &str, owner: &str) -> String {
        let rig = self.rig;
        rig.register(agent_id, owner).await;
        let completed = async || {
            let files = [folder(""), file("a", "content")];
            rig.completed(agent_id, owner, &files).await.backup_id
        };
        match what {
            "backup" | "verified" => completed().await,
            "pending" => rig.create(agent_id, owner).await.backup_id,
            "failed" => self.failed_job(agent_id, owner).await,
            "restore" | "planned" => {
                let request = CreateRestoreDraftRequest {
                    backup_id: completed().await,
                    ..CreateRestoreDraftRequest::default()
                };
                let answer = rig.restores(owner).create_restore_draft(request).await;
                let restore = answer.unwrap().into_inner().restore.unwrap();
                if what == "planned" {
                    restore.backup_id
                } else {
                    restore.restore_id
                }
            }
            "rotation" => self.rotation().await,
            "new_destination" => missing(what, self.made),
            "destination" => self.destination().await,
            "scheduled" => {
                self.schedule(agent_id, owner).await;
                agent_id.to_owned()
            }
            "backed_up" => {
                rig.create(agent_id, owner).await;
                agent_id.to_owned()
            }
            _ => agent_id.to_owned(),
        }
    }

    /// The rotation of keys that was asked for last, whoever asked.
    async fn rotation(&self) -> String {
        let mut admin = self.rig.admin("root", "admin");
        let last = admin
            .get_key_rotation(GetKeyRotationRequest::default())
            .await;
        let rotation = if let Ok(last) = last {
            last.into_inner().rotation
        } else {
            let begun = admin.rotate_keys(RotateKeysRequest::default()).await;
            begun.unwrap().into_inner().rotation
        };
        rotation.unwrap().rotation_id
    }

    /// A destination that is nowhere; it is not tried when it is added.
    async fn destination(&self) -> String {
        let destination_id = format!("place-{}", self.made);
        let local = LocalDestination {
            path: format!("/proc/nowhere/{destination_id}"),
        };
        let request = CreateDestinationRequest {
            destination: Some(Destination {
                destination_id: destination_id.clone(),
                kind: Some(Kind::Local(local)),
                ..Destination::default()
            }),
        };
        let mut admin = self.rig.admin("root", "admin");
        admin.create_destination(request).await.unwrap();
        destination_id
    }

    async fn schedule(&self, agent_id: &str, owner: &str) {
        let request = UpdateScheduleRequest {
            schedule: Some(proto::backup::v1::Schedule {
                agent_id: agent_id.to_owned(),
                ..Default::default()
            }),
            update_mask: None,
            allow_missing: true,
        };
        self.rig
            .schedules(owner)
            .update_schedule(request)
            .await
            .unwrap();
    }

    async fn verification(&self, owner: &str, backup_id: &str) -> String {
        let request = VerifyBackupRequest {
            backup_id: backup_id.to_owned(),
            ..VerifyBackupRequest::default()
        };
        let answer = self.rig.backups(owner).verify_backup(request).await;
        answer.unwrap().into_inner().verification_id
    }

    async fn failed_job(&self, agent_id: &str, owner: &str) -> String {
        let backup = self.rig.create(agent_id, owner).await;
        let fence = self.rig.claim(&backup.backup_id).await;
        let why = Failure {
            reason: "SOURCE_NOT_FOUND".into(),
            message: "it is not there".into(),
        };
        let catalog = &self.rig.catalog;
        catalog
            .fail_job(&fence, why, false, now_ms())
            .await
            .unwrap();
        fence.job_id
    }
}

fn missing(what: &str, number: usize) -> String {
    match what {
        "agent" | "scheduled" | "backed_up" => format!("nowhere-{number}"),
        "destination" | "new_destination" => format!("destination-{number}"),
        _ => "00000000-0000-7000-8000-000000000000".to_owned(),
    }
}

/// An answer in the table's words; what the words don't tell, for comparison.
fn in_words(answer: &Result<prost_reflect::DynamicMessage, Status>) -> (String, String) {
    match answer {
        Ok(message) => {
            let empty = message.fields().next().is_none();
            (
                if empty { "nothing" } else { "yes" }.to_owned(),
                String::new(),
            )
        }
        Err(status) => {
            let word = match (status.code(), reason(status).as_str()) {
                (Code::NotFound, _) => "not found".to_owned(),
                (Code::PermissionDenied, "ROLE_NOT_ALLOWED") => "no".to_owned(),
                (code, reason) => format!("{code:?} {reason}"),
            };
            (word, format!("{} {:?}", status.message(), status.details()))
        }
    }
}

#[tokio::test]
async fn every_rpc_answers_every_role_as_the_table_says_and_leaves_its_audit_row() {
    let rig = Rig::start_with(|settings| {
        settings.access.creates_per_minute = 0;
        settings.access.jobs_per_owner = 0;
        settings.downloads_max = 64;
    })
    .await;
    let admin = Endpoint::from_shared(format!("http://{}", rig.admin_address)).unwrap();
    let admin = admin.connect_lazy();
    let worker = catalog::Worker {
        worker: "worker-1".to_owned(),
        pool: "default".to_owned(),
        concurrency: 1,
        version: "1".to_owned(),
        start_time_ms: now_ms(),
        seen_time_ms: now_ms(),
    };
    rig.catalog.see_worker(&[worker]).await.unwrap();
    let requests: BTreeMap<&str, &str> = REQUESTS.iter().copied().collect();
    let mut rows: BTreeMap<String, Row> = table()
        .into_iter()
        .map(|row| (row.rpc.clone(), row))
        .collect();
    let mut maker = Maker { rig: &rig, made: 0 };
    let (mut faults, mut calls) = (Vec::new(), 0);
    let mut audited: BTreeMap<String, (String, &str)> = BTreeMap::new();
    let mut unaudited = Vec::new();

    for (rpc, method) in rpcs() {
        let (Some(row), Some(template)) = (rows.remove(&rpc), requests.get(rpc.as_str())) else {
            faults.push(format!(
                "{rpc}: no row in docs/access.md, or no request in this test"
            ));
            continue;
        };
        let is_admins = rpc.starts_with("AdminService/");
        let channel = if is_admins { &admin } else { &rig.channel() };
        let about_something = *template != "{}";
        for role in ROLES {
            let bearer = token(ME, role, SECRET, 600);
            let mut expected = row.expected[role].clone();
            if expected.len() == 1 && about_something {
                expected = vec![expected[0].clone(); 3];
            }
            let owners = [Some(ME), Some(SOMEBODY), None];
            let mut hidden: Vec<String> = Vec::new();
            for (place, (wanted, owner)) in expected.iter().zip(owners).enumerate() {
                let request = maker.fill(template, owner).await;
                let name = format!("{rpc}-{role}-{place}");
                let one = || Call {
                    method: &method,
                    request: &request,
                    token: Some(&bearer),
                    name: &name,
                };
                let answer = call(channel.clone(), one()).await;
                calls += 1;
                let (found, rest) = in_words(&answer);
                // Only of a list does it matter whether it holds anything.
                let done = found == "nothing" && !method.name().starts_with("List");
                let found = if done { "yes".to_owned() } else { found };
                if &found != wanted {
                    faults.push(format!(
                        "{name}: {found:?} ({rest}), the table says {wanted:?}"
                    ));
                }
                if found == "not found" && role == "user" {
                    hidden.push(without_ids(&rest, &request));
                }
                if row.audited {
                    let code = match &answer {
                        Ok(_) => "OK",
                        Err(status) if status.code() == Code::NotFound => "NOT_FOUND",
                        Err(_) => "PERMISSION_DENIED",
                    };
                    audited.insert(name.clone(), (request.clone(), code));
                } else {
                    unaudited.push(name.clone());
                }
                if is_admins {
                    // Tried where it is not served, it is on record too, under its own id.
                    let elsewhere = Call {
                        name: &format!("{name}-public"),
                        ..one()
                    };
                    let status = call(rig.channel(), elsewhere).await.unwrap_err();
                    assert_eq!(status.code(), Code::Unimplemented, "{rpc} is public");
                }
            }
            if hidden.windows(2).any(|pair| pair[0] != pair[1]) {
                faults.push(format!(
                    "{rpc}: somebody else's and nobody's are told apart: {hidden:?}"
                ));
            }
        }
        for channel in [rig.channel(), admin.clone()] {
            let nobody = Call {
                method: &method,
                request: "{}",
                token: None,
                name: "nobody",
            };
            let status = call(channel, nobody).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{rpc}");
            calls += 1;
        }
    }
    faults.extend(
        rows.keys()
            .map(|rpc| format!("{rpc}: a row without an rpc")),
    );
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    check_audit(&rig, &audited, &unaudited).await;
    println!("{calls} calls, {} of them on record", audited.len());
}

/// The answer with the ids that its request named left out.
fn without_ids(answer: &str, request: &str) -> String {
    let request: serde_json::Value = serde_json::from_str(request).unwrap();
    let mut answer = answer.to_owned();
    let mut values = vec![&request];
    while let Some(value) = values.pop() {
        match value {
            serde_json::Value::Object(fields) => values.extend(fields.values()),
            serde_json::Value::String(id) => {
                // In the details the id stands as bytes, after its length.
                let bytes = format!("{:?}", bytes::Bytes::copy_from_slice(id.as_bytes()));
                answer =
                    answer.replace(bytes.trim_start_matches("b\"").trim_end_matches('"'), "ID");
            }
            _ => {}
        }
    }
    answer.chars().filter(char::is_ascii_alphabetic).collect()
}

async fn check_audit(rig: &Rig, audited: &BTreeMap<String, (String, &str)>, unaudited: &[String]) {
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
