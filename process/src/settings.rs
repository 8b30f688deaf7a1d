//! Values of settings as text: empty means not set, the default.

use std::time::Duration;

/// A setting that is a whole number.
#[derive(Debug)]
pub struct Whole {
    /// The environment variable.
    pub variable: &'static str,
    /// What holds when it is not set.
    pub default: u64,
    /// The same as text, for the help.
    pub default_text: &'static str,
    /// The least allowed value.
    pub min: u64,
    /// The largest allowed value.
    pub max: u64,
    /// What is counted, with a space before it.
    pub unit: &'static str,
}

impl Whole {
    /// The number.
    pub fn number(&self, text: &str) -> Result<u64, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(self.default);
        }
        text.parse()
            .ok()
            .filter(|value| (self.min..=self.max).contains(value))
            .ok_or_else(|| {
                format!(
                    "{} may hold a whole number from {} to {}{}",
                    self.variable, self.min, self.max, self.unit
                )
            })
    }

    /// The number as a type that the largest allowed value fits into.
    pub fn count<T: TryFrom<u64>>(&self, text: &str) -> Result<T, String> {
        let number = self.number(text)?;
        T::try_from(number).map_err(|_| format!("{} is too large: {number}", self.variable))
    }

    /// The number as milliseconds.
    pub fn millis(&self, text: &str) -> Result<Duration, String> {
        self.number(text).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTING: Whole = Whole {
        variable: "NORA_BACKUP_OF_TESTS",
        default: 7,
        default_text: "7",
        min: 1,
        max: 300,
        unit: " ms",
    };

    #[test]
    fn empty_is_the_default_and_what_is_out_of_bounds_is_refused_by_name() {
        assert_eq!(SETTING.number(" "), Ok(7));
        assert_eq!(SETTING.count::<u16>("300"), Ok(300));
        assert_eq!(SETTING.millis(" 12 "), Ok(Duration::from_millis(12)));
        let refused = "NORA_BACKUP_OF_TESTS may hold a whole number from 1 to 300 ms".to_owned();
        for text in ["0", "301", "x", "-1", "1.5"] {
            assert_eq!(SETTING.number(text), Err(refused.clone()), "{text}");
        }
        let small = SETTING.count::<u8>("300").unwrap_err();
        assert!(small.contains("NORA_BACKUP_OF_TESTS"), "{small}");
    }
}
