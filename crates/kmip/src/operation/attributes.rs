//! Get Attributes, Get Attribute List, Add Attribute.

use crate::attribute::codec_v1::{attribute_from_v1, attribute_to_v1};
use crate::attribute::{Attribute, AttributeList, AttributeName, Newer};
use crate::fields::{Builder, Fields};
use crate::names::Tag;
use crate::operation::identifier_only;
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

/// Get attributes of an object (KMIP 1.4 section 4.12).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetAttributesRequest {
    /// Which object; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// Which attributes; all if none is named.
    pub names: Vec<AttributeName>,
}

impl GetAttributesRequest {
    pub(super) fn to_item(&self, _: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
            .repeated(Tag::ATTRIBUTE_NAME, &texts(&self.names))
            .build())
    }

    pub(super) fn from_item(item: Item) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request = Self { unique_identifier: fields.optional(Tag::UNIQUE_IDENTIFIER)?, names: names(&mut fields)? };
        fields.finish()?;
        Ok(request)
    }
}

/// Attributes of an object (KMIP 1.4 section 4.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetAttributesResponse {
    /// Which object.
    pub unique_identifier: String,
    /// Its attributes.
    pub attributes: Vec<Attribute>,
}

impl GetAttributesResponse {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
            .items(AttributeList::to_items(&self.attributes, version, Newer::Omit)?)
            .build())
    }

    pub(super) fn from_item(item: Item) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self {
            unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?,
            attributes: AttributeList::take(&mut fields)?,
        };
        fields.finish()?;
        Ok(response)
    }
}

identifier_only! {
    /// Get the names of an object's attributes (KMIP 1.4 section 4.13).
    request GetAttributeListRequest;
}

/// The names of an object's attributes (KMIP 1.4 section 4.13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetAttributeListResponse {
    /// Which object.
    pub unique_identifier: String,
    /// The names.
    pub names: Vec<AttributeName>,
}

impl GetAttributeListResponse {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        let known: Vec<_> = self.names.iter().filter(|name| name.is_known_to(version)).cloned().collect();
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
            .repeated(Tag::ATTRIBUTE_NAME, &texts(&known))
            .build())
    }

    pub(super) fn from_item(item: Item) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self { unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?, names: names(&mut fields)? };
        fields.finish()?;
        Ok(response)
    }
}

/// Add an attribute to an object (KMIP 1.4 section 4.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddAttributeRequest {
    /// Which object; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// The attribute, without an index.
    pub attribute: Attribute,
}

impl AddAttributeRequest {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
            .item(attribute_to_v1(&self.attribute, version)?)
            .build())
    }

    pub(super) fn from_item(item: Item) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request = Self {
            unique_identifier: fields.optional(Tag::UNIQUE_IDENTIFIER)?,
            attribute: attribute_from_v1(fields.item(Tag::ATTRIBUTE)?)?,
        };
        fields.finish()?;
        Ok(request)
    }
}

/// The attribute as it now is (KMIP 1.4 section 4.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddAttributeResponse {
    /// Which object.
    pub unique_identifier: String,
    /// The attribute, with its index.
    pub attribute: Attribute,
}

impl AddAttributeResponse {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
            .item(attribute_to_v1(&self.attribute, version)?)
            .build())
    }

    pub(super) fn from_item(item: Item) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self {
            unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?,
            attribute: attribute_from_v1(fields.item(Tag::ATTRIBUTE)?)?,
        };
        fields.finish()?;
        Ok(response)
    }
}

fn texts(names: &[AttributeName]) -> Vec<String> {
    names.iter().map(|name| name.as_str().to_owned()).collect()
}

fn names(fields: &mut Fields) -> Result<Vec<AttributeName>, DecodeError> {
    Ok(fields.repeated::<String>(Tag::ATTRIBUTE_NAME)?.into_iter().map(AttributeName::from).collect())
}
