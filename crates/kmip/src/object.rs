//! Managed objects: keys in a key block, and everything else as it came.

use crate::attribute::{Attribute, AttributeList, Newer};
use crate::fields::{Builder, Fields};
use crate::names::{CryptographicAlgorithm, KeyFormatType, Tag};
use crate::secret::SecretBytes;
use crate::ttlv::{DecodeError, EncodeError, Item, Value};
use crate::version::ProtocolVersion;

/// An object that a server keeps (KMIP 1.4 section 2.2).
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManagedObject {
    /// A symmetric key (section 2.2.2).
    SymmetricKey(KeyBlock),
    /// Any other object, as it came.
    Other(Item),
}

/// The tags under which objects come.
const OBJECTS: [Tag; 10] = [
    Tag::CERTIFICATE,
    Tag::CERTIFICATE_REQUEST,
    Tag::OPAQUE_OBJECT,
    Tag::PGP_KEY,
    Tag::PRIVATE_KEY,
    Tag::PUBLIC_KEY,
    Tag::SECRET_DATA,
    Tag::SPLIT_KEY,
    Tag::SYMMETRIC_KEY,
    Tag::TEMPLATE,
];

impl ManagedObject {
    pub(crate) fn to_item(&self, version: ProtocolVersion, newer: Newer) -> Result<Item, EncodeError> {
        match self {
            Self::SymmetricKey(block) => {
                Ok(Builder::new(Tag::SYMMETRIC_KEY).item(block.to_item(version, newer)?).build())
            }
            Self::Other(item) => Ok(item.copy()),
        }
    }

    pub(crate) fn take(fields: &mut Fields, version: ProtocolVersion) -> Result<Option<Self>, DecodeError> {
        let Some(item) = OBJECTS.iter().find_map(|tag| fields.optional_item(*tag)) else {
            return Ok(None);
        };
        if item.tag != Tag::SYMMETRIC_KEY {
            return Ok(Some(Self::Other(item)));
        }
        let mut fields = Fields::of(item)?;
        let block = KeyBlock::from_item(fields.item(Tag::KEY_BLOCK)?, version)?;
        fields.finish()?;
        Ok(Some(Self::SymmetricKey(block)))
    }
}

/// A key with what is needed to use it (KMIP 1.4 section 2.1.3).
#[derive(Debug, PartialEq, Eq)]
pub struct KeyBlock {
    /// The material's format.
    pub key_format_type: KeyFormatType,
    /// How a point on a curve is compressed.
    pub key_compression_type: Option<u32>,
    /// The key. Not set if it is kept elsewhere (KMIP 1.2).
    pub key_value: Option<KeyValue>,
    /// What the key is for.
    pub cryptographic_algorithm: Option<CryptographicAlgorithm>,
    /// Length in bits.
    pub cryptographic_length: Option<i32>,
    /// How the key is wrapped, as it came.
    pub key_wrapping_data: Option<Item>,
}

/// A key, plain or wrapped (KMIP 1.4 section 2.1.4).
#[derive(Debug, PartialEq, Eq)]
pub enum KeyValue {
    /// Not wrapped, or wrapped inside the material.
    Plain {
        /// The key material.
        material: KeyMaterial,
        /// Attributes that come with it.
        attributes: Vec<Attribute>,
    },
    /// Material and attributes, wrapped together.
    Wrapped(SecretBytes),
}

/// The bytes that matter (KMIP 1.4 section 2.1.4).
#[derive(Debug, PartialEq, Eq)]
pub enum KeyMaterial {
    /// In one of the formats that are bytes.
    Bytes(SecretBytes),
    /// In one of the transparent formats.
    Transparent(Vec<Item>),
}

impl KeyBlock {
    /// An AES key in the raw format.
    ///
    /// `None` if it has more bits than a message can say.
    #[must_use]
    pub fn raw_aes(key: SecretBytes) -> Option<Self> {
        let bits = i32::try_from(key.len().checked_mul(8)?).ok()?;
        Some(Self {
            key_format_type: KeyFormatType::RAW,
            key_compression_type: None,
            key_value: Some(KeyValue::Plain { material: KeyMaterial::Bytes(key), attributes: vec![] }),
            cryptographic_algorithm: Some(CryptographicAlgorithm::AES),
            cryptographic_length: Some(bits),
            key_wrapping_data: None,
        })
    }

    /// The key's bytes, if it is not wrapped: raw, or the key of a Transparent Symmetric Key (KMIP 1.4 section 2.1.7.1).
    #[must_use]
    pub fn into_bytes(self) -> Option<SecretBytes> {
        if self.key_wrapping_data.is_some() {
            return None;
        }
        match self.key_value? {
            KeyValue::Plain { material: KeyMaterial::Bytes(bytes), .. } => Some(bytes),
            KeyValue::Plain { material: KeyMaterial::Transparent(items), .. } => {
                items.into_iter().find_map(|item| match item {
                    Item { tag: Tag::KEY, value: Value::ByteString(bytes) } => Some(bytes),
                    _ => None,
                })
            }
            KeyValue::Wrapped(_) => None,
        }
    }

    fn to_item(&self, version: ProtocolVersion, newer: Newer) -> Result<Item, EncodeError> {
        let key_value = match &self.key_value {
            None => None,
            Some(KeyValue::Wrapped(bytes)) => {
                Some(Item::new(Tag::KEY_VALUE, Value::ByteString(SecretBytes::copy_of(bytes.expose()))))
            }
            Some(KeyValue::Plain { material, attributes }) => Some(
                Builder::new(Tag::KEY_VALUE)
                    .item(match material {
                        KeyMaterial::Bytes(bytes) => {
                            Item::new(Tag::KEY_MATERIAL, Value::ByteString(SecretBytes::copy_of(bytes.expose())))
                        }
                        KeyMaterial::Transparent(items) => {
                            Item::structure(Tag::KEY_MATERIAL, items.iter().map(Item::copy).collect())
                        }
                    })
                    .items(match attributes.as_slice() {
                        [] => vec![],
                        attributes => AttributeList::to_items(attributes, version, newer)?,
                    })
                    .build(),
            ),
        };
        Ok(Builder::new(Tag::KEY_BLOCK)
            .field(Tag::KEY_FORMAT_TYPE, &self.key_format_type)
            .optional(Tag::KEY_COMPRESSION_TYPE, self.key_compression_type.as_ref())
            .items(key_value)
            .optional(Tag::CRYPTOGRAPHIC_ALGORITHM, self.cryptographic_algorithm.as_ref())
            .optional(Tag::CRYPTOGRAPHIC_LENGTH, self.cryptographic_length.as_ref())
            .items(self.key_wrapping_data.as_ref().map(Item::copy))
            .build())
    }

    fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let block = Self {
            key_format_type: fields.required(Tag::KEY_FORMAT_TYPE)?,
            key_compression_type: fields.optional(Tag::KEY_COMPRESSION_TYPE)?,
            key_value: fields.optional_item(Tag::KEY_VALUE).map(|item| key_value(item, version)).transpose()?,
            cryptographic_algorithm: fields.optional(Tag::CRYPTOGRAPHIC_ALGORITHM)?,
            cryptographic_length: fields.optional(Tag::CRYPTOGRAPHIC_LENGTH)?,
            key_wrapping_data: fields.optional_item(Tag::KEY_WRAPPING_DATA),
        };
        fields.finish()?;
        Ok(block)
    }
}

fn key_value(item: Item, version: ProtocolVersion) -> Result<KeyValue, DecodeError> {
    let item = match item.value {
        Value::ByteString(bytes) => return Ok(KeyValue::Wrapped(bytes)),
        value => Item { tag: item.tag, value },
    };
    let mut fields = Fields::of(item)?;
    let material = fields.item(Tag::KEY_MATERIAL)?;
    let material = match material.value {
        Value::ByteString(bytes) => KeyMaterial::Bytes(bytes),
        Value::Structure(items) => KeyMaterial::Transparent(items),
        other => {
            let found = other.item_type();
            return Err(DecodeError::WrongType { tag: material.tag, expected: "ByteString or Structure", found });
        }
    };
    let attributes = AttributeList::take(&mut fields, version)?;
    fields.finish()?;
    Ok(KeyValue::Plain { material, attributes })
}
