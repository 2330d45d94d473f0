//! Where a version's way of writing attributes is chosen.
//!
//! A payload hands its attributes here and doesn't know how they travel. KMIP 2.x will be one more arm in each function.

use crate::attribute::codec_v1::{attribute_from_v1, attribute_to_v1, name_value};
use crate::attribute::{Attribute, Name};
use crate::fields::{Builder, Fields};
use crate::names::Tag;
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

/// What to do with an attribute that the peer's version doesn't have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newer {
    /// Leave it out: an answer to an old client tells what that client can understand.
    Omit,
    /// Refuse: a request that loses what was asked for isn't the same request.
    Refuse,
}

/// Attributes in a payload.
pub(crate) struct AttributeList;

impl AttributeList {
    /// Attributes standing side by side in a payload.
    pub(crate) fn to_items(
        attributes: &[Attribute],
        version: ProtocolVersion,
        newer: Newer,
    ) -> Result<Vec<Item>, EncodeError> {
        attributes
            .iter()
            .filter(|attribute| newer == Newer::Refuse || attribute.attribute_name().is_known_to(version))
            .map(|attribute| attribute_to_v1(attribute, version))
            .collect()
    }

    /// Attributes standing side by side in a payload.
    pub(crate) fn take(fields: &mut Fields) -> Result<Vec<Attribute>, DecodeError> {
        fields.repeated_items(Tag::ATTRIBUTE).into_iter().map(attribute_from_v1).collect()
    }

    /// Attributes in a structure of their own, with names of templates before them (KMIP 1.4 section 2.1.8).
    pub(crate) fn to_template(
        templates: &[Name],
        attributes: &[Attribute],
        version: ProtocolVersion,
        newer: Newer,
    ) -> Result<Item, EncodeError> {
        let names = templates.iter().map(|name| {
            Builder::new(Tag::NAME).field(Tag::NAME_VALUE, &name.value).field(Tag::NAME_TYPE, &name.name_type).build()
        });
        Ok(Builder::new(Tag::TEMPLATE_ATTRIBUTE)
            .items(names)
            .items(Self::to_items(attributes, version, newer)?)
            .build())
    }

    /// Attributes in a structure of their own, with names of templates before them.
    pub(crate) fn from_template(item: Item) -> Result<(Vec<Name>, Vec<Attribute>), DecodeError> {
        let mut fields = Fields::of(item)?;
        let names = fields.repeated_items(Tag::NAME).into_iter().map(name_value).collect::<Result<_, _>>()?;
        let attributes = Self::take(&mut fields)?;
        fields.finish()?;
        Ok((names, attributes))
    }
}
