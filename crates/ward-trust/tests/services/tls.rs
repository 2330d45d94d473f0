use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::scene::Authority;

/// Connects and posts; gives what comes back, or why nothing does.
async fn post(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    with_certificate: bool,
    server: &str,
) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = if with_certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let address: SocketAddr = authority.service.address;
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let head = "POST /v1/describe HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
        let request = format!("{head}content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    exchange.await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tls_1_3_with_a_certificate_on_both_sides() {
    let authority = Authority::new().await;
    let server = authority.admin.description().await.unwrap().certificate;
    let answer = post(&authority, &[&rustls::version::TLS13], true, &server).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let downgraded = post(&authority, &[&rustls::version::TLS12], true, &server).await.unwrap_err();
    assert!(downgraded.contains("ProtocolVersion"), "{downgraded}");
    let unbound = post(&authority, &[&rustls::version::TLS13], false, &server).await.unwrap_err();
    assert!(unbound.contains("CertificateRequired"), "{unbound}");

    let other = Authority::new().await.admin.description().await.unwrap().certificate;
    let posing = post(&authority, &[&rustls::version::TLS13], true, &other).await.unwrap_err();
    assert!(posing.contains("certificate"), "a service that is not the one: {posing}");
}
