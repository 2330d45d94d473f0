//! What a client needs to know of a server, checked before it is used.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};

use super::trust::{ServerTrust, certificates};
use crate::ttlv::Limits;
use crate::version::ProtocolVersion;

/// The port registered for KMIP.
pub const DEFAULT_PORT: u16 = 5696;

/// Where a server is, how to know it, and who we are to it. Having one means that every part of it could be read.
#[derive(Clone)]
pub struct ClientConfig {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) server_name: ServerName<'static>,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) idle_reuse: Duration,
    pub(super) limits: Limits,
    highest_version: ProtocolVersion,
}

/// Which part of a client's configuration can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The CA certificates can't be read, or there are none.
    #[error("the server's CA certificates cannot be used: {0}")]
    CaCertificates(String),
    /// The client certificate can't be read, or there is none.
    #[error("the client certificate cannot be used: {0}")]
    ClientCertificate(String),
    /// The client's private key can't be read, or there is none.
    #[error("the client's private key cannot be used: {0}")]
    ClientKey(String),
    /// The private key isn't the certificate's.
    #[error("the client's private key does not belong to its certificate")]
    ClientKeyMismatch,
    /// Neither a DNS name nor an address.
    #[error("{0:?} is neither a host name nor an address")]
    Host(String),
}

impl ClientConfig {
    /// A server at `host` and `port` whose certificate must come from one of the authorities in `ca_pem` and be made out
    /// to `host`, for a client with the certificate (chain) in `certificate_pem` and the private key in `key_pem`.
    ///
    /// # Errors
    /// Says which part can't be used.
    pub fn new(
        host: &str,
        port: u16,
        ca_pem: &[u8],
        certificate_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<Self, ConfigError> {
        Self::with_trust(host, port, &ServerTrust::Authorities(ca_pem.to_vec()), certificate_pem, key_pem)
    }

    /// A server at `host` and `port` that is known by `trust`, for a client with the certificate (chain) in
    /// `certificate_pem` and the private key in `key_pem`. An IPv6 address may stand in brackets.
    ///
    /// # Errors
    /// Says which part can't be used.
    pub fn with_trust(
        host: &str,
        port: u16,
        trust: &ServerTrust,
        certificate_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<Self, ConfigError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let server_name = ServerName::try_from(bare).map_err(|_| ConfigError::Host(host.to_owned()))?.to_owned();

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = trust.verifier(&provider)?;
        let chain = certificates(certificate_pem).map_err(ConfigError::ClientCertificate)?;
        // The parser's error could quote what it read.
        let key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|_| ConfigError::ClientKey("there is no PEM private key in it".into()))?;

        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError::ClientKey(error.to_string()))?
            // Not every verifier is the library's own; each checks, and says so where it's made.
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => ConfigError::ClientKeyMismatch,
                rustls::Error::InvalidCertificate(error) => ConfigError::ClientCertificate(format!("{error:?}")),
                error => ConfigError::ClientKey(error.to_string()),
            })?;
        // A resumed session would not show whether the server still accepts the certificate.
        tls.resumption = rustls::client::Resumption::disabled();

        Ok(Self {
            host: bare.to_owned(),
            port,
            server_name,
            tls: Arc::new(tls),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            idle_reuse: Duration::from_secs(30),
            limits: Limits::default(),
            highest_version: ProtocolVersion::V2_1,
        })
    }

    /// How long connecting may take, TLS included (10 s unless set).
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one request may take, answer included (30 s unless set).
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The highest version to speak (2.1 unless set).
    #[must_use]
    pub fn with_highest_version(mut self, version: ProtocolVersion) -> Self {
        self.highest_version = version;
        self
    }

    /// The versions to speak, best first. KMIP 1.0 is left to old clients: it can't even say what it speaks.
    pub(super) fn versions(&self) -> Vec<ProtocolVersion> {
        let spoken = ProtocolVersion::V1_1..=self.highest_version;
        ProtocolVersion::SUPPORTED.iter().copied().filter(|version| spoken.contains(version)).collect()
    }

    /// `host:port`, as told in errors.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig").field("address", &self.address()).finish_non_exhaustive()
    }
}
