//! Drafts, decisions and starts.

use std::collections::HashMap;

use proto::{
    backup::v1::{
        CancelRestoreRequest, CreateRestoreDraftRequest, DockerSource, ListRestoresRequest,
        RegisterAgentRequest, Restore, RestorePlan, Source, StartRestoreRequest, restore,
        restore_plan::Target, source::Kind,
    },
    vault::v1::RuntimeDocument,
};
use serde_json::json;
use tonic::Status;

use crate::harness::{Rig, agent, fields, file, folder, reason};

async fn draft(
    rig: &Rig,
    backup_id: &str,
    plan: Option<RestorePlan>,
    request_id: &str,
) -> Result<Restore, Status> {
    let request = CreateRestoreDraftRequest {
        backup_id: backup_id.to_owned(),
        plan,
        request_id: request_id.to_owned(),
        ..CreateRestoreDraftRequest::default()
    };
    let answer = rig.restores("ann").create_restore_draft(request).await?;
    Ok(answer.into_inner().restore.unwrap())
}

#[tokio::test]
async fn a_folder_is_planned_started_and_canceled() {
    let rig = Rig::start().await;
    rig.register("one", "ann").await;
    let files = [folder(""), file("a", "x")];
    let backup = rig.completed("one", "ann", &files).await.backup_id;

    let first = draft(&rig, &backup, None, "r").await.unwrap();
    assert_eq!(first.state(), restore::State::Draft);
    assert!(first.expire_time.is_some() && first.decisions.is_empty());
    let plan = first.plan.clone().unwrap();
    assert!(plan.agent_id.starts_with("one-restored-"));
    let Some(Target::Directory(target)) = plan.target else {
        panic!("not a folder")
    };
    assert_eq!(target.path, format!("/agents/{}", plan.agent_id));
    // The same request again is the same draft, although its name was chosen by chance.
    let again = draft(&rig, &backup, None, "r").await.unwrap();
    assert_eq!(again, first);

    let taken = RestorePlan {
        agent_id: "one".into(),
        ..RestorePlan::default()
    };
    let status = draft(&rig, &backup, Some(taken), "").await.unwrap_err();
    assert_eq!(reason(&status), "AGENT_EXISTS");
    let docker = RestorePlan {
        target: Some(Target::Docker(Default::default())),
        ..RestorePlan::default()
    };
    let status = draft(&rig, &backup, Some(docker), "").await.unwrap_err();
    assert_eq!(fields(&status), ["plan.docker"]);

    let mut restores = rig.restores("ann");
    let start = |choices: &[(&str, &str)]| StartRestoreRequest {
        restore_id: first.restore_id.clone(),
        choices: choices
            .iter()
            .map(|(id, choice)| ((*id).to_owned(), (*choice).to_owned()))
            .collect::<HashMap<_, _>>(),
    };
    let status = restores
        .start_restore(start(&[("port:1/tcp", "drop")]))
        .await;
    assert_eq!(fields(&status.unwrap_err()), ["choices"]);
    let started = restores.start_restore(start(&[])).await.unwrap();
    let started = started.into_inner().restore.unwrap();
    assert_eq!(started.state(), restore::State::Pending);
    assert!(started.expire_time.is_none());
    restores.start_restore(start(&[])).await.unwrap();

    let cancel = CancelRestoreRequest {
        restore_id: first.restore_id.clone(),
    };
    let canceled = restores.cancel_restore(cancel.clone()).await.unwrap();
    let canceled = canceled.into_inner().restore.unwrap();
    assert_eq!(canceled.state(), restore::State::Canceled);
    let status = restores.cancel_restore(cancel).await.unwrap_err();
    assert_eq!(reason(&status), "ALREADY_ENDED");
    let list = ListRestoresRequest {
        backup_id: backup,
        ..ListRestoresRequest::default()
    };
    let listed = restores.list_restores(list).await.unwrap().into_inner();
    assert_eq!(listed.restores.len(), 1);
}

#[tokio::test]
async fn a_containers_decisions_come_with_their_safest_choice() {
    let rig = Rig::start().await;
    let mut docker = agent("box", "ann");
    docker.source = Some(Source {
        kind: Some(Kind::Docker(DockerSource {
            container: "box".into(),
            ..DockerSource::default()
        })),
    });
    let request = RegisterAgentRequest {
        agent: Some(docker),
    };
    let mut agents = rig.agents("control", "service");
    agents.register_agent(request).await.unwrap();
    let inspect = json!({"HostConfig": {
        "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
        "Privileged": true,
    }});
    let runtime = RuntimeDocument {
        inspect_json: inspect.to_string().into_bytes(),
        ..RuntimeDocument::default()
    };
    let files = [folder("")];
    let backup = rig
        .completed_with("box", "ann", &files, Some(runtime))
        .await
        .backup_id;
    let planned = draft(&rig, &backup, None, "").await.unwrap();
    let choices: Vec<(&str, &str)> = planned
        .decisions
        .iter()
        .map(|decision| (decision.decision_id.as_str(), decision.choice.as_str()))
        .collect();
    assert_eq!(
        choices,
        [("port:80/tcp", "drop"), ("privilege:privileged", "drop")]
    );
    let mut restores = rig.restores("ann");
    let start = |id: &str, choice: &str| StartRestoreRequest {
        restore_id: planned.restore_id.clone(),
        choices: HashMap::from([(id.to_owned(), choice.to_owned())]),
    };
    for (id, choice) in [("privilege:privileged", "same"), ("port:80/tcp", "81")] {
        let status = restores.start_restore(start(id, choice)).await.unwrap_err();
        assert_eq!(fields(&status), [format!("choices[{id}]")]);
    }
    let started = restores.start_restore(start("port:80/tcp", "random")).await;
    let started = started.unwrap().into_inner().restore.unwrap();
    assert_eq!(started.decisions[0].choice, "random");
}
