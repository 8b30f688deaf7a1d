//! The form of the ids that callers choose: of agents and destinations, and of pools.

/// Longest id.
const CHARS_MAX: usize = 64;
/// What a new id must be, for messages.
pub const FORM: &str = "must be 1 to 64 characters of a-z, 0-9, '-' and '_', beginning with a \
                        letter or digit";

/// 1 to 64 characters of a-z, 0-9, '-' and '_'.
pub fn is_slug(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= CHARS_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
}

/// The same, beginning with a letter or digit: see [`FORM`].
pub fn is_new(id: &str) -> bool {
    is_slug(id) && !id.starts_with(['-', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_form() {
        let longest = "a".repeat(CHARS_MAX);
        for id in ["a", "7", "my-agent_2", &longest] {
            assert!(is_new(id), "{id}");
        }
        let longer = "a".repeat(CHARS_MAX + 1);
        for id in ["", "-a", "_a", "A", "a.b", "a b", "ä", &longer] {
            assert!(!is_new(id), "{id}");
        }
        assert!(is_slug("-a") && is_slug("_"));
        assert!(FORM.contains(&CHARS_MAX.to_string()));
    }
}
