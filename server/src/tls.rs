//! TLS of the gRPC port, when it is configured; with client certificates when an authority is.

use std::{path::Path, time::Duration};

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::settings::{ServerSettings, SettingsError};

const CERT: &str = "NORA_BACKUP_TLS_CERT";
const KEY: &str = "NORA_BACKUP_TLS_KEY";
const CLIENT_CA: &str = "NORA_BACKUP_TLS_CLIENT_CA";
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The TLS configuration, or `None` when none is set.
pub fn config(settings: &ServerSettings) -> Result<Option<ServerTlsConfig>, SettingsError> {
    let set = |path: &Path| !path.as_os_str().is_empty();
    let (certificate, key) = (&settings.tls_certificate, &settings.tls_key);
    let authority = &settings.tls_client_authority;
    match (set(certificate), set(key)) {
        (false, false) if set(authority) => Err(SettingsError::new(
            CLIENT_CA,
            format!("is set, but TLS is off: set {CERT} and {KEY} too"),
        )),
        (false, false) => Ok(None),
        (true, false) => Err(SettingsError::new(
            KEY,
            format!("is not set: {CERT} needs the key that belongs to it"),
        )),
        (false, true) => Err(SettingsError::new(
            CERT,
            format!("is not set: {KEY} needs the certificate that belongs to it"),
        )),
        (true, true) => {
            let identity = Identity::from_pem(read(CERT, certificate)?, read(KEY, key)?);
            let mut config = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE);
            if set(authority) {
                config = config.client_ca_root(Certificate::from_pem(read(CLIENT_CA, authority)?));
            }
            Ok(Some(config))
        }
    }
}

fn read(variable: &'static str, path: &Path) -> Result<Vec<u8>, SettingsError> {
    std::fs::read(path).map_err(|error| {
        SettingsError::new(
            variable,
            format!(
                "is {}: {error}; set it to a PEM file that this process can read",
                path.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_configuration_is_refused_by_name() {
        let mut settings = ServerSettings::default();
        assert!(config(&settings).unwrap().is_none());
        settings.tls_client_authority = "/nowhere/ca.pem".into();
        assert_eq!(config(&settings).unwrap_err().variable, CLIENT_CA);
        settings.tls_certificate = "/nowhere/cert.pem".into();
        assert_eq!(config(&settings).unwrap_err().variable, KEY);
        settings.tls_key = "/nowhere/key.pem".into();
        let error = config(&settings).unwrap_err();
        assert_eq!(error.variable, CERT);
        assert!(error.what.contains("/nowhere/cert.pem"), "{error}");
    }
}
