//! Lists come in pages: at most `limit` items after `after`. Where there are more, the header `Link` names the next
//! page (RFC 8288).

use axum::extract::{FromRequestParts, Json};
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::LINK;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::edge::{ApiError, Params, invalid};

/// How many items a page has at most.
pub const MAX_LIMIT: u32 = 1000;
const DEFAULT_LIMIT: u32 = 100;

/// Which page of a list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// At most so many items; none means 100, and more than 1000 means 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub limit: Option<u32>,
    /// The items after this one; as the `Link` of the page before says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// The page that a request asks for.
pub(crate) struct Page {
    pub(crate) limit: usize,
    pub(crate) after: Option<String>,
    path: String,
    query: Vec<(String, String)>,
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Params(asked) = Params::<PageQuery>::from_request_parts(parts, state).await?;
        let Params(query) = Params::<Vec<(String, String)>>::from_request_parts(parts, state).await?;
        let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
        if limit == 0 {
            return Err(invalid("a page of no items has no next one".to_owned()));
        }
        // The router takes the prefix off.
        let path = format!("{}{}", super::PREFIX, parts.uri.path());
        Ok(Self { limit: limit.min(MAX_LIMIT) as usize, after: asked.after, path, query })
    }
}

impl Page {
    /// Cuts the page out of all items, each with the name that it goes by.
    pub(crate) fn cut<T: Serialize>(&self, items: Vec<T>, name: impl Fn(&T) -> String) -> Listed<T> {
        let (items, last) = self.slice(items, name);
        self.page(items, last)
    }

    /// The items of the page, and what the next one comes after, where there is one.
    pub(crate) fn slice<T>(&self, items: Vec<T>, name: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        let mut items: Vec<_> = items.into_iter().map(|item| (name(&item), item)).collect();
        items.sort_by(|(a, _), (b, _)| a.cmp(b));
        items.retain(|(name, _)| self.after.as_ref().is_none_or(|after| name > after));
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let last = items.last().map(|(name, _)| name.clone()).filter(|_| more);
        (items.into_iter().map(|(_, item)| item).collect(), last)
    }

    /// The page with these items; `last` is what the next one comes after, where there is one.
    pub(crate) fn page<T: Serialize>(&self, items: Vec<T>, last: Option<String>) -> Listed<T> {
        let link = last.map(|last| {
            let mut query = form(&self.query, "after");
            query.push_str(&format!("after={}", encode(&last)));
            format!("<{}?{query}>; rel=\"next\"", self.path)
        });
        Listed { items, link }
    }
}

fn form(query: &[(String, String)], without: &str) -> String {
    let kept = query.iter().filter(|(name, _)| name != without);
    kept.map(|(name, value)| format!("{}={}&", encode(name), encode(value))).collect()
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Listed<T> {
    items: Vec<T>,
    link: Option<String>,
}

impl<T: Serialize> IntoResponse for Listed<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.items).into_response();
        if let Some(link) = self.link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            response.headers_mut().insert(LINK, link);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn page(uri: &str) -> Result<Page, ApiError> {
        let (mut parts, ()) = http::Request::builder().uri(uri).body(()).unwrap().into_parts();
        Page::from_request_parts(&mut parts, &()).await
    }

    #[tokio::test]
    async fn pages_follow_one_another_to_the_end() {
        let all = ["e", "b", "a", "d", "c&d"].map(str::to_owned);
        let mut uri = "/vms?limit=2&open=true".to_owned();
        let mut seen = Vec::new();
        loop {
            let listed = page(&uri).await.unwrap().cut(all.to_vec(), Clone::clone);
            assert!(listed.items.len() <= 2);
            seen.extend(listed.items);
            let Some(link) = listed.link else { break };
            let link = link.strip_prefix("</api/v1").unwrap().strip_suffix(">; rel=\"next\"").unwrap();
            assert!(link.starts_with("/vms?limit=2&open=true&after="), "{link}");
            uri = link.to_owned();
        }
        assert_eq!(seen, ["a", "b", "c&d", "d", "e"]);
    }

    #[tokio::test]
    async fn a_limit_out_of_bounds_is_refused() {
        for bad in ["/?limit=0", "/?limit=x", "/?limit=-1"] {
            assert!(page(bad).await.is_err(), "{bad}");
        }
        assert_eq!(page("/").await.unwrap().limit, 100);
        assert_eq!(page("/?limit=4294967295").await.unwrap().limit, 1000);
    }
}
