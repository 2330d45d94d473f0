//! What a server needs, checked before it is used.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use crate::ttlv::Limits;

/// Who a server is, whom it serves, and how much it lets them ask.
#[derive(Clone)]
pub struct ServerConfig {
    pub(super) tls: Arc<rustls::ServerConfig>,
    pub(super) limits: Limits,
    pub(super) connections: usize,
    pub(super) idle_timeout: Duration,
    pub(super) transfer_timeout: Duration,
}

/// Which part of a server's configuration can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerConfigError {
    /// The authorities of clients can't be read, or there are none.
    #[error("the clients' CA certificates cannot be used: {0}")]
    ClientCa(String),
    /// The server's certificate can't be read, or there is none.
    #[error("the server certificate cannot be used: {0}")]
    Certificate(String),
    /// The server's private key can't be read, there is none, or it isn't the certificate's.
    #[error("the server's private key cannot be used: {0}")]
    Key(String),
}

impl ServerConfig {
    /// A server with the certificate (chain) in `certificate_pem` and the private key in `key_pem`, which serves clients
    /// with certificates from the authorities in `client_ca_pem`, over TLS 1.2 or 1.3.
    ///
    /// # Errors
    /// Says which part can't be used.
    pub fn new(certificate_pem: &[u8], key_pem: &[u8], client_ca_pem: &[u8]) -> Result<Self, ServerConfigError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());

        let mut roots = RootCertStore::empty();
        for certificate in certificates(client_ca_pem).map_err(ServerConfigError::ClientCa)? {
            roots.add(certificate).map_err(|error| ServerConfigError::ClientCa(error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| ServerConfigError::ClientCa(error.to_string()))?;
        let chain = certificates(certificate_pem).map_err(ServerConfigError::Certificate)?;
        // The parser's error could quote what it read.
        let key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|_| ServerConfigError::Key("there is no PEM private key in it".into()))?;

        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ServerConfigError::Key(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InvalidCertificate(error) => ServerConfigError::Certificate(error.to_string()),
                error => ServerConfigError::Key(error.to_string()),
            })?;
        // A resumed session would pass over the check of the client's certificate.
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;

        Ok(Self {
            tls: Arc::new(tls),
            limits: Limits::default(),
            connections: 512,
            idle_timeout: Duration::from_secs(300),
            transfer_timeout: Duration::from_secs(30),
        })
    }

    /// How much a request may be.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many connections at a time (512 unless set).
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How long a connection may be without a request (five minutes unless set).
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How long a peer may take for its part of the TLS handshake, for the rest of a request it has begun, and for taking
    /// an answer (30 s unless set).
    #[must_use]
    pub fn with_transfer_timeout(mut self, timeout: Duration) -> Self {
        self.transfer_timeout = timeout;
        self
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("not readable as PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("there is no PEM certificate in it".into());
    }
    Ok(certificates)
}
