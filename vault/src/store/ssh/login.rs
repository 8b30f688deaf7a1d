//! Logging in, by key, password, or both.

use russh::{
    MethodKind, MethodSet,
    client::{AuthResult, Handle, KeyboardInteractiveAuthResponse},
    keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey},
};

use super::{account::Account, connect::Doorman, line::Fault};
use crate::error::StoreErrorKind;

/// Logs in with what there is, until the server is content.
pub(super) async fn log_in(account: &Account, handle: &mut Handle<Doorman>) -> Result<(), Fault> {
    let user = account.username.as_str();
    let mut tried: Vec<String> = Vec::new();
    let mut result = handle.authenticate_none(user).await.map_err(Fault::from)?;
    let mut key = account.key.as_ref();
    let mut password = account.password.as_ref();
    let mut prompts = account.password.as_ref();
    loop {
        let AuthResult::Failure {
            remaining_methods: offered,
            ..
        } = result
        else {
            return Ok(());
        };
        // The library says the same of a connection that is gone.
        if handle.is_closed() {
            return Err(russh::Error::Disconnect.into());
        }
        if offered.contains(&MethodKind::PublicKey)
            && let Some(key) = key.take()
        {
            let shown = key.public_key();
            tried.push(format!(
                "the key {} {}",
                shown.algorithm(),
                shown.fingerprint(HashAlg::Sha256)
            ));
            let hash = rsa_hash(handle, shown).await?;
            let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
            result = handle
                .authenticate_publickey(user, key)
                .await
                .map_err(Fault::from)?;
        } else if offered.contains(&MethodKind::Password)
            && let Some(password) = password.take()
        {
            tried.push("the password".to_owned());
            result = handle
                .authenticate_password(user, password.as_str())
                .await
                .map_err(Fault::from)?;
        } else if offered.contains(&MethodKind::KeyboardInteractive)
            && let Some(password) = prompts.take()
        {
            tried.push("the password at the prompt".to_owned());
            result = answer_prompts(handle, user, password).await?;
        } else {
            return Err(refused(account, &tried, &offered));
        }
    }
}

/// SHA-1 is not used, whatever the server wishes.
async fn rsa_hash(handle: &Handle<Doorman>, key: &PublicKey) -> Result<Option<HashAlg>, Fault> {
    if !matches!(key.algorithm(), Algorithm::Rsa { .. }) {
        return Ok(None);
    }
    let best = handle
        .best_supported_rsa_hash()
        .await
        .map_err(Fault::from)?;
    Ok(Some(best.flatten().unwrap_or(HashAlg::Sha512)))
}

/// Answers what is asked without an echo with the password, once.
async fn answer_prompts(
    handle: &mut Handle<Doorman>,
    user: &str,
    password: &str,
) -> Result<AuthResult, Fault> {
    const ROUNDS_MAX: usize = 4;
    let mut response = handle
        .authenticate_keyboard_interactive_start(user, None)
        .await
        .map_err(Fault::from)?;
    let mut unused = Some(password);
    for _ in 0..ROUNDS_MAX {
        let prompts = match response {
            KeyboardInteractiveAuthResponse::Success => return Ok(AuthResult::Success),
            KeyboardInteractiveAuthResponse::Failure {
                remaining_methods,
                partial_success,
            } => {
                return Ok(AuthResult::Failure {
                    remaining_methods,
                    partial_success,
                });
            }
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
        };
        let answers = prompts
            .iter()
            .map(|prompt| match (prompt.echo, unused.take()) {
                (false, Some(password)) => password.to_owned(),
                (_, kept) => {
                    unused = kept;
                    String::new()
                }
            })
            .collect();
        response = handle
            .authenticate_keyboard_interactive_respond(answers)
            .await
            .map_err(Fault::from)?;
    }
    Ok(AuthResult::Failure {
        remaining_methods: MethodSet::empty(),
        partial_success: false,
    })
}

fn refused(account: &Account, tried: &[String], offered: &MethodSet) -> Fault {
    let names: Vec<&str> = offered.iter().map(<&str>::from).collect();
    let offers = if names.is_empty() {
        "no further way".to_owned()
    } else {
        names.join(", ")
    };
    let tried = if tried.is_empty() {
        "nothing that is set here".to_owned()
    } else {
        tried.join(" and ")
    };
    let remedy = match (&account.key, &account.password) {
        (Some(key), _) => {
            let mut public = key.public_key().clone();
            public.set_comment("nora-backup");
            format!(
                "have this line in the authorized_keys of {} there, or set {} to another key: {}",
                account.username,
                account.field("private_key"),
                public.to_openssh().unwrap_or_default().trim()
            )
        }
        (None, _) => format!(
            "check {} and {}",
            account.field("username"),
            account.field("password")
        ),
    };
    Fault::new(
        StoreErrorKind::Refused,
        format!(
            "{} does not let {} log in with {tried}; it offers {offers}. To change that, {remedy}",
            account.place(),
            account.username
        ),
    )
}
