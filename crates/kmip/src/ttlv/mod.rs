//! Tag, type, length, value: the binary form of every message (KMIP 1.4 section 9.1).
//!
//! Reading is strict and bounded: a message is refused unless every length fits what holds it, every padding byte is
//! zero and nothing follows the outermost item; and [`Limits`] bound its size, its depth and the number of its items,
//! so that what a peer sends can't make us allocate more than a small multiple of what it sent.

mod decode;
mod encode;
mod error;
mod item;

pub use decode::{Limits, decode, message_length};
pub use encode::encode;
pub use error::{DecodeError, EncodeError};
pub use item::{Item, ItemType, Value};

/// Bytes of tag, type and length before each value.
pub const HEADER_LENGTH: usize = 8;

/// What values are padded to.
const ALIGNMENT: usize = 8;

fn padding(length: usize) -> usize {
    length.wrapping_neg() % ALIGNMENT
}

#[cfg(test)]
mod tests;
