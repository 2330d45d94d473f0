//! Clients: [`Client`] for one server over one connection, [`Replicas`] for several servers of the same keys.

mod calls;
mod config;
mod connection;
mod error;
mod fetch;
mod identity;
mod many;
mod reach;
mod replicas;
mod roster;
mod tls_fault;
mod trust;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

pub use config::{ClientConfig, ConfigError, DEFAULT_PORT};
pub use error::{ClientError, Phase};
pub use fetch::{CheckedServer, ShownCertificate, check_server, fetch_server_certificates, show_server_certificates};
pub use identity::{ClientIdentity, IdentityError, PendingIdentity, Subject};
pub use replicas::{Located, Replicas, ReplicasError, ServerStatus};
pub use roster::BackOff;
pub use tls_fault::TlsFault;
pub use trust::ServerTrust;

use connection::Connection;

use crate::attribute::{Attribute, AttributeName, AttributeValue};
use crate::message::{RequestHeader, RequestItem, RequestMessage, ResponseItem, ResponseMessage};
use crate::names::{BatchErrorContinuationOption, ObjectType, Operation, ResultReason, ResultStatus, State};
use crate::operation::{RequestPayload, ResponsePayload};
use crate::version::ProtocolVersion;

/// A key server, as a client sees it. Connects when first asked, and again when the connection was lost.
///
/// Cheap to share behind an `Arc`; requests queue for the one connection.
pub struct Client {
    shared: Arc<Shared>,
    deadline: Option<Instant>,
}

struct Shared {
    config: ClientConfig,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    /// The connection, unless somebody uses it.
    connection: Option<Connection>,
    /// Whether somebody waits to end it, as it has brought a key: one at a time, whichever connection it is by then.
    ending: bool,
}

/// A key just made.
#[derive(Debug)]
pub struct Created {
    /// The key's identifier, chosen by the server.
    pub id: String,
    /// The custom attributes that were asked for and that the key doesn't have, since the server won't take them.
    pub refused_attributes: Vec<AttributeName>,
    /// The server (`host:port`) that may hold a second key of the same name, since it failed before it answered. Only
    /// where several servers were asked ([`Replicas`]).
    pub maybe_also_at: Option<String>,
}

impl Created {
    fn new(id: String, refused_attributes: Vec<AttributeName>) -> Self {
        Self { id, refused_attributes, maybe_also_at: None }
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInformation {
    /// Who made it.
    pub vendor: Option<String>,
    /// What it can do.
    pub operations: Vec<Operation>,
    /// What it can hold.
    pub object_types: Vec<ObjectType>,
}

/// Which objects are looked for: those that match every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// At most so many.
    pub maximum_items: Option<i32>,
    /// With these attributes.
    pub attributes: Vec<Attribute>,
}

impl Filter {
    /// Objects with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Self {
        Self { maximum_items: None, attributes: vec![Attribute::name(name)] }
    }

    /// Objects in this state.
    #[must_use]
    pub fn by_state(state: State) -> Self {
        Self { maximum_items: None, attributes: vec![Attribute::new(AttributeValue::State(state))] }
    }
}

/// Whether repeating the operation changes nothing, so that it may be sent again after a lost connection.
fn only_reads(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::CHECK
            | Operation::DECRYPT
            | Operation::DISCOVER_VERSIONS
            | Operation::ENCRYPT
            | Operation::GET
            | Operation::GET_ATTRIBUTES
            | Operation::GET_ATTRIBUTE_LIST
            | Operation::LOCATE
            | Operation::QUERY
    )
}

/// Whether what answers it has the bytes of a key in it.
fn brings_a_key(operation: Operation) -> bool {
    matches!(operation, Operation::GET | Operation::DECRYPT)
}

/// How long a connection may stay after it has brought a key: until it ends, the buffers of TLS hold what it brought.
const STAY_WITH_A_KEY: Duration = Duration::from_secs(1);

/// Ends the connection that there is once it has brought no key for long enough; one that has brought none stays.
async fn end_with_its_key(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(STAY_WITH_A_KEY).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut slot = shared.slot.lock().await;
        let key_at = slot.connection.as_ref().and_then(|connection| connection.key_at);
        if key_at.is_some_and(|at| at.elapsed() < STAY_WITH_A_KEY) {
            continue;
        }
        if key_at.is_some() {
            slot.connection = None;
        }
        slot.ending = false;
        return;
    }
}

impl Client {
    /// A client that will connect when first asked.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self { shared: Arc::new(Shared { config, slot: Mutex::default() }), deadline: None }
    }

    /// The same client, over the same connection, for requests that have to be answered by `deadline`. The time-outs of
    /// its configuration hold too.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self { shared: Arc::clone(&self.shared), deadline: Some(deadline) }
    }

    /// Another handle on the same connection, without a deadline.
    fn another(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), deadline: None }
    }

    fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    /// Connects if need be, and tells the protocol version that was agreed on.
    ///
    /// # Errors
    /// If no connection or no common version is to be had.
    pub async fn version(&self) -> Result<ProtocolVersion, ClientError> {
        let mut slot = self.slot(Operation::DISCOVER_VERSIONS).await?;
        let connection = self.usable(slot.connection.take()).await?;
        let version = connection.version;
        slot.connection = Some(connection);
        Ok(version)
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// If the server refuses or can't be asked.
    pub async fn request(&self, payload: RequestPayload) -> Result<ResponsePayload, ClientError> {
        let operation = payload.operation();
        match self.batch(vec![payload]).await?.pop() {
            Some(answer) => answer,
            None => Err(self.answered_wrongly(operation, "an empty batch")),
        }
    }

    /// Asks several things at once, to be done in order until one fails; what only reads goes on after that. Where an object's identifier is not set, the
    /// server takes that of the object which the batch made or found last (the ID placeholder, KMIP 1.4 section 4).
    ///
    /// # Errors
    /// If the server can't be asked. What it refuses is told item by item; what follows a refused item has no answer.
    pub async fn batch(
        &self,
        payloads: Vec<RequestPayload>,
    ) -> Result<Vec<Result<ResponsePayload, ClientError>>, ClientError> {
        let operations: Vec<_> = payloads.iter().map(RequestPayload::operation).collect();
        let objects: Vec<_> = payloads.iter().map(|payload| payload.object().map(str::to_owned)).collect();
        // An effect is what matters most about a batch; its last item is what is usually wanted of it.
        let effectful = operations.iter().copied().find(|operation| !only_reads(*operation));
        let Some(operation) = effectful.or(operations.last().copied()) else {
            return Ok(vec![]);
        };
        let response = self.exchange(payloads, operation).await?;

        let mut items = response.items;
        if items.len() > operations.len() || items.is_empty() {
            return Err(self.answered_wrongly(operation, "as many answers as it was not asked for"));
        }
        // One failure without an operation speaks for the whole batch.
        if let [ResponseItem { operation: None, .. }] = items.as_slice()
            && let Some(item) = items.pop()
        {
            return Err(self.refusal(operation, item));
        }
        let asked = operations.into_iter().zip(objects);
        Ok(asked.zip(items).map(|((operation, object), item)| self.judge(operation, object.as_deref(), item)).collect())
    }

    fn judge(
        &self,
        operation: Operation,
        object: Option<&str>,
        item: ResponseItem,
    ) -> Result<ResponsePayload, ClientError> {
        if item.result_status != ResultStatus::SUCCESS {
            return Err(self.refusal(operation, item));
        }
        match item.payload {
            Some(payload) if payload.operation() == operation => match (object, payload.object()) {
                (Some(asked), Some(answered)) if asked != answered => {
                    Err(self.answered_wrongly(operation, "an answer about another object"))
                }
                _ => Ok(payload),
            },
            Some(payload) => Err(self.unexpected(operation, &payload)),
            None => Err(self.answered_wrongly(operation, "success without a payload")),
        }
    }

    /// Sends, over a new connection if need be. What only reads is sent again, once, if the connection breaks: it may have
    /// been dead before, or the server is started anew.
    async fn exchange(
        &self,
        payloads: Vec<RequestPayload>,
        operation: Operation,
    ) -> Result<ResponseMessage, ClientError> {
        let mut slot = self.slot(operation).await?;
        // Taken out while in use: if our caller gives up waiting, an answer that nobody read is left on the connection,
        // and it must not be used again.
        let mut connection = self.usable(slot.connection.take()).await?;
        let mut again = only_reads(operation);
        let brings_a_key = payloads.iter().any(|payload| brings_a_key(payload.operation()));
        let several = payloads.len() > 1;
        let mut header = RequestHeader::new(connection.version);
        // Without order the ID placeholder means nothing.
        header.batch_order_option = several.then_some(true);
        if several && payloads.iter().all(|payload| only_reads(payload.operation())) {
            header.batch_error_continuation_option = Some(BatchErrorContinuationOption::CONTINUE);
        }
        let items = payloads
            .into_iter()
            .zip(0_u64..)
            .map(|(payload, number)| RequestItem {
                unique_batch_item_id: several.then(|| number.to_be_bytes().to_vec()),
                ..RequestItem::new(payload)
            })
            .collect();
        let mut message = RequestMessage { header, items };
        loop {
            message.header.protocol_version = connection.version;
            let bytes =
                message.encode().map_err(|source| ClientError::Encode { address: self.config().address(), source })?;
            match connection.exchange(self.config(), &bytes, operation, self.deadline).await {
                Ok(response) => {
                    if brings_a_key {
                        connection.key_at = Some(Instant::now());
                        if !std::mem::replace(&mut slot.ending, true) {
                            tokio::spawn(end_with_its_key(Arc::downgrade(&self.shared)));
                        }
                    }
                    slot.connection = Some(connection);
                    return Ok(response);
                }
                Err(ClientError::Interrupted { .. }) if again => {
                    connection = Connection::open(self.config(), self.deadline).await?;
                    again = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The place of the connection, once nobody else uses it.
    async fn slot(&self, operation: Operation) -> Result<MutexGuard<'_, Slot>, ClientError> {
        let turn = self.shared.slot.lock();
        match self.deadline {
            None => Ok(turn.await),
            Some(deadline) => {
                let start = Instant::now();
                tokio::time::timeout_at(deadline.into(), turn).await.map_err(|_| ClientError::Timeout {
                    address: self.config().address(),
                    during: Phase::Waiting(operation),
                    after: start.elapsed(),
                })
            }
        }
    }

    /// The connection there is, or a new one.
    async fn usable(&self, connection: Option<Connection>) -> Result<Connection, ClientError> {
        if let Some(mut connection) = connection
            && !connection.is_stale(self.config()).await
        {
            return Ok(connection);
        }
        Connection::open(self.config(), self.deadline).await
    }

    fn refusal(&self, operation: Operation, item: ResponseItem) -> ClientError {
        if item.result_status != ResultStatus::OPERATION_FAILED {
            return self.answered_wrongly(operation, &item.result_status.to_string());
        }
        ClientError::Server {
            address: self.config().address(),
            operation,
            reason: item.result_reason.unwrap_or(ResultReason::GENERAL_FAILURE),
            message: item.result_message.unwrap_or_default(),
        }
    }

    fn unexpected(&self, operation: Operation, payload: &ResponsePayload) -> ClientError {
        self.answered_wrongly(operation, &format!("an answer to {}", payload.operation()))
    }

    fn answered_wrongly(&self, operation: Operation, what: &str) -> ClientError {
        ClientError::UnexpectedAnswer { address: self.config().address(), operation, what: what.to_owned() }
    }
}
