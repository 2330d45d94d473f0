//! Names of attributes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use crate::ProtocolVersion;
use crate::names::Tag;

/// The name of an attribute (KMIP 1.4 section 3), as written in messages of KMIP 1.x.
///
/// KMIP 2 has a tag for each of the standard's, and vendor and name for the others: `x-Product` of KMIP 1.x is there
/// `Product` of vendor `x` (KMIP 2.1 section 4.62).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeName {
    text: Cow<'static, str>,
    /// How many bytes of the text name the vendor, where that is neither `x` nor `y`: KMIP 1.x has no way to say those.
    vendor: Option<usize>,
}

/// Between vendor and name, in the text of what only KMIP 2 can say.
const VENDOR_END: char = ':';

macro_rules! standard {
    ($($constant:ident = $name:literal, $since:ident;)*) => {
        impl AttributeName {
            $(
                #[doc = concat!("`", $name, "`")]
                pub const $constant: Self = Self { text: Cow::Borrowed($name), vendor: None };
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
    KEY_FORMAT_TYPE = "Key Format Type", V2_0;
    NIST_KEY_TYPE = "NIST Key Type", V2_0;
    OPAQUE_DATA_TYPE = "Opaque Data Type", V2_0;
    PROTECTION_LEVEL = "Protection Level", V2_0;
    PROTECTION_PERIOD = "Protection Period", V2_0;
    PROTECTION_STORAGE_MASK = "Protection Storage Mask", V2_0;
    QUANTUM_SAFE = "Quantum Safe", V2_0;
    SHORT_UNIQUE_IDENTIFIER = "Short Unique Identifier", V2_0;
    ROTATE_INTERVAL = "Rotate Interval", V2_1;
    ROTATE_AUTOMATIC = "Rotate Automatic", V2_1;
    ROTATE_OFFSET = "Rotate Offset", V2_1;
    ROTATE_DATE = "Rotate Date", V2_1;
    ROTATE_GENERATION = "Rotate Generation", V2_1;
    ROTATE_NAME = "Rotate Name", V2_1;
    ROTATE_LATEST = "Rotate Latest", V2_1;
}

/// What KMIP 2.0 took away.
const ONLY_IN_1: [AttributeName; 4] = [
    AttributeName::CERTIFICATE_IDENTIFIER,
    AttributeName::CERTIFICATE_ISSUER,
    AttributeName::CERTIFICATE_SUBJECT,
    AttributeName::OPERATION_POLICY_NAME,
];

impl AttributeName {
    /// An attribute that is not the standard's (KMIP 2.1 section 4.62).
    #[must_use]
    pub fn of_vendor(vendor: &str, name: &str) -> Self {
        match vendor {
            "x" | "y" => Self { text: Cow::Owned(format!("{vendor}-{name}")), vendor: None },
            _ => Self { text: Cow::Owned(format!("{vendor}{VENDOR_END}{name}")), vendor: Some(vendor.len()) },
        }
    }

    /// Vendor and name, where it is not the standard's.
    #[must_use]
    pub fn vendor_and_name(&self) -> Option<(&str, &str)> {
        match self.vendor {
            Some(end) => Some((self.text.get(..end)?, self.text.get(end + VENDOR_END.len_utf8()..)?)),
            None if self.is_custom() => self.text.split_once('-'),
            None => None,
        }
    }

    /// Whether it's a client's (`x-…`) or a server's (`y-…`) own attribute (KMIP 1.4 section 3.39), or a vendor's.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.vendor.is_some() || self.text.starts_with("x-") || self.text.starts_with("y-")
    }

    /// The tag under which KMIP 2 writes it, if it is the standard's.
    #[must_use]
    pub fn tag(&self) -> Option<Tag> {
        static TAGS: LazyLock<HashMap<&'static str, Tag>> =
            LazyLock::new(|| Tag::NAMED.iter().filter_map(|tag| Some((tag.name()?, *tag))).collect());
        if self.is_custom() {
            return None;
        }
        let unnamed = || u32::from_str_radix(self.text.strip_prefix("0x")?, 16).ok().map(Tag);
        TAGS.get(&*self.text).copied().or_else(unnamed)
    }

    /// The attribute that KMIP 2 writes under this tag.
    #[must_use]
    pub fn of_tag(tag: Tag) -> Self {
        match tag.name() {
            Some(name) => Self { text: Cow::Borrowed(name), vendor: None },
            None => Self { text: Cow::Owned(format!("{:#010X}", tag.0)), vendor: None },
        }
    }

    /// The first protocol version that has it; `None` for a name that is neither the standard's nor custom.
    #[must_use]
    pub fn since(&self) -> Option<ProtocolVersion> {
        match self.vendor {
            Some(_) => Some(ProtocolVersion::V2_0),
            None if self.is_custom() => Some(ProtocolVersion::V1_0),
            None => Self::standard(&self.text).map(|(_, since)| since),
        }
    }

    /// Whether a peer of `version` knows it. A name that nobody has told us about is let through: it may be newer than
    /// this crate, or a vendor's; but in KMIP 2 there is no way to write one without a tag.
    #[must_use]
    pub fn is_known_to(&self, version: ProtocolVersion) -> bool {
        let writable = !version.is_2() || self.is_custom() || (self.tag().is_some() && !ONLY_IN_1.contains(self));
        writable && self.since().is_none_or(|since| since <= version)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<&str> for AttributeName {
    fn from(name: &str) -> Self {
        match Self::standard(name) {
            Some((name, _)) => Self { text: Cow::Borrowed(name), vendor: None },
            None => Self { text: Cow::Owned(name.to_owned()), vendor: None },
        }
    }
}

impl From<String> for AttributeName {
    fn from(name: String) -> Self {
        match Self::standard(&name) {
            Some((name, _)) => Self { text: Cow::Borrowed(name), vendor: None },
            None => Self { text: Cow::Owned(name), vendor: None },
        }
    }
}

impl std::fmt::Display for AttributeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::fmt::Debug for AttributeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_standard_name_has_its_tag() {
        for name in AttributeName::STANDARD {
            let tag = name.tag();
            assert!(tag.is_some(), "{name}");
            assert_eq!(AttributeName::of_tag(tag.unwrap()), *name);
        }
        let unnamed = AttributeName::of_tag(Tag(0x42_0FFF));
        assert_eq!(unnamed.tag(), Some(Tag(0x42_0FFF)));
    }

    #[test]
    fn vendors() {
        let ours = AttributeName::from("x-Product_Version");
        assert_eq!(ours.vendor_and_name(), Some(("x", "Product_Version")));
        assert_eq!(AttributeName::of_vendor("x", "Product_Version"), ours);
        assert!(ours.is_known_to(ProtocolVersion::V1_0) && ours.is_known_to(ProtocolVersion::V2_1));

        let theirs = AttributeName::of_vendor("Example, Inc.", "a:b");
        assert_eq!(theirs.vendor_and_name(), Some(("Example, Inc.", "a:b")));
        assert!(!theirs.is_known_to(ProtocolVersion::V1_4) && theirs.is_known_to(ProtocolVersion::V2_0));
        // The same text is another name where it comes as KMIP 1.x writes names.
        assert_ne!(AttributeName::from(theirs.as_str()), theirs);
    }

    #[test]
    fn which_version_knows_what() {
        let policy = AttributeName::OPERATION_POLICY_NAME;
        assert!(policy.is_known_to(ProtocolVersion::V1_4) && !policy.is_known_to(ProtocolVersion::V2_0));
        let format = AttributeName::KEY_FORMAT_TYPE;
        assert!(!format.is_known_to(ProtocolVersion::V1_4) && format.is_known_to(ProtocolVersion::V2_0));
        let unknown = AttributeName::from("Something Else");
        assert!(unknown.is_known_to(ProtocolVersion::V1_0) && !unknown.is_known_to(ProtocolVersion::V2_1));
    }
}
