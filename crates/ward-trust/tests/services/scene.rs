//! A trust authority, hosts, and a key server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use attest::appraisal::Evidence;
use attest::image::{ImageId, Mode, Validity};
use attest::label::Label;
use attest::log::EventLog;
use attest::quote::{Nonce, QuoteRequest};
use attest::tpm::{Name, PcrMask, Public};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ward_trust::api::{Ask, Attest, Enrol, EnrolAnswer, Enrolled, Question, Token};
use ward_trust::attestation::{self, PolicySettings};
use ward_trust::client::{Client, Identity};
use ward_trust::configuration;
use ward_trust::key_provider::{self, Credentials, PrimaryUse, Provider};
use ward_trust::signed::{AdminKey, Signed};
use ward_types::{Problem, ProviderName};
use zeroize::Zeroizing;

use crate::common::Log;
use crate::tpm::Tpm;

pub(crate) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

pub(crate) fn provider_name(text: &str) -> ProviderName {
    text.parse().unwrap()
}

const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A service that runs until the scene ends.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    _serving: JoinHandle<()>,
}

impl Running {
    fn start(server: ward_trust::Server) -> Self {
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        let serving = tokio::spawn(server.serve(stop.clone()));
        Self { address, stop, _serving: serving }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) struct Authority {
    dir: TempDir,
    pub(crate) admin: attestation::Admin,
    pub(crate) service: Running,
}

impl Authority {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        attestation::init(dir.path(), &label("trust"), &[]).await.unwrap();
        // A second time it stays as it is.
        attestation::init(dir.path(), &label("other"), &[]).await.unwrap();
        let admin = attestation::Admin::open(dir.path()).await.unwrap();
        let service = attestation::Service::start(dir.path(), LOCAL.into()).await.unwrap();
        Self { dir, admin, service: Running::start(service) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Trusts that host, and what it has booted, under the policy `test`.
    pub(crate) async fn trusting(host: &Host) -> Self {
        let authority = Self::new().await;
        authority.admin.import_ek(&host.ek.to_tpm2b(), &label("host-1")).await.unwrap();
        let settings = PolicySettings {
            required: PcrMask::of([0, 2, 4, 7, 9]),
            secure_boot: false,
            ek_certificate: false,
            ..PolicySettings::default()
        };
        authority.admin.set_policy(&label("test"), &settings).await.unwrap();
        host.enrol(&authority).await.unwrap();
        host.attest(&authority, "test").await.unwrap_err();
        authority.capture("host-1", "good").await;
        authority
    }

    /// The certificate that is kept of a host's TPM.
    pub(crate) async fn kept_certificate(&self, host: &str) -> Option<Vec<u8>> {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.path().join("attestation.db"));
        let pool = sqlx::sqlite::SqlitePool::connect_with(options).await.unwrap();
        let query = sqlx::query_scalar("SELECT ek_certificate FROM host WHERE label = ?").bind(host);
        query.fetch_one(&pool).await.unwrap()
    }

    pub(crate) async fn capture(&self, host: &str, name: &str) {
        let id = ImageId { name: label(name), version: label("1") };
        let validity = Validity { from: Timestamp::UNIX_EPOCH, until: None };
        let pcrs = PcrMask::of([0, 2, 4, 7, 9]);
        self.admin.capture_image(&label(host), id, pcrs, validity, Mode::Enforce).await.unwrap();
    }

    pub(crate) async fn client(&self, identity: &Identity) -> Client {
        let certificate = self.admin.description().await.unwrap().certificate;
        Client::new(identity, &certificate, "localhost", self.service.address).unwrap()
    }
}

/// A machine that has booted, and its agent.
pub(crate) struct Host {
    pub(crate) tpm: Tpm,
    pub(crate) log: Log,
    pub(crate) ek: Public,
    pub(crate) ek_certificate: Option<Vec<u8>>,
    pub(crate) ak: Vec<u8>,
    pub(crate) identity: Identity,
}

impl Host {
    pub(crate) fn booted(boot: &str) -> Self {
        Self::on(Tpm::new(), Log::of(boot))
    }

    pub(crate) fn on(tpm: Tpm, log: Log) -> Self {
        tpm.boot(&log);
        let ek = tpm.ek("rsa");
        let ak = tpm.ak("rsa", "ak", ["ecc", "sha256", "ecdsa"]);
        Self { tpm, log, ek, ek_certificate: None, ak, identity: Identity::generate().unwrap() }
    }

    pub(crate) fn ak_name(&self) -> Name {
        Public::from_tpm2b(&self.ak).unwrap().name()
    }

    pub(crate) fn enrolment(&self) -> Enrol {
        Enrol { ek: self.ek.to_tpm2b(), ek_certificate: self.ek_certificate.clone(), ak: self.ak.clone() }
    }

    pub(crate) async fn enrol(&self, authority: &Authority) -> Result<Enrolled, Problem> {
        let client = authority.client(&self.identity).await;
        let challenge = client.call(self.enrolment()).await?;
        let secret = self.tpm.activate("rsa", "ak", &challenge.credential).unwrap();
        client.call(EnrolAnswer { question: challenge.question, secret }).await
    }

    pub(crate) fn ask(&self, policy: &str) -> Ask {
        Ask { ak: self.ak_name(), policy: label(policy) }
    }

    /// As an agent does: bound to its own certificate.
    pub(crate) fn evidence(&self, question: &Question) -> Evidence {
        let nonce = Nonce::new(&question.nonce).unwrap();
        let request = QuoteRequest::new(nonce, question.bank, question.pcrs).unwrap();
        let request = request.bound_to(self.identity.thumbprint());
        Evidence { quote: self.tpm.quote("ak", &request), event_log: self.log.to_bytes() }
    }

    pub(crate) async fn attest(&self, authority: &Authority, policy: &str) -> Result<Token, Problem> {
        let client = authority.client(&self.identity).await;
        let question = client.call(self.ask(policy)).await?;
        let evidence = self.evidence(&question);
        EventLog::from_bytes(&evidence.event_log).unwrap();
        client.call(Attest { question: question.question, evidence }).await
    }
}

/// A KMIP server, and a client's way to it.
pub(crate) struct KeyServer {
    _dir: TempDir,
    address: SocketAddr,
    files: ward_keyserver::ClientFiles,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl KeyServer {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        ward_keyserver::init(dir.path(), &[]).await.unwrap();
        let files = ward_keyserver::issue_client(dir.path(), "key-provider").unwrap();
        let config = ward_keyserver::Config { listen: LOCAL.into(), state_dir: dir.path().to_owned() };
        let server = ward_keyserver::Server::start(config).await.unwrap();
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        let stopped = stop.clone();
        let serving = tokio::spawn(async move { server.serve(stopped.cancelled_owned()).await.unwrap() });
        Self { _dir: dir, address, files, stop, serving: Some(serving) }
    }

    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        self.serving.take().unwrap().await.unwrap();
    }

    fn text(path: &PathBuf) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    pub(crate) fn credentials(&self) -> Credentials {
        let key = Zeroizing::new(Self::text(&self.files.key));
        Credentials { certificate: Self::text(&self.files.certificate), key }
    }

    pub(crate) fn client(&self) -> kmip::client::Client {
        let credentials = self.credentials();
        let ca = Self::text(&self.files.ca);
        let (certificate, key) = (credentials.certificate.as_bytes(), credentials.key.as_bytes());
        let config = kmip::client::ClientConfig::new("localhost", self.address.port(), ca.as_bytes(), certificate, key);
        kmip::client::Client::new(config.unwrap())
    }

    /// A provider with a primary key of its own.
    pub(crate) async fn provider(&self, policies: &[&str]) -> Provider {
        let client = self.client();
        let id = client.create_aes256(&[]).await.unwrap().id;
        client.activate(&id).await.unwrap();
        Provider {
            host: "localhost".to_owned(),
            port: self.address.port(),
            ca: Self::text(&self.files.ca),
            primary_key: id.try_into().unwrap(),
            primary_use: PrimaryUse::AtServer,
            policies: policies.iter().map(|policy| label(policy)).collect(),
        }
    }
}

/// A key provider service with one provider, `vault`, for hosts under policy `test`.
pub(crate) struct KeyProvider {
    pub(crate) dir: TempDir,
    pub(crate) admin: key_provider::Admin,
    pub(crate) service: Running,
}

impl KeyProvider {
    pub(crate) async fn new(authority: &Authority, server: &KeyServer) -> Self {
        let this = Self::bare(authority).await;
        let provider = server.provider(&["test"]).await;
        this.admin.set_provider(&provider_name("vault"), &provider, &server.credentials()).await.unwrap();
        this
    }

    /// One without any provider.
    pub(crate) async fn bare(authority: &Authority) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let description = authority.admin.description().await.unwrap();
        key_provider::init(dir.path(), &description.audience, &[]).await.unwrap();
        let admin = key_provider::Admin::open(dir.path()).await.unwrap();
        admin.trust_issuer(&description.issuer, &description.token_key).await.unwrap();
        let service = key_provider::Service::start(dir.path(), LOCAL.into()).await.unwrap();
        Self { dir, admin, service: Running::start(service) }
    }

    pub(crate) fn client(&self, identity: &Identity) -> Client {
        Client::new(identity, &self.admin.certificate().unwrap(), "localhost", self.service.address).unwrap()
    }
}

/// A trust authority, a key provider, and an attested host with its token.
pub(crate) async fn attested() -> (Authority, KeyServer, KeyProvider, Host, String) {
    let host = Host::booted("ovmf");
    let authority = Authority::trusting(&host).await;
    let server = KeyServer::start().await;
    let keys = KeyProvider::new(&authority, &server).await;
    let token = host.attest(&authority, "test").await.unwrap().token;
    (authority, server, keys, host, token)
}

/// Further instances of both services, set up, and the administrators' key.
pub(crate) struct Second {
    dir: TempDir,
    pub(crate) key: AdminKey,
    pub(crate) admin: attestation::Admin,
    pub(crate) keys: key_provider::Admin,
}

impl Second {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = AdminKey::create(&dir.path().join("admin")).unwrap();
        let (attestation, keys) = (dir.path().join("attestation"), dir.path().join("key-provider"));
        attestation::init(&attestation, &label("trust"), &[]).await.unwrap();
        key_provider::init(&keys, &label("trust"), &[]).await.unwrap();
        let admin = attestation::Admin::open(&attestation).await.unwrap();
        let keys = key_provider::Admin::open(&keys).await.unwrap();
        Self { dir, key, admin, keys }
    }

    pub(crate) fn attestation(&self) -> PathBuf {
        self.dir.path().join("attestation")
    }

    pub(crate) fn key_provider(&self) -> PathBuf {
        self.dir.path().join("key-provider")
    }

    /// Goes by what somebody has signed; `signer` is said where it was not before.
    pub(crate) async fn import(&self, signed: &Signed, signer: Option<&AdminKey>) -> Result<(), ward_trust::Error> {
        let signer = signer.map(|key| key.public().clone());
        configuration::import(&self.attestation(), &self.key_provider(), signed, signer).await
    }

    pub(crate) async fn start_key_provider(&self) -> Running {
        Running::start(key_provider::Service::start(&self.key_provider(), LOCAL.into()).await.unwrap())
    }

    /// All that they go by.
    pub(crate) async fn goes_by(&self) -> String {
        let (admin, keys) = (&self.admin, &self.keys);
        let attestation = (
            admin.settings().await.unwrap(),
            admin.tpm_cas().await.unwrap(),
            admin.eks().await.unwrap(),
            admin.policies().await.unwrap(),
            admin.images().await.unwrap(),
            admin.decisions().await.unwrap(),
        );
        let keys = (keys.settings().await.unwrap(), keys.issuers().await.unwrap(), keys.providers().await.unwrap());
        format!("{attestation:#?}\n{keys:#?}")
    }
}
