//! Each operation: look up, decide by the core's rules, write down.

use kmip::ProtocolVersion;
use kmip::names::{ObjectType, Operation, QueryFunction, Tag};
use kmip::operation::*;
use kmip::ttlv::{Item, Value};
use sqlx::SqliteConnection;

use super::caller::Caller;
use super::keys;
use crate::Error;
use crate::core::{Object, Refusal, Search, check_addition, check_deletion, check_modification, check_setting, wanted};
use crate::master::MasterKey;
use crate::store;

/// What an operation has to go by.
pub(super) struct Context<'a> {
    pub(super) master: &'a MasterKey,
    pub(super) caller: &'a Caller,
    pub(super) version: ProtocolVersion,
    /// Seconds since 1970.
    pub(super) now: i64,
    /// The object that the batch made or found last.
    pub(super) placeholder: Option<String>,
}

/// Why an operation was not done.
pub(super) enum Failure {
    /// By the rules.
    Refused(Refusal),
    /// By a fault of the server's.
    Broken(Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

/// What is done here, as Query tells it.
const OPERATIONS: [Operation; 19] = [
    Operation::CREATE,
    Operation::REGISTER,
    Operation::LOCATE,
    Operation::GET,
    Operation::GET_ATTRIBUTES,
    Operation::GET_ATTRIBUTE_LIST,
    Operation::ADD_ATTRIBUTE,
    Operation::MODIFY_ATTRIBUTE,
    Operation::SET_ATTRIBUTE,
    Operation::DELETE_ATTRIBUTE,
    Operation::CHECK,
    Operation::REKEY,
    Operation::ENCRYPT,
    Operation::DECRYPT,
    Operation::ACTIVATE,
    Operation::REVOKE,
    Operation::DESTROY,
    Operation::QUERY,
    Operation::DISCOVER_VERSIONS,
];

pub(super) async fn perform(
    context: &mut Context<'_>,
    connection: &mut SqliteConnection,
    payload: RequestPayload,
) -> Result<ResponsePayload, Failure> {
    Ok(match payload {
        RequestPayload::Activate(request) => {
            let (mut object, _) = context.object(connection, request.unique_identifier).await?;
            object.lifecycle.activate(context.now)?;
            store::update_lifecycle(connection, &object.id, &object.lifecycle).await?;
            ResponsePayload::Activate(ActivateResponse { unique_identifier: object.id })
        }
        RequestPayload::AddAttribute(request) => {
            let (object, _) = context.object(connection, request.unique_identifier).await?;
            let change = check_addition(&object, request.attribute, context.version, context.now)?;
            keys::change(context, connection, &object, &change).await?;
            let attribute = Some(change.attribute().clone());
            ResponsePayload::AddAttribute(AddAttributeResponse { unique_identifier: object.id, attribute })
        }
        RequestPayload::Check(request) => ResponsePayload::Check(check(context, connection, request).await?),
        RequestPayload::Create(request) => {
            let object_type = request.object_type;
            let unique_identifier = keys::create(context, connection, request).await?;
            context.placeholder = Some(unique_identifier.clone());
            ResponsePayload::Create(CreateResponse { object_type, unique_identifier, attributes: vec![] })
        }
        RequestPayload::Decrypt(request) => {
            ResponsePayload::Decrypt(keys::decrypt(context, connection, request).await?)
        }
        RequestPayload::DeleteAttribute(request) => {
            let (object, _) = context.object(connection, request.unique_identifier).await?;
            let current = request.current.as_ref();
            let gone = check_deletion(&object, &request.name, request.index, current, context.version)?;
            keys::delete_attributes(context, connection, &object, &gone).await?;
            let attribute = gone.first().map(|attribute| (*attribute).clone());
            ResponsePayload::DeleteAttribute(DeleteAttributeResponse { unique_identifier: object.id, attribute })
        }
        RequestPayload::Destroy(request) => {
            let (mut object, _) = context.object(connection, request.unique_identifier).await?;
            object.lifecycle.destroy(context.now)?;
            keys::destroy(connection, &object).await?;
            ResponsePayload::Destroy(DestroyResponse { unique_identifier: object.id })
        }
        RequestPayload::DiscoverVersions(request) => {
            let asked = |version: &ProtocolVersion| request.versions.is_empty() || request.versions.contains(version);
            let versions = ProtocolVersion::SUPPORTED.iter().copied().filter(asked).collect();
            ResponsePayload::DiscoverVersions(DiscoverVersionsResponse { versions })
        }
        RequestPayload::Encrypt(request) => {
            ResponsePayload::Encrypt(keys::encrypt(context, connection, request).await?)
        }
        RequestPayload::Get(request) => ResponsePayload::Get(keys::get(context, connection, request).await?),
        RequestPayload::GetAttributeList(request) => {
            let (object, _) = context.object(connection, request.unique_identifier).await?;
            let names = object.attribute_names();
            ResponsePayload::GetAttributeList(GetAttributeListResponse { unique_identifier: object.id, names })
        }
        RequestPayload::GetAttributes(request) => {
            let (object, _) = context.object(connection, request.unique_identifier).await?;
            let attributes = wanted(&object, &request.names);
            ResponsePayload::GetAttributes(GetAttributesResponse { unique_identifier: object.id, attributes })
        }
        RequestPayload::Locate(request) => {
            let search = Search::new(request)?;
            let mut objects = store::of_owner(connection, &context.caller.owner, search.name()).await?;
            for object in &mut objects {
                object.lifecycle.pass_time(context.now);
            }
            let (unique_identifiers, total) = search.run(&objects);
            context.placeholder = match unique_identifiers.as_slice() {
                [only] => Some(only.clone()),
                _ => None,
            };
            ResponsePayload::Locate(LocateResponse { located_items: i32::try_from(total).ok(), unique_identifiers })
        }
        RequestPayload::ModifyAttribute(request) => {
            let (object, _) = context.object(connection, request.unique_identifier).await?;
            let (current, version) = (request.current.as_ref(), context.version);
            let change = check_modification(&object, current, request.attribute, version, context.now)?;
            keys::change(context, connection, &object, &change).await?;
            let attribute = Some(change.attribute().clone());
            ResponsePayload::ModifyAttribute(ModifyAttributeResponse { unique_identifier: object.id, attribute })
        }
        RequestPayload::Query(request) => ResponsePayload::Query(query(&request, context.version)),
        RequestPayload::Register(request) => {
            let unique_identifier = keys::register(context, connection, request).await?;
            context.placeholder = Some(unique_identifier.clone());
            ResponsePayload::Register(RegisterResponse { unique_identifier, attributes: vec![] })
        }
        RequestPayload::Rekey(request) => {
            let unique_identifier = keys::rekey(context, connection, request).await?;
            context.placeholder = Some(unique_identifier.clone());
            ResponsePayload::Rekey(RekeyResponse { unique_identifier, attributes: vec![] })
        }
        RequestPayload::Revoke(request) => {
            let (mut object, _) = context.object(connection, request.unique_identifier).await?;
            let occurred = request.compromise_occurrence_date;
            object.lifecycle.revoke(context.now, request.revocation_reason, occurred)?;
            store::update_lifecycle(connection, &object.id, &object.lifecycle).await?;
            ResponsePayload::Revoke(RevokeResponse { unique_identifier: object.id })
        }
        RequestPayload::SetAttribute(request) => {
            let (object, _) = context.object(connection, request.unique_identifier).await?;
            let change = check_setting(&object, request.attribute, context.version, context.now)?;
            keys::change(context, connection, &object, &change).await?;
            ResponsePayload::SetAttribute(SetAttributeResponse { unique_identifier: object.id })
        }
        RequestPayload::Malformed(_, error) => {
            return Err(Refusal::new(kmip::names::ResultReason::INVALID_MESSAGE, error.to_string()).into());
        }
        other => {
            let message = format!("{} is not done here", other.operation());
            return Err(Refusal::new(kmip::names::ResultReason::OPERATION_NOT_SUPPORTED, message).into());
        }
    })
}

impl Context<'_> {
    /// The object that is named, or that the ID placeholder holds, as it stands now.
    pub(super) async fn object(
        &self,
        connection: &mut SqliteConnection,
        id: Option<String>,
    ) -> Result<(Object, Option<Vec<u8>>), Failure> {
        let Some(id) = id.or_else(|| self.placeholder.clone()) else {
            return Err(Refusal::new(
                kmip::names::ResultReason::ITEM_NOT_FOUND,
                "no object is named, and the batch has made or found none before",
            )
            .into());
        };
        let found = store::by_id(connection, &self.caller.owner, &id).await?;
        let (mut object, sealed) = found.ok_or_else(|| Refusal::not_found(&id))?;
        object.lifecycle.pass_time(self.now);
        Ok((object, sealed))
    }
}

/// Whether the key may be used as asked. An older client is told what it may not be used for; one of KMIP 2 is refused.
async fn check(
    context: &mut Context<'_>,
    connection: &mut SqliteConnection,
    request: CheckRequest,
) -> Result<CheckResponse, Failure> {
    if request.usage_limits_count.is_some() || request.lease_time.is_some() {
        let message = "keys have neither usage limits nor leases here";
        return Err(Refusal::new(kmip::names::ResultReason::FEATURE_NOT_SUPPORTED, message).into());
    }
    let (object, _) = context.object(connection, request.unique_identifier).await?;
    match request.cryptographic_usage_mask {
        Some(mask) if !object.shape.usage.contains(mask) => {
            context.placeholder = None;
            if context.version >= ProtocolVersion::V2_0 {
                let reason = kmip::names::ResultReason::INCOMPATIBLE_CRYPTOGRAPHIC_USAGE_MASK;
                return Err(Refusal::new(reason, "the key's usage mask does not allow this").into());
            }
            Ok(CheckResponse { cryptographic_usage_mask: Some(mask), ..CheckResponse::default() })
        }
        _ => Ok(CheckResponse { unique_identifier: Some(object.id), ..CheckResponse::default() }),
    }
}

fn query(request: &QueryRequest, version: ProtocolVersion) -> QueryResponse {
    let asked = |function| request.functions.contains(&function);
    let mut more = Vec::new();
    if asked(QueryFunction::QUERY_PROFILES) {
        more.extend(profile(version));
    }
    if asked(QueryFunction::QUERY_CAPABILITIES) {
        more.push(capabilities());
    }
    QueryResponse {
        operations: if asked(QueryFunction::QUERY_OPERATIONS) { OPERATIONS.to_vec() } else { vec![] },
        object_types: if asked(QueryFunction::QUERY_OBJECTS) { vec![ObjectType::SYMMETRIC_KEY] } else { vec![] },
        vendor_identification: asked(QueryFunction::QUERY_SERVER_INFORMATION)
            .then(|| format!("Ward key server {}", env!("CARGO_PKG_VERSION"))),
        more,
        ..QueryResponse::default()
    }
}

/// The profile whose test cases this server passes: Symmetric Key Lifecycle Server, which has a number for each version
/// until KMIP 2.0 (KMIP 1.4 section 9.1.3.2.42, KMIP 2.1 section 11.43).
fn profile(version: ProtocolVersion) -> Option<Item> {
    let number = match version {
        ProtocolVersion::V1_3 => 0x5E,
        ProtocolVersion::V1_4 => 0x82,
        version if version >= ProtocolVersion::V2_0 => 0x109,
        _ => return None,
    };
    Some(Item::structure(Tag::PROFILE_INFORMATION, vec![Item::new(Tag::PROFILE_NAME, Value::Enumeration(number))]))
}

/// KMIP 1.4 section 4.25.
fn capabilities() -> Item {
    let capability = |tag, has| Item::new(tag, Value::Boolean(has));
    let items = vec![
        capability(Tag::STREAMING_CAPABILITY, false),
        capability(Tag::ASYNCHRONOUS_CAPABILITY, false),
        capability(Tag::ATTESTATION_CAPABILITY, false),
        capability(Tag::BATCH_UNDO_CAPABILITY, false),
        capability(Tag::BATCH_CONTINUE_CAPABILITY, true),
    ];
    Item::structure(Tag::CAPABILITY_INFORMATION, items)
}
