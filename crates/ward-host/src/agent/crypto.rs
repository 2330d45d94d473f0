//! The agent's part in host encryption mode: its host key, its dumps, keys that outlive a restart.

use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

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
use ward_types::{Code, DumpAbout, DumpInfo, DumpSubject, KeyRef, Problem};

use super::{Agent, Shared, admit};
use crate::crypto::{Memory, Remembered, hardware};
use crate::dump::{Contents, Lock, NewDump, Pieces, write_bundle};
use crate::fault::{Fault, Result};
use crate::keys::ResolvedKek;

/// How many pieces of a bundle may wait to be sent.
const PIECES: usize = 8;

impl Agent {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn crypto_status(&self) -> CryptoStatus {
        let Remembered { key, persistent } = self.memory().now().clone();
        CryptoStatus { hardware: hardware(), host_key: key, persistent, dumps: self.dumps.list() }
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
        for key in self.crypto_status().dump_keys() {
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

    /// Takes another host key, which is here, and puts the dumps under it.
    fn set_host_key(&self, new: Option<KeyRef>) -> Answer<CryptoStatus> {
        let set = || -> Result<()> {
            if let Some(new) = &new {
                let key = self.keys.lock().resolve(new)?;
                self.dumps.relock(&self.keys, &key)?;
            }
            let mut memory = self.memory();
            let now = memory.now().clone();
            memory.set(Remembered { key: new, ..now })
        };
        set().map_err(|fault| fault.problem("cannot change the host key"))?;
        Ok(self.crypto_status())
    }

    pub(super) fn set_persistence(&self, on: bool) -> Answer<CryptoStatus> {
        let set = || -> Result<()> {
            if on {
                self.vault().needs_tpm()?;
            }
            {
                let mut memory = self.memory();
                let now = memory.now().clone();
                memory.set(Remembered { persistent: on, ..now })?;
            }
            self.keep_keys()
        };
        set().map_err(|fault| fault.problem("cannot change whether the host keeps its keys"))?;
        Ok(self.crypto_status())
    }

    /// Whether keys outlive a restart.
    pub(super) fn is_persistent(&self) -> bool {
        self.memory().now().persistent
    }

    /// Keeps the keys as they are now, or none; the TPM takes its time.
    fn keep_keys(&self) -> Result<()> {
        let persistent = self.is_persistent();
        let mut vault = self.vault();
        if !persistent {
            return vault.forget_keks();
        }
        let keys = self.keys.lock().copy()?;
        vault.keep_keks(&KeyPush { keys })
    }

    /// The same after keys came or went. A key that is in memory only is no reason to refuse it.
    pub(super) async fn keys_changed(self: &Arc<Self>) {
        if !self.is_persistent() {
            return;
        }
        let agent = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || agent.keep_keys()).await;
        let fault = match kept {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => fault,
            Err(panic) => Fault::internal(panic.to_string()),
        };
        self.vault().complain("cannot seal the keys that this host keeps", fault);
    }

    /// The body with the key of a new dump.
    async fn new_dump(&self) -> Result<Bytes> {
        let key = self.host_key().await?;
        let dump = DumpKey::generate()?;
        let lock = Lock::under_host_key(key.reference().clone(), key.kek(), &dump)?;
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
            let key = self.host_key().await?;
            let dump = DumpKey::generate()?;
            let lock = Lock::under_host_key(key.reference().clone(), key.kek(), &dump)?;
            let about = DumpAbout {
                host: self.enrolment.host,
                taken: Timestamp::now(),
                subject: DumpSubject::Guest { vm: call.vm },
            };
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
        agent.obtain_dump_keys().await;
    }
    on_a_thread("cannot change the host key", move || agent.set_host_key(call.key)).await
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
pub(super) async fn new_dump(State(agent): State<Arc<Agent>>) -> Response {
    key_response(agent.new_dump().await.map_err(|fault| fault.problem("cannot encrypt a dump")))
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
        password: call.password.map(Zeroizing::new),
    };
    tokio::task::spawn_blocking(move || {
        let output = std::io::BufWriter::with_capacity(64 * 1024, Pieces(sender.clone()));
        if let Err(fault) = write_bundle(&contents, &agent.keys, output) {
            tracing::warn!(why = fault.why, "a support bundle was not finished");
            // Whoever reads it must not take it for whole.
            let _ = sender.blocking_send(Err(std::io::Error::other(fault.why)));
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    bytes_response(Body::from_stream(pieces))
}
