//! Replacing an agent by one of its backups.

use catalog::{Agent, NewInPlace};
use prost::Message as _;
use proto::{
    backup::v1::{
        DirectoryTarget, DockerTarget, ErrorReason, RestoreInPlaceRequest, RestoreInPlaceResponse,
        RestorePlan, Source, restore_plan::Target, source::Kind,
    },
    queue::v1::JobEvent,
    vault::v1::Manifest,
};

use super::Admin;
use crate::{
    access,
    clock::now_ms,
    convert,
    services::{Call, request_key},
    state::manifest_of,
    status::ApiError,
    validation::Checks,
};

impl Admin {
    pub(super) async fn in_place(
        &self,
        call: Call<RestoreInPlaceRequest>,
    ) -> Result<RestoreInPlaceResponse, ApiError> {
        let mut request = call.message;
        let mut checks = Checks::new();
        checks.id("agent_id", &request.agent_id);
        checks.id("backup_id", &request.backup_id);
        checks.request_id(&request.request_id);
        checks.that(
            request.confirm_agent_id == request.agent_id,
            "confirm_agent_id",
            "must repeat agent_id: what the agent is now will be replaced",
        );
        checks.done()?;
        let agent = access::agent_for(&self.state, &call.caller, &request.agent_id).await?;
        let backup = access::backup_for(&self.state, &call.caller, &request.backup_id).await?;
        if backup.agent_id != agent.agent_id {
            return Err(access::no_backup(&request.backup_id));
        }
        let request_id = std::mem::take(&mut request.request_id);
        let key = request_key(&call.caller, "RestoreInPlace", request_id, &request);
        let at = manifest_of(&backup)?;
        let vault = self.state.vault(&backup, "").await?;
        let (manifest, _) = vault.read_manifest(&at).await?;
        let new = NewInPlace {
            plan: plan_of(&agent, &manifest)?,
            agent_id: agent.agent_id,
            safety_name: format!("before the restore of {}", backup.backup_id),
            backup_id: backup.backup_id,
            decisions: Vec::new(),
            warnings: Vec::new(),
            request: key,
        };
        let restore = self.state.catalog.restore_in_place(new, now_ms()).await?;
        let event = JobEvent {
            subject_id: restore.restore_id.clone(),
            job_id: restore.job_id.clone().unwrap_or_default(),
            state_changed: true,
            ..JobEvent::default()
        };
        self.state.announce(event).await;
        tracing::info!(
            restore_id = restore.restore_id,
            agent_id = restore.agent_id,
            backup_id = restore.backup_id,
            "restore in place accepted"
        );
        Ok(RestoreInPlaceResponse {
            restore: Some(convert::restore(restore)),
        })
    }
}

/// The agent, where it lives now.
fn plan_of(agent: &Agent, manifest: &Manifest) -> Result<RestorePlan, ApiError> {
    let stored = Source::decode(manifest.source.as_slice()).unwrap_or_default();
    let target = match (&agent.source.kind, &stored.kind) {
        (Some(Kind::Directory(now)), Some(Kind::Directory(_))) => {
            Target::Directory(DirectoryTarget {
                path: now.path.clone(),
            })
        }
        (Some(Kind::Docker(now)), Some(Kind::Docker(_))) => Target::Docker(DockerTarget {
            container_name: now.container.clone(),
            ..DockerTarget::default()
        }),
        _ => {
            return Err(ApiError::new(
                ErrorReason::SourceKindMismatch,
                format!(
                    "agent {} lives in another kind of place than when the backup was made: \
                     restore the backup as a new agent",
                    agent.agent_id
                ),
            ));
        }
    };
    Ok(RestorePlan {
        agent_id: agent.agent_id.clone(),
        display_name: agent.display_name.clone(),
        workspace_id: agent.workspace_id.clone(),
        target: Some(target),
    })
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::{DirectorySource, DockerSource};

    use super::*;

    fn agent(kind: Kind) -> Agent {
        Agent {
            agent_id: "a".into(),
            display_name: "A".into(),
            owner_id: "ann".into(),
            workspace_id: "w".into(),
            source: Source { kind: Some(kind) },
            integrations: Vec::new(),
            pool: "default".into(),
            patterns: Vec::new(),
            size_warning_bytes: 0,
            destination_id: String::new(),
            second_destination_id: String::new(),
            etag: String::new(),
            restore_id: None,
            vault_bytes: 0,
            create_time_ms: 0,
            update_time_ms: 0,
        }
    }

    #[test]
    fn it_goes_where_the_agent_lives_now_and_only_into_the_same_kind() {
        let folder = |path: &str| Kind::Directory(DirectorySource { path: path.into() });
        let container = Kind::Docker(DockerSource {
            container: "c".into(),
            ..DockerSource::default()
        });
        let manifest = Manifest {
            source: Source {
                kind: Some(folder("/then")),
            }
            .encode_to_vec(),
            ..Manifest::default()
        };
        let plan = plan_of(&agent(folder("/now")), &manifest).unwrap();
        let Some(Target::Directory(target)) = plan.target else {
            panic!("not a folder")
        };
        assert_eq!(target.path, "/now");
        let error = plan_of(&agent(container), &manifest).unwrap_err();
        assert_eq!(error.reason(), ErrorReason::SourceKindMismatch);
    }
}
