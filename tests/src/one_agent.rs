//! A standalone with one agent, a folder called `agent`: what most tests are about.

use anyhow::Result;

use crate::{
    api::Api,
    fixture,
    standalone::Standalone,
    tree::{assert_same, describe},
};

/// Whose it is.
pub const OWNER: &str = "user-1";

/// Starts it, with so many MiB of random files.
pub async fn launch(mut standalone: Standalone, mib: usize) -> Result<(Standalone, Api)> {
    let root = standalone.agent_dir("agent");
    fixture::random_files(&root, mib, 1 << 20, 1)?;
    start(&mut standalone).await?;
    let user = standalone.user(OWNER).await?;
    Ok((standalone, user))
}

/// Starts it, with what lies in the folder by now.
pub async fn start(standalone: &mut Standalone) -> Result<()> {
    standalone.launch().await?;
    register(standalone).await
}

/// Registers what lies in the folder.
pub async fn register(standalone: &Standalone) -> Result<()> {
    let root = standalone.agent_dir("agent");
    let mut control = standalone.control_plane().await?;
    control.register_directory("agent", OWNER, &root).await?;
    Ok(())
}

/// Restores a backup, which must be the agent as it is now.
pub async fn restores(standalone: &Standalone, user: &mut Api, backup_id: &str) -> Result<()> {
    let name = format!("restored-{:08x}", rand::random::<u32>());
    let target = standalone.agent_dir(&name);
    user.restore_directory(backup_id, &name, &target).await?;
    assert_same(
        &describe(&standalone.agent_dir("agent"))?,
        &describe(&target)?,
    );
    Ok(())
}
