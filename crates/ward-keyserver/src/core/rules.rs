//! What a key may be made with, and who may say what of it.

use kmip::ProtocolVersion;
use kmip::attribute::{Attribute, AttributeName, AttributeValue};
use kmip::names::{CryptographicAlgorithm, ResultReason};

use super::{Dates, Lifecycle, Object, ObjectShape, Refusal};

/// How many attributes a client may give one key: what it stores here costs it nothing.
const MOST_GIVEN: usize = 256;

/// A key to be made: every attribute asked for was understood and is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewObject {
    pub(crate) shape: ObjectShape,
    pub(crate) dates: Dates,
    /// With indices.
    pub(crate) given: Vec<Attribute>,
}

impl NewObject {
    /// What Create asks for. `known` is what a registered key's block already says.
    pub(crate) fn from_attributes(
        attributes: Vec<Attribute>,
        known: (Option<CryptographicAlgorithm>, Option<i32>),
        version: ProtocolVersion,
    ) -> Result<Self, Refusal> {
        let (mut algorithm, mut length) = known;
        let mut usage = None;
        let mut dates = Dates::default();
        let mut given = Vec::new();

        for attribute in attributes {
            known_to(&attribute, version)?;
            let name = attribute.attribute_name();
            match attribute.value {
                AttributeValue::CryptographicAlgorithm(value) => same(&mut algorithm, value, &name)?,
                AttributeValue::CryptographicLength(value) => same(&mut length, value, &name)?,
                AttributeValue::CryptographicUsageMask(value) => once(&mut usage, value, &name)?,
                AttributeValue::ActivationDate(value) => once(&mut dates.activation, value, &name)?,
                AttributeValue::ProcessStartDate(value) => once(&mut dates.process_start, value, &name)?,
                AttributeValue::ProtectStopDate(value) => once(&mut dates.protect_stop, value, &name)?,
                AttributeValue::DeactivationDate(value) => once(&mut dates.deactivation, value, &name)?,
                _ => match giving(&attribute) {
                    Giving::Never => return Err(Refusal::invalid(format!("{name} is the server's to set"))),
                    Giving::Unknown => return Err(Refusal::invalid(format!("the attribute {name} is not supported"))),
                    Giving::Once | Giving::Often => give(&mut given, attribute)?,
                },
            }
        }

        let missing = |what: &AttributeName| Refusal::invalid(format!("{what} has to be given"));
        let shape = ObjectShape {
            algorithm: algorithm.ok_or_else(|| missing(&AttributeName::CRYPTOGRAPHIC_ALGORITHM))?,
            length: length.ok_or_else(|| missing(&AttributeName::CRYPTOGRAPHIC_LENGTH))?,
            usage: usage.ok_or_else(|| missing(&AttributeName::CRYPTOGRAPHIC_USAGE_MASK))?,
        };
        check_shape(&shape)?;
        check_dates(&dates)?;
        Ok(Self { shape, dates, given })
    }

    /// What Re-key asks for: a key like `old`, with these attributes beside its own (KMIP 1.4 section 4.4). Its names go
    /// over to the new one.
    pub(crate) fn in_place_of(
        old: &Object,
        attributes: Vec<Attribute>,
        offset: Option<u32>,
        now: i64,
        version: ProtocolVersion,
    ) -> Result<Self, Refusal> {
        if old.replaced_by().is_some() {
            return Err(Refusal::new(ResultReason::PERMISSION_DENIED, "the key has a replacement already"));
        }
        if old.lifecycle.is_destroyed() {
            let message = "a key that was destroyed cannot be replaced";
            return Err(Refusal::new(ResultReason::WRONG_KEY_LIFECYCLE_STATE, message));
        }
        let ObjectShape { algorithm, length, usage } = old.shape;
        let kept = old.given.iter().filter(|attribute| attribute.attribute_name() != AttributeName::LINK);
        let mut new =
            Self { shape: old.shape, dates: moved(&old.lifecycle, offset, now), given: kept.cloned().collect() };
        for attribute in attributes {
            known_to(&attribute, version)?;
            let name = attribute.attribute_name();
            match attribute.value {
                AttributeValue::CryptographicAlgorithm(value) => same(&mut Some(algorithm), value, &name)?,
                AttributeValue::CryptographicLength(value) => same(&mut Some(length), value, &name)?,
                AttributeValue::CryptographicUsageMask(value) => same(&mut Some(usage), value, &name)?,
                AttributeValue::ActivationDate(value) => new.dates.activation = Some(value),
                AttributeValue::ProcessStartDate(value) => new.dates.process_start = Some(value),
                AttributeValue::ProtectStopDate(value) => new.dates.protect_stop = Some(value),
                AttributeValue::DeactivationDate(value) => new.dates.deactivation = Some(value),
                _ => match giving(&attribute) {
                    Giving::Never => return Err(Refusal::invalid(format!("{name} is the server's to set"))),
                    Giving::Unknown => return Err(Refusal::invalid(format!("the attribute {name} is not supported"))),
                    Giving::Once => {
                        new.given.retain(|other| other.attribute_name() != name);
                        give(&mut new.given, attribute)?;
                    }
                    Giving::Often => give(&mut new.given, Attribute { index: None, ..attribute })?,
                },
            }
        }
        check_dates(&new.dates)?;
        Ok(new)
    }
}

/// The dates of a key's replacement: with an offset, as far from its making as the offset says, and from each other as
/// the old one's (KMIP 1.4 table 170).
fn moved(old: &Lifecycle, offset: Option<u32>, now: i64) -> Dates {
    let dates = &old.dates;
    let Some(offset) = offset else {
        return Dates {
            activation: dates.activation,
            process_start: dates.process_start,
            protect_stop: dates.protect_stop,
            deactivation: dates.deactivation.filter(|date| now < *date),
            ..Dates::default()
        };
    };
    let activation = now.saturating_add(offset.into());
    let by = activation.saturating_sub(dates.activation.unwrap_or(activation));
    let moved = |date: Option<i64>| date.map(|date| date.saturating_add(by));
    Dates {
        activation: Some(activation),
        process_start: moved(dates.process_start),
        protect_stop: moved(dates.protect_stop),
        deactivation: moved(dates.deactivation),
        ..Dates::default()
    }
}

/// Who may say what of a key.
pub(super) enum Giving {
    /// The client, one instance.
    Once,
    /// The client, several instances.
    Often,
    /// Only the server, or only when the key is made.
    Never,
    /// Nobody here.
    Unknown,
}

pub(super) fn giving(attribute: &Attribute) -> Giving {
    use AttributeValue as V;
    match &attribute.value {
        V::Custom(name, _) => match name.vendor_and_name() {
            // `y` is the server's own.
            Some(("y", _) | (_, "")) | None => Giving::Never,
            Some(_) => Giving::Often,
        },
        V::Name(_) | V::ObjectGroup(_) => Giving::Often,
        V::Comment(_)
        | V::ContactInformation(_)
        | V::Description(_)
        | V::Extractable(_)
        | V::OperationPolicyName(_)
        | V::Sensitive(_) => Giving::Once,
        V::Other(name, _) => match name.as_str() {
            "Application Specific Information" | "Cryptographic Parameters" | "Link" => Giving::Often,
            _ => Giving::Unknown,
        },
        _ => Giving::Never,
    }
}

/// Adds an attribute with the next free index of its name.
pub(super) fn give(given: &mut Vec<Attribute>, attribute: Attribute) -> Result<(), Refusal> {
    let name = attribute.attribute_name();
    if given.len() >= MOST_GIVEN {
        return Err(Refusal::invalid(format!("an object may have at most {MOST_GIVEN} attributes of the client's")));
    }
    let of_name: Vec<_> = given.iter().filter(|other| other.attribute_name() == name).collect();
    if !of_name.is_empty() && matches!(giving(&attribute), Giving::Once) {
        let message = format!("{name} may be given once");
        return Err(Refusal::new(ResultReason::ATTRIBUTE_SINGLE_VALUED, message));
    }
    if of_name.iter().any(|other| other.value == attribute.value) && name == AttributeName::NAME {
        return Err(Refusal::invalid("the same name is given twice"));
    }
    let index = match attribute.index {
        Some(index) if of_name.iter().any(|other| other.index_or_zero() == index) => {
            return Err(Refusal::invalid(format!("{name} has index {index} twice")));
        }
        Some(index) => index,
        None => of_name.iter().map(|other| other.index_or_zero().saturating_add(1)).max().unwrap_or(0),
    };
    given.push(Attribute { index: Some(index), value: attribute.value });
    Ok(())
}

pub(super) fn known_to(attribute: &Attribute, version: ProtocolVersion) -> Result<(), Refusal> {
    let name = attribute.attribute_name();
    if name.is_known_to(version) {
        return Ok(());
    }
    Err(Refusal::invalid(format!("KMIP {version} has no attribute {name}")))
}

fn once<T>(slot: &mut Option<T>, value: T, name: &AttributeName) -> Result<(), Refusal> {
    if slot.is_some() {
        return Err(Refusal::invalid(format!("{name} may be given once")));
    }
    *slot = Some(value);
    Ok(())
}

/// What is said twice has to be the same.
fn same<T: PartialEq>(slot: &mut Option<T>, value: T, name: &AttributeName) -> Result<(), Refusal> {
    if slot.as_ref().is_some_and(|known| *known != value) {
        return Err(Refusal::invalid(format!("{name} contradicts what was said before")));
    }
    *slot = Some(value);
    Ok(())
}

fn check_shape(shape: &ObjectShape) -> Result<(), Refusal> {
    use CryptographicAlgorithm as A;
    let ObjectShape { algorithm, length, .. } = *shape;
    let good = match algorithm {
        A::AES => matches!(length, 128 | 192 | 256),
        A::HMAC_SHA1 | A::HMAC_SHA224 | A::HMAC_SHA256 | A::HMAC_SHA384 | A::HMAC_SHA512 => {
            (64..=4096).contains(&length) && length % 8 == 0
        }
        _ => return Err(Refusal::invalid(format!("keys for {algorithm} are not made here"))),
    };
    if good { Ok(()) } else { Err(Refusal::invalid(format!("{length} bits are no key length for {algorithm}"))) }
}

/// KMIP 1.4 sections 3.24 to 3.27: in this order, as far as given.
pub(super) fn check_dates(dates: &Dates) -> Result<(), Refusal> {
    let ordered = |first: Option<i64>, then: Option<i64>| match (first, then) {
        (Some(first), Some(then)) => first <= then,
        _ => true,
    };
    let good = ordered(dates.activation, dates.process_start)
        && ordered(dates.activation, dates.protect_stop)
        && ordered(dates.process_start, dates.deactivation)
        && ordered(dates.protect_stop, dates.deactivation)
        && ordered(dates.activation, dates.deactivation);
    if good {
        return Ok(());
    }
    Err(Refusal::invalid("the dates contradict each other: activation, process start and protect stop, deactivation"))
}

#[cfg(test)]
mod tests;
