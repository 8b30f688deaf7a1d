//! Who is calling: the one place where tokens are read.
//!
//! [`AuthGate`] stands before every service. It takes the `authorization: Bearer <token>` of a
//! call, checks it, and puts the [`Caller`] into the request's extensions. Health and reflection
//! pass without. What a caller may do is decided in `access`, not here.
//!
//! Tokens are JWTs, HS256 and nothing else, whatever their header says; `exp` is required.

use std::future::ready;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use proto::backup::v1::ErrorReason;
use serde::Deserialize;
use tonic::body::Body;

use crate::{
    gate::{Answer, Behind, Gate},
    settings::{ServerSettings, SettingsError},
    status::ApiError,
};

/// A secret shorter than this could be guessed.
const SECRET_BYTES_MIN: usize = 32;
/// A longer token is not ours.
const TOKEN_BYTES_MAX: usize = 8_192;
/// Ids are as long as an owner's may be.
const ID_CHARS_MAX: usize = 128;
/// How far clocks may be apart.
const LEEWAY_SECONDS: u64 = 30;

/// What a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person: sees what is its own.
    #[default]
    User,
    /// A part of Nora's control plane: says which agents exist.
    Service,
    /// Runs the platform: sees everything.
    Admin,
}

impl Role {
    /// As tokens and people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
            Self::Admin => "admin",
        }
    }
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The caller's id: a user's, or a service's name.
    pub id: String,
    /// What it is.
    pub role: Role,
}

#[derive(Deserialize)]
struct Claims {
    id: Option<String>,
    sub: Option<String>,
    #[serde(default)]
    role: Role,
}

/// Checks tokens.
pub struct Authenticator {
    key: DecodingKey,
    validation: Validation,
}

impl Authenticator {
    /// Refuses a secret that is missing or short.
    pub fn new(settings: &ServerSettings) -> Result<Self, SettingsError> {
        const VARIABLE: &str = "JWT_SECRET";
        let secret = settings.jwt_secret.as_bytes();
        if settings.jwt_secret.trim().is_empty() {
            return Err(SettingsError::new(
                VARIABLE,
                "is not set: set it to the secret that signs callers' tokens, at least 32 bytes, \
                 for example from `openssl rand -hex 32`",
            ));
        }
        if secret.len() < SECRET_BYTES_MIN {
            return Err(SettingsError::new(
                VARIABLE,
                format!(
                    "holds {} bytes: it must hold at least {SECRET_BYTES_MIN}, for example from \
                     `openssl rand -hex 32`",
                    secret.len()
                ),
            ));
        }
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        match settings.jwt_audience.trim() {
            "" => validation.validate_aud = false,
            audience => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
        }
        if !settings.jwt_issuer.trim().is_empty() {
            validation.set_issuer(&[settings.jwt_issuer.trim()]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Ok(Self {
            key: DecodingKey::from_secret(secret),
            validation,
        })
    }

    /// The caller whom the value of the `authorization` header names.
    pub fn caller(&self, authorization: Option<&http::HeaderValue>) -> Result<Caller, ApiError> {
        const FORM: &str = "send `authorization: Bearer <token>`";
        let Some(value) = authorization else {
            return Err(ApiError::new(
                ErrorReason::TokenMissing,
                format!("the call has no token: {FORM}"),
            ));
        };
        let invalid = |what: &str| {
            ApiError::new(
                ErrorReason::TokenInvalid,
                format!("the token is not accepted: {what}"),
            )
        };
        let token = value
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .filter(|token| !token.is_empty())
            .ok_or_else(|| {
                invalid(&format!(
                    "the authorization header has another form; {FORM}"
                ))
            })?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid("it is too long"));
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => ApiError::new(
                    ErrorReason::TokenExpired,
                    "the token has expired: get a new one",
                ),
                ErrorKind::ImmatureSignature => invalid("it is not valid yet"),
                ErrorKind::InvalidSignature => invalid("its signature is wrong"),
                ErrorKind::InvalidAudience => invalid("it is for another audience"),
                ErrorKind::InvalidIssuer => invalid("it is from another issuer"),
                ErrorKind::InvalidAlgorithm
                | ErrorKind::InvalidAlgorithmName
                | ErrorKind::UnsupportedAlgorithm => invalid("its algorithm is not HS256"),
                ErrorKind::MissingRequiredClaim(claim) => {
                    invalid(&format!("it has no claim {claim}"))
                }
                _ => invalid("it is not a well-formed JWT with the claims id (or sub), role, exp"),
            })?
            .claims;
        let id = claims
            .id
            .or(claims.sub)
            .filter(|id| !id.is_empty() && id.chars().count() <= ID_CHARS_MAX)
            .ok_or_else(|| invalid("it has no claim id or sub of 1 to 128 characters"))?;
        Ok(Caller {
            id,
            role: claims.role,
        })
    }
}

/// Whether a call passes without a token.
fn is_open(path: &str) -> bool {
    [
        "/grpc.health.v1.Health/",
        "/grpc.reflection.v1.ServerReflection/",
        "/grpc.reflection.v1alpha.ServerReflection/",
    ]
    .iter()
    .any(|prefix| path.starts_with(prefix))
}

/// Puts an [`Authenticator`] before all services.
pub struct AuthGate {
    authenticator: Authenticator,
}

impl AuthGate {
    /// A gate that asks the authenticator.
    pub fn new(authenticator: Authenticator) -> Self {
        Self { authenticator }
    }
}

impl Gate for AuthGate {
    fn pass<S: Behind>(&self, mut behind: S, mut request: http::Request<Body>) -> Answer<S::Error> {
        if !is_open(request.uri().path()) {
            let header = request.headers().get(http::header::AUTHORIZATION);
            match self.authenticator.caller(header) {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                }
                Err(error) => {
                    let answer = tonic::Status::from(error).into_http();
                    return Box::pin(ready(Ok(answer)));
                }
            }
        }
        Box::pin(behind.call(request))
    }
}

#[cfg(test)]
mod tests;
