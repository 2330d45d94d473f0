//! Who gets in, and who is told to be who.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use ward_rpc::{Authority, Call, CallError, Client, Credentials, Limits, Peer, Request, Role, ServerKind};
use ward_types::{Code, HostId, Problem};

#[derive(Debug, Serialize, Deserialize)]
struct WhoAmI {
    refuse: bool,
}

impl Call for WhoAmI {
    type Reply = Option<HostId>;
    const NAME: &'static str = "who-am-i";
}

struct Server {
    address: SocketAddr,
    role: Role,
    shutdown: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn server(ca: &Authority, kind: ServerKind) -> Server {
    let role = Role::Controller(Uuid::new_v4());
    let tls = ward_rpc::server_config(ca.certificate(), &ca.issue(role, &[]).unwrap(), kind).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = ward_rpc::route(Router::new(), |(), peer: Peer, call: WhoAmI| async move {
        if call.refuse {
            return Err(Problem::new(Code::Busy, "cannot tell", "asked not to", "ask otherwise"));
        }
        Ok(peer.host())
    });
    let shutdown = CancellationToken::new();
    tokio::spawn(ward_rpc::serve(listener, tls, router, shutdown.clone()));
    Server { address, role, shutdown }
}

async fn ask(
    server: &Server,
    trusted: &Authority,
    shown: Option<&Credentials>,
    refuse: bool,
) -> Result<Option<HostId>, CallError> {
    let tls = ward_rpc::client_config(trusted.certificate(), shown).unwrap();
    let client = Client::new(tls, &server.role.server_name(), server.address).unwrap();
    client.call(WhoAmI { refuse }).await
}

fn host(ca: &Authority) -> (HostId, Credentials) {
    let id = HostId::new();
    let request = Request::new().unwrap();
    let certificate = ca.sign(&request.csr().unwrap(), Role::Host(id)).unwrap();
    (id, request.complete(certificate))
}

#[tokio::test]
async fn a_host_is_who_its_certificate_says() {
    let ca = Authority::generate().unwrap();
    let server = server(&ca, ServerKind::Mutual).await;
    let (id, credentials) = host(&ca);
    assert_eq!(ask(&server, &ca, Some(&credentials), false).await.unwrap(), Some(id));
}

#[tokio::test]
async fn strangers_stay_out() {
    let (ca, other) = (Authority::generate().unwrap(), Authority::generate().unwrap());
    let mutual = server(&ca, ServerKind::Mutual).await;
    let (_, foreign) = host(&other);
    let unreachable = |result| matches!(result, Err(CallError::Unreachable { .. }));
    assert!(unreachable(ask(&mutual, &ca, None, false).await), "no certificate");
    assert!(unreachable(ask(&mutual, &ca, Some(&foreign), false).await), "a certificate of another CA");
    assert!(unreachable(ask(&mutual, &other, Some(&foreign), false).await), "a server of another CA");
    let optional = server(&ca, ServerKind::MutualOrNone).await;
    assert_eq!(ask(&optional, &ca, None, false).await.unwrap(), None, "nobody where nobody is allowed");
    assert!(unreachable(ask(&optional, &ca, Some(&foreign), false).await), "a certificate of another CA");
}

#[tokio::test]
async fn a_server_must_have_the_name_it_was_called_by() {
    let ca = Authority::generate().unwrap();
    let mut server = server(&ca, ServerKind::Open).await;
    server.role = Role::Host(HostId::new());
    let error = ask(&server, &ca, None, false).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_refusal_arrives_whole() {
    let ca = Authority::generate().unwrap();
    let server = server(&ca, ServerKind::Open).await;
    match ask(&server, &ca, None, true).await {
        Err(CallError::Refused(problem)) => {
            assert_eq!(*problem, Problem::new(Code::Busy, "cannot tell", "asked not to", "ask otherwise"));
        }
        other => panic!("{other:?}"),
    }
}

/// A client may send head and body apart, and the head alone may be refused.
#[tokio::test]
async fn a_client_that_is_refused_before_it_has_sent_all_hears_it_and_may_go_on() {
    let ca = Authority::generate().unwrap();
    let server = server(&ca, ServerKind::Open).await;
    let tls = tokio_rustls::TlsConnector::from(ward_rpc::client_config(ca.certificate(), None).unwrap());
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from(server.role.server_name()).unwrap();
    let mut stream = tls.connect(name, stream).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        // Whoever does not hear the rest answers, and hangs up, before it comes.
        let early = tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await;
        assert!(early.is_err(), "it did not wait: {early:?}");
        stream.write_all(b"{\"a\":1}").await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 404");
        let mut rest = vec![0; 4096];
        while !answer.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut rest).await.unwrap();
            assert!(read > 0, "the connection was closed");
            answer.extend(&rest[..read]);
        }
    }
}

/// A TLS session with a server that lets anybody in, within limits; and the server's word that it has ended.
async fn within(limits: Limits) -> (SocketAddr, tokio_rustls::TlsConnector, String, CancellationToken, JoinHandle<()>) {
    let ca = Authority::generate().unwrap();
    let role = Role::Controller(Uuid::new_v4());
    let server = ward_rpc::server_config(ca.certificate(), &ca.issue(role, &[]).unwrap(), ServerKind::Open).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", post(|body: String| async move { body }));
    let shutdown = CancellationToken::new();
    let serving = ward_rpc::serve_known(listener, server, router, shutdown.clone(), limits, |_| Some(()));
    let tls = tokio_rustls::TlsConnector::from(ward_rpc::client_config(ca.certificate(), None).unwrap());
    (address, tls, role.server_name(), shutdown, tokio::spawn(serving))
}

async fn session(address: SocketAddr, tls: &tokio_rustls::TlsConnector, name: &str) -> TlsStream<TcpStream> {
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    tls.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap()
}

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n";

#[tokio::test]
async fn a_body_that_does_not_end_is_not_waited_for() {
    let limits = Limits { body: Duration::from_millis(100), ..Limits::default() };
    let (address, tls, name, ..) = within(limits).await;
    let mut slow = session(address, &tls, &name).await;
    slow.write_all(HEAD).await.unwrap();
    slow.write_all(b"six by").await.unwrap();
    let mut answer = vec![0; 12];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 400");
    let mut quick = session(address, &tls, &name).await;
    quick.write_all(HEAD).await.unwrap();
    quick.write_all(b"7 bytes").await.unwrap();
    quick.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn no_more_connections_than_there_may_be_are_taken_and_they_do_not_keep_a_server_from_ending() {
    let limits = Limits { connections: 1, grace: Duration::from_millis(100), ..Limits::default() };
    let (address, tls, name, shutdown, serving) = within(limits).await;
    let mut first = session(address, &tls, &name).await;
    let second = session(address, &tls, &name);
    tokio::pin!(second);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut second).await;
    assert!(early.is_err(), "it is let in beside the first");
    first.write_all(&[HEAD, b"7 bytes"].concat()).await.unwrap();
    let mut answer = vec![0; 12];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
    drop(first);
    // Its request is open, and stays so.
    let mut second = second.await;
    let head = [&HEAD[..HEAD.len() - 2], b"Expect: 100-continue\r\n\r\n"].concat();
    second.write_all(&head).await.unwrap();
    second.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 100");
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
}
