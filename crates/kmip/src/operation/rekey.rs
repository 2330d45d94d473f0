//! Re-key.

use super::create::{optional_template, template_unless_empty};
use crate::attribute::{Attribute, AttributeList, Name, Newer};
use crate::fields::{Builder, Fields, Seconds};
use crate::names::Tag;
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

/// Make a new key in the place of one (KMIP 1.4 section 4.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RekeyRequest {
    /// Which key; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// How many seconds after it's made the new key is to become active.
    pub offset: Option<u32>,
    /// Templates to take attributes from (deprecated since KMIP 1.3).
    pub templates: Vec<Name>,
    /// What the new key shall have otherwise than the old one.
    pub attributes: Vec<Attribute>,
}

impl RekeyRequest {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        let template = match (self.templates.as_slice(), self.attributes.as_slice()) {
            ([], []) => None,
            (templates, attributes) => Some(AttributeList::to_template(templates, attributes, version, Newer::Refuse)?),
        };
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
            .optional(Tag::OFFSET, self.offset.map(Seconds).as_ref())
            .items(template)
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let unique_identifier = fields.identifier()?;
        let offset = fields.optional::<Seconds>(Tag::OFFSET)?.map(|seconds| seconds.0);
        let (templates, attributes) = AttributeList::take_template(&mut fields, version)?.unwrap_or_default();
        fields.finish()?;
        Ok(Self { unique_identifier, offset, templates, attributes })
    }
}

/// The new key was made (KMIP 1.4 section 4.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RekeyResponse {
    /// The new key's identifier.
    pub unique_identifier: String,
    /// Attributes the server set that were not asked for.
    pub attributes: Vec<Attribute>,
}

impl RekeyResponse {
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
