//! One item of a message, and what it may hold.

use std::fmt;

use crate::names::Tag;
use crate::secret::SecretBytes;

/// What kind of value an item holds (KMIP 1.4 section 9.1.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ItemType {
    /// Items in a fixed order.
    Structure = 0x01,
    /// 32 bits with sign.
    Integer = 0x02,
    /// 64 bits with sign.
    LongInteger = 0x03,
    /// Any number of bits, two's complement.
    BigInteger = 0x04,
    /// 32 bits without sign.
    Enumeration = 0x05,
    /// True or false, in 64 bits.
    Boolean = 0x06,
    /// UTF-8.
    TextString = 0x07,
    /// Bytes.
    ByteString = 0x08,
    /// Seconds since 1970, 64 bits with sign.
    DateTime = 0x09,
    /// Seconds, 32 bits without sign.
    Interval = 0x0A,
    /// Microseconds since 1970, 64 bits with sign (KMIP 2.0).
    DateTimeExtended = 0x0B,
}

impl ItemType {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Structure,
            0x02 => Self::Integer,
            0x03 => Self::LongInteger,
            0x04 => Self::BigInteger,
            0x05 => Self::Enumeration,
            0x06 => Self::Boolean,
            0x07 => Self::TextString,
            0x08 => Self::ByteString,
            0x09 => Self::DateTime,
            0x0A => Self::Interval,
            0x0B => Self::DateTimeExtended,
            _ => return None,
        })
    }
}

/// What an item holds. Numbers and bytes that may be key material are wiped when dropped, and never printed.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    /// Items in a fixed order.
    Structure(Vec<Item>),
    /// 32 bits with sign.
    Integer(i32),
    /// 64 bits with sign.
    LongInteger(i64),
    /// Two's complement, biggest byte first, a multiple of eight bytes long.
    BigInteger(SecretBytes),
    /// 32 bits without sign.
    Enumeration(u32),
    /// True or false.
    Boolean(bool),
    /// UTF-8.
    TextString(String),
    /// Bytes.
    ByteString(SecretBytes),
    /// Seconds since 1970.
    DateTime(i64),
    /// Seconds.
    Interval(u32),
    /// Microseconds since 1970.
    DateTimeExtended(i64),
}

impl Value {
    /// Which kind it is.
    #[must_use]
    pub fn item_type(&self) -> ItemType {
        match self {
            Self::Structure(_) => ItemType::Structure,
            Self::Integer(_) => ItemType::Integer,
            Self::LongInteger(_) => ItemType::LongInteger,
            Self::BigInteger(_) => ItemType::BigInteger,
            Self::Enumeration(_) => ItemType::Enumeration,
            Self::Boolean(_) => ItemType::Boolean,
            Self::TextString(_) => ItemType::TextString,
            Self::ByteString(_) => ItemType::ByteString,
            Self::DateTime(_) => ItemType::DateTime,
            Self::Interval(_) => ItemType::Interval,
            Self::DateTimeExtended(_) => ItemType::DateTimeExtended,
        }
    }

    /// A second one, on purpose: what holds key material is copied where this is called, and nowhere else.
    #[must_use]
    pub fn copy(&self) -> Self {
        match self {
            Self::Structure(items) => Self::Structure(items.iter().map(Item::copy).collect()),
            Self::Integer(value) => Self::Integer(*value),
            Self::LongInteger(value) => Self::LongInteger(*value),
            Self::BigInteger(value) => Self::BigInteger(SecretBytes::copy_of(value.expose())),
            Self::Enumeration(value) => Self::Enumeration(*value),
            Self::Boolean(value) => Self::Boolean(*value),
            Self::TextString(value) => Self::TextString(value.clone()),
            Self::ByteString(value) => Self::ByteString(SecretBytes::copy_of(value.expose())),
            Self::DateTime(value) => Self::DateTime(*value),
            Self::Interval(value) => Self::Interval(*value),
            Self::DateTimeExtended(value) => Self::DateTimeExtended(*value),
        }
    }

    /// Bytes of the value itself, without header and padding.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Structure(items) => items.iter().map(Item::encoded_length).sum(),
            Self::Integer(_) | Self::Enumeration(_) | Self::Interval(_) => 4,
            Self::LongInteger(_) | Self::Boolean(_) | Self::DateTime(_) | Self::DateTimeExtended(_) => 8,
            Self::BigInteger(value) | Self::ByteString(value) => value.len(),
            Self::TextString(value) => value.len(),
        }
    }
}

/// One tagged value.
#[derive(PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub tag: Tag,
    /// What it holds.
    pub value: Value,
}

impl Item {
    /// A tagged value.
    #[must_use]
    pub fn new(tag: Tag, value: Value) -> Self {
        Self { tag, value }
    }

    /// A tagged structure.
    #[must_use]
    pub fn structure(tag: Tag, items: Vec<Item>) -> Self {
        Self::new(tag, Value::Structure(items))
    }

    /// A second one, on purpose (see [`Value::copy`]).
    #[must_use]
    pub fn copy(&self) -> Self {
        Self::new(self.tag, self.value.copy())
    }

    /// Whether it's a vendor's addition (tags 54xxxx).
    pub(crate) fn is_extension(&self) -> bool {
        self.tag.0 >> 16 == 0x54
    }

    /// Bytes it takes in a message.
    #[must_use]
    pub fn encoded_length(&self) -> usize {
        let length = self.value.length();
        super::HEADER_LENGTH + length + super::padding(length)
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.tag)?;
        match &self.value {
            Value::Structure(items) => f.debug_set().entries(items).finish(),
            // A credential's password travels as text.
            Value::TextString(_) if self.tag == Tag::PASSWORD => f.write_str("[redacted]"),
            other => other.fmt(f),
        }
    }
}
