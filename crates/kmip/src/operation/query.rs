//! Query and Discover Versions: what a server can do.

use crate::fields::{Builder, Fields};
use crate::message::{protocol_version_from_item, protocol_version_to_item};
use crate::names::{ObjectType, Operation, QueryFunction, Tag};
use crate::ttlv::{DecodeError, EncodeError, Item};
use crate::version::ProtocolVersion;

/// Which versions are spoken (KMIP 1.4 section 4.26).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverVersionsRequest {
    /// What the client speaks, best first; nothing if it wants to be told all.
    pub versions: Vec<ProtocolVersion>,
}

/// Which versions are spoken (KMIP 1.4 section 4.26).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverVersionsResponse {
    /// What the server speaks, best first; of what the client named, if it named any.
    pub versions: Vec<ProtocolVersion>,
}

macro_rules! versions {
    ($type:ty, $tag:ident) => {
        impl $type {
            pub(super) fn to_item(&self, _: ProtocolVersion) -> Result<Item, EncodeError> {
                Ok(Builder::new(Tag::$tag)
                    .items(self.versions.iter().map(|version| protocol_version_to_item(*version)))
                    .build())
            }

            pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
                let mut fields = Fields::of(item)?;
                let versions = fields
                    .repeated_items(Tag::PROTOCOL_VERSION)
                    .into_iter()
                    .map(protocol_version_from_item)
                    .collect::<Result<_, _>>()?;
                fields.finish()?;
                Ok(Self { versions })
            }
        }
    };
}

versions!(DiscoverVersionsRequest, REQUEST_PAYLOAD);
versions!(DiscoverVersionsResponse, RESPONSE_PAYLOAD);

/// What a server can do (KMIP 1.4 section 4.25).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryRequest {
    /// What is asked.
    pub functions: Vec<QueryFunction>,
}

impl QueryRequest {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        if let Some(newer) = self.functions.iter().find(|function| function.since() > Some(version)) {
            return Err(EncodeError::NotInVersion { what: newer.to_string(), version });
        }
        Ok(Builder::new(Tag::REQUEST_PAYLOAD).repeated(Tag::QUERY_FUNCTION, &self.functions).build())
    }

    pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        let request = Self { functions: fields.repeated(Tag::QUERY_FUNCTION)? };
        fields.finish()?;
        Ok(request)
    }
}

/// What a server can do (KMIP 1.4 section 4.25).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct QueryResponse {
    /// Operations it does.
    pub operations: Vec<Operation>,
    /// Objects it keeps.
    pub object_types: Vec<ObjectType>,
    /// Who made it.
    pub vendor_identification: Option<String>,
    /// More about it, in its maker's own form.
    pub server_information: Option<Item>,
    /// Application namespaces it knows.
    pub application_namespaces: Vec<String>,
    /// What later versions and functions add, as it came.
    pub more: Vec<Item>,
}

impl QueryResponse {
    pub(super) fn to_item(&self, version: ProtocolVersion) -> Result<Item, EncodeError> {
        let operations = self.operations.iter().filter(|operation| operation.since() <= Some(version));
        let object_types = self.object_types.iter().filter(|object_type| object_type.since() <= Some(version));
        Ok(Builder::new(Tag::RESPONSE_PAYLOAD)
            .repeated(Tag::OPERATION, operations)
            .repeated(Tag::OBJECT_TYPE, object_types)
            .optional(Tag::VENDOR_IDENTIFICATION, self.vendor_identification.as_ref())
            .items(self.server_information.as_ref().map(Item::copy))
            .repeated(Tag::APPLICATION_NAMESPACE, &self.application_namespaces)
            .items(self.more.iter().filter(|item| item.tag.since() <= Some(version)).map(Item::copy))
            .build())
    }

    pub(super) fn from_item(item: Item, _: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(item)?;
        Ok(Self {
            operations: fields.repeated(Tag::OPERATION)?,
            object_types: fields.repeated(Tag::OBJECT_TYPE)?,
            vendor_identification: fields.optional(Tag::VENDOR_IDENTIFICATION)?,
            server_information: fields.optional_item(Tag::SERVER_INFORMATION),
            application_namespaces: fields.repeated(Tag::APPLICATION_NAMESPACE)?,
            more: fields.rest(),
        })
    }
}
