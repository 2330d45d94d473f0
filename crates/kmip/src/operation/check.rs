//! Check.

use crate::attribute::UsageMask;
use crate::fields::{Builder, Fields, Seconds};
use crate::names::Tag;
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

/// Ask whether an object may be used in a way, without getting it (KMIP 1.4 section 4.10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckRequest {
    /// Which object; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// For so many units of its usage limits.
    pub usage_limits_count: Option<i64>,
    /// For these uses.
    pub cryptographic_usage_mask: Option<UsageMask>,
    /// For so many seconds.
    pub lease_time: Option<u32>,
}

/// Which object it is, if it may be used so; else what of the request it may not be used for (KMIP 1.4 section 4.10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckResponse {
    /// Which object, if it may be used as asked.
    pub unique_identifier: Option<String>,
    /// Not for so many units.
    pub usage_limits_count: Option<i64>,
    /// Not for these uses.
    pub cryptographic_usage_mask: Option<UsageMask>,
    /// Not for so many seconds.
    pub lease_time: Option<u32>,
}

macro_rules! limits {
    ($type:ident, $tag:ident) => {
        impl $type {
            pub(super) fn to_item(&self, _: ProtocolVersion) -> Result<Item, EncodeError> {
                Ok(Builder::new(Tag::$tag)
                    .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
                    .optional(Tag::USAGE_LIMITS_COUNT, self.usage_limits_count.as_ref())
                    .optional(Tag::CRYPTOGRAPHIC_USAGE_MASK, self.cryptographic_usage_mask.map(|mask| mask.0).as_ref())
                    .optional(Tag::LEASE_TIME, self.lease_time.map(Seconds).as_ref())
                    .build())
            }

            pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
                let mut fields = Fields::of(item)?;
                let payload = Self {
                    unique_identifier: fields.identifier()?,
                    usage_limits_count: fields.optional(Tag::USAGE_LIMITS_COUNT)?,
                    cryptographic_usage_mask: fields.optional(Tag::CRYPTOGRAPHIC_USAGE_MASK)?.map(UsageMask),
                    lease_time: fields.optional::<Seconds>(Tag::LEASE_TIME)?.map(|seconds| seconds.0),
                };
                fields.finish()?;
                Ok(payload)
            }
        }
    };
}

limits!(CheckRequest, REQUEST_PAYLOAD);
limits!(CheckResponse, RESPONSE_PAYLOAD);
