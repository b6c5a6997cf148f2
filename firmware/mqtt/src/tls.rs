//! TLS to the broker: rustls with ring, and nobody trusted but whom the configuration names.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, crypto};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The word for the system's authorities where a file could be named.
const SYSTEM: &str = "system";

/// Who may sign the broker's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum Authority {
    /// Whoever the operating system trusts: a broker with a certificate from the web's authorities.
    System,
    /// The authorities in a PEM file, and nobody else.
    File(PathBuf),
}

impl From<PathBuf> for Authority {
    fn from(path: PathBuf) -> Self {
        if path == Path::new(SYSTEM) {
            Self::System
        } else {
            Self::File(path)
        }
    }
}

impl From<Authority> for PathBuf {
    fn from(authority: Authority) -> Self {
        match authority {
            Authority::System => SYSTEM.into(),
            Authority::File(path) => path,
        }
    }
}

/// How to speak TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Who signed the broker's certificate: a PEM file, or `system`.
    pub ca: Authority,
    /// The client's own certificate, PEM; with `key`.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
}

/// Why TLS can't be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system has no authorities.
    #[error(
        "the system trusts nobody ({0}); install ca-certificates, or name the broker's authority"
    )]
    System(String),
    /// A certificate without its key, or a key without its certificate.
    #[error("the client's certificate and its private key go together")]
    Half,
    /// The certificate and the key are of no use.
    #[error("{} with {}: {source}", cert.display(), key.display())]
    Identity {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// rustls itself.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Reads the files that `tls` names.
///
/// # Errors
/// [`TlsError`] names the file that can't be read, or holds no certificate or key.
pub fn load(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Authority::File(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| TlsError::File {
                    path: path.clone(),
                    why: format!("no authority: {error}"),
                })?;
            }
        }
        Authority::System => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found
                    .errors
                    .first()
                    .map_or("no certificates".into(), |error| error.to_string());
                return Err(TlsError::System(why));
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|source| TlsError::Identity {
                cert: cert.clone(),
                key: key.clone(),
                source,
            })?,
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(TlsError::Half),
    };
    Ok(Arc::new(config))
}

/// The certificates of a PEM file; one at least.
///
/// # Errors
/// [`TlsError::File`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| in_file(path, &error, "certificate"))?;
    if found.is_empty() {
        return Err(in_file(path, &pem::Error::NoItemsFound, "certificate"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| in_file(path, &error, "private key"))
}

fn in_file(path: &Path, error: &pem::Error, wanted: &str) -> TlsError {
    let why = match error {
        pem::Error::NoItemsFound => format!("no {wanted} in it; it must be PEM"),
        pem::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    TlsError::File {
        path: path.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(tls: &Tls) -> String {
        load(tls).expect_err("an error").to_string()
    }

    #[test]
    fn files_that_are_missing_or_hold_nothing_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let mut tls = Tls {
            ca: Authority::File(path.clone()),
            cert: None,
            key: None,
        };
        assert!(
            failure(&tls).contains("ca.pem: No such file"),
            "{}",
            failure(&tls)
        );
        std::fs::write(&path, "nothing").expect("written");
        assert!(
            failure(&tls).contains("ca.pem: no certificate"),
            "{}",
            failure(&tls)
        );
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, pem).expect("written");
        assert!(
            failure(&tls).contains("ca.pem: no authority"),
            "{}",
            failure(&tls)
        );
        tls.ca = Authority::System;
        tls.key = Some(path);
        // With or without authorities on this system there is an error.
        assert!(!failure(&tls).is_empty());
    }

    #[test]
    fn the_word_for_the_system_is_no_file() {
        assert_eq!(Authority::from(PathBuf::from("system")), Authority::System);
        let file = Authority::from(PathBuf::from("./system"));
        assert_eq!(file, Authority::File("./system".into()));
        assert_eq!(PathBuf::from(Authority::System), Path::new("system"));
    }
}
