//! Key servers as the test sees them: as one more client, as their administrator, and as the one who damages them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use key_search::{Report, Search};
use kmip::attribute::{Attribute, AttributeName, RevocationReason};
use kmip::client::{Client, ClientConfig, Filter};
use kmip::names::RevocationReasonCode;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{lossy, run, text};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A client's way to a key server.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) address: String,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Access {
    pub(crate) fn new(address: String, ca: PathBuf, cert: PathBuf, key: PathBuf) -> Self {
        Self { address, ca, cert, key }
    }

    /// Searches the files in a directory for a key, and for that of a disk under it.
    pub(super) fn search(&self, key_id: &str, disk: &Path, directory: &Path) -> Report {
        let Self { address: server, ca, cert, key } = self.clone();
        let (disks, directories) = (vec![disk.to_owned()], vec![directory.to_owned()]);
        let search = Search { server, ca, cert, key, key_id: key_id.to_owned(), disks, directories };
        runtime().block_on(search.run()).unwrap()
    }

    fn with<T>(&self, work: impl AsyncFnOnce(Client) -> T) -> T {
        let (host, port) = self.address.split_once(':').unwrap();
        let read = |path: &Path| fs::read(path).unwrap();
        let (ca, cert, key) = (read(&self.ca), read(&self.cert), read(&self.key));
        let config = ClientConfig::new(host, port.parse().unwrap(), &ca, &cert, &key).unwrap();
        runtime().block_on(work(Client::new(config)))
    }

    /// A key's bytes.
    pub(crate) fn kek(&self, id: &str) -> Vec<u8> {
        self.with(async |client| client.get_key(id).await.unwrap().expose().to_vec())
    }

    /// The IDs of all keys, but for those of hosts.
    pub(crate) fn all(&self) -> Vec<String> {
        self.by_owner().0
    }

    /// The IDs of all host keys.
    pub(crate) fn host_keys(&self) -> Vec<String> {
        self.by_owner().1
    }

    /// Those of hosts, by their names, and the others.
    fn by_owner(&self) -> (Vec<String>, Vec<String>) {
        self.with(async |client| {
            let (mut others, mut hosts) = (Vec::new(), Vec::new());
            for id in client.locate(Filter::default()).await.unwrap() {
                let name = client.get_attributes(&id, &[AttributeName::NAME]).await.unwrap();
                let owner = if format!("{name:?}").contains("ward-host-") { &mut hosts } else { &mut others };
                owner.push(id);
            }
            (others, hosts)
        })
    }

    /// Makes a key.
    pub(crate) fn make(&self) -> String {
        self.with(async |client| {
            let id = client.create_aes256(&[]).await.unwrap().id;
            client.activate(&id).await.unwrap();
            id
        })
    }

    /// Makes a key of that name, as Ward does: with its attributes, where the server takes any.
    pub(crate) fn make_named(&self, name: &str) -> String {
        self.with(async |client| {
            let ours = [("x-Vendor", "Ward"), ("x-Product", "Ward VM encryption")];
            let mut attributes = vec![Attribute::name(name)];
            attributes.extend(ours.map(|(name, value)| Attribute::custom_text(name, value)));
            client.create_aes256(&attributes).await.unwrap().id
        })
    }

    /// Whether the server gives a key out.
    pub(crate) fn gives(&self, id: &str) -> bool {
        self.with(async |client| client.get_key(id).await.is_ok())
    }

    /// Destroys a key.
    pub(crate) fn destroy(&self, id: &str) {
        self.with(async |client| {
            let reason = RevocationReason { code: RevocationReasonCode::CESSATION_OF_OPERATION, message: None };
            client.revoke(id, reason, None).await.unwrap();
            client.destroy(id).await.unwrap();
        });
    }
}

/// PyKMIP's server.
pub(crate) struct PyKmip(TempDir);

impl PyKmip {
    pub(crate) fn start() -> Self {
        let server = Self(TempDir::new().unwrap());
        server.script("start");
        server
    }

    pub(crate) fn script(&self, verb: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/pykmip");
        let output = Command::new(script).arg(verb).arg(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{}", lossy(&output.stderr));
    }

    /// A file of its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn access(&self) -> Access {
        let path = |name: &str| self.path(name);
        let address = fs::read_to_string(path("address")).unwrap().trim().to_owned();
        Access::new(address, path("ca.pem"), path("client.pem"), path("client.key"))
    }

    /// Its authority signs a client's request: `NAME.csr` becomes `NAME.pem`.
    pub(crate) fn sign(&self, request: &Path) {
        let extensions = self.path("client.ext");
        fs::write(&extensions, "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n").unwrap();
        let (ca, key, certificate) = (self.path("ca.pem"), self.path("ca.key"), request.with_extension("pem"));
        let signing = ["x509", "-req", "-in", text(request), "-CA", text(&ca), "-CAkey", text(&key), "-days", "365"];
        run("openssl", &[&signing[..], &["-extfile", text(&extensions), "-out", text(&certificate)]].concat());
    }
}

impl Drop for PyKmip {
    fn drop(&mut self) {
        self.script("stop");
    }
}

/// An authority: a new one, or that of a key server.
pub(crate) struct Pki {
    pub(crate) ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = params.self_signed(&key).unwrap().pem();
        Self { ca, issuer: Issuer::new(params, key) }
    }

    /// That of the key server with that state.
    pub(crate) fn of(key_server: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(key_server.join(name)).unwrap();
        let key = KeyPair::from_pem(&read("ca.key")).unwrap();
        Self { ca: read("ca.pem"), issuer: Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap() }
    }

    /// Issues a certificate for a server of this machine that ends on the first day of that year: `NAME.pem`, `NAME.key`.
    pub(crate) fn issue_server(&self, directory: &Path, name: &str, ends: i32) {
        self.issue(directory, name, ends, ExtendedKeyUsagePurpose::ServerAuth);
    }

    /// The same for a client.
    pub(crate) fn issue_client(&self, directory: &Path, name: &str, ends: i32) {
        self.issue(directory, name, ends, ExtendedKeyUsagePurpose::ClientAuth);
    }

    fn issue(&self, directory: &Path, name: &str, ends: i32, usage: ExtendedKeyUsagePurpose) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(ends, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        fs::write(directory.join(format!("{name}.pem")), certificate).unwrap();
        fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
