//! A key server that is not there at the wrong moment, or answers what no key server should: each ends in its own code and
//! event, no VM is harmed, and the repeat succeeds.
//!
//! Between the controller and a real key server stands one that speaks TLS with both and meddles with one operation.

use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use ward_controller::api::types::{TaskView, VmView};
use ward_types::{Code, EventKind, Power};

use crate::support::{Host, KeyServer, Ward};

/// What is done to the answer to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// The connection ends before the operation is done, once, as when the server is started anew.
    Restart,
    /// Bytes that are no answer.
    Garbage,
    /// An answer that ends in its middle.
    Half,
    /// The answer to the first request of the connection.
    Another,
    /// Nothing at all.
    Nothing,
}

/// KMIP's numbers of operations (KMIP 1.4 section 9.1.3.2.27).
const CREATE: u8 = 0x01;
const GET: u8 = 0x0a;
const ACTIVATE: u8 = 0x12;

type Order = Arc<Mutex<Option<(u8, Lie)>>>;

/// The next TTLV message.
async fn message(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 8];
    stream.read_exact(&mut bytes).await.ok()?;
    let length = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
    bytes.resize(8 + length, 0);
    stream.read_exact(&mut bytes[8..]).await.ok()?;
    Some(bytes)
}

fn asks_for(request: &[u8], operation: u8) -> bool {
    let item = [0x42, 0x00, 0x5c, 0x05, 0, 0, 0, 4, 0, 0, 0, operation];
    request.windows(item.len()).any(|window| window == item)
}

/// Stands between clients and the key server; tells where.
async fn meddler(server: &KeyServer, order: Order) -> SocketAddr {
    let files = server.provider("x");
    let pem = |text: &str| text.as_bytes().to_vec();
    let certificates = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().unwrap();
    let read = |file| fs::read(server.state(file)).unwrap();
    let accept = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            certificates(&read("server.pem")),
            PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap(),
        )
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&read("ca.pem")));
    let (certificate, key) = (pem(files["certificate"].as_str().unwrap()), pem(files["key"].as_str().unwrap()));
    let connect = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&certificate), PrivateKeyDer::from_pem_slice(&key).unwrap())
        .unwrap();
    let (acceptor, connector) = (TlsAcceptor::from(Arc::new(accept)), TlsConnector::from(Arc::new(connect)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, behind) = (listener.local_addr().unwrap(), server.address);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, connector, order) = (acceptor.clone(), connector.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let name = ServerName::try_from("localhost").unwrap();
                let stream = TcpStream::connect(behind).await.unwrap();
                let mut server = connector.connect(name, stream).await.unwrap();
                let mut first = Vec::new();
                while let Some(request) = message(&mut client).await {
                    let lie = {
                        let mut order = order.lock().unwrap();
                        let lie = order.filter(|(operation, _)| asks_for(&request, *operation)).map(|(_, lie)| lie);
                        if lie == Some(Lie::Restart) {
                            *order = None;
                        }
                        lie
                    };
                    if lie == Some(Lie::Restart) {
                        return;
                    }
                    server.write_all(&request).await.unwrap();
                    let answer = message(&mut server).await.unwrap();
                    let said = match lie {
                        None => &answer[..],
                        Some(Lie::Half) => &answer[..answer.len() / 2],
                        Some(Lie::Another) => &first[..],
                        Some(Lie::Garbage) => &[0xff; 64][..],
                        Some(Lie::Nothing | Lie::Restart) => std::future::pending().await,
                    };
                    if client.write_all(said).await.is_err() || client.flush().await.is_err() {
                        return;
                    }
                    if lie == Some(Lie::Half) {
                        return;
                    }
                    if first.is_empty() {
                        first = answer;
                    }
                }
            });
        }
    });
    address
}

struct Scene {
    ward: Ward,
    server: KeyServer,
    host: Host,
    order: Order,
}

/// A VM `old` that is encrypted and runs, and a plain one, `web`.
async fn scene() -> Scene {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let order = Order::default();
    let mut provider = server.provider("kms");
    provider["servers"] = json!([meddler(&server, Arc::clone(&order)).await.to_string()]);
    ward.api.post::<Value>("/providers", provider).await.unwrap();
    ward.datastore().await;
    let host = ward.host("h").await;
    ward.vm("old").await;
    ward.api.done(Method::POST, "/vms/old/encrypt", Some(json!({}))).await;
    ward.api.done(Method::POST, "/vms/old/start", Some(json!({}))).await;
    ward.vm("web").await;
    Scene { ward, server, host, order }
}

impl Scene {
    fn meddle(&self, operation: u8, lie: Lie) {
        *self.order.lock().unwrap() = Some((operation, lie));
    }

    /// Encrypting fails with one of the codes, and with the event that belongs to it; then it succeeds.
    async fn fails_and_succeeds(&self, codes: &[Code]) {
        let told = *self.order.lock().unwrap();
        let task: TaskView = self.ward.api.post("/vms/web/encrypt", json!({})).await.unwrap();
        let problem = self.ward.api.ended(&task.info).await.problem.unwrap_or_else(|| panic!("{told:?} did no harm"));
        assert!(codes.contains(&problem.code), "{problem}");
        let kind = match problem.code {
            Code::KeyServerUnreachable => EventKind::KeyServerUnreachable,
            _ => EventKind::KeyServerRefused,
        };
        let told = self.ward.api.told(kind).await;
        let last = told.last().unwrap();
        assert_eq!(last.problem.as_ref().map(|problem| problem.code), Some(problem.code));
        assert!(last.subject.vm.is_some() && last.subject.provider.is_some() && last.subject.task.is_some());
        let web: VmView = self.ward.api.get("/vms/web").await.unwrap();
        assert!(!web.encrypted && web.locked.is_none() && web.task.is_none(), "{web:?}");
        let old: VmView = self.ward.api.get("/vms/old").await.unwrap();
        assert_eq!((old.power, old.locked), (Power::On, None), "one that runs goes on");
        self.host.until("its key alone", |inside| inside.vm_keys().len() == 1).await;
        *self.order.lock().unwrap() = None;
        self.ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
        self.ward.api.done(Method::POST, "/vms/web/decrypt", Some(json!({}))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_started_anew_between_create_and_activate_and_between_activate_and_get() {
    let scene = scene().await;
    scene.meddle(ACTIVATE, Lie::Restart);
    scene.fails_and_succeeds(&[Code::KeyServerUnreachable]).await;
    // The key that was made and is not active is known, and can be destroyed.
    let left = scene.ward.api.told(EventKind::KeyUnneeded).await;
    assert!(left[0].message.contains("failed"), "{left:?}");
    let keys = scene.server.count().await;
    // What only reads is asked again, over a new connection.
    scene.meddle(GET, Lie::Restart);
    scene.ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    assert_eq!(scene.server.count().await, keys + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_garbage_half_a_message_or_what_another_request_asked_for() {
    let scene = scene().await;
    for (operation, lie) in
        [(GET, Lie::Garbage), (GET, Lie::Half), (GET, Lie::Another), (ACTIVATE, Lie::Garbage), (ACTIVATE, Lie::Another)]
    {
        scene.meddle(operation, lie);
        scene.fails_and_succeeds(&[Code::KeyServerRefused, Code::KeyServerUnreachable]).await;
    }
    // A key of which half the answer came is found by its name: none is made twice.
    let keys = scene.server.count().await;
    scene.meddle(CREATE, Lie::Half);
    scene.ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    assert_eq!(scene.server.count().await, keys + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_nothing() {
    let scene = scene().await;
    scene.meddle(GET, Lie::Nothing);
    scene.fails_and_succeeds(&[Code::KeyServerUnreachable]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_certificate_expires_meanwhile() {
    let ward = Ward::start().await;
    let mut server = KeyServer::stopped().await;
    server.certificate_for(6);
    server.start_again().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let host = ward.host("h").await;
    ward.vm("web").await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let key = ward.api.get::<VmView>("/vms/web").await.unwrap().keys.remove(0);
    let expired = async {
        while server.client().query().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    crate::support::in_time("the certificate's end", expired).await;
    // Connections that there were before are over.
    server.stop().await;
    server.start_again().await;
    let shown: Value = ward.api.get(&format!("/keys/{}", key.to_string().replace('/', "%2F"))).await.unwrap();
    assert_eq!(shown["problem"]["code"], "key.server-trust", "{shown}");
    assert!(shown["problem"]["why"].as_str().unwrap().contains("expired"), "{shown}");
    // The VM goes on under the key that its host has.
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
    assert_eq!(host.keys(), [key]);
    let problem = ward.api.fails(Method::POST, "/vms/web/recrypt", Some(json!({}))).await;
    assert_eq!(problem.code, Code::KeyServerTrust);
    assert!(!ward.api.told(EventKind::KeyServerTrust).await.is_empty());
    let web: VmView = ward.api.get("/vms/web").await.unwrap();
    assert_eq!((web.power, web.locked), (Power::On, None));
}
