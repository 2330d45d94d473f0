//! What a client can ask, operation by operation.

use super::{Client, ClientError, Created, Filter, ServerInformation};
use crate::attribute::{Attribute, AttributeName, AttributeValue, RevocationReason, UsageMask};
use crate::names::{CryptographicAlgorithm, ObjectType, Operation, QueryFunction, ResultReason, State};
use crate::object::{KeyBlock, ManagedObject};
use crate::operation::*;
use crate::secret::SecretBytes;
use crate::version::ProtocolVersion;

impl Client {
    /// The versions the server speaks, best first (KMIP 1.4 section 4.26).
    ///
    /// # Errors
    /// If the server can't be asked, or doesn't know the question.
    pub async fn discover(&self) -> Result<Vec<ProtocolVersion>, ClientError> {
        match self.request(RequestPayload::DiscoverVersions(DiscoverVersionsRequest::default())).await? {
            ResponsePayload::DiscoverVersions(response) => Ok(response.versions),
            other => Err(self.unexpected(Operation::DISCOVER_VERSIONS, &other)),
        }
    }

    /// What the server says of itself (KMIP 1.4 section 4.25).
    ///
    /// # Errors
    /// If the server can't be asked.
    pub async fn query(&self) -> Result<ServerInformation, ClientError> {
        let functions = vec![
            QueryFunction::QUERY_OPERATIONS,
            QueryFunction::QUERY_OBJECTS,
            QueryFunction::QUERY_SERVER_INFORMATION,
        ];
        match self.request(RequestPayload::Query(QueryRequest { functions })).await? {
            ResponsePayload::Query(response) => Ok(ServerInformation {
                vendor: response.vendor_identification,
                operations: response.operations,
                object_types: response.object_types,
            }),
            other => Err(self.unexpected(Operation::QUERY, &other)),
        }
    }

    /// Makes an AES-256 key for encrypting and decrypting, in state Pre-Active unless `attributes` has an Activation Date
    /// (KMIP 1.4 section 4.1).
    ///
    /// A server that won't take the custom attributes among `attributes` still makes the key; they are then added one by
    /// one, and those that it doesn't take that way either are told in the answer.
    ///
    /// # Errors
    /// If no key was made, or none that we heard of ([`ClientError::may_have_taken_effect`]).
    pub async fn create_aes256(&self, attributes: &[Attribute]) -> Result<Created, ClientError> {
        let error = match self.create(attributes.to_vec()).await {
            Ok(id) => return Ok(Created::new(id, vec![])),
            Err(error) => error,
        };
        let (custom, standard): (Vec<_>, Vec<_>) =
            attributes.iter().cloned().partition(|attribute| attribute.attribute_name().is_custom());
        if custom.is_empty() || !reason_of(&error).is_some_and(may_be_about_an_attribute) {
            return Err(error);
        }

        // It said no, so no key was made yet.
        let id = self.create(standard).await?;
        let mut refused_attributes = Vec::new();
        let mut hopeless = false;
        for attribute in custom {
            let name = attribute.attribute_name();
            if hopeless {
                refused_attributes.push(name);
                continue;
            }
            // The key is there: whatever happens now, its identifier must not get lost.
            if let Err(error) = self.add_attribute(&id, attribute).await {
                hopeless = reason_of(&error) != Some(ResultReason::INVALID_FIELD);
                refused_attributes.push(name);
            }
        }
        Ok(Created::new(id, refused_attributes))
    }

    async fn create(&self, attributes: Vec<Attribute>) -> Result<String, ClientError> {
        let mut all = vec![
            Attribute::new(AttributeValue::CryptographicAlgorithm(CryptographicAlgorithm::AES)),
            Attribute::new(AttributeValue::CryptographicLength(256)),
            Attribute::new(AttributeValue::CryptographicUsageMask(UsageMask::ENCRYPT | UsageMask::DECRYPT)),
        ];
        all.extend(attributes);
        let request = CreateRequest { object_type: ObjectType::SYMMETRIC_KEY, templates: vec![], attributes: all };
        match self.request(RequestPayload::Create(request)).await? {
            ResponsePayload::Create(response) => Ok(response.unique_identifier),
            other => Err(self.unexpected(Operation::CREATE, &other)),
        }
    }

    /// Puts a Pre-Active key to use (KMIP 1.4 section 4.19).
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn activate(&self, id: &str) -> Result<(), ClientError> {
        let request = ActivateRequest { unique_identifier: Some(id.to_owned()) };
        self.request(RequestPayload::Activate(request)).await.map(drop)
    }

    /// The bytes of a symmetric key (KMIP 1.4 section 4.11). They are wiped when dropped.
    ///
    /// # Errors
    /// If the server refuses, can't be asked, or holds something else under that identifier.
    pub async fn get_key(&self, id: &str) -> Result<SecretBytes, ClientError> {
        let request = GetRequest { unique_identifier: Some(id.to_owned()), ..GetRequest::default() };
        let response = match self.request(RequestPayload::Get(request)).await? {
            ResponsePayload::Get(response) => response,
            other => return Err(self.unexpected(Operation::GET, &other)),
        };
        self.key_of(id, response)
    }

    /// The key of an answer to Get.
    pub(super) fn key_of(&self, id: &str, response: GetResponse) -> Result<SecretBytes, ClientError> {
        let what = match response.object {
            ManagedObject::SymmetricKey(block) => match block.into_bytes() {
                Some(bytes) => return Ok(bytes),
                None => "it is wrapped, or its bytes are not there",
            },
            ManagedObject::Other(_) => "it is no symmetric key",
        };
        Err(ClientError::NotAKey { address: self.config().address(), id: id.to_owned(), what })
    }

    /// Attributes of an object: those named, or all (KMIP 1.4 section 4.12).
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn get_attributes(&self, id: &str, names: &[AttributeName]) -> Result<Vec<Attribute>, ClientError> {
        let request = GetAttributesRequest { unique_identifier: Some(id.to_owned()), names: names.to_vec() };
        match self.request(RequestPayload::GetAttributes(request)).await? {
            ResponsePayload::GetAttributes(response) => Ok(response.attributes),
            other => Err(self.unexpected(Operation::GET_ATTRIBUTES, &other)),
        }
    }

    /// The names of an object's attributes (KMIP 1.4 section 4.13).
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn get_attribute_list(&self, id: &str) -> Result<Vec<AttributeName>, ClientError> {
        let request = GetAttributeListRequest { unique_identifier: Some(id.to_owned()) };
        match self.request(RequestPayload::GetAttributeList(request)).await? {
            ResponsePayload::GetAttributeList(response) => Ok(response.names),
            other => Err(self.unexpected(Operation::GET_ATTRIBUTE_LIST, &other)),
        }
    }

    /// The state of an object.
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn state(&self, id: &str) -> Result<State, ClientError> {
        let attributes = self.get_attributes(id, &[AttributeName::STATE]).await?;
        self.state_among(attributes)
    }

    /// Adds an attribute to an object (KMIP 1.4 section 4.14), and tells it as the server has it: with its index.
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn add_attribute(&self, id: &str, attribute: Attribute) -> Result<Attribute, ClientError> {
        let sent = attribute.clone();
        let request = AddAttributeRequest { unique_identifier: Some(id.to_owned()), attribute };
        match self.request(RequestPayload::AddAttribute(request)).await? {
            // KMIP 2 doesn't tell it, nor does it number instances.
            ResponsePayload::AddAttribute(response) => Ok(response.attribute.unwrap_or(sent)),
            other => Err(self.unexpected(Operation::ADD_ATTRIBUTE, &other)),
        }
    }

    /// The identifiers of the objects that match (KMIP 1.4 section 4.9).
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn locate(&self, filter: Filter) -> Result<Vec<String>, ClientError> {
        let request = LocateRequest {
            maximum_items: filter.maximum_items,
            attributes: filter.attributes,
            ..LocateRequest::default()
        };
        match self.request(RequestPayload::Locate(request)).await? {
            ResponsePayload::Locate(response) => Ok(response.unique_identifiers),
            other => Err(self.unexpected(Operation::LOCATE, &other)),
        }
    }

    /// Revokes an object (KMIP 1.4 section 4.20). `compromised_at`, in seconds since 1970, goes with a reason of
    /// compromise.
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn revoke(
        &self,
        id: &str,
        reason: RevocationReason,
        compromised_at: Option<i64>,
    ) -> Result<(), ClientError> {
        let request = RevokeRequest {
            unique_identifier: Some(id.to_owned()),
            revocation_reason: reason,
            compromise_occurrence_date: compromised_at,
        };
        self.request(RequestPayload::Revoke(request)).await.map(drop)
    }

    /// Destroys the key material of an object (KMIP 1.4 section 4.21).
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn destroy(&self, id: &str) -> Result<(), ClientError> {
        let request = DestroyRequest { unique_identifier: Some(id.to_owned()) };
        self.request(RequestPayload::Destroy(request)).await.map(drop)
    }

    /// Changes an attribute of an object (KMIP 1.4 section 4.15). KMIP 1.x finds the instance by the index of `attribute`,
    /// KMIP 2 by `current`, where it may have several.
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn modify_attribute(
        &self,
        id: &str,
        current: Option<Attribute>,
        attribute: Attribute,
    ) -> Result<(), ClientError> {
        let current = match self.version().await? {
            version if version.is_2() => current,
            _ => None,
        };
        let request = ModifyAttributeRequest { unique_identifier: Some(id.to_owned()), current, attribute };
        self.request(RequestPayload::ModifyAttribute(request)).await.map(drop)
    }

    /// Takes an attribute away from an object (KMIP 1.4 section 4.16): of several instances the first in KMIP 1.x, all in
    /// KMIP 2.
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn delete_attribute(&self, id: &str, name: AttributeName) -> Result<(), ClientError> {
        let unique_identifier = Some(id.to_owned());
        let request = DeleteAttributeRequest { unique_identifier, name, index: None, current: None };
        self.request(RequestPayload::DeleteAttribute(request)).await.map(drop)
    }

    /// Makes a new key in the place of one, and tells its identifier (KMIP 1.4 section 4.4).
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn rekey(&self, id: &str) -> Result<String, ClientError> {
        let request = RekeyRequest { unique_identifier: Some(id.to_owned()), ..RekeyRequest::default() };
        match self.request(RequestPayload::Rekey(request)).await? {
            ResponsePayload::Rekey(response) => Ok(response.unique_identifier),
            other => Err(self.unexpected(Operation::REKEY, &other)),
        }
    }

    /// Keeps a key that was made elsewhere at the server, and tells its identifier (KMIP 1.4 section 4.3).
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn register_key(&self, key: KeyBlock, attributes: Vec<Attribute>) -> Result<String, ClientError> {
        let request = RegisterRequest {
            object_type: ObjectType::SYMMETRIC_KEY,
            templates: vec![],
            attributes,
            object: Some(ManagedObject::SymmetricKey(key)),
        };
        match self.request(RequestPayload::Register(request)).await? {
            ResponsePayload::Register(response) => Ok(response.unique_identifier),
            other => Err(self.unexpected(Operation::REGISTER, &other)),
        }
    }

    /// Encrypts with a key that stays at the server (KMIP 1.4 section 4.29).
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn encrypt(&self, request: EncryptRequest) -> Result<EncryptResponse, ClientError> {
        match self.request(RequestPayload::Encrypt(request)).await? {
            ResponsePayload::Encrypt(response) => Ok(response),
            other => Err(self.unexpected(Operation::ENCRYPT, &other)),
        }
    }

    /// Decrypts with a key that stays at the server (KMIP 1.4 section 4.30).
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn decrypt(&self, request: DecryptRequest) -> Result<DecryptResponse, ClientError> {
        match self.request(RequestPayload::Decrypt(request)).await? {
            ResponsePayload::Decrypt(response) => Ok(response),
            other => Err(self.unexpected(Operation::DECRYPT, &other)),
        }
    }
}

/// Whether a Create may have failed with this reason because of an attribute that the server doesn't take.
fn may_be_about_an_attribute(reason: ResultReason) -> bool {
    matches!(
        reason,
        ResultReason::FEATURE_NOT_SUPPORTED
            | ResultReason::GENERAL_FAILURE
            | ResultReason::INVALID_FIELD
            | ResultReason::INVALID_MESSAGE
    )
}

/// The server's reason in the words of KMIP 1.4, which are fewer.
fn reason_of(error: &ClientError) -> Option<ResultReason> {
    error.result_reason().map(|reason| reason.for_version(ProtocolVersion::V1_4))
}
