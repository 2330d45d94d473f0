//! Locate.

use super::since;
use crate::attribute::{Attribute, AttributeList, Newer};
use crate::fields::{Builder, Fields};
use crate::names::{ObjectGroupMember, Tag};
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

/// Look for objects (KMIP 1.4 section 4.9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocateRequest {
    /// At most so many.
    pub maximum_items: Option<i32>,
    /// Leaving out so many first (KMIP 1.3).
    pub offset_items: Option<i32>,
    /// On-line objects (bit 0), archived ones (bit 1); on-line ones if not set.
    pub storage_status_mask: Option<i32>,
    /// Which member of a group (KMIP 1.1).
    pub object_group_member: Option<ObjectGroupMember>,
    /// What every object found must have.
    pub attributes: Vec<Attribute>,
}

impl LocateRequest {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        since(self.offset_items.as_ref(), "the field Offset Items", ProtocolVersion::V1_3, version)?;
        since(self.object_group_member.as_ref(), "the field Object Group Member", ProtocolVersion::V1_1, version)?;
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::MAXIMUM_ITEMS, self.maximum_items.as_ref())
            .optional(Tag::OFFSET_ITEMS, self.offset_items.as_ref())
            .optional(Tag::STORAGE_STATUS_MASK, self.storage_status_mask.as_ref())
            .optional(Tag::OBJECT_GROUP_MEMBER, self.object_group_member.as_ref())
            .items(AttributeList::to_items(&self.attributes, version, Newer::Refuse)?)
            .build())
    }

    pub(super) fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request = Self {
            maximum_items: fields.optional(Tag::MAXIMUM_ITEMS)?,
            offset_items: fields.optional(Tag::OFFSET_ITEMS)?,
            storage_status_mask: fields.optional(Tag::STORAGE_STATUS_MASK)?,
            object_group_member: fields.optional(Tag::OBJECT_GROUP_MEMBER)?,
            attributes: AttributeList::take(&mut fields, version)?,
        };
        fields.finish()?;
        Ok(request)
    }
}

/// What was found (KMIP 1.4 section 4.9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocateResponse {
    /// How many objects match, whatever the maximum (KMIP 1.3).
    pub located_items: Option<i32>,
    /// Their identifiers.
    pub unique_identifiers: Vec<String>,
}

impl LocateResponse {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        let located_items = self.located_items.as_ref().filter(|_| version >= ProtocolVersion::V1_3);
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .optional(Tag::LOCATED_ITEMS, located_items)
            .repeated(Tag::UNIQUE_IDENTIFIER, &self.unique_identifiers)
            .build())
    }

    pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let response = Self {
            located_items: fields.optional(Tag::LOCATED_ITEMS)?,
            unique_identifiers: fields.repeated(Tag::UNIQUE_IDENTIFIER)?,
        };
        fields.finish()?;
        Ok(response)
    }
}
