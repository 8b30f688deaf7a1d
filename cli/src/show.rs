//! Agents, backups, destinations and restores as people read them, one file a kind.

pub mod agents;
pub mod backups;
pub mod destinations;
pub mod entries;
pub mod restores;

pub use agents::{agent, agents};
pub use backups::{backup, backup_state, backups, warnings};
pub use destinations::{copies, destination, destinations, steps};
pub use entries::entry;
use proto::backup::v1::Failure;
pub use restores::{restore, restore_state, restores, target};

use crate::output::human;

/// How much of an id a list shows at least: the time in a UUIDv7, to the millisecond.
pub(crate) const SHORT_ID: usize = 13;

/// The message, with the reason behind it.
pub fn failure(failure: &Failure) -> String {
    let message = human::printable(&failure.message);
    match (failure.message.is_empty(), failure.reason.is_empty()) {
        (_, true) => message,
        (true, false) => human::printable(&failure.reason),
        (false, false) => format!("{message} ({})", human::printable(&failure.reason)),
    }
}

/// Why it failed, or what it waits for.
pub(crate) fn why(
    failed: Option<&Failure>,
    progress: Option<&proto::backup::v1::Progress>,
) -> String {
    match (failed, progress) {
        (Some(failed), _) => failure(failed),
        (None, Some(progress)) => human::printable(&progress.waiting_reason),
        (None, None) => String::new(),
    }
}

/// How many characters of the ids are needed to tell them apart, at the least
/// those of a time.
pub(crate) fn id_width<'a>(ids: impl Iterator<Item = &'a str>) -> usize {
    let ids: Vec<&str> = ids.collect();
    [SHORT_ID, 18, 23, 36]
        .into_iter()
        .find(|&width| {
            let mut short: Vec<&str> = ids.iter().map(|id| beginning(id, width)).collect();
            short.sort_unstable();
            short.windows(2).all(|pair| pair[0] != pair[1])
        })
        .unwrap_or(36)
}

pub(crate) fn beginning(id: &str, width: usize) -> &str {
    id.get(..width).unwrap_or(id)
}

pub(crate) fn unended<T>(done: bool, progress: Option<T>) -> Option<T> {
    if done { None } else { progress }
}

pub(crate) fn optional_time(time: Option<&prost_types::Timestamp>) -> String {
    time.map_or_else(String::new, |time| human::time_with_zone(Some(time)))
}

pub(crate) fn took(
    from: Option<&prost_types::Timestamp>,
    to: Option<&prost_types::Timestamp>,
) -> String {
    human::between(from, to).map_or_else(String::new, human::duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_begin_alike_are_shown_longer() {
        let a = "01932f3e-7c4b-7000-8000-000000000001";
        let b = "01932f3e-7c4b-7111-8000-000000000001";
        assert_eq!(id_width([a].into_iter()), 13);
        assert_eq!(id_width([a, b].into_iter()), 18);
    }
}
