//! A server's certificates, for a human to look at before any trust is given.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{ClientError, Phase, TlsFault, reach};
use crate::certificate::CertificateInfo;

/// The certificates a server shows (DER, its own first), without trusting them: for a human to look at and accept. That the
/// server has the private key of its certificate is checked; nothing else is, and nothing is sent to it.
///
/// # Errors
/// If the server can't be reached or doesn't speak TLS.
pub async fn fetch_server_certificates(host: &str, port: u16, limit: Duration) -> Result<Vec<Vec<u8>>, ClientError> {
    let address = format!("{host}:{port}");
    match timeout(limit, fetch(host, port, &address)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(ClientError::Timeout { address, during: Phase::Connecting, after: limit }),
    }
}

/// One certificate of those a server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownCertificate {
    /// The certificate (DER).
    pub der: Vec<u8>,
    /// What it says.
    pub info: CertificateInfo,
}

/// As [`fetch_server_certificates`], with what they say. Who accepts the first one's fingerprint can then connect by it
/// ([`ServerTrust::Pinned`](super::ServerTrust::Pinned)).
///
/// # Errors
/// If the server can't be reached, doesn't speak TLS, or shows something that is no certificate.
pub async fn show_server_certificates(
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<Vec<ShownCertificate>, ClientError> {
    let shown = fetch_server_certificates(host, port, limit).await?.into_iter();
    shown
        .map(|der| match CertificateInfo::from_der(&der) {
            Ok(info) => Ok(ShownCertificate { der, info }),
            Err(error) => Err(ClientError::Tls {
                address: format!("{host}:{port}"),
                fault: TlsFault::ServerCertificateInvalid(error.to_string()),
            }),
        })
        .collect()
}

async fn fetch(host: &str, port: u16, address: &str) -> Result<Vec<Vec<u8>>, ClientError> {
    let tls_failed = |what: String| ClientError::Tls { address: address.to_owned(), fault: TlsFault::Other(what) };
    let name = ServerName::try_from(host)
        .map_err(|_| tls_failed(format!("{host:?} is neither a host name nor an address")))?
        .to_owned();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let recorder = Arc::new(Recorder { provider: Arc::clone(&provider), seen: Mutex::default() });
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_failed(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();

    let stream = reach::connect(host, port)
        .await
        .map_err(|source| ClientError::Unreachable { address: address.to_owned(), source })?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;

    // Without a client certificate the server may well refuse us, after it has shown its own.
    let seen = std::mem::take(&mut *recorder.seen.lock().unwrap_or_else(PoisonError::into_inner));
    match (seen.is_empty(), connected) {
        (false, _) => Ok(seen),
        (true, Err(error)) => Err(match TlsFault::within(&error) {
            Some(fault) => ClientError::Tls { address: address.to_owned(), fault },
            None => tls_failed(error.to_string()),
        }),
        (true, Ok(_)) => Err(tls_failed("the server showed no certificate".into())),
    }
}

#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Vec<Vec<u8>>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = std::iter::once(certificate).chain(intermediates);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) =
            shown.map(|certificate| certificate.as_ref().to_vec()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.checked(verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.checked(verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        ))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Recorder {
    /// A certificate whose key the server doesn't have was not the server's to show.
    fn checked(&self, result: Result<HandshakeSignatureValid, Error>) -> Result<HandshakeSignatureValid, Error> {
        if result.is_err() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        result
    }
}
