//! Get.

use super::since;
use crate::attribute::Newer;
use crate::fields::{Builder, Fields};
use crate::names::{KeyFormatType, ObjectType, Tag};
use crate::object::ManagedObject;
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

/// Get an object (KMIP 1.4 section 4.11).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GetRequest {
    /// Which object; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// In which format.
    pub key_format_type: Option<KeyFormatType>,
    /// Wrapped as it is kept, or not (KMIP 1.4).
    pub key_wrap_type: Option<u32>,
    /// How a point on a curve is compressed.
    pub key_compression_type: Option<u32>,
    /// How to wrap the key, as it came.
    pub key_wrapping_specification: Option<Item>,
}

impl GetRequest {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        since(self.key_wrap_type.as_ref(), "the field Key Wrap Type", ProtocolVersion::V1_4, version)?;
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
            .optional(Tag::KEY_FORMAT_TYPE, self.key_format_type.as_ref())
            .optional(Tag::KEY_WRAP_TYPE, self.key_wrap_type.as_ref())
            .optional(Tag::KEY_COMPRESSION_TYPE, self.key_compression_type.as_ref())
            .items(self.key_wrapping_specification.as_ref().map(Item::copy))
            .build())
    }

    pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request = Self {
            unique_identifier: fields.identifier()?,
            key_format_type: fields.optional(Tag::KEY_FORMAT_TYPE)?,
            key_wrap_type: fields.optional(Tag::KEY_WRAP_TYPE)?,
            key_compression_type: fields.optional(Tag::KEY_COMPRESSION_TYPE)?,
            key_wrapping_specification: fields.optional_item(Tag::KEY_WRAPPING_SPECIFICATION),
        };
        fields.finish()?;
        Ok(request)
    }
}

/// The object (KMIP 1.4 section 4.11).
#[derive(Debug, PartialEq, Eq)]
pub struct GetResponse {
    /// What kind of object.
    pub object_type: ObjectType,
    /// Its identifier.
    pub unique_identifier: String,
    /// The object.
    pub object: ManagedObject,
}

impl GetResponse {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .field(Tag::OBJECT_TYPE, &self.object_type)
            .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
            .item(self.object.to_item(version, Newer::Omit)?)
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let within = fields.tag();
        let response = Self {
            object_type: fields.required(Tag::OBJECT_TYPE)?,
            unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?,
            object: ManagedObject::take(&mut fields, version)?
                .ok_or(DecodeError::Missing { tag: Tag::SYMMETRIC_KEY, within })?,
        };
        fields.finish()?;
        Ok(response)
    }
}
