//! Destinations, what lies where, and copies.

use catalog::{
    BackupState, CatalogError, CopyState, JobKind, NewAgent, NewDestination, NewVerification,
    PageRequest, VerifyDepth,
};

use crate::fixture::{Fixture, NOW, draft, new_agent, result, unavailable};

fn at(id: &str, place: &str) -> NewDestination {
    NewDestination {
        destination_id: id.to_owned(),
        display_name: id.to_owned(),
        place: place.to_owned(),
        sealed: format!("sealed {place}").into_bytes(),
    }
}

async fn add(fixture: &Fixture, id: &str) {
    let new = at(id, &format!("/{id}"));
    fixture.catalog.create_destination(&new, NOW).await.unwrap();
}

/// An agent that is backed up to one destination and copied to another.
async fn agent(fixture: &Fixture, first: &str, second: &str) {
    let agent = NewAgent {
        destination_id: first.to_owned(),
        second_destination_id: second.to_owned(),
        ..new_agent("agent")
    };
    let registered = fixture.catalog.register_agent(agent, None, NOW).await;
    registered.unwrap();
}

#[tokio::test]
async fn what_lies_at_the_default_stays_there_when_that_becomes_another() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let one = at("default", "/one");
    catalog.register_default(&one, NOW).await.unwrap();
    let backup = fixture.completed("agent", 1).await;
    let pending = fixture.backup("agent").await;
    catalog
        .note_vault_keys("default", "agent", &["k".to_owned()], NOW)
        .await
        .unwrap();
    assert_eq!(backup.destination_id, "default");

    // New credentials at the same place.
    let before = catalog.get_destination("default").await.unwrap().unwrap();
    let again = NewDestination {
        sealed: b"other credentials".to_vec(),
        ..one.clone()
    };
    catalog.register_default(&again, NOW + 1).await.unwrap();
    let after = catalog.get_destination("default").await.unwrap().unwrap();
    assert_ne!(after.etag, before.etag);
    assert_eq!(after.create_time_ms, before.create_time_ms);
    assert_eq!(
        fixture.get_backup(&backup.backup_id).await.destination_id,
        "default"
    );

    catalog
        .register_default(&at("default", "/two"), NOW + 2)
        .await
        .unwrap();
    for id in [&backup.backup_id, &pending.backup_id] {
        assert_eq!(fixture.get_backup(id).await.destination_id, "former-1");
    }
    let former = catalog.get_destination("former-1").await.unwrap().unwrap();
    assert_eq!(
        (former.place.as_str(), former.sealed),
        ("/one", again.sealed)
    );
    assert_eq!(
        catalog.agent_destinations("agent").await.unwrap(),
        ["default", "former-1"]
    );
    let latest = catalog.latest_completed("agent", Some("default")).await;
    assert_eq!(latest.unwrap(), None);
    let latest = catalog.latest_completed("agent", None).await.unwrap();
    assert_eq!(latest.unwrap().sequence, Some(1));
    assert_eq!(fixture.backup("agent").await.destination_id, "default");

    // The former place is the default again, and takes over what lies there.
    catalog
        .register_default(&at("default", "/one"), NOW + 3)
        .await
        .unwrap();
    assert_eq!(
        fixture.get_backup(&backup.backup_id).await.destination_id,
        "default"
    );
    assert_eq!(
        catalog.destination_ids().await.unwrap(),
        ["default", "former-2"]
    );
}

#[tokio::test]
async fn many_processes_register_the_same_default_at_once() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    catalog
        .register_default(&at("default", "/one"), NOW)
        .await
        .unwrap();
    let two = at("default", "/two");
    let (one, other) = tokio::join!(
        catalog.register_default(&two, NOW),
        catalog.register_default(&two, NOW)
    );
    one.unwrap();
    other.unwrap();
    assert_eq!(
        catalog.destination_ids().await.unwrap(),
        ["default", "former-1"]
    );
}

#[tokio::test]
async fn destinations_are_added_changed_listed_and_forgotten() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    add(&fixture, "b").await;
    add(&fixture, "a").await;
    for taken in [at("a", "/c"), at("c", "/a")] {
        let refused = catalog.create_destination(&taken, NOW).await;
        assert!(matches!(
            refused,
            Err(CatalogError::DestinationExists { .. })
        ));
    }
    let page = catalog
        .list_destinations(&PageRequest::first(1))
        .await
        .unwrap();
    assert_eq!(page.items[0].destination_id, "a");
    let rest = PageRequest::after(9, page.next.unwrap());
    let rest = catalog.list_destinations(&rest).await.unwrap();
    assert_eq!(rest.items[0].destination_id, "b");

    let before = catalog.get_destination("a").await.unwrap().unwrap();
    let changed = NewDestination {
        display_name: "A".to_owned(),
        ..at("a", "/a")
    };
    let after = catalog
        .update_destination(&changed, &before.etag, NOW + 1)
        .await
        .unwrap();
    assert_eq!(
        (after.display_name.as_str(), after.update_time_ms),
        ("A", NOW + 1)
    );
    let stale = catalog
        .update_destination(&changed, &before.etag, NOW + 2)
        .await;
    assert!(matches!(
        stale,
        Err(CatalogError::DestinationChanged { .. })
    ));
    // Sealed anew it is the same; and not when it has changed meanwhile.
    assert!(catalog.reseal_destination(&after, vec![1]).await.unwrap());
    assert!(!catalog.reseal_destination(&after, vec![2]).await.unwrap());
    let now = catalog.get_destination("a").await.unwrap().unwrap();
    assert_eq!((now.etag, now.sealed), (after.etag.clone(), vec![1]));

    let stale = catalog.delete_destination("a", Some(&before.etag)).await;
    assert!(matches!(
        stale,
        Err(CatalogError::DestinationChanged { .. })
    ));
    catalog
        .delete_destination("a", Some(&after.etag))
        .await
        .unwrap();
    let gone = catalog.delete_destination("a", None).await;
    assert!(matches!(
        gone,
        Err(CatalogError::DestinationNotFound { .. })
    ));
}

#[tokio::test]
async fn a_destination_that_is_used_is_not_forgotten() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    add(&fixture, "first").await;
    add(&fixture, "second").await;
    agent(&fixture, "first", "second").await;
    let in_use = async |id: &str| match catalog.delete_destination(id, None).await {
        Err(CatalogError::DestinationInUse { used, .. }) => used,
        other => panic!("{other:?}"),
    };
    assert_eq!(in_use("second").await, "it is named by agent agent");
    let backup = fixture.completed("agent", 1).await;
    agent(&fixture, "", "").await;
    let id = &backup.backup_id;
    assert_eq!(in_use("first").await, format!("it holds backup {id}"));
    assert_eq!(
        in_use("second").await,
        format!("it holds copies of backup {id}")
    );
    let unknown = NewAgent {
        destination_id: "nowhere".to_owned(),
        ..new_agent("other")
    };
    let refused = catalog.register_agent(unknown, None, NOW).await;
    assert!(matches!(
        refused,
        Err(CatalogError::DestinationNotFound { .. })
    ));
}

#[tokio::test]
async fn a_completed_backup_is_copied_once_and_shows_how_that_stands() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    add(&fixture, "second").await;
    agent(&fixture, "", "second").await;
    let backup = fixture.completed("agent", 1).await;
    let id = backup.backup_id.as_str();
    assert_eq!(backup.copies[0].state, CopyState::Pending);
    let job_id = fixture.only_due_job(NOW).await;
    let lease = fixture.claim(&job_id, NOW).await;
    assert_eq!(
        (lease.job.kind, lease.job.destination_id.as_str()),
        (JobKind::Copy, "second")
    );
    let here = |at: &str| NewVerification {
        backup_id: id.to_owned(),
        owner_id: "owner".to_owned(),
        depth: VerifyDepth::Full,
        destination_id: at.to_owned(),
        request: None,
    };
    let early = catalog.create_verification(here("second"), NOW).await;
    assert!(matches!(early, Err(CatalogError::CopyNotCompleted { .. })));
    let known = catalog.known_manifests("agent").await.unwrap();
    assert_eq!(known[0].destination_ids, ["default"]);

    // It fails for good, and gets a new try.
    catalog
        .fail_job(&lease.fence(), unavailable(), false, NOW + 1)
        .await
        .unwrap();
    let shown = fixture.get_backup(id).await;
    assert_eq!(shown.state, BackupState::Completed);
    assert_eq!(shown.copies[0].state, CopyState::Failed);
    assert_eq!(shown.copies[0].failure, Some(unavailable()));
    catalog.retry_job(&job_id, NOW + 2).await.unwrap();
    assert_eq!(
        fixture.get_backup(id).await.copies[0].state,
        CopyState::Pending
    );
    let fence = fixture.claim(&job_id, NOW + 3).await.fence();
    catalog
        .complete_copy(&fence, 7, None, NOW + 4)
        .await
        .unwrap();
    let again = catalog.complete_copy(&fence, 7, None, NOW + 4).await;
    assert!(matches!(again, Err(CatalogError::Fenced { .. })));
    let copy = fixture.get_backup(id).await.copies.remove(0);
    assert_eq!(
        (copy.state, copy.update_time_ms),
        (CopyState::Completed, NOW + 4)
    );
    let known = catalog.known_manifests("agent").await.unwrap();
    assert_eq!(known[0].destination_ids, ["default", "second"]);

    // It can be read now; what is wrong with it is not wrong with the backup.
    let mut wanted = draft(id, "again");
    wanted.destination_id = "second".to_owned();
    let restore = catalog.create_draft(wanted, NOW).await.unwrap();
    assert_eq!(restore.destination_id, "second");
    let job = catalog.create_verification(here("second"), NOW).await;
    let fence = fixture.claim(&job.unwrap().job_id, NOW + 5).await.fence();
    catalog
        .complete_verify(&fence, Some(unavailable()), None, NOW + 6)
        .await
        .unwrap();
    assert_eq!(fixture.get_backup(id).await.verify_failure, None);

    catalog.delete_backup(id, NOW + 7).await.unwrap();
    let job_id = fixture.only_due_job(NOW + 7).await;
    let lease = fixture.claim(&job_id, NOW + 7).await;
    assert_eq!(lease.backup.as_ref().unwrap().copies.len(), 1);
    catalog
        .complete_delete(&lease.fence(), None, None, NOW + 8)
        .await
        .unwrap();
    agent(&fixture, "", "").await;
    catalog.delete_destination("second", None).await.unwrap();
}

#[tokio::test]
async fn nothing_is_copied_to_the_place_where_it_lies() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    add(&fixture, "second").await;
    // The environment names the same place.
    catalog
        .register_default(&at("default", "/second"), NOW)
        .await
        .unwrap();
    agent(&fixture, "", "second").await;
    assert_eq!(fixture.completed("agent", 1).await.copies, []);
    let backup = fixture.backup("agent").await;
    agent(&fixture, "", "").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    let completed = catalog.complete_backup(&fence, result(2), NOW).await;
    assert_eq!(completed.unwrap().copies, []);
}

#[tokio::test]
async fn a_host_key_counts_as_it_was_first_seen() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    assert_eq!(catalog.host_key("h", 22).await.unwrap(), None);
    let (one, other) = tokio::join!(
        catalog.remember_host_key("h", 22, "one", NOW),
        catalog.remember_host_key("h", 22, "other", NOW)
    );
    let counts = catalog.host_key("h", 22).await.unwrap().unwrap();
    assert_eq!((one.unwrap(), other.unwrap()), (counts.clone(), counts));
    assert_eq!(catalog.host_key("h", 2222).await.unwrap(), None);
}
