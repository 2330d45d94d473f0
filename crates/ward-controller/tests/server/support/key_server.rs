//! A real key server, which can go away and come back.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kmip::attribute::{Attribute, RevocationReason};
use kmip::client::{Client, ClientConfig, Filter};
use kmip::names::RevocationReasonCode;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use ward_keyserver::{ClientFiles, Config, Error, Server};

use super::in_time;

/// Whose the keys are at the key server.
const OWNER: &str = "controller";

/// A key server.
pub struct KeyServer {
    directory: TempDir,
    pub address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), Error>>,
}

impl KeyServer {
    pub async fn start() -> Self {
        let mut server = Self::stopped().await;
        server.start_again().await;
        server
    }

    /// One that is set up, and does not run.
    pub async fn stopped() -> Self {
        let directory = TempDir::new().unwrap();
        ward_keyserver::init(directory.path(), &[]).await.unwrap();
        Self { directory, address: ([127, 0, 0, 1], 0).into(), running: None }
    }

    /// One with the same authority, certificates and clients as another, and none of its keys.
    pub async fn like(other: &Self) -> Self {
        let mut server = Self::stopped().await;
        for file in ["ca.pem", "ca.key", "server.pem", "server.key"] {
            fs::copy(other.state(file), server.state(file)).unwrap();
        }
        server.start_again().await;
        server
    }

    pub fn state(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Starts it where it was.
    pub async fn start_again(&mut self) {
        let config = Config { listen: self.address, state_dir: self.directory.path().to_owned() };
        let server = Server::start(config).await.unwrap();
        self.address = server.local_addr();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        self.running = Some(Running { stop, serving });
    }

    pub async fn stop(&mut self) {
        let Running { stop, serving } = self.running.take().unwrap();
        drop(stop);
        in_time("the key server's end", serving).await.unwrap().unwrap();
    }

    fn files(&self) -> ClientFiles {
        ward_keyserver::issue_client(self.directory.path(), OWNER).unwrap()
    }

    /// The request that adds it as a provider.
    pub fn provider(&self, name: &str) -> Value {
        let files = self.files();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        json!({
            "name": name,
            "servers": [self.address.to_string()],
            "ca": read(&files.ca),
            "certificate": read(&files.certificate),
            "key": read(&files.key),
        })
    }

    /// A client with the controller's certificate.
    pub fn client(&self) -> Client {
        let files = self.files();
        let read = |path: &Path| fs::read(path).unwrap();
        let (ca, certificate, key) = (read(&files.ca), read(&files.certificate), read(&files.key));
        Client::new(ClientConfig::new("127.0.0.1", self.address.port(), &ca, &certificate, &key).unwrap())
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let read = |file| fs::read_to_string(self.state(file)).unwrap();
        Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap()
    }

    /// A client's certificate and key, good from one year to another.
    pub fn issue(&self, from: i32, to: i32) -> (String, String) {
        self.issue_client((from, 1, 1), (to, 1, 1))
    }

    /// A client's certificate and key, good until that day.
    pub fn issue_until(&self, day: jiff::civil::Date) -> (String, String) {
        let end = (day.year().into(), u8::try_from(day.month()).unwrap(), u8::try_from(day.day()).unwrap());
        self.issue_client((2024, 1, 1), end)
    }

    fn issue_client(&self, from: (i32, u8, u8), to: (i32, u8, u8)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, OWNER);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        (params.signed_by(&key, &self.issuer()).unwrap().pem(), key.serialize_pem())
    }

    /// Signs a request, as this server's authority does.
    pub fn sign(&self, request: &str, years: (i32, i32), purpose: ExtendedKeyUsagePurpose) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
        request.params.not_before = date_time_ymd(years.0, 1, 1);
        request.params.not_after = date_time_ymd(years.1, 1, 1);
        request.params.extended_key_usages = vec![purpose];
        request.signed_by(&self.issuer()).unwrap().pem()
    }

    /// Gives it another certificate of its authority, from its next start on.
    pub fn certify(&self, years: (i32, i32), name: &str, purpose: ExtendedKeyUsagePurpose) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.extended_key_usages = vec![purpose];
        fs::write(self.state("server.pem"), params.signed_by(&key, &self.issuer()).unwrap().pem()).unwrap();
        fs::write(self.state("server.key"), key.serialize_pem()).unwrap();
    }

    /// Gives it a certificate that is good for so many seconds from now on; told to those who connect from its next start.
    pub fn certificate_for(&self, seconds: u64) {
        let read = |file| fs::read_to_string(self.state(file)).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(1970, 1, 1) + now + Duration::from_secs(seconds);
        fs::write(self.state("server.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(self.state("server.key"), key.serialize_pem()).unwrap();
    }

    /// Makes a key of that name, with the attributes of those that Ward makes.
    pub async fn named_key(&self, name: &str) -> String {
        let ours = [("x-Vendor", "Ward"), ("x-Product", "Ward VM encryption")];
        let mut attributes = vec![Attribute::name(name)];
        attributes.extend(ours.map(|(name, value)| Attribute::custom_text(name, value)));
        self.client().create_aes256(&attributes).await.unwrap().id
    }

    /// A key that is there before anybody asks for one, Pre-Active.
    pub async fn key(&self) -> String {
        self.client().create_aes256(&[]).await.unwrap().id
    }

    pub async fn deactivate(&self, id: &str) {
        let reason = RevocationReason { code: RevocationReasonCode::CESSATION_OF_OPERATION, message: None };
        self.client().revoke(id, reason, None).await.unwrap();
    }

    /// How many keys it has, but for those of hosts.
    pub async fn count(&self) -> usize {
        let client = self.client();
        let hosts = Filter { attributes: vec![Attribute::custom_text("x-Component", "Host")], ..Filter::default() };
        let hosts = client.locate(hosts).await.unwrap().len();
        client.locate(Filter::default()).await.unwrap().len() - hosts
    }
}
