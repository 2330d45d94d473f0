//! Activate, Revoke, Destroy.

use super::identifier_only;
use crate::attribute::RevocationReason;
use crate::attribute::codec_v1::{revocation_reason_from_item, revocation_reason_to_item};
use crate::fields::{Builder, Date, Fields};
use crate::names::Tag;
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

identifier_only! {
    /// Put an object to use (KMIP 1.4 section 4.19).
    request ActivateRequest;
}

identifier_only! {
    /// The object is in use (KMIP 1.4 section 4.19).
    response ActivateResponse;
}

identifier_only! {
    /// Destroy an object's key material (KMIP 1.4 section 4.21).
    request DestroyRequest;
}

identifier_only! {
    /// The key material is gone (KMIP 1.4 section 4.21).
    response DestroyResponse;
}

identifier_only! {
    /// The object is revoked (KMIP 1.4 section 4.20).
    response RevokeResponse;
}

/// Revoke an object (KMIP 1.4 section 4.20).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeRequest {
    /// Which object; the one the ID placeholder holds if not set.
    pub unique_identifier: Option<String>,
    /// Why.
    pub revocation_reason: RevocationReason,
    /// Since when the object is thought to be compromised, if that is why.
    pub compromise_occurrence_date: Option<i64>,
}

impl RevokeRequest {
    pub(super) fn to_item(&self, _: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::REQUEST_PAYLOAD)
            .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
            .item(revocation_reason_to_item(Tag::REVOCATION_REASON, &self.revocation_reason))
            .optional(Tag::COMPROMISE_OCCURRENCE_DATE, self.compromise_occurrence_date.map(Date).as_ref())
            .build())
    }

    pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request = Self {
            unique_identifier: fields.identifier()?,
            revocation_reason: revocation_reason_from_item(fields.item(Tag::REVOCATION_REASON)?)?,
            compromise_occurrence_date: fields.optional::<Date>(Tag::COMPROMISE_OCCURRENCE_DATE)?.map(|date| date.0),
        };
        fields.finish()?;
        Ok(request)
    }
}
