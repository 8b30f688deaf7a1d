//! What must hold when all is healed and every client has stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, stream};
use proto::backup::v1::{Backup, ListBackupsRequest, Restore, backup, restore};

use super::{
    LOOK,
    caller::Caller,
    ledger::{Accepted, Ledger, Wish},
    load::{delete, get_backup, get_restore},
    report::Report,
    site::{OWNER, Site},
};
use crate::{
    api::Api,
    fleet::Member,
    tree::{describe, differences},
    vaults,
};

/// How long after the healing everything must have ended: two leases, the
/// longest backoffs, and the work itself.
pub(super) const SETTLE_MAX: Duration = Duration::from_mins(1);
/// How long removals and the sweep may take.
const SWEEP_MAX: Duration = Duration::from_secs(100);
/// Restores and deletions at the same time.
const AT_ONCE: usize = 4;

/// Checks everything; what it finds goes into the report, in words into the ledger.
pub(super) async fn check(
    site: &mut Site,
    ledger: &Arc<Ledger>,
    report: &mut Report,
) -> Result<()> {
    let caller = Caller::new(&site.fleet.urls(), ledger)?;
    let truth = backups(&caller, report).await?;
    restores(site, &caller, report).await?;
    let wrong_bytes = restore_all(site, ledger, &truth).await?;
    report.wrong("backups that restore wrong bytes, or not", wrong_bytes);
    everything_goes(site, &caller, &truth, report).await?;
    messages(site, ledger, report).await?;
    for words in site.exits()? {
        ledger.unasked_exit(words);
    }
    for member in &mut site.fleet.members {
        let status = tokio::task::block_in_place(|| member.stop())?;
        if !status.success() {
            ledger.unasked_exit(format!("{} stopped with {status}", member.name()));
        }
    }
    let taken: usize = site
        .fleet
        .members
        .iter()
        .map(|member| member.log().matches("job taken from a worker").count())
        .sum();
    report.count("jobs taken from lost workers", taken as u64);
    let (doubled, exits, internal) = ledger.counts();
    report.wrong("requests that made two backups", doubled);
    report.wrong("processes that ended by themselves", exits);
    report.wrong("calls answered INTERNAL", internal);
    Ok(())
}

/// Each accepted backup has one end, which is what its watchers saw. Returns those
/// that are COMPLETED.
async fn backups(caller: &Caller, report: &mut Report) -> Result<BTreeMap<String, Accepted>> {
    let ledger = &caller.ledger;
    let (mut lost, mut stuck, mut untrue, mut unasked) = (0, 0, 0, 0);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut truth, mut watchers) = (BTreeMap::new(), 0);
    let all = ledger.backups();
    for (id, accepted) in &all {
        let now = settled(caller, id).await?;
        let state = now.as_ref().map(Backup::state);
        let name = state.map_or("deleted", |state| state.as_str_name());
        *counts.entry(name).or_default() += 1;
        let about = format!(
            "backup {id} of {} is {name} (cancel: {:?}, delete: {:?}, watchers saw {:?})",
            accepted.agent, accepted.cancel, accepted.delete, accepted.seen
        );
        match state {
            None if accepted.delete == Wish::No => {
                lost += 1;
                ledger.trouble(format!("lost: {about}"));
            }
            None => {}
            Some(backup::State::Completed) if accepted.delete != Wish::Yes => {
                truth.insert(id.clone(), accepted.clone());
            }
            Some(backup::State::Canceled) if accepted.cancel != Wish::No => {}
            Some(backup::State::Failed) if is_worn_out(now.as_ref()) => {}
            Some(backup::State::Pending | backup::State::Running | backup::State::Deleting) => {
                stuck += 1;
                ledger.trouble(format!("stuck: {about}: {now:?}"));
            }
            Some(_) => {
                unasked += 1;
                let failure = now.as_ref().and_then(|backup| backup.failure.clone());
                ledger.trouble(format!("a wrong end: {about}: {failure:?}"));
            }
        }
        watchers += accepted.seen.len() as u64;
        let false_ones = accepted
            .seen
            .iter()
            .filter(|seen| !is_true(accepted, state, **seen));
        let false_ones = false_ones.count() as u64 + u64::from(two_ends(accepted));
        if false_ones > 0 {
            ledger.trouble(format!("a watch ended untrue: {about}"));
        }
        untrue += false_ones;
    }
    for extra in listed(caller)
        .await?
        .difference(&all.keys().cloned().collect())
    {
        ledger.doubled(format!("backup {extra} was never answered to anybody"));
    }
    report.count("backups accepted", all.len() as u64);
    for (name, what) in [
        ("STATE_COMPLETED", "  completed"),
        ("deleted", "  deleted"),
        ("STATE_CANCELED", "  canceled"),
        ("STATE_FAILED", "  failed (three workers lost)"),
    ] {
        report.count(what, counts.get(name).copied().unwrap_or_default());
    }
    report.count("watches of backups", watchers);
    report.wrong("accepted backups that are lost", lost);
    report.wrong("backups that are stuck", stuck);
    report.wrong("backups with another end than was asked for", unasked);
    report.wrong("watches that ended untrue", untrue);
    Ok(truth)
}

/// The backup when nothing goes on with it any more, or no patience is left.
async fn settled(caller: &Caller, id: &str) -> Result<Option<Backup>> {
    let deadline = Instant::now() + SWEEP_MAX;
    loop {
        let now = get_backup(caller, id).await?;
        let Some(backup) = &now else { return Ok(now) };
        let goes_on = backup.state() == backup::State::Deleting;
        if goes_on && backup.failure.is_some() {
            // Its deletion was given up: it is to be asked for again.
            delete(caller, id).await?;
        }
        if !goes_on || Instant::now() > deadline {
            return Ok(now);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether all its attempts were lost with their workers.
fn is_worn_out(backup: Option<&Backup>) -> bool {
    let failure = backup.and_then(|backup| backup.failure.as_ref());
    failure.is_some_and(|failure| failure.reason == "WORKER_LOST")
}

/// Whether a watch may have ended so.
fn is_true(accepted: &Accepted, now: Option<backup::State>, seen: Option<backup::State>) -> bool {
    match seen {
        None | Some(backup::State::Deleting) => accepted.delete != Wish::No,
        Some(_) if now.is_none() => true,
        Some(_) => seen == now,
    }
}

/// Whether its watchers saw different ends.
fn two_ends(accepted: &Accepted) -> bool {
    let ends: BTreeSet<i32> = accepted
        .seen
        .iter()
        .flatten()
        .filter(|state| **state != backup::State::Deleting)
        .map(|state| *state as i32)
        .collect();
    ends.len() > 1
}

/// Every backup that the service lists.
async fn listed(caller: &Caller) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request = ListBackupsRequest {
            page_size: 1_000,
            page_token,
            ..ListBackupsRequest::default()
        };
        let call = |mut api: Api| {
            let request = request.clone();
            async move { api.backups.list_backups(request).await }
        };
        let page = caller.ask("list backups", call).await?.0?.into_inner();
        all.extend(page.backups.into_iter().map(|backup| backup.backup_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// Each restore has one end; what COMPLETED is there byte for byte, of the others
/// nothing is.
async fn restores(site: &mut Site, caller: &Caller, report: &mut Report) -> Result<()> {
    let ledger = &caller.ledger;
    let (mut stuck, mut wrong) = (0, 0);
    let backups = ledger.backups();
    let all = ledger.restores();
    let mut names: BTreeSet<String> = site.agents.iter().map(|agent| agent.name.clone()).collect();
    let mut completed = 0;
    for (id, started) in &all {
        let now = get_restore(caller, id).await?;
        let state = now.as_ref().map(Restore::state);
        let about = format!(
            "restore {id} of backup {} is {state:?} (cancel: {:?}, watchers saw {:?})",
            started.backup_id, started.cancel, started.seen
        );
        if started.seen.iter().any(|seen| Some(*seen) != state) {
            wrong += 1;
            ledger.trouble(format!("a watch ended untrue: {about}"));
        }
        let reason = now.and_then(|restore| restore.failure).unwrap_or_default();
        let deleted = backups
            .get(&started.backup_id)
            .is_some_and(|accepted| accepted.delete != Wish::No);
        match state {
            Some(restore::State::Completed) => {
                completed += 1;
                names.extend(file_name(&started.target));
                let found = describe(&started.target);
                let same = match (&found, backups.get(&started.backup_id)) {
                    (Ok(found), Some(accepted)) => differences(&accepted.tree, found),
                    (found, _) => vec![format!("{found:?}")],
                };
                if !same.is_empty() {
                    wrong += 1;
                    let first = &same[..same.len().min(5)];
                    ledger.trouble(format!("wrong bytes: {about}: {first:?}"));
                }
            }
            Some(restore::State::Canceled) if started.cancel != Wish::No => {}
            Some(restore::State::Failed) if reason.reason == "WORKER_LOST" || deleted => {}
            Some(restore::State::Pending | restore::State::Running) => {
                stuck += 1;
                ledger.trouble(format!("stuck: {about}"));
            }
            _ => {
                wrong += 1;
                ledger.trouble(format!("a wrong end: {about}: {reason:?}"));
            }
        }
    }
    report.count("restores started", all.len() as u64);
    report.count("  completed", completed);
    report.wrong("restores that are stuck", stuck);
    report.wrong("restores with a wrong end or wrong bytes", wrong);
    let left = strangers(site, &names).await?;
    for name in &left {
        ledger.trouble(format!("left of a restore: {name}"));
    }
    report.wrong(
        "folders left of restores that came to nothing",
        left.len() as u64,
    );
    Ok(())
}

fn file_name(path: &std::path::Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// What lies beside the agents' folders and is none of them. Workers look for it
/// when they start.
async fn strangers(site: &mut Site, names: &BTreeSet<String>) -> Result<Vec<String>> {
    for number in site.fleet.numbers(crate::fleet::Role::Worker) {
        let member = &mut site.fleet.members[number];
        tokio::task::block_in_place(|| member.stop())?;
    }
    site.fleet.launch().await?;
    let deadline = Instant::now() + SWEEP_MAX;
    loop {
        let mut left = Vec::new();
        for entry in fs::read_dir(site.fleet.agents())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !names.contains(&name) {
                left.push(name);
            }
        }
        if left.is_empty() || Instant::now() > deadline {
            return Ok(left);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Restores every COMPLETED backup and compares; tells how many are not right.
async fn restore_all(
    site: &Site,
    ledger: &Ledger,
    truth: &BTreeMap<String, Accepted>,
) -> Result<u64> {
    let users = [
        site.fleet.user(0, OWNER).await?,
        site.fleet.user(1, OWNER).await?,
    ];
    let wrong: Vec<bool> = stream::iter(truth.iter().enumerate())
        .map(|(number, (id, accepted))| {
            let mut user = users[number % 2].clone();
            let name = format!("checked-{number}");
            let target = site.fleet.agent_dir(&name);
            async move {
                let compared = async {
                    user.restore_directory(id, &name, &target).await?;
                    let lines = differences(&accepted.tree, &describe(&target)?);
                    anyhow::ensure!(lines.is_empty(), "{:?}", &lines[..lines.len().min(5)]);
                    fs::remove_dir_all(&target).context("remove what was checked")
                };
                let outcome = compared.await;
                if let Err(cause) = &outcome {
                    ledger.trouble(format!("backup {id} does not restore: {cause:#}"));
                }
                outcome.is_err()
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    Ok(wrong.into_iter().filter(|wrong| *wrong).count() as u64)
}

/// With everything deleted and swept, nothing but keys is left of a vault.
async fn everything_goes(
    site: &Site,
    caller: &Caller,
    truth: &BTreeMap<String, Accepted>,
    report: &mut Report,
) -> Result<()> {
    let destination = site.fleet.destination();
    // Before: exactly the manifests of the backups that are there.
    let ledger = &caller.ledger;
    let mut stray_manifests = 0;
    for agent in &site.agents {
        let stored = vaults::objects(&destination, &agent.name)?;
        let known = truth
            .values()
            .filter(|kept| kept.agent == agent.name)
            .count();
        stray_manifests += stored.count("backups").abs_diff(known) as u64;
    }
    report.count(
        "manifests of lost attempts, before the sweep",
        stray_manifests,
    );
    let left: Vec<String> = listed(caller).await?.into_iter().collect();
    stream::iter(&left)
        .map(|id| delete(caller, id))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<Vec<()>>>()?;
    let mut undeleted = 0;
    for id in &left {
        if settled(caller, id).await?.is_some() {
            undeleted += 1;
            ledger.trouble(format!("backup {id} is not deleted"));
        }
    }
    report.wrong("deleted backups that are still there", undeleted);
    let deadline = Instant::now() + SWEEP_MAX;
    let mut orphans;
    loop {
        orphans = Vec::new();
        for agent in &site.agents {
            // Files may go while they are listed.
            match vaults::objects(&destination, &agent.name) {
                Ok(found) => {
                    for folder in ["packs", "backups"] {
                        let names = found.folders.get(folder).into_iter().flatten();
                        orphans.extend(
                            names.map(|(name, _)| format!("{}/{folder}/{name}", agent.name)),
                        );
                    }
                    orphans.extend(found.strays.iter().map(|path| path.display().to_string()));
                }
                Err(cause) => orphans.push(format!("{cause:#}")),
            }
        }
        if orphans.is_empty() || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    for orphan in orphans.iter().take(20) {
        ledger.trouble(format!("nobody needs {orphan}"));
    }
    report.wrong("orphans after the sweep", orphans.len() as u64);
    Ok(())
}

/// No message is left, and none was given up.
async fn messages(site: &Site, ledger: &Ledger, report: &mut Report) -> Result<()> {
    let deadline = Instant::now() + SETTLE_MAX;
    let (mut waiting, mut dead);
    loop {
        let list = [
            "-q",
            "list_queues",
            "-p",
            "nora",
            "name",
            "messages",
            "--no-table-headers",
        ];
        let list = site.rabbitmqctl(&list).await?;
        (waiting, dead) = (0, 0);
        for line in list.lines() {
            let Some((name, messages)) = line.split_once('\t') else {
                continue;
            };
            let messages: u64 = messages.trim().parse().unwrap_or_default();
            if name.starts_with("nora.backup.jobs.") {
                waiting += messages;
            } else if name.starts_with("nora.backup.dead.") {
                dead += messages;
            }
        }
        if waiting == 0 || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let late = late_copies(site);
    if waiting > 0 || dead != late {
        ledger.trouble(format!(
            "{waiting} messages wait, {dead} are dead letters, {late} of these late copies"
        ));
    }
    report.count("late copies of messages, put aside", late);
    report.wrong("messages left in the queues of jobs", waiting);
    report.wrong("dead letters but for late copies", dead.abs_diff(late));
    Ok(())
}

/// Dead letters that came when their job had been done and, with its backup, deleted.
fn late_copies(site: &Site) -> u64 {
    let logs: Vec<String> = site.fleet.members.iter().map(Member::log).collect();
    let lines = || logs.iter().flat_map(|log| log.lines());
    let done: BTreeSet<&str> = lines()
        .filter(|line| line.contains("job left"))
        .filter_map(job_of)
        .collect();
    lines()
        .filter(|line| line.contains("job of a message is unknown"))
        .filter(|line| job_of(line).is_some_and(|job| done.contains(job)))
        .count() as u64
}

/// The job that a line of a log is about.
fn job_of(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("job_id=\"")?;
    Some(rest.split_once('"')?.0)
}
