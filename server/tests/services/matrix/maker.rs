//! What requests are about: made for each call, for its owner.

use catalog::Failure;
use proto::backup::v1::{
    CreateDestinationRequest, CreateRestoreDraftRequest, Destination, GetKeyRotationRequest,
    LocalDestination, RotateKeysRequest, UpdateScheduleRequest, VerifyBackupRequest,
    destination::Kind,
};

use crate::harness::{Rig, file, folder, now_ms};

/// Makes what requests are about.
pub struct Maker<'a> {
    pub rig: &'a Rig,
    pub made: usize,
}

impl Maker<'_> {
    /// Fills in what stands in braces, with what belongs to this owner, or with what is not there.
    pub async fn fill(&mut self, template: &str, owner: Option<&str>) -> String {
        let mut text = template.to_owned();
        self.made += 1;
        let fresh = format!("agent-{}", self.made);
        let names = [
            "agent",
            "scheduled",
            "backed_up",
            "backup",
            "pending",
            "failed",
            "restore",
            "verified",
            "planned",
            "rotation",
            "destination",
            "new_destination",
        ];
        for name in names {
            let hole = format!("{{{name}}}");
            if text.contains(&hole) {
                let id = match owner {
                    Some(owner) => self.make(name, &fresh, owner).await,
                    None => missing(name, self.made),
                };
                if name == "verified" {
                    let verification = match owner {
                        Some(owner) => self.verification(owner, &id).await,
                        None => missing(name, self.made),
                    };
                    text = text.replace("{verification}", &verification);
                }
                text = text.replace(&hole, &id);
            }
        }
        let its_agent = owner.map_or_else(|| missing("agent", self.made), |_| fresh.clone());
        text = text.replace("{its_agent}", &its_agent);
        let nobody = format!("nobody-{}", self.made);
        text.replace("{owner}", owner.unwrap_or(&nobody))
    }

    async fn make(&self, what: &str, agent_id: &str, owner: &str) -> String {
        let rig = self.rig;
        rig.register(agent_id, owner).await;
        let completed = async || {
            let files = [folder(""), file("a", "content")];
            rig.completed(agent_id, owner, &files).await.backup_id
        };
        match what {
            "backup" | "verified" => completed().await,
            "pending" => rig.create(agent_id, owner).await.backup_id,
            "failed" => self.failed_job(agent_id, owner).await,
            "restore" | "planned" => {
                let request = CreateRestoreDraftRequest {
                    backup_id: completed().await,
                    ..CreateRestoreDraftRequest::default()
                };
                let answer = rig.restores(owner).create_restore_draft(request).await;
                let restore = answer.unwrap().into_inner().restore.unwrap();
                if what == "planned" {
                    restore.backup_id
                } else {
                    restore.restore_id
                }
            }
            "rotation" => self.rotation().await,
            "new_destination" => missing(what, self.made),
            "destination" => self.destination().await,
            "scheduled" => {
                self.schedule(agent_id, owner).await;
                agent_id.to_owned()
            }
            "backed_up" => {
                rig.create(agent_id, owner).await;
                agent_id.to_owned()
            }
            _ => agent_id.to_owned(),
        }
    }

    /// The rotation of keys that was asked for last, whoever asked.
    async fn rotation(&self) -> String {
        let mut admin = self.rig.admin("root", "admin");
        let last = admin
            .get_key_rotation(GetKeyRotationRequest::default())
            .await;
        let rotation = if let Ok(last) = last {
            last.into_inner().rotation
        } else {
            let begun = admin.rotate_keys(RotateKeysRequest::default()).await;
            begun.unwrap().into_inner().rotation
        };
        rotation.unwrap().rotation_id
    }

    /// A destination that is nowhere; it is not tried when it is added.
    async fn destination(&self) -> String {
        let destination_id = format!("place-{}", self.made);
        let local = LocalDestination {
            path: format!("/proc/nowhere/{destination_id}"),
        };
        let request = CreateDestinationRequest {
            destination: Some(Destination {
                destination_id: destination_id.clone(),
                kind: Some(Kind::Local(local)),
                ..Destination::default()
            }),
        };
        let mut admin = self.rig.admin("root", "admin");
        admin.create_destination(request).await.unwrap();
        destination_id
    }

    async fn schedule(&self, agent_id: &str, owner: &str) {
        let request = UpdateScheduleRequest {
            schedule: Some(proto::backup::v1::Schedule {
                agent_id: agent_id.to_owned(),
                ..Default::default()
            }),
            update_mask: None,
            allow_missing: true,
        };
        self.rig
            .schedules(owner)
            .update_schedule(request)
            .await
            .unwrap();
    }

    async fn verification(&self, owner: &str, backup_id: &str) -> String {
        let request = VerifyBackupRequest {
            backup_id: backup_id.to_owned(),
            ..VerifyBackupRequest::default()
        };
        let answer = self.rig.backups(owner).verify_backup(request).await;
        answer.unwrap().into_inner().verification_id
    }

    async fn failed_job(&self, agent_id: &str, owner: &str) -> String {
        let backup = self.rig.create(agent_id, owner).await;
        let fence = self.rig.claim(&backup.backup_id).await;
        let why = Failure {
            reason: "SOURCE_NOT_FOUND".into(),
            message: "it is not there".into(),
        };
        let catalog = &self.rig.catalog;
        catalog
            .fail_job(&fence, why, false, now_ms())
            .await
            .unwrap();
        fence.job_id
    }
}

fn missing(what: &str, number: usize) -> String {
    match what {
        "agent" | "scheduled" | "backed_up" => format!("nowhere-{number}"),
        "destination" | "new_destination" => format!("destination-{number}"),
        _ => "00000000-0000-7000-8000-000000000000".to_owned(),
    }
}
