//! By what a client knows a server.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

use super::ConfigError;
use crate::certificate::{CertificateInfo, Fingerprint};

/// By what a client knows a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerTrust {
    /// Its certificate comes from one of these authorities (PEM), is made out to the name it is asked for under, and is
    /// meant for servers.
    Authorities(Vec<u8>),
    /// It has this very certificate: one that a human has seen and accepted
    /// ([`show_server_certificates`](super::show_server_certificates)). Only its dates still count.
    Pinned(Fingerprint),
}

/// The server has another certificate than the one that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate has fingerprint {shown}, not {expected}")]
pub(super) struct NotPinned {
    pub(super) expected: Fingerprint,
    pub(super) shown: Fingerprint,
}

impl ServerTrust {
    /// Whether a server can be known by it at all.
    ///
    /// # Errors
    /// If the authorities' certificates can't be read, or there are none.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.verifier(&Arc::new(rustls::crypto::aws_lc_rs::default_provider())).map(drop)
    }

    pub(super) fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, ConfigError> {
        match self {
            Self::Authorities(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem).map_err(ConfigError::CaCertificates)? {
                    roots.add(certificate).map_err(|error| ConfigError::CaCertificates(error.to_string()))?;
                }
                let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
                let verifier = builder.build().map_err(|error| ConfigError::CaCertificates(error.to_string()))?;
                Ok(verifier)
            }
            Self::Pinned(expected) => Ok(Arc::new(Pinned { expected: *expected, provider: Arc::clone(provider) })),
        }
    }
}

pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("not readable as PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("there is no PEM certificate in it".into());
    }
    Ok(certificates)
}

#[derive(Debug)]
struct Pinned {
    expected: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Fingerprint::of(certificate);
        if shown != self.expected {
            let error = NotPinned { expected: self.expected, shown };
            return Err(CertificateError::Other(OtherError(Arc::new(error))).into());
        }
        check_dates(certificate, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let info = CertificateInfo::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
    if info.is_current(time) {
        return Ok(());
    }
    let date = |seconds: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.max(0).unsigned_abs()));
    Err(if info.seconds_left(time) < 0 {
        CertificateError::ExpiredContext { time: now, not_after: date(info.not_after) }
    } else {
        CertificateError::NotValidYetContext { time: now, not_before: date(info.not_before) }
    })
}
