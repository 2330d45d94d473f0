//! Bytes to items.

use super::{ALIGNMENT, DecodeError, HEADER_LENGTH, Item, ItemType, Value, padding};
use crate::names::Tag;
use crate::secret::SecretBytes;

/// How much a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole message, header included.
    pub message_bytes: usize,
    /// Structures within structures.
    pub depth: usize,
    /// Items of any kind.
    pub items: usize,
}

impl Default for Limits {
    /// One MiB, 32 levels, 65,536 items: far above what keys and their attributes take.
    fn default() -> Self {
        Self { message_bytes: 1 << 20, depth: 32, items: 1 << 16 }
    }
}

/// The bytes a whole message takes, told by its first eight: what to read from a stream before [`decode`].
///
/// # Errors
/// If the message is larger than the limits allow or can't be a message at all.
pub fn message_length(header: &[u8; HEADER_LENGTH], limits: &Limits) -> Result<usize, DecodeError> {
    let [_, _, _, item_type, a, b, c, d] = *header;
    if ItemType::from_byte(item_type) != Some(ItemType::Structure) {
        return Err(DecodeError::BadValue { offset: 3, what: "a message is a structure" });
    }
    let too_much = DecodeError::TooMuch { limit: limits.message_bytes, what: "bytes" };
    let Ok(length) = usize::try_from(u32::from_be_bytes([a, b, c, d])) else {
        return Err(too_much);
    };
    match length.checked_add(HEADER_LENGTH) {
        Some(total) if total <= limits.message_bytes => Ok(total),
        _ => Err(too_much),
    }
}

/// Reads one item that fills `bytes` to the last.
///
/// # Errors
/// If the bytes are anything else.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Item, DecodeError> {
    if bytes.len() > limits.message_bytes {
        return Err(DecodeError::TooMuch { limit: limits.message_bytes, what: "bytes" });
    }
    let mut decoder = Decoder { bytes, offset: 0, limits, items: 0 };
    let item = decoder.item(bytes.len(), 0)?;
    if decoder.offset != bytes.len() {
        return Err(DecodeError::Trailing);
    }
    Ok(item)
}

struct Decoder<'a> {
    bytes: &'a [u8],
    offset: usize,
    limits: &'a Limits,
    items: usize,
}

impl<'a> Decoder<'a> {
    /// One item, which may not reach past `end`.
    fn item(&mut self, end: usize, depth: usize) -> Result<Item, DecodeError> {
        self.items += 1;
        if self.items > self.limits.items {
            return Err(DecodeError::TooMuch { limit: self.limits.items, what: "items" });
        }

        let start = self.offset;
        let [family, high, low, item_type, a, b, c, d] = self.array(end)?;
        // KMIP 1.4 section 9.1.1.1: 42 for the standard's tags, 54 for extensions.
        if family != 0x42 && family != 0x54 {
            return Err(DecodeError::BadValue { offset: start, what: "not a tag" });
        }
        let tag = Tag(u32::from_be_bytes([0, family, high, low]));
        let Some(item_type) = ItemType::from_byte(item_type) else {
            return Err(DecodeError::BadValue { offset: start + 3, what: "unknown item type" });
        };
        let length =
            usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| DecodeError::Truncated { offset: start })?;
        if length > end - self.offset {
            return Err(DecodeError::Truncated { offset: start });
        }
        Ok(Item { tag, value: self.value(item_type, length, end, depth)? })
    }

    fn value(&mut self, item_type: ItemType, length: usize, end: usize, depth: usize) -> Result<Value, DecodeError> {
        let fixed = match item_type {
            ItemType::Integer | ItemType::Enumeration | ItemType::Interval => Some(4),
            ItemType::LongInteger | ItemType::Boolean | ItemType::DateTime | ItemType::DateTimeExtended => Some(8),
            _ => None,
        };
        let start = self.offset;
        if fixed.is_some_and(|fixed| fixed != length) {
            return Err(DecodeError::BadValue { offset: start - 4, what: "wrong length for the item's type" });
        }

        let value = match item_type {
            ItemType::Structure => self.structure(length, depth)?,
            ItemType::Integer => Value::Integer(i32::from_be_bytes(self.array(end)?)),
            ItemType::Enumeration => Value::Enumeration(u32::from_be_bytes(self.array(end)?)),
            ItemType::Interval => Value::Interval(u32::from_be_bytes(self.array(end)?)),
            ItemType::LongInteger => Value::LongInteger(i64::from_be_bytes(self.array(end)?)),
            ItemType::DateTime => Value::DateTime(i64::from_be_bytes(self.array(end)?)),
            ItemType::DateTimeExtended => Value::DateTimeExtended(i64::from_be_bytes(self.array(end)?)),
            ItemType::Boolean => match u64::from_be_bytes(self.array(end)?) {
                0 => Value::Boolean(false),
                1 => Value::Boolean(true),
                _ => return Err(DecodeError::BadValue { offset: start, what: "neither true nor false" }),
            },
            ItemType::TextString => match std::str::from_utf8(self.slice(length, end)?) {
                Ok(text) => Value::TextString(text.to_owned()),
                Err(_) => return Err(DecodeError::BadValue { offset: start, what: "text is not UTF-8" }),
            },
            ItemType::ByteString => Value::ByteString(SecretBytes::copy_of(self.slice(length, end)?)),
            ItemType::BigInteger => {
                if length == 0 || !length.is_multiple_of(ALIGNMENT) {
                    let what = "a big integer's length is a multiple of eight";
                    return Err(DecodeError::BadValue { offset: start, what });
                }
                Value::BigInteger(SecretBytes::copy_of(self.slice(length, end)?))
            }
        };

        let padding_start = self.offset;
        if self.slice(padding(length), end)?.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::BadValue { offset: padding_start, what: "padding is not zero" });
        }
        Ok(value)
    }

    fn structure(&mut self, length: usize, depth: usize) -> Result<Value, DecodeError> {
        if depth >= self.limits.depth {
            return Err(DecodeError::TooMuch { limit: self.limits.depth, what: "levels" });
        }
        let end = self.offset + length;
        let mut items = Vec::new();
        while self.offset < end {
            items.push(self.item(end, depth + 1)?);
        }
        Ok(Value::Structure(items))
    }

    fn slice(&mut self, length: usize, end: usize) -> Result<&'a [u8], DecodeError> {
        let truncated = DecodeError::Truncated { offset: self.offset };
        let stop = self.offset.checked_add(length).filter(|stop| *stop <= end).ok_or(truncated.clone())?;
        let slice = self.bytes.get(self.offset..stop).ok_or(truncated)?;
        self.offset = stop;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, end: usize) -> Result<[u8; N], DecodeError> {
        let offset = self.offset;
        self.slice(N, end)?.try_into().map_err(|_| DecodeError::Truncated { offset })
    }
}
