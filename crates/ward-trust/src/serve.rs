//! TLS 1.3 and HTTP for both services. A host shows a certificate of its own making; who it is, evidence and tokens
//! say.

use std::net::SocketAddr;
use std::sync::Arc;

use attest::binding::CertThumbprint;
use axum::Router;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use ward_rpc::{Limits, serve_known};
use ward_types::Problem;

use crate::Error;
use crate::home::Home;

/// The other end of a TLS session. It has proven to hold the key of this certificate, and nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) CertThumbprint);

/// A service that listens.
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    tls: Arc<ServerConfig>,
    router: Router,
}

impl Server {
    pub(crate) async fn bind(listen: SocketAddr, home: &Home, router: Router) -> Result<Self, Error> {
        let unusable = |source| Error::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(unusable)?;
        let local_addr = listener.local_addr().map_err(unusable)?;
        Ok(Self { listener, local_addr, tls: server_config(home)?, router })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown`, then lets open requests end.
    pub async fn serve(self, shutdown: CancellationToken) {
        serve_known(self.listener, self.tls, self.router, shutdown, Limits::default(), |certificate| {
            certificate.map(|certificate| Peer(CertThumbprint::of(certificate)))
        })
        .await;
    }
}

fn server_config(home: &Home) -> Result<Arc<ServerConfig>, Error> {
    let unusable = |error: rustls::Error| Error::Certificate(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (certificate, key) = home.tls_identity()?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::new(AnyCertificate(provider)))
        .with_single_cert(vec![certificate], key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each session proves the key anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Lets any certificate pass, if the peer has its key: TLS binds the session to it, and the services ask for more.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A failure of the service itself: the host is told that, and the log why.
pub(crate) fn internal(what: &str, error: &Error) -> Problem {
    tracing::error!(%error, what);
    Problem::new(
        ward_types::Code::Internal,
        what,
        "the trust authority's service failed",
        "see the log of the service; other instances may answer",
    )
}
