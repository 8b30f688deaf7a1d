//! Fields, pages and idempotency.

use proto::backup::v1::{
    Agent, CreateBackupRequest, DeregisterAgentRequest, GetAgentRequest, ListAgentsRequest,
    ListBackupsRequest, RegisterAgentRequest, backup,
};
use tonic::Code;

use crate::harness::{Rig, agent, fields, reason};

#[tokio::test]
async fn an_agent_is_registered_changed_and_forgotten() {
    let rig = Rig::start().await;
    let mut agents = rig.agents("control", "service");
    let register = |agent: Agent| RegisterAgentRequest { agent: Some(agent) };
    let answer = agents.register_agent(register(agent("one", "ann"))).await;
    let first = answer.unwrap().into_inner();
    let known = first.agent.unwrap();
    assert!(first.created);
    assert_eq!(
        (known.display_name.as_str(), known.pool.as_str()),
        ("one", "default")
    );
    let again = agents.register_agent(register(agent("one", "ann"))).await;
    let again = again.unwrap().into_inner();
    assert!(!again.created);
    assert_eq!(again.agent.unwrap().etag, known.etag);

    let stale = Agent {
        etag: "old".into(),
        ..agent("one", "ann")
    };
    let status = agents.register_agent(register(stale)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Aborted, "ETAG_MISMATCH")
    );
    let status = agents.register_agent(register(agent("one", "bob"))).await;
    let status = status.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "OWNER_MISMATCH")
    );
    let status = agents.register_agent(register(Agent::default())).await;
    assert_eq!(
        fields(&status.unwrap_err()),
        ["agent.agent_id", "agent.owner_id", "agent.source"]
    );

    let request = || DeregisterAgentRequest {
        agent_id: "one".into(),
        delete_backups: false,
        crypto_erase: false,
        keep_backups: false,
    };
    agents.deregister_agent(request()).await.unwrap();
    let status = agents.deregister_agent(request()).await.unwrap_err();
    assert_eq!(reason(&status), "AGENT_NOT_FOUND");
    let request = GetAgentRequest {
        agent_id: "one".into(),
    };
    let status = agents.get_agent(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let rig = Rig::start().await;
    rig.register("one", "ann").await;
    let mut backups = rig.backups("ann");
    let request = CreateBackupRequest {
        agent_id: String::new(),
        name: "x".repeat(201),
        request_id: "\u{7f}".into(),
    };
    let status = backups.create_backup(request).await.unwrap_err();
    assert_eq!(fields(&status), ["agent_id", "name", "request_id"]);
    let request = ListBackupsRequest {
        page_size: -1,
        states: vec![99],
        ..ListBackupsRequest::default()
    };
    let status = backups.list_backups(request).await.unwrap_err();
    assert_eq!(fields(&status), ["page_size", "states"]);
}

#[tokio::test]
async fn pages_show_everything_once_and_tokens_belong_to_their_filter() {
    let rig = Rig::start().await;
    rig.register("one", "ann").await;
    rig.register("two", "ann").await;
    let mut made = Vec::new();
    for number in 0..7 {
        let agent_id = if number % 3 == 0 { "two" } else { "one" };
        made.push(rig.create(agent_id, "ann").await.backup_id);
    }
    made.reverse();
    let mut backups = rig.backups("ann");
    let mut request = ListBackupsRequest {
        page_size: 3,
        ..ListBackupsRequest::default()
    };
    let mut shown = Vec::new();
    let mut pages = 0;
    loop {
        let page = backups.list_backups(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.backups.len() <= 3);
        shown.extend(page.backups.into_iter().map(|backup| backup.backup_id));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((shown, pages), (made, 3));

    for other in [
        ListBackupsRequest {
            agent_id: "one".into(),
            ..request.clone()
        },
        ListBackupsRequest {
            states: vec![backup::State::Pending.into()],
            ..request.clone()
        },
        ListBackupsRequest {
            page_token: "nonsense".into(),
            ..request.clone()
        },
    ] {
        let status = backups.list_backups(other).await.unwrap_err();
        assert_eq!(fields(&status), ["page_token"]);
    }

    let mut agents = rig.agents("ann", "user");
    let first = agents
        .list_agents(ListAgentsRequest {
            page_size: 1,
            ..ListAgentsRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.agents[0].agent_id, "one");
    let second = agents
        .list_agents(ListAgentsRequest {
            page_size: 1,
            page_token: first.next_page_token,
            ..ListAgentsRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(second.agents[0].agent_id, "two");
    assert!(second.next_page_token.is_empty());
}

#[tokio::test]
async fn a_request_id_makes_one_backup() {
    let rig = Rig::start().await;
    rig.register("one", "ann").await;
    let mut backups = rig.backups("ann");
    let request = CreateBackupRequest {
        agent_id: "one".into(),
        name: "before the move".into(),
        request_id: "r-1".into(),
    };
    let first = backups.create_backup(request.clone()).await.unwrap();
    let first = first.into_inner().backup.unwrap();
    assert_eq!(first.name, "before the move");
    assert_eq!(first.state(), backup::State::Pending);
    let again = backups.create_backup(request.clone()).await.unwrap();
    assert_eq!(
        again.into_inner().backup.unwrap().backup_id,
        first.backup_id
    );
    let other = CreateBackupRequest {
        name: "another".into(),
        ..request.clone()
    };
    let status = backups.create_backup(other).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::AlreadyExists, "REQUEST_ID_REUSED")
    );
    // An administrator is another caller.
    let mut admin = rig.backups_as("ann", "admin");
    let theirs = admin.create_backup(request).await.unwrap();
    assert_ne!(
        theirs.into_inner().backup.unwrap().backup_id,
        first.backup_id
    );

    let unnamed = rig.create("one", "ann").await;
    assert!(unnamed.name.starts_with("one 20"), "{}", unnamed.name);
    assert!(unnamed.name.ends_with('Z'), "{}", unnamed.name);
}

#[tokio::test]
async fn word_of_a_job_reaches_the_queue() {
    use queue::JobQueue as _;

    let rig = Rig::start().await;
    rig.register("one", "ann").await;
    let mut consumer = rig.queue.consume("default", 1).await.unwrap();
    let backup = rig.create("one", "ann").await;
    let delivery = consumer.next().await.unwrap();
    let known = rig.catalog.get_backup(&backup.backup_id).await.unwrap();
    assert_eq!(delivery.job_id, known.unwrap().job_id);
    delivery.ack().await.unwrap();
}
