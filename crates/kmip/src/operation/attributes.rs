//! Get Attributes, Get Attribute List, Add, Modify, Set and Delete Attribute.

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
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
            .items(AttributeList::names_to_items(&self.names, version, Newer::Refuse)?)
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request =
            Self { unique_identifier: fields.identifier()?, names: AttributeList::take_names(&mut fields, version)? };
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

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self {
            unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?,
            attributes: AttributeList::take(&mut fields, version)?,
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
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
            .items(AttributeList::names_to_items(&self.names, version, Newer::Omit)?)
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self {
            unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?,
            names: AttributeList::take_names(&mut fields, version)?,
        };
        fields.finish()?;
        Ok(response)
    }
}

/// An answer that tells the attribute as it now is, or was, in KMIP 1.x, and in KMIP 2 nothing but the object.
macro_rules! attribute_told {
    ($(#[$meta:meta])* $response:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $response {
            /// Which object.
            pub unique_identifier: String,
            /// The attribute, with its index. KMIP 2 doesn't tell it.
            pub attribute: Option<Attribute>,
        }

        impl $response {
            pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
                let attribute = self.attribute.as_ref().filter(|_| !version.is_2());
                let attribute = attribute
                    .map(|attribute| AttributeList::one_to_item(Tag::ATTRIBUTE, attribute, version))
                    .transpose()?;
                Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
                    .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
                    .items(attribute)
                    .build())
            }

            pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
                let mut fields = Fields::of(item)?;
                let unique_identifier = fields.required(Tag::UNIQUE_IDENTIFIER)?;
                let attribute = match version.is_2() {
                    true => None,
                    false => Some(AttributeList::required_one(&mut fields, Tag::ATTRIBUTE, version)?),
                };
                fields.finish()?;
                Ok(Self { unique_identifier, attribute })
            }
        }
    };
}

/// Add an attribute to an object (KMIP 1.4 section 4.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddAttributeRequest {
    /// Which object; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// The attribute, without an index.
    pub attribute: Attribute,
}

attribute_told! {
    /// The attribute as it now is (KMIP 1.4 section 4.14).
    AddAttributeResponse
}

/// Change an attribute of an object (KMIP 1.4 section 4.15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModifyAttributeRequest {
    /// Which object; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// The attribute as it is, where it may have several instances (KMIP 2.0; before, the index tells which).
    pub current: Option<Attribute>,
    /// The attribute as it shall be.
    pub attribute: Attribute,
}

attribute_told! {
    /// The attribute as it now is (KMIP 1.4 section 4.15).
    ModifyAttributeResponse
}

/// Give an attribute that has one instance a value, whether the object has it or not (KMIP 2.1 section 6.1.54).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAttributeRequest {
    /// Which object; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// The attribute as it shall be.
    pub attribute: Attribute,
}

identifier_only! {
    /// The attribute is set (KMIP 2.1 section 6.1.54).
    response SetAttributeResponse;
}

/// A request to put an attribute in its place.
macro_rules! attribute_given {
    ($request:ident) => {
        impl $request {
            pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
                Ok(Builder::new(Tag::REQUEST_PAYLOAD)
                    .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
                    .item(AttributeList::one_to_item(Tag::NEW_ATTRIBUTE, &self.attribute, version)?)
                    .build())
            }

            pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
                let mut fields = Fields::of(item)?;
                let request = Self {
                    unique_identifier: fields.identifier()?,
                    attribute: AttributeList::required_one(&mut fields, Tag::NEW_ATTRIBUTE, version)?,
                };
                fields.finish()?;
                Ok(request)
            }
        }
    };
}

attribute_given!(AddAttributeRequest);
attribute_given!(SetAttributeRequest);

impl ModifyAttributeRequest {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
            .items(current_to_item(self.current.as_ref(), version)?)
            .item(AttributeList::one_to_item(Tag::NEW_ATTRIBUTE, &self.attribute, version)?)
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request = Self {
            unique_identifier: fields.identifier()?,
            current: current(&mut fields, version)?,
            attribute: AttributeList::required_one(&mut fields, Tag::NEW_ATTRIBUTE, version)?,
        };
        fields.finish()?;
        Ok(request)
    }
}

/// Take an attribute away from an object (KMIP 1.4 section 4.16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteAttributeRequest {
    /// Which object; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// Which attribute: in KMIP 2 every instance of it, unless `current` is set.
    pub name: AttributeName,
    /// Which instance (KMIP 1.x); the first if not set.
    pub index: Option<i32>,
    /// The instance as it is (KMIP 2.0).
    pub current: Option<Attribute>,
}

impl DeleteAttributeRequest {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        let current = current_to_item(self.current.as_ref(), version)?;
        let builder =
            Builder::new(Tag::REQUEST_PAYLOAD).optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref());
        if current.is_some() {
            return Ok(builder.items(current).build());
        }
        Ok(builder
            .items(AttributeList::names_to_items(std::slice::from_ref(&self.name), version, Newer::Refuse)?)
            .optional(Tag::ATTRIBUTE_INDEX, self.index.as_ref().filter(|_| !version.is_2()))
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let within = fields.tag();
        let unique_identifier = fields.identifier()?;
        let current = current(&mut fields, version)?;
        let named = AttributeList::take_names(&mut fields, version)?;
        let index = if version.is_2() { None } else { fields.optional(Tag::ATTRIBUTE_INDEX)? };
        fields.finish()?;
        let tag = if version.is_2() { Tag::ATTRIBUTE_REFERENCE } else { Tag::ATTRIBUTE_NAME };
        let mut names = named.into_iter().chain(current.as_ref().map(Attribute::attribute_name));
        let name = names.next().ok_or(DecodeError::Missing { tag, within })?;
        if names.any(|other| other != name) {
            return Err(DecodeError::BadField { tag, what: "names more than one attribute" });
        }
        Ok(Self { unique_identifier, name, index, current })
    }
}

attribute_told! {
    /// The attribute as it was (KMIP 1.4 section 4.16).
    DeleteAttributeResponse
}

fn current(fields: &mut Fields, version: ProtocolVersion) -> Result<Option<Attribute>, DecodeError> {
    if version.is_2() { AttributeList::take_one(fields, Tag::CURRENT_ATTRIBUTE, version) } else { Ok(None) }
}

fn current_to_item(current: Option<&Attribute>, version: ProtocolVersion) -> Result<Option<Item>, EncodeError> {
    match current {
        Some(_) if !version.is_2() => {
            Err(EncodeError::NotInVersion { what: "the field Current Attribute".into(), version })
        }
        current => {
            current.map(|current| AttributeList::one_to_item(Tag::CURRENT_ATTRIBUTE, current, version)).transpose()
        }
    }
}
