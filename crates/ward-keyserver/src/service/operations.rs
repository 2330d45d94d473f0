//! Each operation: look up, decide by the core's rules, write down.

use kmip::ProtocolVersion;
use kmip::names::{ObjectType, Operation, QueryFunction};
use kmip::operation::*;
use sqlx::SqliteConnection;

use super::caller::Caller;
use super::keys;
use crate::Error;
use crate::core::{Object, Refusal, Search, check_addition, wanted};
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
const OPERATIONS: [Operation; 12] = [
    Operation::CREATE,
    Operation::REGISTER,
    Operation::LOCATE,
    Operation::GET,
    Operation::GET_ATTRIBUTES,
    Operation::GET_ATTRIBUTE_LIST,
    Operation::ADD_ATTRIBUTE,
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
            let attribute = check_addition(&object, request.attribute, context.version)?;
            keys::add_attribute(context, connection, &object, &attribute).await?;
            ResponsePayload::AddAttribute(AddAttributeResponse { unique_identifier: object.id, attribute })
        }
        RequestPayload::Create(request) => {
            let object_type = request.object_type;
            let unique_identifier = keys::create(context, connection, request).await?;
            context.placeholder = Some(unique_identifier.clone());
            ResponsePayload::Create(CreateResponse { object_type, unique_identifier, attributes: vec![] })
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
        RequestPayload::Query(request) => ResponsePayload::Query(query(&request)),
        RequestPayload::Register(request) => {
            let unique_identifier = keys::register(context, connection, request).await?;
            context.placeholder = Some(unique_identifier.clone());
            ResponsePayload::Register(RegisterResponse { unique_identifier, attributes: vec![] })
        }
        RequestPayload::Revoke(request) => {
            let (mut object, _) = context.object(connection, request.unique_identifier).await?;
            let occurred = request.compromise_occurrence_date;
            object.lifecycle.revoke(context.now, request.revocation_reason, occurred)?;
            store::update_lifecycle(connection, &object.id, &object.lifecycle).await?;
            ResponsePayload::Revoke(RevokeResponse { unique_identifier: object.id })
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

fn query(request: &QueryRequest) -> QueryResponse {
    let asked = |function| request.functions.contains(&function);
    QueryResponse {
        operations: if asked(QueryFunction::QUERY_OPERATIONS) { OPERATIONS.to_vec() } else { vec![] },
        object_types: if asked(QueryFunction::QUERY_OBJECTS) { vec![ObjectType::SYMMETRIC_KEY] } else { vec![] },
        vendor_identification: asked(QueryFunction::QUERY_SERVER_INFORMATION)
            .then(|| format!("Ward key server {}", env!("CARGO_PKG_VERSION"))),
        ..QueryResponse::default()
    }
}
