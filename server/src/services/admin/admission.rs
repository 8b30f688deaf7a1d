//! Whether there is room for another workspace.

use proto::backup::v1::{CheckWorkspaceCreationRequest, CheckWorkspaceCreationResponse};

use super::Admin;
use crate::{services::Call, status::ApiError, validation::Checks};

impl Admin {
    pub(super) async fn admission(
        &self,
        call: Call<CheckWorkspaceCreationRequest>,
    ) -> Result<CheckWorkspaceCreationResponse, ApiError> {
        let mut checks = Checks::new();
        checks.workspace("workspace_id", &call.message.workspace_id);
        checks.done()?;
        let stored_bytes = self.state.catalog.stored_bytes().await?;
        let answer = answer(stored_bytes, self.state.storage_limit_bytes);
        if !answer.allowed {
            tracing::warn!(
                workspace_id = call.message.workspace_id,
                stored_bytes,
                limit_bytes = answer.limit_bytes,
                "no room for another workspace"
            );
        }
        Ok(answer)
    }
}

fn answer(stored_bytes: u64, limit_bytes: u64) -> CheckWorkspaceCreationResponse {
    let allowed = limit_bytes == 0 || stored_bytes < limit_bytes;
    let percent = (u128::from(stored_bytes) * 100).checked_div(u128::from(limit_bytes));
    CheckWorkspaceCreationResponse {
        allowed,
        message: if allowed {
            String::new()
        } else {
            format!(
                "backups take {stored_bytes} bytes, and NORA_BACKUP_STORAGE_MB allows \
                 {limit_bytes}: remove backups or agents, or raise it"
            )
        },
        stored_bytes,
        limit_bytes,
        used_percent: percent.unwrap_or(0).try_into().unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_below_the_limit() {
        let of = |stored, limit| {
            let answer = answer(stored, limit);
            assert_eq!(answer.allowed, answer.message.is_empty());
            (answer.allowed, answer.used_percent)
        };
        assert_eq!(of(0, 0), (true, 0));
        assert_eq!(of(u64::MAX, 0), (true, 0));
        assert_eq!(of(999, 1_000), (true, 99));
        assert_eq!(of(1_000, 1_000), (false, 100));
        assert_eq!(of(2_500, 1_000), (false, 250));
        assert_eq!(of(u64::MAX, 1), (false, u32::MAX));
    }
}
