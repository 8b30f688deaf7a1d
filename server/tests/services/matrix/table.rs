//! The table in `docs/access.md`, and a request for each of its rows.

use std::collections::HashMap;

const DOCUMENT: &str = include_str!("../../../../docs/access.md");
pub const ROLES: [&str; 3] = ["user", "service", "admin"];
const SEPARATOR: &str = " / ";

/// The request of each rpc. What stands in braces is made for each call.
pub const REQUESTS: &[(&str, &str)] = &[
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
pub struct Row {
    pub rpc: String,
    /// By role: what comes of one's own, somebody else's, none; or of a call about nothing.
    pub expected: HashMap<&'static str, Vec<String>>,
    pub audited: bool,
}

pub fn table() -> Vec<Row> {
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
