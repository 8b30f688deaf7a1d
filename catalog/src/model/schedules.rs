//! Schedules, and what retention did.

use sea_orm::{DeriveActiveEnum, EnumIter};

/// How often a schedule runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum Frequency {
    /// Every 60 minutes.
    Hourly,
    /// Every day.
    Daily,
    /// Every seven days.
    Weekly,
    /// Every month.
    Monthly,
}

/// Why a run did not begin when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum SkipReason {
    /// The run before it went on.
    StillRunning,
    /// Nobody looked: the schedule was paused, or no server ran.
    Missed,
}

/// What removed a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum RemovalRule {
    /// More backups of the schedule than it retains.
    Retain,
    /// More backups of the agent than the limit.
    Limit,
    /// A backup of the schedule that is too old.
    Age,
    /// Failed or canceled too long ago.
    Ended,
    /// The caller's word.
    Request,
    /// Its agent was deregistered with its backups.
    Deregister,
}

/// What a caller can set of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleSpec {
    /// Whether it runs.
    pub enabled: bool,
    /// How often.
    pub frequency: Frequency,
    /// How many of its newest COMPLETED backups are kept.
    pub retain: u32,
    /// Minutes after midnight.
    pub time_of_day: Option<u16>,
    /// IANA name, one that [`crate::timing::zone`] knows.
    pub time_zone: String,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The agent.
    pub agent_id: String,
    /// The user who owns it.
    pub owner_id: String,
    /// What was set.
    pub spec: ScheduleSpec,
    /// Changes with every change of `spec`.
    pub etag: String,
    /// When it runs next; None while not enabled.
    pub next_run_time_ms: Option<i64>,
    /// When it last began a backup, and which.
    pub last_run: Option<(i64, String)>,
    /// When a backup of it was last COMPLETED, and which.
    pub last_success: Option<(i64, String)>,
    /// Failed runs since.
    pub failures: u32,
    /// What was last skipped, when it was due, and why.
    pub skip: Option<(i64, SkipReason)>,
    /// When it was made.
    pub create_time_ms: i64,
    /// When a caller last changed it.
    pub update_time_ms: i64,
}

/// What a round of the scheduler did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleRound {
    /// The backups that it began: agent and backup.
    pub begun: Vec<(String, String)>,
    /// Agents whose run was skipped, as the last one goes on.
    pub skipped: Vec<String>,
    /// Agents whose missed run was put off a little.
    pub spread: Vec<String>,
}

impl ScheduleRound {
    /// Whether it found nothing to do.
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.skipped.is_empty() && self.spread.is_empty()
    }
}

/// A backup that was removed, or is being removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The backup.
    pub backup_id: String,
    /// Its name.
    pub name: String,
    /// What removed it.
    pub rule: RemovalRule,
    /// When it was asked for.
    pub create_time_ms: i64,
    /// When its removal began.
    pub removal_time_ms: i64,
}
