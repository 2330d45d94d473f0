//! Typed calls, and the client that makes them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ward_types::{Code, Problem};

use crate::api::host::NativeStatus;
use crate::keys::{KeyPush, PUSH_KEYS_PATH, PushError, PushReply};
use crate::native::{NativePush, PUSH_NATIVE_PATH};

/// An answer in bytes that is read as it comes.
pub type StreamAnswer = reqwest::Response;

/// A request that has a name and one type of reply.
pub trait Call: Serialize + DeserializeOwned + Send + 'static {
    /// What answers it.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// Its name: the last part of the path under which it is posted.
    const NAME: &'static str;

    /// The path under which it is posted.
    #[must_use]
    fn path() -> String {
        format!("/v1/{}", Self::NAME)
    }
}

/// A table of calls: name, request, reply.
macro_rules! calls {
    ($($name:literal = $request:ident => $reply:ty;)*) => {
        $(
            impl crate::Call for $request {
                type Reply = $reply;
                const NAME: &'static str = $name;
            }
        )*
    };
}
pub(crate) use calls;

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer does not answer, or is not who it should be. Whether it got the request is not known.
    #[error("{peer} does not answer: {why}")]
    Unreachable {
        /// Who was called.
        peer: String,
        /// What was wrong.
        why: String,
    },
    /// The peer refused.
    #[error(transparent)]
    Refused(Box<Problem>),
}

impl CallError {
    /// The error as a problem of what was being done.
    #[must_use]
    pub fn into_problem(self, what: &str) -> Problem {
        match self {
            Self::Unreachable { .. } => Problem::new(
                Code::HostUnreachable,
                what,
                self.to_string(),
                "check that its agent runs and that the network reaches it",
            ),
            Self::Refused(problem) => *problem,
        }
    }
}

/// A connection to one peer; it reconnects by itself. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    peer: String,
}

impl Client {
    /// How long a peer may take to accept a connection.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
    /// How long it may take to answer, unless the call says otherwise.
    pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);

    /// A client of the peer at `address`, whose certificate must be for `server_name`.
    ///
    /// # Errors
    /// Where the TLS configuration can't be used.
    pub fn new(tls: Arc<rustls::ClientConfig>, server_name: &str, address: SocketAddr) -> Result<Self, reqwest::Error> {
        Self::at_one_of(tls, server_name, address.port(), &[address])
    }

    /// A client of a peer that has several addresses, which are tried in turn.
    ///
    /// # Errors
    /// Where the TLS configuration can't be used.
    pub fn at_one_of(
        tls: Arc<rustls::ClientConfig>,
        server_name: &str,
        port: u16,
        addresses: &[SocketAddr],
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve_to_addrs(server_name, addresses)
            .connect_timeout(Self::CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()?;
        let at = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        Ok(Self { http, base: format!("https://{server_name}:{port}"), peer: format!("{server_name} at {at}") })
    }

    /// A client of the agent that answers on a socket of this machine. Who may open that says the socket's mode.
    ///
    /// # Errors
    /// Where the client can't be made.
    pub fn local(socket: &std::path::Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        // There is no TLS on it; the HTTP library wants to know how it would be done all the same.
        let tls = crate::tls::client_config("", None)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .unix_socket(socket)
            .build()?;
        Ok(Self { http, base: "http://localhost".to_owned(), peer: format!("the agent at {}", socket.display()) })
    }

    /// Makes a call.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<C: Call>(&self, call: C) -> Result<C::Reply, CallError> {
        self.call_within(call, Self::CALL_TIMEOUT).await
    }

    /// Makes a call that may take longer than most: for one that waits.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_within<C: Call>(&self, call: C, timeout: Duration) -> Result<C::Reply, CallError> {
        let request = self.http.post(format!("{}{}", self.base, C::path())).timeout(timeout).json(&call);
        self.send(request).await
    }

    /// Gives keys to the peer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn push_keys(&self, push: &KeyPush) -> Result<PushReply, CallError> {
        self.push(PUSH_KEYS_PATH, push.encode()).await
    }

    /// Gives the peer all the keys of native providers that it is to have.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn push_native_keys(&self, push: &NativePush) -> Result<NativeStatus, CallError> {
        self.push(PUSH_NATIVE_PATH, push.encode()).await
    }

    /// Asks for what is answered in bytes, of a peer that knows the caller by a token where one is given. They are wiped
    /// with their last owner where the answer holds keys, by who made the heap so.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ask_bytes<B: Serialize + Sync>(
        &self,
        path: &str,
        token: Option<&str>,
        body: &B,
    ) -> Result<Bytes, CallError> {
        let mut request = self.http.post(format!("{}{path}", self.base)).timeout(Self::CALL_TIMEOUT).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        self.answered(request).await?.bytes().await.map_err(|error| self.unreachable(&error))
    }

    /// Asks for what is answered in bytes, many of them: the answer, of which the body is yet to be read.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ask_stream<B: Serialize>(&self, path: &str, body: &B) -> Result<StreamAnswer, CallError> {
        self.answered(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    async fn push<R: DeserializeOwned>(&self, path: &str, body: Result<Bytes, PushError>) -> Result<R, CallError> {
        let body = body.map_err(|error| CallError::Refused(Box::new(error.into())))?;
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .timeout(Self::CALL_TIMEOUT)
            .header(http::header::CONTENT_TYPE, "application/octet-stream")
            .body(body);
        self.send(request).await
    }

    async fn send<R: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<R, CallError> {
        self.answered(request).await?.json().await.map_err(|error| self.unreachable(&error))
    }

    /// An answer that is no refusal.
    async fn answered(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, CallError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
            Problem::internal(format!("{} refused a call", self.peer), format!("HTTP status {status}"))
        });
        Err(CallError::Refused(Box::new(problem)))
    }

    fn unreachable(&self, error: &reqwest::Error) -> CallError {
        CallError::Unreachable { peer: self.peer.clone(), why: cause(error) }
    }
}

/// Why a peer did not answer, in a few words: what an HTTP library says first is what it was doing, what it says last is
/// what was wrong.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() { "it takes no connection in time" } else { "it does not answer in time" }
            .to_owned();
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = last.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_lowercase(),
        None => text,
    }
}
