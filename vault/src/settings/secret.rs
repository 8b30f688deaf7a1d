//! A setting that is a secret.

use std::fmt;

use zeroize::Zeroizing;

/// Text that no message, log line or `Debug` shows, and that is overwritten when
/// it is dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() {
            "Secret(unset)"
        } else {
            "Secret(..)"
        })
    }
}

/// What clap reads a secret with.
pub(crate) fn parser() -> impl clap::builder::TypedValueParser<Value = Secret> {
    use clap::builder::TypedValueParser as _;
    clap::builder::StringValueParser::new().map(Secret::from)
}
