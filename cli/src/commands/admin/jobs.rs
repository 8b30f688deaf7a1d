//! `admin jobs` and `admin retry`: ListJobs, RetryJob.

use clap::{Args, ValueEnum};
use proto::backup::v1::{Job, ListJobsRequest, RetryJobRequest, job};
use serde_json::json;

use super::PAGE_SIZE;
use crate::{
    connect::{Session, call},
    error::Result,
    find::incomplete,
    output::{
        human,
        json::Document as _,
        table::{Align, Table},
    },
    show,
};

/// Arguments of `admin jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Only those with which this is the matter
    #[arg(value_enum, value_name = "CONDITION")]
    pub condition: Option<ConditionArg>,
    /// Only of this kind
    #[arg(long, value_enum, value_name = "KIND")]
    pub kind: Option<KindArg>,
    /// Only in this state
    #[arg(long, value_enum, value_name = "STATE")]
    pub state: Option<StateArg>,
    /// Only of this pool
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// Only of this agent
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// How many at the most
    #[arg(long, short = 'n', default_value_t = 100, value_name = "NUMBER")]
    pub limit: usize,
}

/// What may be the matter with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConditionArg {
    /// Nobody takes it, or its worker is silent.
    Stuck,
    /// An attempt failed; it waits for the next one.
    Retrying,
    /// It has failed for good.
    Dead,
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// Backs an agent up.
    Backup,
    /// Brings a backup back.
    Restore,
    /// Checks a backup.
    Verify,
    /// Removes a backup.
    Delete,
    /// Gives room back.
    Compact,
    /// Brings all vaults under another key.
    Rotate,
    /// Destroys an agent's keys and vaults.
    Erase,
    /// Copies a backup to another destination.
    Copy,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    /// Waits.
    Queued,
    /// A worker holds it.
    Running,
    /// Done.
    Completed,
    /// Ended without success.
    Failed,
    /// Canceled.
    Canceled,
}

/// Arguments of `admin retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Jobs, as `admin jobs` lists them
    #[arg(value_name = "JOB", required = true)]
    pub jobs: Vec<String>,
}

/// Runs `admin jobs`.
pub async fn list(session: &Session, args: JobsArgs) -> Result<()> {
    let mut request = ListJobsRequest {
        page_size: PAGE_SIZE.min(args.limit.max(1)) as i32,
        page_token: String::new(),
        kind: args.kind.map_or(job::Kind::Unspecified, kind).into(),
        state: args.state.map_or(job::State::Unspecified, state).into(),
        condition: args
            .condition
            .map_or(job::Condition::Unspecified, condition)
            .into(),
        pool: args.pool.unwrap_or_default(),
        agent_id: args.agent.unwrap_or_default(),
    };
    let mut jobs = Vec::new();
    loop {
        let page = session.admin().list_jobs(call(request.clone())).await?;
        let page = page.into_inner();
        jobs.extend(page.jobs);
        if page.next_page_token.is_empty() || jobs.len() >= args.limit {
            break;
        }
        request.page_token = page.next_page_token;
    }
    jobs.truncate(args.limit);
    let out = session.out;
    if out.json {
        let jobs: Vec<_> = jobs.iter().map(Job::to_json).collect();
        return out.document(&json!({ "jobs": jobs }));
    }
    if out.quiet {
        return jobs.iter().try_for_each(|job| out.line(&job.job_id));
    }
    table(&jobs).iter().try_for_each(|line| out.line(line))
}

/// Runs `admin retry`.
pub async fn retry(session: &Session, args: RetryArgs) -> Result<()> {
    let out = session.out;
    for job_id in args.jobs {
        let answer = session
            .admin()
            .retry_job(call(RetryJobRequest { job_id }))
            .await?;
        let job = answer.into_inner().job.ok_or_else(incomplete)?;
        if out.json {
            out.event(&job.to_json())?;
        } else if out.quiet {
            out.line(&job.job_id)?;
        } else {
            out.line(format!(
                "Job {} ({} of agent {}) gets a new try",
                job.job_id,
                word(job.kind().as_str_name(), "KIND_"),
                human::printable(&job.agent_id)
            ))?;
        }
    }
    Ok(())
}

fn table(jobs: &[Job]) -> Vec<String> {
    let mut table = Table::new(&[
        ("JOB", Align::Left),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("MATTER", Align::Left),
        ("AGENT", Align::Left),
        ("POOL", Align::Left),
        ("TRIES", Align::Right),
        ("DUE", Align::Left),
        ("WHY", Align::Left),
    ]);
    for job in jobs {
        let matter = match job.condition() {
            job::Condition::Unspecified => String::new(),
            condition => word(condition.as_str_name(), "CONDITION_"),
        };
        table.row(vec![
            job.job_id.clone(),
            word(job.kind().as_str_name(), "KIND_"),
            job.state()
                .as_str_name()
                .trim_start_matches("STATE_")
                .to_owned(),
            matter,
            human::printable(&job.agent_id),
            human::printable(&job.pool),
            format!("{}/{}", job.tries, job.max_attempts),
            human::time(job.due_time.as_ref()),
            show::why(job.failure.as_ref(), job.progress.as_ref()),
        ]);
    }
    table.lines()
}

fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

fn kind(kind: KindArg) -> job::Kind {
    match kind {
        KindArg::Backup => job::Kind::Backup,
        KindArg::Restore => job::Kind::Restore,
        KindArg::Verify => job::Kind::Verify,
        KindArg::Delete => job::Kind::Delete,
        KindArg::Compact => job::Kind::Compact,
        KindArg::Rotate => job::Kind::Rotate,
        KindArg::Erase => job::Kind::Erase,
        KindArg::Copy => job::Kind::Copy,
    }
}

fn state(state: StateArg) -> job::State {
    match state {
        StateArg::Queued => job::State::Queued,
        StateArg::Running => job::State::Running,
        StateArg::Completed => job::State::Completed,
        StateArg::Failed => job::State::Failed,
        StateArg::Canceled => job::State::Canceled,
    }
}

fn condition(condition: ConditionArg) -> job::Condition {
    match condition {
        ConditionArg::Stuck => job::Condition::Stuck,
        ConditionArg::Retrying => job::Condition::Retrying,
        ConditionArg::Dead => job::Condition::Dead,
    }
}
