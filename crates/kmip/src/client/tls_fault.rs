//! Which field of whose certificate made TLS fail.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, ExtendedKeyPurpose, OtherError};

use super::trust::NotPinned;
use crate::certificate::{Fingerprint, for_people};

/// Why two ends could not agree to trust each other, down to the field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFault {
    /// The server says the client's certificate has expired (or isn't valid yet).
    ClientCertificateExpired,
    /// The server didn't get a certificate from the client, or none it could use.
    ClientCertificateMissing,
    /// The server refuses the client's certificate without saying which field is wrong; the alert's name.
    ClientCertificateRefused(String),
    /// The server says the client's certificate was revoked.
    ClientCertificateRevoked,
    /// The server doesn't know the authority that issued the client's certificate.
    ClientCertificateUnknownIssuer,
    /// The two ends have no version of TLS, cipher suite or signature algorithm in common.
    NothingInCommon(String),
    /// What answers doesn't speak TLS.
    NotTls,
    /// Anything else, in the TLS library's words.
    Other(String),
    /// The server's certificate has expired; seconds since 1970, where known.
    ServerCertificateExpired {
        /// When it expired.
        not_after: Option<u64>,
    },
    /// The server's certificate can't be used for another reason.
    ServerCertificateInvalid(String),
    /// The server's certificate is not made out to the name it was asked for under.
    ServerCertificateName {
        /// The name we asked for.
        expected: String,
        /// The names it is made out to.
        presented: Vec<String>,
    },
    /// The server's certificate is not the one that was accepted.
    ServerCertificateNotPinned {
        /// The one that was accepted.
        expected: Fingerprint,
        /// The one it has.
        shown: Fingerprint,
    },
    /// The server's certificate isn't valid yet; seconds since 1970, where known.
    ServerCertificateNotYetValid {
        /// From when it is valid.
        not_before: Option<u64>,
    },
    /// The server's certificate isn't meant for servers (extended key usage lacks `serverAuth`).
    ServerCertificatePurpose {
        /// What it is meant for.
        presented: Vec<String>,
    },
    /// The server's certificate was revoked.
    ServerCertificateRevoked,
    /// The server's certificate comes from none of the authorities we trust, or is not signed by it.
    ServerCertificateUnknownIssuer,
}

impl TlsFault {
    /// Looks for the TLS library's error inside an I/O error.
    pub(super) fn within(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Error>().map(Self::from)
    }

    /// The field of a certificate that is wrong, by X.509's name for it, where it is one.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::ClientCertificateExpired | Self::ServerCertificateExpired { .. } => Some("notAfter"),
            Self::ClientCertificateUnknownIssuer | Self::ServerCertificateUnknownIssuer => Some("issuer"),
            Self::ServerCertificateName { .. } => Some("subjectAltName"),
            Self::ServerCertificateNotYetValid { .. } => Some("notBefore"),
            Self::ServerCertificatePurpose { .. } => Some("extendedKeyUsage"),
            _ => None,
        }
    }

    /// Whether what is wrong is the server's certificate.
    #[must_use]
    pub fn is_about_server_certificate(&self) -> bool {
        matches!(
            self,
            Self::ServerCertificateExpired { .. }
                | Self::ServerCertificateInvalid(_)
                | Self::ServerCertificateName { .. }
                | Self::ServerCertificateNotPinned { .. }
                | Self::ServerCertificateNotYetValid { .. }
                | Self::ServerCertificatePurpose { .. }
                | Self::ServerCertificateRevoked
                | Self::ServerCertificateUnknownIssuer
        )
    }

    /// Whether what is wrong is the client's certificate.
    #[must_use]
    pub fn is_about_client_certificate(&self) -> bool {
        matches!(
            self,
            Self::ClientCertificateExpired
                | Self::ClientCertificateMissing
                | Self::ClientCertificateRefused(_)
                | Self::ClientCertificateRevoked
                | Self::ClientCertificateUnknownIssuer
        )
    }
}

impl From<&Error> for TlsFault {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => error.into(),
            Error::AlertReceived(alert) => (*alert).into(),
            Error::NoCertificatesPresented => Self::ServerCertificateInvalid("the server showed none".into()),
            Error::PeerIncompatible(what) => Self::NothingInCommon(format!("{what:?}")),
            Error::InvalidMessage(_) => Self::NotTls,
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<&CertificateError> for TlsFault {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::ServerCertificateExpired { not_after: None },
            CertificateError::ExpiredContext { not_after, .. } => {
                Self::ServerCertificateExpired { not_after: Some(not_after.as_secs()) }
            }
            CertificateError::NotValidYet => Self::ServerCertificateNotYetValid { not_before: None },
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::ServerCertificateNotYetValid { not_before: Some(not_before.as_secs()) }
            }
            CertificateError::NotValidForName => {
                Self::ServerCertificateName { expected: String::new(), presented: vec![] }
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                Self::ServerCertificateName { expected: expected.to_str().into_owned(), presented: presented.clone() }
            }
            CertificateError::Revoked => Self::ServerCertificateRevoked,
            // A CA of the right name but with another key ends in a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::ServerCertificateUnknownIssuer,
            CertificateError::InvalidPurpose => Self::ServerCertificatePurpose { presented: vec![] },
            CertificateError::InvalidPurposeContext { presented, .. } => {
                Self::ServerCertificatePurpose { presented: presented.iter().map(purpose).collect() }
            }
            CertificateError::Other(OtherError(error)) => match error.downcast_ref::<NotPinned>() {
                Some(NotPinned { expected, shown }) => {
                    Self::ServerCertificateNotPinned { expected: *expected, shown: *shown }
                }
                None => Self::ServerCertificateInvalid(error.to_string()),
            },
            other => Self::ServerCertificateInvalid(other.to_string()),
        }
    }
}

impl From<AlertDescription> for TlsFault {
    fn from(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => Self::ClientCertificateMissing,
            AlertDescription::CertificateExpired => Self::ClientCertificateExpired,
            AlertDescription::CertificateRevoked => Self::ClientCertificateRevoked,
            AlertDescription::UnknownCA => Self::ClientCertificateUnknownIssuer,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
            // What a server sends for a signature it can't check (RFC 8446 section 6.2).
            | AlertDescription::DecryptError => Self::ClientCertificateRefused(format!("{alert:?}")),
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity => Self::NothingInCommon(format!("{alert:?}")),
            other => Self::Other(format!("the server sent the alert {other:?}")),
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientCertificateExpired => f.write_str("the server says that our client certificate has expired"),
            Self::ClientCertificateMissing => f.write_str("the server got no client certificate that it can use"),
            Self::ClientCertificateRefused(alert) => write!(f, "the server refuses our client certificate ({alert})"),
            Self::ClientCertificateRevoked => f.write_str("the server says that our client certificate was revoked"),
            Self::ClientCertificateUnknownIssuer => {
                f.write_str("the server does not know the authority that issued our client certificate")
            }
            Self::NothingInCommon(what) => {
                write!(f, "no TLS version, cipher suite or signature algorithm in common ({what})")
            }
            Self::NotTls => f.write_str("what answers there does not speak TLS"),
            Self::Other(what) => f.write_str(what),
            Self::ServerCertificateExpired { not_after } => {
                f.write_str("the server's certificate has expired")?;
                match not_after {
                    Some(time) => write!(f, " ({})", for_people(i64::try_from(*time).unwrap_or(i64::MAX))),
                    None => Ok(()),
                }
            }
            Self::ServerCertificateInvalid(what) => write!(f, "the server's certificate cannot be used: {what}"),
            Self::ServerCertificateName { expected, presented } => write!(
                f,
                "the server's certificate is not made out to {expected:?} but to {}",
                if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") }
            ),
            Self::ServerCertificateNotPinned { expected, shown } => write!(
                f,
                "the server has another certificate than the one that was accepted: its SHA-256 fingerprint is {shown}, \
                 not {expected}"
            ),
            Self::ServerCertificateNotYetValid { not_before } => {
                f.write_str("the server's certificate is not valid yet")?;
                match not_before {
                    Some(time) => write!(f, " (not before {})", for_people(i64::try_from(*time).unwrap_or(i64::MAX))),
                    None => Ok(()),
                }
            }
            Self::ServerCertificatePurpose { presented } => {
                f.write_str("the server's certificate is not meant for servers (extended key usage lacks serverAuth")?;
                if !presented.is_empty() {
                    write!(f, ", has {}", presented.join(", "))?;
                }
                f.write_str(")")
            }
            Self::ServerCertificateRevoked => f.write_str("the server's certificate was revoked"),
            Self::ServerCertificateUnknownIssuer => {
                f.write_str("the server's certificate comes from no authority that we trust")
            }
        }
    }
}

fn purpose(purpose: &ExtendedKeyPurpose) -> String {
    match purpose {
        ExtendedKeyPurpose::ClientAuth => "clientAuth".into(),
        ExtendedKeyPurpose::ServerAuth => "serverAuth".into(),
        other => other.to_string(),
    }
}
