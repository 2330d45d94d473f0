//! Attributes of managed objects, whatever the protocol version.
//!
//! The model here knows no version: [`AttributeValue`] says what an attribute *is*. How one is written is the codec's
//! affair: in KMIP 1.x an `Attribute` structure with the name as text and an index; in 2.x an item with a tag of its own
//! inside `Attributes`, and `Vendor Attribute` for a custom one.

pub(crate) mod codec_v1;
mod codec_v2;
mod list;
mod name;
mod value;

pub(crate) use list::{AttributeList, Newer};
pub use name::AttributeName;
pub use value::{Attribute, AttributeValue, CustomValue, Digest, Name, RevocationReason, UsageMask};
