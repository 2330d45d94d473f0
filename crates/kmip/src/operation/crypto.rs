//! Encrypt and Decrypt: the key stays at the server.

use super::since;
use crate::attribute::{Attribute, AttributeName, AttributeValue, CustomValue};
use crate::fields::{Builder, Fields};
use crate::names::{BlockCipherMode, CryptographicAlgorithm, HashingAlgorithm, PaddingMethod, Tag};
use crate::secret::SecretBytes;
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

/// How a key is used (KMIP 1.4 section 3.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CryptographicParameters {
    /// How a block cipher is used on more than a block.
    pub block_cipher_mode: Option<BlockCipherMode>,
    /// How plaintext is brought to whole blocks.
    pub padding_method: Option<PaddingMethod>,
    /// Hash function.
    pub hashing_algorithm: Option<HashingAlgorithm>,
    /// What the key is for, in payment systems.
    pub key_role_type: Option<u32>,
    /// How signatures are made (KMIP 1.2).
    pub digital_signature_algorithm: Option<u32>,
    /// Algorithm (KMIP 1.2).
    pub cryptographic_algorithm: Option<CryptographicAlgorithm>,
    /// Whether the server is to choose the IV, at random (KMIP 1.2).
    pub random_iv: Option<bool>,
    /// Bits of the IV (KMIP 1.2).
    pub iv_length: Option<i32>,
    /// Bytes of the tag of authenticated encryption (KMIP 1.2).
    pub tag_length: Option<i32>,
    /// Parameters that have no field of their own here, as they came.
    pub more: Vec<Parameter>,
}

/// A parameter that has no field of its own here.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter(Item);

impl Clone for Parameter {
    /// Parameters are no key material.
    fn clone(&self) -> Self {
        Self(self.0.copy())
    }
}

impl CryptographicParameters {
    /// Those of an attribute, if it is this one and can be read.
    #[must_use]
    pub fn of_attribute(attribute: &Attribute) -> Option<Self> {
        match &attribute.value {
            AttributeValue::Other(name, CustomValue(value)) if *name == AttributeName::CRYPTOGRAPHIC_PARAMETERS => {
                Self::from_item(Item::new(Tag::CRYPTOGRAPHIC_PARAMETERS, value.copy())).ok()
            }
            _ => None,
        }
    }

    /// As an attribute of a key.
    #[must_use]
    pub fn to_attribute(&self) -> Attribute {
        let value = CustomValue(self.to_item().value);
        Attribute::new(AttributeValue::Other(AttributeName::CRYPTOGRAPHIC_PARAMETERS, value))
    }

    fn to_item(&self) -> Item {
        Builder::new(Tag::CRYPTOGRAPHIC_PARAMETERS)
            .optional(Tag::BLOCK_CIPHER_MODE, self.block_cipher_mode.as_ref())
            .optional(Tag::PADDING_METHOD, self.padding_method.as_ref())
            .optional(Tag::HASHING_ALGORITHM, self.hashing_algorithm.as_ref())
            .optional(Tag::KEY_ROLE_TYPE, self.key_role_type.as_ref())
            .optional(Tag::DIGITAL_SIGNATURE_ALGORITHM, self.digital_signature_algorithm.as_ref())
            .optional(Tag::CRYPTOGRAPHIC_ALGORITHM, self.cryptographic_algorithm.as_ref())
            .optional(Tag::RANDOM_IV, self.random_iv.as_ref())
            .optional(Tag::IV_LENGTH, self.iv_length.as_ref())
            .optional(Tag::TAG_LENGTH, self.tag_length.as_ref())
            .items(self.more.iter().map(|parameter| parameter.0.copy()))
            .build()
    }

    fn from_item(item: Item) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        Ok(Self {
            block_cipher_mode: fields.optional(Tag::BLOCK_CIPHER_MODE)?,
            padding_method: fields.optional(Tag::PADDING_METHOD)?,
            hashing_algorithm: fields.optional(Tag::HASHING_ALGORITHM)?,
            key_role_type: fields.optional(Tag::KEY_ROLE_TYPE)?,
            digital_signature_algorithm: fields.optional(Tag::DIGITAL_SIGNATURE_ALGORITHM)?,
            cryptographic_algorithm: fields.optional(Tag::CRYPTOGRAPHIC_ALGORITHM)?,
            random_iv: fields.optional(Tag::RANDOM_IV)?,
            iv_length: fields.optional(Tag::IV_LENGTH)?,
            tag_length: fields.optional(Tag::TAG_LENGTH)?,
            more: fields.rest().into_iter().map(Parameter).collect(),
        })
    }
}

/// Encrypt with a key that stays at the server (KMIP 1.4 section 4.29).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EncryptRequest {
    /// Which key; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// How; as the key's own attribute says if not set.
    pub parameters: Option<CryptographicParameters>,
    /// The plaintext. Not set where only the stream is to be ended (KMIP 1.3).
    pub data: Option<SecretBytes>,
    /// Initialization vector, counter or nonce.
    pub iv_counter_nonce: Option<Vec<u8>>,
    /// Which stream goes on (KMIP 1.3).
    pub correlation_value: Option<Vec<u8>>,
    /// Whether a stream begins (KMIP 1.3).
    pub init_indicator: Option<bool>,
    /// Whether a stream ends (KMIP 1.3).
    pub final_indicator: Option<bool>,
    /// What is authenticated and not encrypted (KMIP 1.4).
    pub additional_data: Option<Vec<u8>>,
}

/// The ciphertext (KMIP 1.4 section 4.29).
#[derive(Debug, PartialEq, Eq)]
pub struct EncryptResponse {
    /// Which key.
    pub unique_identifier: String,
    /// The ciphertext.
    pub data: Option<SecretBytes>,
    /// Initialization vector, counter or nonce, if the server chose it.
    pub iv_counter_nonce: Option<Vec<u8>>,
    /// By which the stream goes on (KMIP 1.3).
    pub correlation_value: Option<Vec<u8>>,
    /// The tag of authenticated encryption (KMIP 1.4).
    pub authentication_tag: Option<Vec<u8>>,
}

/// Decrypt with a key that stays at the server (KMIP 1.4 section 4.30).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DecryptRequest {
    /// Which key; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// How; as the key's own attribute says if not set.
    pub parameters: Option<CryptographicParameters>,
    /// The ciphertext. Not set where only the stream is to be ended (KMIP 1.3).
    pub data: Option<SecretBytes>,
    /// Initialization vector, counter or nonce.
    pub iv_counter_nonce: Option<Vec<u8>>,
    /// Which stream goes on (KMIP 1.3).
    pub correlation_value: Option<Vec<u8>>,
    /// Whether a stream begins (KMIP 1.3).
    pub init_indicator: Option<bool>,
    /// Whether a stream ends (KMIP 1.3).
    pub final_indicator: Option<bool>,
    /// What was authenticated and not encrypted (KMIP 1.4).
    pub additional_data: Option<Vec<u8>>,
    /// The tag of authenticated encryption (KMIP 1.4).
    pub authentication_tag: Option<Vec<u8>>,
}

/// The plaintext (KMIP 1.4 section 4.30).
#[derive(Debug, PartialEq, Eq)]
pub struct DecryptResponse {
    /// Which key.
    pub unique_identifier: String,
    /// The plaintext. It is wiped when dropped.
    pub data: Option<SecretBytes>,
    /// By which the stream goes on (KMIP 1.3).
    pub correlation_value: Option<Vec<u8>>,
}

fn copy(data: Option<&SecretBytes>) -> Option<SecretBytes> {
    data.map(|data| SecretBytes::copy_of(data.expose()))
}

const STREAMS: ProtocolVersion = ProtocolVersion::V1_3;
const AUTHENTICATED: ProtocolVersion = ProtocolVersion::V1_4;

impl EncryptRequest {
    /// A second one, on purpose: it holds plaintext.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self {
            unique_identifier: self.unique_identifier.clone(),
            parameters: self.parameters.clone(),
            data: copy(self.data.as_ref()),
            iv_counter_nonce: self.iv_counter_nonce.clone(),
            correlation_value: self.correlation_value.clone(),
            init_indicator: self.init_indicator,
            final_indicator: self.final_indicator,
            additional_data: self.additional_data.clone(),
        }
    }

    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        since(self.correlation_value.as_ref(), "the field Correlation Value", STREAMS, version)?;
        since(self.init_indicator.as_ref(), "the field Init Indicator", STREAMS, version)?;
        since(self.final_indicator.as_ref(), "the field Final Indicator", STREAMS, version)?;
        since(self.additional_data.as_ref(), "additional data of Encrypt", AUTHENTICATED, version)?;
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
            .items(self.parameters.as_ref().map(CryptographicParameters::to_item))
            .optional(Tag::DATA, self.data.as_ref())
            .optional(Tag::IV_COUNTER_NONCE, self.iv_counter_nonce.as_ref())
            .optional(Tag::CORRELATION_VALUE, self.correlation_value.as_ref())
            .optional(Tag::INIT_INDICATOR, self.init_indicator.as_ref())
            .optional(Tag::FINAL_INDICATOR, self.final_indicator.as_ref())
            .optional(Tag::AUTHENTICATED_ENCRYPTION_ADDITIONAL_DATA, self.additional_data.as_ref())
            .build())
    }

    pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request = Self {
            unique_identifier: fields.identifier()?,
            parameters: parameters(&mut fields)?,
            data: fields.optional(Tag::DATA)?,
            iv_counter_nonce: fields.optional(Tag::IV_COUNTER_NONCE)?,
            correlation_value: fields.optional(Tag::CORRELATION_VALUE)?,
            init_indicator: fields.optional(Tag::INIT_INDICATOR)?,
            final_indicator: fields.optional(Tag::FINAL_INDICATOR)?,
            additional_data: fields.optional(Tag::AUTHENTICATED_ENCRYPTION_ADDITIONAL_DATA)?,
        };
        fields.finish()?;
        Ok(request)
    }
}

impl EncryptResponse {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        // Without its tag the ciphertext could not be opened again.
        since(self.authentication_tag.as_ref(), "the tag of authenticated encryption", AUTHENTICATED, version)?;
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
            .optional(Tag::DATA, self.data.as_ref())
            .optional(Tag::IV_COUNTER_NONCE, self.iv_counter_nonce.as_ref())
            .optional(Tag::CORRELATION_VALUE, self.correlation_value.as_ref())
            .optional(Tag::AUTHENTICATED_ENCRYPTION_TAG, self.authentication_tag.as_ref())
            .build())
    }

    pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self {
            unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?,
            data: fields.optional(Tag::DATA)?,
            iv_counter_nonce: fields.optional(Tag::IV_COUNTER_NONCE)?,
            correlation_value: fields.optional(Tag::CORRELATION_VALUE)?,
            authentication_tag: fields.optional(Tag::AUTHENTICATED_ENCRYPTION_TAG)?,
        };
        fields.finish()?;
        Ok(response)
    }
}

impl DecryptRequest {
    /// A second one, on purpose.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self {
            unique_identifier: self.unique_identifier.clone(),
            parameters: self.parameters.clone(),
            data: copy(self.data.as_ref()),
            iv_counter_nonce: self.iv_counter_nonce.clone(),
            correlation_value: self.correlation_value.clone(),
            init_indicator: self.init_indicator,
            final_indicator: self.final_indicator,
            additional_data: self.additional_data.clone(),
            authentication_tag: self.authentication_tag.clone(),
        }
    }

    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        since(self.correlation_value.as_ref(), "the field Correlation Value", STREAMS, version)?;
        since(self.init_indicator.as_ref(), "the field Init Indicator", STREAMS, version)?;
        since(self.final_indicator.as_ref(), "the field Final Indicator", STREAMS, version)?;
        since(self.additional_data.as_ref(), "additional data of Decrypt", AUTHENTICATED, version)?;
        since(self.authentication_tag.as_ref(), "the tag of authenticated encryption", AUTHENTICATED, version)?;
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
            .items(self.parameters.as_ref().map(CryptographicParameters::to_item))
            .optional(Tag::DATA, self.data.as_ref())
            .optional(Tag::IV_COUNTER_NONCE, self.iv_counter_nonce.as_ref())
            .optional(Tag::CORRELATION_VALUE, self.correlation_value.as_ref())
            .optional(Tag::INIT_INDICATOR, self.init_indicator.as_ref())
            .optional(Tag::FINAL_INDICATOR, self.final_indicator.as_ref())
            .optional(Tag::AUTHENTICATED_ENCRYPTION_ADDITIONAL_DATA, self.additional_data.as_ref())
            .optional(Tag::AUTHENTICATED_ENCRYPTION_TAG, self.authentication_tag.as_ref())
            .build())
    }

    pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request = Self {
            unique_identifier: fields.identifier()?,
            parameters: parameters(&mut fields)?,
            data: fields.optional(Tag::DATA)?,
            iv_counter_nonce: fields.optional(Tag::IV_COUNTER_NONCE)?,
            correlation_value: fields.optional(Tag::CORRELATION_VALUE)?,
            init_indicator: fields.optional(Tag::INIT_INDICATOR)?,
            final_indicator: fields.optional(Tag::FINAL_INDICATOR)?,
            additional_data: fields.optional(Tag::AUTHENTICATED_ENCRYPTION_ADDITIONAL_DATA)?,
            authentication_tag: fields.optional(Tag::AUTHENTICATED_ENCRYPTION_TAG)?,
        };
        fields.finish()?;
        Ok(request)
    }
}

impl DecryptResponse {
    pub(super) fn to_item(&self, _: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
            .optional(Tag::DATA, self.data.as_ref())
            .optional(Tag::CORRELATION_VALUE, self.correlation_value.as_ref())
            .build())
    }

    pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self {
            unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?,
            data: fields.optional(Tag::DATA)?,
            correlation_value: fields.optional(Tag::CORRELATION_VALUE)?,
        };
        fields.finish()?;
        Ok(response)
    }
}

fn parameters(fields: &mut Fields) -> Result<Option<CryptographicParameters>, DecodeError> {
    fields.optional_item(Tag::CRYPTOGRAPHIC_PARAMETERS).map(CryptographicParameters::from_item).transpose()
}
