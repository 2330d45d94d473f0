//! The link to a host: how to reach it, and how it was when it answered last.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use ward_rpc::api::host::{HostStatus, KeysMark, NativeStatus, SUPPORT_BUNDLE_PATH, Status, SupportBundle};
use ward_rpc::{Call, CallError, Client, KeyPush, NativePush, PushReply, Role};
use ward_types::{ClusterId, Code, HostCrypto, HostId, KeyLocator, KeyRef, Name, Problem, ProviderName, TrustStatus};

use super::keys::Held;
use crate::native::HostHolds;
use crate::plan::HostFacts;
use crate::store::host::HostRow;

/// How long to wait for the first answer of a host, or for none. Longer than two tries take.
const FIRST_ANSWER: Duration = Duration::from_secs(15);

/// To how many hosts at once the keys of native providers are given: for each, they are in locked memory meanwhile, of which
/// there is little.
const NATIVE_PUSHES: usize = 64;

/// All links.
pub(crate) struct Links {
    links: Mutex<HashMap<HostId, Arc<Link>>>,
    tls: Arc<rustls::ClientConfig>,
    /// Told whenever a host was asked for the first time.
    asked: watch::Sender<()>,
    /// Bounds how many hosts are given the keys of native providers at once.
    pub(crate) native_pushes: Semaphore,
}

/// The link to one host.
pub(crate) struct Link {
    pub(crate) id: HostId,
    pub(crate) name: Name,
    pub(crate) cluster: ClusterId,
    tls: Arc<rustls::ClientConfig>,
    state: Mutex<State>,
    asked: watch::Sender<()>,
    /// Wakes the supervisor.
    pub(crate) poke: Notify,
    /// Who gives the host the keys of native providers just now.
    pub(crate) native_turn: tokio::sync::Mutex<()>,
    /// Cancelled when it is no host of this controller any more.
    pub(crate) gone: CancellationToken,
    /// Who tells the host of trusted providers just now.
    pub(crate) trust_turn: tokio::sync::Mutex<()>,
    /// Who changes its encryption mode just now.
    pub(crate) crypto_turn: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct State {
    address: String,
    client: Option<Client>,
    reach: Reach,
    status: Option<Arc<HostStatus>>,
    /// The keys that it holds, and its mark for them.
    held: Option<(KeysMark, Arc<Held>)>,
    last_seen: Option<Timestamp>,
    crypto: HostCrypto,
}

/// How a host is, as it says itself.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) status: Arc<HostStatus>,
    pub(crate) held: Arc<Held>,
}

impl Told {
    /// Whether the host has all that it takes to use the key.
    pub(crate) fn has(&self, key: &KeyRef) -> bool {
        match &key.key {
            KeyLocator::Standard { .. } => self.held.contains(key),
            KeyLocator::Native(_) => key.kdk().is_some_and(|kdk| self.status.native.keys.contains(&kdk)),
            KeyLocator::Trusted { .. } => self.lack_of_trust(&key.provider).is_none(),
        }
    }

    /// Whether the host is to be given the key before it is used. A trusted provider's always is, since it lasts no longer than
    /// the attestation.
    pub(crate) fn is_to_be_given(&self, key: &KeyRef) -> bool {
        !self.has(key) || matches!(key.key, KeyLocator::Trusted { .. })
    }

    /// Why the host can't get keys of a trusted provider at this moment, if it can't.
    pub(crate) fn lack_of_trust(&self, provider: &ProviderName) -> Option<Problem> {
        let not_told = || {
            let why = format!("the host does not know of key provider `{provider}` yet");
            Problem::new(Code::ProviderNone, "cannot get a key", why, "`ward trust status` tells how it stands")
        };
        let trust = self.status.trust.iter().find(|trust| trust.provider == *provider);
        trust.map_or_else(|| Some(not_told()), |trust| trust.lack(Timestamp::now()))
    }
}

/// Whether a host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It was not asked yet.
    Unknown,
    /// It does.
    Up,
    /// It does not.
    Down,
}

/// A link as it is just now.
pub(crate) struct Snapshot {
    pub(crate) address: String,
    pub(crate) reach: Reach,
    pub(crate) status: Option<Arc<HostStatus>>,
    pub(crate) held: Arc<Held>,
    pub(crate) last_seen: Option<Timestamp>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Links {
    /// No links yet; hosts will be spoken to with `tls`.
    pub(crate) fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        let native_pushes = Semaphore::new(NATIVE_PUSHES);
        Self { links: Mutex::default(), tls, asked: watch::Sender::new(()), native_pushes }
    }

    pub(crate) fn add(&self, row: &HostRow) -> Arc<Link> {
        let link = Arc::new(Link {
            id: row.id,
            name: row.name.clone(),
            cluster: row.cluster,
            tls: Arc::clone(&self.tls),
            state: Mutex::new(State {
                address: row.address.clone(),
                client: None,
                reach: Reach::Unknown,
                status: None,
                held: None,
                last_seen: None,
                crypto: HostCrypto::Incapable,
            }),
            asked: self.asked.clone(),
            poke: Notify::new(),
            native_turn: tokio::sync::Mutex::default(),
            gone: CancellationToken::new(),
            trust_turn: tokio::sync::Mutex::default(),
            crypto_turn: tokio::sync::Mutex::default(),
        });
        lock(&self.links).insert(row.id, Arc::clone(&link));
        link
    }

    pub(crate) fn get(&self, id: HostId) -> Option<Arc<Link>> {
        lock(&self.links).get(&id).cloned()
    }

    /// The hosts of a cluster, by name.
    pub(crate) fn of_cluster(&self, cluster: ClusterId) -> Vec<Arc<Link>> {
        let mut links: Vec<_> = lock(&self.links).values().filter(|link| link.cluster == cluster).cloned().collect();
        links.sort_by(|one, other| one.name.cmp(&other.name));
        links
    }

    /// The hosts of a cluster that get the keys of its VMs, by name.
    pub(crate) fn safe_of_cluster(&self, cluster: ClusterId) -> Vec<Arc<Link>> {
        let mut links = self.of_cluster(cluster);
        links.retain(|link| link.crypto().takes_keys());
        links
    }

    /// Whether the mode of a host of the cluster is on: it gets the keys of its VMs.
    pub(super) fn is_cluster_safe(&self, cluster: ClusterId) -> bool {
        lock(&self.links).values().any(|link| link.cluster == cluster && link.crypto().takes_keys())
    }

    /// No longer knows a host.
    pub(crate) fn remove(&self, id: HostId) {
        if let Some(link) = lock(&self.links).remove(&id) {
            link.gone.cancel();
        }
        self.asked.send_replace(());
    }

    /// Whether a host of the cluster that answers has all that it takes to use the key.
    pub(crate) fn somebody_has(&self, cluster: ClusterId, key: &KeyRef) -> bool {
        self.of_cluster(cluster).iter().any(|link| link.told().is_some_and(|told| told.has(key)))
    }

    /// All hosts, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        let mut links: Vec<_> = lock(&self.links).values().cloned().collect();
        links.sort_by(|one, other| one.name.cmp(&other.name));
        links
    }

    /// The name of a host.
    pub(crate) fn name(&self, id: HostId) -> Option<Name> {
        self.get(id).map(|link| link.name.clone())
    }

    /// Waits until every host was asked whether it answers: just after the controller's start, that nothing is known of
    /// one does not mean that it is away.
    pub(crate) async fn settled(&self) {
        let mut asked = self.asked.subscribe();
        let all_asked = async {
            while lock(&self.links).values().any(|link| lock(&link.state).reach == Reach::Unknown) {
                if asked.changed().await.is_err() {
                    return;
                }
            }
        };
        // One that takes longer is taken for away.
        let _ = timeout(FIRST_ANSWER, all_asked).await;
    }

    /// What planners need to know of a cluster's hosts.
    pub(crate) fn facts(&self, cluster: ClusterId) -> Vec<HostFacts> {
        self.of_cluster(cluster).iter().map(|link| link.facts()).collect()
    }
}

impl Link {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = lock(&self.state);
        Snapshot {
            address: state.address.clone(),
            reach: state.reach,
            status: state.status.clone(),
            held: state.held.as_ref().map(|(_, held)| Arc::clone(held)).unwrap_or_default(),
            last_seen: state.last_seen,
        }
    }

    pub(crate) fn facts(&self) -> HostFacts {
        let state = lock(&self.state);
        let status = state.status.as_deref();
        HostFacts {
            id: self.id,
            name: self.name.clone(),
            connected: state.reach == Reach::Up,
            unfit: status.and_then(|status| status.unfit.clone()),
            qemu: status.is_some_and(|status| status.qemu.is_some()),
            tpm: status.is_some_and(|status| status.native.tpm),
            parts: status.map(|status| status.parts).unwrap_or_default(),
            trust: status.map_or_else(Vec::new, |status| {
                let now = Timestamp::now();
                status.trust.iter().map(|trust| (trust.provider.clone(), trust.lack(now))).collect()
            }),
            vms: status.map_or(0, |status| status.vms.len()),
            mode: state.crypto.mode(),
        }
    }

    /// The host's encryption mode, as the inventory had it when it was asked last.
    pub(crate) fn crypto(&self) -> HostCrypto {
        lock(&self.state).crypto.clone()
    }

    pub(crate) fn set_crypto(&self, crypto: HostCrypto) {
        lock(&self.state).crypto = crypto;
    }

    /// The host's address has changed.
    pub(crate) fn set_address(&self, address: &str) {
        let mut state = lock(&self.state);
        if state.address != address {
            address.clone_into(&mut state.address);
            state.client = None;
        }
    }

    /// Notes an answer. Tells whether the host did not answer before.
    pub(crate) fn seen(&self, told: &Told) -> bool {
        let mut state = lock(&self.state);
        state.status = Some(Arc::clone(&told.status));
        state.last_seen = Some(Timestamp::now());
        self.reached(&mut state, Reach::Up)
    }

    /// What the host has of native providers, as far as is known; none where it does not answer.
    pub(crate) fn holds(&self) -> HostHolds {
        let state = lock(&self.state);
        let status = state.status.as_deref().filter(|_| state.reach == Reach::Up);
        HostHolds { name: self.name.clone(), cluster: self.cluster, native: status.map(|status| status.native.clone()) }
    }

    /// Notes what it has of native providers now.
    pub(crate) fn note_native(&self, native: &NativeStatus) {
        let mut state = lock(&self.state);
        if let Some(status) = &mut state.status {
            Arc::make_mut(status).native = native.clone();
        }
    }

    /// Notes how it stands with trust authorities now.
    pub(crate) fn note_trust(&self, trust: &[TrustStatus]) {
        let mut state = lock(&self.state);
        if let Some(status) = &mut state.status {
            Arc::make_mut(status).trust = trust.to_vec();
        }
    }

    /// Notes that there is no answer. Tells whether that is new.
    pub(crate) fn missed(&self) -> bool {
        let mut state = lock(&self.state);
        // The next try resolves the address anew.
        state.client = None;
        self.reached(&mut state, Reach::Down)
    }

    fn reached(&self, state: &mut State, reach: Reach) -> bool {
        let before = std::mem::replace(&mut state.reach, reach);
        if before == Reach::Unknown {
            self.asked.send_replace(());
        }
        before != reach
    }

    /// How it is now, with the keys that it was known to hold: they are just being given to it, and too many to be told
    /// each time.
    pub(crate) async fn ask_without_keys(&self, timeout: Duration) -> Result<Told, CallError> {
        let status = self.call_within(Status { seen: None, without_keys: true }, timeout).await?;
        let held = lock(&self.state).held.as_ref().map(|(_, held)| Arc::clone(held)).unwrap_or_default();
        Ok(Told { status: Arc::new(status), held })
    }

    /// Has hosts that hold the same keys share one list of them.
    pub(super) fn share(&self, mark: KeysMark, held: Held) {
        if let Some((known, list)) = &mut lock(&self.state).held
            && *known == mark
        {
            *list = Arc::new(held);
        }
    }

    /// How it is now.
    pub(crate) async fn ask(&self, timeout: Duration) -> Result<Told, CallError> {
        let known = lock(&self.state).held.clone();
        let seen = known.as_ref().map(|(mark, _)| *mark);
        let mut status = self.call_within(Status { seen, without_keys: false }, timeout).await?;
        let held = match (status.keys.take(), known) {
            (None, Some((_, held))) => held,
            (keys, _) => Arc::new(Held::new(keys.unwrap_or_default())),
        };
        lock(&self.state).held = Some((status.mark, Arc::clone(&held)));
        Ok(Told { status: Arc::new(status), held })
    }

    /// How it was when it answered last, if it answers.
    pub(crate) fn told(&self) -> Option<Told> {
        let state = lock(&self.state);
        let status = state.status.as_ref().filter(|_| state.reach == Reach::Up)?;
        Some(Told { status: Arc::clone(status), held: Arc::clone(&state.held.as_ref()?.1) })
    }

    /// Of `keys`, those that the host is to be given before they are used, as it says itself now.
    pub(crate) async fn lacks(&self, keys: &[KeyRef]) -> Result<Vec<KeyRef>, CallError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let told = self.ask(Client::CALL_TIMEOUT).await?;
        Ok(keys.iter().filter(|key| told.is_to_be_given(key)).cloned().collect())
    }

    pub(crate) async fn call<C: Call>(&self, call: C) -> Result<C::Reply, CallError> {
        self.client().await?.call(call).await
    }

    pub(crate) async fn call_within<C: Call>(&self, call: C, timeout: Duration) -> Result<C::Reply, CallError> {
        self.client().await?.call_within(call, timeout).await
    }

    /// Gives the host keys, as long as it may have any: it may have been switched off, or leave, since they were got.
    pub(crate) async fn push_keys(&self, push: &KeyPush) -> Result<PushReply, CallError> {
        self.takes_keys()?;
        self.client().await?.push_keys(push).await
    }

    /// Gives the host the present keys of native providers. None it takes in any mode.
    pub(crate) async fn push_native_keys(&self, push: &NativePush) -> Result<NativeStatus, CallError> {
        if !push.keys.is_empty() {
            self.takes_keys()?;
        }
        self.client().await?.push_native_keys(push).await
    }

    fn takes_keys(&self) -> Result<(), CallError> {
        if !self.gone.is_cancelled() && self.crypto().takes_native_keys() {
            return Ok(());
        }
        Err(CallError::Refused(Box::new(Problem::new(
            Code::HostMode,
            format!("cannot give host `{}` keys", self.name),
            "its encryption mode is not on, or it leaves",
            format!("switch it on: `ward host encryption enable {}`", self.name),
        ))))
    }

    /// The answer has a body that is yet to be read.
    pub(crate) async fn support_bundle(&self, call: &SupportBundle) -> Result<ward_rpc::StreamAnswer, CallError> {
        self.client().await?.ask_stream(SUPPORT_BUNDLE_PATH, call).await
    }

    async fn client(&self) -> Result<Client, CallError> {
        let address = {
            let state = lock(&self.state);
            if let Some(client) = &state.client {
                return Ok(client.clone());
            }
            state.address.clone()
        };
        let unreachable = |why: String| CallError::Unreachable { peer: format!("host `{}`", self.name), why };
        let resolved: SocketAddr = tokio::net::lookup_host(&address)
            .await
            .map_err(|error| unreachable(format!("`{address}`: {error}")))?
            .next()
            .ok_or_else(|| unreachable(format!("`{address}` has no address")))?;
        let client = Client::new(Arc::clone(&self.tls), &Role::Host(self.id).server_name(), resolved)
            .map_err(|error| unreachable(error.to_string()))?;
        lock(&self.state).client = Some(client.clone());
        Ok(client)
    }
}
