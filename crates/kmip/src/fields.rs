//! Taking a structure's fields apart, and putting them together.
//!
//! The fields of a structure come in the order its table gives (KMIP 1.4 section 9.1.1.4), so taking one looks only at the
//! next item. Vendors' extensions (tags 54xxxx) that stand where the table ends are passed over: the
//! standard lets peers add them.

use std::collections::VecDeque;

use crate::names::Tag;
use crate::secret::SecretBytes;
use crate::ttlv::{DecodeError, Item, Value};

/// What a field may hold.
pub(crate) trait FieldValue: Sized {
    /// For the error.
    const EXPECTED: &'static str;
    /// The value, if the item is of the right type; the item again if not.
    fn from_value(value: Value) -> Result<Self, Value>;
    /// The item's value.
    fn to_value(&self) -> Value;
}

macro_rules! field_value {
    ($type:ty, $variant:ident, $expected:literal, $to:expr) => {
        impl FieldValue for $type {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: Value) -> Result<Self, Value> {
                match value {
                    Value::$variant(inner) => Ok(inner),
                    other => Err(other),
                }
            }
            fn to_value(&self) -> Value {
                #[allow(clippy::redundant_closure_call)]
                Value::$variant($to(self))
            }
        }
    };
}

field_value!(i32, Integer, "Integer", |value: &i32| *value);
field_value!(i64, LongInteger, "LongInteger", |value: &i64| *value);
field_value!(bool, Boolean, "Boolean", |value: &bool| *value);
field_value!(String, TextString, "TextString", |value: &String| value.clone());
field_value!(SecretBytes, ByteString, "ByteString", |value: &SecretBytes| SecretBytes::copy_of(value.expose()));

/// Bytes that are no secret.
impl FieldValue for Vec<u8> {
    const EXPECTED: &'static str = "ByteString";
    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::ByteString(bytes) => Ok(bytes.expose().to_vec()),
            other => Err(other),
        }
    }
    fn to_value(&self) -> Value {
        Value::ByteString(SecretBytes::copy_of(self))
    }
}

/// Seconds since 1970, as opposed to any other 64 bits.
#[derive(Clone, Copy)]
pub(crate) struct Date(pub(crate) i64);
field_value!(Vec<Item>, Structure, "Structure", |items: &Vec<Item>| items.iter().map(Item::copy).collect());

impl FieldValue for Date {
    const EXPECTED: &'static str = "DateTime";
    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::DateTime(time) => Ok(Self(time)),
            other => Err(other),
        }
    }
    fn to_value(&self) -> Value {
        Value::DateTime(self.0)
    }
}

/// Seconds, as opposed to any other 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Seconds(pub(crate) u32);

impl FieldValue for Seconds {
    const EXPECTED: &'static str = "Interval";
    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Interval(seconds) => Ok(Self(seconds)),
            other => Err(other),
        }
    }
    fn to_value(&self) -> Value {
        Value::Interval(self.0)
    }
}

macro_rules! enumerations {
    ($($type:ident),*) => {$(
        impl FieldValue for crate::names::$type {
            const EXPECTED: &'static str = "Enumeration";
            fn from_value(value: Value) -> Result<Self, Value> {
                match value {
                    Value::Enumeration(number) => Ok(Self(number)),
                    other => Err(other),
                }
            }
            fn to_value(&self) -> Value {
                Value::Enumeration(self.0)
            }
        }
    )*};
}

enumerations!(
    AsynchronousIndicator,
    BatchErrorContinuationOption,
    BlockCipherMode,
    CryptographicAlgorithm,
    HashingAlgorithm,
    KeyFormatType,
    LinkType,
    NameType,
    ObjectGroupMember,
    ObjectType,
    Operation,
    PaddingMethod,
    QueryFunction,
    ResultReason,
    ResultStatus,
    RevocationReasonCode,
    State
);

/// An enumeration that has no names here.
impl FieldValue for u32 {
    const EXPECTED: &'static str = "Enumeration";
    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Enumeration(number) => Ok(number),
            other => Err(other),
        }
    }
    fn to_value(&self) -> Value {
        Value::Enumeration(*self)
    }
}

pub(crate) fn field<T: FieldValue>(item: Item) -> Result<T, DecodeError> {
    let tag = item.tag;
    T::from_value(item.value).map_err(|value| DecodeError::WrongType {
        tag,
        expected: T::EXPECTED,
        found: value.item_type(),
    })
}

/// The fields of a structure, to be taken in order.
pub(crate) struct Fields {
    within: Tag,
    items: VecDeque<Item>,
}

impl Fields {
    pub(crate) fn of(item: Item) -> Result<Self, DecodeError> {
        let within = item.tag;
        Ok(Self { within, items: field::<Vec<Item>>(item)?.into() })
    }

    pub(crate) fn tag(&self) -> Tag {
        self.within
    }

    pub(crate) fn optional_item(&mut self, tag: Tag) -> Option<Item> {
        if self.items.front()?.tag == tag { self.items.pop_front() } else { None }
    }

    pub(crate) fn item(&mut self, tag: Tag) -> Result<Item, DecodeError> {
        self.optional_item(tag).ok_or(DecodeError::Missing { tag, within: self.within })
    }

    /// The identifier of an object; `None` if the ID placeholder is meant, which KMIP 2 can also say by a number
    /// (KMIP 2.1 section 11.60).
    pub(crate) fn identifier(&mut self) -> Result<Option<String>, DecodeError> {
        const ID_PLACEHOLDER: u32 = 1;
        match self.optional_item(Tag::UNIQUE_IDENTIFIER) {
            None | Some(Item { value: Value::Enumeration(ID_PLACEHOLDER), .. }) => Ok(None),
            Some(item) => field(item).map(Some),
        }
    }

    pub(crate) fn optional<T: FieldValue>(&mut self, tag: Tag) -> Result<Option<T>, DecodeError> {
        self.optional_item(tag).map(field).transpose()
    }

    pub(crate) fn required<T: FieldValue>(&mut self, tag: Tag) -> Result<T, DecodeError> {
        field(self.item(tag)?)
    }

    pub(crate) fn repeated_items(&mut self, tag: Tag) -> Vec<Item> {
        std::iter::from_fn(|| self.optional_item(tag)).collect()
    }

    pub(crate) fn repeated<T: FieldValue>(&mut self, tag: Tag) -> Result<Vec<T>, DecodeError> {
        std::iter::from_fn(|| self.optional_item(tag)).map(field).collect()
    }

    /// Whatever is left.
    pub(crate) fn rest(self) -> Vec<Item> {
        self.items.into()
    }

    /// That nothing is left that we ought to have understood.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.items.iter().find(|item| !item.is_extension()) {
            Some(item) => Err(DecodeError::Unexpected { tag: item.tag, within: self.within }),
            None => Ok(()),
        }
    }
}

/// Puts the fields of a structure together, in order.
pub(crate) struct Builder {
    tag: Tag,
    items: Vec<Item>,
}

impl Builder {
    pub(crate) fn new(tag: Tag) -> Self {
        Self { tag, items: vec![] }
    }

    pub(crate) fn field<T: FieldValue>(mut self, tag: Tag, value: &T) -> Self {
        self.items.push(Item::new(tag, value.to_value()));
        self
    }

    pub(crate) fn optional<T: FieldValue>(self, tag: Tag, value: Option<&T>) -> Self {
        match value {
            Some(value) => self.field(tag, value),
            None => self,
        }
    }

    pub(crate) fn repeated<'a, T: FieldValue + 'a>(
        mut self,
        tag: Tag,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Self {
        self.items.extend(values.into_iter().map(|value| Item::new(tag, value.to_value())));
        self
    }

    pub(crate) fn item(mut self, item: Item) -> Self {
        self.items.push(item);
        self
    }

    pub(crate) fn items(mut self, items: impl IntoIterator<Item = Item>) -> Self {
        self.items.extend(items);
        self
    }

    pub(crate) fn build(self) -> Item {
        Item::structure(self.tag, self.items)
    }
}
