//! What the tests share: a controller, agents that are processes of their own, homes, and real tools.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use base64::Engine as _;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use ward_rpc::api::controller::{Enrol, Enrolled, Hello};
use ward_rpc::api::host::{
    CreateVm, DiskSource, GiveCertificates, HomeRef, HostStatus, JobOutcome, JobSpec, JobStatus, NewFirmware, Notice,
    StartJob, Status, WatchJob,
};
use ward_rpc::{
    Authority, Call, CallError, Client, Credentials, EkAuthority, EnrolmentToken, KeyPush, Peer, Role, ServerKind,
};
use ward_secret::{Kek, WrappedKey};
use ward_types::{
    ClusterId, Code, Component, CryptoPlan, CryptoStep, DiskId, HostId, KeyId, KeyRef, Problem, StepAction, TaskId,
    TokenId, VmConfig, VmId,
};

use swtpm::Swtpm;

#[path = "../../../attest/tests/real_tpm/swtpm.rs"]
pub mod swtpm;

pub const MIB: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(60);

/// The binary that plays `ward`.
pub fn exe() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let exe = test.parent().unwrap().parent().unwrap().join("examples/test_ward");
    assert!(exe.exists(), "{} is missing: run the tests with `cargo test -p ward-host`", exe.display());
    exe
}

/// A controller that enrols everybody and hears hellos.
pub struct Controller {
    ca: Authority,
    role: Role,
    credentials: Credentials,
    pub address: SocketAddr,
    hellos: watch::Sender<Vec<Uuid>>,
    shutdown: CancellationToken,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub const SECRET: &str = "c2VjcmV0";

impl Controller {
    pub async fn start() -> Arc<Self> {
        let ca = Authority::generate().unwrap();
        let role = Role::Controller(Uuid::new_v4());
        let credentials = ca.issue(role, &[]).unwrap();
        let tls = ward_rpc::server_config(ca.certificate(), &credentials, ServerKind::MutualOrNone).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let controller = Arc::new(Self {
            ca,
            role,
            credentials,
            address: listener.local_addr().unwrap(),
            hellos: watch::Sender::new(Vec::new()),
            shutdown: CancellationToken::new(),
        });
        let router = Router::new();
        let router = ward_rpc::route(router, |this: Arc<Self>, _: Peer, call: Enrol| async move { this.enrol(call) });
        let router = ward_rpc::route(router, |this: Arc<Self>, peer: Peer, call: Hello| async move {
            assert!(peer.host().is_some());
            this.hellos.send_modify(|hellos| hellos.push(call.boot));
            Ok(())
        });
        // The router must not keep the controller alive.
        let weak = Arc::clone(&controller);
        tokio::spawn(ward_rpc::serve(listener, tls, router.with_state(weak), controller.shutdown.clone()));
        controller
    }

    fn enrol(&self, call: Enrol) -> Result<Enrolled, Problem> {
        if call.secret != SECRET {
            return Err(Problem::new(Code::EnrolmentRefused, "cannot enrol", "the token is wrong", "make another"));
        }
        let host = HostId::new();
        let certificate = self.ca.sign(&call.csr, Role::Host(host)).unwrap();
        Ok(Enrolled { host, cluster: ClusterId::new(), certificate })
    }

    pub fn token(&self, secret: &str) -> EnrolmentToken {
        EnrolmentToken {
            id: TokenId::new(),
            secret: secret.into(),
            controller: self.address.to_string(),
            server_name: self.role.server_name(),
            ca: self.ca.certificate().into(),
        }
    }

    /// A client of a host, with the controller's certificate or another's.
    pub fn client(&self, host: HostId, address: SocketAddr, shown: Option<Role>) -> Client {
        let other = shown.map(|role| self.ca.issue(role, &[]).unwrap());
        let tls = ward_rpc::client_config(self.ca.certificate(), Some(other.as_ref().unwrap_or(&self.credentials)));
        Client::new(tls.unwrap(), &Role::Host(host).server_name(), address).unwrap()
    }
}

/// An enrolled host whose agent may be killed and started again.
pub struct Host {
    pub controller: Arc<Controller>,
    pub dir: TempDir,
    pub id: HostId,
    pub address: SocketAddr,
    pub client: Client,
    agent: Option<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        // What an agent leaves running on purpose must not outlive the test.
        let run = self.state().join("run");
        for vm in fs::read_dir(run).into_iter().flatten().flatten() {
            for process in fs::read_dir("/proc").unwrap().flatten() {
                if fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(vm.path())) {
                    let pid = process.file_name().into_string().unwrap();
                    let _ = Command::new("kill").args(["-KILL", &pid]).status();
                }
            }
        }
    }
}

impl Host {
    /// A host that is enrolled and whose agent runs.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(env: &[(&str, &str)]) -> Self {
        let mut host = Self::enrolled().await;
        host.start_agent(env).await;
        host
    }

    pub async fn enrolled() -> Self {
        let controller = Controller::start().await;
        let dir = TempDir::new().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let token = controller.token(SECRET);
        let state = dir.path().join("s");
        let enrolment = ward_host::enrol(&state, &token, "h1".parse().unwrap(), address.to_string());
        let id = enrolment.await.unwrap().host;
        fs::create_dir(dir.path().join("store")).unwrap();
        let client = controller.client(id, address, None);
        Self { controller, dir, id, address, client, agent: None }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// How many directories there are in the datastore.
    pub fn homes(&self) -> usize {
        fs::read_dir(self.store()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn home(&self, name: &str) -> HomeRef {
        HomeRef { datastore: self.store(), directory: name.parse().unwrap() }
    }

    /// Starts the agent and waits for its hello.
    pub async fn start_agent(&mut self, env: &[(&str, &str)]) {
        let mut hellos = self.controller.hellos.subscribe();
        let before = hellos.borrow_and_update().len();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("agent.log")).unwrap();
        let agent = Command::new(exe())
            .args([Path::new("host"), &self.state(), Path::new(&self.address.to_string())])
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
        let heard = tokio::time::timeout(DEADLINE, hellos.wait_for(|hellos| hellos.len() > before)).await;
        assert!(heard.is_ok(), "the agent says no hello: {}", self.log());
        // Connections to the agent before this one are dead.
        self.client = self.controller.client(self.id, self.address, None);
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    /// Kills the agent, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            agent.wait().unwrap();
        }
    }

    /// Ends the agent as its service manager would.
    pub fn terminate(&mut self) {
        let mut agent = self.agent.take().unwrap();
        run("kill", &["-TERM", &agent.id().to_string()]);
        assert!(agent.wait().unwrap().success(), "{}", self.log());
    }

    /// Whether the agent has been killed.
    pub fn was_killed(&mut self) -> bool {
        let status = self.agent.as_mut().and_then(|agent| agent.try_wait().unwrap());
        let killed = status.is_some();
        if let Some(status) = status {
            assert_eq!(status.signal(), Some(9), "{}", self.log());
            self.agent = None;
        }
        killed
    }

    pub async fn call<C: Call>(&self, call: C) -> Result<C::Reply, Problem> {
        match self.client.call_within(call, DEADLINE).await {
            Ok(reply) => Ok(reply),
            Err(CallError::Refused(problem)) => Err(*problem),
            Err(error) => panic!("{error}: {}", self.log()),
        }
    }

    /// Asks how the host is until it is so.
    pub async fn until(&self, what: &str, so: impl Fn(&HostStatus) -> bool) -> HostStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.call(Status::default()).await.unwrap();
            if so(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "timed out: {what}: {:?}", status.crypto);
        }
    }

    pub async fn push(&self, keys: &[u8]) {
        let keys = keys.iter().map(|id| (key(*id), kek(*id))).collect();
        self.client.push_keys(&KeyPush { keys }).await.unwrap();
    }

    /// A job from its beginning to its end, or to the agent's.
    pub async fn try_job(&mut self, job: TaskId, home: HomeRef, spec: JobSpec) -> Option<Result<JobOutcome, Problem>> {
        let mut status = match self.client.call(StartJob { job, home, spec }).await {
            Ok(status) => status,
            Err(CallError::Refused(problem)) => return Some(Err(*problem)),
            Err(_) => return self.agent_is_gone().await,
        };
        loop {
            if let Some(outcome) = status.outcome {
                return Some(Ok(outcome));
            }
            if let Some(asks) = &status.asks {
                let (rsa, ecc) = ek_ca().certify(asks, VmId::new(), &"vm".parse().unwrap()).unwrap();
                // Where the agent is killed meanwhile, the next question tells.
                let _ = self.client.call(GiveCertificates { job, rsa, ecc }).await;
            }
            let watch = WatchJob { job, seen: status.revision, wait_ms: 20_000 };
            status = match self.client.call_within(watch, DEADLINE).await {
                Ok(status) => status,
                Err(CallError::Refused(problem)) => panic!("{problem}"),
                Err(_) => return self.agent_is_gone().await,
            };
        }
    }

    async fn agent_is_gone<T>(&mut self) -> Option<T> {
        eventually("the agent's end", || self.was_killed());
        None
    }

    /// A job that must come to an end of its own.
    pub async fn job(&mut self, home: &str, spec: JobSpec) -> Result<JobOutcome, Problem> {
        let home = self.home(home);
        self.try_job(TaskId::new(), home, spec).await.unwrap_or_else(|| panic!("the agent was killed"))
    }

    /// A job that must be done: the VM, and what is to be known.
    pub async fn done(&mut self, home: &str, spec: JobSpec) -> (Option<VmConfig>, Vec<Notice>) {
        match self.job(home, spec).await {
            Ok(JobOutcome::Done { config, notices }) => (config.map(|config| *config), notices),
            other => panic!("{other:?}: {}", self.log()),
        }
    }

    /// A job that must be refused or fail.
    pub async fn refused(&mut self, home: &str, spec: JobSpec) -> Problem {
        match self.job(home, spec).await {
            Err(problem) | Ok(JobOutcome::Failed { problem }) => problem,
            other => panic!("{other:?}"),
        }
    }

    pub async fn begin(&self, job: TaskId, home: &str, spec: JobSpec) -> Result<JobStatus, Problem> {
        self.call(StartJob { job, home: self.home(home), spec }).await
    }

    pub async fn create(&mut self, name: &str, disks: Vec<DiskSource>) -> VmConfig {
        self.done(name, create(name, disks)).await.0.unwrap()
    }

    /// What is in a home, sorted, without the locks.
    pub fn files(&self, home: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.store().join(home))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".lock"))
            .collect();
        names.sort();
        names
    }
}

pub fn create(name: &str, disks: Vec<DiskSource>) -> JobSpec {
    JobSpec::Create(CreateVm {
        id: VmId::new(),
        name: name.parse().unwrap(),
        cpus: 1,
        memory_mib: 64,
        kernel: None,
        disks,
        firmware: NewFirmware::Bios,
        tpm: false,
    })
}

/// A VM without a disk that has UEFI, and with a key for its home a vTPM too.
pub fn create_uefi(name: &str, key_id: Option<u8>) -> JobSpec {
    let JobSpec::Create(vm) = create(name, vec![]) else { unreachable!() };
    let firmware = NewFirmware::Uefi { secure_boot: false, vars: None };
    let vm = CreateVm { memory_mib: 128, firmware, tpm: key_id.is_some(), ..vm };
    match key_id {
        None => JobSpec::Create(vm),
        Some(id) => JobSpec::CreateEncrypted { vm, home: key(id), disks: vec![] },
    }
}

/// The CA that certifies vTPMs.
pub fn ek_ca() -> &'static EkAuthority {
    static CA: OnceLock<EkAuthority> = OnceLock::new();
    CA.get_or_init(|| EkAuthority::generate().unwrap())
}

/// A command to swtpm's control channel, and the beginning of its answer.
fn tpm_call(control: &mut UnixStream, send: &[u32], expect: usize) -> Vec<u32> {
    control.write_all(&send.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>()).unwrap();
    let mut bytes = vec![0; expect * 4];
    control.read_exact(&mut bytes).unwrap();
    bytes.chunks(4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap())).collect()
}

/// The state of a vTPM, decrypted; `None` where that KEK doesn't open it.
pub fn tpm_state(home: &Path, config: &VmConfig, id: u8) -> Option<Vec<u8>> {
    let tpm = config.tpm.as_ref().unwrap();
    let wrapped = base64::engine::general_purpose::STANDARD.decode(&tpm.wrapped_key.0).unwrap();
    let key = kek(id).unwrap_tpm_key(&WrappedKey::from_bytes(wrapped)).ok()?;
    let (mut control, its) = UnixStream::pair().unwrap();
    let keyfile = tempfile::NamedTempFile::new().unwrap();
    fs::write(&keyfile, key.expose()).unwrap();
    let key = format!("file={},format=binary,mode=aes-256-cbc", text(keyfile.path()));
    let mut swtpm = Command::new("swtpm")
        .args(["socket", "--tpm2", "--tpmstate", &format!("dir={},mode=0600", tpm.state)])
        .args(["--key", &key, "--ctrl", "type=unixio,clientfd=0"])
        .current_dir(home)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(its)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = (tpm_call(&mut control, &[2, 0], 1) == [0]).then(|| {
        let [0, _, total, length] = tpm_call(&mut control, &[12, 1, 1, 0], 4)[..] else { panic!("no state") };
        assert_eq!(total, length);
        let mut state = vec![0; length as usize];
        control.read_exact(&mut state).unwrap();
        state
    });
    let _ = swtpm.kill();
    swtpm.wait().unwrap();
    state
}

/// The certificates in a vTPM's NV memory, of its RSA key and of its ECC key, as the TPM's own tools read them.
pub fn nv_certificates(home: &Path, config: &VmConfig, id: u8) -> [Vec<u8>; 2] {
    let tpm = config.tpm.as_ref().unwrap();
    let wrapped = base64::engine::general_purpose::STANDARD.decode(&tpm.wrapped_key.0).unwrap();
    let key = kek(id).unwrap_tpm_key(&WrappedKey::from_bytes(wrapped)).unwrap();
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("key"), key.expose()).unwrap();
    // Of a copy: a TPM that was on is not quite as it was.
    let state = "tpm2-00.permall";
    fs::copy(home.join(tpm.state.as_str()).join(state), work.path().join(state)).unwrap();
    let keyfile = format!("file={},format=binary,mode=aes-256-cbc", work.path().join("key").display());
    let swtpm = Swtpm::start(work.path(), &["--flags", "not-need-init,startup-clear", "--key", &keyfile]);
    let tcti = swtpm.tcti();
    ["0x01c00002", "0x01c0000a"].map(|index| {
        let read = Command::new("tpm2_nvread").args(["-T", &tcti, "-C", "o", index]).output().unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        read.stdout
    })
}

pub fn copy(path: &Path) -> DiskSource {
    DiskSource::Copy { path: path.to_owned() }
}

pub fn key(id: u8) -> KeyRef {
    KeyRef::standard("kms".parse().unwrap(), KeyId::try_from(id.to_string()).unwrap())
}

pub fn kek(id: u8) -> Kek {
    Kek::take(&mut [id ^ 0x5a; 32]).unwrap()
}

/// Encrypts the home and these disks.
pub fn encrypt(id: u8, disks: &[u16]) -> JobSpec {
    plan(Some(id), true, disks)
}

/// Decrypts these disks, then the home.
pub fn decrypt(disks: &[u16]) -> JobSpec {
    plan(None, true, disks)
}

/// Puts that KEK in the place of the ones that there are.
pub fn shallow(id: u8, home: bool, disks: &[u16]) -> JobSpec {
    steps(StepAction::ShallowRecrypt { key: key(id) }, home, disks)
}

/// Encrypts anew, under new DEKs and that KEK.
pub fn deep(id: u8, home: bool, disks: &[u16]) -> JobSpec {
    steps(StepAction::DeepRecrypt { key: key(id) }, home, disks)
}

pub fn plan(encrypt: Option<u8>, home: bool, disks: &[u16]) -> JobSpec {
    steps(encrypt.map_or(StepAction::Decrypt, |id| StepAction::Encrypt { key: key(id) }), home, disks)
}

pub fn steps(action: StepAction, home: bool, disks: &[u16]) -> JobSpec {
    let disks = disks.iter().map(|disk| Component::Disk(DiskId(*disk)));
    let components = home.then_some(Component::Home).into_iter().chain(disks);
    let steps = components.map(|component| CryptoStep { component, action: action.clone() }).collect();
    JobSpec::Crypt { plan: CryptoPlan::new(steps) }
}

/// A raw image with data, holes, and data at its end.
pub fn raw_image(path: &Path, size: u64) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let size_bytes = usize::try_from(size).unwrap();
    let mut model = vec![0; size_bytes];
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, length, seed) in [(0, 70_000, 1), (size_bytes / 2, 200_000, 2), (size_bytes - 5000, 5000, 3)] {
        let bytes = noise(seed, length);
        file.write_all_at(&bytes, at as u64).unwrap();
        model[at..at + length].copy_from_slice(&bytes);
    }
    model
}

pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// A tool that must succeed.
pub fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::yield_now();
    }
}

/// Whether a KEK opens a disk, as cryptsetup says.
pub fn cryptsetup_opens(disk: &Path, id: u8) -> bool {
    let keyfile = tempfile::NamedTempFile::new().unwrap();
    fs::write(&keyfile, kek(id).expose()).unwrap();
    let args = ["open", "--test-passphrase", "--type", "luks2", "--key-file", text(keyfile.path()), text(disk)];
    let output = Command::new("cryptsetup").args(args).output().unwrap();
    // 2: no key with this passphrase. All else is a defect of the header, or of the test.
    assert!(matches!(output.status.code(), Some(0 | 2)), "{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

/// The volume key and the content of an encrypted disk, read with nothing of Ward's but the header and the bare cipher.
pub fn luks_contents(path: &Path, id: u8, size: usize) -> (Vec<u8>, Vec<u8>) {
    let device = luks2::Device::open(fs::File::open(path).unwrap()).unwrap();
    let mut key = [0; luks2::VOLUME_KEY_LEN];
    device.unlock(kek(id).expose(), &mut key).unwrap();
    let start = usize::try_from(device.data_segment().unwrap().offset).unwrap();
    let mut payload = fs::read(path).unwrap().split_off(start);
    xts::Xts::new(&key).unwrap().decrypt(xts::SectorSize::B4096, 0, &mut payload).unwrap();
    payload.truncate(size);
    (key.to_vec(), payload)
}

/// A plain image's disk, whatever its format.
pub fn contents(image: &Path, format: &str) -> Vec<u8> {
    if format == "raw" {
        return fs::read(image).unwrap();
    }
    let raw = image.with_extension("contents");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", text(image), text(&raw)]);
    let contents = fs::read(&raw).unwrap();
    fs::remove_file(raw).unwrap();
    contents
}
