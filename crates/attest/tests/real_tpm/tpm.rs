//! A swtpm in a directory of its own, and what the tests do with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use attest::ak::RestrictedAk;
use attest::credential::{Challenge, CredentialBlob, ResidentAk};
use attest::ek::{PinnedEks, TrustedEk};
use attest::hash::{Digest, HashAlg};
use attest::log::EventType;
use attest::quote::{PcrValues, QuoteEvidence, QuoteRequest};
use attest::tpm::{AlgId, Public};
use jiff::Timestamp;
use tempfile::TempDir;

use self::swtpm::Swtpm;
use crate::common::Log;

#[path = "swtpm.rs"]
mod swtpm;

/// When the tests take place.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?} can't be started ({error}): run ./test, which installs what tests need"),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{command:?}: {}: {}{}", output.status, text(&output.stdout), text(&output.stderr)))
    }
}

/// A CA that certifies TPMs, as swtpm's tools make it: a root and an intermediate.
pub(crate) struct Ca(TempDir);

impl Ca {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Self(dir);
        let at = |name: &str| ca.0.path().join(name).display().to_string();
        let conf = format!(
            "statedir = {0}\nsigningkey = {0}/signkey.pem\nissuercert = {0}/issuercert.pem\ncertserial = {0}/serial\n",
            ca.0.path().display()
        );
        fs::write(at("localca.conf"), conf).unwrap();
        let options = "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n";
        fs::write(at("localca.options"), options).unwrap();
        let setup = format!(
            "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n",
            at("localca.conf"),
            at("localca.options")
        );
        fs::write(at("setup.conf"), setup).unwrap();
        ca
    }

    fn certificate(&self, name: &str) -> Vec<u8> {
        let pem = fs::read(self.0.path().join(name)).unwrap();
        x509_parser::pem::parse_x509_pem(&pem).unwrap().1.contents
    }

    /// There once a TPM was made with it.
    pub(crate) fn root(&self) -> Vec<u8> {
        self.certificate("swtpm-localca-rootca-cert.pem")
    }

    pub(crate) fn intermediate(&self) -> Vec<u8> {
        self.certificate("issuercert.pem")
    }
}

pub(crate) struct Tpm {
    dir: TempDir,
    swtpm: Swtpm,
}

impl Tpm {
    pub(crate) fn new() -> Self {
        Self::certified_by(&Ca::new())
    }

    pub(crate) fn certified_by(ca: &Ca) -> Self {
        Self::make(ca, None)
    }

    /// One that the firmware started from that locality.
    pub(crate) fn started_from(locality: u8) -> Self {
        Self::make(&Ca::new(), Some(locality))
    }

    fn make(ca: &Ca, locality: Option<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        run(Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--pcr-banks", "sha1,sha256,sha384", "--lock-nvram", "--overwrite"])
            .arg("--tpmstate")
            .arg(&state)
            .arg("--config")
            .arg(ca.0.path().join("setup.conf")))
        .unwrap();
        let swtpm = match locality {
            None => Swtpm::on(&state),
            Some(locality) => {
                let swtpm = Swtpm::start(&state, &["--flags", "not-need-init"]);
                Self::start_up(swtpm.port, locality);
                swtpm
            }
        };
        Self { dir, swtpm }
    }

    /// TPM2_Startup(CLEAR) from that locality, which the tools have no way to ask for.
    fn start_up(port: u16, locality: u8) {
        const STARTUP: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0];
        const SUCCESS: [u8; 10] = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0];
        let set = |locality: u8| {
            let control = format!("127.0.0.1:{}", port + 1);
            run(Command::new("swtpm_ioctl").args(["--tcp", &control, "-l", &locality.to_string()])).unwrap()
        };
        set(locality);
        let mut tpm = TcpStream::connect(("127.0.0.1", port)).unwrap();
        tpm.write_all(&STARTUP).unwrap();
        let mut answer = [0; 10];
        tpm.read_exact(&mut answer).unwrap();
        assert_eq!(answer, SUCCESS);
        drop(tpm);
        set(0);
    }

    /// How other programs reach it.
    pub(crate) fn tcti(&self) -> String {
        self.swtpm.tcti()
    }

    /// The machine is switched off and on again, and measures what it boots.
    pub(crate) fn reboot(&self, log: &Log) {
        // As an operating system does. Where it does not, several times, the TPM takes it for an attack and locks up.
        self.try_run("tpm2_shutdown", &["-c"]).unwrap();
        let control = format!("127.0.0.1:{}", self.swtpm.port + 1);
        run(Command::new("swtpm_ioctl").args(["--tcp", &control, "-i"])).unwrap();
        self.run("tpm2_startup", &["-c"]);
        self.boot(log);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn try_run(&self, tool: &str, arguments: &[&str]) -> Result<Vec<u8>, String> {
        run(Command::new(tool).args(arguments).current_dir(self.dir.path()).env("TPM2TOOLS_TCTI", self.tcti()))
    }

    /// Runs a tool, and then throws out of the TPM what it left there: without a resource manager there are three
    /// places.
    pub(crate) fn run(&self, tool: &str, arguments: &[&str]) -> Vec<u8> {
        let out = self.try_run(tool, arguments).unwrap();
        self.try_run("tpm2_flushcontext", &["-t"]).unwrap();
        out
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Makes the EK of that kind: `rsa`, `ecc` or `ecc384`.
    pub(crate) fn ek(&self, kind: &str) -> Public {
        let (context, public) = (format!("ek-{kind}.ctx"), format!("ek-{kind}.pub"));
        self.run("tpm2_createek", &["-c", &context, "-G", kind, "-u", &public]);
        Public::from_tpm2b(&self.read(&public)).unwrap()
    }

    /// The certificate of the EK `rsa` or `ecc384`, out of the TPM's NV memory.
    pub(crate) fn ek_certificate(&self, kind: &str) -> Vec<u8> {
        let index = if kind == "rsa" { "0x1c00002" } else { "0x1c00016" };
        self.run("tpm2_nvread", &[index, "-o", "ek.der"]);
        self.read("ek.der")
    }

    /// Makes an AK under an EK that was made; gives its TPM2B_PUBLIC.
    pub(crate) fn ak(&self, ek: &str, name: &str, kind: [&str; 3]) -> Vec<u8> {
        let (parent, context, public) = (format!("ek-{ek}.ctx"), format!("{name}.ctx"), format!("{name}.pub"));
        let [algorithm, hash, scheme] = kind;
        self.run(
            "tpm2_createak",
            &["-C", &parent, "-c", &context, "-G", algorithm, "-g", hash, "-s", scheme, "-u", &public],
        );
        self.read(&public)
    }

    /// TPM2_ActivateCredential.
    pub(crate) fn activate(&self, ek: &str, ak: &str, blob: &CredentialBlob) -> Result<Vec<u8>, String> {
        // The tool's own file format: magic, version, then the two structures.
        let file = [&[0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1][..], &blob.id_object, &blob.encrypted_secret].concat();
        fs::write(self.path("credential"), file).unwrap();
        self.run("tpm2_startauthsession", &["--policy-session", "-S", "session"]);
        self.try_run("tpm2_policysecret", &["-S", "session", "-c", "endorsement"]).unwrap();
        let (ek, ak) = (format!("ek-{ek}.ctx"), format!("{ak}.ctx"));
        // The EK on P-384 is of the newer templates, which take a password too, and have another policy.
        let auth = if ek.contains("384") { &[][..] } else { &["-P", "session:session"] };
        let arguments = [&["-c", &ak, "-C", &ek, "-i", "credential", "-o", "secret"], auth].concat();
        let result = self.try_run("tpm2_activatecredential", &arguments);
        self.try_run("tpm2_flushcontext", &["session"]).unwrap();
        self.try_run("tpm2_flushcontext", &["-t"]).unwrap();
        result.map(|_| self.read("secret"))
    }

    pub(crate) fn pinned(&self, ek: &str) -> TrustedEk {
        let public = self.ek(ek);
        let mut pins = PinnedEks::default();
        pins.insert(public.name(), "under test".to_owned());
        pins.verify(public).unwrap()
    }

    /// An AK that proved to live in this TPM.
    pub(crate) fn resident_ak(&self, name: &str, kind: [&str; 3]) -> ResidentAk {
        let ek = self.pinned("rsa");
        let ak = RestrictedAk::from_tpm2b(&self.ak("rsa", name, kind)).unwrap();
        let (challenge, blob) = Challenge::new(ek, ak).unwrap();
        challenge.confirm(&self.activate("rsa", name, &blob).unwrap(), now()).unwrap()
    }

    /// TPM2_Quote, as the host would answer.
    pub(crate) fn quote(&self, ak: &str, request: &QuoteRequest) -> QuoteEvidence {
        let selection = format!("{}:{}", request.bank(), request.pcrs());
        self.quote_of(ak, &selection, &hex::encode(request.qualifying_data()), request)
    }

    pub(crate) fn quote_of(&self, ak: &str, selection: &str, nonce: &str, request: &QuoteRequest) -> QuoteEvidence {
        let context = format!("{ak}.ctx");
        let scheme = Public::from_tpm2b(&self.read(&format!("{ak}.pub"))).unwrap().scheme.unwrap();
        let name = |alg: AlgId| alg.to_string().trim_start_matches("TPM_ALG_").to_lowercase();
        let (scheme, hash) = (name(scheme.scheme), name(scheme.hash));
        let mut arguments = vec!["-c", &context, "-g", &hash, "--scheme", &scheme];
        arguments.extend(["-l", selection, "-m", "message", "-s", "signature"]);
        if !nonce.is_empty() {
            arguments.extend(["-q", nonce]);
        }
        self.run("tpm2_quote", &arguments);
        let pcrs = PcrValues::new(self.pcrs(request.bank(), request.pcrs().iter())).unwrap();
        QuoteEvidence { message: self.read("message"), signature: self.read("signature"), pcrs }
    }

    pub(crate) fn pcrs(&self, bank: HashAlg, indices: impl Iterator<Item = u8>) -> BTreeMap<u8, Digest> {
        let indices: Vec<_> = indices.collect();
        let list = indices.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        self.run("tpm2_pcrread", &[&format!("{bank}:{list}"), "-o", "pcrs"]);
        let values = self.read("pcrs");
        let digests = values.chunks(bank.len()).map(|value| Digest::new(bank, value).unwrap());
        indices.into_iter().zip(digests).collect()
    }

    /// Extends what a recorded boot measured, in one go.
    pub(crate) fn boot(&self, log: &Log) {
        let extends: Vec<_> = log
            .events
            .iter()
            .filter(|event| event.event_type != EventType::NO_ACTION)
            .map(|event| {
                let digests = event.digests.iter().map(|digest| digest.to_string().replace(':', "="));
                format!("{}:{}", event.pcr, digests.collect::<Vec<_>>().join(","))
            })
            .collect();
        self.run("tpm2_pcrextend", &extends.iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub(crate) fn extend(&self, pcr: u8, digests: &[&Digest]) {
        let digests = digests.iter().map(|digest| digest.to_string().replace(':', "=")).collect::<Vec<_>>().join(",");
        self.run("tpm2_pcrextend", &[&format!("{pcr}:{digests}")]);
    }
}
