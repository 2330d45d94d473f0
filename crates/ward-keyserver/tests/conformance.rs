//! The OASIS test cases, played against the server: each request is sent as it stands, each answer compared.
//!
//! `KMIP_VECTORS` names a directory; every XML file below it is played. Not set, nothing is tested, and that is said.
//! `conformance/exclusions.txt` names the files that can't pass, each with the reason; one that passes all the same is a
//! failure too, so that the list stays true.
#![allow(clippy::unwrap_used)]

#[path = "conformance/compare.rs"]
mod compare;
mod support;
#[path = "../../kmip/tests/vectors/xml.rs"]
mod xml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compare::Play;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use support::Running;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use ward_keyserver::issue_client;

const EXCLUSIONS: &str = include_str!("conformance/exclusions.txt");

/// Which files can't pass, and why.
fn exclusions() -> BTreeMap<&'static str, &'static str> {
    let mut excluded = BTreeMap::new();
    for line in EXCLUSIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (file, reason) = line.split_once(": ").unwrap_or_else(|| panic!("no reason given: {line}"));
        assert!(excluded.insert(file, reason).is_none(), "{file} is listed twice");
    }
    excluded
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "xml") {
            files.push(path);
        }
    }
    files.sort();
}

/// A connection that carries whatever it is given.
async fn connect(server: &Running, client: &str) -> TlsStream<TcpStream> {
    let files = issue_client(&server.state_dir, client).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&files.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    let stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

async fn exchange(stream: &mut TlsStream<TcpStream>, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).await.unwrap();
    let mut answer = vec![0; 8];
    stream.read_exact(&mut answer).await.unwrap();
    let length = u32::from_be_bytes(answer[4..8].try_into().unwrap());
    let mut rest = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut rest).await.unwrap();
    answer.extend(rest);
    answer
}

/// Plays one file as a client of its own: what one leaves behind is none of the next one's business.
async fn play(server: &Running, number: usize, file: &Path) -> Result<usize, String> {
    let messages = xml::messages(&std::fs::read_to_string(file).unwrap());
    let mut stream = connect(server, &format!("case-{number}")).await;
    let mut play = Play::default();
    let mut compared = 0;
    for (step, pair) in messages.chunks(2).enumerate() {
        let [request, expected] = pair else { return Err("a request has no answer".into()) };
        if !request.is_request || expected.is_request {
            return Err("the messages are not requests and answers in turn".into());
        }
        // Tells a tester where a case begins and ends, and asks for nothing.
        if compare::mentions(&request.element, "Operation", &["Interop"]) {
            continue;
        }
        let request = play.request(&request.element);
        let answer = exchange(&mut stream, &request).await;
        let answer = kmip::ttlv::decode(&answer, &kmip::ttlv::Limits::default()).map_err(|error| error.to_string())?;
        play.compare(&expected.element, &answer).map_err(|difference| format!("step {step}: {difference}"))?;
        compared += 1;
    }
    Ok(compared)
}

#[tokio::test]
async fn the_test_cases_of_the_standard() {
    let Some(directory) = std::env::var_os("KMIP_VECTORS").map(PathBuf::from) else {
        eprintln!("KMIP_VECTORS is not set: the OASIS test cases were not played");
        return;
    };
    let mut files = Vec::new();
    find(&directory, &mut files);
    assert!(!files.is_empty(), "there are no XML files below {}", directory.display());
    let excluded = exclusions();
    let server = Running::start().await;
    let (mut passed, mut compared, mut not_passed, mut unexpected) = (0, 0, 0, Vec::new());
    for (number, file) in files.iter().enumerate() {
        let name = file.strip_prefix(&directory).unwrap().display().to_string();
        match (play(&server, number, file).await, excluded.get(name.as_str())) {
            (Ok(messages), None) => {
                passed += 1;
                compared += messages;
            }
            (Err(_), Some(_)) => not_passed += 1,
            (Ok(_), Some(reason)) => unexpected.push(format!("{name} passes, but is excluded: {reason}")),
            (Err(difference), None) => unexpected.push(format!("{name}: {difference}")),
        }
    }
    eprintln!("{passed} test cases passed ({compared} answers compared), {not_passed} excluded with a reason");
    assert!(unexpected.is_empty(), "{} not as expected:\n{}", unexpected.len(), unexpected.join("\n"));
    assert!(compared > 0);
    server.stop().await;
}
