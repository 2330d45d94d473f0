//! The controller, as the client reaches it.

mod config;
mod follow;

use std::error::Error as _;
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use ward_controller::api::types::PageQuery;
use ward_types::{Code, Problem};

pub(crate) use config::ClientConfig;
pub(crate) use follow::follow;

/// The longest that a request waits at the controller, in milliseconds.
pub(crate) const WAIT_MS: u32 = 20_000;

/// How long a request may take that has much to write.
const LONG: Duration = Duration::from_secs(1800);

/// A file on its way.
pub(crate) struct Download<'a> {
    api: &'a Api,
    response: reqwest::Response,
}

impl Download<'_> {
    /// The next piece of it; none at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<impl AsRef<[u8]>>, Problem> {
        self.response.chunk().await.map_err(|error| self.api.unreachable(&error))
    }
}

/// A page of a list.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Where the list goes on.
    pub(crate) next: Option<String>,
}

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

    /// As [`Api::post`], for what may take as long as memory takes to be written.
    pub(crate) async fn post_patiently<B: Serialize, R: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<R, Problem> {
        self.send(self.request(Method::POST, path).json(body).timeout(LONG)).await
    }

    /// Asks for a file.
    pub(crate) async fn download<B: Serialize>(&self, path: &str, body: &B) -> Result<Download<'_>, Problem> {
        let response = self.answered(self.request(Method::POST, path).json(body).timeout(LONG)).await?;
        Ok(Download { api: self, response })
    }

    pub(crate) async fn put<B: Serialize, R: DeserializeOwned>(&self, path: &str, body: &B) -> Result<R, Problem> {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// A whole list, page by page.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Problem> {
        self.list_of(path, &PageQuery::default(), usize::MAX).await
    }

    /// The first `limit` items of a list, page by page.
    pub(crate) async fn list_of<Q: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Q,
        limit: usize,
    ) -> Result<Vec<T>, Problem> {
        let mut page = self.page(path, query).await?;
        let mut items: Vec<T> = page.items;
        while let Some(next) = page.next.filter(|_| items.len() < limit) {
            page = self.next_page(&next).await?;
            items.append(&mut page.items);
        }
        items.truncate(limit);
        Ok(items)
    }

    /// A whole list that depends on what is asked, page by page.
    pub(crate) async fn list_for<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<Vec<T>, Problem> {
        let mut items = Vec::new();
        let mut request = self.request(Method::POST, path);
        loop {
            let mut page = self.send_for_page(request.json(body)).await?;
            items.append(&mut page.items);
            let Some(next) = page.next else { return Ok(items) };
            request = self.request_to(Method::POST, &next);
        }
    }

    /// A page of a list.
    pub(crate) async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<Page<T>, Problem> {
        self.send_for_page(self.request(Method::GET, path).query(query)).await
    }

    /// The page that another one named as the next.
    pub(crate) async fn next_page<T: DeserializeOwned>(&self, next: &str) -> Result<Page<T>, Problem> {
        self.send_for_page(self.request_to(Method::GET, next)).await
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
        self.request_to(method, &format!("/api/v1{path}"))
    }

    fn request_to(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.url));
        if method != Method::GET {
            // So that it can be sent again where its answer was lost.
            request = request.header("Idempotency-Key", Uuid::new_v4().to_string());
        }
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send<R: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<R, Problem> {
        Ok(self.send_for(request).await?.0)
    }

    async fn send_for_page<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<Page<T>, Problem> {
        let (items, headers) = self.send_for(request).await?;
        let link = headers.get(reqwest::header::LINK).and_then(|link| link.to_str().ok());
        // As the controller writes it; only paths, so that the token goes to no other place.
        let next = link.and_then(|link| link.strip_prefix('<')?.strip_suffix(">; rel=\"next\""));
        Ok(Page { items, next: next.filter(|next| next.starts_with('/')).map(str::to_owned) })
    }

    async fn send_for<R: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(R, reqwest::header::HeaderMap), Problem> {
        let response = self.answered(request).await?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).map(|value| (value, headers)).map_err(|error| self.odd(status, &error))
    }

    /// An answer that is no refusal.
    async fn answered(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Problem> {
        let again = request.try_clone();
        let response = match (request.send().await, again) {
            // The connection broke after the request was on its way: whether it was done is not known.
            (Err(error), Some(again)) if !error.is_connect() && !error.is_timeout() => again.send().await,
            (response, _) => response,
        };
        let response = response.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Err(serde_json::from_slice(&body).unwrap_or_else(|error| self.odd(status, &error)))
    }

    fn odd(&self, status: reqwest::StatusCode, error: &serde_json::Error) -> Problem {
        Problem::new(
            Code::Internal,
            format!("cannot understand the controller at {}", self.url),
            format!("HTTP status {status}: {error}"),
            "client and controller must be of versions that understand each other; compare `ward --version` on both",
        )
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
