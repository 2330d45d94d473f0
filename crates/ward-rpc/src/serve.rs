//! The server side: TLS, who the peer is, and typed routes.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Extension, Json};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::StatusCode;
use http::header::{CONTENT_TYPE, EXPECT};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use ward_types::{Problem, ProblemDocument};

use crate::rest::Shared;
use crate::{Call, Peer};

/// What a handler gives back.
pub type Answer<T> = Result<T, Problem>;

/// How long a peer may take for its TLS handshake, and for the head of a request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What peers may take of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that are open at once. Others wait.
    pub connections: usize,
    /// How long a request's body may take.
    pub body: Duration,
    /// How long open requests may take to end once the server shuts down.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // A large cluster whose hosts come up together, and some more.
        Self { connections: 2048, body: Duration::from_secs(30), grace: Duration::from_secs(30) }
    }
}

/// Serves `router` to TLS clients until `shutdown`; then lets open requests end. Handlers find the [`Peer`] among the
/// request's extensions, and its address as [`ConnectInfo`].
pub async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, router: Router, shutdown: CancellationToken) {
    let who = |certificate: Option<&CertificateDer<'_>>| Some(Peer::from_certificate(certificate));
    serve_known(listener, tls, router, shutdown, Limits::default(), who).await;
}

/// As [`serve`], for peers that are known otherwise: `who` says who one is by the certificate that TLS has let pass, and
/// handlers find that. Without an answer the connection ends.
pub async fn serve_known<P>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
    limits: Limits,
    who: impl Fn(Option<&CertificateDer<'_>>) -> Option<P> + Clone + Send + 'static,
) where
    P: Clone + Send + Sync + 'static,
{
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    loop {
        // Without a free slot none is accepted: the system's backlog holds the peer.
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the peer is gone already: wait, don't spin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, router, shutdown, who) = (acceptor.clone(), router.clone(), shutdown.clone(), who.clone());
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = connection(stream, acceptor, router, shutdown, limits, who).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    connections.close();
    if timeout(limits.grace, connections.wait()).await.is_err() {
        tracing::warn!("requests were still running when the time for shutting down was over");
    }
}

async fn connection<P: Clone + Send + Sync + 'static>(
    stream: tokio::net::TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    shutdown: CancellationToken,
    limits: Limits,
    who: impl Fn(Option<&CertificateDer<'_>>) -> Option<P>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let address = ConnectInfo(stream.peer_addr()?);
    let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let certificates = stream.get_ref().1.peer_certificates();
    let peer = who(certificates.and_then(<[_]>::first)).ok_or("the peer showed no certificate")?;
    let service = tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(address);
        let router = router.clone();
        async move {
            // A client that waits to be told to send its body is better told no.
            let waits = request.headers().contains_key(EXPECT);
            let (head, body) = request.into_parts();
            let body = Shared::new(body, limits.body);
            let rest = body.clone();
            let request = http::Request::from_parts(head, Body::new(body));
            let response = router.oneshot(request).await.into_response();
            if !waits {
                rest.hear_out().await;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => result?,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await?;
        }
    }
    Ok(())
}

/// Adds a typed call to a router. The handler takes the kind of peer that the router is served to.
pub fn route<C, S, P, H, F>(router: Router<S>, handler: H) -> Router<S>
where
    C: Call,
    S: Clone + Send + Sync + 'static,
    P: Clone + Send + Sync + 'static,
    H: Fn(S, P, C) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer<C::Reply>> + Send,
{
    let method = post(
        move |axum::extract::State(state): axum::extract::State<S>,
              Extension(peer): Extension<P>,
              Json(call): Json<C>| async move { answer(handler(state, peer, call).await) },
    );
    router.route(&C::path(), method)
}

/// The response that carries a handler's answer.
pub fn answer<T: serde::Serialize>(answer: Answer<T>) -> Response {
    match answer {
        Ok(reply) => Json(reply).into_response(),
        Err(problem) => problem_response(&problem),
    }
}

/// The response that carries a problem: a problem document (RFC 9457).
#[must_use]
pub fn problem_response(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let media_type = [(CONTENT_TYPE, ProblemDocument::MEDIA_TYPE)];
    (status, media_type, Json(ProblemDocument::from(problem.clone()))).into_response()
}
