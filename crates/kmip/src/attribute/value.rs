//! Values of attributes.

use crate::attribute::AttributeName;
use crate::attribute::codec_v1::{attribute_from_v1, unchecked_to_v1};
use crate::attribute::codec_v2::{attribute_from_v2, attribute_to_v2};
use crate::names::{
    CryptographicAlgorithm, HashingAlgorithm, KeyFormatType, NameType, ObjectType, RevocationReasonCode, State, Tag,
};
use crate::ttlv::{DecodeError, EncodeError, Limits, Value, decode, encode};
use crate::version::ProtocolVersion;

/// One attribute of an object: one instance of it, where it may have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Which instance, for an attribute that may have several. Not set means 0 (KMIP 1.4 section 2.1.1).
    pub index: Option<i32>,
    /// What it says.
    pub value: AttributeValue,
}

impl Attribute {
    /// An attribute without an index.
    #[must_use]
    pub fn new(value: AttributeValue) -> Self {
        Self { index: None, value }
    }

    /// A custom attribute of text, the form every server that takes custom attributes takes.
    #[must_use]
    pub fn custom_text(name: &str, value: &str) -> Self {
        Self::new(AttributeValue::Custom(AttributeName::from(name), CustomValue(Value::TextString(value.to_owned()))))
    }

    /// A name of uninterpreted text.
    #[must_use]
    pub fn name(value: &str) -> Self {
        Self::new(AttributeValue::Name(Name::text(value)))
    }

    /// The attribute as KMIP 1.4 writes it, or as KMIP 2.1 does where 1.4 has no way to: a form to keep it in. A vendor
    /// attribute of KMIP 2.1 loses its index.
    ///
    /// # Errors
    /// If it's too long for a message.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EncodeError> {
        let item = if is_foreign(&self.attribute_name()) {
            attribute_to_v2(self, ProtocolVersion::V2_1)?
        } else {
            unchecked_to_v1(self)
        };
        Ok(std::mem::take(&mut *encode(&item)?))
    }

    /// Reads what [`Attribute::to_bytes`] wrote.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let item = decode(bytes, &Limits::default())?;
        match &item.value {
            Value::Structure(items) if items.first().is_some_and(|first| first.tag == Tag::VENDOR_IDENTIFICATION) => {
                attribute_from_v2(item)
            }
            _ => attribute_from_v1(item),
        }
    }

    /// The index; 0 if not set.
    #[must_use]
    pub fn index_or_zero(&self) -> i32 {
        self.index.unwrap_or(0)
    }

    /// Which attribute it is.
    #[must_use]
    pub fn attribute_name(&self) -> AttributeName {
        self.value.attribute_name()
    }
}

/// Whether KMIP 1.x has no way to write the name.
fn is_foreign(name: &AttributeName) -> bool {
    name.is_custom() && !name.is_known_to(ProtocolVersion::V1_4)
}

/// A name of an object (KMIP 1.4 section 3.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The name.
    pub value: String,
    /// Text or URI.
    pub name_type: NameType,
}

impl Name {
    /// A name of uninterpreted text.
    #[must_use]
    pub fn text(value: &str) -> Self {
        Self { value: value.to_owned(), name_type: NameType::UNINTERPRETED_TEXT_STRING }
    }
}

/// Why an object was revoked (KMIP 1.4 section 3.31).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationReason {
    /// The kind of reason.
    pub code: RevocationReasonCode,
    /// In words.
    pub message: Option<String>,
}

/// A hash of the key material (KMIP 1.4 section 3.17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The hash function.
    pub hashing_algorithm: HashingAlgorithm,
    /// The hash.
    pub value: Vec<u8>,
    /// The format the key was hashed in (KMIP 1.1).
    pub key_format_type: Option<KeyFormatType>,
}

/// What a key may be used for (KMIP 1.4 section 9.1.3.3.1). Bits without a name are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UsageMask(pub i32);

impl UsageMask {
    /// Sign.
    pub const SIGN: Self = Self(0x0001);
    /// Verify a signature.
    pub const VERIFY: Self = Self(0x0002);
    /// Encrypt.
    pub const ENCRYPT: Self = Self(0x0004);
    /// Decrypt.
    pub const DECRYPT: Self = Self(0x0008);
    /// Wrap a key.
    pub const WRAP_KEY: Self = Self(0x0010);
    /// Unwrap a key.
    pub const UNWRAP_KEY: Self = Self(0x0020);
    /// Export a key.
    pub const EXPORT: Self = Self(0x0040);
    /// Make a message authentication code.
    pub const MAC_GENERATE: Self = Self(0x0080);
    /// Verify a message authentication code.
    pub const MAC_VERIFY: Self = Self(0x0100);
    /// Derive a key.
    pub const DERIVE_KEY: Self = Self(0x0200);

    /// Whether every bit of `other` is set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for UsageMask {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The value of an attribute that has no type of its own here: any item.
#[derive(Debug, PartialEq, Eq)]
pub struct CustomValue(pub Value);

impl CustomValue {
    /// The value, if it is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.0 {
            Value::TextString(text) => Some(text),
            _ => None,
        }
    }
}

impl Clone for CustomValue {
    /// Attributes are no key material: what a custom attribute holds may be copied.
    fn clone(&self) -> Self {
        Self(self.0.copy())
    }
}

/// What an attribute says (KMIP 1.4 section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributeValue {
    /// When the object may be used for the first time (section 3.24).
    ActivationDate(i64),
    /// Whether the object was always sensitive (section 3.47; KMIP 1.4).
    AlwaysSensitive(bool),
    /// When the object was archived (section 3.32).
    ArchiveDate(i64),
    /// A comment for humans (section 3.44; KMIP 1.4).
    Comment(String),
    /// When the object became known to be compromised (section 3.30).
    CompromiseDate(i64),
    /// When the object is thought to have been compromised first (section 3.29).
    CompromiseOccurrenceDate(i64),
    /// Whom to ask (section 3.37).
    ContactInformation(String),
    /// Algorithm (section 3.4).
    CryptographicAlgorithm(CryptographicAlgorithm),
    /// Length in bits (section 3.5).
    CryptographicLength(i32),
    /// What the key may be used for (section 3.19).
    CryptographicUsageMask(UsageMask),
    /// A client's or server's own attribute (section 3.39).
    Custom(AttributeName, CustomValue),
    /// When the object may no longer be used to protect (section 3.27).
    DeactivationDate(i64),
    /// A description for humans (section 3.43; KMIP 1.4).
    Description(String),
    /// When the object was destroyed (section 3.28).
    DestroyDate(i64),
    /// A hash of the material (section 3.17).
    Digest(Digest),
    /// Whether the material may leave the server (section 3.48; KMIP 1.4).
    Extractable(bool),
    /// Whether the object has not been served yet (section 3.34; KMIP 1.1).
    Fresh(bool),
    /// When the object was made or registered (section 3.23).
    InitialDate(i64),
    /// When the object last changed (section 3.38).
    LastChangeDate(i64),
    /// Seconds the object may be used after it was got (section 3.20).
    LeaseTime(u32),
    /// A name (section 3.2).
    Name(Name),
    /// Whether the material could never leave the server (section 3.49; KMIP 1.4).
    NeverExtractable(bool),
    /// A group the object is in (section 3.33).
    ObjectGroup(String),
    /// The kind of object (section 3.3).
    ObjectType(ObjectType),
    /// Whose rules say who may do what (section 3.18).
    OperationPolicyName(String),
    /// When the object was made, before it came to this server (section 3.42; KMIP 1.2).
    OriginalCreationDate(i64),
    /// An attribute without a type of its own here.
    Other(AttributeName, CustomValue),
    /// When the object may be used to process (section 3.25).
    ProcessStartDate(i64),
    /// When the object may no longer be used to protect (section 3.26).
    ProtectStopDate(i64),
    /// Why the object was revoked (section 3.31).
    RevocationReason(RevocationReason),
    /// Whether the material may leave the server only wrapped (section 3.46; KMIP 1.4).
    Sensitive(bool),
    /// Where the object stands in its life (section 3.22).
    State(State),
    /// The object's identifier (section 3.1).
    UniqueIdentifier(String),
}

impl AttributeValue {
    /// Which attribute it is.
    #[must_use]
    pub fn attribute_name(&self) -> AttributeName {
        match self {
            Self::ActivationDate(_) => AttributeName::ACTIVATION_DATE,
            Self::AlwaysSensitive(_) => AttributeName::ALWAYS_SENSITIVE,
            Self::ArchiveDate(_) => AttributeName::ARCHIVE_DATE,
            Self::Comment(_) => AttributeName::COMMENT,
            Self::CompromiseDate(_) => AttributeName::COMPROMISE_DATE,
            Self::CompromiseOccurrenceDate(_) => AttributeName::COMPROMISE_OCCURRENCE_DATE,
            Self::ContactInformation(_) => AttributeName::CONTACT_INFORMATION,
            Self::CryptographicAlgorithm(_) => AttributeName::CRYPTOGRAPHIC_ALGORITHM,
            Self::CryptographicLength(_) => AttributeName::CRYPTOGRAPHIC_LENGTH,
            Self::CryptographicUsageMask(_) => AttributeName::CRYPTOGRAPHIC_USAGE_MASK,
            Self::Custom(name, _) | Self::Other(name, _) => name.clone(),
            Self::DeactivationDate(_) => AttributeName::DEACTIVATION_DATE,
            Self::Description(_) => AttributeName::DESCRIPTION,
            Self::DestroyDate(_) => AttributeName::DESTROY_DATE,
            Self::Digest(_) => AttributeName::DIGEST,
            Self::Extractable(_) => AttributeName::EXTRACTABLE,
            Self::Fresh(_) => AttributeName::FRESH,
            Self::InitialDate(_) => AttributeName::INITIAL_DATE,
            Self::LastChangeDate(_) => AttributeName::LAST_CHANGE_DATE,
            Self::LeaseTime(_) => AttributeName::LEASE_TIME,
            Self::Name(_) => AttributeName::NAME,
            Self::NeverExtractable(_) => AttributeName::NEVER_EXTRACTABLE,
            Self::ObjectGroup(_) => AttributeName::OBJECT_GROUP,
            Self::ObjectType(_) => AttributeName::OBJECT_TYPE,
            Self::OperationPolicyName(_) => AttributeName::OPERATION_POLICY_NAME,
            Self::OriginalCreationDate(_) => AttributeName::ORIGINAL_CREATION_DATE,
            Self::ProcessStartDate(_) => AttributeName::PROCESS_START_DATE,
            Self::ProtectStopDate(_) => AttributeName::PROTECT_STOP_DATE,
            Self::RevocationReason(_) => AttributeName::REVOCATION_REASON,
            Self::Sensitive(_) => AttributeName::SENSITIVE,
            Self::State(_) => AttributeName::STATE,
            Self::UniqueIdentifier(_) => AttributeName::UNIQUE_IDENTIFIER,
        }
    }
}
