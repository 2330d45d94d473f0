use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::scene::attested;

const TLS_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// A client that knows a service by its certificate, and shows one of its own or none.
fn client(versions: &[&'static SupportedProtocolVersion], with_certificate: bool, server: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    if !with_certificate {
        return builder.with_no_client_auth();
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
}

const HEAD: &str = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";

fn request(path: &str, headers: &str, body: &str) -> String {
    format!("POST /v1/{path} {HEAD}{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// Connects and posts; gives what comes back, or why nothing does.
async fn post(address: SocketAddr, config: ClientConfig, request: &str) -> Result<String, String> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    exchange.await.map_err(|error| error.to_string())
}

/// What a service says to a request, and to whoever speaks older TLS, shows no certificate, takes it for another one, or
/// speaks no TLS at all.
async fn only_tls_1_3(address: SocketAddr, server: &str, other: &str, request: &str) -> String {
    let answer = post(address, client(TLS_1_3, true, server), request).await.unwrap();
    let downgraded = post(address, client(TLS_1_2, true, server), request).await.unwrap_err();
    assert!(downgraded.contains("ProtocolVersion"), "{downgraded}");
    let unbound = post(address, client(TLS_1_3, false, server), request).await.unwrap_err();
    assert!(unbound.contains("CertificateRequired"), "{unbound}");
    let posing = post(address, client(TLS_1_3, true, other), request).await.unwrap_err();
    assert!(posing.contains("certificate"), "a service that is not the one: {posing}");

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(request.as_bytes()).await.unwrap();
    let mut answered = Vec::new();
    let _ = plain.read_to_end(&mut answered).await;
    assert!(!String::from_utf8_lossy(&answered).contains("HTTP"), "{answered:?}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tls_1_3_with_a_certificate_on_both_sides() {
    let (authority, _server, keys, _host, token) = attested().await;
    let [first, second] = [authority.admin.description().await.unwrap().certificate, keys.admin.certificate().unwrap()];

    let described = only_tls_1_3(authority.service.address, &first, &second, &request("describe", "", "{}")).await;
    assert!(described.starts_with("HTTP/1.1 200"), "{described}");

    // A good token is of no use in any of them, nor in a session of another certificate.
    let bearer = format!("authorization: Bearer {token}\r\n");
    let make = request("make-kek", &bearer, "{\"provider\":\"vault\"}");
    let refused = only_tls_1_3(keys.service.address, &second, &first, &make).await;
    assert!(refused.starts_with("HTTP/1.1 4") && refused.contains("[token-of-another-host]"), "{refused}");
    let audit = keys.admin.audit(10).await.unwrap();
    assert_eq!(audit.len(), 1, "the others were never heard: {audit:?}");
}
