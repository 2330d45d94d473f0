//! A user's client.

use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ward_controller::api::types::{Session, TaskView};
use ward_types::{Code, Event, EventKind, HostId, Problem, TaskInfo};

use super::in_time;

/// A user's client.
#[derive(Clone)]
pub struct Api {
    pub http: reqwest::Client,
    pub base: String,
    pub token: String,
}

/// What a request was refused with. Only a whole problem under its own status is one.
#[derive(Debug)]
pub struct Refusal(pub Problem);

impl Refusal {
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The problem in an answer.
    pub async fn of(answer: reqwest::Response) -> Self {
        let (status, url) = (answer.status(), answer.url().clone());
        let text = answer.text().await.unwrap();
        let problem: Problem =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {status} {text:?}: {error}"));
        assert_eq!(status.as_u16(), problem.code.http_status(), "{url}: {text}");
        for part in [&problem.what, &problem.why, &problem.remedy] {
            assert!(!part.trim().is_empty(), "{url}: {text}");
        }
        Self(problem)
    }
}

impl Api {
    /// A client that trusts the controller's CA and nobody else, logged in.
    pub async fn log_in(base: String, ca: &str, user: &str, password: &str) -> Self {
        let tls = ward_rpc::client_config(ca, None).unwrap();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let mut api = Self { http, base, token: String::new() };
        let session: Session =
            api.post("/session", json!({ "user": user, "password": password })).await.expect("a login");
        api.token = session.token;
        api
    }

    /// The same client with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, Refusal> {
        let mut request = self.request(method, &format!("/api/v1{path}"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = in_time(path, request.send()).await.unwrap();
        if answer.status() == StatusCode::OK {
            Ok(answer.json().await.unwrap())
        } else {
            Err(Refusal::of(answer).await)
        }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        self.send(Method::GET, path, None).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: impl Serialize) -> Result<T, Refusal> {
        self.send(Method::POST, path, Some(serde_json::to_value(body).unwrap())).await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: Value) -> Result<T, Refusal> {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        self.send(Method::DELETE, path, None).await
    }

    /// A task at its end.
    pub async fn ended(&self, task: &TaskInfo) -> TaskInfo {
        self.when(task, |view| view.info.state.is_final()).await.info
    }

    /// A task as soon as it is so.
    pub async fn when(&self, task: &TaskInfo, so: impl Fn(&TaskView) -> bool) -> TaskView {
        in_time(&task.id.to_string(), async {
            let mut seen = 0;
            loop {
                let path = format!("/tasks/{}?seen={seen}&wait_ms=20000", task.id);
                let view: TaskView = self.get(&path).await.unwrap();
                assert!(so(&view) || !view.info.state.is_final(), "{view:?}");
                if so(&view) {
                    return view;
                }
                seen = view.revision;
            }
        })
        .await
    }

    /// Has a task done to its end, which must be good.
    pub async fn done(&self, method: Method, path: &str, body: Option<Value>) {
        let view: TaskView = self.send(method, path, body).await.unwrap();
        let ended = self.ended(&view.info).await;
        assert_eq!(ended.problem, None, "{path}");
    }

    /// Has a task begun that must fail; why it did.
    pub async fn fails(&self, method: Method, path: &str, body: Option<Value>) -> Problem {
        let view: TaskView = self.send(method, path, body).await.unwrap();
        self.ended(&view.info).await.problem.expect("a failure")
    }

    pub async fn events(&self) -> Vec<Event> {
        let events: Vec<Event> = self.get("/events?after=0&limit=1000").await.unwrap();
        assert!(events.iter().zip(1..).all(|(event, number)| event.id == number), "gaps: {events:?}");
        events
    }

    /// The events of a kind so far.
    pub async fn told(&self, kind: EventKind) -> Vec<Event> {
        self.events().await.into_iter().filter(|event| event.kind == kind).collect()
    }

    /// As [`Api::told`], of VMs only.
    pub async fn told_of_vms(&self, kind: EventKind) -> Vec<Event> {
        self.told(kind).await.into_iter().filter(|event| event.subject.vm.is_some()).collect()
    }

    /// Waits for an event, old or new.
    pub async fn event(&self, what: &str, is_it: impl Fn(&Event) -> bool) -> Event {
        in_time(what, async {
            let mut after = 0;
            loop {
                let path = format!("/events?after={after}&wait_ms=20000&limit=1000");
                for event in self.get::<Vec<Event>>(&path).await.unwrap() {
                    after = event.id;
                    if is_it(&event) {
                        return event;
                    }
                }
            }
        })
        .await
    }

    /// Waits until the log has that of a host for the `times`th time.
    pub async fn host_event(&self, kind: EventKind, host: HostId, times: usize) -> Event {
        let seen = std::cell::Cell::new(0);
        self.event(kind.as_str(), |event| {
            let is_it = event.kind == kind && event.subject.host == Some(host);
            seen.set(seen.get() + usize::from(is_it));
            is_it && seen.get() == times
        })
        .await
    }
}
