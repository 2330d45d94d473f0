//! The key server's own authority, its certificate, and those of its clients.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use whole_file::Readers;
use zeroize::Zeroizing;

use crate::{ClientFiles, Error};

/// Where the certificates and keys lie in a state directory.
pub(crate) struct Paths {
    pub(crate) ca: PathBuf,
    ca_key: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) server_key: PathBuf,
    clients: PathBuf,
}

impl Paths {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            ca: state_dir.join("ca.pem"),
            ca_key: state_dir.join("ca.key"),
            server: state_dir.join("server.pem"),
            server_key: state_dir.join("server.key"),
            clients: state_dir.join("clients"),
        }
    }
}

/// Names by which the server is always reached from its own machine.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Makes what is missing of authority and server certificate.
pub(crate) fn init(paths: &Paths, server_names: &[String]) -> Result<(), Error> {
    // Key before certificate: after a crash between the two, the certificate is what is missing, and both are made anew.
    if !paths.ca.exists() {
        let key = new_key(&paths.ca_key, "ca.key")?;
        let mut params = params(&[], "Ward key server CA", "ca.pem")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(unusable("ca.pem"))?;
        whole_file::write_new(&paths.ca, certificate.pem().as_bytes(), Readers::Everyone)?;
    }
    if !paths.server.exists() {
        let key = new_key(&paths.server_key, "server.key")?;
        let mut names: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
        names.extend(server_names.iter().filter(|name| !LOCAL_NAMES.contains(&name.as_str())).cloned());
        let mut params = params(&names, "Ward key server", "server.pem")?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        issue(paths, params, &key, &paths.server)?;
    }
    Ok(())
}

/// Makes a client's certificate and key, unless they are there.
pub(crate) fn issue_client(paths: &Paths, common_name: &str) -> Result<ClientFiles, Error> {
    let good = (1..=64).contains(&common_name.len())
        && !common_name.starts_with('.')
        && common_name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c));
    if !good {
        return Err(Error::ClientName(common_name.to_owned()));
    }
    let directory = paths.clients.join(common_name);
    let client = ClientFiles {
        ca: directory.join("ca.pem"),
        certificate: directory.join("client.pem"),
        key: directory.join("client.key"),
    };
    let ca = whole_file::read(&paths.ca)?;
    whole_file::private_directory(&paths.clients)?;
    whole_file::private_directory(&directory)?;
    if !client.ca.exists() {
        whole_file::write_new(&client.ca, &ca, Readers::Everyone)?;
    }
    if !client.certificate.exists() {
        let key = new_key(&client.key, "client.key")?;
        let mut params = params(&[], common_name, "client.pem")?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(paths, params, &key, &client.certificate)?;
    }
    Ok(client)
}

fn params(names: &[String], common_name: &str, what: &'static str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(names).map_err(unusable(what))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    // The server's clock may be behind its clients'.
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    Ok(params)
}

fn issue(paths: &Paths, params: CertificateParams, key: &KeyPair, to: &Path) -> Result<(), Error> {
    let ca_pem = whole_file::read(&paths.ca)?;
    let ca_key = Zeroizing::new(whole_file::read(&paths.ca_key)?);
    let ca_key = std::str::from_utf8(&ca_key)
        .map_err(|_| Error::Certificate { what: "ca.key".into(), reason: "it is no PEM file".into() })?;
    // The parser's error could quote what it read.
    let ca_key = KeyPair::from_pem(ca_key)
        .map_err(|_| Error::Certificate { what: "ca.key".into(), reason: "there is no private key in it".into() })?;
    let issuer = Issuer::from_ca_cert_pem(&String::from_utf8_lossy(&ca_pem), ca_key).map_err(unusable("ca.pem"))?;
    let certificate = params.signed_by(key, &issuer).map_err(unusable("a new one"))?;
    Ok(whole_file::write_new(to, certificate.pem().as_bytes(), Readers::Everyone)?)
}

/// A new ECDSA P-256 key: the kind that every TLS 1.2 peer with a modern cipher suite takes.
fn new_key(path: &Path, what: &'static str) -> Result<KeyPair, Error> {
    // One without a certificate is left over from a crash.
    whole_file::remove(path)?;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(unusable(what))?;
    let pem = Zeroizing::new(key.serialize_pem());
    whole_file::write_new(path, pem.as_bytes(), Readers::Owner)?;
    Ok(key)
}

fn unusable(what: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |error| Error::Certificate { what: what.into(), reason: error.to_string() }
}
