//! Items to bytes.

use zeroize::Zeroizing;

use super::{EncodeError, Item, Value, padding};

/// Writes an item. The buffer is made large enough at once, so that growing leaves no copy behind, and is wiped when
/// dropped, since the item may hold key material.
///
/// # Errors
/// If a value is longer than a length field can say.
pub fn encode(item: &Item) -> Result<Zeroizing<Vec<u8>>, EncodeError> {
    let mut out = Zeroizing::new(Vec::with_capacity(item.encoded_length()));
    write(item, &mut out)?;
    Ok(out)
}

fn write(item: &Item, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let length = item.value.length();
    let Ok(length_field) = u32::try_from(length) else {
        return Err(EncodeError::TooLong { tag: item.tag });
    };
    let [_, tag @ ..] = item.tag.0.to_be_bytes();
    out.extend_from_slice(&tag);
    out.push(item.value.item_type() as u8);
    out.extend_from_slice(&length_field.to_be_bytes());

    match &item.value {
        Value::Structure(items) => items.iter().try_for_each(|item| write(item, out))?,
        Value::Integer(value) => out.extend_from_slice(&value.to_be_bytes()),
        Value::Enumeration(value) | Value::Interval(value) => out.extend_from_slice(&value.to_be_bytes()),
        Value::LongInteger(value) | Value::DateTime(value) | Value::DateTimeExtended(value) => {
            out.extend_from_slice(&value.to_be_bytes());
        }
        Value::Boolean(value) => out.extend_from_slice(&u64::from(*value).to_be_bytes()),
        Value::TextString(value) => out.extend_from_slice(value.as_bytes()),
        Value::BigInteger(value) | Value::ByteString(value) => out.extend_from_slice(value.expose()),
    }
    out.extend_from_slice(&[0; super::ALIGNMENT][..padding(length)]);
    Ok(())
}
