#![allow(clippy::unwrap_used)]

use kmip::attribute::{CustomValue, UsageMask};
use kmip::names::{CryptographicAlgorithm, State};
use kmip::operation::LocateRequest;
use kmip::ttlv::Value;
use proptest::prelude::*;

use super::*;
use crate::core::{Dates, Lifecycle, ObjectShape};

fn object(id: &str, initial: i64, state: State, given: Vec<Attribute>) -> Object {
    Object {
        id: id.into(),
        owner: "cn:alice".into(),
        shape: ObjectShape {
            algorithm: CryptographicAlgorithm::AES,
            length: 256,
            usage: UsageMask::ENCRYPT | UsageMask::DECRYPT,
        },
        lifecycle: Lifecycle { state, ..Lifecycle::new(initial, Dates::default()) },
        digest: vec![],
        given,
    }
}

fn search(conditions: &[AttributeValue]) -> Search {
    let attributes = conditions.iter().cloned().map(Attribute::new).collect();
    Search::new(LocateRequest { attributes, ..LocateRequest::default() }).unwrap()
}

fn custom(name: &str, value: Value) -> AttributeValue {
    AttributeValue::Custom(name.into(), CustomValue(value))
}

#[test]
fn one_date_is_that_date_and_two_are_a_range() {
    let objects: Vec<_> = (1..=5).map(|day| object(&day.to_string(), day, State::ACTIVE, vec![])).collect();
    let found = |dates: &[i64]| {
        search(&dates.iter().map(|date| AttributeValue::InitialDate(*date)).collect::<Vec<_>>()).run(&objects).0
    };
    assert_eq!(found(&[3]), ["3"]);
    assert_eq!(found(&[2, 4]), ["2", "3", "4"]);
    assert_eq!(found(&[4, 2]), ["2", "3", "4"]);
    assert_eq!(found(&[6]), [""; 0]);
}

#[test]
fn a_use_is_found_among_others() {
    let objects = [object("1", 0, State::ACTIVE, vec![])];
    let found = |mask| search(&[AttributeValue::CryptographicUsageMask(mask)]).run(&objects).1;
    assert_eq!(found(UsageMask::ENCRYPT), 1);
    assert_eq!(found(UsageMask::ENCRYPT | UsageMask::DECRYPT), 1);
    assert_eq!(found(UsageMask::ENCRYPT | UsageMask::SIGN), 0);
}

#[test]
fn what_is_archived_is_not_here() {
    let objects = [object("1", 0, State::ACTIVE, vec![])];
    let with_mask = |mask| {
        Search::new(LocateRequest { storage_status_mask: Some(mask), ..LocateRequest::default() })
            .unwrap()
            .run(&objects)
            .1
    };
    assert_eq!([with_mask(1), with_mask(2), with_mask(3)], [1, 0, 1]);
    let negative = LocateRequest { maximum_items: Some(-1), ..LocateRequest::default() };
    assert!(Search::new(negative).is_err());
}

proptest! {
    /// A key is found exactly when each condition alone finds it.
    #[test]
    fn conditions_are_all_needed(
        keys in proptest::collection::vec((0..3_i64, 0..3_i64, 1..=6_u32), 0..12),
        wanted in (proptest::option::of(0..3_i64), proptest::option::of(0..3_i64), proptest::option::of(1..=6_u32)),
    ) {
        let objects: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(number, (a, b, state))| {
                let given = [custom("x-a", Value::LongInteger(*a)), custom("x-b", Value::LongInteger(*b))];
                object(&number.to_string(), 0, State(*state), given.map(Attribute::new).to_vec())
            })
            .collect();
        let conditions: Vec<_> = [
            wanted.0.map(|a| custom("x-a", Value::LongInteger(a))),
            wanted.1.map(|b| custom("x-b", Value::LongInteger(b))),
            wanted.2.map(|state| AttributeValue::State(State(state))),
        ]
        .into_iter()
        .flatten()
        .collect();
        let (found, total) = search(&conditions).run(&objects);
        let expected: Vec<_> = keys
            .iter()
            .enumerate()
            .filter(|(_, (a, b, state))| {
                wanted.0.is_none_or(|wanted| wanted == *a)
                    && wanted.1.is_none_or(|wanted| wanted == *b)
                    && wanted.2.map_or(*state < 5, |wanted| wanted == *state)
            })
            .map(|(number, _)| number.to_string())
            .collect();
        prop_assert_eq!(total, expected.len());
        prop_assert_eq!(found, expected);
    }
}
