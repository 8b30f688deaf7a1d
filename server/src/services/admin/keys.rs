//! Key-encryption keys and their rotation: shown by their ids, never themselves.

use std::{collections::BTreeMap, sync::Arc};

use catalog::{JobState, KeyRotation, NewKeyRotation};
use proto::{
    backup::v1::{
        self as api, GetKeyRotationRequest, GetKeyRotationResponse, Key, ListKeysRequest,
        ListKeysResponse, Progress, RotateKeysRequest, RotateKeysResponse, WatchKeyRotationRequest,
        WatchKeyRotationResponse, key,
    },
    queue::v1::JobEvent,
};

use super::Admin;
use crate::{
    clock::{now_ms, timestamp},
    convert,
    feed::FeedStream,
    services::{Call, request_key},
    state::State,
    status::ApiError,
    validation::Checks,
    watch::{Now, Subject, watch},
};

impl Admin {
    pub(super) async fn keys(
        &self,
        _call: Call<ListKeysRequest>,
    ) -> Result<ListKeysResponse, ApiError> {
        let catalog = &self.state.catalog;
        let holders = catalog.key_holders(now_ms()).await?;
        let uses = catalog.key_uses().await?;
        Ok(ListKeysResponse {
            keys: list(&self.state.keyring.key_ids(), holders, uses),
        })
    }

    pub(super) async fn rotate(
        &self,
        call: Call<RotateKeysRequest>,
    ) -> Result<RotateKeysResponse, ApiError> {
        let mut request = call.message;
        let mut checks = Checks::new();
        checks.request_id(&request.request_id);
        checks.done()?;
        let request_id = std::mem::take(&mut request.request_id);
        let new = NewKeyRotation {
            writing_key_id: self.state.keyring.writing().id(),
            retire_previous: request.retire_previous,
            owner_id: call.caller.id.clone(),
            request: request_key(&call.caller, "RotateKeys", request_id, &request),
        };
        let rotation = self
            .state
            .catalog
            .create_key_rotation(new, now_ms())
            .await?;
        tracing::info!(
            rotation_id = rotation.rotation_id,
            writing_key_id = rotation.writing_key_id,
            retire_previous = rotation.retire_previous,
            "key rotation accepted"
        );
        let event = JobEvent {
            subject_id: rotation.rotation_id.clone(),
            job_id: rotation.rotation_id.clone(),
            state_changed: true,
            ..JobEvent::default()
        };
        self.state.announce(event).await;
        Ok(RotateKeysResponse {
            rotation: Some(convert_rotation(rotation)),
        })
    }

    pub(super) async fn rotation(
        &self,
        call: Call<GetKeyRotationRequest>,
    ) -> Result<GetKeyRotationResponse, ApiError> {
        let id = call.message.rotation_id;
        let mut checks = Checks::new();
        checks.optional_id("rotation_id", &id);
        checks.done()?;
        let rotation = if id.is_empty() {
            let latest = self.state.catalog.latest_key_rotation().await?;
            latest.ok_or_else(|| {
                ApiError::new(
                    api::ErrorReason::KeyRotationNotFound,
                    "keys were never rotated here",
                )
            })?
        } else {
            load(&self.state, &id).await?
        };
        Ok(GetKeyRotationResponse {
            rotation: Some(convert_rotation(rotation)),
        })
    }

    pub(super) async fn watch_rotation(
        &self,
        call: Call<WatchKeyRotationRequest>,
    ) -> Result<FeedStream<WatchKeyRotationResponse>, ApiError> {
        let mut checks = Checks::new();
        checks.id("rotation_id", &call.message.rotation_id);
        checks.done()?;
        let subject = Watched {
            state: self.state.clone(),
            rotation_id: call.message.rotation_id,
        };
        subject.load().await?;
        watch(self.state.ground(), subject, call.slot).await
    }
}

struct Watched {
    state: Arc<State>,
    rotation_id: String,
}

impl Subject for Watched {
    type Event = WatchKeyRotationResponse;

    fn subject_id(&self) -> &str {
        &self.rotation_id
    }

    async fn load(&self) -> Result<Now<WatchKeyRotationResponse>, ApiError> {
        let rotation = load(&self.state, &self.rotation_id).await?;
        Ok(Now {
            ended: rotation.state.is_ended(),
            event: WatchKeyRotationResponse {
                rotation: Some(convert_rotation(rotation)),
            },
        })
    }

    fn progress(event: &mut WatchKeyRotationResponse) -> Option<&mut Progress> {
        event.rotation.as_mut()?.progress.as_mut()
    }
}

async fn load(state: &State, rotation_id: &str) -> Result<KeyRotation, ApiError> {
    let rotation = state.catalog.get_key_rotation(rotation_id).await?;
    rotation.ok_or_else(|| {
        let rotation_id = rotation_id.to_owned();
        catalog::CatalogError::KeyRotationNotFound { rotation_id }.into()
    })
}

fn convert_rotation(rotation: KeyRotation) -> api::KeyRotation {
    use api::key_rotation::State;
    let state = match rotation.state {
        JobState::Queued => State::Pending,
        JobState::Running => State::Running,
        JobState::Completed => State::Completed,
        JobState::Failed | JobState::Canceled => State::Failed,
    };
    let counts = rotation.counts;
    api::KeyRotation {
        rotation_id: rotation.rotation_id,
        writing_key_id: rotation.writing_key_id,
        retire_previous: rotation.retire_previous,
        state: state.into(),
        vaults_done: counts.vaults_done as i64,
        vaults_total: counts.vaults_total as i64,
        vaults_changed: counts.vaults_changed as i64,
        vaults_failed: counts.vaults_failed as i64,
        problems: rotation
            .problems
            .into_iter()
            .map(|problem| api::VaultProblem {
                destination_id: problem.destination_id,
                agent_id: problem.agent_id,
                failure: problem.failure,
            })
            .collect(),
        destinations: rotation
            .destinations
            .into_iter()
            .map(|at| api::DestinationRotation {
                destination_id: at.destination_id,
                vaults_done: at.counts.vaults_done as i64,
                vaults_total: at.counts.vaults_total as i64,
                vaults_changed: at.counts.vaults_changed as i64,
                vaults_failed: at.counts.vaults_failed as i64,
                failure: at.failure,
            })
            .collect(),
        failure: rotation.failure,
        progress: Some(convert::progress(
            rotation.progress,
            rotation.state.is_ended(),
        )),
        create_time: Some(timestamp(rotation.create_time_ms)),
        start_time: rotation.start_time_ms.map(timestamp),
        end_time: rotation.end_time_ms.map(timestamp),
    }
}

/// The keys of this server first, then the others.
fn list(here: &[String], holders: Vec<catalog::KeyHolder>, uses: Vec<catalog::KeyUse>) -> Vec<Key> {
    let mut keys: BTreeMap<(usize, String), Key> = BTreeMap::new();
    let place = |id: &str| here.iter().position(|key| key == id);
    let mut entry = |id: &str, change: &dyn Fn(&mut Key)| {
        let at = place(id);
        let key = keys
            .entry((at.unwrap_or(usize::MAX), id.to_owned()))
            .or_insert_with(|| Key {
                key_id: id.to_owned(),
                role: match at {
                    Some(0) => key::Role::Writing,
                    Some(_) => key::Role::Previous,
                    None => key::Role::Unknown,
                }
                .into(),
                ..Key::default()
            });
        change(key);
    };
    for id in here {
        entry(id, &|_| {});
    }
    for holder in holders {
        for id in &holder.key_ids {
            entry(id, &|key| {
                key.holders
                    .push(format!("{} {}", holder.kind, holder.replica));
            });
        }
    }
    for found in uses {
        entry(&found.key_id, &|key| {
            key.vaults = found.vaults as i64;
            key.vaults_only = found.vaults_only as i64;
        });
    }
    keys.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_by_what_they_are_here() {
        use key::Role::{Previous, Unknown, Writing};

        let here = ["b".to_owned(), "a".to_owned()];
        let holder = |replica: &str, ids: &[&str]| catalog::KeyHolder {
            replica: replica.to_owned(),
            kind: "worker".to_owned(),
            key_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            seen_time_ms: 1,
        };
        let found = catalog::KeyUse {
            key_id: "0".to_owned(),
            vaults: 3,
            vaults_only: 2,
        };
        let keys = list(&here, vec![holder("w1", &["b", "c"])], vec![found]);
        let shown: Vec<_> = keys
            .iter()
            .map(|key| (key.key_id.as_str(), key.role(), key.holders.len()))
            .collect();
        assert_eq!(
            shown,
            [
                ("b", Writing, 1),
                ("a", Previous, 0),
                ("0", Unknown, 0),
                ("c", Unknown, 1)
            ]
        );
        assert_eq!((keys[2].vaults, keys[2].vaults_only), (3, 2));
    }
}
