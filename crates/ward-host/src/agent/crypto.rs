//! The agent's part in host encryption mode: its host key, its dumps, keys that outlive a restart.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, Json, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use tokio::sync::mpsc;
use ward_rpc::api::host::{CryptoStatus, DumpVm, SetHostKey, SetKeyPersistence, Status, SupportBundle};
use ward_rpc::{Answer, KeyPush, Peer};
use ward_secret::{DumpKey, Zeroizing};
use ward_types::{Code, DumpAbout, DumpInfo, DumpSubject, KeyRef, Name, Problem};

use super::{Agent, Shared, admit};
use crate::crypto::{Memory, Remembered, hardware};
use crate::dump::{Contents, DumpOf, Dumps, Lock, NewDump, Pieces, write_bundle};
use crate::fault::{Fault, Result};
use crate::keys::ResolvedKek;

/// How many pieces of a bundle may wait to be sent.
const PIECES: usize = 8;

/// For how long a key that was given out for a dump counts as in use before the dump says so itself.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
/// How long to wait before dumps that could not be put under the host key are tried again.
const RELOCK_AGAIN: Duration = Duration::from_secs(60);

/// Dumps that are under way.
pub(super) struct Dumping {
    /// What the kernel must be told for them to be encrypted.
    pattern: String,
    /// The dumps that have just begun, each with its host key.
    begun: Mutex<Vec<(Name, KeyRef, Instant)>>,
    /// Since when dumps are put under another host key; when that failed last.
    relock: Mutex<Relock>,
}

#[derive(Clone, Copy, Default)]
enum Relock {
    #[default]
    Idle,
    Running,
    Failed(Instant),
}

impl Dumping {
    pub(super) fn new(pattern: String) -> Self {
        Self { pattern, begun: Mutex::default(), relock: Mutex::default() }
    }

    fn begins(&self, name: Name, key: KeyRef) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push((name, key, Instant::now()));
    }

    /// The keys of dumps that have begun, and of which no file tells yet.
    fn begun(&self, dumps: &Dumps) -> Vec<KeyRef> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|(name, _, at)| at.elapsed() < BEGINS_WITHIN && !dumps.has(name));
        begun.iter().map(|(_, key, _)| key.clone()).collect()
    }

    fn is_handled(&self) -> bool {
        std::fs::read_to_string("/proc/sys/kernel/core_pattern").is_ok_and(|set| set.trim_end() == self.pattern)
    }

    fn relock(&self) -> MutexGuard<'_, Relock> {
        self.relock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts dumps under the host key that are under another one, beside all else: they may be large. What can't be done is tried
/// again; until then the other key is needed.
pub(super) fn relock(agent: &Arc<Agent>) {
    let Some(new) = agent.memory().now().key.clone() else { return };
    if agent.dumps.list().iter().all(|dump| dump.key == new) {
        return;
    }
    {
        let mut state = agent.dumping.relock();
        match *state {
            Relock::Running => return,
            Relock::Failed(at) if at.elapsed() < RELOCK_AGAIN => return,
            Relock::Failed(_) | Relock::Idle => *state = Relock::Running,
        }
    }
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        agent.obtain_dump_keys().await;
        let work = async {
            let key = agent.resolve(&new).await?;
            let (dumps, keys) = (agent.dumps.clone(), agent.keys.clone());
            let done = tokio::task::spawn_blocking(move || dumps.relock(&keys, &key)).await;
            done.map_err(|panic| Fault::internal(panic.to_string()))?
        };
        let done = work.await;
        if let Err(fault) = &done {
            tracing::warn!(why = fault.why, "a dump could not be put under the host key");
        }
        *agent.dumping.relock() = if done.is_ok() { Relock::Idle } else { Relock::Failed(Instant::now()) };
    });
}

impl Agent {
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn crypto_status(&self) -> CryptoStatus {
        let Remembered { key, persistent } = self.memory().now().clone();
        // In the order in which a dump goes from one to the next.
        let mut dump_keys = self.dumping.begun(&self.dumps);
        dump_keys.extend(self.dumps.under_way());
        let dumps = self.dumps.list();
        dump_keys.extend(dumps.iter().map(|dump| dump.key.clone()));
        dump_keys.sort();
        dump_keys.dedup();
        let (lost, core_handler) = (self.dumps.lost(), self.dumping.is_handled());
        CryptoStatus { hardware: hardware(), host_key: key, persistent, dumps, lost, dump_keys, core_handler }
    }

    /// A host key, now or earlier: asked of the trust authority where it is of one, and is not here.
    async fn resolve(&self, key: &KeyRef) -> Result<ResolvedKek> {
        self.trust
            .obtain(std::slice::from_ref(key))
            .await
            .map_err(|problem| Fault::new(problem.code, problem.why, problem.remedy))?;
        self.keys.lock().resolve(key)
    }

    /// Has what opens the dumps here, as far as it is to be had.
    async fn obtain_dump_keys(&self) {
        for key in self.crypto_status().dump_keys {
            if let Err(problem) = self.trust.obtain(&[key]).await {
                tracing::warn!(%problem, "there are dumps that can't be opened now");
            }
        }
    }

    /// The host key, or why there is none.
    async fn host_key(&self) -> Result<ResolvedKek> {
        let key = self.memory().now().key.clone().ok_or_else(|| {
            Fault::new(
                Code::HostMode,
                "the host has no host key, so that a dump could not be encrypted",
                "switch its encryption mode on: `ward host encryption enable HOST`",
            )
        })?;
        self.resolve(&key).await
    }

    /// Takes another host key, which is here. The dumps are put under it in time.
    fn set_host_key(&self, new: Option<KeyRef>) -> Answer<CryptoStatus> {
        let set = || -> Result<()> {
            if let Some(new) = &new {
                self.keys.lock().resolve(new)?;
            }
            let mut memory = self.memory();
            let now = memory.now().clone();
            memory.set(Remembered { key: new, ..now })
        };
        set().map_err(|fault| fault.problem("cannot change the host key"))?;
        Ok(self.crypto_status())
    }

    /// What is remembered is what is so: sealed first, or removed first.
    pub(super) fn set_persistence(&self, on: bool) -> Answer<CryptoStatus> {
        let set = || -> Result<()> {
            let mut vault = self.vault();
            if on {
                vault.needs_tpm()?;
                let keys = self.keys.lock().copy()?;
                vault.keep_keks(&KeyPush { keys })?;
            } else {
                vault.forget_keks()?;
            }
            let mut memory = self.memory();
            let now = memory.now().clone();
            memory.set(Remembered { persistent: on, ..now })
        };
        set().map_err(|fault| fault.problem("cannot change whether the host keeps its keys"))?;
        Ok(self.crypto_status())
    }

    /// Keeps the keys as they are now, where they are kept; the TPM takes its time.
    fn keep_keys(&self) -> Result<()> {
        let mut vault = self.vault();
        if !self.memory().now().persistent {
            return Ok(());
        }
        let keys = self.keys.lock().copy()?;
        vault.keep_keks(&KeyPush { keys }).inspect_err(|fault| {
            let fault = Fault::new(fault.code, fault.why.clone(), fault.remedy.clone());
            vault.complain("cannot seal the keys that this host keeps: it keeps none until the next change", fault);
        })
    }

    /// The same after keys came or went.
    ///
    /// # Errors
    /// Where what is kept is not what the host holds.
    pub(super) async fn keys_changed(self: &Arc<Self>) -> Answer<()> {
        let agent = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || agent.keep_keys()).await;
        let kept = kept.unwrap_or_else(|panic| Err(Fault::internal(panic.to_string())));
        kept.map_err(|fault| fault.problem("cannot seal the keys that this host keeps"))
    }

    /// The key of a new dump, and what opens it.
    async fn lock_for_dump(&self, subject: &DumpSubject, taken: Timestamp) -> Result<(Lock, DumpKey)> {
        self.dumps.check_room()?;
        let key = self.host_key().await?;
        self.dumping.begins(Dumps::name(subject, taken)?, key.reference().clone());
        let dump = DumpKey::generate()?;
        Ok((Lock::under_host_key(key.reference().clone(), key.kek(), &dump)?, dump))
    }

    /// The body with the key of a new dump.
    async fn new_dump(&self, of: &DumpOf) -> Result<Bytes> {
        let (lock, dump) = self.lock_for_dump(&of.subject, of.taken).await?;
        NewDump { host: self.enrolment.host, lock }.encode(&dump)
    }

    /// The key of a dump.
    async fn open_dump(&self, lock: &Lock) -> Result<Bytes> {
        let key = lock.host_key().ok_or_else(|| Fault::invalid("no host key opens it"))?;
        let key = self.resolve(key).await?;
        let dump = lock.open_with_host_key(key.kek())?;
        Ok(Bytes::from_owner(Zeroizing::new(dump.expose().to_vec())))
    }

    /// Dumps a guest.
    pub(super) async fn dump_vm(self: &Arc<Self>, call: DumpVm) -> Answer<DumpInfo> {
        let what = format!("cannot dump the guest of VM {}", call.vm);
        let dumping = async {
            let subject = DumpSubject::Guest { vm: call.vm };
            let about = DumpAbout { host: self.enrolment.host, taken: Timestamp::now(), subject };
            let (lock, dump) = self.lock_for_dump(&about.subject, about.taken).await?;
            let guest = self.vms.dump(call.vm).await?;
            let (dumps, mut pipe) = (self.dumps.clone(), guest.pipe);
            let keeping = move || dumps.keep(&lock, &dump, &about, &mut pipe);
            let kept = tokio::task::spawn_blocking(keeping).await;
            let kept = kept.map_err(|panic| Fault::internal(panic.to_string()))??;
            if let Err(fault) = guest.running.dumped().await {
                crate::files::remove(&self.dumps.path(&kept.name))?;
                return Err(fault);
            }
            Ok(kept)
        };
        dumping.await.map_err(|fault: Fault| fault.problem(what))
    }

    /// The logs, with their places in a bundle. The agent's own one is wherever its standard error goes, if that is a file.
    fn logs(&self) -> Vec<(String, PathBuf)> {
        let own = PathBuf::from("/proc/self/fd/2");
        let own =
            std::fs::metadata(&own).is_ok_and(|found| found.is_file()).then_some(("logs/agent.log".to_owned(), own));
        own.into_iter().chain(self.vms.logs()).collect()
    }
}

pub(super) async fn set_host_key(agent: Arc<Agent>, call: SetHostKey) -> Answer<CryptoStatus> {
    if let Some(key) = &call.key {
        agent.trust.obtain(std::slice::from_ref(key)).await?;
    }
    let set = Arc::clone(&agent);
    let answer = on_a_thread("cannot change the host key", move || set.set_host_key(call.key)).await;
    relock(&agent);
    answer
}

pub(super) async fn set_persistence(agent: Arc<Agent>, call: SetKeyPersistence) -> Answer<CryptoStatus> {
    on_a_thread("cannot change whether the host keeps its keys", move || agent.set_persistence(call.on)).await
}

async fn on_a_thread<T: Send + 'static>(what: &str, work: impl FnOnce() -> Answer<T> + Send + 'static) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(panic) => Err(Problem::internal(what, panic)),
    }
}

/// On the agent's own socket: a key for a new dump.
pub(super) async fn new_dump(State(agent): State<Arc<Agent>>, Json(of): Json<DumpOf>) -> Response {
    key_response(agent.new_dump(&of).await.map_err(|fault| fault.problem("cannot encrypt a dump")))
}

/// On the agent's own socket: the key of a dump.
pub(super) async fn open_dump(State(agent): State<Arc<Agent>>, Json(lock): Json<Lock>) -> Response {
    key_response(agent.open_dump(&lock).await.map_err(|fault| fault.problem("cannot decrypt a dump")))
}

fn key_response(key: Answer<Bytes>) -> Response {
    match key {
        Ok(body) => bytes_response(Body::from(body)),
        Err(problem) => ward_rpc::problem_response(&problem),
    }
}

fn bytes_response(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/octet-stream"));
    response
}

/// For the controller: a support bundle.
pub(super) async fn support_bundle(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    Json(call): Json<SupportBundle>,
) -> Response {
    if let Err(problem) = admit(peer, "support-bundle") {
        return ward_rpc::problem_response(&problem);
    }
    let agent = shared.agent;
    agent.obtain_dump_keys().await;
    let (sender, receiver) = mpsc::channel(PIECES);
    let contents = Contents {
        status: agent.status(&Status::default()),
        logs: agent.logs(),
        dumps: agent.dumps.clone(),
        only: call.dumps,
        password: call.password.map(Zeroizing::new),
    };
    let pieces = sender.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let output = std::io::BufWriter::with_capacity(64 * 1024, Pieces(pieces));
        write_bundle(&contents, &agent.keys, output)
    });
    tokio::spawn(async move {
        let written = writing.await.unwrap_or_else(|panic| Err(Fault::internal(panic.to_string())));
        if let Err(fault) = written {
            tracing::warn!(why = fault.why, "a support bundle was not finished");
            // Whoever reads it must not take it for whole.
            let _ = sender.send(Err(std::io::Error::other(fault.why))).await;
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    bytes_response(Body::from_stream(pieces))
}
