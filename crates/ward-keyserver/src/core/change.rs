//! What a client may change of a key that is there.

use kmip::ProtocolVersion;
use kmip::attribute::{Attribute, AttributeName};
use kmip::names::ResultReason;

use super::lifecycle::SettableDate;
use super::rules::{Giving, give, giving, known_to};
use super::{Lifecycle, Object, Refusal};

/// A change that is allowed, and what has to be written down for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// An attribute, with its index.
    Added(Attribute),
    /// An attribute, as it was and as it will be.
    Replaced(Attribute, Attribute),
    /// A date, and what it brings about at once.
    Dated(Lifecycle, Attribute),
}

impl Change {
    /// The attribute as it will be.
    pub(crate) fn attribute(&self) -> &Attribute {
        match self {
            Self::Added(attribute) | Self::Replaced(_, attribute) | Self::Dated(_, attribute) => attribute,
        }
    }
}

/// Add Attribute (KMIP 1.4 section 4.14).
pub(crate) fn check_addition(
    object: &Object,
    attribute: Attribute,
    version: ProtocolVersion,
    now: i64,
) -> Result<Change, Refusal> {
    known_to(&attribute, version)?;
    let name = attribute.attribute_name();
    if attribute.index.is_some_and(|index| index != 0) {
        return Err(Refusal::invalid("the index of a new attribute is the server's to choose"));
    }
    let there = object.attributes().iter().any(|other| other.attribute_name() == name);
    let only_once = || Refusal::new(ResultReason::ATTRIBUTE_SINGLE_VALUED, format!("the object has a {name} already"));
    if let Some(date) = SettableDate::of(&attribute.value) {
        return if there { Err(only_once()) } else { dated(object, date, attribute, now) };
    }
    match giving(&attribute) {
        Giving::Never => Err(read_only(&name)),
        Giving::Unknown => Err(unsupported(&name)),
        Giving::Once if there => Err(only_once()),
        Giving::Once | Giving::Often => added(object, attribute),
    }
}

/// Modify Attribute (KMIP 1.4 section 4.15).
pub(crate) fn check_modification(
    object: &Object,
    current: Option<&Attribute>,
    attribute: Attribute,
    version: ProtocolVersion,
    now: i64,
) -> Result<Change, Refusal> {
    known_to(&attribute, version)?;
    let name = attribute.attribute_name();
    if let Some(date) = SettableDate::of(&attribute.value) {
        return dated(object, date, attribute, now);
    }
    may_be_changed(&attribute)?;
    if current.is_some_and(|current| current.attribute_name() != name) {
        return Err(Refusal::invalid("the current and the new attribute are not the same one"));
    }
    let old = match instances(object, &name, attribute.index, current, version)?.as_slice() {
        [only] => (*only).clone(),
        _ => {
            let message = format!("the object has several of {name}, and it is not said which one is meant");
            return Err(Refusal::new(ResultReason::MULTI_VALUED_ATTRIBUTE, message));
        }
    };
    let new = Attribute { index: old.index, value: attribute.value };
    Ok(Change::Replaced(old, new))
}

/// Set Attribute (KMIP 2.1 section 6.1.54).
pub(crate) fn check_setting(
    object: &Object,
    attribute: Attribute,
    version: ProtocolVersion,
    now: i64,
) -> Result<Change, Refusal> {
    known_to(&attribute, version)?;
    let name = attribute.attribute_name();
    if let Some(date) = SettableDate::of(&attribute.value) {
        return dated(object, date, attribute, now);
    }
    may_be_changed(&attribute)?;
    if matches!(giving(&attribute), Giving::Often) {
        let message = format!("{name} may have several instances: add, modify or delete one");
        return Err(Refusal::new(ResultReason::MULTI_VALUED_ATTRIBUTE, message));
    }
    match object.given.iter().find(|other| other.attribute_name() == name) {
        Some(old) => Ok(Change::Replaced(old.clone(), Attribute { index: old.index, value: attribute.value })),
        None => added(object, attribute),
    }
}

/// Delete Attribute (KMIP 1.4 section 4.16): which instances go.
pub(crate) fn check_deletion<'a>(
    object: &'a Object,
    name: &AttributeName,
    index: Option<i32>,
    current: Option<&Attribute>,
    version: ProtocolVersion,
) -> Result<Vec<&'a Attribute>, Refusal> {
    if object.given.iter().all(|attribute| attribute.attribute_name() != *name)
        && object.attributes().iter().any(|attribute| attribute.attribute_name() == *name)
    {
        return Err(read_only(name));
    }
    instances(object, name, index, current, version)
}

/// The instances that are meant: in KMIP 1.x the one of the index, in KMIP 2 the one of the value, or all.
fn instances<'a>(
    object: &'a Object,
    name: &AttributeName,
    index: Option<i32>,
    current: Option<&Attribute>,
    version: ProtocolVersion,
) -> Result<Vec<&'a Attribute>, Refusal> {
    let of_name = || object.given.iter().filter(|attribute| attribute.attribute_name() == *name);
    if of_name().next().is_none() {
        return Err(Refusal::new(ResultReason::ATTRIBUTE_NOT_FOUND, format!("the object has no {name}")));
    }
    let meant: Vec<_> = match current {
        Some(current) => of_name().filter(|attribute| attribute.value == current.value).collect(),
        None if version < ProtocolVersion::V2_0 => {
            of_name().filter(|attribute| attribute.index_or_zero() == index.unwrap_or(0)).collect()
        }
        None => of_name().collect(),
    };
    if meant.is_empty() {
        let message = format!("the object has no such instance of {name}");
        return Err(Refusal::new(ResultReason::ATTRIBUTE_INSTANCE_NOT_FOUND, message));
    }
    Ok(meant)
}

fn added(object: &Object, attribute: Attribute) -> Result<Change, Refusal> {
    let mut given = object.given.clone();
    give(&mut given, Attribute { index: None, value: attribute.value })?;
    given.pop().map(Change::Added).ok_or_else(|| Refusal::new(ResultReason::GENERAL_FAILURE, "nothing was added"))
}

fn dated(object: &Object, date: SettableDate, attribute: Attribute, now: i64) -> Result<Change, Refusal> {
    let mut lifecycle = object.lifecycle.clone();
    lifecycle.set_date(date, now)?;
    Ok(Change::Dated(lifecycle, attribute))
}

fn may_be_changed(attribute: &Attribute) -> Result<(), Refusal> {
    match giving(attribute) {
        Giving::Never => Err(read_only(&attribute.attribute_name())),
        Giving::Unknown => Err(unsupported(&attribute.attribute_name())),
        Giving::Once | Giving::Often => Ok(()),
    }
}

fn read_only(name: &AttributeName) -> Refusal {
    Refusal::new(ResultReason::ATTRIBUTE_READ_ONLY, format!("{name} is the server's to set"))
}

fn unsupported(name: &AttributeName) -> Refusal {
    Refusal::new(ResultReason::ATTRIBUTE_READ_ONLY, format!("the attribute {name} is not supported"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kmip::attribute::{AttributeValue, UsageMask};
    use kmip::names::{CryptographicAlgorithm, State};

    use super::*;
    use crate::core::{Dates, ObjectShape};

    const OLD: ProtocolVersion = ProtocolVersion::V1_4;
    const NEW: ProtocolVersion = ProtocolVersion::V2_1;

    fn object(given: &[(&str, i32, &str)]) -> Object {
        Object {
            id: "1".into(),
            owner: "cn:alice".into(),
            shape: ObjectShape {
                algorithm: CryptographicAlgorithm::AES,
                length: 256,
                usage: UsageMask::ENCRYPT | UsageMask::DECRYPT,
            },
            lifecycle: Lifecycle::new(100, Dates::default()),
            digest: vec![],
            given: given.iter().map(|(name, index, value)| indexed(name, *index, value)).collect(),
        }
    }

    fn indexed(name: &str, index: i32, value: &str) -> Attribute {
        Attribute { index: Some(index), ..Attribute::custom_text(name, value) }
    }

    fn reason<T: std::fmt::Debug>(result: Result<T, Refusal>) -> ResultReason {
        result.unwrap_err().reason
    }

    #[test]
    fn one_instance_is_changed_by_index_or_by_value() {
        let object = object(&[("x-A", 0, "a"), ("x-A", 1, "b"), ("x-B", 0, "c")]);
        let modify = |current: Option<&str>, name: &str, index: Option<i32>, version| {
            let current = current.map(|value| Attribute::custom_text(name, value));
            let attribute = Attribute { index, ..Attribute::custom_text(name, "new") };
            check_modification(&object, current.as_ref(), attribute, version, 200)
        };
        let replaced =
            |name: &str, index, old: &str| Change::Replaced(indexed(name, index, old), indexed(name, index, "new"));
        assert_eq!(modify(None, "x-A", Some(1), OLD).unwrap(), replaced("x-A", 1, "b"));
        assert_eq!(modify(None, "x-A", None, OLD).unwrap(), replaced("x-A", 0, "a"));
        assert_eq!(modify(Some("b"), "x-A", None, NEW).unwrap(), replaced("x-A", 1, "b"));
        assert_eq!(modify(None, "x-B", None, NEW).unwrap(), replaced("x-B", 0, "c"));
        assert_eq!(reason(modify(None, "x-A", None, NEW)), ResultReason::MULTI_VALUED_ATTRIBUTE);
        assert_eq!(reason(modify(Some("z"), "x-A", None, NEW)), ResultReason::ATTRIBUTE_INSTANCE_NOT_FOUND);
        assert_eq!(reason(modify(None, "x-A", Some(7), OLD)), ResultReason::ATTRIBUTE_INSTANCE_NOT_FOUND);
        assert_eq!(reason(modify(None, "x-C", None, NEW)), ResultReason::ATTRIBUTE_NOT_FOUND);
    }

    #[test]
    fn one_instance_or_all_are_deleted() {
        let object = object(&[("x-A", 0, "a"), ("x-A", 1, "b")]);
        let name = AttributeName::from("x-A");
        let current = Attribute::custom_text("x-A", "b");
        assert_eq!(check_deletion(&object, &name, Some(1), None, OLD).unwrap(), [&indexed("x-A", 1, "b")]);
        assert_eq!(check_deletion(&object, &name, None, None, OLD).unwrap().len(), 1);
        assert_eq!(check_deletion(&object, &name, None, None, NEW).unwrap().len(), 2);
        assert_eq!(check_deletion(&object, &name, None, Some(&current), NEW).unwrap(), [&indexed("x-A", 1, "b")]);
        let state = check_deletion(&object, &AttributeName::STATE, None, None, NEW);
        assert_eq!(reason(state), ResultReason::ATTRIBUTE_READ_ONLY);
        let none = check_deletion(&object, &AttributeName::DESCRIPTION, None, None, NEW);
        assert_eq!(reason(none), ResultReason::ATTRIBUTE_NOT_FOUND);
    }

    #[test]
    fn what_has_one_instance_is_set() {
        let object = object(&[]);
        let describe = |text: &str| Attribute::new(AttributeValue::Description(text.into()));
        let set = check_setting(&object, describe("a"), NEW, 200).unwrap();
        let Change::Added(description) = set else { panic!("{set:?}") };
        let described = Object { given: vec![description.clone()], ..object.clone() };
        let again = check_setting(&described, describe("b"), NEW, 200).unwrap();
        assert_eq!(again, Change::Replaced(description, Attribute { index: Some(0), ..describe("b") }));
        let custom = check_setting(&object, Attribute::custom_text("x-A", "a"), NEW, 200);
        assert_eq!(reason(custom), ResultReason::MULTI_VALUED_ATTRIBUTE);
    }

    #[test]
    fn dates_bring_states_about() {
        let object = object(&[]);
        let activation = |date| Attribute::new(AttributeValue::ActivationDate(date));
        let changed = check_addition(&object, activation(150), NEW, 200).unwrap();
        let Change::Dated(lifecycle, _) = changed else { panic!("{changed:?}") };
        assert_eq!((lifecycle.state, lifecycle.dates.activation), (State::ACTIVE, Some(150)));
        let active = Object { lifecycle, ..object };
        let again = check_modification(&active, None, activation(10), NEW, 200);
        assert_eq!(reason(again), ResultReason::WRONG_KEY_LIFECYCLE_STATE);
        assert_eq!(reason(check_addition(&active, activation(10), NEW, 200)), ResultReason::ATTRIBUTE_SINGLE_VALUED);
    }

    #[test]
    fn what_is_the_servers_stays() {
        let object = object(&[]);
        let state = || Attribute::new(AttributeValue::State(State::COMPROMISED));
        assert_eq!(reason(check_modification(&object, None, state(), NEW, 0)), ResultReason::ATTRIBUTE_READ_ONLY);
        assert_eq!(reason(check_setting(&object, state(), NEW, 0)), ResultReason::ATTRIBUTE_READ_ONLY);
        assert_eq!(reason(check_addition(&object, state(), NEW, 0)), ResultReason::ATTRIBUTE_READ_ONLY);
    }
}
