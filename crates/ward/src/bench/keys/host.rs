//! A host that is played: it joins, takes keys, and says which it has.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use ward_rpc::api::controller::{Enrol, Hello};
use ward_rpc::api::host::{CryptoStatus, DropKeys, HostStatus, KeysMark, NativeStatus, SetHostKey, Status};
use ward_rpc::{
    Client, Credentials, EnrolmentToken, KeyPush, PUSH_KEYS_PATH, PUSH_NATIVE_PATH, Peer, PushReply, Request,
    ServerKind,
};
use ward_types::{HostId, KeyRef};

use super::Failure;

/// A host.
pub(super) struct Host {
    agent: Agent,
    token: EnrolmentToken,
    credentials: Credentials,
    address: String,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Agent {
    id: HostId,
    inside: Arc<Mutex<Inside>>,
    changed: Arc<watch::Sender<()>>,
}

struct Inside {
    mark: KeysMark,
    keys: BTreeSet<KeyRef>,
    host_key: Option<KeyRef>,
    /// Whether it was asked by somebody who did not know its keys and was told all of them, since it was looked at last.
    told_all: bool,
}

impl Host {
    /// Joins with a token, and answers.
    pub(super) async fn join(token: &str, name: &str) -> Result<Self, Failure> {
        let token: EnrolmentToken = token.parse()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let request = Request::new()?;
        let call = Enrol {
            token: token.id,
            secret: token.secret.clone(),
            name: name.parse()?,
            address: address.clone(),
            csr: request.csr()?,
        };
        let enrolled = controller(&token, None)?.call(call).await?;
        let credentials = request.complete(enrolled.certificate);
        let mark = KeysMark { boot: Uuid::new_v4(), revision: 0 };
        let agent = Agent {
            id: enrolled.host,
            inside: Arc::new(Mutex::new(Inside { mark, keys: BTreeSet::new(), host_key: None, told_all: false })),
            changed: Arc::new(watch::Sender::new(())),
        };
        let tls = ward_rpc::server_config(&token.ca, &credentials, ServerKind::Mutual)?;
        let stop = CancellationToken::new();
        tokio::spawn(ward_rpc::serve(listener, tls, router(agent.clone()), stop.clone()));
        let host = Self { agent, token, credentials, address, stop };
        host.hello().await?;
        Ok(host)
    }

    async fn hello(&self) -> Result<(), Failure> {
        let boot = self.agent.inside().mark.boot;
        let hello = Hello { boot, address: self.address.clone() };
        Ok(controller(&self.token, Some(&self.credentials))?.call(hello).await?)
    }

    /// Its keys are gone, and it says that it is back.
    pub(super) async fn reboot(&self) -> Result<(), Failure> {
        {
            let mut inside = self.agent.inside();
            inside.mark = KeysMark { boot: Uuid::new_v4(), revision: 0 };
            inside.keys.clear();
            inside.host_key = None;
        }
        self.hello().await
    }

    /// Waits until it has so many keys, besides its host key.
    pub(super) async fn has(&self, keys: usize, patience: Duration) -> Result<(), Failure> {
        self.until(patience, |inside| inside.keys.len() >= keys + usize::from(inside.host_key.is_some())).await
    }

    /// Waits until a controller that knew nothing of it was told all its keys.
    pub(super) async fn is_asked_anew(&self, patience: Duration) -> Result<(), Failure> {
        self.until(patience, |inside| inside.told_all).await
    }

    async fn until(&self, patience: Duration, so: impl Fn(&Inside) -> bool) -> Result<(), Failure> {
        let mut changed = self.agent.changed.subscribe();
        let waiting = async {
            loop {
                changed.mark_unchanged();
                if so(&self.agent.inside()) || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(patience, waiting).await.map_err(|_| "a host waits for its keys in vain")?;
        self.agent.inside().told_all = false;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Agent {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, call: &Status) -> HostStatus {
        let mut inside = self.inside();
        let keys =
            (!call.without_keys && call.seen != Some(inside.mark)).then(|| inside.keys.iter().cloned().collect());
        if call.seen.is_none() && !call.without_keys {
            inside.told_all = true;
            self.changed.send_replace(());
        }
        HostStatus {
            host: self.id,
            version: env!("CARGO_PKG_VERSION").into(),
            boot: inside.mark.boot,
            mark: inside.mark,
            keys,
            vms: Vec::new(),
            jobs: Vec::new(),
            qemu: None,
            kvm: false,
            parts: Default::default(),
            broken: Vec::new(),
            isolation: ward_types::Isolation::default(),
            unfit: None,
            trust: Vec::new(),
            native: NativeStatus::default(),
            crypto: CryptoStatus { host_key: inside.host_key.clone(), ..CryptoStatus::default() },
        }
    }

    /// Takes keys in: their names; their bytes would only be wiped.
    fn take(&self, push: &KeyPush) -> PushReply {
        let mut inside = self.inside();
        let before = inside.keys.len();
        inside.keys.extend(push.keys.iter().map(|(key, _)| key.clone()));
        inside.mark.revision += 1;
        self.changed.send_replace(());
        PushReply { added: inside.keys.len() - before }
    }

    fn forget(&self, call: &DropKeys) {
        let mut inside = self.inside();
        inside.keys.retain(|key| !call.keys.contains(key));
        inside.mark.revision += 1;
    }
}

fn controller(token: &EnrolmentToken, credentials: Option<&Credentials>) -> Result<Client, Failure> {
    let tls = ward_rpc::client_config(&token.ca, credentials)?;
    Ok(Client::new(tls, &token.server_name, token.controller.parse()?)?)
}

fn router(agent: Agent) -> Router {
    let router = Router::new();
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: Status| async move { Ok(agent.status(&call)) });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: DropKeys| async move {
        agent.forget(&call);
        Ok(())
    });
    let router = ward_rpc::route(router, |agent: Agent, _: Peer, call: SetHostKey| async move {
        agent.inside().host_key.clone_from(&call.key);
        Ok(CryptoStatus { host_key: call.key, ..CryptoStatus::default() })
    });
    let router = router.route(PUSH_NATIVE_PATH, post(async || ward_rpc::answer(Ok(NativeStatus::default()))));
    router.route(PUSH_KEYS_PATH, post(push_keys)).with_state(agent)
}

async fn push_keys(State(agent): State<Agent>, body: axum::body::Bytes) -> Response {
    ward_rpc::answer(KeyPush::decode(&body).map(|push| agent.take(&push)).map_err(Into::into))
}
