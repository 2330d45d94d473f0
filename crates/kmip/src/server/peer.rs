//! Who is asking.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who is asking, by the certificate that was checked when the connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Where from.
    pub address: SocketAddr,
    /// The certificate's common name. Not every certificate has one.
    pub common_name: Option<String>,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
}

impl PeerIdentity {
    pub(super) fn of(certificate: &CertificateDer<'_>, address: SocketAddr) -> Self {
        let mut fingerprint = [0; 32];
        fingerprint
            .copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.as_ref()).as_ref());
        Self { address, common_name: common_name(certificate), fingerprint }
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate.as_ref()).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}
