//! The controller, as the client reaches it.

mod config;
mod follow;

use std::error::Error as _;
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ward_types::{Code, Problem};

pub(crate) use config::ClientConfig;
pub(crate) use follow::follow;

/// The longest that a request waits at the controller, in milliseconds.
pub(crate) const WAIT_MS: u32 = 20_000;

/// A controller, and who we are to it.
pub(crate) struct Api {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Api {
    /// The controller that the user is logged in to.
    pub(crate) fn open() -> Result<Self, Problem> {
        Self::new(&ClientConfig::load()?)
    }

    pub(crate) fn new(config: &ClientConfig) -> Result<Self, Problem> {
        let what = format!("cannot reach the controller at {}", config.url);
        let tls = ward_rpc::client_config(&config.ca, None).map_err(|error| {
            Problem::new(
                Code::RequestInvalid,
                what.clone(),
                format!("the controller's CA certificate can't be used: {error}"),
                "log in again with `ward login URL --ca FILE`, FILE being `ca.pem` in the controller's state directory",
            )
        })?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .https_only(true)
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|error| Problem::internal(what, error))?;
        Ok(Self { http, url: config.url.trim_end_matches('/').to_owned(), token: config.token.clone() })
    }

    pub(crate) async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, Problem> {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn query<Q: Serialize, R: DeserializeOwned>(&self, path: &str, query: &Q) -> Result<R, Problem> {
        self.send(self.request(Method::GET, path).query(query)).await
    }

    pub(crate) async fn post<B: Serialize, R: DeserializeOwned>(&self, path: &str, body: &B) -> Result<R, Problem> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn delete<R: DeserializeOwned>(&self, path: &str) -> Result<R, Problem> {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn delete_with<Q: Serialize, R: DeserializeOwned>(
        &self,
        path: &str,
        query: &Q,
    ) -> Result<R, Problem> {
        self.send(self.request(Method::DELETE, path).query(query)).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}/api/v1{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send<R: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<R, Problem> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let odd = |error: serde_json::Error| {
            Problem::new(
                Code::Internal,
                format!("cannot understand the controller at {}", self.url),
                format!("HTTP status {status}: {error}"),
                "client and controller must be of versions that understand each other; compare `ward --version` on both",
            )
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(odd);
        }
        Err(serde_json::from_slice(&body).unwrap_or_else(odd))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Problem {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            why = cause.to_string();
            source = cause.source();
        }
        Problem::new(
            Code::ControllerUnreachable,
            format!("cannot reach the controller at {}", self.url),
            why,
            "check that it runs (on this machine: `ward up status`), and that the address is right (`ward login`)",
        )
    }
}
