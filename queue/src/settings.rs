//! The settings of this crate: which RabbitMQ.

use std::{convert::Infallible, fmt, str::FromStr};

use clap::Args;

/// Which RabbitMQ brings jobs and events, and how it is watched.
#[derive(Args, Clone, Debug)]
pub struct AmqpSettings {
    /// RabbitMQ: amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS
    #[arg(
        long,
        env = "NORA_BACKUP_AMQP_URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub amqp_url: AmqpUrl,
    /// File of certificates (PEM) to trust beside the system's, for amqps://
    #[arg(
        long,
        env = "NORA_BACKUP_AMQP_CA_FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub amqp_ca_file: String,
    /// Silence of RabbitMQ after which its connection counts as lost, in seconds
    #[arg(long, env = "NORA_BACKUP_AMQP_HEARTBEAT_SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u16).range(2..=600))]
    pub amqp_heartbeat_seconds: u16,
}

impl AmqpSettings {
    /// The defaults, for a URL.
    pub fn new(url: &str) -> Self {
        Self {
            amqp_url: AmqpUrl(url.trim().to_owned()),
            amqp_ca_file: String::new(),
            amqp_heartbeat_seconds: 10,
        }
    }

    /// Whether there is a URL.
    pub fn is_set(&self) -> bool {
        !self.amqp_url.0.is_empty()
    }
}

/// RabbitMQ's URL, not yet checked. It is never shown: it may hold a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AmqpUrl(String);

impl AmqpUrl {
    /// The whole URL, password and all.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for AmqpUrl {
    /// Anything is taken here, for a refusal would print the value: connecting
    /// tells what is wrong with it.
    type Err = Infallible;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Ok(Self(value.trim().to_owned()))
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "(not set)"
        } else {
            "(hidden)"
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: AmqpSettings,
    }

    #[test]
    fn empty_is_not_set() {
        let settings = Line::parse_from(["test", "--amqp-url", ""]).settings;
        assert!(!settings.is_set());
    }

    #[test]
    fn the_url_is_never_shown() {
        let settings = Line::parse_from(["test", "--amqp-url", "amqp://a:secret@b"]).settings;
        assert!(settings.is_set());
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
