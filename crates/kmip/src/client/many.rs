//! The same asked of many objects, in batches: one round trip for each batch, over the one connection.

use std::collections::VecDeque;

use super::{Client, ClientError, Replicas, ReplicasError};
use crate::attribute::{Attribute, AttributeName, AttributeValue};
use crate::names::{Operation, State};
use crate::operation::{GetAttributesRequest, GetRequest, RequestPayload, ResponsePayload};
use crate::secret::SecretBytes;

/// How many objects are asked about at once. Enough that the round trip is no longer what takes the time, few enough that
/// a server which bounds its messages takes them.
const BATCH: usize = 64;

impl Client {
    /// The bytes of several symmetric keys ([`Client::get_key`]), in their order. What is refused of one is told of that
    /// one only.
    ///
    /// # Errors
    /// If the server can't be asked.
    pub async fn get_keys(&self, ids: &[&str]) -> Result<Vec<Result<SecretBytes, ClientError>>, ClientError> {
        let request = |id: &str| {
            RequestPayload::Get(GetRequest { unique_identifier: Some(id.to_owned()), ..GetRequest::default() })
        };
        let read = |id: &str, answer| match answer {
            ResponsePayload::Get(response) => self.key_of(id, response),
            other => Err(self.unexpected(Operation::GET, &other)),
        };
        self.each(ids, request, read).await
    }

    /// Attributes of several objects ([`Client::get_attributes`]), in their order.
    ///
    /// # Errors
    /// If the server can't be asked.
    pub async fn get_attributes_of(
        &self,
        ids: &[&str],
        names: &[AttributeName],
    ) -> Result<Vec<Result<Vec<Attribute>, ClientError>>, ClientError> {
        let request = |id: &str| {
            let unique_identifier = Some(id.to_owned());
            RequestPayload::GetAttributes(GetAttributesRequest { unique_identifier, names: names.to_vec() })
        };
        let read = |_: &str, answer| match answer {
            ResponsePayload::GetAttributes(response) => Ok(response.attributes),
            other => Err(self.unexpected(Operation::GET_ATTRIBUTES, &other)),
        };
        self.each(ids, request, read).await
    }

    /// The states of several objects, in their order.
    ///
    /// # Errors
    /// If the server can't be asked.
    pub async fn states(&self, ids: &[&str]) -> Result<Vec<Result<State, ClientError>>, ClientError> {
        let all = self.get_attributes_of(ids, &[AttributeName::STATE]).await?;
        Ok(all.into_iter().map(|attributes| self.state_among(attributes?)).collect())
    }

    pub(super) fn state_among(&self, attributes: Vec<Attribute>) -> Result<State, ClientError> {
        let state = attributes.into_iter().find_map(|attribute| match attribute.value {
            AttributeValue::State(state) => Some(state),
            _ => None,
        });
        state.ok_or_else(|| self.answered_wrongly(Operation::GET_ATTRIBUTES, "the object has no state"))
    }

    async fn each<T>(
        &self,
        ids: &[&str],
        request: impl Fn(&str) -> RequestPayload,
        read: impl Fn(&str, ResponsePayload) -> Result<T, ClientError>,
    ) -> Result<Vec<Result<T, ClientError>>, ClientError> {
        let mut answers = Vec::with_capacity(ids.len());
        let mut left: VecDeque<&str> = ids.iter().copied().collect();
        while !left.is_empty() {
            let batch: Vec<_> = left.iter().take(BATCH).copied().collect();
            // A server that ends a batch with what it refuses answers for fewer; the others are asked about again.
            for answer in self.batch(batch.iter().map(|id| request(id)).collect()).await? {
                let Some(id) = left.pop_front() else { break };
                answers.push(answer.and_then(|answer| read(id, answer)));
            }
        }
        Ok(answers)
    }
}

impl Replicas {
    /// The bytes of several symmetric keys ([`Client::get_keys`]). Of what one server refuses the others are asked.
    ///
    /// # Errors
    /// If no server could be asked.
    pub async fn get_keys(&self, ids: &[&str]) -> Result<Vec<Result<SecretBytes, ReplicasError>>, ReplicasError> {
        let all = self.read(Operation::GET, |client| async move { client.get_keys(ids).await }).await?;
        let mut answers = Vec::with_capacity(all.len());
        for (id, answer) in ids.iter().zip(all) {
            answers.push(match answer {
                Ok(bytes) => Ok(bytes),
                Err(_) => self.get_key(id).await,
            });
        }
        Ok(answers)
    }

    /// Attributes of several objects ([`Client::get_attributes_of`]). Of what one server refuses the others are asked.
    ///
    /// # Errors
    /// If no server could be asked.
    pub async fn get_attributes_of(
        &self,
        ids: &[&str],
        names: &[AttributeName],
    ) -> Result<Vec<Result<Vec<Attribute>, ReplicasError>>, ReplicasError> {
        let ask = |client: Client| async move { client.get_attributes_of(ids, names).await };
        let all = self.read(Operation::GET_ATTRIBUTES, ask).await?;
        let mut answers = Vec::with_capacity(all.len());
        for (id, answer) in ids.iter().zip(all) {
            answers.push(match answer {
                Ok(attributes) => Ok(attributes),
                Err(_) => self.get_attributes(id, names).await,
            });
        }
        Ok(answers)
    }

    /// The states of several objects ([`Client::states`]). Of what one server refuses the others are asked.
    ///
    /// # Errors
    /// If no server could be asked.
    pub async fn states(&self, ids: &[&str]) -> Result<Vec<Result<State, ReplicasError>>, ReplicasError> {
        let ask = |client: Client| async move { client.states(ids).await };
        let all = self.read(Operation::GET_ATTRIBUTES, ask).await?;
        let mut answers = Vec::with_capacity(all.len());
        for (id, answer) in ids.iter().zip(all) {
            answers.push(match answer {
                Ok(state) => Ok(state),
                Err(_) => self.state(id).await,
            });
        }
        Ok(answers)
    }
}
