//! The requests of hosts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, Json, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, header};
use jiff::Timestamp;
use ward_rpc::{Answer, answer, problem_response, route};
use ward_secret::{KEK_LEN, Kek};
use ward_types::{Problem, ProviderName};

use super::KIND;
use super::admin::open_credentials;
use super::primary::{PrimaryKey, PrimaryKeys};
use super::rules::{Authorized, Config};
use super::wrapped::WrappedKek;
use crate::Error;
use crate::api::{Health, KEK_MEDIA_TYPE, MakeKek, ShowToken, UnwrapKek};
use crate::audit::AuditRow;
use crate::home::{Current, Home};
use crate::serve::{Peer, Server, internal};

/// The longest request, in bytes.
const MAX_REQUEST: usize = 16 * 1024;

/// The key provider service.
pub struct Service {
    home: Home,
    config: Current<Config>,
    primary_keys: PrimaryKeys,
}

/// What a host asks for.
enum Request {
    Make,
    Unwrap(WrappedKek),
}

/// What it gets.
struct Released {
    kek: Kek,
    /// Only of a new one.
    wrapped: Option<WrappedKek>,
}

impl Service {
    /// Opens a state directory and listens.
    ///
    /// # Errors
    /// If the directory can't be used, or the address can't be listened on.
    pub async fn start(dir: &Path, listen: SocketAddr) -> Result<Server, Error> {
        let home = Home::open(dir, &KIND).await?;
        let config = Current::of(&home).await?;
        let service = Arc::new(Self { home, config, primary_keys: PrimaryKeys::default() });
        let router = Router::new();
        let router = route(router, |it: Arc<Self>, _: Peer, _: Health| async move { it.home.health().await })
            .route(MakeKek::PATH, post(make))
            .route(UnwrapKek::PATH, post(unwrap))
            .route(ShowToken::PATH, post(show_token))
            .layer(DefaultBodyLimit::max(MAX_REQUEST))
            .with_state(Arc::clone(&service));
        Server::bind(listen, &service.home, router).await
    }

    /// Answers a request, and records it before the answer leaves.
    async fn answer(&self, peer: Peer, headers: &HeaderMap, name: ProviderName, request: Request) -> Response {
        let operation = match request {
            Request::Make => "make-kek",
            Request::Unwrap(_) => "unwrap-kek",
        };
        let mut host = None;
        let outcome = self.release(peer, headers, &name, request, &mut host).await;
        let result = match &outcome {
            Ok(_) => "ok".to_owned(),
            Err(problem) => format!("{}: {}", problem.code, problem.why),
        };
        let (object, proven) = (name.as_str(), host.is_some());
        let host = host.as_deref().unwrap_or("?");
        let row = AuditRow { host, proven, certificate: peer.0, operation, object, result: &result };
        match (self.home.audit(row).await, outcome) {
            (Err(error), _) => problem_response(&internal("no key is given without a record of it", &error)),
            (Ok(()), Ok(released)) => released.into_response(),
            (Ok(()), Err(problem)) => problem_response(&problem),
        }
    }

    async fn release(
        &self,
        peer: Peer,
        headers: &HeaderMap,
        name: &ProviderName,
        request: Request,
        host: &mut Option<String>,
    ) -> Result<Released, Problem> {
        let config = self.config.get(&self.home).await.map_err(|error| internal("the host gets no key", &error))?;
        let token = config.token(bearer(headers), peer.0, Timestamp::now())?;
        *host = Some(token.host().to_string());
        let authorized = config.authorize(&token, name)?;
        match request {
            Request::Make => self.make(&authorized).await,
            Request::Unwrap(wrapped) => self.unwrap(&authorized, &wrapped).await,
        }
    }

    /// Looks at a token. Nothing is given for it, so that only a refusal is recorded.
    async fn look_at(&self, peer: Peer, headers: &HeaderMap) -> Answer<()> {
        let what = "the host gets no key";
        let config = self.config.get(&self.home).await.map_err(|error| internal(what, &error))?;
        let Err(problem) = config.token(bearer(headers), peer.0, Timestamp::now()) else { return Ok(()) };
        let result = format!("{}: {}", problem.code, problem.why);
        let (host, certificate, operation) = ("?", peer.0, "show-token");
        let row = AuditRow { host, proven: false, certificate, operation, object: "", result: &result };
        self.home.audit(row).await.map_err(|error| internal(what, &error))?;
        Err(problem)
    }

    async fn make(&self, authorized: &Authorized<'_>) -> Result<Released, Problem> {
        let what = format!("key provider `{}` can't make a key", authorized.name());
        let primary = self.primary_key(authorized).await?;
        let kek = Kek::generate().map_err(|error| Problem::internal(&what, error))?;
        let wrapped = primary.wrap(&what, &kek).await?;
        Ok(Released { kek, wrapped: Some(wrapped) })
    }

    async fn unwrap(&self, authorized: &Authorized<'_>, wrapped: &WrappedKek) -> Result<Released, Problem> {
        authorized.check_wrapped(wrapped)?;
        let what = format!("key provider `{}` can't unwrap the key of host `{}`", authorized.name(), authorized.host());
        let kek = self.primary_key(authorized).await?.unwrap(&what, wrapped).await?;
        Ok(Released { kek, wrapped: None })
    }

    async fn primary_key(&self, authorized: &Authorized<'_>) -> Result<Arc<PrimaryKey>, Problem> {
        let name = authorized.name();
        let credentials = async || open_credentials(&self.home, name).await;
        self.primary_keys.get(name, authorized.provider(), credentials).await
    }
}

impl IntoResponse for Released {
    fn into_response(self) -> Response {
        let text = self.wrapped.map(|wrapped| wrapped.to_string()).unwrap_or_default();
        // The HTTP library's copy lies on the heap, which is wiped as it is freed.
        let mut body = Vec::with_capacity(KEK_LEN + text.len());
        body.extend_from_slice(self.kek.expose());
        body.extend_from_slice(text.as_bytes());
        let headers = [(header::CONTENT_TYPE, KEK_MEDIA_TYPE), (header::CACHE_CONTROL, "no-store")];
        (headers, Body::from(Bytes::from(body))).into_response()
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

async fn make(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(call): Json<MakeKek>,
) -> Response {
    service.answer(peer, &headers, call.provider, Request::Make).await
}

async fn unwrap(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(call): Json<UnwrapKek>,
) -> Response {
    service.answer(peer, &headers, call.provider, Request::Unwrap(call.wrapped)).await
}

async fn show_token(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(_): Json<ShowToken>,
) -> Response {
    answer(service.look_at(peer, &headers).await)
}
