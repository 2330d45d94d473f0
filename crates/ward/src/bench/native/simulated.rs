//! A host that answers the controller and does nothing else: it says how it is, and takes keys.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use ward_rpc::api::controller::Enrol;
use ward_rpc::api::host::{CryptoStatus, HostStatus, KeysMark, NativeStatus, Status};
use ward_rpc::{Call as _, Client, EnrolmentToken, NativePush, PUSH_NATIVE_PATH, Request, ServerKind};
use ward_types::{HostId, Problem};

use super::Failure;

/// A simulated host.
pub(super) struct Simulated {
    agent: Arc<Agent>,
    serving: JoinHandle<()>,
}

struct Agent {
    id: HostId,
    boot: Uuid,
    native: Mutex<NativeStatus>,
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Simulated {
    /// Joins the cluster that a token is for, and answers from then on.
    pub(super) async fn join(token: &str, number: usize) -> Result<Self, Failure> {
        let token: EnrolmentToken = token.parse()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let request = Request::new()?;
        let (name, csr) = (format!("h{number}").parse()?, request.csr()?);
        let tls = ward_rpc::client_config(&token.ca, None)?;
        let controller = Client::new(tls, &token.server_name, token.controller.parse()?)?;
        let call = Enrol { token: token.id, secret: token.secret.clone(), name, address, csr };
        let enrolled = controller.call(call).await?;
        let credentials = request.complete(enrolled.certificate);
        let tls = ward_rpc::server_config(&token.ca, &credentials, ServerKind::Mutual)?;
        let agent = Arc::new(Agent { id: enrolled.host, boot: Uuid::new_v4(), native: Mutex::default() });
        let router = Router::new()
            .route(&Status::path(), post(status))
            .route(PUSH_NATIVE_PATH, post(take))
            .with_state(Arc::clone(&agent));
        let serving = tokio::spawn(ward_rpc::serve(listener, tls, router, CancellationToken::new()));
        Ok(Self { agent, serving })
    }

    /// Whether it has that version of the provider's key.
    pub(super) fn has(&self, version: u32) -> bool {
        self.agent.native().keys.iter().any(|key| key.version == version)
    }
}

impl Agent {
    fn native(&self) -> std::sync::MutexGuard<'_, NativeStatus> {
        self.native.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn status(State(agent): State<Arc<Agent>>) -> Json<HostStatus> {
    Json(HostStatus {
        trust: Vec::new(),
        host: agent.id,
        version: env!("CARGO_PKG_VERSION").into(),
        boot: agent.boot,
        mark: KeysMark { boot: agent.boot, revision: 0 },
        keys: Some(Vec::new()),
        vms: Vec::new(),
        jobs: Vec::new(),
        qemu: None,
        kvm: false,
        parts: Default::default(),
        broken: Vec::new(),
        isolation: ward_types::Isolation::default(),
        unfit: None,
        native: agent.native().clone(),
        crypto: CryptoStatus::default(),
    })
}

async fn take(State(agent): State<Arc<Agent>>, body: Bytes) -> Response {
    let taken = NativePush::decode(&body).map_err(Problem::from).map(|push| {
        let mut native = agent.native();
        native.keys = push.keys.into_iter().map(|(entry, _)| entry.key).collect();
        native.clone()
    });
    ward_rpc::answer(taken)
}
