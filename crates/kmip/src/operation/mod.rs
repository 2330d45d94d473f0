//! Operations: what their requests ask and what their answers say (KMIP 1.4 section 4).

mod attributes;
mod check;
mod create;
mod crypto;
mod get;
mod lifecycle;
mod locate;
mod query;
mod rekey;

pub use attributes::{
    AddAttributeRequest, AddAttributeResponse, DeleteAttributeRequest, DeleteAttributeResponse,
    GetAttributeListRequest, GetAttributeListResponse, GetAttributesRequest, GetAttributesResponse,
    ModifyAttributeRequest, ModifyAttributeResponse, SetAttributeRequest, SetAttributeResponse,
};
pub use check::{CheckRequest, CheckResponse};
pub use create::{CreateRequest, CreateResponse, RegisterRequest, RegisterResponse};
pub use crypto::{CryptographicParameters, DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse};
pub use get::{GetRequest, GetResponse};
pub use lifecycle::{
    ActivateRequest, ActivateResponse, DestroyRequest, DestroyResponse, RevokeRequest, RevokeResponse,
};
pub use locate::{LocateRequest, LocateResponse};
pub use query::{DiscoverVersionsRequest, DiscoverVersionsResponse, QueryRequest, QueryResponse};
pub use rekey::{RekeyRequest, RekeyResponse};

use crate::names::Operation;
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

macro_rules! payloads {
    ($($variant:ident = $operation:ident, $request:ty, $response:ty, $section:literal;)*) => {
        /// What a request asks for.
        #[derive(Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum RequestPayload {
            $(
                #[doc = concat!("KMIP 1.4 section ", $section, ".")]
                $variant($request),
            )*
            /// An operation not modelled here, with its payload as it came.
            Other(Operation, Item),
            /// A payload that can't be understood. Only reading makes these; they can't be sent.
            Malformed(Operation, DecodeError),
        }

        /// What an answer says.
        #[derive(Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum ResponsePayload {
            $(
                #[doc = concat!("KMIP 1.4 section ", $section, ".")]
                $variant($response),
            )*
            /// An operation not modelled here, with its payload as it came.
            Other(Operation, Item),
        }

        impl RequestPayload {
            /// Which operation is asked for.
            #[must_use]
            pub fn operation(&self) -> Operation {
                match self {
                    $(Self::$variant(_) => Operation::$operation,)*
                    Self::Other(operation, _) | Self::Malformed(operation, _) => *operation,
                }
            }

            pub(crate) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
                if self.operation().since().is_some_and(|since| since > version) {
                    return Err(EncodeError::NotInVersion { what: self.operation().to_string(), version });
                }
                match self {
                    $(Self::$variant(payload) => payload.to_item(version),)*
                    Self::Other(_, item) => Ok(item.copy()),
                    Self::Malformed(..) => Err(EncodeError::Unreadable),
                }
            }

            pub(crate) fn from_item(operation: Operation, item: Item, version: ProtocolVersion) -> Self {
                match operation {
                    $(Operation::$operation => match <$request>::from_item(item, version) {
                        Ok(payload) => Self::$variant(payload),
                        Err(error) => Self::Malformed(operation, error),
                    },)*
                    _ => Self::Other(operation, item),
                }
            }
        }

        impl ResponsePayload {
            /// Which operation it answers.
            #[must_use]
            pub fn operation(&self) -> Operation {
                match self {
                    $(Self::$variant(_) => Operation::$operation,)*
                    Self::Other(operation, _) => *operation,
                }
            }

            pub(crate) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
                match self {
                    $(Self::$variant(payload) => payload.to_item(version),)*
                    Self::Other(_, item) => Ok(item.copy()),
                }
            }

            pub(crate) fn from_item(
                operation: Operation,
                item: Item,
                version: ProtocolVersion,
            ) -> Result<Self, DecodeError> {
                Ok(match operation {
                    $(Operation::$operation => Self::$variant(<$response>::from_item(item, version)?),)*
                    _ => Self::Other(operation, item),
                })
            }
        }
    };
}

payloads! {
    Activate = ACTIVATE, ActivateRequest, ActivateResponse, "4.19";
    AddAttribute = ADD_ATTRIBUTE, AddAttributeRequest, AddAttributeResponse, "4.14";
    Check = CHECK, CheckRequest, CheckResponse, "4.10";
    Create = CREATE, CreateRequest, CreateResponse, "4.1";
    Decrypt = DECRYPT, DecryptRequest, DecryptResponse, "4.30";
    DeleteAttribute = DELETE_ATTRIBUTE, DeleteAttributeRequest, DeleteAttributeResponse, "4.16";
    Destroy = DESTROY, DestroyRequest, DestroyResponse, "4.21";
    DiscoverVersions = DISCOVER_VERSIONS, DiscoverVersionsRequest, DiscoverVersionsResponse, "4.26";
    Encrypt = ENCRYPT, EncryptRequest, EncryptResponse, "4.29";
    Get = GET, GetRequest, GetResponse, "4.11";
    GetAttributeList = GET_ATTRIBUTE_LIST, GetAttributeListRequest, GetAttributeListResponse, "4.13";
    GetAttributes = GET_ATTRIBUTES, GetAttributesRequest, GetAttributesResponse, "4.12";
    Locate = LOCATE, LocateRequest, LocateResponse, "4.9";
    ModifyAttribute = MODIFY_ATTRIBUTE, ModifyAttributeRequest, ModifyAttributeResponse, "4.15";
    Query = QUERY, QueryRequest, QueryResponse, "4.25";
    Register = REGISTER, RegisterRequest, RegisterResponse, "4.3";
    Rekey = REKEY, RekeyRequest, RekeyResponse, "4.4";
    Revoke = REVOKE, RevokeRequest, RevokeResponse, "4.20";
    SetAttribute = SET_ATTRIBUTE, SetAttributeRequest, SetAttributeResponse, "(KMIP 2.1) 6.1.54";
}

/// The operations that are done to one object, which the request names and the answer names again.
macro_rules! done_to_one_object {
    ($($variant:ident)*) => {
        impl RequestPayload {
            /// The object that it names.
            pub(crate) fn object(&self) -> Option<&str> {
                match self {
                    $(Self::$variant(request) => request.unique_identifier.as_deref(),)*
                    Self::Check(request) => request.unique_identifier.as_deref(),
                    _ => None,
                }
            }
        }

        impl ResponsePayload {
            /// The object to which it was done.
            pub(crate) fn object(&self) -> Option<&str> {
                match self {
                    $(Self::$variant(response) => Some(&response.unique_identifier),)*
                    Self::Check(response) => response.unique_identifier.as_deref(),
                    _ => None,
                }
            }
        }
    };
}

done_to_one_object! {
    Activate AddAttribute Decrypt DeleteAttribute Destroy Encrypt Get GetAttributeList GetAttributes ModifyAttribute Revoke
    SetAttribute
}

/// A request or an answer whose payload is an object's identifier and nothing else.
macro_rules! identifier_only {
    ($(#[$request_meta:meta])* request $request:ident;) => {
        $(#[$request_meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $request {
            /// Which object; the one the ID placeholder holds if not set.
            pub unique_identifier: Option<String>,
        }

        impl $request {
            pub(super) fn to_item(&self, _: ProtocolVersion) -> Result<Item, EncodeError> {
                Ok(Builder::new(Tag::REQUEST_PAYLOAD)
                    .optional(Tag::UNIQUE_IDENTIFIER, self.unique_identifier.as_ref())
                    .build())
            }

            pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
                let mut fields = Fields::of(item)?;
                let request = Self { unique_identifier: fields.identifier()? };
                fields.finish()?;
                Ok(request)
            }
        }
    };
    ($(#[$response_meta:meta])* response $response:ident;) => {
        $(#[$response_meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $response {
            /// Which object.
            pub unique_identifier: String,
        }

        impl $response {
            pub(super) fn to_item(&self, _: ProtocolVersion) -> Result<Item, EncodeError> {
                Ok(Builder::new(Tag::RESPONSE_PAYLOAD).field(Tag::UNIQUE_IDENTIFIER, &self.unique_identifier).build())
            }

            pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
                let mut fields = Fields::of(item)?;
                let response = Self { unique_identifier: fields.required(Tag::UNIQUE_IDENTIFIER)? };
                fields.finish()?;
                Ok(response)
            }
        }
    };
}
use identifier_only;

/// That an optional field isn't used with a peer too old for it.
fn since<T>(
    value: Option<&T>,
    what: &str,
    since: ProtocolVersion,
    version: ProtocolVersion,
) -> Result<(), EncodeError> {
    if value.is_some() && version < since {
        return Err(EncodeError::NotInVersion { what: what.to_owned(), version });
    }
    Ok(())
}
