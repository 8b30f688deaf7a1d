//! `token`: access tokens, made with the secret that the service checks them with.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    error::{CliError, Result},
    output::Output,
    standalone::data_dir,
};

/// The shortest secret that a server takes.
const SECRET_BYTES_MIN: usize = 32;

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it
    #[command(after_help = "Examples:\n  nora-backup token mint --user user-7\n  \
        nora-backup token mint --user control-plane --role service --ttl 30d\n  \
        JWT_SECRET=... nora-backup token mint --user root --role admin --ttl 15m")]
    Mint(MintArgs),
}

/// Arguments of `token mint`.
#[derive(Debug, Args)]
pub struct MintArgs {
    /// The user it is for
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// What the user may do
    #[arg(long, value_enum, default_value_t = Role::User, value_name = "ROLE")]
    pub role: Role,
    /// How long it is valid: a number with s, m, h or d
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = span)]
    pub ttl: Duration,
    /// Secret that signs it [default: the one in the data directory]
    #[arg(
        long,
        env = "JWT_SECRET",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub jwt_secret: Option<String>,
    /// Audience to name, when the service asks for one
    #[arg(long, env = "NORA_BACKUP_JWT_AUDIENCE", value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Issuer to name, when the service asks for one
    #[arg(long, env = "NORA_BACKUP_JWT_ISSUER", value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,
    /// The standalone's data directory [default: the standalone's own default]
    #[arg(long, env = "NORA_BACKUP_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Its own agents and their backups.
    User,
    /// Registers agents.
    Service,
    /// Everything.
    Admin,
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub id: String,
    /// What the user may do.
    pub role: Role,
    /// When it was made, seconds since 1970.
    pub iat: u64,
    /// When it ends, seconds since 1970.
    pub exp: u64,
    /// Whom it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
}

impl Claims {
    /// For a user, from now on.
    pub fn new(user: &str, role: Role, ttl: Duration) -> Self {
        let iat = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        let exp = iat.saturating_add(ttl.as_secs());
        Self {
            id: user.to_string(),
            role,
            iat,
            exp,
            aud: None,
            iss: None,
        }
    }

    /// The signed token.
    pub fn sign(&self, secret: &str) -> Result<String> {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), self, &key)
            .map_err(|error| CliError::failed(format!("sign the token: {error}")))
    }
}

/// Runs one of them.
pub fn run(command: TokenCommand, out: Output) -> Result<()> {
    let TokenCommand::Mint(args) = command;
    let secret = match args.jwt_secret.filter(|secret| !secret.trim().is_empty()) {
        Some(secret) => secret.trim().to_string(),
        None => data_dir::read_jwt_secret(args.data_dir)?,
    };
    if secret.len() < SECRET_BYTES_MIN {
        return Err(CliError::usage(format!(
            "JWT_SECRET holds {} bytes; it has to hold {SECRET_BYTES_MIN} at least",
            secret.len()
        )));
    }
    let not_empty = |text: &String| !text.is_empty();
    let mut claims = Claims::new(&args.user, args.role, args.ttl);
    claims.aud = args.jwt_audience.filter(not_empty);
    claims.iss = args.jwt_issuer.filter(not_empty);
    let token = claims.sign(&secret)?;
    if out.json {
        return out.document(&json!({
            "token": token,
            "user": claims.id,
            "role": claims.role,
            "expire_time_seconds": claims.exp,
        }));
    }
    out.line(token)
}

/// A length of time as people type it: a number with s, m, h or d.
pub fn span(text: &str) -> Result<Duration, String> {
    let help = "write a number with s, m, h or d, for example 15m or 30d";
    let unit = text.chars().last().ok_or(help)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(help.to_string()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| help)?;
    number
        .checked_mul(seconds)
        .filter(|seconds| (1..=100 * 366 * 86400).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "from 1s to 100 years".to_string())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    #[test]
    fn spans() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("30d"), Ok(Duration::from_hours(720)));
        for wrong in ["", "5", "h", "-1h", "0s", "1w", "99999999999d", "é"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_say_who_and_until_when() {
        let secret = "a secret that is long enough to be one";
        let claims = Claims::new("u1", Role::Service, Duration::from_mins(1));
        let token = claims.sign(secret).expect("sign");
        let key = DecodingKey::from_secret(secret.as_bytes());
        let read = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &Validation::default())
            .expect("valid")
            .claims;
        assert_eq!(
            (read["id"].as_str(), read["role"].as_str()),
            (Some("u1"), Some("service"))
        );
        assert!(read.get("aud").is_none());
    }
}
