//! A request's items, one after the other (KMIP 1.4 section 4, "ID Placeholder", and section 7).

use kmip::ProtocolVersion;
use kmip::message::{RequestItem, RequestMessage, ResponseHeader, ResponseItem, ResponseMessage};
use kmip::names::{BatchErrorContinuationOption, ResultReason};
use kmip::operation::{RequestPayload, ResponsePayload};
use sqlx::SqliteConnection;
use tracing::{error, info};

use super::operations::{self, Context};
use super::{AuditRow, Caller, OWN_FAULT, now_ms};
use crate::Error;
use crate::core::Refusal;
use crate::master::MasterKey;

/// Whether a request can change nothing.
pub(super) fn only_reads(request: &RequestMessage) -> bool {
    request.items.iter().all(|item| {
        !matches!(
            item.payload,
            RequestPayload::Activate(_)
                | RequestPayload::AddAttribute(_)
                | RequestPayload::Create(_)
                | RequestPayload::DeleteAttribute(_)
                | RequestPayload::Destroy(_)
                | RequestPayload::ModifyAttribute(_)
                | RequestPayload::Register(_)
                | RequestPayload::Rekey(_)
                | RequestPayload::Revoke(_)
                | RequestPayload::SetAttribute(_)
        )
    })
}

/// Answers a request, and tells what to record of it.
pub(super) async fn run(
    master: &MasterKey,
    caller: &Caller,
    connection: &mut SqliteConnection,
    request: RequestMessage,
) -> (ResponseMessage, Vec<AuditRow>) {
    let now_ms = now_ms();
    let version = request.header.protocol_version;
    let continuation = request.header.batch_error_continuation_option.unwrap_or(BatchErrorContinuationOption::STOP);
    let mut header = ResponseHeader::new(version, now_ms / 1000);
    header.client_correlation_value = request.header.client_correlation_value;

    let mut context = Context { master, caller, version, now: now_ms / 1000, placeholder: None };
    let mut items = Vec::with_capacity(request.items.len());
    let mut rows = Vec::with_capacity(request.items.len());
    for item in request.items {
        let operation = item.payload.operation();
        let named = named(&item.payload);
        let id = item.unique_batch_item_id.clone();

        let answer = match forbidden(&item, continuation, version) {
            Some(refusal) => Err(refusal),
            None => operations::perform(&mut context, connection, item.payload).await.map_err(refusal),
        };
        let object = answer.as_ref().ok().and_then(made).or(named).or_else(|| context.placeholder.clone());
        let result = match &answer {
            Ok(_) => "Success".to_owned(),
            Err(refusal) => refusal.reason.for_version(version).to_string(),
        };
        let peer = caller.label.clone();
        info!(operation = %operation, peer, object, result, "operation");
        rows.push(AuditRow { at_ms: now_ms, peer, operation: operation.to_string(), object, result });

        let failed = answer.is_err();
        items.push(match answer {
            Ok(payload) => ResponseItem::success(id, payload),
            Err(refusal) => ResponseItem::failure(Some(operation), id, refusal.reason, refusal.message),
        });
        if failed && continuation != BatchErrorContinuationOption::CONTINUE {
            break;
        }
    }
    (ResponseMessage { header, items }, rows)
}

/// Why an item is refused before its payload is looked at.
fn forbidden(
    item: &RequestItem,
    continuation: BatchErrorContinuationOption,
    version: ProtocolVersion,
) -> Option<Refusal> {
    let operation = item.payload.operation();
    if continuation == BatchErrorContinuationOption::UNDO {
        return Some(Refusal::new(ResultReason::FEATURE_NOT_SUPPORTED, "a batch cannot be undone here"));
    }
    if item.ephemeral == Some(true) {
        return Some(Refusal::new(ResultReason::FEATURE_NOT_SUPPORTED, "every object is kept here: none is ephemeral"));
    }
    if item.has_critical_extension() {
        return Some(Refusal::new(ResultReason::FEATURE_NOT_SUPPORTED, "the message extension is not known here"));
    }
    if matches!(item.payload, RequestPayload::Other(..)) || operation.since().is_none_or(|since| since > version) {
        let message = format!("{operation} is not done here in KMIP {version}");
        return Some(Refusal::new(ResultReason::OPERATION_NOT_SUPPORTED, message));
    }
    None
}

/// What the client is told. Of the server's own faults it learns only that they are the server's, but for a key that was
/// tampered with: which one that is, it has to know.
fn refusal(failure: operations::Failure) -> Refusal {
    match failure {
        operations::Failure::Refused(refusal) => refusal,
        operations::Failure::Broken(error) => {
            error!(%error, "an operation failed");
            match error {
                Error::KeyTampered { .. } => Refusal::new(ResultReason::CRYPTOGRAPHIC_FAILURE, error.to_string()),
                _ => Refusal::new(ResultReason::GENERAL_FAILURE, OWN_FAULT),
            }
        }
    }
}

/// The object a request names.
fn named(payload: &RequestPayload) -> Option<String> {
    match payload {
        RequestPayload::Activate(request) => request.unique_identifier.clone(),
        RequestPayload::AddAttribute(request) => request.unique_identifier.clone(),
        RequestPayload::Check(request) => request.unique_identifier.clone(),
        RequestPayload::Decrypt(request) => request.unique_identifier.clone(),
        RequestPayload::DeleteAttribute(request) => request.unique_identifier.clone(),
        RequestPayload::Encrypt(request) => request.unique_identifier.clone(),
        RequestPayload::ModifyAttribute(request) => request.unique_identifier.clone(),
        RequestPayload::Rekey(request) => request.unique_identifier.clone(),
        RequestPayload::SetAttribute(request) => request.unique_identifier.clone(),
        RequestPayload::Destroy(request) => request.unique_identifier.clone(),
        RequestPayload::Get(request) => request.unique_identifier.clone(),
        RequestPayload::GetAttributeList(request) => request.unique_identifier.clone(),
        RequestPayload::GetAttributes(request) => request.unique_identifier.clone(),
        RequestPayload::Revoke(request) => request.unique_identifier.clone(),
        _ => None,
    }
}

/// The object an answer made.
fn made(payload: &ResponsePayload) -> Option<String> {
    match payload {
        ResponsePayload::Create(response) => Some(response.unique_identifier.clone()),
        ResponsePayload::Register(response) => Some(response.unique_identifier.clone()),
        ResponsePayload::Rekey(response) => Some(response.unique_identifier.clone()),
        _ => None,
    }
}
