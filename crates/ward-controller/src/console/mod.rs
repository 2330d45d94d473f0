//! The console: one page that shows how things are. It changes nothing.

mod page;

use axum::Router;
use axum::extract::{Form, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use maud::Markup;
use serde::Deserialize;
use ward_secret::Zeroizing;
use ward_types::Problem;

use crate::api::auth::{COOKIE_NAME, Origin, caller_by_cookie, log_in, log_out};
use crate::controller::Shared;

/// The console's routes.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/", get(show))
        .route("/login", post(begin))
        .route("/logout", post(end))
        .route("/style.css", get(|| async { ([(CONTENT_TYPE, "text/css")], include_str!("style.css")) }))
}

#[derive(Deserialize)]
struct LoginForm {
    user: String,
    password: String,
}

async fn show(State(controller): State<Shared>, headers: HeaderMap) -> Response {
    match caller_by_cookie(&controller, &headers).await {
        Ok(Some(caller)) => match page::status(&controller, &caller).await {
            Ok(markup) => html(StatusCode::OK, markup),
            Err(problem) => failed(&problem),
        },
        Ok(None) => html(StatusCode::OK, page::login(None)),
        Err(problem) => failed(&problem),
    }
}

async fn begin(State(controller): State<Shared>, origin: Origin, Form(form): Form<LoginForm>) -> Response {
    match log_in(&controller, &form.user, Zeroizing::new(form.password), origin).await {
        Ok((token, _)) => {
            let cookie = format!("{COOKIE_NAME}={}; Path=/; HttpOnly; Secure; SameSite=Strict", *token);
            with_cookie(&cookie)
        }
        Err(problem) => {
            let status = StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::FORBIDDEN);
            html(status, page::login(Some(&problem)))
        }
    }
}

async fn end(State(controller): State<Shared>, headers: HeaderMap) -> Response {
    if let Ok(Some(caller)) = caller_by_cookie(&controller, &headers).await
        && let Err(problem) = log_out(&controller, &caller).await
    {
        return failed(&problem);
    }
    with_cookie(&format!("{COOKIE_NAME}=; Path=/; HttpOnly; Secure; SameSite=Strict; Max-Age=0"))
}

fn with_cookie(cookie: &str) -> Response {
    let mut response = Redirect::to("/").into_response();
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn failed(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    html(status, page::problem(problem))
}

fn html(status: StatusCode, markup: Markup) -> Response {
    let headers = [
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, markup).into_response()
}
