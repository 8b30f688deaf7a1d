//! A table of tokens, good and bad.

use http::HeaderValue;
use jsonwebtoken::{EncodingKey, Header, encode};
use proto::backup::v1::ErrorReason;
use serde_json::{Value, json};

use super::*;
use crate::clock::now_ms;

const SECRET: &str = "a secret of thirty-two bytes or more";

fn authenticator() -> Authenticator {
    Authenticator::new(&ServerSettings {
        jwt_secret: SECRET.to_owned(),
        ..ServerSettings::default()
    })
    .unwrap()
}

fn in_seconds(seconds: i64) -> i64 {
    now_ms() / 1_000 + seconds
}

fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(algorithm), claims, &key).unwrap()
}

/// A token with any header, signed as HS256 whatever the header says.
fn with_header(header: &Value, claims: &Value, sign: bool) -> String {
    let good = signed(Algorithm::HS256, SECRET, claims);
    let parts: Vec<&str> = good.split('.').collect();
    let head = base64url(header.to_string().as_bytes());
    let message = format!("{head}.{}", parts[1]);
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = if sign {
        jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap()
    } else {
        String::new()
    };
    format!("{message}.{signature}")
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut bits = 0_u32;
        for index in 0..3 {
            bits = bits << 8 | u32::from(group.get(index).copied().unwrap_or(0));
        }
        for index in 0..=group.len() {
            text.push(DIGITS[(bits >> (18 - 6 * index) & 63) as usize] as char);
        }
    }
    text
}

fn ask(token: &str) -> Result<Caller, ErrorReason> {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    authenticator()
        .caller(Some(&value))
        .map_err(|error| error.reason())
}

#[test]
fn good_tokens_name_their_caller() {
    let exp = in_seconds(60);
    for (claims, id, role) in [
        (json!({"id": "ann", "exp": exp}), "ann", Role::User),
        (json!({"sub": "bob", "exp": exp}), "bob", Role::User),
        (
            json!({"id": "c", "sub": "other", "role": "service", "exp": exp}),
            "c",
            Role::Service,
        ),
        (
            json!({"id": "d", "role": "admin", "exp": exp, "aud": "any"}),
            "d",
            Role::Admin,
        ),
    ] {
        let caller = ask(&signed(Algorithm::HS256, SECRET, &claims)).unwrap();
        assert_eq!((caller.id.as_str(), caller.role), (id, role));
    }
}

#[test]
fn bad_tokens_are_refused() {
    let exp = in_seconds(60);
    let claims = json!({"id": "ann", "role": "admin", "exp": exp});
    let good = signed(Algorithm::HS256, SECRET, &claims);
    let invalid = [
        (
            "wrong secret",
            signed(Algorithm::HS256, &"x".repeat(40), &claims),
        ),
        ("another HMAC", signed(Algorithm::HS512, SECRET, &claims)),
        (
            "alg none",
            with_header(&json!({"alg": "none"}), &claims, false),
        ),
        (
            "alg none, signed",
            with_header(&json!({"alg": "none"}), &claims, true),
        ),
        (
            "alg None",
            with_header(&json!({"alg": "None"}), &claims, true),
        ),
        (
            "labelled RS256",
            with_header(&json!({"alg": "RS256"}), &claims, true),
        ),
        (
            "labelled ES256",
            with_header(&json!({"alg": "ES256"}), &claims, true),
        ),
        ("no alg", with_header(&json!({"typ": "JWT"}), &claims, true)),
        (
            "no exp",
            signed(Algorithm::HS256, SECRET, &json!({"id": "ann"})),
        ),
        (
            "exp as text",
            signed(
                Algorithm::HS256,
                SECRET,
                &json!({"id": "ann", "exp": "soon"}),
            ),
        ),
        (
            "not yet",
            signed(
                Algorithm::HS256,
                SECRET,
                &json!({"id": "a", "exp": exp, "nbf": in_seconds(600)}),
            ),
        ),
        (
            "no id",
            signed(Algorithm::HS256, SECRET, &json!({"exp": exp})),
        ),
        (
            "empty id",
            signed(Algorithm::HS256, SECRET, &json!({"id": "", "exp": exp})),
        ),
        (
            "long id",
            signed(
                Algorithm::HS256,
                SECRET,
                &json!({"id": "x".repeat(129), "exp": exp}),
            ),
        ),
        (
            "odd role",
            signed(
                Algorithm::HS256,
                SECRET,
                &json!({"id": "a", "role": "root", "exp": exp}),
            ),
        ),
        ("no signature", good.rsplit_once('.').unwrap().0.to_owned()),
        (
            "empty signature",
            format!("{}.", good.rsplit_once('.').unwrap().0),
        ),
        ("three dots", "...".to_owned()),
        ("words", "let me in".to_owned()),
        ("long", "x".repeat(TOKEN_BYTES_MAX + 1)),
    ];
    for (what, token) in invalid {
        assert_eq!(ask(&token), Err(ErrorReason::TokenInvalid), "{what}");
    }
    let expired = json!({"id": "ann", "exp": in_seconds(-60)});
    let expired = signed(Algorithm::HS256, SECRET, &expired);
    assert_eq!(ask(&expired), Err(ErrorReason::TokenExpired));
}

#[test]
fn a_changed_token_is_refused() {
    let claims = json!({"id": "ann", "exp": in_seconds(60)});
    let good = signed(Algorithm::HS256, SECRET, &claims);
    for index in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'Q' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(ask(&changed).is_err(), "byte {index}");
    }
}

#[test]
fn other_headers_are_refused() {
    let authenticator = authenticator();
    let reason = |value: Option<&str>| {
        let value = value.map(|value| HeaderValue::from_str(value).unwrap());
        authenticator.caller(value.as_ref()).unwrap_err().reason()
    };
    assert_eq!(reason(None), ErrorReason::TokenMissing);
    for value in ["", "Bearer", "Bearer ", "Basic YTpi", "token"] {
        assert_eq!(reason(Some(value)), ErrorReason::TokenInvalid, "{value}");
    }
}

#[test]
fn audience_and_issuer_are_checked_when_set() {
    let authenticator = Authenticator::new(&ServerSettings {
        jwt_secret: SECRET.to_owned(),
        jwt_audience: "backup".to_owned(),
        jwt_issuer: "nora".to_owned(),
        ..ServerSettings::default()
    })
    .unwrap();
    let exp = in_seconds(60);
    for (claims, accepted) in [
        (
            json!({"id": "a", "exp": exp, "aud": "backup", "iss": "nora"}),
            true,
        ),
        (
            json!({"id": "a", "exp": exp, "aud": ["x", "backup"], "iss": "nora"}),
            true,
        ),
        (
            json!({"id": "a", "exp": exp, "aud": "x", "iss": "nora"}),
            false,
        ),
        (
            json!({"id": "a", "exp": exp, "aud": "backup", "iss": "x"}),
            false,
        ),
        (json!({"id": "a", "exp": exp, "iss": "nora"}), false),
        (json!({"id": "a", "exp": exp, "aud": "backup"}), false),
    ] {
        let token = signed(Algorithm::HS256, SECRET, &claims);
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        let caller = authenticator.caller(Some(&value));
        assert_eq!(caller.is_ok(), accepted, "{claims}");
    }
}

#[test]
fn a_weak_secret_stops_the_start_and_is_not_shown() {
    for (secret, what) in [
        ("", "is not set"),
        ("  ", "is not set"),
        ("hunter2", "holds 7 bytes"),
    ] {
        let error = Authenticator::new(&ServerSettings {
            jwt_secret: secret.to_owned(),
            ..ServerSettings::default()
        })
        .err()
        .unwrap()
        .to_string();
        assert!(error.starts_with(&format!("JWT_SECRET {what}")), "{error}");
        assert!(
            !error.contains("hunter2") && !error.contains('\n'),
            "{error}"
        );
    }
}

#[test]
fn only_health_and_reflection_pass_without() {
    assert!(is_open("/grpc.health.v1.Health/Check"));
    assert!(is_open(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    ));
    let methods = crate::methods::Methods::load();
    assert!(methods.paths().all(|path| !is_open(path)));
    assert!(!is_open("/grpc.health.v1.Healthy/Check"));
}
