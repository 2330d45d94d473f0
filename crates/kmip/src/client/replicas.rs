//! Several servers of the same keys, as one.

mod error;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

pub use error::ReplicasError;

use super::roster::{Attempt, BackOff, Roster, Verdict};
use super::{Client, ClientConfig, ClientError, Created, Filter, Phase, ServerInformation};
use crate::attribute::{Attribute, AttributeName, AttributeValue, RevocationReason};
use crate::names::{Operation, State};
use crate::operation::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse};
use crate::secret::SecretBytes;

/// Several servers that are replicas of one another: they have the same keys.
///
/// They are asked in order. One that fails is set aside for a time that doubles with each failure, and is asked in the
/// meantime only when all others failed too. No server, however slow, takes more of a request's time than the time-out.
/// What may have been done by a server that then failed is not simply asked of the next: that one is first asked whether
/// it was done.
pub struct Replicas {
    servers: Vec<Server>,
    roster: Mutex<Roster>,
    timeout: Duration,
}

struct Server {
    address: String,
    config: ClientConfig,
    /// Clients that nobody uses at the moment, with their connections.
    idle: Mutex<Vec<Client>>,
    turns: Semaphore,
    /// Tells those who wait for a turn that the server has failed.
    failed: Notify,
}

/// A client that nobody else uses.
struct Turn<'a> {
    server: &'a Server,
    client: Client,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.server.idle).push(self.client.another());
    }
}

/// What was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The objects of the first server that has any.
    pub ids: Vec<String>,
    /// The servers that could not be asked, when no other has any: they may.
    pub not_asked: Vec<String>,
}

/// How a server did so far.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// `host:port`.
    pub address: String,
    /// When it last gave an answer, a refusal included.
    pub last_success: Option<SystemTime>,
    /// When and how it last failed.
    pub last_error: Option<(SystemTime, Arc<ClientError>)>,
    /// How long its last answer took, connecting included where that was needed.
    pub latency: Option<Duration>,
    /// Until when it's asked only when all others fail.
    pub set_aside_until: Option<SystemTime>,
}

/// Whether an effect that is in doubt is there.
enum Found<T> {
    Yes(T),
    No,
}

impl Replicas {
    /// How long one server may take of a request's time, unless set.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// These servers, in this order; at least one.
    ///
    /// `None` without any.
    #[must_use]
    pub fn new(configs: Vec<ClientConfig>) -> Option<Self> {
        if configs.is_empty() {
            return None;
        }
        let servers: Vec<_> = configs.into_iter().map(|config| Server::new(config, 4)).collect();
        let roster = Mutex::new(Roster::new(servers.len(), BackOff::default()));
        Some(Self { servers, roster, timeout: Self::TIMEOUT })
    }

    /// How much of a request's time one server may take: waiting for a connection, connecting and answering
    /// ([`Replicas::TIMEOUT`] unless set).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a failing server is set aside.
    #[must_use]
    pub fn with_back_off(mut self, back_off: BackOff) -> Self {
        self.roster = Mutex::new(Roster::new(self.servers.len(), back_off));
        self
    }

    /// How many connections to each server at most (4 unless set).
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.servers = self.servers.into_iter().map(|server| Server::new(server.config, connections.max(1))).collect();
        self
    }

    /// How each server did so far, in their order.
    #[must_use]
    pub fn status(&self) -> Vec<ServerStatus> {
        let (now, time) = (Instant::now(), SystemTime::now());
        let roster = lock(&self.roster);
        let wall = |instant: Instant| match instant.checked_duration_since(now) {
            Some(ahead) => time + ahead,
            None => time - now.saturating_duration_since(instant),
        };
        let servers = self.servers.iter().enumerate();
        servers
            .map(|(place, server)| {
                let standing = roster.standing(place);
                ServerStatus {
                    address: server.address.clone(),
                    last_success: standing.last_success.map(wall),
                    last_error: standing.last_error.map(|(at, error)| (wall(at), error)),
                    latency: standing.latency,
                    set_aside_until: standing.aside_until.filter(|until| now < *until).map(wall),
                }
            })
            .collect()
    }

    /// Asks every server who it is, all at once, and so brings [`Replicas::status`] up to date. In the servers' order.
    pub async fn probe(self: &Arc<Self>) -> Vec<Result<ServerInformation, Arc<ClientError>>> {
        let mut probes = tokio::task::JoinSet::new();
        for place in 0..self.servers.len() {
            let replicas = Arc::clone(self);
            probes.spawn(async move { (place, replicas.probe_one(place).await) });
        }
        let mut answers = probes.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn probe_one(&self, place: usize) -> Result<ServerInformation, Arc<ClientError>> {
        let server = &self.servers[place];
        let start = Instant::now();
        let deadline = start + self.timeout;
        let answer = match server.turn(Operation::QUERY, deadline).await {
            Ok(turn) => turn.client.until(deadline).query().await.map_err(Arc::new),
            Err(error) => Err(Arc::new(error)),
        };
        match &answer {
            Ok(_) => lock(&self.roster).succeeded(place, Instant::now(), start.elapsed()),
            Err(error) => self.record(place, Verdict::of(error), error),
        }
        answer
    }

    /// Makes an AES-256 key ([`Client::create_aes256`]).
    ///
    /// When a server fails that may have made it, the key is looked for at the next by the name among `attributes` before
    /// another is made. Without a name it can't be looked for, and the failure is told.
    ///
    /// # Errors
    /// If no key was made, or none that we heard of ([`ReplicasError::may_have_taken_effect`]).
    pub async fn create_aes256(&self, attributes: &[Attribute]) -> Result<Created, ReplicasError> {
        let name = attributes.iter().find_map(|attribute| match &attribute.value {
            AttributeValue::Name(name) => Some(name),
            _ => None,
        });
        let find = |client: Client| async move {
            let Some(name) = name else { return Ok(None) };
            let found = client.locate(Filter::by_name(&name.value)).await?.into_iter().next();
            Ok(Some(found.map_or(Found::No, |id| Found::Yes((Created::new(id, vec![]), false)))))
        };
        let make =
            |client: Client| async move { client.create_aes256(attributes).await.map(|created| (created, true)) };
        let ((mut created, made_here), attempt) = self.effect(Operation::CREATE, find, make).await?;
        if made_here {
            created.maybe_also_at = attempt.doubtful().next().map(|error| error.address().to_owned());
        }
        Ok(created)
    }

    /// Puts a Pre-Active key to use ([`Client::activate`]).
    ///
    /// # Errors
    /// If it was refused, or no server could be asked.
    pub async fn activate(&self, id: &str) -> Result<(), ReplicasError> {
        let find = |client: Client| async move { is_in_state(&client, id, &[State::ACTIVE]).await };
        let activate = |client: Client| async move { client.activate(id).await };
        self.effect(Operation::ACTIVATE, find, activate).await.map(|(done, _)| done)
    }

    /// The bytes of a symmetric key ([`Client::get_key`]). A server that lacks it does not stand for the others.
    ///
    /// # Errors
    /// If the key can't be had; see [`ReplicasError::is_missing_everywhere`].
    pub async fn get_key(&self, id: &str) -> Result<SecretBytes, ReplicasError> {
        self.read(Operation::GET, |client| async move { client.get_key(id).await }).await
    }

    /// The state of an object.
    ///
    /// # Errors
    /// If it can't be had.
    pub async fn state(&self, id: &str) -> Result<State, ReplicasError> {
        self.read(Operation::GET_ATTRIBUTES, |client| async move { client.state(id).await }).await
    }

    /// Attributes of an object ([`Client::get_attributes`]).
    ///
    /// # Errors
    /// If they can't be had.
    pub async fn get_attributes(&self, id: &str, names: &[AttributeName]) -> Result<Vec<Attribute>, ReplicasError> {
        self.read(Operation::GET_ATTRIBUTES, |client| async move { client.get_attributes(id, names).await }).await
    }

    /// Adds an attribute to an object ([`Client::add_attribute`]).
    ///
    /// # Errors
    /// If it was refused, or no server could be asked.
    pub async fn add_attribute(&self, id: &str, attribute: &Attribute) -> Result<Attribute, ReplicasError> {
        let find = |client: Client| async move {
            let there = client.get_attributes(id, &[attribute.attribute_name()]).await?;
            Ok(Some(there.into_iter().find(|there| there.value == attribute.value).map_or(Found::No, Found::Yes)))
        };
        let add = |client: Client| async move { client.add_attribute(id, attribute.clone()).await };
        self.effect(Operation::ADD_ATTRIBUTE, find, add).await.map(|(done, _)| done)
    }

    /// The objects that match, at the first server that has any.
    ///
    /// # Errors
    /// If it was refused, or no server could be asked.
    pub async fn locate(&self, filter: &Filter) -> Result<Located, ReplicasError> {
        let mut attempt = Attempt::default();
        let look = |client: Client| async move {
            let ids = client.locate(filter.clone()).await?;
            Ok((!ids.is_empty()).then_some(ids))
        };
        match Box::pin(self.ask(Operation::LOCATE, &mut attempt, never, look)).await {
            Some(ids) => Ok(Located { ids, not_asked: vec![] }),
            None if attempt.is_only_unanswered() => {
                let not_asked = attempt.failures().map(|error| error.address().to_owned()).collect();
                Ok(Located { ids: vec![], not_asked })
            }
            None => Err(ReplicasError::new(Operation::LOCATE, attempt)),
        }
    }

    /// Revokes an object ([`Client::revoke`]).
    ///
    /// # Errors
    /// If it was refused, or no server could be asked.
    pub async fn revoke(
        &self,
        id: &str,
        reason: &RevocationReason,
        compromised_at: Option<i64>,
    ) -> Result<(), ReplicasError> {
        let revoked = [State::DEACTIVATED, State::COMPROMISED, State::DESTROYED, State::DESTROYED_COMPROMISED];
        let find = |client: Client| async move { is_in_state(&client, id, &revoked).await };
        let revoke = |client: Client| async move { client.revoke(id, reason.clone(), compromised_at).await };
        self.effect(Operation::REVOKE, find, revoke).await.map(|(done, _)| done)
    }

    /// Destroys the key material of an object ([`Client::destroy`]).
    ///
    /// # Errors
    /// If it was refused, or no server could be asked.
    pub async fn destroy(&self, id: &str) -> Result<(), ReplicasError> {
        let destroyed = [State::DESTROYED, State::DESTROYED_COMPROMISED];
        let find = |client: Client| async move { is_in_state(&client, id, &destroyed).await };
        let destroy = |client: Client| async move { client.destroy(id).await };
        self.effect(Operation::DESTROY, find, destroy).await.map(|(done, _)| done)
    }

    /// Encrypts with a key that stays at the server ([`Client::encrypt`]).
    ///
    /// # Errors
    /// If it was refused, or no server could be asked.
    pub async fn encrypt(&self, request: &EncryptRequest) -> Result<EncryptResponse, ReplicasError> {
        self.read(Operation::ENCRYPT, |client| async move { client.encrypt(request.copy()).await }).await
    }

    /// Decrypts with a key that stays at the server ([`Client::decrypt`]).
    ///
    /// # Errors
    /// If it was refused, or no server could be asked.
    pub async fn decrypt(&self, request: &DecryptRequest) -> Result<DecryptResponse, ReplicasError> {
        self.read(Operation::DECRYPT, |client| async move { client.decrypt(request.copy()).await }).await
    }

    /// Asks for what changes nothing.
    pub(super) async fn read<T, A>(&self, operation: Operation, act: impl Fn(Client) -> A) -> Result<T, ReplicasError>
    where
        A: Future<Output = Result<T, ClientError>>,
    {
        Ok(self.effect(operation, never, act).await?.0)
    }

    /// Asks for what changes something. Once it may have been done, `find` tells at the next server whether it was; where
    /// it can't tell, no other server is asked.
    async fn effect<T, F, A>(
        &self,
        operation: Operation,
        find: impl Fn(Client) -> F,
        act: impl Fn(Client) -> A,
    ) -> Result<(T, Attempt), ReplicasError>
    where
        F: Future<Output = Result<Option<Found<T>>, ClientError>>,
        A: Future<Output = Result<T, ClientError>>,
    {
        let mut attempt = Attempt::default();
        let act = |client| {
            let acted = act(client);
            async move { acted.await.map(Some) }
        };
        match Box::pin(self.ask(operation, &mut attempt, find, act)).await {
            Some(done) => Ok((done, attempt)),
            None => Err(ReplicasError::new(operation, attempt)),
        }
    }

    /// Goes from server to server until one answers.
    async fn ask<T, F, A>(
        &self,
        operation: Operation,
        attempt: &mut Attempt,
        find: impl Fn(Client) -> F,
        act: impl Fn(Client) -> A,
    ) -> Option<T>
    where
        F: Future<Output = Result<Option<Found<T>>, ClientError>>,
        A: Future<Output = Result<Option<T>, ClientError>>,
    {
        loop {
            let start = Instant::now();
            let place = lock(&self.roster).next(attempt, start, self.timeout)?;
            let server = self.servers.get(place)?;
            // The other half is left for the server, so that what is then too slow is the server.
            let turn = match server.turn(operation, start + self.timeout / 2).await {
                Ok(turn) => turn,
                Err(error) => {
                    // Nothing was sent. If the server failed meanwhile, that is why, and ours is not in doubt.
                    let standing = lock(&self.roster).standing(place);
                    let failed = standing.last_error.filter(|(at, _)| start <= *at).map(|(_, error)| error);
                    attempt.note(Verdict::Failed, failed.unwrap_or_else(|| Arc::new(error)));
                    continue;
                }
            };
            let client = || turn.client.until(start + self.timeout);
            let found = match attempt.is_in_doubt() {
                false => Ok(Some(Found::No)),
                true => find(client()).await,
            };
            let answer = match found {
                Ok(Some(Found::Yes(done))) => Ok(Some(done)),
                Ok(Some(Found::No)) => match act(client()).await {
                    // What is in doubt may have been done after the look, by a request that was still on its way.
                    Err(error) if attempt.is_in_doubt() && error.result_reason().is_some() => {
                        match find(client()).await {
                            Ok(Some(Found::Yes(done))) => Ok(Some(done)),
                            _ => Err(error),
                        }
                    }
                    answer => answer,
                },
                Ok(None) => return None,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => {
                    lock(&self.roster).succeeded(place, Instant::now(), start.elapsed());
                    match answer {
                        Some(answer) => return Some(answer),
                        None => attempt.note_lacking(),
                    }
                }
                Err(error) => {
                    let (verdict, error) = (Verdict::of(&error), Arc::new(error));
                    self.record(place, verdict, &error);
                    attempt.note(verdict, error);
                    if verdict == Verdict::Stands {
                        return None;
                    }
                }
            }
        }
    }

    fn record(&self, place: usize, verdict: Verdict, error: &Arc<ClientError>) {
        let aside = lock(&self.roster).failed(place, verdict, error, Instant::now());
        if aside && let Some(server) = self.servers.get(place) {
            tracing::debug!(server = server.address, %error, "a key server is set aside");
            // Their connections are most likely of no use any more.
            lock(&server.idle).clear();
            server.failed.notify_waiters();
        }
    }
}

impl Server {
    fn new(config: ClientConfig, connections: usize) -> Self {
        Self {
            address: config.address(),
            config,
            idle: Mutex::default(),
            turns: Semaphore::new(connections),
            failed: Notify::new(),
        }
    }

    /// A client of its own, by `deadline`. Who waits while the server fails for another doesn't wait on.
    async fn turn(&self, operation: Operation, deadline: Instant) -> Result<Turn<'_>, ClientError> {
        let start = Instant::now();
        let failed = self.failed.notified();
        let waited = || {
            let (address, during) = (self.address.clone(), Phase::Waiting(operation));
            ClientError::Timeout { address, during, after: start.elapsed() }
        };
        tokio::select! {
            biased;
            permit = timeout_at(deadline.into(), self.turns.acquire()) => match permit {
                Ok(Ok(permit)) => {
                    let client = lock(&self.idle).pop().unwrap_or_else(|| Client::new(self.config.clone()));
                    Ok(Turn { server: self, client, _permit: permit })
                }
                _ => Err(waited()),
            },
            () = failed => Err(waited()),
        }
    }
}

/// For what changes nothing, and so is never in doubt.
async fn never<T>(_: Client) -> Result<Option<Found<T>>, ClientError> {
    Ok(None)
}

async fn is_in_state(client: &Client, id: &str, states: &[State]) -> Result<Option<Found<()>>, ClientError> {
    let state = client.state(id).await?;
    Ok(Some(if states.contains(&state) { Found::Yes(()) } else { Found::No }))
}

/// What these locks hold is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
