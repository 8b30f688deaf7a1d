//! Another default in the environment.

use anyhow::Result;
use proto::backup::v1::DeleteBackupRequest;
use services::{fixture, standalone::Standalone, vaults};

use crate::support::{OWNER, register, restores_from, verify};

#[tokio::test]
async fn another_default_moves_nothing_and_breaks_nothing() -> Result<()> {
    let mut standalone =
        Standalone::prepare("destinations-default")?.with_env("NORA_BACKUP_COMPACT_GRACE_MS", "0");
    standalone.launch().await?;
    let root = register(&standalone, "agent", "", "").await?;
    fixture::random_files(&root, 4, 1 << 20, 1)?;
    let mut user = standalone.user(OWNER).await?;
    let first = user.complete_backup("agent").await?;
    assert_eq!(first.destination_id, "default");
    standalone.stop()?;

    let (former, other) = (standalone.destination(), standalone.outside_dir("other"));
    standalone.set_env("NORA_BACKUP_DIR", other.display().to_string());
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let shown = user.backup(&first.backup_id).await?;
    assert_eq!(shown.destination_id, "former-1");
    restores_from(&standalone, &mut user, &first.backup_id, "").await?;
    user.download(&first.backup_id, 0, "").await?;
    let second = user.complete_backup("agent").await?;
    assert_eq!(second.destination_id, "default");
    assert!(vaults::objects(&other, "agent")?.count("backups") == 1);
    assert!(vaults::objects(&former, "agent")?.count("backups") == 1);
    restores_from(&standalone, &mut user, &second.backup_id, "").await?;
    user.backups
        .delete_backup(DeleteBackupRequest {
            backup_id: first.backup_id.clone(),
        })
        .await?;
    vaults::wait_until(&former, "agent", |objects| {
        objects.count("backups") == 0 && objects.count("packs") == 0
    })
    .await?;
    assert!(verify(&mut user, &second.backup_id, "").await?);

    // And back again.
    standalone.stop()?;
    standalone.set_env("NORA_BACKUP_DIR", former.display().to_string());
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let shown = user.backup(&second.backup_id).await?;
    assert_eq!(shown.destination_id, "former-2");
    restores_from(&standalone, &mut user, &second.backup_id, "").await?;
    user.complete_backup("agent").await?;
    Ok(())
}
