//! Messages: a header and a batch of items (KMIP 1.4 sections 6 and 7).

mod request;
mod response;

pub use request::{RequestError, RequestHeader, RequestItem, RequestMessage};
pub use response::{ResponseHeader, ResponseItem, ResponseMessage};

use crate::fields::{Builder, Fields};
use crate::names::Tag;
use crate::ttlv::{DecodeError, Item};
use crate::version::ProtocolVersion;

pub(crate) fn protocol_version_from_item(item: Item) -> Result<ProtocolVersion, DecodeError> {
    let mut fields = Fields::of(item)?;
    let version = ProtocolVersion {
        major: fields.required(Tag::PROTOCOL_VERSION_MAJOR)?,
        minor: fields.required(Tag::PROTOCOL_VERSION_MINOR)?,
    };
    fields.finish()?;
    Ok(version)
}

pub(crate) fn protocol_version_to_item(version: ProtocolVersion) -> Item {
    Builder::new(Tag::PROTOCOL_VERSION)
        .field(Tag::PROTOCOL_VERSION_MAJOR, &version.major)
        .field(Tag::PROTOCOL_VERSION_MINOR, &version.minor)
        .build()
}

/// The items of a batch, as many as the header says.
fn batch(message: &mut Fields, count: i32) -> Result<Vec<Item>, DecodeError> {
    let items = message.repeated_items(Tag::BATCH_ITEM);
    if usize::try_from(count) != Ok(items.len()) {
        return Err(DecodeError::BadField { tag: Tag::BATCH_COUNT, what: "is not the number of batch items" });
    }
    Ok(items)
}

fn batch_count<T>(items: &[T]) -> Result<i32, crate::ttlv::EncodeError> {
    i32::try_from(items.len()).map_err(|_| crate::ttlv::EncodeError::TooLong { tag: Tag::BATCH_COUNT })
}

#[cfg(test)]
mod tests;
