//! The edge: what comes in is checked and typed here, what goes wrong goes out as a [`Problem`].

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Query, Request};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use serde::de::DeserializeOwned;
use ward_types::{Code, Problem};

use crate::store::StoreError;

/// A problem on its way to a user.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) Problem);

/// What a handler gives back.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        ward_rpc::problem_response(&self.0)
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}

fn invalid(why: String) -> ApiError {
    let remedy = "see /api/openapi.json for what a request is made of";
    ApiError(Problem::new(Code::RequestInvalid, "cannot understand the request", why, remedy))
}

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(body) =
            Json::from_request(request, state).await.map_err(|error: JsonRejection| invalid(error.body_text()))?;
        Ok(Self(body))
    }
}

/// A JSON body that may be left out.
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = Bytes::from_request(request, state).await.map_err(|error| invalid(error.body_text()))?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        serde_json::from_slice(&body).map(Self).map_err(|error| invalid(error.to_string()))
    }
}

/// A query string.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error: QueryRejection| invalid(error.body_text()))?;
        Ok(Self(params))
    }
}

/// A problem for what is not there.
pub(crate) fn not_found(noun: &str, key: &str) -> Problem {
    Problem::new(
        Code::NotFound,
        format!("cannot find {noun} `{key}`"),
        format!("there is no {noun} of that name or ID"),
        format!("`ward {noun} ls` lists them"),
    )
}
