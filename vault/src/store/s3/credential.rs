//! The access key as the library that signs requests is given it: that library writes
//! who gives it keys into its log, so the one who does shows nothing.

use std::fmt;

use reqsign_aws_v4::Credential;
use reqsign_core::{Context, ProvideCredential};
use zeroize::Zeroizing;

/// The one access key of a destination.
pub(super) struct AccessKey {
    pub id: Zeroizing<String>,
    pub secret: Zeroizing<String>,
    pub session_token: Option<Zeroizing<String>>,
}

impl ProvideCredential for AccessKey {
    type Credential = Credential;

    async fn provide_credential(&self, _: &Context) -> reqsign_core::Result<Option<Credential>> {
        Ok(Some(Credential {
            access_key_id: self.id.to_string(),
            secret_access_key: self.secret.to_string(),
            session_token: self.session_token.as_ref().map(|token| token.to_string()),
            expires_in: None,
        }))
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(..)")
    }
}
