//! Attributes as KMIP 2.x writes them: each under a tag of its own; a vendor's with vendor and name (KMIP 2.1 section 4).

use crate::attribute::codec_v1::{value_from_item, value_to_ttlv};
use crate::attribute::{Attribute, AttributeName, AttributeValue, CustomValue};
use crate::fields::{Builder, Fields};
use crate::names::Tag;
use crate::ttlv::{DecodeError, EncodeError, Item, Value};
use crate::version::ProtocolVersion;

pub(super) fn attribute_from_v2(item: Item) -> Result<Attribute, DecodeError> {
    if item.tag != Tag::ATTRIBUTE {
        return Ok(Attribute::new(value_from_item(AttributeName::of_tag(item.tag), item)?));
    }
    let mut fields = Fields::of(item)?;
    let name = vendor_name(&mut fields)?;
    let value = CustomValue(fields.item(Tag::ATTRIBUTE_VALUE)?.value);
    fields.finish()?;
    Ok(Attribute::new(AttributeValue::Custom(name, value)))
}

pub(super) fn attribute_to_v2(attribute: &Attribute, version: ProtocolVersion) -> Result<Item, EncodeError> {
    let name = attribute.attribute_name();
    check_known(&name, version)?;
    let value = value_to_ttlv(&attribute.value);
    Ok(match (name.vendor_and_name(), name.tag()) {
        (Some((vendor, name)), _) => Builder::new(Tag::ATTRIBUTE)
            .field(Tag::VENDOR_IDENTIFICATION, &vendor.to_owned())
            .field(Tag::ATTRIBUTE_NAME, &name.to_owned())
            .item(Item::new(Tag::ATTRIBUTE_VALUE, value))
            .build(),
        (None, Some(tag)) => Item::new(tag, value),
        (None, None) => return Err(EncodeError::NotInVersion { what: format!("the attribute {name}"), version }),
    })
}

/// KMIP 2.1 section 7.7, "Attribute Reference": a tag, or vendor and name.
pub(super) fn reference_from_item(item: Item) -> Result<AttributeName, DecodeError> {
    if let Value::Enumeration(tag) = item.value {
        return Ok(AttributeName::of_tag(Tag(tag)));
    }
    let mut fields = Fields::of(item)?;
    let name = vendor_name(&mut fields)?;
    fields.finish()?;
    Ok(name)
}

pub(super) fn reference_to_item(name: &AttributeName, version: ProtocolVersion) -> Result<Item, EncodeError> {
    check_known(name, version)?;
    Ok(match (name.vendor_and_name(), name.tag()) {
        (Some((vendor, name)), _) => Builder::new(Tag::ATTRIBUTE_REFERENCE)
            .field(Tag::VENDOR_IDENTIFICATION, &vendor.to_owned())
            .field(Tag::ATTRIBUTE_NAME, &name.to_owned())
            .build(),
        (None, Some(tag)) => Item::new(Tag::ATTRIBUTE_REFERENCE, Value::Enumeration(tag.0)),
        (None, None) => return Err(EncodeError::NotInVersion { what: format!("the attribute {name}"), version }),
    })
}

fn vendor_name(fields: &mut Fields) -> Result<AttributeName, DecodeError> {
    let vendor: String = fields.required(Tag::VENDOR_IDENTIFICATION)?;
    let name: String = fields.required(Tag::ATTRIBUTE_NAME)?;
    if vendor.is_empty() || name.is_empty() {
        return Err(DecodeError::BadField { tag: fields.tag(), what: "needs a vendor and a name" });
    }
    Ok(AttributeName::of_vendor(&vendor, &name))
}

fn check_known(name: &AttributeName, version: ProtocolVersion) -> Result<(), EncodeError> {
    if name.is_known_to(version) {
        return Ok(());
    }
    Err(EncodeError::NotInVersion { what: format!("the attribute {name}"), version })
}
