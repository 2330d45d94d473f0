//! A tap on the line between a controller and a host: to the host it is the controller, to the controller it is the host, and
//! it writes down all that either says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use ward_rpc::api::controller::{Enrol, Enrolled, Hello};
use ward_rpc::{Answer, Authority, Client, Credentials, EnrolmentToken, Peer, Role, ServerKind};
use ward_types::{HostId, Problem};

use crate::support::port;

pub(crate) struct Tap {
    line: Arc<Line>,
    runtime: Option<Runtime>,
}

/// What was said: by which call, and the bytes of the request or of the answer.
type Frame = (String, Vec<u8>);

struct Line {
    /// What a host needs to join the controller itself.
    token: EnrolmentToken,
    controller: SocketAddr,
    /// Of the CA that the host takes for the controller's.
    authority: Authority,
    as_controller: Credentials,
    /// Where the tap answers the controller in the host's place.
    front: SocketAddr,
    host: OnceLock<Host>,
    frames: Mutex<Vec<Frame>>,
}

/// The host behind it.
struct Host {
    base: String,
    agent: reqwest::Client,
    /// By which the tap passes for the host.
    credentials: Credentials,
}

fn failed(why: impl std::fmt::Display) -> Problem {
    Problem::internal("the tap failed", why)
}

impl Tap {
    /// Takes the place of the controller that a token is for; gives the token by which a host joins it instead.
    pub(crate) fn on(token: &str) -> (Self, String) {
        let token: EnrolmentToken = token.parse().unwrap();
        let id = token.server_name.strip_suffix(".controller.ward.internal").unwrap().parse().unwrap();
        let authority = Authority::generate().unwrap();
        let as_controller = authority.issue(Role::Controller(id), &[]).unwrap();
        let back = SocketAddr::from(([127, 0, 0, 1], port()));
        let own = EnrolmentToken {
            id: token.id,
            secret: token.secret.clone(),
            controller: back.to_string(),
            server_name: token.server_name.clone(),
            ca: authority.certificate().to_owned(),
        };
        let text = own.to_text().unwrap().to_string();
        let line = Arc::new(Line {
            controller: token.controller.parse().unwrap(),
            token,
            authority,
            as_controller,
            front: SocketAddr::from(([127, 0, 0, 1], port())),
            host: OnceLock::new(),
            frames: Mutex::default(),
        });
        let runtime = Runtime::new().unwrap();
        let tls = ward_rpc::server_config(line.authority.certificate(), &line.as_controller, ServerKind::MutualOrNone);
        let router = ward_rpc::route(Router::new(), |line: Arc<Line>, _: Peer, call: Enrol| line.enrol(call));
        let router = ward_rpc::route(router, |line: Arc<Line>, _: Peer, call: Hello| line.hello(call));
        let listener = runtime.block_on(TcpListener::bind(back)).unwrap();
        let router = router.with_state(Arc::clone(&line));
        runtime.spawn(ward_rpc::serve(listener, tls.unwrap(), router, CancellationToken::new()));
        (Self { line, runtime: Some(runtime) }, text)
    }

    /// All that was said so far.
    pub(crate) fn frames(&self) -> Vec<Frame> {
        self.line.frames.lock().unwrap().clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Line {
    fn write_down(&self, call: &str, bytes: &[u8]) {
        self.frames.lock().unwrap().push((call.to_owned(), bytes.to_vec()));
    }

    fn to_controller(&self, credentials: Option<&Credentials>) -> Result<Client, Problem> {
        let tls = ward_rpc::client_config(&self.token.ca, credentials).map_err(failed)?;
        Client::new(tls, &self.token.server_name, self.controller).map_err(failed)
    }

    /// Joins in the host's place, and has it join the tap.
    async fn enrol(self: Arc<Self>, call: Enrol) -> Answer<Enrolled> {
        let request = ward_rpc::Request::new().map_err(failed)?;
        let (agent, csr) = (call.address.parse().map_err(failed)?, call.csr);
        let call = Enrol { address: self.front.to_string(), csr: request.csr().map_err(failed)?, ..call };
        let client = self.to_controller(None)?;
        let enrolled = client.call(call).await.map_err(|error| error.into_problem("the tap can't join"))?;
        let certificate = self.authority.sign(&csr, Role::Host(enrolled.host)).map_err(failed)?;
        self.stand_in(enrolled.host, agent, request.complete(enrolled.certificate)).await?;
        Ok(Enrolled { host: enrolled.host, cluster: enrolled.cluster, certificate })
    }

    /// Answers the controller in the host's place, by asking the host.
    async fn stand_in(
        self: &Arc<Self>,
        id: HostId,
        agent: SocketAddr,
        credentials: Credentials,
    ) -> Result<(), Problem> {
        let tls = ward_rpc::client_config(self.authority.certificate(), Some(&self.as_controller)).map_err(failed)?;
        let name = Role::Host(id).server_name();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .no_proxy()
            .resolve(&name, agent)
            .build()
            .map_err(failed)?;
        let front = ward_rpc::server_config(&self.token.ca, &credentials, ServerKind::Mutual).map_err(failed)?;
        let base = format!("https://{name}:{}", agent.port());
        let _ = self.host.set(Host { base, agent: client, credentials });
        let listener = TcpListener::bind(self.front).await.map_err(failed)?;
        let router = Router::new().fallback(forward).with_state(Arc::clone(self));
        tokio::spawn(ward_rpc::serve(listener, front, router, CancellationToken::new()));
        Ok(())
    }

    async fn hello(self: Arc<Self>, call: Hello) -> Answer<()> {
        let credentials = &self.host.get().ok_or_else(|| failed("no host has joined"))?.credentials;
        self.write_down("hello", &serde_json::to_vec(&call).map_err(failed)?);
        let call = Hello { address: self.front.to_string(), ..call };
        let client = self.to_controller(Some(credentials))?;
        client.call(call).await.map_err(|error| error.into_problem("the tap can't greet"))
    }
}

async fn forward(State(line): State<Arc<Line>>, request: Request) -> Response {
    let host = line.host.get().unwrap();
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    line.write_down(head.uri.path(), &body);
    let mut asked = host.agent.post(format!("{}{}", host.base, head.uri.path())).body(body);
    if let Some(kind) = head.headers.get("content-type") {
        asked = asked.header("content-type", kind);
    }
    let Ok(answer) = asked.send().await else {
        return Response::builder().status(502).body(Body::empty()).unwrap();
    };
    let mut response = Response::builder().status(answer.status());
    if let Some(kind) = answer.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    let body = answer.bytes().await.unwrap_or_default();
    line.write_down(head.uri.path(), &body);
    response.body(Body::from(body)).unwrap()
}
