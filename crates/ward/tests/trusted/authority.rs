//! A trust authority with its key server, and the machine of a host.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kmip::SecretBytes;
use kmip::client::{Client, ClientConfig};
use kmip::names::{BlockCipherMode, CryptographicAlgorithm};
use kmip::operation::{CryptographicParameters, DecryptRequest};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use ward_controller::api::types::{TrustState, TrustedHostView};
use ward_trust::AuditEntry;
use ward_types::{Code, KeyLocator, KeyRef, Problem};

use crate::common::Log;
use crate::pykmip::PyKmip;
use crate::support::{System, eventually, port, problem_in, text};
use crate::tpm::{Ca, Tpm};

/// A machine that has booted with Secure Boot.
pub(crate) struct Machine {
    pub(crate) tpm: Tpm,
    pub(crate) log: Log,
    pub(crate) ca: Rc<Ca>,
}

impl Machine {
    pub(crate) fn booted() -> Self {
        Self::of(Rc::new(Ca::new()))
    }

    /// Another one, which is like it, and whose TPM is of the same maker.
    pub(crate) fn like_it(&self) -> Self {
        Self::of(Rc::clone(&self.ca))
    }

    fn of(ca: Rc<Ca>) -> Self {
        let log = Log::of("secureboot");
        let tpm = Tpm::certified_by(&ca);
        tpm.boot(&log);
        fs::write(tpm.path("event-log"), log.to_bytes()).unwrap();
        Self { tpm, log, ca }
    }

    /// It is switched off and on again, and boots that.
    pub(crate) fn boots(&self, log: &Log) {
        self.tpm.reboot(log);
        fs::write(self.tpm.path("event-log"), log.to_bytes()).unwrap();
    }

    /// Something else is measured than what it booted.
    pub(crate) fn tamper(&self) {
        self.tpm.extend(4, &[&attest::hash::HashAlg::Sha256.digest(&[b"a boot kit"])]);
    }

    /// How the agent is told of it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let log = self.tpm.path("event-log");
        ["--tpm", &self.tpm.tcti(), "--tpm-event-log", text(&log)].map(str::to_owned).to_vec()
    }
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(args: &[&str], log: &Path, port: u16) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_ward"))
            .args(args)
            .stdin(Stdio::null())
            .stderr(fs::File::create(log).unwrap())
            .spawn()
            .unwrap();
        eventually("a service listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine with one instance of each service.
struct Instance {
    directory: PathBuf,
    /// Of the attestation service and of the key provider service.
    ports: [u16; 2],
    attestation: Option<Process>,
    key_provider: Option<Process>,
}

impl Instance {
    fn start(&mut self) {
        let start = |service: &str, port: u16| {
            let listen = format!("127.0.0.1:{port}");
            let args = ["trust", service, "--dir", text(&self.directory), "--listen", &listen];
            let log = self.directory.with_extension(format!("{service}.log"));
            Process::start(&args, &log, port)
        };
        self.attestation = Some(start("attestation", self.ports[0]));
        self.key_provider = Some(start("key-provider", self.ports[1]));
    }

    fn command(&self, args: &[&str]) -> Output {
        command(&[&["trust"], args, &["--dir", text(&self.directory)]].concat())
    }

    fn trust(&self, args: &[&str]) -> String {
        done(args, &self.command(args))
    }
}

/// A key server: it ends with the test.
enum KeyServer {
    Own { _process: Process },
    PyKmip { _server: Box<PyKmip> },
}

impl KeyServer {
    /// Ward's own. What a client of it needs is in the directory `client`.
    fn own(dir: &Path) -> (Self, u16) {
        let (port, kms) = (port(), dir.join("kms"));
        let listen = format!("127.0.0.1:{port}");
        let args = ["keyserver", "run", "--state", text(&kms), "--listen", &listen];
        let process = Process::start(&args, &dir.join("kms.log"), port);
        issue(dir, "trust", &dir.join("client"));
        (Self::Own { _process: process }, port)
    }

    fn pykmip(dir: &Path) -> (Self, u16) {
        let (server, client) = (PyKmip::start(), dir.join("client"));
        let identity = server.authority.client("trust");
        fs::create_dir(&client).unwrap();
        let files =
            [("ca.pem", &server.authority.pem), ("client.pem", &identity.certificate), ("client.key", &identity.key)];
        files.iter().for_each(|(name, content)| fs::write(client.join(name), content).unwrap());
        let port = server.port;
        (Self::PyKmip { _server: Box::new(server) }, port)
    }
}

/// What a client of Ward's own key server needs.
fn issue(dir: &Path, client: &str, out: &Path) {
    let kms = dir.join("kms");
    let args = ["keyserver", "issue-client", client, "--state", text(&kms), "--out", text(out)];
    done(&args, &command(&args));
}

/// A trust authority, with as many instances of its services as are wanted, and a key server.
pub(crate) struct Authority {
    dir: TempDir,
    instances: Vec<Instance>,
    _key_server: KeyServer,
    key_server_port: u16,
    shared: u32,
}

impl Authority {
    /// Set up by the guided sequence, as far as it comes before there is a host.
    pub(crate) fn set_up(machine: &Machine) -> Self {
        Self::with_instances(machine, 1)
    }

    pub(crate) fn with_instances(machine: &Machine, count: usize) -> Self {
        Self::made(machine, count, KeyServer::own)
    }

    /// With PyKMIP's server.
    pub(crate) fn on_pykmip(machine: &Machine) -> Self {
        Self::made(machine, 1, KeyServer::pykmip)
    }

    fn made(machine: &Machine, count: usize, key_server: impl FnOnce(&Path) -> (KeyServer, u16)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (key_server, key_server_port) = key_server(dir.path());
        let instance = |number| Instance {
            directory: at(&format!("trust{number}")),
            ports: [port(), port()],
            attestation: None,
            key_provider: None,
        };
        let instances: Vec<_> = (0..count).map(instance).collect();
        let (first, further) = instances.split_first().unwrap();
        first.trust(&["init"]);
        for (name, der) in [("root.der", machine.ca.root()), ("issuer.der", machine.ca.intermediate())] {
            fs::write(at(name), der).unwrap();
            first.trust(&["tpm-ca", "import", text(&at(name))]);
        }
        fs::write(at("admin.pub"), first.trust(&["admin-key"])).unwrap();
        for (number, instance) in further.iter().enumerate() {
            instance.trust(&["init", "--admin-key", text(&at("admin.pub"))]);
            let key = at(&format!("token{number}.pub"));
            fs::write(&key, instance.trust(&["token-key"])).unwrap();
            first.trust(&["issuer", "add", text(&key)]);
        }
        let mut this = Self { instances, _key_server: key_server, key_server_port, shared: 0, dir };
        let added = this.add_provider(0, "vault", &["--make"]);
        assert!(added.contains("at the key server"), "{added}");
        this.share();
        let primary = this.primary_key();
        for number in 1..count {
            this.add_provider(number, "vault", &["--primary-key", &primary]);
        }
        (0..count).for_each(|number| this.start(number));
        this.describe("services.json");
        this
    }

    /// Adds a provider, or changes one, with credentials at the key server.
    pub(crate) fn add_provider(&self, number: usize, name: &str, key: &[&str]) -> String {
        self.add_provider_by(number, name, self.key_server_port, key)
    }

    /// The same, with another way to the key server.
    pub(crate) fn add_provider_by(&self, number: usize, name: &str, port: u16, key: &[&str]) -> String {
        let at = self.key_server_arguments("client", port);
        let at: Vec<_> = at.iter().map(String::as_str).collect();
        self.instances[number].trust(&[&["provider", "add", name], &at[..], key].concat())
    }

    /// The same, where it is refused.
    pub(crate) fn provider_refused(&self, code: Code, name: &str, key: &[&str]) -> Problem {
        let at = self.key_server_arguments("client", self.key_server_port);
        let at: Vec<_> = at.iter().map(String::as_str).collect();
        self.refused(code, &[&["provider", "add", name], &at[..], key].concat())
    }

    /// As commands are told of the key server, and of one of its clients.
    fn key_server_arguments(&self, client: &str, port: u16) -> [String; 8] {
        let file = |name: &str| text(&self.path(client).join(name)).to_owned();
        let option = |option: &str| option.to_owned();
        [
            option("--server"),
            format!("127.0.0.1:{port}"),
            option("--ca"),
            file("ca.pem"),
            option("--cert"),
            file("client.pem"),
            option("--key"),
            file("client.key"),
        ]
    }

    /// Its key server is a standard provider of the controller's too, which sees no key of the trust authority's there.
    pub(crate) fn add_standard(&self, system: &System, name: &str) {
        issue(self.dir.path(), "controller", &self.path("controller"));
        let at = self.key_server_arguments("controller", self.key_server_port);
        let at: Vec<_> = at.iter().map(String::as_str).collect();
        system.ward(&[&["provider", "add", "standard", name], &at[..]].concat());
    }

    pub(crate) fn key_server_port(&self) -> u16 {
        self.key_server_port
    }

    /// Has the first instance of the key provider service fetch the primary key, and hold it in memory.
    pub(crate) fn fetch_primary_key(&self) {
        let added = self.add_provider(0, "vault", &["--primary-key", &self.primary_key(), "--fetch"]);
        assert!(added.contains("in memory here"), "{added}");
    }

    /// All go by what the administrators have at the first instance.
    pub(crate) fn share(&mut self) {
        self.shared += 1;
        let file = self.path(&format!("configuration{}", self.shared));
        self.instances[0].trust(&["config", "export", "--out", text(&file)]);
        for instance in &self.instances[1..] {
            instance.trust(&["config", "import", "--in", text(&file)]);
        }
    }

    /// Signs a description of the services, into a new file.
    pub(crate) fn describe(&self, file: &str) {
        let mut args = vec!["describe".to_owned()];
        for (service, which) in [("attestation", 0), ("key-provider", 1)] {
            for (number, instance) in self.instances.iter().enumerate() {
                let mut address = format!("127.0.0.1:{}", instance.ports[which]);
                if number > 0 {
                    address = format!("{address}={}", text(&instance.directory.join(service).join("tls.pem")));
                }
                args.extend([format!("--{service}"), address]);
            }
        }
        args.extend(["--out".to_owned(), text(&self.path(file)).to_owned()]);
        self.trust(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the trust authority keeps its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.instances[0].directory.clone()
    }

    /// What a trust administrator does.
    pub(crate) fn trust(&self, args: &[&str]) -> String {
        self.instances[0].trust(args)
    }

    /// The same, for its result.
    pub(crate) fn json<T: DeserializeOwned>(&self, args: &[&str]) -> T {
        serde_json::from_str(&self.trust(&[args, &["--output", "json"]].concat())).unwrap()
    }

    /// What a trust administrator is refused: why.
    pub(crate) fn refused(&self, code: Code, args: &[&str]) -> Problem {
        let args = [args, &["--output", "json"]].concat();
        let problem = problem_in(&args, &self.instances[0].command(&args));
        assert_eq!(problem.code, code, "ward trust {args:?}: {problem:?}");
        problem
    }

    /// What hosts have asked a service of an instance for.
    pub(crate) fn asked(&self, number: usize, keys: bool) -> Vec<AuditEntry> {
        let mut args = vec!["audit", "--last", "500", "--output", "json"];
        args.extend(keys.then_some("--keys"));
        serde_json::from_str(&self.instances[number].trust(&args)).unwrap()
    }

    /// That of it which it could give.
    pub(crate) fn given(&self, number: usize, keys: bool) -> Vec<AuditEntry> {
        self.asked(number, keys).into_iter().filter(|entry| entry.result == "ok").collect()
    }

    /// The name of the one host that has enrolled, once it has been asked for its evidence.
    pub(crate) fn enrolled(&self) -> String {
        eventually("the host enrols", || {
            let hosts = self.trust(&["host", "ls", "--output", "json"]);
            let hosts: serde_json::Value = serde_json::from_str(&hosts).unwrap();
            Some(hosts[0]["label"].as_str()?.to_owned())
        })
    }

    /// Lets the host in, and takes what it has booted for good.
    pub(crate) fn admit(&mut self, system: &System, agent: &str) {
        let host = self.enrolled();
        self.trust(&["host", "admit", &host]);
        eventually("the host shows what it booted", || {
            system.ward(&["trust", "remediate", agent]);
            let shown = self.trust(&["host", "show", &host, "--output", "json"]);
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            (!shown["report"].is_null()).then_some(())
        });
        self.trust(&["base-image", "capture", &host, "--image", "good", "--version", "1"]);
        self.share();
        system.ward(&["trust", "remediate", agent]);
    }

    /// Starts an instance of each service, on the ports that were described.
    pub(crate) fn start(&mut self, number: usize) {
        self.instances[number].start();
    }

    /// Kills an instance of each service.
    pub(crate) fn kill(&mut self, number: usize) {
        self.kill_attestation(number);
        self.instances[number].key_provider = None;
    }

    pub(crate) fn kill_attestation(&mut self, number: usize) {
        self.instances[number].attestation = None;
    }

    /// The key provider service.
    pub(crate) fn key_provider(&self) -> String {
        self.instances[0].key_provider.as_ref().unwrap().0.id().to_string()
    }

    /// The ID of the primary key at the key server.
    pub(crate) fn primary_key(&self) -> String {
        let providers = self.trust(&["provider", "ls", "--output", "json"]);
        let providers: serde_json::Value = serde_json::from_str(&providers).unwrap();
        providers["vault"]["primary_key"].as_str().unwrap().to_owned()
    }

    /// The key server, as whoever has the trust authority's credentials there uses it.
    pub(crate) fn key_server(&self) -> Client {
        let file = |name: &str| fs::read(self.path("client").join(name)).unwrap();
        let [ca, cert, secret] = ["ca.pem", "client.pem", "client.key"].map(file);
        Client::new(ClientConfig::new("127.0.0.1", self.key_server_port, &ca, &cert, &secret).unwrap())
    }

    /// The primary key itself.
    pub(crate) fn primary(&self) -> Vec<u8> {
        let key = blocking(self.key_server().get_key(&self.primary_key()));
        key.unwrap().expose().to_vec()
    }

    /// What lies behind a key reference: the trust authority's own key server decrypts it.
    pub(crate) fn kek(&self, key: &KeyRef) -> Vec<u8> {
        let KeyLocator::Trusted { wrapped } = &key.key else { panic!("{key}") };
        let ciphertext = URL_SAFE_NO_PAD.decode(wrapped.as_str().strip_prefix("2/vault/").unwrap()).unwrap();
        let request = DecryptRequest {
            unique_identifier: Some(self.primary_key()),
            parameters: Some(CryptographicParameters {
                block_cipher_mode: Some(BlockCipherMode::GCM),
                cryptographic_algorithm: Some(CryptographicAlgorithm::AES),
                tag_length: Some(16),
                ..CryptographicParameters::default()
            }),
            data: Some(SecretBytes::copy_of(&ciphertext[28..])),
            iv_counter_nonce: Some(ciphertext[..12].to_vec()),
            authentication_tag: Some(ciphertext[12..28].to_vec()),
            additional_data: Some(b"ward trusted KEK v1\0vault".to_vec()),
            ..DecryptRequest::default()
        };
        let answer = blocking(self.key_server().decrypt(request)).unwrap();
        answer.data.unwrap().expose().to_vec()
    }
}

/// How the hosts stand with trust authorities.
pub(crate) fn all_hosts(system: &System) -> Vec<TrustedHostView> {
    let status: serde_json::Value = system.json(&["trust", "status"]);
    serde_json::from_value(status["hosts"].clone()).unwrap()
}

/// How the one host stands.
pub(crate) fn stands(system: &System) -> Option<TrustedHostView> {
    all_hosts(system).into_iter().next()
}

/// A host is attested anew, and told what it is to go by: how it stands then.
pub(crate) fn remediate(system: &System, host: &str) -> TrustedHostView {
    let views: Vec<TrustedHostView> = system.json(&["trust", "remediate", host]);
    views.into_iter().next().unwrap()
}

pub(crate) fn wait_for(system: &System, state: TrustState) -> TrustedHostView {
    eventually(&format!("the host is {state}"), || stands(system).filter(|view| view.state == state))
}

/// The agent of the one host is started anew: with the machine's TPM, and the trust administrators' key.
pub(crate) fn restart_agent(system: &mut System, machine: &Machine, authority: &Authority) {
    system.kill_agent(0);
    start_agent(system, 0, machine, authority);
}

/// The same, until it is attested anew: the controller may hold for a moment what it said before.
pub(crate) fn restart_attested(system: &mut System, machine: &Machine, authority: &Authority) -> TrustedHostView {
    let before = stands(system).unwrap().attested;
    restart_agent(system, machine, authority);
    eventually("the host is attested anew", || {
        stands(system).filter(|view| view.state == TrustState::Healthy && view.attested > before)
    })
}

/// A machine becomes a host of a cluster.
pub(crate) fn join(system: &mut System, cluster: &str, machine: &Machine, authority: &Authority) {
    let token = system.ward(&["host", "add", "--cluster", cluster]);
    let host = system.enrol_host(&token);
    start_agent(system, host, machine, authority);
}

pub(crate) fn start_agent(system: &mut System, host: usize, machine: &Machine, authority: &Authority) {
    let key = authority.path("admin.pub");
    let mut arguments = machine.arguments();
    arguments.extend(["--trust-key".to_owned(), text(&key).to_owned()]);
    system.start_agent(host, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    system.host_answers(host);
}

/// The controller imports what the trust administrators have described.
pub(crate) fn import(system: &System, authority: &Authority) {
    import_for(system, authority, &[]);
}

/// The same, for some clusters.
pub(crate) fn import_for(system: &System, authority: &Authority, clusters: &[&str]) {
    let services = authority.path("services.json");
    let add = ["provider", "add", "trusted", "vault", "--description", text(&services)];
    system.ward(&[&add[..], clusters].concat());
}

pub(crate) fn blocking<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) fn command(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ward")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// What a command that must succeed prints.
fn done(args: &[&str], output: &Output) -> String {
    assert!(output.status.success(), "ward {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}
