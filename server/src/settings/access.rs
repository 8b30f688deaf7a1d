//! What can be configured of who may call, how much, and what is kept of it.

use clap::Args;

use process::settings::Whole;

/// Settings of access.
#[derive(Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct AccessSettings {
    /// Calls a minute with which a user may ask for new work: backups, restores,
    /// verifications (0: any number)
    #[arg(long = "rate-creates-per-minute", env = CREATES.variable, value_name = "N",
          default_value = CREATES.default_text, value_parser = |text: &str| CREATES.count::<usize>(text))]
    pub creates_per_minute: usize,

    /// Jobs that a user asked for and that may wait or run at the same time (0: any number)
    #[arg(long = "jobs-per-owner", env = JOBS.variable, value_name = "N",
          default_value = JOBS.default_text, value_parser = |text: &str| JOBS.count::<usize>(text))]
    pub jobs_per_owner: usize,

    /// Downloads of one user at the same time (0: any number)
    #[arg(long = "downloads-per-caller", env = DOWNLOADS.variable, value_name = "N",
          default_value = DOWNLOADS.default_text, value_parser = |text: &str| DOWNLOADS.count::<usize>(text))]
    pub downloads_per_caller: usize,

    /// Days for which the audit log is kept
    #[arg(long = "audit-days", env = AUDIT.variable, value_name = "DAYS",
          default_value = AUDIT.default_text, value_parser = |text: &str| AUDIT.count::<usize>(text))]
    pub audit_days: usize,
}

const CREATES: Whole = Whole {
    variable: "NORA_BACKUP_RATE_CREATES_PER_MINUTE",
    default: 120,
    default_text: "120",
    min: 0,
    max: 1_000_000,
    unit: "",
};
const JOBS: Whole = Whole {
    variable: "NORA_BACKUP_JOBS_PER_OWNER",
    default: 100,
    default_text: "100",
    min: 0,
    max: 1_000_000,
    unit: "",
};
const DOWNLOADS: Whole = Whole {
    variable: "NORA_BACKUP_DOWNLOADS_PER_CALLER",
    default: 4,
    default_text: "4",
    min: 0,
    max: 10_000,
    unit: "",
};
const AUDIT: Whole = Whole {
    variable: "NORA_BACKUP_AUDIT_DAYS",
    default: 90,
    default_text: "90",
    min: 1,
    max: 36_500,
    unit: " days",
};

impl Default for AccessSettings {
    /// As when nothing is set.
    fn default() -> Self {
        Self {
            creates_per_minute: CREATES.default as usize,
            jobs_per_owner: JOBS.default as usize,
            downloads_per_caller: DOWNLOADS.default as usize,
            audit_days: AUDIT.default as usize,
        }
    }
}

impl std::fmt::Debug for AccessSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessSettings")
            .field("creates_per_minute", &self.creates_per_minute)
            .field("jobs_per_owner", &self.jobs_per_owner)
            .field("downloads_per_caller", &self.downloads_per_caller)
            .field("audit_days", &self.audit_days)
            .finish_non_exhaustive()
    }
}
