//! TLS 1.3 with AWS-LC, one way for all links.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::pki::{Credentials, PkiError};

/// Whom a server lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// Only peers with a certificate of the CA.
    Mutual,
    /// Those, and others without a certificate: for enrolment.
    MutualOrNone,
    /// Anybody: users, who log in above TLS.
    Open,
}

/// The configuration of a server.
///
/// # Errors
/// [`PkiError`].
pub fn server_config(ca: &str, credentials: &Credentials, kind: ServerKind) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let (chain, key) = credentials.der()?;
    let builder = match kind {
        ServerKind::Open => builder.with_no_client_auth(),
        ServerKind::Mutual | ServerKind::MutualOrNone => {
            let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider);
            if kind == ServerKind::MutualOrNone {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The configuration of a client that trusts `ca` only, and shows `credentials` if it has some.
///
/// # Errors
/// [`PkiError`].
pub fn client_config(ca: &str, credentials: Option<&Credentials>) -> Result<Arc<ClientConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(ca)?);
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(credentials) => {
            let (chain, key) = credentials.der()?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(ca: &str) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}
