//! Which field of whose certificate is wrong, both ends our own.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use kmip::ProtocolVersion;
use kmip::certificate::Fingerprint;
use kmip::client::{
    Client, ClientConfig, ClientError, ClientIdentity, ConfigError, PendingIdentity, Phase, ServerTrust, Subject,
    TlsFault, fetch_server_certificates, show_server_certificates,
};
use kmip::message::{RequestMessage, ResponseMessage};
use kmip::names::ResultReason;
use kmip::server::{Handler, PeerIdentity, ServerConfig, serve};
use support::pki::{Authority, Identity};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

struct Refuses;

impl Handler for Refuses {
    async fn handle(&self, _: &PeerIdentity, request: RequestMessage) -> ResponseMessage {
        let version = request.header.protocol_version;
        ResponseMessage::failure(version, 0, ResultReason::OPERATION_NOT_SUPPORTED, "no".into())
    }
}

struct Running {
    port: u16,
    _stop: oneshot::Sender<()>,
}

async fn server(identity: &Identity, clients: &Authority) -> Running {
    server_trusting(identity, &clients.pem).await
}

async fn server_trusting(identity: &Identity, pem: &str) -> Running {
    let config = ServerConfig::new(identity.certificate.as_bytes(), identity.key.as_bytes(), pem.as_bytes()).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(serve(listener, config, Arc::new(Refuses), async {
        let _ = stopped.await;
    }));
    Running { port, _stop: stop }
}

fn config(port: u16, trusted: &Authority, identity: &Identity) -> ClientConfig {
    ClientConfig::new(
        "127.0.0.1",
        port,
        trusted.pem.as_bytes(),
        identity.certificate.as_bytes(),
        identity.key.as_bytes(),
    )
    .unwrap()
}

async fn fault(config: ClientConfig) -> TlsFault {
    match Client::new(config).version().await {
        Err(ClientError::Tls { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_servers_certificate() {
    let ours = Authority::new("ours");
    let client = ours.client("alice");

    let fault_of = async |identity: Identity| {
        let running = server(&identity, &ours).await;
        fault(config(running.port, &ours, &client)).await
    };
    // 2021-01-01 and 2048-01-01.
    assert_eq!(
        fault_of(ours.expired_server()).await,
        TlsFault::ServerCertificateExpired { not_after: Some(1_609_459_200) }
    );
    assert_eq!(
        fault_of(ours.future_server()).await,
        TlsFault::ServerCertificateNotYetValid { not_before: Some(2_461_449_600) }
    );
    match fault_of(ours.server_named("kms.example")).await {
        TlsFault::ServerCertificateName { expected, presented } => {
            assert_eq!(expected, "127.0.0.1");
            assert!(presented.iter().any(|name| name.contains("kms.example")), "{presented:?}");
        }
        other => panic!("{other}"),
    }
    match fault_of(ours.server_for_clients()).await {
        TlsFault::ServerCertificatePurpose { presented } => assert_eq!(presented, ["clientAuth"]),
        other => panic!("{other}"),
    }
    assert_eq!(fault_of(Authority::new("theirs").server()).await, TlsFault::ServerCertificateUnknownIssuer);
    // The right name, but not the same authority.
    assert_eq!(fault_of(Authority::new("ours").server()).await, TlsFault::ServerCertificateUnknownIssuer);
}

#[tokio::test]
async fn the_clients_certificate() {
    let ours = Authority::new("ours");
    let running = server(&ours.server(), &ours).await;
    let fault_of = async |identity: Identity| fault(config(running.port, &ours, &identity)).await;
    assert_eq!(fault_of(Authority::new("theirs").client("alice")).await, TlsFault::ClientCertificateUnknownIssuer);
    assert_eq!(fault_of(ours.expired_client("alice")).await, TlsFault::ClientCertificateExpired);
    let for_servers = fault_of(ours.server()).await;
    assert!(for_servers.is_about_client_certificate(), "{for_servers}");
}

#[tokio::test]
async fn a_server_that_does_not_know_discover_versions_speaks_1_1() {
    let ours = Authority::new("ours");
    let running = server(&ours.server(), &ours).await;
    let client = Client::new(config(running.port, &ours, &ours.client("alice")));
    assert_eq!(client.version().await.unwrap(), ProtocolVersion::V1_1);
    let error = client.get_key("1").await.err().unwrap();
    assert_eq!(error.result_reason(), Some(ResultReason::OPERATION_NOT_SUPPORTED));
}

#[tokio::test]
async fn who_listens_but_says_nothing() {
    let ours = Authority::new("ours");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = config(port, &ours, &ours.client("alice")).with_connect_timeout(Duration::from_millis(200));
    match Client::new(config).version().await {
        Err(ClientError::Timeout { during: Phase::Connecting, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_does_not_speak_tls() {
    use tokio::io::AsyncWriteExt;

    let ours = Authority::new("ours");
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    assert_eq!(fault(config(port, &ours, &ours.client("alice"))).await, TlsFault::NotTls);
}

#[tokio::test]
async fn a_servers_certificate_can_be_looked_at_without_trust() {
    use rustls::pki_types::pem::PemObject;

    let ours = Authority::new("ours");
    let identity = ours.expired_server();
    let running = server(&identity, &ours).await;
    let seen = fetch_server_certificates("127.0.0.1", running.port, Duration::from_secs(10)).await.unwrap();
    let expected = rustls::pki_types::CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    assert_eq!(seen, [expected.as_ref().to_vec()]);
}

fn pinned(port: u16, pin: Fingerprint, identity: &Identity) -> ClientConfig {
    let (certificate, key) = (identity.certificate.as_bytes(), identity.key.as_bytes());
    ClientConfig::with_trust("127.0.0.1", port, &ServerTrust::Pinned(pin), certificate, key).unwrap()
}

/// Trust on first use: shown, accepted by a human, known by it from then on.
#[tokio::test]
async fn a_server_is_known_by_the_fingerprint_that_was_accepted() {
    let ours = Authority::new("ours");
    let alice = ours.client("alice");
    // Of an authority that nobody gave us, and made out to another name.
    let theirs = Authority::new("theirs").server_named("kms.example");
    let running = server(&theirs, &ours).await;
    let shown = show_server_certificates("127.0.0.1", running.port, Duration::from_secs(10)).await.unwrap();
    let info = &shown[0].info;
    assert!(info.subject.contains("CN=server") && info.issuer.contains("CN=theirs"), "{info:?}");
    assert_eq!(info.names, ["kms.example"]);
    assert_eq!(info.purposes, ["serverAuth"]);
    assert!(info.seconds_left(std::time::SystemTime::now()) > 0);

    // Typed or pasted back, as a human would.
    let accepted: Fingerprint = info.fingerprint.to_string().parse().unwrap();
    let client = Client::new(pinned(running.port, accepted, &alice));
    assert_eq!(client.version().await.unwrap(), ProtocolVersion::V1_1);

    let other = Fingerprint::of(b"another certificate");
    let fault = fault(pinned(running.port, other, &alice)).await;
    assert_eq!(fault, TlsFault::ServerCertificateNotPinned { expected: other, shown: accepted });
    assert!(fault.is_about_server_certificate());
    assert!(fault.to_string().contains(&accepted.to_string()), "{fault}");
}

#[tokio::test]
async fn the_dates_of_an_accepted_certificate_still_count() {
    let ours = Authority::new("ours");
    for (identity, expected) in [
        (ours.expired_server(), TlsFault::ServerCertificateExpired { not_after: Some(1_609_459_200) }),
        (ours.future_server(), TlsFault::ServerCertificateNotYetValid { not_before: Some(2_461_449_600) }),
    ] {
        let running = server(&identity, &ours).await;
        let shown = show_server_certificates("127.0.0.1", running.port, Duration::from_secs(10)).await.unwrap();
        let config = pinned(running.port, shown[0].info.fingerprint, &ours.client("alice"));
        assert_eq!(fault(config).await, expected);
    }
}

/// Ours signed by itself, which the server trusts as it is; and ours by request, which the server's authority signs.
#[tokio::test]
async fn identities_made_here_are_accepted() {
    let authority = Authority::new("the key server's");
    let pending = PendingIdentity::generate(Subject::named("ward")).unwrap();
    let itself = pending.self_signed(2049).unwrap();
    let requested = pending.complete(&authority.sign(&pending.request_pem().unwrap())).unwrap();

    let served = authority.server();
    let trusts_only_it = server_trusting(&served, itself.certificate_pem()).await;
    let trusts_authority = server(&served, &authority).await;
    let connect = async |port, identity: &ClientIdentity| {
        let config = ClientConfig::new(
            "127.0.0.1",
            port,
            authority.pem.as_bytes(),
            identity.certificate_pem().as_bytes(),
            identity.expose_key_pem().as_bytes(),
        );
        Client::new(config.unwrap()).version().await
    };
    assert!(connect(trusts_only_it.port, &itself).await.is_ok());
    assert!(connect(trusts_authority.port, &requested).await.is_ok());
    let refused = connect(trusts_authority.port, &itself).await.unwrap_err();
    let ClientError::Tls { fault, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*fault, TlsFault::ClientCertificateUnknownIssuer);
    assert_eq!(fault.field(), Some("issuer"));
}

#[test]
fn what_cannot_be_used_is_told_by_its_name() {
    let ours = Authority::new("ours");
    let client = ours.client("alice");
    let new = |host: &str, ca: &str, certificate: &str, key: &str| {
        ClientConfig::new(host, 5696, ca.as_bytes(), certificate.as_bytes(), key.as_bytes()).err().unwrap()
    };
    let Identity { certificate, key } = &client;
    assert!(matches!(new("not a host", &ours.pem, certificate, key), ConfigError::Host(_)));
    assert!(matches!(new("kms", "", certificate, key), ConfigError::CaCertificates(_)));
    assert!(matches!(new("kms", &ours.pem, key, key), ConfigError::ClientCertificate(_)));
    assert!(matches!(new("kms", &ours.pem, certificate, certificate), ConfigError::ClientKey(_)));
    assert!(matches!(new("kms", &ours.pem, certificate, &ours.client("bob").key), ConfigError::ClientKeyMismatch));
}
