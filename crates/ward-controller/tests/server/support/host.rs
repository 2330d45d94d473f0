//! A host that is played: it speaks what an agent speaks, and does its jobs in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::post;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use ward_rpc::api::controller::{Enrol, Hello};
use ward_rpc::api::host::{
    BrokenVm, CancelJob, CheckJob, CryptoStatus, DropKeys, FindUses, ForgetJob, HomeRef, HostParts, HostStatus,
    JobOutcome, JobSpec, JobStatus, KeysMark, Leave, NativeStatus, ReadDisk, ReadHome, SetHostKey, SetKeyPersistence,
    StartJob, StartVm, Started, Status, StopVm, VmPower, WatchJob,
};
use ward_rpc::{
    Answer, CallError, Client, Credentials, EnrolmentToken, KeyPush, PUSH_KEYS_PATH, PUSH_NATIVE_PATH, Peer, PushReply,
    Request, ServerKind,
};
use ward_types::{Code, HostId, KeyRef, Power, Problem, Progress, TaskId, VmId};

use super::{DEADLINE, Storage, in_time};

/// A host.
pub struct Host {
    pub id: HostId,
    pub address: SocketAddr,
    agent: Agent,
    credentials: Credentials,
    token: EnrolmentToken,
    /// All that runs for it; without it, the host is as if its power was cut.
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Agent {
    id: HostId,
    storage: Storage,
    state: Arc<watch::Sender<Inside>>,
}

/// What a host has in memory, and how it is to behave.
#[derive(Default)]
pub struct Inside {
    boot: Uuid,
    /// The keys, with their bytes.
    pub keys: BTreeMap<KeyRef, Vec<u8>>,
    pub running: BTreeSet<VmId>,
    /// It lacks what vTPMs take.
    pub no_swtpm: bool,
    /// What has died of VMs.
    pub broken: Vec<BrokenVm>,
    pub jobs: BTreeMap<TaskId, Job>,
    /// Its host key.
    pub crypto: CryptoStatus,
    /// Jobs begin, and wait.
    pub hold: bool,
    /// It takes no keys, and does not say so, until it is let.
    pub slow: bool,
    /// Why it takes no keys.
    pub refuses_keys: Option<Problem>,
    /// Why it would refuse every job.
    pub refuses_jobs: Option<Problem>,
    /// Why it fails every job.
    pub fails_jobs: Option<Problem>,
}

impl Inside {
    /// The keys without the host key.
    pub fn vm_keys(&self) -> Vec<KeyRef> {
        self.keys.keys().filter(|key| self.crypto.host_key.as_ref() != Some(key)).cloned().collect()
    }
}

pub struct Job {
    home: HomeRef,
    spec: JobSpec,
    pub status: JobStatus,
}

/// Joins with a token, as whoever says that it is at `address`.
pub async fn enrol(token: &EnrolmentToken, name: &str, address: &str) -> Result<(HostId, Credentials), Problem> {
    let request = Request::new().unwrap();
    let call = Enrol {
        token: token.id,
        secret: token.secret.clone(),
        name: name.parse().unwrap(),
        address: address.to_owned(),
        csr: request.csr().unwrap(),
    };
    match controller(token, None).call(call).await {
        Ok(enrolled) => Ok((enrolled.host, request.complete(enrolled.certificate))),
        Err(CallError::Refused(problem)) => Err(*problem),
        Err(error) => panic!("{error}"),
    }
}

/// A client of the controller that a token names.
pub fn controller(token: &EnrolmentToken, credentials: Option<&Credentials>) -> Client {
    let tls = ward_rpc::client_config(&token.ca, credentials).unwrap();
    Client::new(tls, &token.server_name, token.controller.parse().unwrap()).unwrap()
}

impl Host {
    /// A host that joins with a token, and runs.
    pub async fn join(token: &str, name: &str, storage: Storage) -> Result<Self, Problem> {
        let token: EnrolmentToken = token.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (id, credentials) = enrol(&token, name, &address.to_string()).await?;
        let state = Arc::new(watch::Sender::new(Inside { boot: Uuid::new_v4(), ..Inside::default() }));
        let agent = Agent { id, storage, state };
        let mut host = Self { id, address, agent, credentials, token, runtime: None };
        host.run(listener);
        Ok(host)
    }

    fn run(&mut self, listener: TcpListener) {
        let tls = ward_rpc::server_config(&self.token.ca, &self.credentials, ServerKind::Mutual).unwrap();
        let router = router(self.agent.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            ward_rpc::serve(listener, tls, router, CancellationToken::new()).await;
        });
        self.runtime = Some(runtime);
    }

    /// Cuts its power: its keys and its VMs are gone.
    pub fn cut(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        self.change(|inside| {
            inside.boot = Uuid::new_v4();
            inside.keys.clear();
            inside.running.clear();
            inside.jobs.clear();
        });
    }

    /// Starts its agent again, where it was, and says hello.
    pub async fn come_back(&mut self) {
        let listener = in_time("the host's address", async {
            loop {
                match TcpListener::bind(self.address) {
                    Ok(listener) => return listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        let listener = listener.await;
        self.run(listener);
        self.hello().await.unwrap();
    }

    pub async fn hello(&self) -> Result<(), CallError> {
        let boot = self.agent.state.borrow().boot;
        let hello = Hello { boot, address: self.address.to_string() };
        controller(&self.token, Some(&self.credentials)).call(hello).await
    }

    pub fn look<T>(&self, look: impl FnOnce(&Inside) -> T) -> T {
        look(&self.agent.state.borrow())
    }

    pub fn change(&self, change: impl FnOnce(&mut Inside)) {
        self.agent.state.send_modify(change);
    }

    /// The IDs of the keys that it holds, but for its host key.
    pub fn keys(&self) -> Vec<KeyRef> {
        self.look(Inside::vm_keys)
    }

    /// Waits until it is so.
    pub async fn until(&self, what: &str, so: impl FnMut(&Inside) -> bool) {
        let mut state = self.agent.state.subscribe();
        drop(in_time(what, state.wait_for(so)).await.unwrap());
    }

    /// Lets jobs that wait be done.
    pub fn release(&self) {
        let storage = self.agent.storage.clone();
        self.change(|inside| {
            inside.hold = false;
            let fails = inside.fails_jobs.clone();
            for job in inside.jobs.values_mut().filter(|job| job.status.outcome.is_none()) {
                job.finish(&storage, fails.as_ref());
            }
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Job {
    fn finish(&mut self, storage: &Storage, fails: Option<&Problem>) {
        self.status.revision += 1;
        self.status.outcome = Some(match fails {
            Some(problem) => JobOutcome::Failed { problem: problem.clone() },
            None => storage.apply(&self.home, &self.spec),
        });
    }
}

fn router(agent: Agent) -> Router {
    let router = Router::new();
    let router =
        ward_rpc::route(router, |agent: Agent, peer: Peer, call: Status| async move { agent.status(peer, &call) });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: DropKeys| async move {
        agent.state.send_modify(|inside| inside.keys.retain(|key, _| !call.keys.contains(key)));
        Ok(())
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: SetHostKey| async move {
        agent.state.send_modify(|inside| inside.crypto.host_key = call.key);
        Ok(agent.state.borrow().crypto.clone())
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: SetKeyPersistence| async move {
        agent.state.send_modify(|inside| inside.crypto.persistent = call.on);
        Ok(agent.state.borrow().crypto.clone())
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, _: Leave| async move {
        agent.state.send_modify(|inside| {
            inside.keys.clear();
            inside.crypto = CryptoStatus::default();
        });
        Ok(())
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: StartJob| async move { agent.start_job(call) });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, _: CheckJob| async move {
        let refuses = agent.state.borrow().refuses_jobs.clone();
        refuses.map_or(Ok(()), Err)
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: ReadDisk| async move {
        Ok(agent.storage.look_at(&call.path))
    });
    let router =
        ward_rpc::route(router, |agent: Agent, _: Peer, call: WatchJob| async move { agent.watch(call).await });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: CancelJob| async move {
        let problem = Problem::new(Code::Cancelled, "cannot go on", "it was cancelled", "ask for it again");
        agent.state.send_modify(|inside| {
            if let Some(job) = inside.jobs.get_mut(&call.job) {
                job.finish(&agent.storage, Some(&problem));
            }
        });
        Ok(())
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: ForgetJob| async move {
        agent.state.send_modify(|inside| drop(inside.jobs.remove(&call.job)));
        Ok(())
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: StartVm| async move { agent.start_vm(&call) });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: ReadHome| async move {
        let missing = || Problem::new(Code::NotFound, "cannot read a home", "there is none", "look for it");
        agent.storage.get(&call.home).ok_or_else(missing)
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: StopVm| async move {
        agent.state.send_modify(|inside| {
            inside.running.remove(&call.vm);
        });
        Ok(())
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: VmPower| async move {
        Ok(if agent.state.borrow().running.contains(&call.vm) { Power::On } else { Power::Off })
    });
    let router =
        ward_rpc::route(router, |agent: Agent, _: Peer, call: FindUses| async move { Ok(agent.storage.uses(&call)) });
    let router = router.route(PUSH_NATIVE_PATH, post(async || ward_rpc::answer(Ok(NativeStatus::default()))));
    router.route(PUSH_KEYS_PATH, post(push_keys)).with_state(agent)
}

async fn push_keys(State(agent): State<Agent>, Extension(peer): Extension<Peer>, body: axum::body::Bytes) -> Response {
    assert!(peer.controller().is_some(), "only the controller gives keys");
    drop(agent.state.subscribe().wait_for(|inside| !inside.slow).await.unwrap());
    ward_rpc::answer(agent.take(&KeyPush::decode(&body).unwrap()))
}

fn lacks(key: &KeyRef) -> Problem {
    Problem::new(Code::KeyNotOnHost, "cannot do it", format!("key {key} is not here"), "give it to the host")
}

impl Agent {
    fn status(&self, peer: Peer, call: &Status) -> Answer<HostStatus> {
        assert!(peer.controller().is_some());
        let inside = self.state.borrow();
        // Whatever a test did to its keys, it is another set then.
        let mut hasher = std::hash::DefaultHasher::new();
        inside.keys.keys().collect::<Vec<_>>().hash(&mut hasher);
        let mark = KeysMark { boot: inside.boot, revision: hasher.finish() };
        Ok(HostStatus {
            trust: Vec::new(),
            host: self.id,
            version: "0.0.0".into(),
            boot: inside.boot,
            mark,
            keys: (!call.without_keys && call.seen != Some(mark)).then(|| inside.keys.keys().cloned().collect()),
            vms: inside.running.iter().copied().collect(),
            jobs: inside.jobs.values().map(|job| job.status.clone()).collect(),
            qemu: Some("7.2".into()),
            kvm: false,
            parts: HostParts { uefi: true, secure_boot: true, swtpm: !inside.no_swtpm },
            broken: inside.broken.clone(),
            isolation: ward_types::Isolation::default(),
            unfit: None,
            native: Default::default(),
            crypto: inside.crypto.clone(),
        })
    }

    fn take(&self, push: &KeyPush) -> Answer<PushReply> {
        if let Some(problem) = &self.state.borrow().refuses_keys {
            return Err(problem.clone());
        }
        let mut added = 0;
        self.state.send_modify(|inside| {
            for (key, kek) in &push.keys {
                added += usize::from(inside.keys.insert(key.clone(), kek.expose().to_vec()).is_none());
            }
        });
        Ok(PushReply { added })
    }

    fn start_job(&self, call: StartJob) -> Answer<JobStatus> {
        let mut answer = None;
        self.state.send_modify(|inside| {
            if let Some(job) = inside.jobs.get(&call.job) {
                answer = Some(Ok(job.status.clone()));
                return;
            }
            let needed = self.storage.needs(&call.home, &call.spec);
            if let Some(key) = needed.iter().find(|key| !inside.keys.contains_key(key)) {
                answer = Some(Err(lacks(key)));
                return;
            }
            let progress = Progress { done: 1, total: 2, ..Progress::default() };
            let status =
                JobStatus { job: call.job, revision: 1, step: "copies".into(), progress, asks: None, outcome: None };
            let mut job = Job { home: call.home, spec: call.spec, status };
            if !inside.hold {
                job.finish(&self.storage, inside.fails_jobs.as_ref());
            }
            answer = Some(Ok(job.status.clone()));
            inside.jobs.insert(call.job, job);
        });
        answer.unwrap()
    }

    async fn watch(&self, call: WatchJob) -> Answer<JobStatus> {
        let unknown = || Problem::new(Code::NotFound, "cannot watch a job", "there is none", "begin it");
        let mut state = self.state.subscribe();
        let news = |inside: &Inside| inside.jobs.get(&call.job).is_none_or(|job| job.status.revision > call.seen);
        let wait = Duration::from_millis(call.wait_ms.into()).min(DEADLINE);
        drop(tokio::time::timeout(wait, state.wait_for(news)).await);
        self.state.borrow().jobs.get(&call.job).map(|job| job.status.clone()).ok_or_else(unknown)
    }

    fn start_vm(&self, call: &StartVm) -> Answer<Started> {
        let config = self.storage.get(&call.home).unwrap();
        let inside = self.state.borrow();
        if let Some(key) = config.keys().into_iter().find(|key| !inside.keys.contains_key(key)) {
            return Err(lacks(key));
        }
        drop(inside);
        self.state.send_modify(|inside| {
            inside.running.insert(call.vm);
        });
        Ok(Started { notices: vec![] })
    }
}
