//! The agent: it answers the controller, and says hello to it.

mod crypto;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Json, State};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use ward_rpc::api::controller::Hello;
use ward_rpc::api::host::{
    AbandonJob, CancelJob, CheckJob, DropKeys, DumpVm, FindUses, ForgetJob, GiveCertificates, HomeRef, HostParts,
    HostStatus, KeysMark, Leave, MakeKey, MakeTrustedKey, NEW_DUMP_PATH, NativeStatus, OPEN_DUMP_PATH, ObtainKeys,
    ReadConsole, ReadDisk, ReadHome, SUPPORT_BUNDLE_PATH, SetHostKey, SetKeyPersistence, StartHome, StartJob, StartVm,
    Started, Status, StopVm, TakeTrust, VmPower, WatchJob,
};
use ward_rpc::{
    Answer, Call, Credentials, KeyPush, NativePush, PUSH_KEYS_PATH, PUSH_NATIVE_PATH, Peer, PushReply, ServerKind,
};
use ward_secret::{Kek, Zeroize as _};
use ward_types::{Code, KeyRef, Problem, TrustStatus, VmConfig};

use crate::config::Config;
use crate::crypto::{Memory, Remembered};
use crate::dump::{Dumps, core_pattern};
use crate::fault::{Doing, Fault, Result};
use crate::files;
use crate::firmware;
use crate::home::{self, Home, HomeLock, Use};
use crate::identity::{self, Enrolment};
use crate::isolate::{Isolator, Users};
use crate::jobs::{Environment, Jobs};
use crate::keys::{Inserted, SharedKeys};
use crate::local;
use crate::trusted::Trust;
use crate::vault::Vault;
use crate::vmm::{Accelerator, Qemu, Settings, Vms};
use crate::vtpm;
use crypto::Dumping;

/// How long a call that waits may wait.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How long to wait before the hello is said again: first, and at most.
const HELLO_AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Runs the agent until `shutdown`. VMs go on without it; jobs stay where they are, and are gone on with when the
/// controller asks the next agent for them.
///
/// # Errors
/// [`Problem`] where the agent can't begin: it is not enrolled, another one uses the state directory, the address is
/// taken.
pub async fn run(config: Config, shutdown: CancellationToken) -> std::result::Result<(), Problem> {
    serve(config, shutdown).await.map_err(|fault| fault.problem("cannot run the host agent"))
}

async fn serve(config: Config, shutdown: CancellationToken) -> Result<()> {
    ward_secret::harden_process()
        .map_err(|error| Fault::unfit(format!("cannot keep out of core dumps: {error}"), "ask your administrator"))?;
    config.check()?;
    let (enrolment, credentials) = identity::load(&config.state_dir)?;
    let _only_agent = only_agent(&config, &enrolment)?;
    let agent = Arc::new(Agent::new(&config, &enrolment).await?);
    agent.vms.adopt().await?;

    let tls = ward_rpc::server_config(&enrolment.ca, &credentials, ServerKind::Mutual)
        .map_err(|error| Fault::unfit(format!("the host's certificate: {error}"), "enrol the host again"))?;
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        Fault::unfit(format!("cannot listen at {}: {error}", config.listen), "choose another address, or free it")
    })?;
    let address = config.advertise.clone().unwrap_or_else(|| enrolment.address.clone());
    tracing::info!(host = %enrolment.host, listen = %config.listen, "the host agent runs");
    let hello = Hello { boot: agent.boot, address };
    let greeting = tokio::spawn(say_hello(enrolment, credentials, hello, shutdown.clone()));
    let attesting = tokio::spawn(Arc::clone(&agent.trust).keep_attested(shutdown.clone()));
    let local = tokio::spawn(local::serve(config.local_socket(), local_router(Arc::clone(&agent)), shutdown.clone()));
    ward_rpc::serve(listener, tls, router(Arc::clone(&agent), shutdown.clone()), shutdown).await;
    greeting.abort();
    // They end with the same shutdown.
    let _ = (local.await, attesting.await);
    agent.jobs.suspend().await;
    Ok(())
}

/// Two agents on one state directory would take each other's VMs over.
fn only_agent(config: &Config, enrolment: &Enrolment) -> Result<HomeLock> {
    let holder = home::Holder { host: enrolment.host, r#use: Use::Agent };
    home::lock_file(&config.state_dir, &holder).map_err(|fault| match fault.code {
        Code::Busy => Fault::new(
            Code::Busy,
            format!("another agent runs with the state directory {}", config.state_dir.display()),
            "stop it first, or give this one a directory of its own",
        ),
        _ => fault,
    })
}

struct Agent {
    enrolment: Enrolment,
    boot: Uuid,
    keys: SharedKeys,
    vault: Mutex<Vault>,
    trust: Arc<Trust>,
    memory: Mutex<Memory>,
    dumps: Dumps,
    dumping: Dumping,
    /// Whether it leaves its cluster: it takes no keys any more.
    leaves: AtomicBool,
    jobs: Arc<Jobs>,
    vms: Arc<Vms>,
}

impl Agent {
    async fn new(config: &Config, enrolment: &Enrolment) -> Result<Self> {
        let keys = SharedKeys::default();
        let (state_dir, tpm) = (config.state_dir.clone(), config.tpm.clone());
        let memory = Memory::open(&config.state_dir)?;
        let persistent = memory.now().persistent;
        let opening = tokio::task::spawn_blocking(move || {
            let (mut vault, kept) = Vault::open(&state_dir, tpm.as_ref());
            let keks = if persistent {
                vault.kept_keks()
            } else {
                // Of a moment in which it was switched off.
                vault.forget_keks()?;
                KeyPush::default()
            };
            Ok::<_, Fault>((vault, kept, keks))
        });
        let (vault, kept, keks) = opening.await.map_err(|panic| Fault::internal(panic.to_string()))??;
        keys.lock().ring.replace(kept.keys);
        let trust = Arc::new(Trust::open(config, keys.clone())?);
        for (reference, kek) in keks.keys {
            keys.lock().insert(reference, kek);
        }
        let dumps = Dumps::of(&config.state_dir);
        dumps.tidy()?;
        let host = enrolment.host;
        files::make_private_dir(&config.run_dir())?;
        // Relative ones would be looked for in other directories by the processes that get them.
        let run_dir = std::path::absolute(config.run_dir()).doing("find", &config.run_dir())?;
        let exe = std::path::absolute(&config.exe).doing("find", &config.exe)?;
        let qemu = Qemu::find(config.qemu(), &run_dir).await;
        if let Err(fault) = &qemu {
            tracing::warn!(why = fault.why, "this host can't run VMs");
        }
        let users = config.vm_users.clone().map(Users::new);
        let finding = tokio::task::spawn_blocking(move || Isolator::find(exe, users));
        let isolator = Arc::new(finding.await.map_err(|panic| Fault::internal(panic.to_string()))?);
        for lack in &isolator.report().lacks {
            tracing::warn!(lack, "VMs are less apart than they could be");
        }
        let environment = Environment { host, isolator: Arc::clone(&isolator), keys: keys.clone(), rehearsal: false };
        let jobs = Arc::new(Jobs::new(environment));
        let vms = Vms::new(Settings { host, isolator, run_dir, keys: keys.clone(), qemu });
        Ok(Self {
            enrolment: enrolment.clone(),
            boot: Uuid::new_v4(),
            keys,
            vault: Mutex::new(vault),
            trust,
            memory: Mutex::new(memory),
            dumps,
            dumping: Dumping::new(core_pattern(&config.exe, &config.state_dir)),
            leaves: AtomicBool::new(false),
            jobs,
            vms,
        })
    }

    fn status(&self, asked: &Status) -> HostStatus {
        let qemu = self.vms.qemu().as_ref().ok();
        // Whether a key could be taken in shows in trying it.
        let unfit = Kek::generate().err().map(|error| Fault::from(error).problem("this host can't hold keys"));
        let native = self.native_status();
        let (mark, keys) = {
            let cache = self.keys.lock();
            let mark = KeysMark { boot: self.boot, revision: cache.revision() };
            let told = !asked.without_keys && asked.seen != Some(mark);
            (mark, told.then(|| cache.references()))
        };
        HostStatus {
            host: self.enrolment.host,
            version: env!("CARGO_PKG_VERSION").into(),
            boot: self.boot,
            mark,
            keys,
            vms: self.vms.running(),
            jobs: self.jobs.list(),
            qemu: qemu.map(|qemu| qemu.version.clone()),
            kvm: qemu.is_some_and(|qemu| qemu.accelerator == Accelerator::Kvm),
            parts: HostParts {
                uefi: firmware::is_there(false),
                secure_boot: firmware::is_there(true),
                swtpm: vtpm::check_installed().is_ok(),
            },
            broken: self.vms.broken(),
            unfit,
            native,
            isolation: self.vms.isolation().clone(),
            trust: self.trust.status(),
            crypto: self.crypto_status(),
        }
    }

    fn vault(&self) -> MutexGuard<'_, Vault> {
        self.vault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn native_status(&self) -> NativeStatus {
        let keys = self.keys.lock().ring.references();
        let vault = self.vault();
        NativeStatus { keys, tpm: vault.has_tpm(), sealed: vault.sealed, trouble: vault.trouble.clone() }
    }

    /// Takes the present state of the keys of native providers: what is not in it goes.
    fn take_native(&self, mut push: NativePush) -> Answer<NativeStatus> {
        {
            let mut vault = self.vault();
            if !push.keys.is_empty() {
                self.takes_keys()?;
            }
            // The controller does not send them either.
            push.keys.retain(|(entry, _)| vault.has_tpm() || !entry.tpm_required);
            let kept = vault.keep(&push);
            self.keys.lock().ring.replace(push.keys);
            kept.map_err(|fault| fault.problem("cannot be rid of earlier keys of native providers"))?;
        }
        Ok(self.native_status())
    }

    fn takes_keys(&self) -> Answer<()> {
        if !self.leaves.load(Ordering::SeqCst) {
            return Ok(());
        }
        let why = "it has left its cluster";
        Err(Problem::new(Code::HostMode, "cannot take keys", why, "enrol it again, and restart its agent"))
    }

    /// Forgets everything that it has of keys, for good.
    fn leave(&self) -> Answer<()> {
        self.leaves.store(true, Ordering::SeqCst);
        let forget = || -> Result<()> {
            let mut vault = self.vault();
            {
                let mut keys = self.keys.lock();
                keys.clear();
                keys.ring.replace(Vec::new());
            }
            // Each, whatever becomes of the other.
            let (keks, native) = (vault.forget_keks(), vault.keep(&NativePush::default()));
            self.memory().set(Remembered::default())?;
            keks.and(native)
        };
        forget().map_err(|fault| fault.problem("cannot be rid of all keys"))
    }

    async fn take_trust(&self, call: TakeTrust) -> Answer<Vec<TrustStatus>> {
        let taken = self.trust.take(call.providers);
        taken.map_err(|fault| fault.problem("cannot take the description of a trust authority"))?;
        if call.anew {
            self.trust.attest_anew().await;
        }
        Ok(self.trust.status())
    }

    fn make_key(&self, call: &MakeKey) -> Answer<KeyRef> {
        let made = self.keys.lock().ring.make(&call.kdk, call.vm);
        made.map_err(|fault| fault.problem(format!("cannot make a key of provider `{}`", call.kdk.provider)))
    }

    /// Starts the VM in a home, whichever it is.
    async fn start_home(&self, at: HomeRef) -> Answer<Started> {
        let what = format!("cannot start the VM in {}", at.path().display());
        let reading = at.clone();
        let read = tokio::task::spawn_blocking(move || {
            let described = Home::open(&reading)?.read()?;
            let config = described.unverified();
            Ok((config.id, config.keys().into_iter().cloned().collect::<Vec<_>>()))
        });
        let read = read.await.map_err(|panic| Problem::internal(&what, panic))?;
        let (vm, keys) = read.map_err(|fault: Fault| fault.problem(&what))?;
        self.trust.obtain(&keys).await?;
        self.vms.start(StartVm { vm, home: at, expected: None }).await
    }

    fn take_keys(&self, push: KeyPush) -> Answer<PushReply> {
        let mut cache = self.keys.lock();
        self.takes_keys()?;
        let mut added = 0;
        for (reference, kek) in push.keys {
            let name = reference.to_string();
            match cache.insert(reference, kek) {
                Inserted::New => added += 1,
                Inserted::Same => {}
                Inserted::Replaced => tracing::warn!(key = name, "another key came under the same name"),
            }
        }
        Ok(PushReply { added })
    }

    fn drop_keys(&self, call: DropKeys) {
        let mut cache = self.keys.lock();
        for key in &call.keys {
            cache.drop_key(key);
        }
    }

    /// Reads a home. Whether Ward wrote it is only known where its key is here; without the key, which the controller
    /// can't give before it has read which one it is, the answer is what stands there.
    fn read_home(&self, at: &HomeRef) -> Result<VmConfig> {
        let home = Home::open(at)?;
        let described = home.read()?;
        home.check_files(described.unverified())?;
        let ward_types::HomeCrypto::Encrypted { key, .. } = &described.unverified().home else {
            return Ok(described.unverified().clone());
        };
        let resolved = self.keys.lock().resolve(key);
        match resolved {
            Ok(kek) => Ok(described.verify(|_| Ok(&kek))?.config().clone()),
            Err(_) => Ok(described.unverified().clone()),
        }
    }
}

#[derive(Clone)]
struct Shared {
    agent: Arc<Agent>,
    shutdown: CancellationToken,
}

/// Only the controller may call.
fn admit(peer: Peer, call: &str) -> Answer<()> {
    if peer.controller().is_some() {
        return Ok(());
    }
    Err(Problem::new(
        Code::AuthDenied,
        format!("cannot answer `{call}`"),
        "only the controller may ask that of a host",
        "ask the controller instead",
    ))
}

/// Binds a call that the controller may make.
fn bind<C, F>(
    router: Router<Shared>,
    handler: impl Fn(Shared, C) -> F + Clone + Send + Sync + 'static,
) -> Router<Shared>
where
    C: Call,
    F: Future<Output = Answer<C::Reply>> + Send + 'static,
{
    ward_rpc::route(router, move |shared: Shared, peer, call: C| {
        let handled = admit(peer, C::NAME).map(|()| handler(shared, call));
        async move { handled?.await }
    })
}

fn router(agent: Arc<Agent>, shutdown: CancellationToken) -> Router {
    let mut router = Router::new();
    router = bind(router, |s, call: Status| async move {
        crypto::relock(&s.agent);
        Ok(s.agent.status(&call))
    });
    router = bind(router, |s, call: DropKeys| async move {
        s.agent.drop_keys(call);
        s.agent.keys_changed().await
    });
    router = bind(router, |s, _: Leave| async move {
        match tokio::task::spawn_blocking(move || s.agent.leave()).await {
            Ok(left) => left,
            Err(panic) => Err(Problem::internal("cannot be rid of all keys", panic)),
        }
    });
    router = bind(router, |_, call: FindUses| async move {
        let what = "cannot look for what needs a key";
        let looking = tokio::task::spawn_blocking(move || home::uses(&call.datastores, &call.key));
        let found = looking.await.map_err(|panic| Problem::internal(what, panic))?;
        found.map_err(|fault| fault.problem(what))
    });
    router = bind(router, |s, call: SetHostKey| crypto::set_host_key(s.agent, call));
    router = bind(router, |s, call: SetKeyPersistence| crypto::set_persistence(s.agent, call));
    router = bind(router, |s, call: DumpVm| async move { s.agent.dump_vm(call).await });
    router = bind(router, |s, call: StartJob| async move { s.agent.jobs.start(call).await });
    router = bind(router, |s, call: WatchJob| async move {
        s.agent.jobs.watch(call.job, call.seen, wait(call.wait_ms), &s.shutdown).await
    });
    router = bind(router, |s, call: CancelJob| async move { s.agent.jobs.cancel(call.job) });
    router = bind(router, |s, call: GiveCertificates| async move { s.agent.jobs.give(call) });
    router = bind(router, |s, call: CheckJob| async move { s.agent.jobs.check(call).await });
    router = bind(router, |s, call: ReadDisk| async move { s.agent.jobs.look_at(call.path).await });
    router = bind(router, |s, call: AbandonJob| async move { s.agent.jobs.abandon(call).await });
    router = bind(router, |s, call: ForgetJob| async move { s.agent.jobs.forget(call.job) });
    router = bind(router, |s, call: StartVm| async move { s.agent.vms.start(call).await });
    router = bind(router, |s, call: StopVm| async move {
        s.agent.vms.stop(call.vm, call.force, Duration::from_millis(call.wait_ms.into())).await
    });
    router = bind(router, |s, call: VmPower| async move { Ok(s.agent.vms.power(call.vm)) });
    router = bind(router, |s, call: ReadConsole| async move {
        let reading = s.agent.vms.read_console(call.vm, call.offset, wait(call.wait_ms));
        tokio::select! {
            text = reading => text,
            // With what there is, at once.
            () = s.shutdown.cancelled() => s.agent.vms.read_console(call.vm, call.offset, Duration::ZERO).await,
        }
    });
    router = bind(router, |s, call: ReadHome| async move {
        let what = format!("cannot read VM home {}", call.home.path().display());
        let agent = Arc::clone(&s.agent);
        match tokio::task::spawn_blocking(move || agent.read_home(&call.home)).await {
            Ok(read) => read.map_err(|fault| fault.problem(what)),
            Err(panic) => Err(Problem::internal(what, panic)),
        }
    });
    router = bind(router, |s, call: MakeKey| async move { s.agent.make_key(&call) });
    router = bind(router, |s, call: TakeTrust| async move { s.agent.take_trust(call).await });
    router = bind(router, |s, call: ObtainKeys| async move { s.agent.trust.obtain(&call.keys).await });
    router = bind(router, |s, call: MakeTrustedKey| async move { s.agent.trust.make(&call.provider).await });
    let router = router
        .route(PUSH_KEYS_PATH, post(push_keys))
        .route(PUSH_NATIVE_PATH, post(push_native_keys))
        .route(SUPPORT_BUNDLE_PATH, post(crypto::support_bundle));
    router.with_state(Shared { agent, shutdown })
}

/// What the agent answers on its own socket, to whoever may open that: this machine's administrator.
fn local_router(agent: Arc<Agent>) -> Router {
    let start = |State(agent): State<Arc<Agent>>, Json(call): Json<StartHome>| async move {
        ward_rpc::answer(agent.start_home(call.home).await)
    };
    Router::new()
        .route(&StartHome::path(), post(start))
        .route(NEW_DUMP_PATH, post(crypto::new_dump))
        .route(OPEN_DUMP_PATH, post(crypto::open_dump))
        .with_state(agent)
}

fn wait(ms: u32) -> Duration {
    Duration::from_millis(ms.into()).min(MAX_WAIT)
}

async fn push_keys(State(shared): State<Shared>, Extension(peer): Extension<Peer>, body: Bytes) -> Response {
    let taken = admit(peer, "push-keys")
        .and_then(|()| KeyPush::decode(&body).map_err(Problem::from))
        .and_then(|push| shared.agent.take_keys(push));
    // The keys in it, where nothing else refers to the buffer any more.
    if let Ok(mut body) = body.try_into_mut() {
        body.zeroize();
    }
    if taken.as_ref().is_ok_and(|taken| taken.added > 0)
        && let Err(problem) = shared.agent.keys_changed().await
    {
        // They are in memory, and the host can be used.
        tracing::warn!(%problem, "keys are not kept over a restart");
    }
    ward_rpc::answer(taken)
}

async fn push_native_keys(State(shared): State<Shared>, Extension(peer): Extension<Peer>, body: Bytes) -> Response {
    let taken = admit(peer, "push-native-keys").and_then(|()| NativePush::decode(&body).map_err(Problem::from));
    let taken = match taken {
        // The TPM takes its time.
        Ok(push) => tokio::task::spawn_blocking(move || shared.agent.take_native(push))
            .await
            .unwrap_or_else(|panic| Err(Problem::internal("cannot take keys", panic))),
        Err(problem) => Err(problem),
    };
    if let Ok(mut body) = body.try_into_mut() {
        body.zeroize();
    }
    ward_rpc::answer(taken)
}

/// Tells the controller that this agent is there, until it knows.
async fn say_hello(enrolment: Enrolment, credentials: Credentials, hello: Hello, shutdown: CancellationToken) {
    let Enrolment { controller, server_name, ca, .. } = &enrolment;
    let mut pause = HELLO_AGAIN.0;
    let mut said = String::new();
    loop {
        let greeting = async {
            let client = identity::client(controller, server_name, ca, Some(&credentials)).await;
            let client = client.map_err(|fault| fault.why)?;
            let hello = Hello { boot: hello.boot, address: hello.address.clone() };
            client.call(hello).await.map_err(|error| error.to_string())
        };
        let answered = tokio::select! {
            answered = greeting => answered,
            () = shutdown.cancelled() => return,
        };
        match answered {
            Ok(()) => {
                tracing::info!(controller, "the controller knows that this host is there");
                return;
            }
            // Said once for each reason.
            Err(why) if why != said => {
                tracing::warn!(controller, why, "the controller does not answer; trying on");
                said = why;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        pause = (pause * 2).min(HELLO_AGAIN.1);
    }
}
