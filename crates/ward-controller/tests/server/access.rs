//! Who gets in: every endpoint of the API's own description is closed, and how a session begins and ends.

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use ward_controller::api::types::{Session, WhoAmI};
use ward_types::{Code, EventKind};

use crate::support::{Api, Refusal, Ward, in_time};

/// The only calls that need no session.
const OPEN: [(&str, &str); 2] = [("POST", "/api/v1/session"), ("GET", "/api/v1/problems")];

/// An endpoint as the API describes it, with its path filled in.
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) open: bool,
    /// The JSON body that it takes.
    pub(crate) body: Option<Value>,
}

/// Every endpoint.
pub(crate) async fn endpoints(api: &Api) -> (Vec<Endpoint>, Value) {
    let description: Value =
        api.http.get(format!("{}/api/openapi.json", api.base)).send().await.unwrap().json().await.unwrap();
    let mut endpoints = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase();
            endpoints.push(Endpoint {
                open: OPEN.contains(&(method.as_str(), path.as_str())),
                method: method.parse().unwrap(),
                path: fill(path),
                body: operation.pointer("/requestBody/content/application~1json/schema").cloned(),
            });
        }
    }
    (endpoints, description)
}

/// A path with something for each parameter.
fn fill(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "nothing" } else { part }).collect::<Vec<_>>().join("/")
}

async fn asked(api: &Api, endpoint: &Endpoint, authorization: Option<&str>) -> reqwest::Response {
    let mut request = api.http.request(endpoint.method.clone(), format!("{}{}", api.base, endpoint.path));
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    if endpoint.body.is_some() {
        request = request.json(&json!({ "no such field": 1 }));
    }
    in_time(&endpoint.path, request.send()).await.unwrap()
}

/// Tokens that were good once: of a session that was ended, and of one that has expired.
async fn spent_tokens(ward: &Ward) -> [String; 2] {
    let password = std::fs::read_to_string(ward.state("admin-password")).unwrap();
    let login = json!({ "user": "admin", "password": password.trim() });
    let ended: Session = ward.api.post("/session", login.clone()).await.unwrap();
    let expired: Session = ward.api.post("/session", login).await.unwrap();
    let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, expired.token.as_bytes()));
    for token in [&ended.token, &expired.token] {
        ward.api.with_token(token).get::<WhoAmI>("/session").await.unwrap();
    }
    ward.sql(&format!("UPDATE session SET expires = {} WHERE secret_hash = '{digest}'", 1)).await;
    ward.api.with_token(&ended.token).delete::<()>("/session").await.unwrap();
    [ended.token, expired.token]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_is_closed_to_all_who_show_no_good_token() {
    let ward = Ward::start().await;
    let [ended, expired] = spent_tokens(&ward).await;
    let good = &ward.api.token;
    let shown = [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some("Bearer wrong".to_owned()),
        Some(format!("Bearer {}", "x".repeat(6000))),
        Some(format!("Bearer {good}x")),
        Some(format!("Bearer {}", &good[..good.len() - 1])),
        Some(format!("Basic {good}")),
        Some(good.clone()),
        Some(format!("Bearer {ended}")),
        Some(format!("Bearer {expired}")),
    ];
    let before = ward.api.events().await.len();
    let (endpoints, _) = endpoints(&ward.api).await;
    assert!(endpoints.len() > 20, "the API describes only {} endpoints", endpoints.len());
    let mut closed = 0;
    for endpoint in endpoints.iter().filter(|endpoint| !endpoint.open) {
        for authorization in &shown {
            let answer = asked(&ward.api, endpoint, authorization.as_deref()).await;
            let place = format!("{} {} with {authorization:?}", endpoint.method, endpoint.path);
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{place}");
            assert_eq!(Refusal::of(answer).await.code(), Code::AuthRequired, "{place}");
        }
        closed += 1;
    }
    assert_eq!(closed + OPEN.len(), endpoints.len(), "an open endpoint is gone from the description");
    assert_eq!(ward.api.events().await.len(), before, "who was not let in left a trace");
    // With a good token each is there; the session is ended last, for that is one of them.
    let (last, others): (Vec<_>, Vec<_>) =
        endpoints.iter().partition(|endpoint| endpoint.method == Method::DELETE && endpoint.path.ends_with("/session"));
    for endpoint in others.into_iter().chain(last) {
        let answer = asked(&ward.api, endpoint, Some(&format!("Bearer {good}"))).await;
        let status = answer.status();
        let reached = ![StatusCode::UNAUTHORIZED, StatusCode::METHOD_NOT_ALLOWED].contains(&status);
        assert!(reached && !status.is_server_error(), "{} {}: {status}", endpoint.method, endpoint.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_and_ends() {
    let ward = Ward::start().await;
    let who: WhoAmI = ward.api.get("/session").await.unwrap();
    assert_eq!(who.user.as_str(), "admin");
    assert_eq!(ward.api.told(EventKind::UserLogin).await.len(), 1);
    ward.api.delete::<()>("/session").await.unwrap();
    assert_eq!(ward.api.get::<WhoAmI>("/session").await.unwrap_err().code(), Code::AuthRequired);
}

async fn login(api: &Api, user: &str, password: &str) -> Result<Session, Refusal> {
    api.post("/session", json!({ "user": user, "password": password })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_to_the_log_and_not_to_the_guesser() {
    let ward = Ward::start().await;
    let long = "x".repeat(100_000);
    let mut refusals = Vec::new();
    for (user, password) in [("admin", "wrong"), ("nobody", "wrong"), ("", ""), (long.as_str(), "wrong"), ("a\nb", "x")]
    {
        let refusal = login(&ward.api, user, password).await.unwrap_err();
        assert_eq!(refusal.code(), Code::AuthDenied);
        refusals.push(refusal.0);
    }
    assert!(refusals.iter().all(|problem| problem == &refusals[0]), "a guesser learns which users there are");
    let told = ward.api.told(EventKind::UserLoginFailed).await;
    assert_eq!(told.len(), 5);
    assert_eq!(told[0].subject.user.as_ref().unwrap().as_str(), "admin");
    assert!(told.iter().all(|event| !event.message.contains('\n') && event.message.len() < 200), "{told:?}");
    assert!(told.iter().all(|event| !event.message.contains("wrong")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_must_wait_and_others_need_not() {
    let ward = Ward::start().await;
    let password = std::fs::read_to_string(ward.state("admin-password")).unwrap();
    for _ in 0..5 {
        login(&ward.api, "admin", "wrong").await.unwrap_err();
    }
    let refusal = login(&ward.api, "admin", password.trim()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::AuthThrottled);
    assert!(refusal.0.remedy.contains("seconds"), "{:?}", refusal.0);
    let other = login(&ward.api, "other", "wrong").await.unwrap_err();
    assert!(!other.0.remedy.contains("seconds"), "{:?}", other.0);
    // A session that is there goes on.
    ward.api.get::<WhoAmI>("/session").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_at_many_doors_at_once_gets_no_more_guesses() {
    let ward = Ward::start().await;
    let guesses: Vec<_> = (0..24)
        .map(|_| {
            let api = ward.api.clone();
            tokio::spawn(async move { login(&api, "admin", "wrong").await.unwrap_err() })
        })
        .collect();
    for guess in guesses {
        assert!([Code::AuthDenied, Code::AuthThrottled].contains(&guess.await.unwrap().code()));
    }
    // Two at most were being looked at when the fifth was found wrong.
    let looked_at = ward.api.told(EventKind::UserLoginFailed).await.len();
    assert!((5..=6).contains(&looked_at), "{looked_at} guesses");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consoles_cookie_opens_the_console_only() {
    let ward = Ward::start().await;
    let password = std::fs::read_to_string(ward.state("admin-password")).unwrap();
    let page = |path: &str| format!("{}{path}", ward.api.base);
    let send = async |request: reqwest::RequestBuilder| in_time("the console", request.send()).await.unwrap();
    let form = |password: &str| {
        let form = format!("user=admin&password={password}");
        ward.api.http.post(page("/login")).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
    };
    let closed = send(ward.api.http.get(page("/"))).await.text().await.unwrap();
    assert!(closed.contains("Log in") && !closed.contains("Log out"), "{closed}");
    assert_eq!(send(form("wrong")).await.status(), StatusCode::FORBIDDEN);
    let entered = send(form(password.trim())).await;
    assert_eq!((entered.status(), &entered.headers()[LOCATION]), (StatusCode::SEE_OTHER, &"/".parse().unwrap()));
    let cookie = entered.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    assert!(["HttpOnly", "Secure", "SameSite=Strict"].iter().all(|word| cookie.contains(word)), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let with_cookie = |request: reqwest::RequestBuilder| request.header(COOKIE, cookie);
    let shown = send(with_cookie(ward.api.http.get(page("/")))).await.text().await.unwrap();
    assert!(shown.contains("Log out") && !shown.contains("Log in"), "{shown}");
    // A page of somebody else's could send it along: it is no token of the API.
    let answer = send(with_cookie(ward.api.http.get(page("/api/v1/vms")))).await;
    assert_eq!(Refusal::of(answer).await.code(), Code::AuthRequired);
    assert_eq!(send(with_cookie(ward.api.http.post(page("/logout")))).await.status(), StatusCode::SEE_OTHER);
    let after = send(with_cookie(ward.api.http.get(page("/")))).await.text().await.unwrap();
    assert!(after.contains("Log in"), "the session did not end");
}
