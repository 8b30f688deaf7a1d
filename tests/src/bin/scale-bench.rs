//! Measures how much a fleet's catalog bears: very many schedules that are due at the
//! same moment, and lists of very many backups. Prints one JSON row a figure, and how
//! PostgreSQL reads each list to standard error; `make bench-scale` calls it. The names of
//! parts (schedules, lists) as arguments: only those.
//!
//! Rows are copied within the database from one of each kind that the service itself
//! has made.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use proto::backup::v1::{
    ListBackupsRequest, UpdateScheduleRequest, backup, schedule::Frequency,
    schedule_service_client::ScheduleServiceClient,
};
use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, FromQueryResult, Statement};
use serde_json::Value;
use services::{
    api::{Api, Authorized},
    bench::{parts, row},
    fixture,
    fleet::{Fleet, Role},
};

const OWNER: &str = "user-1";
const MIB: f64 = 1024.0 * 1024.0;
/// How often the count of begun backups is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long schedules may take to be claimed before it is given up.
const CLAIM_MAX: Duration = Duration::from_mins(10);
/// Agents among which the backups are divided, one of them with half of all.
const AGENTS: u64 = 1_000;
/// Pages asked for of each list, in different places.
const PAGES: u64 = 60;
const PAGE_SIZE: i32 = 50;

#[tokio::main]
async fn main() -> Result<()> {
    let number = |name: &str, default: u64| {
        env::var(name).map_or(Ok(default), |text| text.parse().context(name.to_owned()))
    };
    let mut rows = Vec::new();
    for part in parts(&["schedules", "lists"]) {
        match part.as_str() {
            "schedules" => rows.extend(schedules(number("SCHEDULES", 100_000)?).await?),
            "lists" => rows.push(lists(number("BACKUPS", 1_000_000)?).await?),
            other => bail!("{other}: there is no such part"),
        }
    }
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(())
}

/// Two servers, no worker: what is claimed stays PENDING.
async fn schedules(count: u64) -> Result<Vec<Value>> {
    let fleet = Fleet::prepare("bench-schedules", 2, 0).await?;
    let mut fleet = fleet.with_env("NORA_BACKUP_SCHEDULE_POLL_MS", "1000");
    fleet.launch().await?;
    fleet.register("agent-0", OWNER).await?;
    let user = fleet.user(0, OWNER).await?;
    daily(&user, "agent-0").await?;
    let database = connect(&fleet).await?;
    copies(&database, "agents", count - 1, "'agent_id', 'agent-' || n").await?;
    let before: Vec<u64> = peaks(&fleet)?;
    // All due now, in one transaction.
    let due = "'agent_id', 'agent-' || n, 'next_run_time_ms', \
               (extract(epoch from clock_timestamp()) * 1000)::bigint";
    let begun = Instant::now();
    copies(&database, "schedules", count - 1, due).await?;
    let inserted = begun.elapsed();
    let begun = Instant::now();
    let wanted = i64::try_from(count - 1)?;
    let mut claimed = 0;
    while claimed < wanted {
        ensure!(
            begun.elapsed() < CLAIM_MAX,
            "{claimed} claimed:\n{}",
            fleet.logs()
        );
        tokio::time::sleep(LOOK).await;
        claimed = one(&database, "SELECT count(*) AS number FROM backups").await?;
    }
    let took = begun.elapsed().as_secs_f64();
    let twice = "SELECT count(*) AS number FROM (SELECT agent_id FROM backups GROUP BY agent_id \
                 HAVING count(*) > 1) AS many";
    let twice = one(&database, twice).await?;
    let missed = "SELECT count(*) AS number FROM schedules WHERE agent_id <> 'agent-0' AND \
                  (skip_reason IS NOT NULL OR last_run_backup_id IS NULL)";
    let missed = one(&database, missed).await?;
    let grown = peaks(&fleet)?.into_iter().zip(before);
    let grown = grown
        .map(|(after, before)| after.saturating_sub(before))
        .max();
    let grown = grown.unwrap_or_default() as f64 / MIB;
    eprintln!(
        "scale-bench: {claimed} schedules (put there in {:.1} s) claimed in {took:.1} s, {twice} \
         twice, {missed} missed; a server grew by {grown:.0} MiB",
        inserted.as_secs_f64()
    );
    let of = format!("{count} schedules due at once, 2 servers");
    Ok(vec![
        row(&format!("{of}: claimed"), took, "s", "< 60", took < 60.0),
        row(
            &format!("{of}: claimed twice or missed"),
            (twice + missed) as f64,
            "schedules",
            "= 0",
            twice + missed == 0,
        ),
        row(
            &format!("{of}: a server's memory grows by"),
            grown,
            "MiB",
            "< 64",
            grown < 64.0,
        ),
    ])
}

async fn daily(user: &Api, agent_id: &str) -> Result<()> {
    let mut client: ScheduleServiceClient<Authorized> = user.schedules.clone();
    let schedule = proto::backup::v1::Schedule {
        agent_id: agent_id.to_owned(),
        frequency: Frequency::Daily.into(),
        // Without a time it would begin at once.
        time_of_day: "12:00".to_owned(),
        ..Default::default()
    };
    client
        .update_schedule(UpdateScheduleRequest {
            schedule: Some(schedule),
            allow_missing: true,
            ..UpdateScheduleRequest::default()
        })
        .await?;
    Ok(())
}

/// Pages anywhere in lists of every kind.
async fn lists(count: u64) -> Result<Value> {
    let fleet = Fleet::start("bench-lists", 1, 1).await?;
    fixture::random_files(&fleet.agent_dir("agent-0"), 1, 1_000, 1)?;
    fleet.register("agent-0", OWNER).await?;
    let mut user = fleet.user(0, OWNER).await?;
    let made = user.complete_backup("agent-0").await?.backup_id;
    let database = connect(&fleet).await?;
    let filled = Instant::now();
    copies(&database, "agents", AGENTS, "'agent_id', 'agent-' || n").await?;
    // Ids in the order of their numbers; half of all for one agent, few failed, and none that
    // retention may take meanwhile.
    let of_agent =
        format!("'agent_id', 'agent-' || CASE WHEN n % 2 = 0 THEN 0 ELSE n % {AGENTS} END");
    let id = |kind: &str| format!("'00000000-{kind}-7000-8000-' || lpad(to_hex(n), 12, '0')");
    let (backup_id, job_id) = (id("0001"), id("0002"));
    let jobs = format!("'job_id', {job_id}, 'backup_id', {backup_id}, {of_agent}");
    copies(&database, "jobs", count, &jobs).await?;
    let backups = format!(
        "'backup_id', {backup_id}, 'job_id', {job_id}, {of_agent}, 'protected', true, 'state', \
         CASE WHEN n % 100000 = 7 THEN 'failed' ELSE 'completed' END"
    );
    copies(&database, "backups", count, &backups).await?;
    database.execute_unprepared("ANALYZE").await?;
    eprintln!(
        "scale-bench: {count} backups put there in {:.1} s",
        filled.elapsed().as_secs_f64()
    );

    let mut admin = Api::connect(&fleet.urls()[0], "root", "admin").await?;
    let mut taken = Vec::new();
    for (who, api) in [("owner", &mut user), ("administrator", &mut admin)] {
        for agent in ["", "agent-0", "agent-7"] {
            for states in [
                &[][..],
                &[backup::State::Completed],
                &[backup::State::Failed],
                &[backup::State::Failed, backup::State::Canceled],
                &[backup::State::Completed, backup::State::Running],
            ] {
                let times = pages(api, agent, states, &made, count).await?;
                eprintln!(
                    "scale-bench: {who}, agent {agent:?}, {states:?}: p50 {:.1} ms, longest {:.1} ms",
                    times[times.len() / 2],
                    times[times.len() - 1]
                );
                taken.extend(times);
            }
        }
    }
    taken.sort_by(f64::total_cmp);
    let p99 = taken[taken.len() * 99 / 100];
    Ok(row(
        &format!("ListBackups over {count} rows, any page of any filter: p99"),
        p99,
        "ms",
        "< 20",
        p99 < 20.0,
    ))
}

/// Milliseconds that pages in different places of a list take, sorted.
async fn pages(
    api: &mut Api,
    agent: &str,
    states: &[backup::State],
    made: &str,
    count: u64,
) -> Result<Vec<f64>> {
    let mut request = ListBackupsRequest {
        agent_id: agent.to_owned(),
        page_size: 1,
        states: states.iter().map(|state| (*state).into()).collect(),
        ..ListBackupsRequest::default()
    };
    let first = api
        .backups
        .list_backups(request.clone())
        .await?
        .into_inner();
    // A token ends in the id after which its page begins.
    let key: String = hex::encode(
        first
            .backups
            .first()
            .map_or(made, |newest| &*newest.backup_id),
    );
    let token = first.next_page_token;
    let head = token.strip_suffix(&key).map(str::to_owned);
    request.page_size = PAGE_SIZE;
    let mut times = Vec::new();
    for page in 0..PAGES {
        let place = count - count * page / PAGES;
        let after = format!("00000000-0001-7000-8000-{place:012x}");
        request.page_token = match &head {
            Some(head) if page > 0 => format!("{head}{}", hex::encode(after)),
            _ => String::new(),
        };
        let begun = Instant::now();
        api.backups.list_backups(request.clone()).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Copies the only row of a table, with these fields changed for n = 1 to `count`.
async fn copies(
    database: &DatabaseConnection,
    table: &str,
    count: u64,
    fields: &str,
) -> Result<()> {
    let copy = format!(
        "INSERT INTO {table} SELECT made.* FROM (SELECT * FROM {table} LIMIT 1) AS one, \
         generate_series(1, {count}) AS n, LATERAL jsonb_populate_record(NULL::{table}, \
         to_jsonb(one) || jsonb_build_object({fields})) AS made"
    );
    database
        .execute_unprepared(&copy)
        .await
        .with_context(|| format!("copy rows of {table}"))?;
    Ok(())
}

async fn connect(fleet: &Fleet) -> Result<DatabaseConnection> {
    let url = &fleet.env()["NORA_BACKUP_DATABASE_URL"];
    Ok(Database::connect(url).await?)
}

#[derive(FromQueryResult)]
struct Number {
    number: i64,
}

async fn one(database: &DatabaseConnection, query: &str) -> Result<i64> {
    let statement = Statement::from_string(database.get_database_backend(), query);
    let found = Number::find_by_statement(statement).one(database).await?;
    Ok(found.context("a number")?.number)
}

/// What the servers' memory has been at the most.
fn peaks(fleet: &Fleet) -> Result<Vec<u64>> {
    let servers = fleet.numbers(Role::Server).into_iter();
    servers
        .map(|number| fleet.members[number].peak_rss_bytes())
        .collect()
}
