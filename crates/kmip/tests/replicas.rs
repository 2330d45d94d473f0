//! Several servers as one: each kind of fault gives its own error, and the next server is used.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kmip::attribute::{Attribute, AttributeValue};
use kmip::client::{BackOff, Client, ClientConfig, ClientError, Filter, Phase, Replicas, TlsFault};
use kmip::message::{RequestMessage, ResponseHeader, ResponseItem, ResponseMessage};
use kmip::names::{ObjectType, Operation, ResultReason, State};
use kmip::object::{KeyBlock, ManagedObject};
use kmip::operation::*;
use kmip::server::{Handler, PeerIdentity, ServerConfig, serve};
use kmip::{ProtocolVersion, SecretBytes};
use support::pki::{Authority, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// What replicas share: keys, by identifier.
#[derive(Default)]
struct Keys {
    by_id: Mutex<HashMap<String, (Option<String>, State)>>,
}

/// What a server does with a request for an operation before it has come to its senses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Does it, and hangs up instead of answering.
    DiesAfter,
    /// Hangs up.
    DiesBefore,
    /// Answers something that is no message.
    Garbage,
    /// Answers the first half of what it should.
    Half,
    /// Answers another request.
    AnotherAnswer,
    /// Does it to another object.
    AnotherObject,
    /// Answers nothing, and keeps the connection.
    Silence,
    /// Says that it failed.
    Failure(ResultReason),
}

struct Server {
    keys: Arc<Keys>,
    fault: Mutex<Option<(Operation, Fault)>>,
    asked: AtomicUsize,
}

impl Server {
    fn do_it(&self, payload: RequestPayload) -> Result<ResponsePayload, ResultReason> {
        let mut keys = self.keys.by_id.lock().unwrap();
        let id = |id: Option<String>| id.ok_or(ResultReason::ITEM_NOT_FOUND);
        Ok(match payload {
            RequestPayload::Create(create) => {
                let name = create.attributes.iter().find_map(|attribute| match &attribute.value {
                    AttributeValue::Name(name) => Some(name.value.clone()),
                    _ => None,
                });
                let unique_identifier = format!("key-{}", keys.len());
                keys.insert(unique_identifier.clone(), (name, State::PRE_ACTIVE));
                let object_type = ObjectType::SYMMETRIC_KEY;
                ResponsePayload::Create(CreateResponse { object_type, unique_identifier, attributes: vec![] })
            }
            RequestPayload::Activate(request) => {
                let unique_identifier = id(request.unique_identifier)?;
                let (_, state) = keys.get_mut(&unique_identifier).ok_or(ResultReason::ITEM_NOT_FOUND)?;
                if *state != State::PRE_ACTIVE {
                    return Err(ResultReason::PERMISSION_DENIED);
                }
                *state = State::ACTIVE;
                ResponsePayload::Activate(ActivateResponse { unique_identifier })
            }
            RequestPayload::GetAttributes(request) => {
                let unique_identifier = id(request.unique_identifier)?;
                let (_, state) = keys.get(&unique_identifier).ok_or(ResultReason::ITEM_NOT_FOUND)?;
                let attributes = vec![Attribute::new(AttributeValue::State(*state))];
                ResponsePayload::GetAttributes(GetAttributesResponse { unique_identifier, attributes })
            }
            RequestPayload::Get(request) => {
                let unique_identifier = id(request.unique_identifier)?;
                keys.get(&unique_identifier).ok_or(ResultReason::ITEM_NOT_FOUND)?;
                let block = KeyBlock::raw_aes(SecretBytes::copy_of(&[7; 32])).unwrap();
                let object = ManagedObject::SymmetricKey(block);
                ResponsePayload::Get(GetResponse { object_type: ObjectType::SYMMETRIC_KEY, unique_identifier, object })
            }
            RequestPayload::Locate(request) => {
                let wanted = request.attributes.iter().find_map(|attribute| match &attribute.value {
                    AttributeValue::Name(name) => Some(name.value.clone()),
                    _ => None,
                });
                let found = keys.iter().filter(|(_, (name, _))| *name == wanted).map(|(id, _)| id.clone());
                ResponsePayload::Locate(LocateResponse { located_items: None, unique_identifiers: found.collect() })
            }
            RequestPayload::Query(_) => ResponsePayload::Query(QueryResponse::default()),
            RequestPayload::DiscoverVersions(_) => {
                ResponsePayload::DiscoverVersions(DiscoverVersionsResponse { versions: vec![ProtocolVersion::V1_4] })
            }
            _ => return Err(ResultReason::OPERATION_NOT_SUPPORTED),
        })
    }

    fn answer(&self, request: RequestMessage) -> ResponseMessage {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let header = ResponseHeader::new(request.header.protocol_version, 0);
        let items = request.items.into_iter().map(|item| {
            let operation = item.payload.operation();
            match self.do_it(item.payload) {
                Ok(payload) => ResponseItem::success(item.unique_batch_item_id, payload),
                Err(reason) => ResponseItem::failure(Some(operation), None, reason, "no".into()),
            }
        });
        ResponseMessage { header, items: items.collect() }
    }

    /// Answers one connection's requests, until a fault says otherwise.
    async fn converse(self: Arc<Self>, mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
        loop {
            let mut header = [0; 8];
            if stream.read_exact(&mut header).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes(header[4..].try_into().unwrap());
            let mut message = header.to_vec();
            message.resize(8 + usize::try_from(length).unwrap(), 0);
            stream.read_exact(&mut message[8..]).await.unwrap();
            let request = RequestMessage::decode(&message, &kmip::ttlv::Limits::default()).unwrap();
            let version = request.header.protocol_version;
            let operation = request.items[0].payload.operation();
            let fault = self.fault.lock().unwrap().filter(|(faulty, _)| *faulty == operation).map(|(_, fault)| fault);
            let bytes = match fault {
                None => self.answer(request).encode().unwrap().to_vec(),
                Some(Fault::DiesBefore) => return,
                Some(Fault::DiesAfter) => {
                    self.answer(request);
                    return;
                }
                Some(Fault::Garbage) => b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
                Some(Fault::Half) => {
                    let whole = self.answer(request).encode().unwrap();
                    stream.write_all(&whole[..whole.len() / 2]).await.unwrap();
                    return;
                }
                Some(Fault::AnotherAnswer) => {
                    let payload = ResponsePayload::Locate(LocateResponse::default());
                    let header = ResponseHeader::new(version, 0);
                    let items = vec![ResponseItem::success(None, payload)];
                    ResponseMessage { header, items }.encode().unwrap().to_vec()
                }
                Some(Fault::AnotherObject) => {
                    let mut response = self.answer(request);
                    for item in &mut response.items {
                        let answered = item.payload.as_mut().and_then(identifier);
                        answered.unwrap_or_else(|| panic!("{operation} names no object")).push_str("-other");
                    }
                    response.encode().unwrap().to_vec()
                }
                Some(Fault::Silence) => std::future::pending().await,
                Some(Fault::Failure(reason)) => {
                    let item = ResponseItem::failure(Some(operation), None, reason, "no".into());
                    let header = ResponseHeader::new(version, 0);
                    ResponseMessage { header, items: vec![item] }.encode().unwrap().to_vec()
                }
            };
            stream.write_all(&bytes).await.unwrap();
            stream.flush().await.unwrap();
        }
    }
}

/// Where an answer names the object that it is about.
fn identifier(payload: &mut ResponsePayload) -> Option<&mut String> {
    Some(match payload {
        ResponsePayload::Get(response) => &mut response.unique_identifier,
        ResponsePayload::GetAttributes(response) => &mut response.unique_identifier,
        ResponsePayload::Activate(response) => &mut response.unique_identifier,
        _ => return None,
    })
}

/// Servers of the same keys, and a client that knows them all.
struct Cluster {
    servers: Vec<Arc<Server>>,
    replicas: Arc<Replicas>,
}

const PATIENCE: Duration = Duration::from_millis(1500);

async fn cluster(count: usize) -> Cluster {
    let keys = Arc::new(Keys::default());
    cluster_of((0..count).map(|_| Arc::clone(&keys)).collect()).await
}

async fn cluster_of(keys: Vec<Arc<Keys>>) -> Cluster {
    let authority = Authority::new("test authority");
    let mut servers = Vec::new();
    let mut configs = Vec::new();
    for keys in keys {
        let server = Arc::new(Server { keys, fault: Mutex::default(), asked: AtomicUsize::default() });
        let identity = authority.server();
        let tls = support::pki::server_tls(&authority, &identity);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        configs.push(config(&authority, listener.local_addr().unwrap().port()));
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, server) = (tokio_rustls::TlsAcceptor::from(Arc::clone(&tls)), Arc::clone(&serving));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        server.converse(stream).await;
                    }
                });
            }
        });
        servers.push(server);
    }
    let replicas = Replicas::new(configs)
        .unwrap()
        .with_timeout(PATIENCE)
        .with_back_off(BackOff { first: Duration::from_secs(600), most: Duration::from_secs(600) });
    Cluster { servers, replicas: Arc::new(replicas) }
}

fn config(authority: &Authority, port: u16) -> ClientConfig {
    let Identity { certificate, key } = authority.client("alice");
    ClientConfig::new("127.0.0.1", port, authority.pem.as_bytes(), certificate.as_bytes(), key.as_bytes()).unwrap()
}

impl Cluster {
    fn spoil(&self, server: usize, operation: Operation, fault: Fault) {
        *self.servers[server].fault.lock().unwrap() = Some((operation, fault));
    }

    fn asked(&self, server: usize) -> usize {
        self.servers[server].asked.load(Ordering::SeqCst)
    }

    fn last_error(&self, server: usize) -> Arc<ClientError> {
        self.replicas.status()[server].last_error.clone().unwrap().1
    }
}

#[tokio::test]
async fn every_fault_has_its_error_and_the_next_server_answers() {
    let faults = [Fault::DiesBefore, Fault::Garbage, Fault::Half, Fault::AnotherAnswer, Fault::AnotherObject];
    for fault in faults.into_iter().chain([Fault::Silence]) {
        let cluster = cluster(2).await;
        let id = cluster.replicas.create_aes256(&[]).await.unwrap().id;
        cluster.spoil(0, Operation::GET, fault);
        let start = Instant::now();
        assert_eq!(cluster.replicas.get_key(&id).await.unwrap().expose(), [7; 32], "{fault:?}");
        assert!(start.elapsed() < PATIENCE * 3, "{fault:?}");

        let error = cluster.last_error(0);
        let as_expected = match (fault, &*error) {
            (Fault::DiesBefore | Fault::Half, ClientError::Interrupted { operation, .. })
            | (Fault::Garbage, ClientError::Protocol { operation, .. })
            | (Fault::AnotherAnswer | Fault::AnotherObject, ClientError::UnexpectedAnswer { operation, .. })
            | (Fault::Silence, ClientError::Timeout { during: Phase::Request(operation), .. }) => {
                *operation == Operation::GET
            }
            _ => false,
        };
        assert!(as_expected, "{fault:?}: {error}");
        let status = cluster.replicas.status();
        assert!(status[0].set_aside_until.is_some() && status[1].set_aside_until.is_none());
        // While it is set aside it is not asked again.
        let asked = cluster.asked(0);
        cluster.replicas.get_key(&id).await.unwrap();
        assert_eq!(cluster.asked(0), asked);
    }
}

/// What a server says of another object is no answer.
#[tokio::test]
async fn an_answer_about_another_object_is_none() {
    let cluster = cluster(1).await;
    let id = cluster.replicas.create_aes256(&[]).await.unwrap().id;
    cluster.spoil(0, Operation::GET_ATTRIBUTES, Fault::AnotherObject);
    let error = cluster.replicas.state(&id).await.unwrap_err();
    assert!(error.to_string().contains("another object"), "{error}");
    cluster.spoil(0, Operation::ACTIVATE, Fault::AnotherObject);
    let activated = cluster.replicas.activate(&id).await;
    assert!(cluster.last_error(0).to_string().contains("another object"), "{activated:?}");
}

/// The server goes on listening, but its certificate is over: of the connection there was, no more use is made.
#[tokio::test]
async fn a_certificate_that_expires_in_the_midst() {
    let authority = Authority::new("test authority");
    let keys = Arc::new(Keys::default());
    let mut configs = Vec::new();
    let mut stops = Vec::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let soon = now + Duration::from_secs(3);
    for identity in [authority.server_until(soon), authority.server()] {
        let tls = ServerConfig::new(identity.certificate.as_bytes(), identity.key.as_bytes(), authority.pem.as_bytes());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        configs.push(config(&authority, listener.local_addr().unwrap().port()));
        let (stop, stopped) = oneshot::channel::<()>();
        stops.push(stop);
        let server = Server { keys: Arc::clone(&keys), fault: Mutex::default(), asked: AtomicUsize::default() };
        tokio::spawn(serve(listener, tls.unwrap(), Arc::new(Shared(server)), async {
            let _ = stopped.await;
        }));
    }
    let replicas = Arc::new(Replicas::new(configs).unwrap());
    let id = replicas.create_aes256(&[]).await.unwrap().id;
    assert!(replicas.status()[0].last_error.is_none(), "{:?}", replicas.status());
    let deadline = Instant::now() + Duration::from_secs(30);
    while replicas.status()[0].last_error.is_none() {
        replicas.get_key(&id).await.unwrap();
        assert!(Instant::now() < deadline, "the expired certificate was not noticed");
        tokio::task::yield_now().await;
    }
    let (_, error) = replicas.status()[0].last_error.clone().unwrap();
    let ClientError::Tls { fault, .. } = &*error else { panic!("{error}") };
    assert_eq!(*fault, TlsFault::ServerCertificateExpired { not_after: Some(soon.as_secs()) });
    assert_eq!(fault.field(), Some("notAfter"));
    replicas.get_key(&id).await.unwrap();
}

struct Shared(Server);

impl Handler for Shared {
    async fn handle(&self, _: &PeerIdentity, request: RequestMessage) -> ResponseMessage {
        self.0.answer(request)
    }
}

/// What may have been done is looked for before it is done again.
#[tokio::test]
async fn nothing_is_done_twice() {
    // Made, and not told: found at the next server by its name.
    let cluster = cluster(2).await;
    cluster.spoil(0, Operation::CREATE, Fault::DiesAfter);
    let created = cluster.replicas.create_aes256(&[Attribute::name("one")]).await.unwrap();
    assert_eq!(cluster.servers[0].keys.by_id.lock().unwrap().len(), 1);
    assert_eq!(created.maybe_also_at, None);

    // Not made, and not told: made at the next server, and it is said where there may be another.
    let cluster = self::cluster(2).await;
    cluster.spoil(0, Operation::CREATE, Fault::DiesBefore);
    let created = cluster.replicas.create_aes256(&[Attribute::name("one")]).await.unwrap();
    assert_eq!(cluster.servers[0].keys.by_id.lock().unwrap().len(), 1);
    assert_eq!(created.maybe_also_at, Some(cluster.replicas.status()[0].address.clone()));

    // Without a name nobody can look for it: no other server is asked.
    let cluster = self::cluster(2).await;
    cluster.spoil(0, Operation::CREATE, Fault::DiesAfter);
    let error = cluster.replicas.create_aes256(&[]).await.unwrap_err();
    assert!(error.may_have_taken_effect(), "{error}");
    assert_eq!(cluster.servers[0].keys.by_id.lock().unwrap().len(), 1);

    // Activated, and not told.
    let cluster = self::cluster(2).await;
    let id = cluster.replicas.create_aes256(&[]).await.unwrap().id;
    cluster.spoil(0, Operation::ACTIVATE, Fault::DiesAfter);
    cluster.replicas.activate(&id).await.unwrap();
    assert_eq!(cluster.replicas.state(&id).await.unwrap(), State::ACTIVE);
    let cluster = self::cluster(2).await;
    let id = cluster.replicas.create_aes256(&[]).await.unwrap().id;
    cluster.spoil(0, Operation::ACTIVATE, Fault::DiesBefore);
    cluster.replicas.activate(&id).await.unwrap();
    assert_eq!(cluster.replicas.state(&id).await.unwrap(), State::ACTIVE);
}

#[tokio::test]
async fn a_key_is_missing_when_every_server_says_so() {
    // Not yet copied from one to the other.
    let cluster = cluster_of(vec![Arc::default(), Arc::default()]).await;
    cluster.servers[1].keys.by_id.lock().unwrap().insert("late".into(), (Some("late".into()), State::ACTIVE));
    assert_eq!(cluster.replicas.get_key("late").await.unwrap().expose(), [7; 32]);
    assert_eq!(cluster.replicas.locate(&Filter::by_name("late")).await.unwrap().ids, ["late"]);
    // That it lacks one key is no fault of a server's.
    assert!(cluster.replicas.status().iter().all(|server| server.set_aside_until.is_none()));

    let error = cluster.replicas.get_key("never").await.err().unwrap();
    assert!(error.is_missing_everywhere(), "{error}");
    assert_eq!(error.failures().count(), 2);
    assert_eq!(cluster.replicas.locate(&Filter::by_name("never")).await.unwrap().not_asked, [""; 0]);

    // A server that could not be asked may have it.
    cluster.spoil(1, Operation::GET, Fault::DiesBefore);
    let error = cluster.replicas.get_key("never").await.err().unwrap();
    assert!(!error.is_missing_everywhere());
    assert!(matches!(error.decisive(), Some(ClientError::Interrupted { .. })), "{error}");
    cluster.spoil(1, Operation::LOCATE, Fault::DiesBefore);
    let located = cluster.replicas.locate(&Filter::by_name("never")).await.unwrap();
    assert_eq!(located.not_asked, [cluster.replicas.status()[1].address.clone()]);
}

#[tokio::test]
async fn an_answer_stands_and_a_failure_does_not() {
    let cluster = cluster(2).await;
    let id = cluster.replicas.create_aes256(&[]).await.unwrap().id;
    cluster.spoil(0, Operation::GET, Fault::Failure(ResultReason::PERMISSION_DENIED));
    let asked = cluster.asked(1);
    let refused = cluster.replicas.get_key(&id).await.err().unwrap();
    assert_eq!(refused.result_reason(), Some(ResultReason::PERMISSION_DENIED));
    assert_eq!(cluster.asked(1), asked);
    cluster.spoil(0, Operation::GET, Fault::Failure(ResultReason::GENERAL_FAILURE));
    cluster.replicas.get_key(&id).await.unwrap();
    assert!(cluster.replicas.status()[0].set_aside_until.is_none());
}

/// Many requests at once find out together that the first server has fallen silent: none waits for it longer than the
/// time-out, though they share its few connections.
#[tokio::test]
async fn a_slow_server_slows_nobody_by_more_than_the_time_out() {
    let cluster = cluster(2).await;
    let id = cluster.replicas.create_aes256(&[]).await.unwrap().id;
    cluster.spoil(0, Operation::GET, Fault::Silence);
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (replicas, id) = (Arc::clone(&cluster.replicas), id.clone());
        requests.spawn(async move {
            let start = Instant::now();
            replicas.get_key(&id).await.unwrap();
            start.elapsed()
        });
    }
    let slowest = requests.join_all().await.into_iter().max().unwrap();
    assert!(slowest < PATIENCE * 2, "{slowest:?}");
}

#[tokio::test]
async fn with_all_servers_dead_each_ones_error_is_told() {
    let authority = Authority::new("test authority");
    let mut configs = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        configs.push(config(&authority, listener.local_addr().unwrap().port()));
    }
    let addresses: Vec<_> = configs.iter().map(ClientConfig::address).collect();
    let replicas = Arc::new(Replicas::new(configs).unwrap());
    for _ in 0..2 {
        let error = replicas.get_key("1").await.err().unwrap();
        let text = error.to_string();
        assert!(addresses.iter().all(|address| text.contains(address)), "{text}");
        assert!(error.failures().all(|error| matches!(error, ClientError::Unreachable { .. })), "{text}");
    }
    assert!(replicas.probe().await.iter().all(Result::is_err));
    assert!(replicas.status().iter().all(|server| server.set_aside_until.is_some()));
}

#[tokio::test]
async fn probing_brings_the_status_up_to_date() {
    let cluster = cluster(2).await;
    cluster.spoil(0, Operation::QUERY, Fault::Garbage);
    let probes = cluster.replicas.probe().await;
    assert!(probes[0].is_err() && probes[1].is_ok());
    let status = cluster.replicas.status();
    assert!(status[0].last_success.is_none() && status[0].last_error.is_some());
    assert!(status[1].last_success.is_some() && status[1].latency.is_some());
    assert!(Replicas::new(vec![]).is_none());
}

/// A deadline counts for connecting too.
#[tokio::test]
async fn a_request_has_to_be_answered_by_its_deadline() {
    let authority = Authority::new("test authority");
    // The system takes the connection, and nobody ever says anything.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let client = Client::new(config(&authority, listener.local_addr().unwrap().port()));
    let start = Instant::now();
    let error = client.until(start + Duration::from_millis(200)).version().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { during: Phase::Connecting, .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}
