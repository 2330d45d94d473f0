//! Whether an endorsement key (EK) is that of a TPM one trusts: by its maker's certificate, or because it was pinned.

mod ca;
mod certificate;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use x509_parser::x509::X509Name;

pub use ca::{CaError, CaInfo, TpmCas};
pub use certificate::{EkCertificate, TpmSpecification, without_nv_padding};

use crate::tpm::{AlgId, Attributes, KeyParameters, Malformed, Name, Public, Symmetric};

/// Why an endorsement key is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EkError {
    /// The public area could not be read.
    #[error("the EK's public area: {0}")]
    Malformed(#[from] Malformed),
    /// It has not the attributes of an EK.
    #[error("the EK {problem} the attribute {attribute}; it has {attributes}")]
    Attribute {
        /// "lacks" or "may not have".
        problem: &'static str,
        /// Which.
        attribute: &'static str,
        /// All that it has.
        attributes: Attributes,
    },
    /// It is too short, or protects its children by something other than AES in CFB mode.
    #[error(
        "the EK is {key} with symmetric {symmetric:?}; RSA of 2048 bits or more or ECC is needed, with AES-128 or \
             AES-256 in mode CFB"
    )]
    Kind {
        /// What kind of key it is.
        key: String,
        /// Its symmetric parameters.
        symmetric: Option<Symmetric>,
    },
    /// The certificate could not be read.
    #[error("the EK certificate: {field}: {reason}")]
    Certificate {
        /// Which part of it.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No path leads from the certificate to a trusted root.
    #[error("the EK certificate of {subject}, issued by {issuer}, does not lead to a trusted TPM CA: {reason}")]
    Chain {
        /// The certificate's subject.
        subject: String,
        /// Its issuer.
        issuer: String,
        /// What failed.
        reason: String,
    },
    /// It, or a CA above it, is not valid at that time.
    #[error(
        "the EK certificate of {subject}, or a CA above it, is not valid at {at}: it is valid from {not_before} \
             to {not_after}: {reason}"
    )]
    Time {
        /// The certificate's subject.
        subject: String,
        /// When it was looked at.
        at: Timestamp,
        /// Start of the EK certificate's validity.
        not_before: Timestamp,
        /// End of the EK certificate's validity.
        not_after: Timestamp,
        /// What failed.
        reason: String,
    },
    /// The certificate is of another key.
    #[error("the EK certificate of {subject} is of another key than the EK with the Name {ek}")]
    OtherKey {
        /// The certificate's subject.
        subject: String,
        /// The EK's Name.
        ek: Name,
    },
    /// The bare key was not pinned.
    #[error("the EK with the Name {0} was not imported, and shows no certificate")]
    NotPinned(Name),
}

/// What makes an EK trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum EkProof {
    /// A certificate that leads to a trusted TPM CA.
    Certificate(Box<EkCertificate>),
    /// Somebody who may do so imported the key itself.
    Pinned {
        /// What it was imported as.
        label: String,
    },
}

/// An endorsement key that is trusted: proof that one of this module's checks accepted it.
///
/// **What this does not prove:** that whoever sent it is or has that TPM; [`crate::credential`] proves that. Nor that
/// its maker has not revoked the certificate since: revocation lists are not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedEk {
    public: Public,
    proof: EkProof,
}

impl TrustedEk {
    /// Its public area.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Its Name.
    pub fn name(&self) -> Name {
        self.public.name()
    }

    /// Why it is trusted.
    pub fn proof(&self) -> &EkProof {
        &self.proof
    }

    /// The key's symmetric parameters, which checking has seen to.
    pub(crate) fn symmetric_key_bits(&self) -> u16 {
        self.public.symmetric.map_or(128, |symmetric| symmetric.key_bits)
    }
}

/// Checks an EK by its certificate: that the certificate leads to one of `cas` at the time `now`, is of an EK
/// (extended key usage 2.23.133.8.1, on the certificate itself), says of which TPM (maker, model, version) and that it is a
/// TPM 2.0, and holds this very key.
///
/// `certificate` is DER; a copy out of the TPM's NV memory may be padded, see [`without_nv_padding`]. TCG EK Credential
/// Profile for TPM family 2.0, section 3.
///
/// # Errors
/// [`EkError`] says what failed.
pub fn verify_certificate(cas: &TpmCas, certificate: &[u8], ek: Public, now: Timestamp) -> Result<TrustedEk, EkError> {
    check_ek(&ek)?;
    let certificate = certificate::verify(cas, certificate, &ek, now)?;
    Ok(TrustedEk { public: ek, proof: EkProof::Certificate(Box::new(certificate)) })
}

/// What a certificate says that is of this EK, whoever issued it: no path is looked for, no validity. For who keeps
/// certificates beside keys, not for who trusts them.
///
/// # Errors
/// [`EkError`] where it is no EK's certificate, or another key's.
pub fn describe_certificate(certificate: &[u8], ek: &Public) -> Result<EkCertificate, EkError> {
    check_ek(ek)?;
    certificate::describe_of(certificate, ek)
}

/// Endorsement keys that were imported one by one, for TPMs without a certificate. Serialised as a map from Name to
/// label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PinnedEks(BTreeMap<Name, String>);

impl PinnedEks {
    /// Pins the key with this Name; gives the label it was pinned as before, if it was.
    pub fn insert(&mut self, name: Name, label: String) -> Option<String> {
        self.0.insert(name, label)
    }

    /// Takes one away again.
    pub fn remove(&mut self, name: &Name) -> Option<String> {
        self.0.remove(name)
    }

    /// Names and labels.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.0.iter().map(|(name, label)| (name, label.as_str()))
    }

    /// Checks that this EK was pinned.
    ///
    /// # Errors
    /// [`EkError::NotPinned`], or what its attributes lack.
    pub fn verify(&self, ek: Public) -> Result<TrustedEk, EkError> {
        check_ek(&ek)?;
        let name = ek.name();
        match self.0.get(&name) {
            Some(label) => Ok(TrustedEk { public: ek, proof: EkProof::Pinned { label: label.clone() } }),
            None => Err(EkError::NotPinned(name)),
        }
    }
}

/// Checks that a key has what every EK has: TCG EK Credential Profile, annex B. Whose it is, this does not say.
///
/// # Errors
/// [`EkError::Attribute`], [`EkError::Kind`]
pub fn check_ek(ek: &Public) -> Result<(), EkError> {
    let attributes = ek.attributes;
    for (needed, attribute) in [
        (Attributes::RESTRICTED, "restricted"),
        (Attributes::DECRYPT, "decrypt"),
        (Attributes::FIXED_TPM, "fixedTPM"),
        (Attributes::FIXED_PARENT, "fixedParent"),
        (Attributes::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
    ] {
        if !attributes.has(needed) {
            return Err(EkError::Attribute { problem: "lacks", attribute, attributes });
        }
    }
    if attributes.has(Attributes::SIGN) {
        return Err(EkError::Attribute { problem: "may not have", attribute: "sign", attributes });
    }
    let long_enough = match &ek.key {
        KeyParameters::Rsa(key) => key.key_bits >= 2048,
        KeyParameters::Ecc(_) => true,
    };
    let wraps = ek.symmetric.is_some_and(|symmetric| {
        symmetric.algorithm == AlgId::AES && symmetric.mode == AlgId::CFB && matches!(symmetric.key_bits, 128 | 256)
    });
    if !long_enough || !wraps {
        return Err(EkError::Kind { key: ek.key.describe(), symmetric: ek.symmetric });
    }
    Ok(())
}

/// A distinguished name for people; an EK certificate's subject is often empty.
fn display_name(name: &X509Name<'_>) -> String {
    let text = name.to_string();
    if text.is_empty() { "(no subject)".to_owned() } else { text }
}

fn timestamp(time: x509_parser::time::ASN1Time) -> Timestamp {
    Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MAX)
}
