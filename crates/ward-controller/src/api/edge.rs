//! The edge: what comes in is checked and typed here, what goes wrong goes out as a [`Problem`].

use std::fmt;
use std::marker::PhantomData;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Query, RawPathParams, Request};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
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

fn bad(code: Code, why: String) -> ApiError {
    let remedy = "see /api/openapi.json for what a request is made of";
    ApiError(Problem::new(code, "cannot understand the request", why, remedy))
}

pub(super) fn invalid(why: String) -> ApiError {
    bad(Code::RequestInvalid, why)
}

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let refused = |error: JsonRejection| {
            let code = match error.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Code::RequestTooLarge,
                StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::RequestMediaType,
                _ => Code::RequestInvalid,
            };
            bad(code, error.body_text())
        };
        let Json(Fields(body)) = Json::from_request(request, state).await.map_err(refused)?;
        Ok(Self(body))
    }
}

/// What is read from an object only: a list could stand for one as well, field by field, for all that serde cares.
struct Fields<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Fields<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Fields)
            }
        }

        deserializer.deserialize_map(Reader(PhantomData))
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

/// The parameters of the path, in order; one that can't be a name is empty.
pub(crate) struct Keys(Vec<String>);

impl Keys {
    /// The last one.
    pub(crate) fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// The first one.
    pub(crate) fn first(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// The one of that name in a request's path.
    pub(crate) async fn named<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, ApiError> {
        let params = params(parts, state).await?;
        let found = params.iter().find(|(known, _)| *known == name);
        Ok(found.map(|(_, value)| clean(value)).unwrap_or_default())
    }
}

async fn params<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, ApiError> {
    RawPathParams::from_request_parts(parts, state).await.map_err(|error| invalid(error.body_text()))
}

/// Nothing has a name with NUL in it, and PostgreSQL can't look for one.
fn clean(text: &str) -> String {
    if text.contains('\0') { String::new() } else { text.to_owned() }
}

impl<S: Send + Sync> FromRequestParts<S> for Keys {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Self(params(parts, state).await?.iter().map(|(_, value)| clean(value)).collect()))
    }
}

/// The answer to a method that a path does not have.
pub(crate) async fn no_such_method(method: Method) -> ApiError {
    bad(Code::RequestMethod, format!("the path has no method {method}"))
}

/// A problem for what is not there.
pub(crate) fn not_found(noun: &str, key: &str) -> Problem {
    Problem::new(
        Code::NotFound,
        format!("cannot find {noun} `{key}`"),
        format!("there is no {noun} of that name or ID, or you may not see it"),
        format!("`ward {noun} ls` lists them"),
    )
}
