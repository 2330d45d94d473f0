//! Responses (KMIP 1.4 section 7.2).

use zeroize::Zeroizing;

use super::{batch, batch_count, protocol_version_from_item, protocol_version_to_item};
use crate::fields::{Builder, Date, Fields};
use crate::names::{Operation, ResultReason, ResultStatus, Tag};
use crate::operation::ResponsePayload;
use crate::ttlv::{DecodeError, EncodeError, Item, Limits, decode, encode};
use crate::version::ProtocolVersion;

/// What a server answers.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseMessage {
    /// How it is to be understood.
    pub header: ResponseHeader,
    /// The answers, in the requests' order.
    pub items: Vec<ResponseItem>,
}

/// How an answer is to be understood (KMIP 1.4 section 7.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// The version it is written in.
    pub protocol_version: ProtocolVersion,
    /// The server's time.
    pub time_stamp: i64,
    /// For attestation, as it came (KMIP 1.2).
    pub attestation_types: Vec<u32>,
    /// The client's own (KMIP 1.4).
    pub client_correlation_value: Option<String>,
    /// The server's own (KMIP 1.4).
    pub server_correlation_value: Option<String>,
}

/// One answer (KMIP 1.4 section 7.2).
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseItem {
    /// What was asked, if the server understood so much.
    pub operation: Option<Operation>,
    /// The name the request gave it.
    pub unique_batch_item_id: Option<Vec<u8>>,
    /// How it ended.
    pub result_status: ResultStatus,
    /// Why it failed, if it did.
    pub result_reason: Option<ResultReason>,
    /// The same in words.
    pub result_message: Option<String>,
    /// To ask again by, if the answer comes later.
    pub asynchronous_correlation_value: Option<Vec<u8>>,
    /// What it found or made.
    pub payload: Option<ResponsePayload>,
    /// A vendor's addition, as it came.
    pub message_extension: Option<Item>,
}

impl ResponseItem {
    /// It was done.
    #[must_use]
    pub fn success(unique_batch_item_id: Option<Vec<u8>>, payload: ResponsePayload) -> Self {
        Self {
            operation: Some(payload.operation()),
            unique_batch_item_id,
            result_status: ResultStatus::SUCCESS,
            result_reason: None,
            result_message: None,
            asynchronous_correlation_value: None,
            payload: Some(payload),
            message_extension: None,
        }
    }

    /// It was not done.
    #[must_use]
    pub fn failure(
        operation: Option<Operation>,
        unique_batch_item_id: Option<Vec<u8>>,
        reason: ResultReason,
        message: String,
    ) -> Self {
        Self {
            operation,
            unique_batch_item_id,
            result_status: ResultStatus::OPERATION_FAILED,
            result_reason: Some(reason),
            result_message: Some(message),
            asynchronous_correlation_value: None,
            payload: None,
            message_extension: None,
        }
    }
}

impl ResponseMessage {
    /// An answer that is one failure: what a server says to what it could not understand.
    #[must_use]
    pub fn failure(version: ProtocolVersion, time_stamp: i64, reason: ResultReason, message: String) -> Self {
        Self {
            header: ResponseHeader::new(version, time_stamp),
            items: vec![ResponseItem::failure(None, None, reason, message)],
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let message = decode(bytes, limits)?;
        if message.tag != Tag::RESPONSE_MESSAGE {
            return Err(DecodeError::Missing { tag: Tag::RESPONSE_MESSAGE, within: message.tag });
        }
        let mut message = Fields::of(message)?;
        let (header, count) = ResponseHeader::from_item(message.item(Tag::RESPONSE_HEADER)?)?;
        let version = header.protocol_version;
        let items = batch(&mut message, count)?
            .into_iter()
            .map(|item| ResponseItem::from_item(item, version))
            .collect::<Result<_, _>>()?;
        message.finish()?;
        Ok(Self { header, items })
    }

    /// Writes it. Attributes and values that are newer than its version are left out or put in older words. The buffer is
    /// wiped when dropped.
    ///
    /// # Errors
    /// If it holds something that its version doesn't have and that can't be left out.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, EncodeError> {
        let items =
            self.items.iter().map(|item| item.to_item(self.header.protocol_version)).collect::<Result<Vec<_>, _>>()?;
        let count = batch_count(&items)?;
        encode(&Builder::new(Tag::RESPONSE_MESSAGE).item(self.header.to_item(count)).items(items).build())
    }
}

impl ResponseHeader {
    /// Nothing but version and time.
    #[must_use]
    pub fn new(protocol_version: ProtocolVersion, time_stamp: i64) -> Self {
        Self {
            protocol_version,
            time_stamp,
            attestation_types: vec![],
            client_correlation_value: None,
            server_correlation_value: None,
        }
    }

    fn from_item(item: Item) -> Result<(Self, i32), DecodeError> {
        let mut fields = Fields::of(item)?;
        let protocol_version = protocol_version_from_item(fields.item(Tag::PROTOCOL_VERSION)?)?;
        let time_stamp = fields.required::<Date>(Tag::TIME_STAMP)?.0;
        // Part of an attestation that we can't give.
        let _nonce = fields.optional_item(Tag::NONCE);
        // Proves that the server knows our password; we have shown it a certificate instead (KMIP 2.0).
        let _password = fields.optional_item(Tag::SERVER_HASHED_PASSWORD);
        let header = Self {
            protocol_version,
            time_stamp,
            attestation_types: fields.repeated(Tag::ATTESTATION_TYPE)?,
            client_correlation_value: fields.optional(Tag::CLIENT_CORRELATION_VALUE)?,
            server_correlation_value: fields.optional(Tag::SERVER_CORRELATION_VALUE)?,
        };
        let count = fields.required(Tag::BATCH_COUNT)?;
        fields.finish()?;
        Ok((header, count))
    }

    fn to_item(&self, count: i32) -> Item {
        let correlated = self.protocol_version >= ProtocolVersion::V1_4;
        let attested = self.protocol_version >= ProtocolVersion::V1_2;
        Builder::new(Tag::RESPONSE_HEADER)
            .item(protocol_version_to_item(self.protocol_version))
            .field(Tag::TIME_STAMP, &Date(self.time_stamp))
            .repeated(Tag::ATTESTATION_TYPE, self.attestation_types.iter().filter(|_| attested))
            .optional(Tag::CLIENT_CORRELATION_VALUE, self.client_correlation_value.as_ref().filter(|_| correlated))
            .optional(Tag::SERVER_CORRELATION_VALUE, self.server_correlation_value.as_ref().filter(|_| correlated))
            .field(Tag::BATCH_COUNT, &count)
            .build()
    }
}

impl ResponseItem {
    fn from_item(item: Item, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let operation: Option<Operation> = fields.optional(Tag::OPERATION)?;
        let unique_batch_item_id = fields.optional(Tag::UNIQUE_BATCH_ITEM_ID)?;
        let result_status = fields.required(Tag::RESULT_STATUS)?;
        let result_reason = fields.optional(Tag::RESULT_REASON)?;
        let result_message = fields.optional(Tag::RESULT_MESSAGE)?;
        let asynchronous_correlation_value = fields.optional(Tag::ASYNCHRONOUS_CORRELATION_VALUE)?;
        let payload = match (operation, fields.optional_item(Tag::RESPONSE_PAYLOAD)) {
            (_, None) => None,
            (Some(operation), Some(item)) => Some(ResponsePayload::from_item(operation, item, version)?),
            (None, Some(_)) => return Err(DecodeError::Missing { tag: Tag::OPERATION, within: Tag::BATCH_ITEM }),
        };
        let message_extension = fields.optional_item(Tag::MESSAGE_EXTENSION);
        fields.finish()?;
        Ok(Self {
            operation,
            unique_batch_item_id,
            result_status,
            result_reason,
            result_message,
            asynchronous_correlation_value,
            payload,
            message_extension,
        })
    }

    fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        let reason = self.result_reason.map(|reason| reason.for_version(version));
        let payload = self.payload.as_ref().map(|payload| payload.to_item(version)).transpose()?;
        Ok(Builder::new(Tag::BATCH_ITEM)
            .optional(Tag::OPERATION, self.operation.as_ref())
            .optional(Tag::UNIQUE_BATCH_ITEM_ID, self.unique_batch_item_id.as_ref())
            .field(Tag::RESULT_STATUS, &self.result_status)
            .optional(Tag::RESULT_REASON, reason.as_ref())
            .optional(Tag::RESULT_MESSAGE, self.result_message.as_ref())
            .optional(Tag::ASYNCHRONOUS_CORRELATION_VALUE, self.asynchronous_correlation_value.as_ref())
            .items(payload)
            .items(self.message_extension.as_ref().map(Item::copy))
            .build())
    }
}
