//! Requests (KMIP 1.4 section 7.2).

use zeroize::Zeroizing;

use super::{batch, batch_count, protocol_version_from_item, protocol_version_to_item};
use crate::fields::{Builder, Date, FieldValue, Fields};
use crate::names::{AsynchronousIndicator, BatchErrorContinuationOption, Tag};
use crate::operation::RequestPayload;
use crate::ttlv::{DecodeError, EncodeError, Item, Limits, decode, encode};
use crate::version::ProtocolVersion;

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestMessage {
    /// How it is to be understood.
    pub header: RequestHeader,
    /// What is asked, one thing after the other.
    pub items: Vec<RequestItem>,
}

/// How a request is to be understood (KMIP 1.4 section 7.2).
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The version it is written in.
    pub protocol_version: ProtocolVersion,
    /// How many bytes the answer may have.
    pub maximum_response_size: Option<i32>,
    /// To be repeated in logs (KMIP 1.4).
    pub client_correlation_value: Option<String>,
    /// To be repeated in logs (KMIP 1.4).
    pub server_correlation_value: Option<String>,
    /// Whether the answer may come later.
    pub asynchronous_indicator: Option<AsynchronousIndicator>,
    /// Whether the client can prove its state (KMIP 1.2).
    pub attestation_capable_indicator: Option<bool>,
    /// How it could (KMIP 1.2).
    pub attestation_types: Vec<u32>,
    /// Credentials, as they came.
    pub authentication: Option<Item>,
    /// What to do with the rest of the batch after a failure.
    pub batch_error_continuation_option: Option<BatchErrorContinuationOption>,
    /// Whether the batch is to be worked through in order.
    pub batch_order_option: Option<bool>,
    /// The client's time.
    pub time_stamp: Option<i64>,
}

impl RequestHeader {
    /// Nothing but the version.
    #[must_use]
    pub fn new(protocol_version: ProtocolVersion) -> Self {
        Self {
            protocol_version,
            maximum_response_size: None,
            client_correlation_value: None,
            server_correlation_value: None,
            asynchronous_indicator: None,
            attestation_capable_indicator: None,
            attestation_types: vec![],
            authentication: None,
            batch_error_continuation_option: None,
            batch_order_option: None,
            time_stamp: None,
        }
    }
}

/// One thing asked (KMIP 1.4 section 7.2).
#[derive(Debug, PartialEq, Eq)]
pub struct RequestItem {
    /// Whether what it makes is to be known to the rest of the batch only (KMIP 2.0).
    pub ephemeral: Option<bool>,
    /// By which the answer names it; needed where a batch has several.
    pub unique_batch_item_id: Option<Vec<u8>>,
    /// What is asked.
    pub payload: RequestPayload,
    /// A vendor's addition, as it came.
    pub message_extension: Option<Item>,
}

impl RequestItem {
    /// Nothing but the payload.
    #[must_use]
    pub fn new(payload: RequestPayload) -> Self {
        Self { ephemeral: None, unique_batch_item_id: None, payload, message_extension: None }
    }

    /// Whether it has an extension that must not be passed over (KMIP 1.4 section 6.16).
    #[must_use]
    pub fn has_critical_extension(&self) -> bool {
        self.message_extension.as_ref().is_some_and(|extension| match &extension.value {
            crate::ttlv::Value::Structure(items) => items
                .iter()
                .any(|item| item.tag == Tag::CRITICALITY_INDICATOR && item.value == crate::ttlv::Value::Boolean(true)),
            _ => true,
        })
    }
}

/// Why bytes are no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// They are not even a message; the version it claims to be written in, where it got so far.
    #[error("{source}")]
    Malformed {
        /// The version, if it is one that is spoken here.
        version: Option<ProtocolVersion>,
        /// What is wrong.
        source: DecodeError,
    },
    /// They may be one in a version not spoken here.
    #[error("KMIP {0} is not spoken here")]
    UnsupportedVersion(ProtocolVersion),
}

impl RequestMessage {
    /// A request for one thing.
    #[must_use]
    pub fn single(version: ProtocolVersion, payload: RequestPayload) -> Self {
        Self { header: RequestHeader::new(version), items: vec![RequestItem::new(payload)] }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// If the bytes are none. A payload that can't be understood is no error here but
    /// [`RequestPayload::Malformed`], so that the other items of its batch can be answered.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, RequestError> {
        let malformed = |version, source| RequestError::Malformed { version, source };

        let message = decode(bytes, limits).map_err(|error| malformed(None, error))?;
        if message.tag != Tag::REQUEST_MESSAGE {
            let source = DecodeError::Missing { tag: Tag::REQUEST_MESSAGE, within: message.tag };
            return Err(malformed(None, source));
        }
        let mut message = Fields::of(message).map_err(|error| malformed(None, error))?;
        let mut header =
            message.item(Tag::REQUEST_HEADER).and_then(Fields::of).map_err(|error| malformed(None, error))?;
        let version = header
            .item(Tag::PROTOCOL_VERSION)
            .and_then(protocol_version_from_item)
            .map_err(|error| malformed(None, error))?;
        // The rest can't be judged by the rules of a version that we don't know.
        if !version.is_supported() {
            return Err(RequestError::UnsupportedVersion(version));
        }
        Self::after_version(version, header, message).map_err(|error| malformed(Some(version), error))
    }

    fn after_version(version: ProtocolVersion, header: Fields, mut message: Fields) -> Result<Self, DecodeError> {
        let (header, count) = RequestHeader::after_version(version, header)?;
        let items = batch(&mut message, count)?
            .into_iter()
            .map(|item| RequestItem::from_item(item, version))
            .collect::<Result<_, _>>()?;
        message.finish()?;
        Ok(Self { header, items })
    }

    /// Writes it. The buffer is wiped when dropped.
    ///
    /// # Errors
    /// If it holds something that its version doesn't have.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, EncodeError> {
        let items =
            self.items.iter().map(|item| item.to_item(self.header.protocol_version)).collect::<Result<Vec<_>, _>>()?;
        let count = batch_count(&items)?;
        encode(&Builder::new(Tag::REQUEST_MESSAGE).item(self.header.to_item(count)).items(items).build())
    }
}

impl RequestHeader {
    fn after_version(protocol_version: ProtocolVersion, mut fields: Fields) -> Result<(Self, i32), DecodeError> {
        let header = Self {
            protocol_version,
            maximum_response_size: fields.optional(Tag::MAXIMUM_RESPONSE_SIZE)?,
            client_correlation_value: fields.optional(Tag::CLIENT_CORRELATION_VALUE)?,
            server_correlation_value: fields.optional(Tag::SERVER_CORRELATION_VALUE)?,
            asynchronous_indicator: asynchronous_indicator(&mut fields, protocol_version)?,
            attestation_capable_indicator: fields.optional(Tag::ATTESTATION_CAPABLE_INDICATOR)?,
            attestation_types: fields.repeated(Tag::ATTESTATION_TYPE)?,
            authentication: fields.optional_item(Tag::AUTHENTICATION),
            batch_error_continuation_option: fields.optional(Tag::BATCH_ERROR_CONTINUATION_OPTION)?,
            batch_order_option: fields.optional(Tag::BATCH_ORDER_OPTION)?,
            time_stamp: fields.optional::<Date>(Tag::TIME_STAMP)?.map(|date| date.0),
        };
        let count = fields.required(Tag::BATCH_COUNT)?;
        fields.finish()?;
        Ok((header, count))
    }

    fn to_item(&self, count: i32) -> Item {
        Builder::new(Tag::REQUEST_HEADER)
            .item(protocol_version_to_item(self.protocol_version))
            .optional(Tag::MAXIMUM_RESPONSE_SIZE, self.maximum_response_size.as_ref())
            .optional(Tag::CLIENT_CORRELATION_VALUE, self.client_correlation_value.as_ref())
            .optional(Tag::SERVER_CORRELATION_VALUE, self.server_correlation_value.as_ref())
            .items(self.asynchronous_indicator.map(|indicator| {
                let value = if self.protocol_version.is_2() {
                    indicator.to_value()
                } else {
                    (indicator != AsynchronousIndicator::PROHIBITED).to_value()
                };
                Item::new(Tag::ASYNCHRONOUS_INDICATOR, value)
            }))
            .optional(Tag::ATTESTATION_CAPABLE_INDICATOR, self.attestation_capable_indicator.as_ref())
            .repeated(Tag::ATTESTATION_TYPE, &self.attestation_types)
            .items(self.authentication.as_ref().map(Item::copy))
            .optional(Tag::BATCH_ERROR_CONTINUATION_OPTION, self.batch_error_continuation_option.as_ref())
            .optional(Tag::BATCH_ORDER_OPTION, self.batch_order_option.as_ref())
            .optional(Tag::TIME_STAMP, self.time_stamp.map(Date).as_ref())
            .field(Tag::BATCH_COUNT, &count)
            .build()
    }
}

/// A truth value until KMIP 2.0.
fn asynchronous_indicator(
    fields: &mut Fields,
    version: ProtocolVersion,
) -> Result<Option<AsynchronousIndicator>, DecodeError> {
    if version.is_2() {
        return fields.optional(Tag::ASYNCHRONOUS_INDICATOR);
    }
    let indicator: Option<bool> = fields.optional(Tag::ASYNCHRONOUS_INDICATOR)?;
    Ok(indicator.map(|later| match later {
        true => AsynchronousIndicator::OPTIONAL,
        false => AsynchronousIndicator::PROHIBITED,
    }))
}

impl RequestItem {
    fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let operation = fields.required(Tag::OPERATION)?;
        let ephemeral = if version.is_2() { fields.optional(Tag::EPHEMERAL)? } else { None };
        let unique_batch_item_id = fields.optional(Tag::UNIQUE_BATCH_ITEM_ID)?;
        let payload = RequestPayload::from_item(operation, fields.item(Tag::REQUEST_PAYLOAD)?, version);
        let message_extension = fields.optional_item(Tag::MESSAGE_EXTENSION);
        fields.finish()?;
        Ok(Self { ephemeral, unique_batch_item_id, payload, message_extension })
    }

    fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        Ok(Builder::new(Tag::BATCH_ITEM)
            .field(Tag::OPERATION, &self.payload.operation())
            .optional(Tag::EPHEMERAL, self.ephemeral.as_ref().filter(|_| version.is_2()))
            .optional(Tag::UNIQUE_BATCH_ITEM_ID, self.unique_batch_item_id.as_ref())
            .item(self.payload.to_item(version)?)
            .items(self.message_extension.as_ref().map(Item::copy))
            .build())
    }
}
