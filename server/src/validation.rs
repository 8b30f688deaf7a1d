//! Checks of what requests hold: the limits that the comments of the contract name.
//!
//! A [`Checks`] gathers every fault of a request, by field, so that a caller learns them all at
//! once.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
    time::Duration,
};

use proto::{
    backup::v1::{
        Agent, DirectorySource, DockerSource, Hooks, Integration, RestorePlan, Source,
        restore_plan, source::Kind,
    },
    ids,
};
use tonic_types::FieldViolation;

use crate::status::ApiError;

/// Default and largest page of most lists.
pub const PAGE_DEFAULT: u64 = 50;
/// Default page of the entries of a backup.
pub const ENTRY_PAGE_DEFAULT: u64 = 100;
/// Items in a page at the most.
pub const PAGE_MAX: u64 = 1_000;
/// Longest path of an entry.
pub const ENTRY_PATH_BYTES_MAX: usize = 65_536;

const NAME_CHARS_MAX: usize = 200;
const OWNER_CHARS_MAX: usize = 128;
const WORKSPACE_CHARS_MAX: usize = 128;
const RESOURCE_ID_CHARS_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 4_096;
const CONTAINER_CHARS_MAX: usize = 255;
const CAPTURE_PATHS_MAX: usize = 100;
const HOOK_ARGUMENTS_MAX: usize = 64;
const HOOK_BYTES_MAX: usize = 16_384;
const HOOK_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(10);
const INTEGRATIONS_MAX: usize = 100;
const INTEGRATION_TYPE_CHARS_MAX: usize = 64;
const CONFIG_BYTES_MAX: usize = 65_536;
const REQUEST_ID_CHARS_MAX: usize = 64;
const CHOICES_MAX: usize = 200;
const CHOICE_CHARS_MAX: usize = 512;
const IMAGE_CHARS_MAX: usize = 512;
const PAGE_TOKEN_CHARS_MAX: usize = 200_000;

/// The faults found so far.
#[derive(Default)]
pub struct Checks {
    faults: Vec<FieldViolation>,
}

impl Checks {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All faults as one error, when there are any.
    pub fn done(self) -> Result<(), ApiError> {
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid(self.faults))
        }
    }

    /// Notes a fault of a field.
    pub fn fault(&mut self, field: impl Into<String>, what: impl Into<String>) {
        self.faults.push(FieldViolation::new(field, what));
    }

    /// Notes a fault unless the condition holds.
    pub fn that(&mut self, holds: bool, field: &str, what: &str) {
        if !holds {
            self.fault(field, what);
        }
    }

    /// An id of something that exists: whether it does is for the catalog to say.
    pub fn id(&mut self, field: &str, id: &str) {
        if id.is_empty() {
            self.fault(field, "is required");
        } else if id.chars().count() > RESOURCE_ID_CHARS_MAX || id.chars().any(char::is_control) {
            self.fault(
                field,
                format!("must be an id of at most {RESOURCE_ID_CHARS_MAX} characters"),
            );
        }
    }

    /// As [`Checks::id`], where empty means "any".
    pub fn optional_id(&mut self, field: &str, id: &str) {
        if !id.is_empty() {
            self.id(field, id);
        }
    }

    /// Free text for people.
    pub fn text(&mut self, field: &str, text: &str, chars_max: usize) {
        if text.chars().count() > chars_max {
            self.fault(field, format!("must be at most {chars_max} characters"));
        } else if text.chars().any(char::is_control) {
            self.fault(field, "must not hold control characters");
        }
    }

    /// A name for people, which may be empty for its default.
    pub fn name(&mut self, field: &str, name: &str) {
        self.text(field, name, NAME_CHARS_MAX);
    }

    /// A workspace.
    pub fn workspace(&mut self, field: &str, workspace: &str) {
        self.text(field, workspace, WORKSPACE_CHARS_MAX);
    }

    /// An owner.
    pub fn owner(&mut self, field: &str, owner: &str) {
        self.text(field, owner, OWNER_CHARS_MAX);
    }

    /// The id of a new agent.
    pub fn agent_id(&mut self, field: &str, id: &str) {
        self.that(ids::is_new(id), field, ids::FORM);
    }

    /// An idempotency id.
    pub fn request_id(&mut self, request_id: &str) {
        self.that(
            request_id.len() <= REQUEST_ID_CHARS_MAX
                && request_id.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
            "request_id",
            "must be at most 64 characters of printable ASCII",
        );
    }

    /// A page size; answers what it counts as.
    pub fn page_size(&mut self, size: i32, default: u64) -> u64 {
        self.that(size >= 0, "page_size", "must not be negative");
        match u64::try_from(size) {
            Ok(0) | Err(_) => default,
            Ok(size) => size.min(PAGE_MAX),
        }
    }

    /// A page token's length; what it says is checked where it is opened.
    pub fn page_token(&mut self, token: &str) {
        self.that(
            token.len() <= PAGE_TOKEN_CHARS_MAX,
            "page_token",
            "is not a token of this service",
        );
    }

    /// A path within a backup.
    pub fn entry_path(&mut self, field: &str, path: &[u8]) {
        let parts_ok = path.is_empty()
            || path.split(|byte| *byte == b'/').all(|part| {
                !part.is_empty() && part != b"." && part != b".." && !part.contains(&0)
            });
        self.that(
            parts_ok && path.len() <= ENTRY_PATH_BYTES_MAX,
            field,
            "must be a path as ListBackupEntries shows it: components joined by '/', none empty, \
             '.' or '..', at most 65,536 bytes",
        );
    }

    /// An agent to register.
    pub fn agent(&mut self, agent: &Agent) {
        self.agent_id("agent.agent_id", &agent.agent_id);
        self.name("agent.display_name", &agent.display_name);
        self.that(!agent.owner_id.is_empty(), "agent.owner_id", "is required");
        self.owner("agent.owner_id", &agent.owner_id);
        self.workspace("agent.workspace_id", &agent.workspace_id);
        self.that(
            agent.pool.is_empty() || ids::is_slug(&agent.pool),
            "agent.pool",
            "must be 1 to 64 characters of a-z, 0-9, '-' and '_'",
        );
        self.source(agent.source.as_ref());
        if let Err(bad) = catalog::Patterns::new(&agent.patterns) {
            self.fault(format!("agent.patterns[{}]", bad.index), bad.why);
        }
        self.that(
            i64::try_from(agent.size_warning_bytes).is_ok(),
            "agent.size_warning_bytes",
            "must be less than 2^63",
        );
        for (field, id) in [
            ("agent.destination_id", &agent.destination_id),
            ("agent.second_destination_id", &agent.second_destination_id),
        ] {
            if !id.is_empty() {
                self.agent_id(field, id);
            }
        }
        let first = match agent.destination_id.as_str() {
            "" => destinations::DEFAULT,
            first => first,
        };
        self.that(
            agent.second_destination_id != first,
            "agent.second_destination_id",
            "must be another one than the first",
        );
        self.integrations(&agent.integrations);
    }

    fn source(&mut self, source: Option<&Source>) {
        match source.and_then(|source| source.kind.as_ref()) {
            None => self.fault("agent.source", "must be set to directory or docker"),
            Some(Kind::Directory(DirectorySource { path })) => {
                self.absolute_path("agent.source.directory.path", path);
            }
            Some(Kind::Docker(DockerSource {
                container,
                paths,
                consistency,
                hooks,
            })) => {
                self.that(
                    !container.is_empty() && is_container(container),
                    "agent.source.docker.container",
                    "must be a container's id or name, 1 to 255 characters of a-z, A-Z, 0-9, '_', \
                     '.' and '-'",
                );
                self.that(
                    paths.len() <= CAPTURE_PATHS_MAX,
                    "agent.source.docker.paths",
                    "must be at most 100 paths",
                );
                for (index, path) in paths.iter().enumerate().take(CAPTURE_PATHS_MAX) {
                    self.absolute_path(&format!("agent.source.docker.paths[{index}]"), path);
                }
                self.that(
                    proto::backup::v1::Consistency::try_from(*consistency).is_ok(),
                    "agent.source.docker.consistency",
                    "must be a value of Consistency",
                );
                if let Some(hooks) = hooks {
                    self.hooks(hooks);
                }
            }
        }
    }

    fn hooks(&mut self, hooks: &Hooks) {
        const FIELD: &str = "agent.source.docker.hooks";
        self.that(
            hooks.before.is_some() || hooks.after.is_some(),
            FIELD,
            "must have a command before or after, or be left out",
        );
        for (name, command) in [("before", &hooks.before), ("after", &hooks.after)] {
            let Some(command) = command else { continue };
            let field = |part: &str| format!("{FIELD}.{name}.{part}");
            let bytes: usize = command.argv.iter().map(String::len).sum();
            self.that(
                (1..=HOOK_ARGUMENTS_MAX).contains(&command.argv.len())
                    && bytes <= HOOK_BYTES_MAX
                    && command.argv.iter().all(|argument| !argument.contains('\0'))
                    && command
                        .argv
                        .first()
                        .is_some_and(|program| !program.is_empty()),
                &field("argv"),
                "must be a program and its arguments: 1 to 64, together at most 16,384 bytes",
            );
            self.text(&field("user"), &command.user, OWNER_CHARS_MAX);
            let fits = command.timeout.is_none_or(|timeout| {
                Duration::try_from(timeout).is_ok_and(|timeout| HOOK_TIMES.contains(&timeout))
            });
            self.that(fits, &field("timeout"), "must be 1 second to 10 minutes");
        }
    }

    fn integrations(&mut self, integrations: &[Integration]) {
        self.that(
            integrations.len() <= INTEGRATIONS_MAX,
            "agent.integrations",
            "must be at most 100",
        );
        let mut names = HashSet::new();
        for (index, integration) in integrations.iter().enumerate().take(INTEGRATIONS_MAX) {
            let field = |name: &str| format!("agent.integrations[{index}].{name}");
            if integration.r#type.is_empty() {
                self.fault(field("type"), "is required");
            }
            self.text(
                &field("type"),
                &integration.r#type,
                INTEGRATION_TYPE_CHARS_MAX,
            );
            if integration.name.is_empty() {
                self.fault(field("name"), "is required");
            }
            self.name(&field("name"), &integration.name);
            if !names.insert((&integration.r#type, &integration.name)) {
                self.fault(field("name"), "is the name of another one of this type");
            }
            let config = &integration.config_json;
            if config.len() > CONFIG_BYTES_MAX {
                self.fault(field("config_json"), "must be at most 65,536 bytes");
            } else if !config.is_empty()
                && serde_json::from_str::<serde::de::IgnoredAny>(config).is_err()
            {
                self.fault(field("config_json"), "must be JSON");
            }
        }
    }

    /// What is wished of a restore; everything may be left out.
    pub fn plan(&mut self, plan: &RestorePlan) {
        if !plan.agent_id.is_empty() {
            self.agent_id("plan.agent_id", &plan.agent_id);
        }
        self.name("plan.display_name", &plan.display_name);
        self.workspace("plan.workspace_id", &plan.workspace_id);
        match &plan.target {
            Some(restore_plan::Target::Directory(target)) if !target.path.is_empty() => {
                self.absolute_path("plan.directory.path", &target.path);
            }
            Some(restore_plan::Target::Docker(target)) => {
                self.that(
                    is_container(&target.container_name),
                    "plan.docker.container_name",
                    "must be at most 255 characters of a-z, A-Z, 0-9, '_', '.' and '-'",
                );
                self.image("plan.docker.image", &target.image);
            }
            _ => {}
        }
    }

    /// An image reference, which may be empty.
    pub fn image(&mut self, field: &str, image: &str) {
        self.that(
            image.len() <= IMAGE_CHARS_MAX && image.bytes().all(|byte| byte.is_ascii_graphic()),
            field,
            "must be an image reference of at most 512 characters",
        );
    }

    /// The choices of a start.
    pub fn choices(&mut self, choices: &HashMap<String, String>) {
        self.that(
            choices.len() <= CHOICES_MAX,
            "choices",
            "must be at most 200",
        );
        for (decision, choice) in choices.iter().take(CHOICES_MAX) {
            self.text("choices", decision, CHOICE_CHARS_MAX);
            self.text(&format!("choices[{decision}]"), choice, CHOICE_CHARS_MAX);
        }
    }

    fn absolute_path(&mut self, field: &str, path: &str) {
        let ok = path.starts_with('/')
            && path.len() <= PATH_BYTES_MAX
            && !path.contains('\0')
            && !path.split('/').any(|part| part == "." || part == "..");
        self.that(
            ok,
            field,
            "must be an absolute path of at most 4,096 bytes without '.' and '..'",
        );
    }
}

fn is_container(text: &str) -> bool {
    text.len() <= CONTAINER_CHARS_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && !text.starts_with(['.', '-', '_'])
}

#[cfg(test)]
mod tests;
