//! Panics go on where the work was asked for, so that the runner sees them.

use tokio::task::JoinHandle;

/// Waits for a task; a panic in it goes on here.
pub(crate) async fn join<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Tasks are aborted only when the whole runtime is taken down.
            Err(error) => panic!("the runtime ended before its work: {error}"),
        },
    }
}
