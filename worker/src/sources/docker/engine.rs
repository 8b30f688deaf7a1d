//! The Docker Engine as this worker talks to it: every call has a time limit, and says what the
//! engine itself said when it refuses.

use std::time::Duration;

use bollard::{
    Docker,
    container::PathStatResponse,
    errors::Error,
    models::{ContainerInspectResponse, FilesystemChange, ImageInspect, Volume},
    query_parameters::{ContainerArchiveInfoOptionsBuilder, InspectContainerOptions},
};
use tokio::time::timeout;

use crate::settings::WorkerSettings;

/// How long an answer may take.
pub(crate) const ANSWER_MAX: Duration = Duration::from_mins(1);
/// How long a stream may go without a byte.
pub(crate) const PROGRESS_MAX: Duration = Duration::from_mins(1);
/// How long the engine may take to list what differs from an image: it compares the two.
const CHANGES_MAX: Duration = Duration::from_mins(10);
/// What the client itself allows: longer than any limit of ours.
const CLIENT_MAX: Duration = Duration::from_hours(24 * 30);

/// Why the engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// It can't be reached, or does not answer in time.
    #[error(
        "the Docker Engine does not answer ({0}): start it, or have the worker's \
         NORA_BACKUP_DOCKER_HOST name the right one"
    )]
    Unavailable(String),
    /// It answered with an error.
    #[error("the Docker Engine refused to {action}: {message}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// The HTTP status.
        status: u16,
        /// Its own words.
        message: String,
    },
}

impl EngineError {
    /// From the client's error.
    pub(crate) fn of(action: &'static str, error: Error) -> Self {
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Self::Refused {
                action,
                status: status_code,
                message: message.trim().to_owned(),
            },
            Error::DockerStreamError { error } => Self::Refused {
                action,
                status: 500,
                message: error,
            },
            Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => Self::Refused {
                action,
                status: 500,
                message: "its answer is not understood".to_owned(),
            },
            error => {
                tracing::debug!(action, %error, "call the Docker Engine");
                Self::Unavailable(cause(&error))
            }
        }
    }

    /// Whether it says that the thing in question is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether it says that something is in the way.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

/// What lies at the bottom of a chain of errors, without paths of this machine.
fn cause(error: &Error) -> String {
    let mut bottom: &dyn std::error::Error = error;
    loop {
        if let Some(error) = bottom.downcast_ref::<std::io::Error>()
            && error.raw_os_error().is_some()
        {
            return match error.kind() {
                std::io::ErrorKind::NotFound => "its socket is not there".to_owned(),
                kind => kind.to_string(),
            };
        }
        match bottom.source() {
            Some(below) => bottom = below,
            None => break,
        }
    }
    match error {
        Error::SocketNotFoundError(_) => "its socket is not there".to_owned(),
        Error::RequestTimeoutError => "it took too long".to_owned(),
        Error::UnsupportedURISchemeError { .. } => {
            "its address must begin with unix://, tcp:// or http://".to_owned()
        }
        // The words of these hold an address at the most.
        _ => bottom.to_string(),
    }
}

/// A Docker Engine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    docker: Docker,
}

impl Engine {
    /// Connects, and agrees on a version of its API.
    pub(crate) async fn connect(settings: &WorkerSettings) -> Result<Self, EngineError> {
        let docker = match settings.docker_host() {
            Some(host) => Docker::connect_with_host(host),
            None => Docker::connect_with_unix_defaults(),
        };
        let docker = docker
            .map_err(|error| EngineError::of("connect", error))?
            .with_timeout(CLIENT_MAX);
        let docker = limited("say its version", docker.negotiate_version()).await?;
        Ok(Self { docker })
    }

    /// The client itself, for calls that are made in one place only; see [`limited`].
    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Describes a container.
    pub(crate) async fn inspect(
        &self,
        container: &str,
    ) -> Result<ContainerInspectResponse, EngineError> {
        let call = self
            .docker
            .inspect_container(container, None::<InspectContainerOptions>);
        limited("describe the container", call).await
    }

    /// Describes an image.
    pub(crate) async fn inspect_image(&self, image: &str) -> Result<ImageInspect, EngineError> {
        limited("describe the image", self.docker.inspect_image(image)).await
    }

    /// Describes a volume.
    pub(crate) async fn inspect_volume(&self, volume: &str) -> Result<Volume, EngineError> {
        limited("describe the volume", self.docker.inspect_volume(volume)).await
    }

    /// What differs from the image.
    pub(crate) async fn changes(
        &self,
        container: &str,
    ) -> Result<Vec<FilesystemChange>, EngineError> {
        let action = "list what differs from the image";
        let call = self.docker.container_changes(container);
        let changes = limited_to(CHANGES_MAX, action, call).await?;
        Ok(changes.unwrap_or_default())
    }

    /// What is at a path of a container, links not followed; `None`: nothing.
    pub(crate) async fn stat(
        &self,
        container: &str,
        path: &str,
    ) -> Result<Option<PathStatResponse>, EngineError> {
        let options = ContainerArchiveInfoOptionsBuilder::new().path(path).build();
        let call = self
            .docker
            .get_container_archive_info(container, Some(options));
        match limited("look at a path", call).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Freezes a container's processes.
    pub(crate) async fn pause(&self, container: &str) -> Result<(), EngineError> {
        let call = self.docker.pause_container(container);
        limited("pause the container", call).await
    }

    /// Lets a container's processes go on.
    pub(crate) async fn unpause(&self, container: &str) -> Result<(), EngineError> {
        let call = self.docker.unpause_container(container);
        limited("resume the container", call).await
    }
}

/// Waits for an answer no longer than [`ANSWER_MAX`].
pub(crate) async fn limited<T>(
    action: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    limited_to(ANSWER_MAX, action, call).await
}

/// The same with a limit of its own.
pub(crate) async fn limited_to<T>(
    limit: Duration,
    action: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| EngineError::of(action, error)),
        Err(_) => Err(EngineError::Unavailable(format!(
            "no answer within {} s when asked to {action}",
            limit.as_secs()
        ))),
    }
}

/// Whether a text is the name or id of a container, and nothing that means more in a URL.
pub(crate) fn is_container_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers_can_name_nothing_else() {
        for name in ["agent", "4f5e", "a_b.c-d"] {
            assert!(is_container_name(name), "{name}");
        }
        for name in [
            "",
            "/agent",
            "a/b",
            "../images",
            "a?x=1",
            "a%2fb",
            "-a",
            "a b",
        ] {
            assert!(!is_container_name(name), "{name}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_unavailable_and_no_path_is_told() {
        for host in [
            "unix:///nonexistent/engine.sock",
            "ftp://somewhere",
            "tcp://127.0.0.1:1",
        ] {
            let settings = WorkerSettings {
                docker_host: Some(host.to_owned()),
                ..WorkerSettings::default()
            };
            let error = Engine::connect(&settings).await.err().unwrap();
            assert!(matches!(error, EngineError::Unavailable(_)), "{error}");
            assert!(!error.to_string().contains("nonexistent"), "{error}");
        }
    }
}
