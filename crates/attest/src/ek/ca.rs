//! The TPM makers' CAs that are trusted: roots first, then what they certified.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::{display_name, timestamp};
use crate::hash::HashAlg;

/// Why a certificate is not taken in as a TPM CA's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// It could not be read.
    #[error("not an X.509 certificate in DER: {0}")]
    Malformed(String),
    /// It is not a CA's.
    #[error("the certificate of {0} is not a CA's: basicConstraints don't say so, or keyUsage lacks keyCertSign")]
    NotCa(String),
    /// A root must have signed itself.
    #[error(
        "the certificate of {subject} is no root: {issuer} issued it; import that one as a root, then this one as an \
             intermediate"
    )]
    NotSelfIssued {
        /// Its subject.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
    /// The signature is not good.
    #[error("the certificate of {0} is not signed with the key of its issuer, or in a way that is not supported")]
    Signature(String),
    /// The root must come first.
    #[error("the certificate of {subject} was issued by {issuer}, which is not imported; import the root first")]
    UnknownIssuer {
        /// Its subject.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
}

/// What a CA certificate says, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaInfo {
    /// Whether it is trusted by itself.
    pub root: bool,
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// Start of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
    /// SHA-256 of the DER, in hexadecimal.
    pub sha256: String,
}

/// Trusted TPM CAs. Each certificate in it leads to a root in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmCas {
    pub(super) roots: Vec<Vec<u8>>,
    pub(super) intermediates: Vec<Vec<u8>>,
}

impl TpmCas {
    /// None: nothing is trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a root: a CA certificate in DER that is signed with its own key. One that is there already stays.
    ///
    /// # Errors
    /// [`CaError`] says why it is not taken.
    pub fn add_root(&mut self, der: &[u8]) -> Result<CaInfo, CaError> {
        let certificate = parse_ca(der)?;
        let subject = display_name(certificate.subject());
        if certificate.subject().as_raw() != certificate.issuer().as_raw() {
            return Err(CaError::NotSelfIssued { subject, issuer: display_name(certificate.issuer()) });
        }
        if certificate.verify_signature(None).is_err() {
            return Err(CaError::Signature(subject));
        }
        add(&mut self.roots, der);
        Ok(info(der, &certificate, true))
    }

    /// Takes in an intermediate: a CA certificate in DER, signed by a CA that is there already.
    ///
    /// # Errors
    /// [`CaError`] says why it is not taken.
    pub fn add_intermediate(&mut self, der: &[u8]) -> Result<CaInfo, CaError> {
        let certificate = parse_ca(der)?;
        let subject = display_name(certificate.subject());
        let issuers: Vec<_> = self
            .roots
            .iter()
            .chain(&self.intermediates)
            .filter_map(|der| parse_ca(der).ok())
            .filter(|issuer| issuer.subject().as_raw() == certificate.issuer().as_raw())
            .collect();
        if issuers.is_empty() {
            return Err(CaError::UnknownIssuer { subject, issuer: display_name(certificate.issuer()) });
        }
        if !issuers.iter().any(|issuer| certificate.verify_signature(Some(issuer.public_key())).is_ok()) {
            return Err(CaError::Signature(subject));
        }
        drop(issuers);
        add(&mut self.intermediates, der);
        Ok(info(der, &certificate, false))
    }

    /// What is in it.
    pub fn list(&self) -> Vec<CaInfo> {
        let describe = |root| move |der: &Vec<u8>| parse_ca(der).ok().map(|certificate| info(der, &certificate, root));
        let roots = self.roots.iter().filter_map(describe(true));
        roots.chain(self.intermediates.iter().filter_map(describe(false))).collect()
    }

    /// The roots that are valid at that time. (Path validation leaves a root's own dates alone: RFC 5280, section 6.)
    pub(super) fn roots_valid_at(&self, now: Timestamp) -> impl Iterator<Item = &[u8]> {
        self.roots.iter().map(Vec::as_slice).filter(move |der| {
            parse_ca(der).is_ok_and(|certificate| {
                let validity = certificate.validity();
                timestamp(validity.not_before) <= now && now <= timestamp(validity.not_after)
            })
        })
    }
}

fn add(certificates: &mut Vec<Vec<u8>>, der: &[u8]) {
    if !certificates.iter().any(|present| present == der) {
        certificates.push(der.to_vec());
    }
}

fn parse_ca(der: &[u8]) -> Result<X509Certificate<'_>, CaError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| CaError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CaError::Malformed(format!("{} bytes are left over behind it", rest.len())));
    }
    let is_ca = certificate.is_ca();
    let may_sign = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    if is_ca && may_sign { Ok(certificate) } else { Err(CaError::NotCa(display_name(certificate.subject()))) }
}

fn info(der: &[u8], certificate: &X509Certificate<'_>, root: bool) -> CaInfo {
    CaInfo {
        root,
        subject: display_name(certificate.subject()),
        issuer: display_name(certificate.issuer()),
        not_before: timestamp(certificate.validity().not_before),
        not_after: timestamp(certificate.validity().not_after),
        sha256: hex::encode(HashAlg::Sha256.digest(&[der]).bytes()),
    }
}
