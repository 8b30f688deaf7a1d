//! The commands, one file a group; each says at its top which calls it makes.

pub mod admin;
pub mod agent;
pub mod backup;
pub mod completions;
pub mod destination;
pub mod docs;
pub mod key;
pub mod recover;
pub mod restore;
pub mod schedule;
pub mod token;

/// The rpcs of `nora.backup.v1`, each with the command that calls it.
pub const CALLS: &[(&str, &str)] = &[
    ("AdminService.ListWorkers", "admin workers"),
    ("AdminService.ListPools", "admin pools"),
    ("AdminService.ListKeys", "key list"),
    ("AdminService.RotateKeys", "key rotate"),
    ("AdminService.GetKeyRotation", "key status"),
    ("AdminService.WatchKeyRotation", "key rotate"),
    ("AdminService.CreateDestination", "destination add"),
    ("AdminService.GetDestination", "destination show"),
    ("AdminService.ListDestinations", "destination list"),
    ("AdminService.UpdateDestination", "destination update"),
    ("AdminService.DeleteDestination", "destination remove"),
    ("AdminService.TestDestination", "destination test"),
    ("AdminService.RestoreInPlace", "admin restore-in-place"),
    ("AdminService.CheckWorkspaceCreation", "admin room"),
    ("AdminService.ListAllBackups", "admin backups"),
    ("AdminService.ListJobs", "admin jobs"),
    ("AdminService.RetryJob", "admin retry"),
    ("AdminService.GetAuditLog", "admin audit"),
    ("AgentService.RegisterAgent", "agent register"),
    ("AgentService.GetAgent", "agent show"),
    ("AgentService.ListAgents", "agent list"),
    ("AgentService.DeregisterAgent", "agent remove"),
    ("BackupService.CreateBackup", "backup create"),
    ("BackupService.GetBackup", "backup show"),
    ("BackupService.ListBackups", "backup list"),
    ("BackupService.WatchBackup", "backup watch"),
    ("BackupService.CancelBackup", "backup cancel"),
    ("BackupService.DeleteBackup", "backup delete"),
    ("BackupService.UpdateBackup", "backup protect"),
    ("BackupService.DownloadBackup", "backup download"),
    ("BackupService.ListBackupEntries", "backup files"),
    ("BackupService.DownloadEntry", "backup get"),
    ("BackupService.VerifyBackup", "backup verify"),
    ("BackupService.WatchVerification", "backup verify"),
    ("BackupService.GetStorageUsage", "backup usage"),
    ("RestoreService.CreateRestoreDraft", "restore draft"),
    ("RestoreService.GetRestore", "restore show"),
    ("RestoreService.ListRestores", "restore list"),
    ("RestoreService.StartRestore", "restore start"),
    ("RestoreService.WatchRestore", "restore watch"),
    ("RestoreService.CancelRestore", "restore cancel"),
    ("ScheduleService.GetSchedule", "schedule show"),
    ("ScheduleService.UpdateSchedule", "schedule set"),
    ("ScheduleService.ListSchedules", "schedule list"),
    ("ScheduleService.DeleteSchedule", "schedule delete"),
    ("ScheduleService.PreviewRetention", "schedule retention"),
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::{args::Cli, output::json::POOL};

    #[test]
    fn every_rpc_has_a_command() {
        let services = POOL
            .services()
            .filter(|s| s.package_name() == "nora.backup.v1");
        let mut rpcs: Vec<String> = services
            .flat_map(|service| {
                let methods: Vec<String> = service
                    .methods()
                    .map(|method| format!("{}.{}", service.name(), method.name()))
                    .collect();
                methods
            })
            .collect();
        rpcs.sort();
        let mut listed: Vec<&str> = CALLS.iter().map(|(rpc, _)| *rpc).collect();
        listed.sort_unstable();
        assert_eq!(rpcs, listed);
        let cli = Cli::command();
        for (rpc, command) in CALLS {
            let found = command
                .split(' ')
                .try_fold(&cli, |at, name| at.find_subcommand(name));
            assert!(found.is_some(), "{rpc}: there is no command {command:?}");
        }
    }
}
