//! Random histories of one agent's backups, against a model of a job's states.

use std::collections::HashMap;

use catalog::{BackupState, CatalogError, ClaimOutcome, FailOutcome, Fence, JobState, Renewal};
use proptest::prelude::*;

use crate::fixture::{Fixture, LEASE_MS, NOW, result, unavailable};

/// What happens; numbers pick a job among those there are.
#[derive(Clone, Debug)]
enum Step {
    Create,
    Claim(usize),
    Renew(usize),
    Complete(usize),
    Fail(usize, bool),
    HandBack(usize),
    Cancel(usize),
    CancelDone(usize),
    Wait(i64),
    Reap,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Create),
        4 => any::<usize>().prop_map(Step::Claim),
        1 => any::<usize>().prop_map(Step::Renew),
        2 => any::<usize>().prop_map(Step::Complete),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(job, retry)| Step::Fail(job, retry)),
        1 => any::<usize>().prop_map(Step::HandBack),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => any::<usize>().prop_map(Step::CancelDone),
        2 => (1_i64..20_000).prop_map(Step::Wait),
        1 => Just(Step::Reap),
    ]
}

/// What the model knows of a job.
#[derive(Debug)]
struct Known {
    backup_id: String,
    state: JobState,
    attempt: u32,
    tries: u32,
    lease_until_ms: i64,
    cancel: bool,
}

#[derive(Default)]
struct Model {
    jobs: Vec<(String, Known)>,
    /// Every fence ever given out, by job.
    fences: HashMap<String, Vec<Fence>>,
}

impl Model {
    fn running(&self) -> usize {
        let running = self.jobs.iter();
        running
            .filter(|(_, known)| known.state == JobState::Running)
            .count()
    }

    fn pick(&mut self, number: usize) -> Option<&mut (String, Known)> {
        let count = self.jobs.len();
        (count > 0).then(|| &mut self.jobs[number % count])
    }

    /// A fence of the job: an old one, or the present one; and whether it holds.
    fn fence(&mut self, number: usize) -> Option<(Fence, bool, usize)> {
        let count = self.jobs.len();
        let index = number.checked_rem(count)?;
        let (job_id, known) = &self.jobs[index];
        let fences = self.fences.get(job_id)?;
        let fence = fences[number / count % fences.len()].clone();
        let holds = known.state == JobState::Running && known.attempt == fence.attempt;
        Some((fence, holds, index))
    }
}

/// A write of a worker is taken exactly when its fence holds.
fn fenced<T: std::fmt::Debug>(result: Result<T, CatalogError>, holds: bool) -> Option<T> {
    match result {
        Ok(value) => {
            assert!(holds, "an old attempt wrote: {value:?}");
            Some(value)
        }
        Err(CatalogError::Fenced { .. }) => {
            assert!(!holds, "the holder was refused");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

async fn run(steps: Vec<Step>) {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let mut model = Model::default();
    let mut now = NOW;
    let mut sequence = 0;
    for step in steps {
        match step {
            Step::Create => {
                let backup = fixture.backup("agent").await;
                let known = Known {
                    backup_id: backup.backup_id,
                    state: JobState::Queued,
                    attempt: 0,
                    tries: 0,
                    lease_until_ms: 0,
                    cancel: false,
                };
                model.jobs.push((backup.job_id, known));
            }
            Step::Claim(number) => {
                let others = model.running();
                let Some((job_id, known)) = model.pick(number) else {
                    continue;
                };
                let claim = catalog.claim_job(job_id, "worker", LEASE_MS, now).await;
                match claim.unwrap() {
                    ClaimOutcome::Claimed(lease) => {
                        assert_eq!(known.state, JobState::Queued);
                        assert_eq!(others, 0, "two exclusive jobs run");
                        known.state = JobState::Running;
                        known.attempt += 1;
                        known.tries += 1;
                        known.lease_until_ms = now + LEASE_MS;
                        assert_eq!(lease.attempt, known.attempt);
                        assert_eq!(lease.job.tries, known.tries);
                        let fences = model.fences.entry(lease.job.job_id.clone());
                        fences.or_default().push(lease.fence());
                    }
                    ClaimOutcome::Gone => assert_ne!(known.state, JobState::Queued),
                    ClaimOutcome::Busy => assert_eq!((known.state, others), (JobState::Queued, 1)),
                    ClaimOutcome::NotDue => assert_eq!(known.state, JobState::Queued),
                    ClaimOutcome::Unknown => panic!("job {job_id} is forgotten"),
                }
            }
            Step::Renew(number) => {
                let Some((fence, holds, index)) = model.fence(number) else {
                    continue;
                };
                let known = &mut model.jobs[index].1;
                let renewal = catalog.renew_lease(&fence, LEASE_MS, now, None).await;
                match renewal.unwrap() {
                    Renewal::Held { cancel_requested } => {
                        assert!(holds);
                        assert_eq!(cancel_requested, known.cancel);
                        known.lease_until_ms = now + LEASE_MS;
                    }
                    Renewal::Lost => assert!(!holds),
                }
            }
            Step::Complete(number) => {
                let Some((fence, holds, index)) = model.fence(number) else {
                    continue;
                };
                sequence += 1;
                let done = catalog.complete_backup(&fence, result(sequence), now).await;
                if fenced(done, holds).is_some() {
                    model.jobs[index].1.state = JobState::Completed;
                }
            }
            Step::Fail(number, retry) => {
                let Some((fence, holds, index)) = model.fence(number) else {
                    continue;
                };
                let known = &mut model.jobs[index].1;
                let failed = catalog.fail_job(&fence, unavailable(), retry, now).await;
                match fenced(failed, holds) {
                    Some(FailOutcome::WillRetry { .. }) => {
                        assert!(retry && known.tries < 3 && !known.cancel);
                        known.state = JobState::Queued;
                    }
                    Some(FailOutcome::Ended(state)) => {
                        assert!(!retry || known.tries == 3 || known.cancel);
                        assert_eq!(state == JobState::Canceled, known.cancel);
                        known.state = state;
                    }
                    None => {}
                }
            }
            Step::HandBack(number) => {
                let Some((fence, holds, index)) = model.fence(number) else {
                    continue;
                };
                let known = &mut model.jobs[index].1;
                if let Some(state) = fenced(catalog.hand_back(&fence, now).await, holds) {
                    assert_eq!(state == JobState::Canceled, known.cancel);
                    known.tries -= u32::from(!known.cancel);
                    known.state = state;
                }
            }
            Step::Cancel(number) => {
                let Some((_, known)) = model.pick(number) else {
                    continue;
                };
                match catalog.cancel_backup(&known.backup_id, now).await {
                    Ok(backup) if known.state == JobState::Queued => {
                        assert_eq!(backup.state, BackupState::Canceled);
                        known.state = JobState::Canceled;
                    }
                    Ok(backup) => {
                        assert_eq!(known.state, JobState::Running);
                        assert_eq!(backup.state, BackupState::Running);
                        known.cancel = true;
                    }
                    Err(CatalogError::AlreadyEnded { .. }) => assert!(known.state.is_ended()),
                    Err(error) => panic!("{error:?}"),
                }
            }
            Step::CancelDone(number) => {
                let Some((fence, holds, index)) = model.fence(number) else {
                    continue;
                };
                let done = catalog.cancel_job_done(&fence, now).await;
                if fenced(done, holds).is_some() {
                    model.jobs[index].1.state = JobState::Canceled;
                }
            }
            Step::Wait(ms) => now += ms,
            Step::Reap => {
                let reaped = catalog.reap_expired(100, now).await.unwrap();
                for (job_id, known) in &mut model.jobs {
                    let expired = known.state == JobState::Running && known.lease_until_ms < now;
                    let found = reaped.iter().find(|reaped| reaped.job.job_id == *job_id);
                    assert_eq!(found.is_some(), expired);
                    if let Some(reaped) = found {
                        known.state = match (known.cancel, known.tries) {
                            (true, _) => JobState::Canceled,
                            (false, 3) => JobState::Failed,
                            (false, _) => JobState::Queued,
                        };
                        assert_eq!(reaped.job.state, known.state);
                    }
                }
            }
        }
        check(&fixture, &model).await;
    }
    // Nothing is forgotten: whatever waits will be dispatched.
    let far = now + 10_000_000;
    let due = catalog.undispatched_jobs(1_000, far).await.unwrap();
    let waiting = model.jobs.iter();
    let waiting = waiting.filter(|(_, known)| known.state == JobState::Queued);
    // What ended badly may have asked for a compaction besides.
    let is_known = |job_id: &str| model.jobs.iter().any(|(known, _)| known == job_id);
    let due = due.iter().filter(|item| is_known(&item.job_id));
    assert_eq!(due.count(), waiting.count());
}

/// The catalog and the model agree, and so do jobs and backups.
async fn check(fixture: &Fixture, model: &Model) {
    for (job_id, known) in &model.jobs {
        let job = fixture.catalog.get_job(job_id).await.unwrap().unwrap();
        assert_eq!(
            (job.state, job.attempt, job.tries),
            (known.state, known.attempt, known.tries)
        );
        let backup = fixture.get_backup(&known.backup_id).await;
        let expected = match known.state {
            JobState::Queued if known.attempt == 0 => BackupState::Pending,
            JobState::Queued | JobState::Running => BackupState::Running,
            JobState::Completed => BackupState::Completed,
            JobState::Failed => BackupState::Failed,
            JobState::Canceled => BackupState::Canceled,
        };
        assert_eq!(backup.state, expected);
        assert_eq!(backup.end_time_ms.is_some(), known.state.is_ended());
        assert_eq!(backup.failure.is_some(), known.state == JobState::Failed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_catalog_does_as_the_model(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Runtime::new().unwrap().block_on(run(steps));
    }
}
