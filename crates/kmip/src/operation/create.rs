//! Create and Register.

use crate::attribute::{Attribute, AttributeList, Name, Newer};
use crate::fields::{Builder, Fields};
use crate::names::{ObjectType, Tag};
use crate::object::ManagedObject;
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

/// Make a symmetric key (KMIP 1.4 section 4.1).
#[derive(Debug, PartialEq, Eq)]
pub struct CreateRequest {
    /// What kind of object.
    pub object_type: ObjectType,
    /// Templates to take attributes from (deprecated since KMIP 1.3).
    pub templates: Vec<Name>,
    /// What the key shall be.
    pub attributes: Vec<Attribute>,
}

impl CreateRequest {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        let template = AttributeList::to_template(&self.templates, &self.attributes, version, Newer::Refuse)?;
        Ok(Builder::new(Tag::REQUEST_PAYLOAD).field(Tag::OBJECT_TYPE, &self.object_type).item(template).build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let object_type = fields.required(Tag::OBJECT_TYPE)?;
        let (templates, attributes) = AttributeList::required_template(&mut fields, version)?;
        fields.finish()?;
        Ok(Self { object_type, templates, attributes })
    }
}

/// The key was made (KMIP 1.4 section 4.1).
#[derive(Debug, PartialEq, Eq)]
pub struct CreateResponse {
    /// What kind of object.
    pub object_type: ObjectType,
    /// Its identifier.
    pub unique_identifier: String,
    /// Attributes the server set that were not asked for.
    pub attributes: Vec<Attribute>,
}

impl CreateResponse {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .field(Tag::OBJECT_TYPE, &self.object_type)
            .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
            .items(template_unless_empty(&self.attributes, version)?)
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self {
            object_type: fields.required(Tag::OBJECT_TYPE)?,
            unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?,
            attributes: optional_template(&mut fields, version)?,
        };
        fields.finish()?;
        Ok(response)
    }
}

/// Keep an object that was made elsewhere (KMIP 1.4 section 4.3).
#[derive(Debug, PartialEq, Eq)]
pub struct RegisterRequest {
    /// What kind of object.
    pub object_type: ObjectType,
    /// Templates to take attributes from (deprecated since KMIP 1.3).
    pub templates: Vec<Name>,
    /// What is to be known of the object.
    pub attributes: Vec<Attribute>,
    /// The object. Not set if its value is kept elsewhere.
    pub object: Option<ManagedObject>,
}

impl RegisterRequest {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        let template = AttributeList::to_template(&self.templates, &self.attributes, version, Newer::Refuse)?;
        let object = self.object.as_ref().map(|object| object.to_item(version, Newer::Refuse)).transpose()?;
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .field(Tag::OBJECT_TYPE, &self.object_type)
            .item(template)
            .items(object)
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let object_type = fields.required(Tag::OBJECT_TYPE)?;
        let (templates, attributes) = AttributeList::required_template(&mut fields, version)?;
        let object = ManagedObject::take(&mut fields, version)?;
        fields.finish()?;
        Ok(Self { object_type, templates, attributes, object })
    }
}

/// The object is kept (KMIP 1.4 section 4.3).
#[derive(Debug, PartialEq, Eq)]
pub struct RegisterResponse {
    /// Its identifier.
    pub unique_identifier: String,
    /// Attributes the server set that were not asked for.
    pub attributes: Vec<Attribute>,
}

impl RegisterResponse {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier)
            .items(template_unless_empty(&self.attributes, version)?)
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self {
            unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)?,
            attributes: optional_template(&mut fields, version)?,
        };
        fields.finish()?;
        Ok(response)
    }
}

/// KMIP 2 has no place for them in the answer.
pub(super) fn template_unless_empty(
    attributes: &[Attribute],
    version: ProtocolVersion,
) -> Result<Option<Item>, EncodeError> {
    if attributes.is_empty() || version.is_2() {
        return Ok(None);
    }
    AttributeList::to_template(&[], attributes, version, Newer::Omit).map(Some)
}

pub(super) fn optional_template(fields: &mut Fields, version: ProtocolVersion) -> Result<Vec<Attribute>, DecodeError> {
    if version.is_2() {
        return Ok(vec![]);
    }
    Ok(AttributeList::take_template(fields, version)?.map(|(_, attributes)| attributes).unwrap_or_default())
}
