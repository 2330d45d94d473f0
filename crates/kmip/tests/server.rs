//! What the server loop does with peers that misbehave, and when it has to end.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kmip::client::{Client, ClientConfig, ClientError, Replicas};
use kmip::message::{RequestMessage, ResponseHeader, ResponseItem, ResponseMessage};
use kmip::names::{Operation, ResultReason};
use kmip::operation::{
    ActivateRequest, ActivateResponse, DecryptRequest, DecryptResponse, DestroyResponse, DiscoverVersionsResponse,
    LocateResponse, RequestPayload, ResponsePayload,
};
use kmip::server::{Handler, PeerIdentity, ServerConfig, serve};
use kmip::ttlv::Limits;
use kmip::{ProtocolVersion, SecretBytes};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use support::pki::{Authority, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

/// Activates whatever it is told to; to destroy something it waits until it may.
#[derive(Default)]
struct Counts {
    activated: AtomicUsize,
    destroying: Notify,
    may_destroy: Notify,
    peers: std::sync::Mutex<Vec<Option<String>>>,
}

impl Handler for Counts {
    async fn handle(&self, peer: &PeerIdentity, request: RequestMessage) -> ResponseMessage {
        self.peers.lock().unwrap().push(peer.common_name.clone());
        let mut items = Vec::new();
        for item in request.items {
            let unique_identifier = "1".into();
            let payload = match item.payload {
                RequestPayload::DiscoverVersions(_) => ResponsePayload::DiscoverVersions(DiscoverVersionsResponse {
                    versions: ProtocolVersion::SUPPORTED.to_vec(),
                }),
                RequestPayload::Activate(_) => {
                    self.activated.fetch_add(1, Ordering::SeqCst);
                    ResponsePayload::Activate(ActivateResponse { unique_identifier })
                }
                RequestPayload::Destroy(_) => {
                    self.destroying.notify_one();
                    self.may_destroy.notified().await;
                    ResponsePayload::Destroy(DestroyResponse { unique_identifier })
                }
                RequestPayload::Decrypt(_) => ResponsePayload::Decrypt(DecryptResponse {
                    unique_identifier,
                    data: Some(SecretBytes::copy_of(&[7; 32])),
                    correlation_value: None,
                }),
                _ => ResponsePayload::Locate(LocateResponse::default()),
            };
            items.push(ResponseItem::success(item.unique_batch_item_id, payload));
        }
        ResponseMessage { header: ResponseHeader::new(request.header.protocol_version, 0), items }
    }
}

struct Running {
    port: u16,
    authority: Authority,
    handler: Arc<Counts>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn start(adjust: impl FnOnce(ServerConfig) -> ServerConfig) -> Running {
    let authority = Authority::new("test authority");
    let Identity { certificate, key } = authority.server();
    let config = ServerConfig::new(certificate.as_bytes(), key.as_bytes(), authority.pem.as_bytes()).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handler = Arc::new(Counts::default());
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(serve(listener, adjust(config), Arc::clone(&handler), async {
        let _ = stopped.await;
    }));
    Running { port, authority, handler, stop, serving }
}

impl Running {
    fn config(&self) -> ClientConfig {
        let Identity { certificate, key } = self.authority.client("alice");
        let ca = self.authority.pem.as_bytes();
        ClientConfig::new("127.0.0.1", self.port, ca, certificate.as_bytes(), key.as_bytes()).unwrap()
    }

    /// TLS and nothing above it.
    async fn raw(&self) -> TlsStream<TcpStream> {
        let Identity { certificate, key } = self.authority.client("alice");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

async fn all(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn what_is_no_request_is_told_so_and_hung_up_on() {
    let server = start(|config| config).await;
    let mut of_version_9 = RequestMessage::single(ProtocolVersion::V1_4, RequestPayload::Activate(Default::default()))
        .encode()
        .unwrap()
        .to_vec();
    of_version_9[35] = 9;
    let mut padded = of_version_9.clone();
    padded[35] = 1;
    padded[39] = 1;
    for (what, bytes, version) in [
        ("nonsense", b"GET / HTTP/1.1\r\nHost: kms\r\n\r\n".to_vec(), ProtocolVersion::V1_0),
        ("a length without end", vec![0x42, 0, 0x78, 1, 0xFF, 0xFF, 0xFF, 0xFF], ProtocolVersion::V1_0),
        ("padding that is not zero", padded, ProtocolVersion::V1_0),
        ("another version", of_version_9, ProtocolVersion::V2_1),
    ] {
        let mut stream = server.raw().await;
        stream.write_all(&bytes).await.unwrap();
        let answer = all(&mut stream).await;
        let answer = ResponseMessage::decode(&answer, &Limits::default()).unwrap();
        assert_eq!(answer.items[0].result_reason, Some(ResultReason::INVALID_MESSAGE), "{what}");
        assert_eq!(answer.header.protocol_version, version, "{what}");
    }
    assert_eq!(server.handler.activated.load(Ordering::SeqCst), 0);
    // Others are served as before.
    Client::new(server.config()).activate("1").await.unwrap();
}

#[tokio::test]
async fn an_answer_larger_than_asked_for_is_not_sent() {
    let server = start(|config| config).await;
    let mut stream = server.raw().await;
    let mut request =
        RequestMessage::single(ProtocolVersion::V1_4, RequestPayload::Activate(ActivateRequest::default()));
    request.header.maximum_response_size = Some(100);
    stream.write_all(&request.encode().unwrap()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = ResponseMessage::decode(&all(&mut stream).await, &Limits::default()).unwrap();
    assert_eq!(answer.items[0].result_reason, Some(ResultReason::RESPONSE_TOO_LARGE));
}

#[tokio::test]
async fn who_starts_a_request_must_finish_it() {
    let server = start(|config| config.with_transfer_timeout(Duration::from_millis(100))).await;
    let mut stream = server.raw().await;
    stream.write_all(&[0x42, 0, 0x78, 1, 0, 0, 0, 64, 0x42]).await.unwrap();
    assert_eq!(all(&mut stream).await, b"");
}

#[tokio::test]
async fn who_asks_nothing_is_hung_up_on() {
    let server = start(|config| config.with_idle_timeout(Duration::from_millis(100))).await;
    let mut stream = server.raw().await;
    assert_eq!(all(&mut stream).await, b"");
}

/// A connection that the server closed while it was idle is not used for what must not be sent twice.
#[tokio::test]
async fn a_client_notices_that_it_was_hung_up_on() {
    let server = start(|config| config.with_idle_timeout(Duration::from_millis(50))).await;
    let client = Client::new(server.config());
    for activated in 1..=3 {
        client.activate("1").await.unwrap();
        assert_eq!(server.handler.activated.load(Ordering::SeqCst), activated);
        // Until the server has had enough: there is nothing to wait for but the time.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(server.handler.peers.lock().unwrap().iter().all(|name| name.as_deref() == Some("alice")));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = start(|config| config.with_connections(1)).await;
    let first = Client::new(server.config());
    first.activate("1").await.unwrap();
    let second = Client::new(server.config().with_connect_timeout(Duration::from_millis(100)));
    match second.activate("1").await {
        Err(ClientError::Timeout { .. }) => {}
        other => panic!("{other:?}"),
    }
    drop(first);
    let patient = Client::new(server.config());
    patient.activate("1").await.unwrap();
}

/// What a connection has brought lies in its buffers until it ends: so one that has brought a key ends by itself.
#[tokio::test]
async fn a_connection_that_has_brought_a_key_does_not_stay_open() {
    let server = start(|config| config.with_connections(1)).await;
    let first = Client::new(server.config());
    for _ in 0..2 {
        let answer = first.decrypt(DecryptRequest::default()).await.unwrap();
        assert_eq!(answer.data.unwrap().expose(), [7; 32]);
    }
    // There is room for one: this one gets through as soon as the first has ended.
    let second = Client::new(server.config());
    second.activate("1").await.unwrap();
    drop(second);
    first.activate("1").await.unwrap();
}

#[tokio::test]
async fn nor_if_it_is_used_for_other_things_since() {
    let server = start(|config| config.with_connections(1)).await;
    let first = Client::new(server.config());
    first.decrypt(DecryptRequest::default()).await.unwrap();
    let second = Client::new(server.config());
    let using = async {
        loop {
            first.activate("1").await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        through = second.activate("1") => through.unwrap(),
        () = using => {}
    }
}

#[tokio::test]
async fn nor_if_it_is_to_one_of_several_servers() {
    let server = start(|config| config.with_connections(1)).await;
    let replicas = Replicas::new(vec![server.config()]).unwrap();
    replicas.decrypt(&DecryptRequest::default()).await.unwrap();
    Client::new(server.config()).activate("1").await.unwrap();
}

#[tokio::test]
async fn a_connection_that_has_brought_no_key_stays_open() {
    let server = start(|config| config.with_connections(1)).await;
    let first = Client::new(server.config());
    first.decrypt(DecryptRequest::default()).await.unwrap();
    let another = Client::new(server.config());
    another.activate("1").await.unwrap();
    drop(another);
    // The one that had brought a key has ended: this is a new one.
    first.activate("1").await.unwrap();
    let patience = Duration::from_millis(1500);
    let second = Client::new(server.config().with_connect_timeout(patience));
    match second.activate("1").await {
        Err(ClientError::Timeout { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_asked_before_the_end_is_answered() {
    let server = start(|config| config).await;
    let idle = Client::new(server.config());
    idle.activate("1").await.unwrap();
    let config = server.config();
    let asking = tokio::spawn(async move { Client::new(config).destroy("1").await });
    server.handler.destroying.notified().await;
    server.stop.send(()).unwrap();
    server.handler.may_destroy.notify_one();
    asking.await.unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(5), server.serving).await.unwrap().unwrap();
    assert!(matches!(idle.activate("1").await, Err(ClientError::Unreachable { .. })));
}

/// The server hangs up in the middle of an answer, the first time it's asked anything on an old connection.
#[tokio::test]
async fn only_what_reads_is_asked_again() {
    let server = start(|config| config).await;
    // A relay that breaks a connection when a request has come on it after the first.
    let relay = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = relay.local_addr().unwrap().port();
    let target = server.port;
    let cut = Arc::new(AtomicUsize::new(0));
    let cuts = Arc::clone(&cut);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = relay.accept().await.unwrap();
            let cuts = Arc::clone(&cuts);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let mut up = [0; 4096];
                let mut down = [0; 4096];
                loop {
                    tokio::select! {
                        read = from_client.read(&mut up) => {
                            let read = read.unwrap_or(0);
                            if read == 0 || cuts.load(Ordering::SeqCst) > 0 {
                                cuts.store(0, Ordering::SeqCst);
                                return;
                            }
                            to_server.write_all(&up[..read]).await.unwrap();
                        }
                        read = from_server.read(&mut down) => {
                            let read = read.unwrap_or(0);
                            if read == 0 {
                                return;
                            }
                            to_client.write_all(&down[..read]).await.unwrap();
                        }
                    }
                }
            });
        }
    });

    let Identity { certificate, key } = server.authority.client("alice");
    let ca = server.authority.pem.as_bytes();
    let config = ClientConfig::new("127.0.0.1", port, ca, certificate.as_bytes(), key.as_bytes()).unwrap();
    let client = Client::new(config);
    client.activate("1").await.unwrap();

    cut.store(1, Ordering::SeqCst);
    client.locate(Default::default()).await.unwrap();

    cut.store(1, Ordering::SeqCst);
    match client.activate("1").await {
        Err(error @ ClientError::Interrupted { operation: Operation::ACTIVATE, .. }) => {
            assert!(error.may_have_taken_effect());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.handler.activated.load(Ordering::SeqCst), 1);
    client.activate("1").await.unwrap();
}
