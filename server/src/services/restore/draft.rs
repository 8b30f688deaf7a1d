//! Plans a restore from what the backup's manifest says. Nothing is made yet.

use std::sync::Arc;

use catalog::NewDraft;
use prost::Message as _;
use proto::{
    backup::v1::{
        CreateRestoreDraftRequest, CreateRestoreDraftResponse, DirectoryTarget, DockerTarget,
        RestorePlan, Source, restore_plan::Target, source::Kind,
    },
    vault::v1::Manifest,
};

use super::decisions;
use crate::{
    access,
    clock::now_ms,
    convert,
    services::{Call, request_key},
    state::{State, manifest_of},
    status::ApiError,
    validation::Checks,
};

const AGENT_ID_CHARS_MAX: usize = 64;
const NAME_CHARS_MAX: usize = 200;

pub(super) async fn create(
    state: &Arc<State>,
    call: Call<CreateRestoreDraftRequest>,
) -> Result<CreateRestoreDraftResponse, ApiError> {
    access::may_use_backups(&call.caller)?;
    let mut request = call.message;
    let mut checks = Checks::new();
    checks.id("backup_id", &request.backup_id);
    checks.request_id(&request.request_id);
    checks.optional_id("destination_id", &request.destination_id);
    if let Some(plan) = &request.plan {
        checks.plan(plan);
    }
    checks.done()?;
    let backup = access::backup_for(state, &call.caller, &request.backup_id).await?;
    let request_id = std::mem::take(&mut request.request_id);
    let key = request_key(&call.caller, "CreateRestoreDraft", request_id, &request);
    let at = manifest_of(&backup)?;
    let at_destination = std::mem::take(&mut request.destination_id);
    access::check_copy(&backup, &at_destination)?;
    let vault = state.vault(&backup, &at_destination).await?;
    let (manifest, _) = vault.read_manifest(&at).await?;
    let plan = plan_of(request.plan.unwrap_or_default(), &manifest)?;
    let admin = access::may_keep_privileges(&call.caller);
    let (decisions, warnings) = match &manifest.runtime {
        Some(runtime) => decisions::of(runtime, admin),
        None => Default::default(),
    };
    let draft = NewDraft {
        backup_id: backup.backup_id,
        owner_id: backup.owner_id,
        plan,
        decisions,
        warnings,
        destination_id: at_destination,
        request: key,
    };
    let restore = state.catalog.create_draft(draft, now_ms()).await?;
    Ok(CreateRestoreDraftResponse {
        restore: Some(convert::restore(restore)),
    })
}

/// The plan, with defaults for what was left out.
fn plan_of(wished: RestorePlan, manifest: &Manifest) -> Result<RestorePlan, ApiError> {
    let source = Source::decode(manifest.source.as_slice())
        .ok()
        .and_then(|source| source.kind)
        .ok_or_else(|| {
            ApiError::internal(
                "plan a restore",
                "the manifest names no source that this version knows",
            )
        })?;
    let agent_id = non_empty(wished.agent_id).unwrap_or_else(|| new_agent_id(&manifest.agent_id));
    let target = match (source, wished.target) {
        (Kind::Directory(_), Some(Target::Docker(_))) => {
            return Err(other_kind("plan.docker", "directory"));
        }
        (Kind::Docker(_), Some(Target::Directory(_))) => {
            return Err(other_kind("plan.directory", "docker"));
        }
        (Kind::Directory(source), target) => {
            let path = match target {
                Some(Target::Directory(target)) => non_empty(target.path),
                _ => None,
            };
            Target::Directory(DirectoryTarget {
                path: path.unwrap_or_else(|| beside(&source.path, &agent_id)),
            })
        }
        (Kind::Docker(_), target) => {
            let target = match target {
                Some(Target::Docker(target)) => target,
                _ => DockerTarget::default(),
            };
            Target::Docker(DockerTarget {
                container_name: non_empty(target.container_name)
                    .unwrap_or_else(|| agent_id.clone()),
                ..target
            })
        }
    };
    Ok(RestorePlan {
        display_name: non_empty(wished.display_name)
            .unwrap_or_else(|| new_name(&manifest.agent_name, &agent_id)),
        workspace_id: non_empty(wished.workspace_id)
            .unwrap_or_else(|| manifest.workspace_id.clone()),
        agent_id,
        target: Some(target),
    })
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn other_kind(field: &str, kind: &str) -> ApiError {
    let mut checks = Checks::new();
    let what = format!("is of another kind than the backup's source: set plan.{kind}, or neither");
    checks.fault(field, what);
    checks.done().err().unwrap_or_else(|| {
        ApiError::internal("plan a restore", "a fault that was noted is not there")
    })
}

/// "my-agent-restored-1f0c3a".
fn new_agent_id(old: &str) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let suffix = format!("-restored-{}", &random[..6]);
    // Ids are ASCII. One that was restored before does not grow with each time.
    let stem = old.split("-restored-").next().unwrap_or(old);
    let stem = &stem[..stem.len().min(AGENT_ID_CHARS_MAX - suffix.len())];
    format!("{stem}{suffix}")
}

fn new_name(old: &str, agent_id: &str) -> String {
    const SUFFIX: &str = " (restored)";
    if old.is_empty() {
        return agent_id.to_owned();
    }
    let stem: String = old
        .trim_end_matches(SUFFIX)
        .chars()
        .take(NAME_CHARS_MAX - SUFFIX.len())
        .collect();
    format!("{stem}{SUFFIX}")
}

/// A folder beside another, with another name.
fn beside(path: &str, name: &str) -> String {
    let parent = path
        .trim_end_matches('/')
        .rsplit_once('/')
        .map_or("", |(parent, _)| parent);
    format!("{parent}/{name}")
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::{DirectorySource, DockerSource};

    use super::*;

    fn manifest(kind: Kind) -> Manifest {
        Manifest {
            agent_id: "my-agent".into(),
            agent_name: "My agent".into(),
            workspace_id: "home".into(),
            source: Source { kind: Some(kind) }.encode_to_vec(),
            ..Manifest::default()
        }
    }

    #[test]
    fn a_folder_goes_beside_the_original() {
        let kind = Kind::Directory(DirectorySource {
            path: "/agents/one/".into(),
        });
        let plan = plan_of(RestorePlan::default(), &manifest(kind.clone())).unwrap();
        assert!(plan.agent_id.starts_with("my-agent-restored-"));
        assert_eq!(plan.display_name, "My agent (restored)");
        assert_eq!(plan.workspace_id, "home");
        let Some(Target::Directory(target)) = plan.target else {
            panic!("not a folder")
        };
        assert_eq!(target.path, format!("/agents/{}", plan.agent_id));

        let wished = RestorePlan {
            target: Some(Target::Docker(DockerTarget::default())),
            ..RestorePlan::default()
        };
        let error = plan_of(wished, &manifest(kind)).unwrap_err();
        assert!(error.to_string().starts_with("plan.docker "), "{error}");
    }

    #[test]
    fn a_container_is_named_by_the_new_agent() {
        let kind = Kind::Docker(DockerSource {
            container: "c".into(),
            ..DockerSource::default()
        });
        let wished = RestorePlan {
            agent_id: "second".into(),
            ..RestorePlan::default()
        };
        let plan = plan_of(wished, &manifest(kind)).unwrap();
        let Some(Target::Docker(target)) = plan.target else {
            panic!("not a container")
        };
        assert_eq!(target.container_name, "second");
        assert!(!target.start);
    }

    #[test]
    fn long_names_stay_within_their_limits() {
        let id = new_agent_id(&"a".repeat(64));
        assert_eq!(id.len(), 64);
        assert!(new_agent_id("x-restored-abcdef").starts_with("x-restored-"));
        assert_eq!(new_agent_id("x-restored-abcdef").len(), 17);
        assert_eq!(new_name(&"ü".repeat(200), "x").chars().count(), 200);
        assert_eq!(beside("/", "x"), "/x");
    }
}
