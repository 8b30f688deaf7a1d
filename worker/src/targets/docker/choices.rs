//! What was decided of a restore. Whatever was not decided is dropped.

use std::collections::HashMap;

use proto::backup::v1::{RestoreDecision, restore_decision::Kind};

/// Choices by their decisions' names.
pub(super) struct Choices {
    by_id: HashMap<String, String>,
    image: Option<String>,
    keeps_all: bool,
}

/// What becomes of something that can't be copied as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// It is left out.
    Drop,
    /// As it was.
    Same,
    /// A port: any free one.
    Random,
    /// A bind mount: a new volume.
    Volume,
}

impl Choices {
    /// As the decisions have them.
    pub(super) fn of(decisions: &[RestoreDecision]) -> Self {
        let image = decisions
            .iter()
            .find(|decision| decision.kind() == Kind::Image && !decision.choice.is_empty())
            .map(|decision| decision.choice.clone());
        Self {
            by_id: decisions
                .iter()
                .map(|decision| (decision.decision_id.clone(), decision.choice.clone()))
                .collect(),
            image,
            keeps_all: false,
        }
    }

    /// Everything as it was: the container takes the place of the one that had it.
    pub(super) fn same() -> Self {
        Self {
            by_id: HashMap::new(),
            image: None,
            keeps_all: true,
        }
    }

    /// Whether everything is as it was.
    pub(super) fn keeps_all(&self) -> bool {
        self.keeps_all
    }

    /// The image that was named instead.
    pub(super) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// A published port, such as "8080/tcp".
    pub(super) fn port(&self, port: &str) -> Choice {
        self.of_kind("port", port)
    }

    /// A bind mount, by its place in the container.
    pub(super) fn bind_mount(&self, target: &str) -> Choice {
        self.of_kind("bind", target)
    }

    /// Whether a network is kept.
    pub(super) fn keeps_network(&self, name: &str) -> bool {
        self.of_kind("network", name) == Choice::Same
    }

    /// Whether a privilege is kept.
    pub(super) fn keeps_privilege(&self, name: &str) -> bool {
        self.of_kind("privilege", name) == Choice::Same
    }

    fn of_kind(&self, kind: &str, name: &str) -> Choice {
        match self
            .by_id
            .get(&format!("{kind}:{name}"))
            .map(String::as_str)
        {
            Some("same") => Choice::Same,
            Some("random") => Choice::Random,
            Some("volume") => Choice::Volume,
            None if self.keeps_all => Choice::Same,
            _ => Choice::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_decided_is_dropped() {
        let decision = |id: &str, kind: Kind, choice: &str| RestoreDecision {
            decision_id: id.to_owned(),
            kind: kind.into(),
            choice: choice.to_owned(),
            ..RestoreDecision::default()
        };
        let choices = Choices::of(&[
            decision("port:80/tcp", Kind::Port, "random"),
            decision("bind:/host", Kind::BindMount, "volume"),
            decision("network:inner", Kind::Network, "same"),
            decision("privilege:privileged", Kind::Privilege, "drop"),
            decision("image", Kind::Image, "other:1"),
        ]);
        assert_eq!(choices.port("80/tcp"), Choice::Random);
        assert_eq!(choices.port("81/tcp"), Choice::Drop);
        assert_eq!(choices.bind_mount("/host"), Choice::Volume);
        assert!(choices.keeps_network("inner") && !choices.keeps_network("host"));
        assert!(!choices.keeps_privilege("privileged"));
        assert_eq!(choices.image(), Some("other:1"));
    }
}
