//! Requests that may be sent again: one that changes anything and has an `Idempotency-Key` is done once, however often it
//! comes, and answered as the first time. It is asked here, for all of the API, before anything is done.
//!
//! A task or a recryption is written down with the key in one transaction, so that it is begun once whatever is killed
//! when. Any other answer is kept after its work: where the controller is killed in between, the work is done again, or
//! refused since it was done.

use aws_lc_rs::digest;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, LINK};
use http::{Method, StatusCode};
use ward_types::{Code, Problem, TaskId, UserId};

use super::auth::Caller;
use super::edge::{ApiError, ApiResult};
use super::recryptions;
use super::tasks::task_view;
use crate::controller::{Controller, Shared};
use crate::root;
use crate::store::request::{self, Came, RequestKey};
use crate::store::{permission, task};

/// The header.
pub(crate) const HEADER: &str = "idempotency-key";
const MAX_KEY: usize = 255;
const MAX_BODY: usize = 2 << 20;
/// How long an answer may be that is kept.
const MAX_ANSWER: usize = 1 << 20;
const JSON: &str = "application/json";

/// Has a request done, unless it was done before.
pub(crate) async fn once(controller: &Shared, mut caller: Caller, request: Request, next: Next) -> ApiResult<Response> {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let Some(value) = request.headers().get(HEADER).filter(|_| changes) else {
        return Ok(next.run(with(request, caller)).await);
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
    let hash = hash_of(&parts, &body);
    // An equal one that is being done is waited for, and found done.
    let _turn = controller.turns.take((caller.id(), value.clone())).await;
    let rights = rights_of(controller, caller.id()).await?;
    if let Some(answer) = answer_of(controller, &caller, &value, &hash, &rights).await? {
        return Ok(answer);
    }
    let sealed_request = root::seal(&controller.seal, &purpose("request", caller.id(), &value), &hash);
    let sealed_request = sealed_request.map_err(|error| Problem::internal(what, error))?;
    let key = RequestKey { user: caller.id(), value, sealed_request, rights };
    caller.carry(key.clone());
    let response = next.run(with(Request::from_parts(parts, Body::from(body)), caller)).await;
    Ok(keep(controller, &key, response).await)
}

fn with(mut request: Request, caller: Caller) -> Request {
    request.extensions_mut().insert(caller);
    request
}

fn purpose(of: &str, user: UserId, value: &str) -> String {
    format!("idempotency/{of}/{user}/{value}")
}

fn hash_of(parts: &http::request::Parts, body: &[u8]) -> Vec<u8> {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [parts.method.as_str(), parts.uri.path(), parts.uri.query().unwrap_or("")] {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    hash.update(body);
    hash.finish().as_ref().to_vec()
}

/// A hash of all that a user may do. What came of a request is told again while it is the same: else somebody would see what
/// it may not any more.
async fn rights_of(controller: &Controller, user: UserId) -> Result<String, Problem> {
    let grants = permission::grants_of(&mut *controller.store.read().await?, user).await?;
    let mut texts: Vec<_> =
        grants.iter().map(|it| format!("{} {} {} {}\n", it.object, it.own, it.propagates, it.privileges)).collect();
    texts.sort();
    Ok(hex::encode(digest::digest(&digest::SHA256, texts.concat().as_bytes())))
}

/// What came of an earlier request of that key.
///
/// # Errors
/// Where that was another request, or its user had other rights.
async fn answer_of(
    controller: &Shared,
    caller: &Caller,
    value: &str,
    hash: &[u8],
    rights: &str,
) -> ApiResult<Option<Response>> {
    let what = "cannot do the request";
    let broken = |error| Problem::internal(what, error);
    let Some(done) = request::find(&mut *controller.store.read().await?, caller.id(), value).await? else {
        return Ok(None);
    };
    let of = |of| purpose(of, caller.id(), value);
    if *root::open(&controller.seal, &of("request"), &done.sealed_request).map_err(broken)? != hash {
        return Err(Problem::new(
            Code::RequestKeyReused,
            what,
            "its Idempotency-Key came with another request before",
            "give each request a key of its own",
        )
        .into());
    }
    if done.rights != rights {
        let why = "it was done before, when you had other rights; what came of it is not told again";
        return Err(Problem::new(Code::AuthDenied, what, why, "look at what it was about").into());
    }
    Ok(Some(match done.came {
        Came::Task(id) => task_again(controller, id).await?,
        Came::Recryption(id) => recryptions::view(controller, id).await?.into_response(),
        Came::Answer(sealed) => {
            let body = root::open(&controller.seal, &of("answer"), &sealed).map_err(broken)?;
            (StatusCode::OK, [(CONTENT_TYPE, JSON)], body.to_vec()).into_response()
        }
    }))
}

async fn task_again(controller: &Shared, id: TaskId) -> ApiResult<Response> {
    let info = task::get(&mut *controller.store.read().await?, id).await?;
    let info = info.ok_or_else(|| Problem::internal("cannot do the request", "the task that it began is gone"))?;
    Ok(task_view(controller, info).into_response())
}

/// Keeps the answer of what was done, where it is told nowhere else.
async fn keep(controller: &Controller, key: &RequestKey, response: Response) -> Response {
    let headers = response.headers();
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == JSON);
    // Files, and the pages of lists, are asked for again.
    if response.status() != StatusCode::OK || !is_json || headers.contains_key(LINK) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let body = match to_bytes(body, usize::MAX).await {
        Ok(body) => body,
        Err(error) => {
            return ApiError(Problem::internal("cannot answer the request", error)).into_response();
        }
    };
    if body.len() <= MAX_ANSWER
        && let Err(error) = remember(controller, key, &body).await
    {
        tracing::warn!(%error, "an answer can't be kept: its request would be done again if it came again");
    }
    Response::from_parts(parts, Body::from(body))
}

async fn remember(controller: &Controller, key: &RequestKey, body: &[u8]) -> Result<(), Problem> {
    let sealed = root::seal(&controller.seal, &purpose("answer", key.user, &key.value), body);
    let sealed = sealed.map_err(|error| Problem::internal("cannot keep an answer", error))?;
    let mut tx = controller.store.write().await?;
    match request::add(&mut tx, key, &Came::Answer(sealed)).await {
        // Its task, or its recryption, is written down.
        Err(error) if error.is_conflict() => Ok(()),
        added => {
            added?;
            Ok(tx.commit().await?)
        }
    }
}
