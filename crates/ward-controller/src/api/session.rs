//! Logging in and out.

use axum::extract::{Json, State};
use ward_secret::Zeroizing;
use ward_types::Problem;

use super::auth::{Caller, log_in, log_out};
use super::edge::{ApiResult, Body};
use super::types::{Login, Session, WhoAmI};
use crate::controller::Shared;

/// Begins a session. The only call that needs none.
#[utoipa::path(post, path = "/session", tag = "session", security(()),
    responses((status = 200, body = Session), (status = "4XX", body = Problem)))]
pub(super) async fn begin(State(controller): State<Shared>, Body(login): Body<Login>) -> ApiResult<Json<Session>> {
    let password = Zeroizing::new(login.password);
    let (token, expires) = log_in(&controller, &login.user, password).await?;
    Ok(Json(Session { token: token.to_string(), expires }))
}

/// Tells who is asking.
#[utoipa::path(get, path = "/session", tag = "session",
    responses((status = 200, body = WhoAmI), (status = "4XX", body = Problem)))]
pub(super) async fn show(caller: Caller) -> Json<WhoAmI> {
    Json(WhoAmI { user: caller.user().clone(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Ends the session.
#[utoipa::path(delete, path = "/session", tag = "session",
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn end(State(controller): State<Shared>, caller: Caller) -> ApiResult<Json<()>> {
    log_out(&controller, &caller).await?;
    Ok(Json(()))
}
