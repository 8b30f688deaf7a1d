//! What goes wrong: drawn from a seed, one after the other, each followed by some
//! time of load.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use sea_orm::{ConnectionTrait as _, Database};

use super::{Options, ledger::Ledger, site::Site};
use crate::fleet::Role;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGKILL, and started again.
    Kill(Part),
    /// SIGSTOP until the lease is over, then SIGCONT; other faults go on meanwhile.
    Freeze(Part),
    /// SIGTERM, waited for, and started again.
    Stop(Part),
    /// RabbitMQ is killed and comes back.
    KillBroker,
    /// PostgreSQL is killed and comes back.
    KillDatabase,
    /// All connections to PostgreSQL end.
    CutDatabase,
    /// All connections to RabbitMQ end.
    CutBroker,
    /// RabbitMQ takes no messages for a while.
    MemoryAlarm,
}

/// What of the fleet it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Server,
    Worker,
}

impl Part {
    fn role(self) -> Role {
        match self {
            Self::Server => Role::Server,
            Self::Worker => Role::Worker,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(part) => write!(f, "{} killed", part.name()),
            Self::Freeze(part) => write!(f, "{} frozen past its lease", part.name()),
            Self::Stop(part) => write!(f, "{} stopped", part.name()),
            Self::KillBroker => f.write_str("RabbitMQ killed"),
            Self::KillDatabase => f.write_str("PostgreSQL killed"),
            Self::CutDatabase => f.write_str("connections to PostgreSQL cut"),
            Self::CutBroker => f.write_str("connections to RabbitMQ cut"),
            Self::MemoryAlarm => f.write_str("RabbitMQ short of memory"),
        }
    }
}

/// Every kind, and how often it comes beside the others.
const KINDS: &[(Fault, usize)] = &[
    (Fault::Kill(Part::Worker), 6),
    (Fault::Kill(Part::Server), 4),
    (Fault::Freeze(Part::Worker), 4),
    (Fault::Freeze(Part::Server), 2),
    (Fault::Stop(Part::Worker), 2),
    (Fault::Stop(Part::Server), 1),
    (Fault::KillBroker, 1),
    (Fault::KillDatabase, 1),
    (Fault::CutDatabase, 2),
    (Fault::CutBroker, 1),
    (Fault::MemoryAlarm, 1),
];
/// Load between two faults, in milliseconds.
const REST_MS: std::ops::Range<u64> = 300..2_500;

/// The faults of a seed: each kind as often as it should come, in random order.
fn plan(random: &mut StdRng, faults: usize) -> Vec<Fault> {
    let mut all = Vec::new();
    while all.len() < faults {
        let mut round: Vec<Fault> = KINDS
            .iter()
            .flat_map(|(fault, times)| std::iter::repeat_n(*fault, *times))
            .collect();
        round.shuffle(random);
        all.extend(round);
    }
    all.truncate(faults);
    all
}

/// A member that is frozen, and when it may go on.
struct Frozen {
    member: usize,
    until: Instant,
}

/// Injects them all; returns those that were.
pub(super) async fn inject(
    site: &mut Site,
    ledger: &Ledger,
    options: Options,
) -> Result<Vec<Fault>> {
    let mut random = StdRng::seed_from_u64(options.seed);
    let plan = plan(&mut random, options.faults);
    let begun = Instant::now();
    let mut frozen: Vec<Frozen> = Vec::new();
    for (number, fault) in plan.iter().enumerate() {
        let rest = Duration::from_millis(random.random_range(REST_MS));
        // Drawn always, so that a seed's faults don't depend on what happens.
        let (which, how_long) = (
            random.random::<u32>() as usize,
            random.random_range(0.0..1.0),
        );
        tokio::time::sleep(rest).await;
        thaw(site, &mut frozen, false)?;
        let exits = site.exits()?;
        for words in exits {
            ledger.unasked_exit(words);
        }
        eprintln!(
            "chaos: {:6.1} s {:3}/{} {fault}",
            begun.elapsed().as_secs_f32(),
            number + 1,
            plan.len()
        );
        one(site, &mut frozen, *fault, which, how_long)
            .await
            .with_context(|| format!("fault {}: {fault}", number + 1))?;
        site.fleet.launch_missing()?;
    }
    thaw(site, &mut frozen, true)?;
    Ok(plan)
}

async fn one(
    site: &mut Site,
    frozen: &mut Vec<Frozen>,
    fault: Fault,
    which: usize,
    how_long: f64,
) -> Result<()> {
    let seconds = |from: f64, to: f64| Duration::from_secs_f64(from + (to - from) * how_long);
    match fault {
        Fault::Kill(part) => {
            let numbers = site.fleet.numbers(part.role());
            let member = numbers[which % numbers.len()];
            frozen.retain(|frozen| frozen.member != member);
            site.fleet.members[member].kill()
        }
        Fault::Freeze(part) => {
            let Some(member) = awake(site, frozen, part, which) else {
                return Ok(());
            };
            site.fleet.members[member].pause()?;
            let until = Instant::now() + Site::lease() + seconds(0.2, 3.0);
            frozen.push(Frozen { member, until });
            Ok(())
        }
        Fault::Stop(part) => {
            let Some(member) = awake(site, frozen, part, which) else {
                return Ok(());
            };
            // Told while it starts it may not listen yet.
            site.fleet.members[member].wait_until_ready().await?;
            let member = &mut site.fleet.members[member];
            let status = tokio::task::block_in_place(|| member.stop())?;
            anyhow::ensure!(status.success(), "{} ended, {status}", member.name());
            Ok(())
        }
        Fault::KillBroker => {
            ready(site, frozen).await?;
            site.bounce("rabbitmq", seconds(0.0, 4.0)).await
        }
        Fault::KillDatabase => {
            ready(site, frozen).await?;
            site.bounce("postgresql", seconds(0.0, 4.0)).await
        }
        Fault::CutDatabase => {
            ready(site, frozen).await?;
            let database = Database::connect(site.address("NORA_TEST_POSTGRES_URL")?).await?;
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
            database.execute_unprepared(cut).await?;
            database.close().await?;
            Ok(())
        }
        Fault::CutBroker => {
            ready(site, frozen).await?;
            let cut = ["-q", "close_all_connections", "chaos"];
            site.rabbitmqctl(&cut).await.map(drop)
        }
        Fault::MemoryAlarm => {
            let limit = |value| ["-q", "set_vm_memory_high_watermark", value];
            site.rabbitmqctl(&limit("0.0001")).await?;
            tokio::time::sleep(seconds(0.5, 4.0)).await;
            site.rabbitmqctl(&limit("0.6")).await.map(drop)
        }
    }
}

/// A member of this kind that is not frozen, unless it is the last such.
fn awake(site: &Site, frozen: &[Frozen], part: Part, which: usize) -> Option<usize> {
    let mut numbers = site.fleet.numbers(part.role());
    numbers.retain(|number| frozen.iter().all(|frozen| frozen.member != *number));
    (numbers.len() > 1).then(|| numbers[which % numbers.len()])
}

/// Lets those go on whose time is over, or all.
fn thaw(site: &Site, frozen: &mut Vec<Frozen>, all: bool) -> Result<()> {
    for number in (0..frozen.len()).rev() {
        if all || frozen[number].until <= Instant::now() {
            let frozen = frozen.swap_remove(number);
            site.fleet.members[frozen.member].resume()?;
        }
    }
    Ok(())
}

/// Waits until those that were just started run: a process that can't reach its
/// services when it starts ends, and says why, as it should.
async fn ready(site: &mut Site, frozen: &[Frozen]) -> Result<()> {
    for number in 0..site.fleet.members.len() {
        if frozen.iter().all(|frozen| frozen.member != number) {
            site.fleet.members[number].wait_until_ready().await?;
        }
    }
    Ok(())
}

/// Brings everything back that was broken.
pub(super) async fn heal(site: &mut Site) -> Result<()> {
    for member in &site.fleet.members {
        if member.pid().is_some() {
            member.resume()?;
        }
    }
    for (service, runs) in site.services.status()? {
        if !runs && matches!(service, "postgresql" | "rabbitmq") {
            site.bounce(service, Duration::ZERO).await?;
        }
    }
    site.rabbitmqctl(&["-q", "set_vm_memory_high_watermark", "0.6"])
        .await?;
    site.fleet.launch().await
}
