//! Requests that may be sent again: one with an `Idempotency-Key` begins its task once, however often it comes.

use aws_lc_rs::digest;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use http::Method;
use ward_types::{Code, Problem, TaskInfo};

use super::auth::Caller;
use super::edge::ApiError;
use crate::controller::Controller;
use crate::store::request::{self, RequestKey};
use crate::store::task;

/// The header.
pub(crate) const HEADER: &str = "idempotency-key";
const MAX_KEY: usize = 255;
const MAX_BODY: usize = 2 << 20;

/// What is known of a request.
pub(crate) enum Examined {
    /// It is to be done, and its task to be written down under the key.
    New(Request, Option<RequestKey>),
    /// It was done: this is its task.
    Repeated(TaskInfo),
}

/// Looks whether the request was done before.
pub(crate) async fn examine(controller: &Controller, caller: &Caller, request: Request) -> Result<Examined, ApiError> {
    let Some(value) = request.headers().get(HEADER).filter(|_| request.method() == Method::POST) else {
        return Ok(Examined::New(request, None));
    };
    let what = "cannot tell whether the request is a repetition";
    let value = value.to_str().ok().filter(|value| (1..=MAX_KEY).contains(&value.len())).ok_or_else(|| {
        let why = format!("its Idempotency-Key is not 1 to {MAX_KEY} characters of ASCII");
        Problem::new(Code::RequestInvalid, what, why, "give a UUID, say")
    })?;
    let value = value.to_owned();
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.map_err(|error| {
        Problem::new(Code::RequestTooLarge, what, error.to_string(), format!("send at most {MAX_BODY} bytes"))
    })?;
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(parts.method.as_str().as_bytes());
    hash.update(b" ");
    hash.update(parts.uri.path().as_bytes());
    hash.update(b"\n");
    hash.update(&body);
    let key = RequestKey { value, hash: hex::encode(hash.finish()) };
    match repeated(controller, caller, &key).await? {
        Some(task) => Ok(Examined::Repeated(task)),
        None => Ok(Examined::New(Request::from_parts(parts, Body::from(body)), Some(key))),
    }
}

/// The task that an earlier request of that key began.
///
/// # Errors
/// Where that was another request.
pub(crate) async fn repeated(
    controller: &Controller,
    caller: &Caller,
    key: &RequestKey,
) -> Result<Option<TaskInfo>, Problem> {
    let mut db = controller.store.read().await?;
    let Some((id, hash)) = request::find(&mut db, caller.user(), &key.value).await? else { return Ok(None) };
    if hash != key.hash {
        return Err(Problem::new(
            Code::RequestKeyReused,
            "cannot do the request",
            format!("its Idempotency-Key came with another request before, which began task {id}"),
            "give each request a key of its own",
        ));
    }
    Ok(task::get(&mut db, id).await?)
}
