//! Names of attributes.

use std::borrow::Cow;

use crate::ProtocolVersion;

/// The name of an attribute (KMIP 1.4 section 3), as written in messages of KMIP 1.x.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeName(Cow<'static, str>);

macro_rules! standard {
    ($($constant:ident = $name:literal, $since:ident;)*) => {
        impl AttributeName {
            $(
                #[doc = concat!("`", $name, "`")]
                pub const $constant: Self = Self(Cow::Borrowed($name));
            )*

            /// Every name of the standard.
            pub const STANDARD: &'static [Self] = &[$(Self::$constant),*];

            fn standard(name: &str) -> Option<(&'static str, ProtocolVersion)> {
                Some(match name {
                    $($name => ($name, ProtocolVersion::$since),)*
                    _ => return None,
                })
            }
        }
    };
}

standard! {
    UNIQUE_IDENTIFIER = "Unique Identifier", V1_0;
    NAME = "Name", V1_0;
    OBJECT_TYPE = "Object Type", V1_0;
    CRYPTOGRAPHIC_ALGORITHM = "Cryptographic Algorithm", V1_0;
    CRYPTOGRAPHIC_LENGTH = "Cryptographic Length", V1_0;
    CRYPTOGRAPHIC_PARAMETERS = "Cryptographic Parameters", V1_0;
    CRYPTOGRAPHIC_DOMAIN_PARAMETERS = "Cryptographic Domain Parameters", V1_0;
    CERTIFICATE_TYPE = "Certificate Type", V1_0;
    CERTIFICATE_LENGTH = "Certificate Length", V1_1;
    X_509_CERTIFICATE_IDENTIFIER = "X.509 Certificate Identifier", V1_1;
    X_509_CERTIFICATE_SUBJECT = "X.509 Certificate Subject", V1_1;
    X_509_CERTIFICATE_ISSUER = "X.509 Certificate Issuer", V1_1;
    CERTIFICATE_IDENTIFIER = "Certificate Identifier", V1_0;
    CERTIFICATE_SUBJECT = "Certificate Subject", V1_0;
    CERTIFICATE_ISSUER = "Certificate Issuer", V1_0;
    DIGITAL_SIGNATURE_ALGORITHM = "Digital Signature Algorithm", V1_1;
    DIGEST = "Digest", V1_0;
    OPERATION_POLICY_NAME = "Operation Policy Name", V1_0;
    CRYPTOGRAPHIC_USAGE_MASK = "Cryptographic Usage Mask", V1_0;
    LEASE_TIME = "Lease Time", V1_0;
    USAGE_LIMITS = "Usage Limits", V1_0;
    STATE = "State", V1_0;
    INITIAL_DATE = "Initial Date", V1_0;
    ACTIVATION_DATE = "Activation Date", V1_0;
    PROCESS_START_DATE = "Process Start Date", V1_0;
    PROTECT_STOP_DATE = "Protect Stop Date", V1_0;
    DEACTIVATION_DATE = "Deactivation Date", V1_0;
    DESTROY_DATE = "Destroy Date", V1_0;
    COMPROMISE_OCCURRENCE_DATE = "Compromise Occurrence Date", V1_0;
    COMPROMISE_DATE = "Compromise Date", V1_0;
    REVOCATION_REASON = "Revocation Reason", V1_0;
    ARCHIVE_DATE = "Archive Date", V1_0;
    OBJECT_GROUP = "Object Group", V1_0;
    FRESH = "Fresh", V1_1;
    LINK = "Link", V1_0;
    APPLICATION_SPECIFIC_INFORMATION = "Application Specific Information", V1_0;
    CONTACT_INFORMATION = "Contact Information", V1_0;
    LAST_CHANGE_DATE = "Last Change Date", V1_0;
    ALTERNATIVE_NAME = "Alternative Name", V1_2;
    KEY_VALUE_PRESENT = "Key Value Present", V1_2;
    KEY_VALUE_LOCATION = "Key Value Location", V1_2;
    ORIGINAL_CREATION_DATE = "Original Creation Date", V1_2;
    RANDOM_NUMBER_GENERATOR = "Random Number Generator", V1_3;
    PKCS_12_FRIENDLY_NAME = "PKCS#12 Friendly Name", V1_4;
    DESCRIPTION = "Description", V1_4;
    COMMENT = "Comment", V1_4;
    SENSITIVE = "Sensitive", V1_4;
    ALWAYS_SENSITIVE = "Always Sensitive", V1_4;
    EXTRACTABLE = "Extractable", V1_4;
    NEVER_EXTRACTABLE = "Never Extractable", V1_4;
}

impl AttributeName {
    /// Whether it's a client's (`x-…`) or a server's (`y-…`) own attribute (KMIP 1.4 section 3.39).
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.0.starts_with("x-") || self.0.starts_with("y-")
    }

    /// The first protocol version that has it; `None` for a name that is neither the standard's nor custom.
    #[must_use]
    pub fn since(&self) -> Option<ProtocolVersion> {
        if self.is_custom() {
            return Some(ProtocolVersion::V1_0);
        }
        Self::standard(&self.0).map(|(_, since)| since)
    }

    /// Whether a peer of `version` knows it. A name that nobody has told us about is let through: it may be newer than
    /// this crate, or a vendor's.
    #[must_use]
    pub fn is_known_to(&self, version: ProtocolVersion) -> bool {
        self.since().is_none_or(|since| since <= version)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for AttributeName {
    fn from(name: &str) -> Self {
        match Self::standard(name) {
            Some((name, _)) => Self(Cow::Borrowed(name)),
            None => Self(Cow::Owned(name.to_owned())),
        }
    }
}

impl From<String> for AttributeName {
    fn from(name: String) -> Self {
        match Self::standard(&name) {
            Some((name, _)) => Self(Cow::Borrowed(name)),
            None => Self(Cow::Owned(name)),
        }
    }
}

impl std::fmt::Display for AttributeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Debug for AttributeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.0, f)
    }
}
