#![allow(clippy::unwrap_used)]

use kmip::attribute::{CustomValue, Name, UsageMask};
use kmip::names::State;
use kmip::ttlv::Value;

use super::*;
use crate::core::Lifecycle;

const V: ProtocolVersion = ProtocolVersion::V1_4;

fn aes() -> Vec<AttributeValue> {
    vec![
        AttributeValue::CryptographicAlgorithm(CryptographicAlgorithm::AES),
        AttributeValue::CryptographicLength(256),
        AttributeValue::CryptographicUsageMask(UsageMask::ENCRYPT),
    ]
}

fn new(values: Vec<AttributeValue>) -> Result<NewObject, Refusal> {
    NewObject::from_attributes(values.into_iter().map(Attribute::new).collect(), (None, None), V)
}

fn with(extra: AttributeValue) -> Result<NewObject, Refusal> {
    new(aes().into_iter().chain([extra]).collect())
}

fn custom(name: &str, text: &str) -> AttributeValue {
    AttributeValue::Custom(name.into(), CustomValue(Value::TextString(text.into())))
}

#[test]
fn a_key_needs_algorithm_length_and_use() {
    assert!(new(aes()).is_ok());
    for missing in 0..3 {
        let mut values = aes();
        let name = values.remove(missing).attribute_name();
        let refusal = new(values).unwrap_err();
        assert!(refusal.message.contains(name.as_str()), "{}", refusal.message);
    }
}

#[test]
fn lengths_that_are_made() {
    use CryptographicAlgorithm as A;
    for (algorithm, length, good) in [
        (A::AES, 128, true),
        (A::AES, 192, true),
        (A::AES, 256, true),
        (A::AES, 0, false),
        (A::AES, -256, false),
        (A::AES, 512, false),
        (A::HMAC_SHA256, 256, true),
        (A::HMAC_SHA256, 257, false),
        (A::HMAC_SHA256, i32::MAX, false),
        (A::RC4, 128, false),
        (A(0x8000_0001), 256, false),
    ] {
        let shape = ObjectShape { algorithm, length, usage: UsageMask::ENCRYPT };
        assert_eq!(check_shape(&shape).is_ok(), good, "{algorithm} {length}");
    }
}

#[test]
fn what_the_server_sets_a_client_may_not() {
    for value in [
        AttributeValue::State(State::ACTIVE),
        AttributeValue::UniqueIdentifier("mine".into()),
        AttributeValue::InitialDate(0),
        AttributeValue::CompromiseDate(0),
        custom("y-Servers", "own"),
        custom("x-", "no name"),
        AttributeValue::Other("Certificate Type".into(), CustomValue(Value::Enumeration(1))),
    ] {
        assert_eq!(with(value.clone()).unwrap_err().reason, ResultReason::INVALID_FIELD, "{value:?}");
    }
}

#[test]
fn instances_are_numbered() {
    let values = [custom("x-a", "1"), custom("x-b", "1"), custom("x-a", "2"), AttributeValue::Name(Name::text("n"))];
    let given = new(aes().into_iter().chain(values).collect()).unwrap().given;
    let numbered: Vec<_> = given.iter().map(|a| (a.attribute_name().to_string(), a.index)).collect();
    let expected = [("x-a", 0), ("x-b", 0), ("x-a", 1), ("Name", 0)];
    assert_eq!(numbered, expected.map(|(name, index)| (name.to_owned(), Some(index))));

    let chosen = |first, second| {
        let instance = |index| Attribute { index: Some(index), value: custom("x-a", "1") };
        let all = aes().into_iter().map(Attribute::new).chain([instance(first), instance(second)]).collect();
        NewObject::from_attributes(all, (None, None), V)
    };
    assert!(chosen(0, 5).is_ok());
    assert!(chosen(5, 5).is_err());
}

#[test]
fn what_a_client_stores_is_bounded() {
    let many = |count| {
        let instances = (0..count).map(|number: usize| custom("x-a", &number.to_string()));
        new(aes().into_iter().chain(instances).collect())
    };
    assert!(many(MOST_GIVEN).is_ok());
    assert!(many(MOST_GIVEN + 1).is_err());
}

#[test]
fn dates_in_their_order() {
    let dates = |activation, process_start, protect_stop, deactivation| {
        check_dates(&Dates { activation, process_start, protect_stop, deactivation, ..Dates::default() }).is_ok()
    };
    assert!(dates(None, None, None, None));
    assert!(dates(Some(1), Some(2), Some(3), Some(4)));
    assert!(dates(Some(1), Some(1), Some(1), Some(1)));
    assert!(!dates(Some(2), None, None, Some(1)));
    assert!(!dates(Some(2), Some(1), None, None));
    assert!(!dates(Some(2), None, Some(1), None));
    assert!(!dates(None, Some(2), None, Some(1)));
    assert!(!dates(None, None, Some(2), Some(1)));
}

#[test]
fn an_attribute_newer_than_the_request_is_refused() {
    let comment = || Attribute::new(AttributeValue::Comment("1.4".into()));
    let at = |version| {
        let all = aes().into_iter().map(Attribute::new).chain([comment()]).collect();
        NewObject::from_attributes(all, (None, None), version).is_ok()
    };
    assert!(at(ProtocolVersion::V1_4));
    assert!(!at(ProtocolVersion::V1_3));
}

#[test]
fn additions() {
    let NewObject { shape, dates, given } = with(AttributeValue::Comment("there".into())).unwrap();
    let object = Object {
        id: "1".into(),
        owner: "cn:alice".into(),
        shape,
        lifecycle: Lifecycle::new(0, dates),
        digest: vec![],
        given,
    };
    let add = |index, value| {
        crate::core::check_addition(&object, Attribute { index, value }, V, 0)
            .map(|change| change.attribute().index)
            .map_err(|refusal| refusal.reason)
    };
    assert_eq!(add(None, custom("x-new", "1")), Ok(Some(0)));
    assert_eq!(add(Some(0), custom("x-new", "1")), Ok(Some(0)));
    assert_eq!(add(Some(3), custom("x-new", "1")), Err(ResultReason::INVALID_FIELD));
    assert_eq!(add(None, AttributeValue::Comment("again".into())), Err(ResultReason::ATTRIBUTE_SINGLE_VALUED));
    assert_eq!(add(None, AttributeValue::CryptographicLength(128)), Err(ResultReason::ATTRIBUTE_READ_ONLY));
    assert_eq!(add(None, AttributeValue::Description("first".into())), Ok(Some(0)));
}
