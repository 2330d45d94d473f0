//! Events.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::State;
use sqlx::AnyConnection;
use tokio::time::timeout;
use ward_types::{ClusterId, Event, HostId, Object, Privilege, Problem, VmId};

use super::edge::{ApiResult, Params};
use super::page::{Listed, Page};
use super::types::EventQuery;
use crate::authz::{Root, Sight, Target as _};
use crate::controller::{Controller, Shared};
use crate::store::host::{self, HostRow};
use crate::store::{StoreError, event, vm};

const MAX_WAIT_MS: u32 = 30_000;
/// How many events are read at a time.
const BATCH: i64 = 500;

/// Lists events, oldest first: those after a number, or the last ones. Waits for one where that is asked.
#[utoipa::path(get, path = "/events", tag = "event", params(EventQuery),
    responses((status = 200, body = [Event]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    sight: Sight,
    Params(query): Params<EventQuery>,
    page: Page,
) -> ApiResult<Listed<Event>> {
    let Some(after) = query.after else {
        return Ok(page.page(newest(&controller, &sight, page.limit).await?, None));
    };
    let wait = Duration::from_millis(query.wait_ms.min(MAX_WAIT_MS).into());
    let mut added = controller.store.events_added();
    let found = async {
        loop {
            added.mark_unchanged();
            let found = next(&controller, &sight, after, page.limit).await?;
            if !found.0.is_empty() || added.changed().await.is_err() {
                return Ok(found);
            }
        }
    };
    let (events, more) = match timeout(wait.max(Duration::from_millis(1)), found).await {
        Ok(found) => found.map_err(|error: StoreError| Problem::from(error))?,
        // Nothing new in that time, or no time was given and the store was slow.
        Err(_) => next(&controller, &sight, after, page.limit).await?,
    };
    let last = events.last().filter(|_| more).map(|event| event.id.to_string());
    Ok(page.page(events, last))
}

/// Which events are to be shown: those of objects whose events the user may read, and those of no object to who may
/// read all.
struct Filter<'a> {
    sight: &'a Sight,
    vms: HashMap<VmId, ClusterId>,
    hosts: HashMap<HostId, HostRow>,
}

impl<'a> Filter<'a> {
    async fn load(db: &mut AnyConnection, sight: &'a Sight) -> Result<Self, StoreError> {
        let vms = vm::clusters(&mut *db).await?;
        let hosts = host::list(db).await?.into_iter().map(|row| (row.id, row)).collect();
        Ok(Self { sight, vms, hosts })
    }

    fn shows(&self, event: &Event) -> bool {
        let subject = &event.subject;
        let vm = subject.vm.and_then(|id| {
            let cluster = *self.vms.get(&id)?;
            Some(vec![Object::Vm(id), Object::Cluster(cluster), Object::Root])
        });
        let host = subject.host.and_then(|id| self.hosts.get(&id)).map(HostRow::path);
        let path = match (vm, host) {
            (Some(path), _) => path,
            // What is told of a VM that is gone is not told of its host.
            (None, Some(path)) if subject.vm.is_none() => path,
            _ => Root.path(),
        };
        self.sight.has(Privilege::EventRead, &path)
    }
}

/// The last events that are to be shown, oldest first.
pub(crate) async fn newest(controller: &Controller, sight: &Sight, limit: usize) -> Result<Vec<Event>, StoreError> {
    let mut db = controller.store.read().await?;
    let filter = Filter::load(&mut db, sight).await?;
    let mut window = i64::try_from(limit).unwrap_or(i64::MAX);
    loop {
        let events = event::last(&mut db, window).await?;
        let all = i64::try_from(events.len()).is_ok_and(|found| found < window);
        let mut shown: Vec<_> = events.into_iter().filter(|event| filter.shows(event)).collect();
        if all || shown.len() >= limit {
            return Ok(shown.split_off(shown.len().saturating_sub(limit)));
        }
        window = window.saturating_mul(4);
    }
}

/// The events after a number that are to be shown, at most `limit`, and whether there are more.
async fn next(
    controller: &Controller,
    sight: &Sight,
    after: i64,
    limit: usize,
) -> Result<(Vec<Event>, bool), StoreError> {
    let mut db = controller.store.read().await?;
    let filter = Filter::load(&mut db, sight).await?;
    let mut after = after;
    let mut shown = Vec::new();
    while shown.len() <= limit {
        let batch = event::after(&mut db, after, BATCH).await?;
        let Some(newest) = batch.last() else { break };
        after = newest.id;
        shown.extend(batch.into_iter().filter(|event| filter.shows(event)));
    }
    let more = shown.len() > limit;
    shown.truncate(limit);
    Ok((shown, more))
}
