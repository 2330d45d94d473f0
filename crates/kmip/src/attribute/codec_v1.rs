//! Attributes as KMIP 1.x writes them: name as text, index, value (KMIP 1.4 section 2.1.1).

use crate::attribute::{
    Attribute, AttributeName, AttributeValue, CustomValue, Digest, Name, RevocationReason, UsageMask,
};
use crate::fields::{Builder, Date, FieldValue, Fields, Seconds, field};
use crate::names::Tag;
use crate::ttlv::{DecodeError, EncodeError, Item, Value};
use crate::version::ProtocolVersion;

pub(crate) fn attribute_from_v1(item: Item) -> Result<Attribute, DecodeError> {
    let mut fields = Fields::of(item)?;
    let name = AttributeName::from(fields.required::<String>(Tag::ATTRIBUTE_NAME)?);
    let index = fields.optional::<i32>(Tag::ATTRIBUTE_INDEX)?;
    if index.is_some_and(|index| index < 0) {
        return Err(DecodeError::BadField { tag: Tag::ATTRIBUTE_INDEX, what: "is negative" });
    }
    let value = value_from_item(name, fields.item(Tag::ATTRIBUTE_VALUE)?)?;
    fields.finish()?;
    Ok(Attribute { index, value })
}

pub(crate) fn attribute_to_v1(attribute: &Attribute, version: ProtocolVersion) -> Result<Item, EncodeError> {
    let name = attribute.attribute_name();
    if !name.is_known_to(version) {
        return Err(EncodeError::NotInVersion { what: format!("the attribute {name}"), version });
    }
    Ok(unchecked_to_v1(attribute))
}

/// Whatever version knows it: a form to keep attributes in.
pub(super) fn unchecked_to_v1(attribute: &Attribute) -> Item {
    Builder::new(Tag::ATTRIBUTE)
        .field(Tag::ATTRIBUTE_NAME, &attribute.attribute_name().as_str().to_owned())
        .optional(Tag::ATTRIBUTE_INDEX, attribute.index.as_ref())
        .item(Item::new(Tag::ATTRIBUTE_VALUE, value_to_ttlv(&attribute.value)))
        .build()
}

pub(super) fn value_from_item(name: AttributeName, item: Item) -> Result<AttributeValue, DecodeError> {
    use AttributeValue as V;

    if name.is_custom() {
        return Ok(V::Custom(name, CustomValue(item.value)));
    }
    let date = |item, variant: fn(i64) -> V| field::<Date>(item).map(|date| variant(date.0));
    Ok(match name.as_str() {
        "Activation Date" => date(item, V::ActivationDate)?,
        "Always Sensitive" => V::AlwaysSensitive(field(item)?),
        "Archive Date" => date(item, V::ArchiveDate)?,
        "Comment" => V::Comment(field(item)?),
        "Compromise Date" => date(item, V::CompromiseDate)?,
        "Compromise Occurrence Date" => date(item, V::CompromiseOccurrenceDate)?,
        "Contact Information" => V::ContactInformation(field(item)?),
        "Cryptographic Algorithm" => V::CryptographicAlgorithm(field(item)?),
        "Cryptographic Length" => V::CryptographicLength(field(item)?),
        "Cryptographic Usage Mask" => V::CryptographicUsageMask(UsageMask(field(item)?)),
        "Deactivation Date" => date(item, V::DeactivationDate)?,
        "Description" => V::Description(field(item)?),
        "Destroy Date" => date(item, V::DestroyDate)?,
        "Digest" => V::Digest(digest(item)?),
        "Extractable" => V::Extractable(field(item)?),
        "Fresh" => V::Fresh(field(item)?),
        "Initial Date" => date(item, V::InitialDate)?,
        "Last Change Date" => date(item, V::LastChangeDate)?,
        "Lease Time" => V::LeaseTime(field::<Seconds>(item)?.0),
        "Name" => V::Name(name_value(item)?),
        "Never Extractable" => V::NeverExtractable(field(item)?),
        "Object Group" => V::ObjectGroup(field(item)?),
        "Object Type" => V::ObjectType(field(item)?),
        "Operation Policy Name" => V::OperationPolicyName(field(item)?),
        "Original Creation Date" => date(item, V::OriginalCreationDate)?,
        "Process Start Date" => date(item, V::ProcessStartDate)?,
        "Protect Stop Date" => date(item, V::ProtectStopDate)?,
        "Revocation Reason" => V::RevocationReason(revocation_reason_from_item(item)?),
        "Sensitive" => V::Sensitive(field(item)?),
        "State" => V::State(field(item)?),
        "Unique Identifier" => V::UniqueIdentifier(field(item)?),
        _ => V::Other(name, CustomValue(item.value)),
    })
}

pub(super) fn value_to_ttlv(value: &AttributeValue) -> Value {
    use AttributeValue as V;

    match value {
        V::ActivationDate(date)
        | V::ArchiveDate(date)
        | V::CompromiseDate(date)
        | V::CompromiseOccurrenceDate(date)
        | V::DeactivationDate(date)
        | V::DestroyDate(date)
        | V::InitialDate(date)
        | V::LastChangeDate(date)
        | V::OriginalCreationDate(date)
        | V::ProcessStartDate(date)
        | V::ProtectStopDate(date) => Value::DateTime(*date),
        V::AlwaysSensitive(flag)
        | V::Extractable(flag)
        | V::Fresh(flag)
        | V::NeverExtractable(flag)
        | V::Sensitive(flag) => Value::Boolean(*flag),
        V::Comment(text)
        | V::ContactInformation(text)
        | V::Description(text)
        | V::ObjectGroup(text)
        | V::OperationPolicyName(text)
        | V::UniqueIdentifier(text) => Value::TextString(text.clone()),
        V::CryptographicAlgorithm(algorithm) => algorithm.to_value(),
        V::CryptographicLength(bits) => Value::Integer(*bits),
        V::CryptographicUsageMask(mask) => Value::Integer(mask.0),
        V::Custom(_, value) | V::Other(_, value) => value.0.copy(),
        V::Digest(digest) => {
            Builder::new(Tag::ATTRIBUTE_VALUE)
                .field(Tag::HASHING_ALGORITHM, &digest.hashing_algorithm)
                .field(Tag::DIGEST_VALUE, &digest.value)
                .optional(Tag::KEY_FORMAT_TYPE, digest.key_format_type.as_ref())
                .build()
                .value
        }
        V::LeaseTime(seconds) => Value::Interval(*seconds),
        V::Name(name) => {
            Builder::new(Tag::ATTRIBUTE_VALUE)
                .field(Tag::NAME_VALUE, &name.value)
                .field(Tag::NAME_TYPE, &name.name_type)
                .build()
                .value
        }
        V::ObjectType(object_type) => object_type.to_value(),
        V::RevocationReason(reason) => revocation_reason_to_item(Tag::ATTRIBUTE_VALUE, reason).value,
        V::State(state) => state.to_value(),
    }
}

/// A name, also where it is no attribute: in templates.
pub(crate) fn name_value(item: Item) -> Result<Name, DecodeError> {
    let mut fields = Fields::of(item)?;
    let name = Name { value: fields.required(Tag::NAME_VALUE)?, name_type: fields.required(Tag::NAME_TYPE)? };
    fields.finish()?;
    Ok(name)
}

fn digest(item: Item) -> Result<Digest, DecodeError> {
    let mut fields = Fields::of(item)?;
    let digest = Digest {
        hashing_algorithm: fields.required(Tag::HASHING_ALGORITHM)?,
        value: fields.optional(Tag::DIGEST_VALUE)?.unwrap_or_default(),
        key_format_type: fields.optional(Tag::KEY_FORMAT_TYPE)?,
    };
    fields.finish()?;
    Ok(digest)
}

/// A reason, as an attribute and as a field of Revoke.
pub(crate) fn revocation_reason_from_item(item: Item) -> Result<RevocationReason, DecodeError> {
    let mut fields = Fields::of(item)?;
    let reason = RevocationReason {
        code: fields.required(Tag::REVOCATION_REASON_CODE)?,
        message: fields.optional(Tag::REVOCATION_MESSAGE)?,
    };
    fields.finish()?;
    Ok(reason)
}

pub(crate) fn revocation_reason_to_item(tag: Tag, reason: &RevocationReason) -> Item {
    Builder::new(tag)
        .field(Tag::REVOCATION_REASON_CODE, &reason.code)
        .optional(Tag::REVOCATION_MESSAGE, reason.message.as_ref())
        .build()
}
