//! Labels that this program puts on what it makes on an engine.

/// The restore that made a container, volume or image.
pub(crate) const RESTORE_ID: &str = "nora.backup.restore_id";
/// The restore's attempt that made it.
pub(crate) const RESTORE_ATTEMPT: &str = "nora.backup.restore_attempt";
/// The reference of the image that a container was meant to be made from, where it had to be made
/// from one without the paths that the agent had removed.
pub(crate) const IMAGE: &str = "nora.backup.image";
/// That image's id.
pub(crate) const IMAGE_ID: &str = "nora.backup.image_id";
/// Paths that the agent had removed from that image, as a JSON array of text.
pub(crate) const DELETED_PATHS: &str = "nora.backup.deleted_paths";

/// Id of the container that this one replaces.
pub(crate) const REPLACES: &str = "nora.backup.replaces";
/// That container's name.
pub(crate) const REPLACES_NAME: &str = "nora.backup.replaces_name";
/// Whether it ran: "true" or "false".
pub(crate) const REPLACES_RUNNING: &str = "nora.backup.replaces_running";
/// Its volumes that were replaced, as a JSON array of names.
pub(crate) const REPLACES_VOLUMES: &str = "nora.backup.replaces_volumes";

/// All of them.
pub(crate) const ALL: [&str; 9] = [
    RESTORE_ID,
    RESTORE_ATTEMPT,
    IMAGE,
    IMAGE_ID,
    DELETED_PATHS,
    REPLACES,
    REPLACES_NAME,
    REPLACES_RUNNING,
    REPLACES_VOLUMES,
];
