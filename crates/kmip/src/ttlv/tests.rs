#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::names::Tag;
use crate::secret::SecretBytes;

/// The specification's own examples (KMIP 1.4 section 9.1.2), all under tag 420020.
fn examples() -> Vec<(Value, &'static [u8])> {
    let examples: Vec<(Value, &'static [u8])> = vec![
        (Value::Integer(8), &[0x42, 0, 0x20, 0x02, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 0]),
        (
            Value::LongInteger(123_456_789_000_000_000),
            &[0x42, 0, 0x20, 0x03, 0, 0, 0, 8, 0x01, 0xB6, 0x9B, 0x4B, 0xA5, 0x74, 0x92, 0x00],
        ),
        (
            Value::BigInteger(SecretBytes::new(vec![
                0, 0, 0, 0, 0x03, 0xFD, 0x35, 0xEB, 0x6B, 0xC2, 0xDF, 0x46, 0x18, 0x08, 0, 0,
            ])),
            &[
                0x42, 0, 0x20, 0x04, 0, 0, 0, 16, 0, 0, 0, 0, 0x03, 0xFD, 0x35, 0xEB, 0x6B, 0xC2, 0xDF, 0x46, 0x18,
                0x08, 0, 0,
            ],
        ),
        (Value::Enumeration(255), &[0x42, 0, 0x20, 0x05, 0, 0, 0, 4, 0, 0, 0, 0xFF, 0, 0, 0, 0]),
        (Value::Boolean(true), &[0x42, 0, 0x20, 0x06, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]),
        (Value::TextString("Hello World".into()), b"\x42\x00\x20\x07\x00\x00\x00\x0BHello World\x00\x00\x00\x00\x00"),
        (
            Value::ByteString(SecretBytes::new(vec![1, 2, 3])),
            &[0x42, 0, 0x20, 0x08, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0],
        ),
        // Friday, March 14, 2008, 11:56:40 GMT
        (Value::DateTime(0x47DA_67F8), &[0x42, 0, 0x20, 0x09, 0, 0, 0, 8, 0, 0, 0, 0, 0x47, 0xDA, 0x67, 0xF8]),
        // Ten days.
        (Value::Interval(864_000), &[0x42, 0, 0x20, 0x0A, 0, 0, 0, 4, 0, 0x0D, 0x2F, 0, 0, 0, 0, 0]),
        (
            Value::Structure(vec![
                Item::new(Tag(0x42_0004), Value::Enumeration(254)),
                Item::new(Tag(0x42_0005), Value::Integer(255)),
            ]),
            &[
                0x42, 0, 0x20, 0x01, 0, 0, 0, 0x20, 0x42, 0, 0x04, 0x05, 0, 0, 0, 4, 0, 0, 0, 0xFE, 0, 0, 0, 0, 0x42,
                0, 0x05, 0x02, 0, 0, 0, 4, 0, 0, 0, 0xFF, 0, 0, 0, 0,
            ],
        ),
    ];
    examples
}

#[test]
fn the_specifications_examples_are_written_as_published() {
    for (value, bytes) in examples() {
        let item = Item::new(Tag(0x42_0020), value);
        assert_eq!(encode(&item).unwrap().as_slice(), bytes, "{item:?}");
        assert_eq!(decode(bytes, &Limits::default()).unwrap(), item);
    }
}

#[test]
fn every_shorter_message_is_refused() {
    for (_, bytes) in examples() {
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], &Limits::default()).is_err());
        }
    }
}

#[test]
fn a_byte_more_is_refused() {
    for (_, bytes) in examples() {
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(decode(&longer, &Limits::default()), Err(DecodeError::Trailing));
    }
}

#[test]
fn padding_that_is_not_zero_is_refused() {
    let mut bytes = b"\x42\x00\x20\x07\x00\x00\x00\x0BHello World\x00\x00\x00\x00\x00".to_vec();
    *bytes.last_mut().unwrap() = 1;
    assert_eq!(
        decode(&bytes, &Limits::default()),
        Err(DecodeError::BadValue { offset: 19, what: "padding is not zero" })
    );
}

#[test]
fn depth_is_bounded() {
    let mut item = Item::structure(Tag::ATTRIBUTE, vec![]);
    for _ in 0..40 {
        item = Item::structure(Tag::ATTRIBUTE, vec![item]);
    }
    let bytes = encode(&item).unwrap();
    assert_eq!(decode(&bytes, &Limits::default()), Err(DecodeError::TooMuch { limit: 32, what: "levels" }));
}

#[test]
fn the_number_of_items_is_bounded() {
    let items = (0..100).map(|_| Item::new(Tag::NONCE, Value::Integer(0))).collect();
    let bytes = encode(&Item::structure(Tag::ATTRIBUTE, items)).unwrap();
    let limits = Limits { items: 100, ..Limits::default() };
    assert_eq!(decode(&bytes, &limits), Err(DecodeError::TooMuch { limit: 100, what: "items" }));
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_it_is_read() {
    let header = [0x42, 0, 0x78, 0x01, 0xFF, 0xFF, 0xFF, 0xF8];
    assert!(matches!(message_length(&header, &Limits::default()), Err(DecodeError::TooMuch { .. })));
    assert_eq!(message_length(&[0x42, 0, 0x78, 0x01, 0, 0, 0, 16], &Limits::default()), Ok(24));
}

#[test]
fn debug_shows_no_bytes() {
    let item = Item::structure(
        Tag::KEY_VALUE,
        vec![
            Item::new(Tag::KEY_MATERIAL, Value::ByteString(SecretBytes::new(vec![0xAB; 32]))),
            Item::new(Tag::PASSWORD, Value::TextString("opensesame".into())),
        ],
    );
    let text = format!("{item:?}");
    assert!(text.contains("[32 bytes]"), "{text}");
    assert!(!text.contains("171") && !text.to_lowercase().contains("ab, ab") && !text.contains("sesame"), "{text}");
}

fn any_value() -> impl Strategy<Value = Value> {
    // Values hold key material and can't be cloned, so a clonable recipe is generated first.
    #[derive(Clone, Debug)]
    enum Recipe {
        Structure(Vec<(u32, Recipe)>),
        Integer(i32),
        Long(i64),
        Big(Vec<u64>),
        Enumeration(u32),
        Boolean(bool),
        Text(String),
        Bytes(Vec<u8>),
        Date(i64),
        Interval(u32),
    }
    fn cook(recipe: Recipe) -> Value {
        match recipe {
            Recipe::Structure(items) => {
                Value::Structure(items.into_iter().map(|(tag, value)| Item::new(Tag(tag), cook(value))).collect())
            }
            Recipe::Integer(value) => Value::Integer(value),
            Recipe::Long(value) => Value::LongInteger(value),
            Recipe::Big(words) => {
                Value::BigInteger(SecretBytes::new(words.into_iter().flat_map(u64::to_be_bytes).collect()))
            }
            Recipe::Enumeration(value) => Value::Enumeration(value),
            Recipe::Boolean(value) => Value::Boolean(value),
            Recipe::Text(value) => Value::TextString(value),
            Recipe::Bytes(value) => Value::ByteString(SecretBytes::new(value)),
            Recipe::Date(value) => Value::DateTime(value),
            Recipe::Interval(value) => Value::Interval(value),
        }
    }
    let leaf = prop_oneof![
        any::<i32>().prop_map(Recipe::Integer),
        any::<i64>().prop_map(Recipe::Long),
        proptest::collection::vec(any::<u64>(), 1..4).prop_map(Recipe::Big),
        any::<u32>().prop_map(Recipe::Enumeration),
        any::<bool>().prop_map(Recipe::Boolean),
        ".{0,20}".prop_map(Recipe::Text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Recipe::Bytes),
        any::<i64>().prop_map(Recipe::Date),
        any::<u32>().prop_map(Recipe::Interval),
    ];
    let tag = prop_oneof![0x42_0000_u32..0x43_0000, 0x54_0000_u32..0x55_0000];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        proptest::collection::vec((tag.clone(), inner), 0..6).prop_map(Recipe::Structure)
    })
    .prop_map(cook)
}

proptest! {
    #[test]
    fn what_is_written_is_read(value in any_value()) {
        let item = Item::new(Tag::ATTRIBUTE_VALUE, value);
        let bytes = encode(&item).unwrap();
        prop_assert_eq!(bytes.len(), item.encoded_length());
        prop_assert_eq!(bytes.capacity(), bytes.len());
        prop_assert_eq!(decode(&bytes, &Limits::default()).unwrap(), item);
    }

    #[test]
    fn what_is_read_is_written_alike(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(item) = decode(&bytes, &Limits::default()) {
            let again = encode(&item).unwrap();
            prop_assert_eq!(again.as_slice(), bytes.as_slice());
        }
    }

    /// Random bytes seldom get past the first header, so well-formed messages are spoilt at one place.
    #[test]
    fn one_wrong_byte_is_refused_or_read_exactly(value in any_value(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = encode(&Item::new(Tag::ATTRIBUTE_VALUE, value)).unwrap().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(item) = decode(&bytes, &Limits::default()) {
            let again = encode(&item).unwrap();
            prop_assert_eq!(again.as_slice(), bytes.as_slice());
        }
    }
}
