//! Where a version's way of writing attributes is chosen.
//!
//! A payload hands its attributes here and doesn't know how they travel.

use crate::attribute::codec_v1::{attribute_from_v1, attribute_to_v1, name_value};
use crate::attribute::codec_v2::{attribute_from_v2, attribute_to_v2, reference_from_item, reference_to_item};
use crate::attribute::{Attribute, AttributeName, Name};
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

/// Names of templates, and attributes.
pub(crate) type Template = (Vec<Name>, Vec<Attribute>);

/// Attributes in a payload.
pub(crate) struct AttributeList;

impl AttributeList {
    /// Attributes as a part of a payload: side by side in KMIP 1.x, in a structure in KMIP 2.
    pub(crate) fn to_items(
        attributes: &[Attribute],
        version: ProtocolVersion,
        newer: Newer,
    ) -> Result<Vec<Item>, EncodeError> {
        if version.is_2() {
            return Ok(vec![Self::to_structure(attributes, version, newer)?]);
        }
        known(attributes, version, newer).map(|attribute| attribute_to_v1(attribute, version)).collect()
    }

    /// Attributes as a part of a payload.
    pub(crate) fn take(fields: &mut Fields, version: ProtocolVersion) -> Result<Vec<Attribute>, DecodeError> {
        if version.is_2() {
            return fields.optional_item(Tag::ATTRIBUTES).map_or(Ok(vec![]), Self::from_structure);
        }
        fields.repeated_items(Tag::ATTRIBUTE).into_iter().map(attribute_from_v1).collect()
    }

    /// Attributes in a structure of their own, in KMIP 1.x with names of templates before them (KMIP 1.4 section 2.1.8,
    /// KMIP 2.1 section 7.6).
    pub(crate) fn to_template(
        templates: &[Name],
        attributes: &[Attribute],
        version: ProtocolVersion,
        newer: Newer,
    ) -> Result<Item, EncodeError> {
        if version.is_2() {
            if !templates.is_empty() && newer == Newer::Refuse {
                return Err(EncodeError::NotInVersion { what: "templates".into(), version });
            }
            return Self::to_structure(attributes, version, newer);
        }
        let names = templates.iter().map(|name| {
            Builder::new(Tag::NAME).field(Tag::NAME_VALUE, &name.value).field(Tag::NAME_TYPE, &name.name_type).build()
        });
        Ok(Builder::new(Tag::TEMPLATE_ATTRIBUTE)
            .items(names)
            .items(Self::to_items(attributes, version, newer)?)
            .build())
    }

    /// Attributes in a structure of their own, with names of templates before them, if they are there.
    pub(crate) fn take_template(
        fields: &mut Fields,
        version: ProtocolVersion,
    ) -> Result<Option<Template>, DecodeError> {
        if version.is_2() {
            let item = fields.optional_item(Tag::ATTRIBUTES);
            return item.map(|item| Ok((vec![], Self::from_structure(item)?))).transpose();
        }
        let Some(item) = fields.optional_item(Tag::TEMPLATE_ATTRIBUTE) else {
            return Ok(None);
        };
        let mut fields = Fields::of(item)?;
        let names = fields.repeated_items(Tag::NAME).into_iter().map(name_value).collect::<Result<_, _>>()?;
        let attributes = Self::take(&mut fields, version)?;
        fields.finish()?;
        Ok(Some((names, attributes)))
    }

    /// The same, where they have to be there.
    pub(crate) fn required_template(fields: &mut Fields, version: ProtocolVersion) -> Result<Template, DecodeError> {
        let tag = if version.is_2() { Tag::ATTRIBUTES } else { Tag::TEMPLATE_ATTRIBUTE };
        let within = fields.tag();
        Self::take_template(fields, version)?.ok_or(DecodeError::Missing { tag, within })
    }

    /// One attribute: under `tag` in KMIP 2, under its own in KMIP 1.x.
    pub(crate) fn one_to_item(tag: Tag, attribute: &Attribute, version: ProtocolVersion) -> Result<Item, EncodeError> {
        if version.is_2() {
            return Ok(Builder::new(tag).item(attribute_to_v2(attribute, version)?).build());
        }
        attribute_to_v1(attribute, version)
    }

    /// One attribute, if it's there.
    pub(crate) fn take_one(
        fields: &mut Fields,
        tag: Tag,
        version: ProtocolVersion,
    ) -> Result<Option<Attribute>, DecodeError> {
        if !version.is_2() {
            return fields.optional_item(Tag::ATTRIBUTE).map(attribute_from_v1).transpose();
        }
        let Some(item) = fields.optional_item(tag) else {
            return Ok(None);
        };
        let mut attributes = Self::from_structure(item)?.into_iter();
        match (attributes.next(), attributes.next()) {
            (Some(attribute), None) => Ok(Some(attribute)),
            _ => Err(DecodeError::BadField { tag, what: "does not hold exactly one attribute" }),
        }
    }

    /// The same, where it has to be there.
    pub(crate) fn required_one(
        fields: &mut Fields,
        tag: Tag,
        version: ProtocolVersion,
    ) -> Result<Attribute, DecodeError> {
        let within = fields.tag();
        let missing = DecodeError::Missing { tag: if version.is_2() { tag } else { Tag::ATTRIBUTE }, within };
        Self::take_one(fields, tag, version)?.ok_or(missing)
    }

    /// Names of attributes: as text in KMIP 1.x, as references in KMIP 2.
    pub(crate) fn names_to_items(
        names: &[AttributeName],
        version: ProtocolVersion,
        newer: Newer,
    ) -> Result<Vec<Item>, EncodeError> {
        let known = names.iter().filter(|name| newer == Newer::Refuse || name.is_known_to(version));
        if version.is_2() {
            return known.map(|name| reference_to_item(name, version)).collect();
        }
        let text = |name: &AttributeName| crate::ttlv::Value::TextString(name.as_str().to_owned());
        Ok(known.map(|name| Item::new(Tag::ATTRIBUTE_NAME, text(name))).collect())
    }

    /// Names of attributes.
    pub(crate) fn take_names(fields: &mut Fields, version: ProtocolVersion) -> Result<Vec<AttributeName>, DecodeError> {
        if version.is_2() {
            return fields.repeated_items(Tag::ATTRIBUTE_REFERENCE).into_iter().map(reference_from_item).collect();
        }
        Ok(fields.repeated::<String>(Tag::ATTRIBUTE_NAME)?.into_iter().map(AttributeName::from).collect())
    }

    fn to_structure(attributes: &[Attribute], version: ProtocolVersion, newer: Newer) -> Result<Item, EncodeError> {
        let items: Vec<Item> = known(attributes, version, newer)
            .map(|attribute| attribute_to_v2(attribute, version))
            .collect::<Result<_, _>>()?;
        Ok(Builder::new(Tag::ATTRIBUTES).items(items).build())
    }

    fn from_structure(item: Item) -> Result<Vec<Attribute>, DecodeError> {
        Fields::of(item)?.rest().into_iter().map(attribute_from_v2).collect()
    }
}

fn known(attributes: &[Attribute], version: ProtocolVersion, newer: Newer) -> impl Iterator<Item = &Attribute> {
    attributes.iter().filter(move |attribute| newer == Newer::Refuse || attribute.attribute_name().is_known_to(version))
}
