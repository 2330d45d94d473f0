//! A server's certificates, for a human to look at before any trust is given.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{ClientError, Phase, ServerTrust, TlsFault, reach};
use crate::certificate::CertificateInfo;

/// The certificates a server shows (DER, its own first), without trusting them: for a human to look at and accept. That the
/// server has the private key of its certificate is checked; nothing else is, and nothing is sent to it.
///
/// # Errors
/// If the server can't be reached or doesn't speak TLS.
pub async fn fetch_server_certificates(host: &str, port: u16, limit: Duration) -> Result<Vec<Vec<u8>>, ClientError> {
    Ok(fetch(host, port, None, limit).await?.0)
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
/// ([`ServerTrust::Pinned`]).
///
/// # Errors
/// If the server can't be reached, doesn't speak TLS, or shows something that is no certificate.
pub async fn show_server_certificates(
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<Vec<ShownCertificate>, ClientError> {
    read(host, port, fetch_server_certificates(host, port, limit).await?)
}

/// A server's certificates, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedServer {
    /// What it shows, its own certificate first.
    pub shown: Vec<ShownCertificate>,
    /// Whether that is as the trust asks, or what is wrong with it.
    pub trusted: Result<(), TlsFault>,
}

/// As [`show_server_certificates`], and whether a client that knows the server by `trust` would trust it. No certificate of
/// ours is shown: whether the server trusts us stays open.
///
/// # Errors
/// If the server can't be reached, doesn't speak TLS, or shows something that is no certificate.
pub async fn check_server(
    host: &str,
    port: u16,
    trust: &ServerTrust,
    limit: Duration,
) -> Result<CheckedServer, ClientError> {
    let (verifier, unusable) = match trust.verifier(&Arc::new(rustls::crypto::aws_lc_rs::default_provider())) {
        Ok(verifier) => (Some(verifier), None),
        Err(error) => (None, Some(TlsFault::Other(error.to_string()))),
    };
    let (certificates, refusal) = fetch(host, port, verifier, limit).await?;
    let refusal = unusable.or(refusal.as_ref().map(TlsFault::from));
    Ok(CheckedServer { shown: read(host, port, certificates)?, trusted: refusal.map_or(Ok(()), Err) })
}

fn read(host: &str, port: u16, certificates: Vec<Vec<u8>>) -> Result<Vec<ShownCertificate>, ClientError> {
    let read = |der: Vec<u8>| match CertificateInfo::from_der(&der) {
        Ok(info) => Ok(ShownCertificate { der, info }),
        Err(error) => Err(ClientError::Tls {
            address: address_of(host, port),
            fault: TlsFault::ServerCertificateInvalid(error.to_string()),
        }),
    };
    certificates.into_iter().map(read).collect()
}

fn address_of(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The certificates, and why the verifier, if there is one, would not trust them.
async fn fetch(
    host: &str,
    port: u16,
    verifier: Option<Arc<dyn ServerCertVerifier>>,
    limit: Duration,
) -> Result<(Vec<Vec<u8>>, Option<Error>), ClientError> {
    let address = address_of(host, port);
    match timeout(limit, shake_hands(host, port, &address, verifier)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(ClientError::Timeout { address, during: Phase::Connecting, after: limit }),
    }
}

async fn shake_hands(
    host: &str,
    port: u16,
    address: &str,
    verifier: Option<Arc<dyn ServerCertVerifier>>,
) -> Result<(Vec<Vec<u8>>, Option<Error>), ClientError> {
    let tls_failed = |what: String| ClientError::Tls { address: address.to_owned(), fault: TlsFault::Other(what) };
    let name = ServerName::try_from(host)
        .map_err(|_| tls_failed(format!("{host:?} is neither a host name nor an address")))?
        .to_owned();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let recorder = Arc::new(Recorder { provider: Arc::clone(&provider), verifier, seen: Mutex::default() });
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
    let Seen { certificates, refusal } =
        std::mem::take(&mut *recorder.seen.lock().unwrap_or_else(PoisonError::into_inner));
    match (certificates.is_empty(), connected) {
        (false, _) => Ok((certificates, refusal)),
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
    /// Who is asked for an opinion, which is recorded and not followed.
    verifier: Option<Arc<dyn ServerCertVerifier>>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    certificates: Vec<Vec<u8>>,
    refusal: Option<Error>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |verifier: &Arc<dyn ServerCertVerifier>| {
            verifier.verify_server_cert(certificate, intermediates, name, stapled, now).err()
        };
        let shown = std::iter::once(certificate).chain(intermediates);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen {
            certificates: shown.map(|certificate| certificate.as_ref().to_vec()).collect(),
            refusal: self.verifier.as_ref().and_then(verify),
        };
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
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
        }
        result
    }
}
