//! Clients that create, cancel, delete, restore and watch, until they are told to
//! stop; each finishes what it has begun.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use proto::backup::v1::{
    CancelBackupRequest, CancelRestoreRequest, CreateBackupRequest, CreateRestoreDraftRequest,
    DeleteBackupRequest, GetBackupRequest, GetRestoreRequest, StartRestoreRequest,
    WatchBackupRequest, WatchRestoreRequest, backup, restore,
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{
    caller::{Caller, is_passing},
    ledger::{Ledger, Started, Wish},
    site::{AgentFolder, Site},
};
use crate::api::directory_plan;

/// Clients that restore, and that delete.
const RESTORERS: u64 = 4;
const DELETERS: u64 = 2;
/// Backups an agent keeps from the deleters.
const KEPT: usize = 2;
/// How long a watch waits for its next message before it begins anew.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// All clients of a run.
pub(super) struct Load {
    stop: CancellationToken,
    clients: JoinSet<Result<()>>,
}

impl Load {
    /// Lets them begin.
    pub(super) fn start(site: &Site, ledger: &Arc<Ledger>, seed: u64) -> Self {
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        let mut seeds = StdRng::seed_from_u64(seed ^ 0x6c6f_6164);
        let urls = site.fleet.urls();
        let mut client = || Client {
            caller: Caller::new(&urls, ledger).expect("addresses of servers"),
            random: StdRng::seed_from_u64(seeds.next_u64()),
            stop: stop.clone(),
        };
        for agent in &site.agents {
            clients.spawn(client().make_backups(agent.clone()));
        }
        for _ in 0..RESTORERS {
            clients.spawn(client().restore_some(site.fleet.agents()));
        }
        for _ in 0..DELETERS {
            clients.spawn(client().delete_some());
        }
        Self { stop, clients }
    }

    /// Nothing new is begun from here on.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until all clients have seen the ends of what they began.
    pub(super) async fn wait_for_end(mut self, ledger: &Ledger, limit: Duration) {
        let all = async {
            while let Some(ended) = self.clients.join_next().await {
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(cause)) => ledger.trouble(format!("a client gave up: {cause:#}")),
                    Err(cause) => ledger.trouble(format!("a client broke: {cause}")),
                }
            }
        };
        if timeout(limit, all).await.is_err() {
            ledger.trouble(format!(
                "clients still wait {} s after all was healed",
                limit.as_secs()
            ));
        }
    }
}

struct Client {
    caller: Caller,
    random: StdRng,
    stop: CancellationToken,
}

impl Client {
    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// Waits some milliseconds; false when the load is over.
    async fn rest(&mut self, ms: std::ops::Range<u64>) -> bool {
        let rest = Duration::from_millis(self.random.random_range(ms));
        let slept = tokio::time::sleep(rest);
        self.stop.run_until_cancelled(slept).await.is_some()
    }

    /// Changes an agent's folder, makes backups of it, waits until all have ended.
    async fn make_backups(mut self, folder: AgentFolder) -> Result<()> {
        while self.rest(50..1_000).await {
            let (seed, editing) = (self.random.next_u64(), folder.clone());
            let tree = tokio::task::spawn_blocking(move || editing.edit(seed)).await??;
            let tree = Arc::new(tree);
            let mut ends = JoinSet::new();
            for _ in 0..self.random.random_range(1..=2) {
                let backup_id = self.create(&folder.name).await?;
                let ledger = &self.caller.ledger;
                ledger.accept(&backup_id, &folder.name, tree.clone());
                for _ in 0..self.random.random_range(1..=3) {
                    ends.spawn(watch_backup(self.caller.clone(), backup_id.clone()));
                }
                if self.chance(15) {
                    let wait = Duration::from_millis(self.random.random_range(0..1_500));
                    ends.spawn(cancel(self.caller.clone(), backup_id, wait));
                }
            }
            while let Some(ended) = ends.join_next().await {
                ended.context("a watcher broke")??;
            }
        }
        Ok(())
    }

    /// One accepted backup; now and then asked for twice at the same time.
    async fn create(&mut self, agent: &str) -> Result<String> {
        let request = CreateBackupRequest {
            agent_id: agent.to_owned(),
            request_id: Uuid::new_v4().to_string(),
            ..CreateBackupRequest::default()
        };
        let caller = &self.caller;
        let ask = || async {
            let call = |mut api: crate::api::Api| {
                let request = request.clone();
                async move { api.backups.create_backup(request).await }
            };
            let (answer, _) = caller.ask("create a backup", call).await?;
            let created = answer?.into_inner().backup;
            anyhow::Ok(created.context("the answer holds the backup")?.backup_id)
        };
        let backup_id = ask().await?;
        if self.random.random_range(0..100) < 30 {
            let again = ask().await?;
            if again != backup_id {
                let words = format!("one request made backups {backup_id} and {again}");
                self.caller.ledger.doubled(words);
            }
        }
        Ok(backup_id)
    }

    /// Deletes backups that ended, but for the newest.
    async fn delete_some(mut self) -> Result<()> {
        use backup::State;
        while self.rest(200..1_500).await {
            let states = [State::Completed, State::Failed, State::Canceled];
            let state = states[self.random.random_range(0..states.len())];
            let ended = self.caller.ledger.kept(state);
            let ended = &ended[..ended.len().saturating_sub(KEPT * 8)];
            if ended.is_empty() {
                continue;
            }
            let backup_id = ended[self.random.random_range(0..ended.len())].clone();
            delete(&self.caller, &backup_id).await?;
        }
        Ok(())
    }

    /// Restores backups into new folders, and cancels a few restores.
    async fn restore_some(mut self, agents: PathBuf) -> Result<()> {
        while self.rest(50..800).await {
            let completed = self.caller.ledger.kept(backup::State::Completed);
            if completed.is_empty() {
                continue;
            }
            let backup_id = completed[self.random.random_range(0..completed.len())].clone();
            let cancel = self
                .chance(15)
                .then(|| Duration::from_millis(self.random.random_range(0..1_500)));
            let name = format!("restored-{}", Uuid::new_v4().simple());
            let target = agents.join(&name);
            restore_backup(&self.caller, &backup_id, &name, target, cancel).await?;
        }
        Ok(())
    }
}

/// Deletes a backup; repeated until it is clear whether it will go.
pub(super) async fn delete(caller: &Caller, backup_id: &str) -> Result<()> {
    let ledger = &caller.ledger;
    ledger.backup(backup_id, |accepted| accepted.delete = Wish::Perhaps);
    let call = |mut api: crate::api::Api| {
        let backup_id = backup_id.to_owned();
        async move {
            api.backups
                .delete_backup(DeleteBackupRequest { backup_id })
                .await
        }
    };
    let (answer, repeated) = caller.ask("delete a backup", call).await?;
    let wish = match answer {
        Ok(_) => Wish::Yes,
        // An earlier call that was not answered did it.
        Err(status) if status.code() == Code::NotFound && repeated => Wish::Yes,
        Err(status) if status.code() == Code::FailedPrecondition => Wish::No,
        Err(status) => {
            ledger.trouble(format!("delete backup {backup_id}: {status}"));
            Wish::No
        }
    };
    ledger.backup(backup_id, |accepted| accepted.delete = wish);
    Ok(())
}

async fn cancel(caller: Caller, backup_id: String, wait: Duration) -> Result<()> {
    tokio::time::sleep(wait).await;
    let ledger = &caller.ledger;
    ledger.backup(&backup_id, |accepted| accepted.cancel = Wish::Perhaps);
    let call = |mut api: crate::api::Api| {
        let backup_id = backup_id.clone();
        async move {
            api.backups
                .cancel_backup(CancelBackupRequest { backup_id })
                .await
        }
    };
    let (answer, repeated) = caller.ask("cancel a backup", call).await?;
    match answer {
        Ok(_) => ledger.backup(&backup_id, |accepted| accepted.cancel = Wish::Yes),
        // It had ended before; or an earlier call that was not answered ended it.
        Err(status) if status.code() == Code::FailedPrecondition => {
            if !repeated {
                ledger.backup(&backup_id, |accepted| accepted.cancel = Wish::No);
            }
        }
        // Ended, and deleted by another client.
        Err(status) if status.code() == Code::NotFound => {}
        Err(status) => ledger.trouble(format!("cancel backup {backup_id}: {status}")),
    }
    Ok(())
}

/// Watches a backup to its end, through any server, however often the watch breaks.
async fn watch_backup(caller: Caller, backup_id: String) -> Result<()> {
    let begun = Instant::now();
    let seen = loop {
        let mut api = caller.any();
        let once = async {
            let request = WatchBackupRequest {
                backup_id: backup_id.clone(),
            };
            let mut stream = api.backups.watch_backup(request).await?.into_inner();
            let mut last = None;
            while let Some(event) = next(&mut stream).await? {
                last = event.backup;
            }
            Ok::<_, Status>(last)
        };
        match once.await {
            Ok(Some(last)) if is_end(last.state()) => break Some(last.state()),
            Ok(last) => {
                let state = last.map(|backup| backup.state());
                let words = format!("a watch of backup {backup_id} closed at {state:?}");
                caller.ledger.trouble(words);
            }
            Err(status) if status.code() == Code::NotFound => break None,
            Err(status) if is_passing(&status) => {}
            Err(status) => {
                let words = format!("watch backup {backup_id}: {status}");
                caller.ledger.trouble(words);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if begun.elapsed() > Duration::from_mins(5) {
            anyhow::bail!("backup {backup_id} has not ended for 5 minutes");
        }
    };
    caller
        .ledger
        .backup(&backup_id, |accepted| accepted.seen.push(seen));
    Ok(())
}

fn is_end(state: backup::State) -> bool {
    !matches!(
        state,
        backup::State::Unspecified | backup::State::Pending | backup::State::Running
    )
}

/// The next message; a frozen server sends none, and is left.
async fn next<T>(stream: &mut tonic::Streaming<T>) -> Result<Option<T>, Status> {
    let silent = |_| Err(Status::unavailable("a silent stream"));
    timeout(SILENCE_MAX, stream.message())
        .await
        .unwrap_or_else(silent)
}

async fn restore_backup(
    caller: &Caller,
    backup_id: &str,
    name: &str,
    target: PathBuf,
    cancel: Option<Duration>,
) -> Result<()> {
    let ledger = &caller.ledger;
    let request = CreateRestoreDraftRequest {
        backup_id: backup_id.to_owned(),
        plan: Some(directory_plan(name, &target)?),
        request_id: Uuid::new_v4().to_string(),
        ..CreateRestoreDraftRequest::default()
    };
    let draft = |mut api: crate::api::Api| {
        let request = request.clone();
        async move { api.restores.create_restore_draft(request).await }
    };
    let (answer, _) = caller.ask("draft a restore", draft).await?;
    let restore_id = match answer {
        Ok(answer) => answer.into_inner().restore.context("a draft")?.restore_id,
        // Somebody deletes it.
        Err(status) if is_gone(&status) => return Ok(()),
        Err(status) => {
            ledger.trouble(format!("draft a restore of backup {backup_id}: {status}"));
            return Ok(());
        }
    };
    let start = |mut api: crate::api::Api| {
        let request = StartRestoreRequest {
            restore_id: restore_id.clone(),
            ..StartRestoreRequest::default()
        };
        async move { api.restores.start_restore(request).await }
    };
    let (answer, repeated) = caller.ask("start a restore", start).await?;
    match answer {
        Ok(_) => {}
        // Begun by a call that was not answered, and ended since.
        Err(status) if repeated && crate::api::reason(&status) == "ALREADY_ENDED" => {}
        Err(status) if is_gone(&status) => return Ok(()),
        Err(status) => {
            ledger.trouble(format!("start restore {restore_id}: {status}"));
            return Ok(());
        }
    }
    let started = Started {
        backup_id: backup_id.to_owned(),
        target,
        cancel: Wish::No,
        seen: Vec::new(),
    };
    ledger.start(&restore_id, started);
    let canceling = async {
        if let Some(wait) = cancel {
            tokio::time::sleep(wait).await;
            ledger.restore(&restore_id, |started| started.cancel = Wish::Perhaps);
            let call = |mut api: crate::api::Api| {
                let restore_id = restore_id.clone();
                async move {
                    let request = CancelRestoreRequest { restore_id };
                    api.restores.cancel_restore(request).await
                }
            };
            // Perhaps it had ended: either answer will do.
            let _ = caller.ask("cancel a restore", call).await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(canceling, watch_restore(caller, &restore_id))?;
    Ok(())
}

fn is_gone(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::FailedPrecondition)
}

async fn watch_restore(caller: &Caller, restore_id: &str) -> Result<()> {
    use restore::State;
    let begun = Instant::now();
    let seen = loop {
        let mut api = caller.any();
        let once = async {
            let request = WatchRestoreRequest {
                restore_id: restore_id.to_owned(),
            };
            let mut stream = api.restores.watch_restore(request).await?.into_inner();
            let mut last = None;
            while let Some(event) = next(&mut stream).await? {
                last = event.restore;
            }
            Ok::<_, Status>(last.map(|restore| restore.state()))
        };
        match once.await {
            Ok(Some(state @ (State::Completed | State::Failed | State::Canceled))) => break state,
            Ok(state) => {
                let words = format!("a watch of restore {restore_id} closed at {state:?}");
                caller.ledger.trouble(words);
            }
            Err(status) if is_passing(&status) => {}
            Err(status) => {
                let words = format!("watch restore {restore_id}: {status}");
                caller.ledger.trouble(words);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if begun.elapsed() > Duration::from_mins(5) {
            anyhow::bail!("restore {restore_id} has not ended for 5 minutes");
        }
    };
    caller
        .ledger
        .restore(restore_id, |started| started.seen.push(seen));
    Ok(())
}

/// What the service says of a backup; None when it is gone.
pub(super) async fn get_backup(
    caller: &Caller,
    backup_id: &str,
) -> Result<Option<proto::backup::v1::Backup>> {
    let call = |mut api: crate::api::Api| {
        let backup_id = backup_id.to_owned();
        async move { api.backups.get_backup(GetBackupRequest { backup_id }).await }
    };
    match caller.ask("get a backup", call).await?.0 {
        Ok(answer) => Ok(answer.into_inner().backup),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// What the service says of a restore.
pub(super) async fn get_restore(
    caller: &Caller,
    restore_id: &str,
) -> Result<Option<proto::backup::v1::Restore>> {
    let call = |mut api: crate::api::Api| {
        let restore_id = restore_id.to_owned();
        async move {
            api.restores
                .get_restore(GetRestoreRequest { restore_id })
                .await
        }
    };
    match caller.ask("get a restore", call).await?.0 {
        Ok(answer) => Ok(answer.into_inner().restore),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}
