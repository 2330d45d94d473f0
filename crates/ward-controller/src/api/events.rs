//! Events.

use std::time::Duration;

use axum::extract::{Json, State};
use tokio::time::timeout;
use ward_types::{Event, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Params};
use super::types::EventQuery;
use crate::controller::Shared;
use crate::store::event;

const MAX_WAIT_MS: u32 = 30_000;
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// Lists events, oldest first: those after a number, or the last ones. Waits for one where that is asked.
#[utoipa::path(get, path = "/events", tag = "event", params(EventQuery),
    responses((status = 200, body = [Event]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    _: Caller,
    Params(query): Params<EventQuery>,
) -> ApiResult<Json<Vec<Event>>> {
    let limit = i64::from(query.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT));
    let Some(after) = query.after else {
        return Ok(Json(event::last(&mut *controller.store.read().await?, limit).await?));
    };
    let wait = Duration::from_millis(query.wait_ms.min(MAX_WAIT_MS).into());
    let mut added = controller.store.events_added();
    let found = async {
        loop {
            added.mark_unchanged();
            let events = event::after(&mut *controller.store.read().await?, after, limit).await?;
            if !events.is_empty() {
                return Ok(events);
            }
            if added.changed().await.is_err() {
                return Ok(Vec::new());
            }
        }
    };
    match timeout(wait.max(Duration::from_millis(1)), found).await {
        Ok(found) => found.map(Json).map_err(|error: crate::store::StoreError| error.into()),
        // Nothing new in that time, or no time was given and the store was slow.
        Err(_) => Ok(Json(event::after(&mut *controller.store.read().await?, after, limit).await?)),
    }
}
