//! Verifications.

use catalog::{CatalogError, Failure, Fence, JobState, NewVerification, VerifyDepth};

use crate::fixture::{Fixture, NOW, request, unavailable};

async fn verification(fixture: &Fixture, backup_id: &str, depth: VerifyDepth) -> Fence {
    let verification = NewVerification {
        backup_id: backup_id.to_owned(),
        owner_id: "owner".to_owned(),
        depth,
        destination_id: String::new(),
        request: None,
    };
    let job = fixture.catalog.create_verification(verification, NOW).await;
    let lease = fixture.claim(&job.unwrap().job_id, NOW).await;
    assert_eq!(lease.job.depth, Some(depth));
    assert_eq!(lease.job.subject_id(), lease.job.job_id);
    lease.fence()
}

#[tokio::test]
async fn a_verification_tells_what_it_found() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let id = fixture.completed("agent", 1).await.backup_id;
    let corrupt = Failure {
        reason: "OBJECT_CORRUPT".to_owned(),
        message: "pack 1 is not what was written".to_owned(),
    };
    let fence = verification(&fixture, &id, VerifyDepth::Full).await;
    let done = catalog.complete_verify(&fence, Some(corrupt.clone()), None, NOW);
    done.await.unwrap();
    let job = catalog.get_job(&fence.job_id).await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.failure, Some(corrupt.clone()));
    assert_eq!(
        fixture.get_backup(&id).await.verify_failure,
        Some(corrupt.clone())
    );
    // A look at the structure proves nothing against that.
    let fence = verification(&fixture, &id, VerifyDepth::Structure).await;
    catalog
        .complete_verify(&fence, None, None, NOW)
        .await
        .unwrap();
    let shown = fixture.get_backup(&id).await;
    assert_eq!(shown.verify_failure, Some(corrupt));
    assert_eq!(shown.verify_time_ms, None);
    let fence = verification(&fixture, &id, VerifyDepth::Full).await;
    catalog
        .complete_verify(&fence, None, None, NOW + 9)
        .await
        .unwrap();
    let shown = fixture.get_backup(&id).await;
    assert_eq!(shown.verify_failure, None);
    assert_eq!(shown.verify_time_ms, Some(NOW + 9));
}

#[tokio::test]
async fn a_verification_that_could_not_read_says_nothing_of_the_backup() {
    let fixture = Fixture::with_agent().await;
    let id = fixture.completed("agent", 1).await.backup_id;
    let fence = verification(&fixture, &id, VerifyDepth::Full).await;
    let failed = fixture.catalog.fail_job(&fence, unavailable(), false, NOW);
    failed.await.unwrap();
    assert_eq!(fixture.get_backup(&id).await.verify_failure, None);
    let job = fixture.catalog.get_job(&fence.job_id).await.unwrap();
    assert_eq!(job.unwrap().failure, Some(unavailable()));
}

#[tokio::test]
async fn a_repeated_request_returns_the_first_verification() {
    let fixture = Fixture::with_agent().await;
    let id = fixture.completed("agent", 1).await.backup_id;
    let wish = NewVerification {
        backup_id: id,
        owner_id: "owner".to_owned(),
        depth: VerifyDepth::Full,
        destination_id: String::new(),
        request: Some(request("r-1", b"verify")),
    };
    let first = fixture.catalog.create_verification(wish.clone(), NOW).await;
    let again = fixture.catalog.create_verification(wish.clone(), NOW).await;
    assert_eq!(first.unwrap().job_id, again.unwrap().job_id);
    let mut foreign = wish;
    foreign.owner_id = "somebody else".to_owned();
    foreign.request = None;
    let foreign = fixture.catalog.create_verification(foreign, NOW).await;
    assert!(matches!(foreign, Err(CatalogError::BackupNotFound { .. })));
}

#[tokio::test]
async fn old_jobs_are_forgotten_and_those_of_backups_are_not() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.completed("agent", 1).await;
    let fence = verification(&fixture, &backup.backup_id, VerifyDepth::Full).await;
    let done = fixture.catalog.complete_verify(&fence, None, None, NOW);
    done.await.unwrap();
    assert_eq!(fixture.catalog.expire_jobs(10, NOW).await.unwrap(), 0);
    assert_eq!(fixture.catalog.expire_jobs(10, NOW + 1).await.unwrap(), 1);
    let kept = fixture.catalog.get_job(&backup.job_id).await.unwrap();
    assert!(kept.is_some());
}
