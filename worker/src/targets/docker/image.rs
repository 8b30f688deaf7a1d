//! Which image a new container is made from.

use bollard::models::ImageInspect;
use proto::vault::v1::RuntimeDocument;

use super::{super::warnings::Warnings, choices::Choices, engine_failed};
use crate::{sources::docker::engine::Engine, targets::TargetError};

/// An image that is on the engine.
pub(super) struct Chosen {
    /// What the container is made with.
    pub(super) reference: String,
    /// What the engine says of it.
    pub(super) inspect: ImageInspect,
}

impl Chosen {
    /// The image's id.
    pub(super) fn id(&self) -> &str {
        self.inspect.id.as_deref().unwrap_or_default()
    }
}

/// Finds the image: the one that the plan or a decision names, else exactly the backup's.
pub(super) async fn choose(
    engine: &Engine,
    planned: &str,
    choices: &Choices,
    runtime: &RuntimeDocument,
    warnings: &mut Warnings,
) -> Result<Chosen, TargetError> {
    let named = [planned, choices.image().unwrap_or_default()];
    if let Some(named) = named.into_iter().find(|named| !named.is_empty()) {
        let Some(found) = find(engine, named).await? else {
            return Err(TargetError::ImageMissing(format!(
                "image {named} is not on the Docker Engine: load or pull it there, or name another \
                 one, and start the restore again"
            )));
        };
        if found.id() != runtime.image_id {
            warnings.add(format!(
                "the new container is made from image {named} ({}), and the backup's was made from \
                 {} ({})",
                found.id(),
                runtime.image,
                runtime.image_id
            ));
        }
        return Ok(found);
    }
    let by_reference = find(engine, &runtime.image).await?;
    if let Some(found) = &by_reference
        && found.id() == runtime.image_id
    {
        return Ok(by_reference.expect("just looked at"));
    }
    let exact = std::iter::once(&runtime.image_id).chain(&runtime.image_digests);
    for reference in exact {
        if let Some(found) = find(engine, reference).await? {
            return Ok(found);
        }
    }
    Err(TargetError::ImageMissing(match by_reference {
        None => format!(
            "image {} ({}) is not on the Docker Engine: load or pull it there, or name another \
             one, and start the restore again",
            runtime.image, runtime.image_id
        ),
        Some(other) => format!(
            "image {} on the Docker Engine is {}, and the backup was made with {}: load that one, \
             or name an image in a new restore to use it as it is",
            runtime.image,
            other.id(),
            runtime.image_id
        ),
    }))
}

async fn find(engine: &Engine, reference: &str) -> Result<Option<Chosen>, TargetError> {
    if !is_reference(reference) {
        return Ok(None);
    }
    match engine.inspect_image(reference).await {
        Ok(inspect) => Ok(Some(Chosen {
            reference: reference.to_owned(),
            inspect,
        })),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(engine_failed(error)),
    }
}

/// Whether a text can name an image, and means nothing more in a URL.
fn is_reference(text: &str) -> bool {
    !text.contains("..")
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_images_and_nothing_else() {
        for good in [
            "a",
            "a:1",
            "host:5000/a/b:1",
            "a@sha256:00ff",
            "sha256:00ff",
        ] {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "../containers", "a?b", "a#b", "a b", "-a", "a%2f"] {
            assert!(!is_reference(bad), "{bad}");
        }
    }
}
