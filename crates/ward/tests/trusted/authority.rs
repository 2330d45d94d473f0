//! A trust authority with its key server, and the machine of a host.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kmip::SecretBytes;
use kmip::client::{Client, ClientConfig};
use kmip::names::{BlockCipherMode, CryptographicAlgorithm};
use kmip::operation::{CryptographicParameters, DecryptRequest};
use tempfile::TempDir;
use ward_controller::api::types::{TrustState, TrustedHostView};
use ward_types::{KeyLocator, KeyRef};

use crate::common::Log;
use crate::support::{System, eventually, port, text};
use crate::tpm::{Ca, Tpm};

/// A machine that has booted with Secure Boot.
pub(crate) struct Machine {
    pub(crate) tpm: Tpm,
    pub(crate) log: Log,
    pub(crate) ca: Ca,
}

impl Machine {
    pub(crate) fn booted() -> Self {
        let (ca, log) = (Ca::new(), Log::of("secureboot"));
        let tpm = Tpm::certified_by(&ca);
        tpm.boot(&log);
        fs::write(tpm.path("event-log"), log.to_bytes()).unwrap();
        Self { tpm, log, ca }
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

/// A trust authority and a key server.
pub(crate) struct Authority {
    dir: TempDir,
    attestation: Option<Process>,
    key_provider: Process,
    _key_server: Process,
    ports: [u16; 3],
}

impl Authority {
    /// Set up by the guided sequence, as far as it comes before there is a host.
    pub(crate) fn set_up(machine: &Machine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let ports = [port(), port(), port()];
        let [attestation, keys, kmip] = ports.map(|port| format!("127.0.0.1:{port}"));
        let key_server = Process::start(
            &["keyserver", "run", "--state", text(&at("kms")), "--listen", &kmip],
            &at("kms.log"),
            ports[2],
        );
        let out = at("client");
        command(&["keyserver", "issue-client", "trust", "--state", text(&at("kms")), "--out", text(&out)]);
        let trust = at("trust");
        command(&["trust", "init", "--dir", text(&trust)]);
        for (name, der) in [("root.der", machine.ca.root()), ("issuer.der", machine.ca.intermediate())] {
            fs::write(at(name), der).unwrap();
            command(&["trust", "tpm-ca", "import", text(&at(name)), "--dir", text(&trust)]);
        }
        let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| out.join(name));
        let (ca, cert, key) = (text(&ca), text(&cert), text(&key));
        let added = command(&[
            "trust",
            "provider",
            "add",
            "vault",
            "--server",
            &kmip,
            "--ca",
            ca,
            "--cert",
            cert,
            "--key",
            key,
            "--make",
            "--dir",
            text(&trust),
        ]);
        assert!(added.contains("at the key server"), "{added}");
        let run = |name: &str, listen: &str, port| {
            let args = ["trust", name, "--dir", text(&trust), "--listen", listen];
            Process::start(&args, &at(&format!("{name}.log")), port)
        };
        let services = (run("attestation", &attestation, ports[0]), run("key-provider", &keys, ports[1]));
        command(&[
            "trust",
            "describe",
            "--attestation",
            &attestation,
            "--key-provider",
            &keys,
            "--out",
            text(&at("services.json")),
            "--dir",
            text(&trust),
        ]);
        fs::write(at("admin.pub"), command(&["trust", "admin-key", "--dir", text(&trust)])).unwrap();
        let (attestation, key_provider) = (Some(services.0), services.1);
        Self { dir, attestation, key_provider, _key_server: key_server, ports }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a trust administrator does.
    pub(crate) fn trust(&self, args: &[&str]) -> String {
        command(&[&["trust"], args, &["--dir", text(&self.path("trust"))]].concat())
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
    pub(crate) fn admit(&self, system: &System) {
        let host = self.enrolled();
        self.trust(&["host", "admit", &host]);
        eventually("the host shows what it booted", || {
            system.ward(&["trust", "remediate", "h0"]);
            let shown = self.trust(&["host", "show", &host, "--output", "json"]);
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            (!shown["report"].is_null()).then_some(())
        });
        self.trust(&["base-image", "capture", &host, "--image", "good", "--version", "1"]);
        system.ward(&["trust", "remediate", "h0"]);
    }

    pub(crate) fn stop_attestation(&mut self) {
        self.attestation = None;
    }

    /// The key provider service.
    pub(crate) fn key_provider(&self) -> String {
        self.key_provider.0.id().to_string()
    }

    /// What lies behind a key reference: the trust authority's own key server decrypts it.
    pub(crate) fn kek(&self, key: &KeyRef) -> Vec<u8> {
        let KeyLocator::Trusted { wrapped } = &key.key else { panic!("{key}") };
        let ciphertext = URL_SAFE_NO_PAD.decode(wrapped.as_str().strip_prefix("2/vault/").unwrap()).unwrap();
        let primary = self.trust(&["provider", "ls", "--output", "json"]);
        let primary: serde_json::Value = serde_json::from_str(&primary).unwrap();
        let file = |name: &str| fs::read(self.path("client").join(name)).unwrap();
        let [ca, cert, secret] = ["ca.pem", "client.pem", "client.key"].map(file);
        let config = ClientConfig::new("127.0.0.1", self.ports[2], &ca, &cert, &secret).unwrap();
        let request = DecryptRequest {
            unique_identifier: Some(primary["vault"]["primary_key"].as_str().unwrap().to_owned()),
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(Client::new(config).decrypt(request)).unwrap();
        answer.data.unwrap().expose().to_vec()
    }
}

/// How the one host stands.
pub(crate) fn stands(system: &System) -> Option<TrustedHostView> {
    let status: serde_json::Value = system.json(&["trust", "status"]);
    serde_json::from_value(status["hosts"][0].clone()).ok()
}

pub(crate) fn wait_for(system: &System, state: TrustState) -> TrustedHostView {
    eventually(&format!("the host is {state}"), || stands(system).filter(|view| view.state == state))
}

fn command(args: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_ward")).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "ward {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
