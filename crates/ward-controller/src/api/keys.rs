//! Keys.

use std::collections::BTreeMap;

use axum::extract::{Json, State};
use ward_types::{Code, EventKind, EventSubject, KeyRef, Object, Privilege, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Params};
use super::page::{Listed, MAX_LIMIT, Page};
use super::types::{CheckKeys, KeyCheck, KeyGrace, KeyQuery, KeyView, OrphanView, PageQuery};
use crate::authz::operations::{self, DestroyKey, FetchKeys, FindOrphans, ReadKey, SetKeyGrace};
use crate::authz::{Granted, Root, Sight, grant};
use crate::controller::Shared;
use crate::keys::{self, Ask, Standing, all_needed, holders, stand, use_of};
use crate::plan::kept_until;
use crate::store::host::{self, HostRow};
use crate::store::{event, needed, server_key};

/// How many keys are looked for at a time unless said otherwise.
const CHECK: u32 = 256;

async fn views(
    controller: &Shared,
    sight: &Sight,
    keys: &[KeyRef],
    standings: &BTreeMap<KeyRef, Standing>,
) -> Result<Vec<KeyView>, Problem> {
    let mut db = controller.store.read().await?;
    let days = keys::grace(&mut db).await?;
    let hosts: Vec<HostRow> = host::list(&mut db).await?.into_iter().filter(|row| sight.sees(row)).collect();
    let mut views = Vec::new();
    for key in keys {
        let users = keys::users(&mut db, key).await?;
        let known = server_key::get(&mut db, key).await?;
        let standing = standings.get(key).cloned().unwrap_or(Standing::UNKNOWN);
        let unneeded = known.as_ref().and_then(|known| known.unneeded).filter(|_| users.is_nobody());
        let mut holders = holders(controller, key);
        holders.retain(|name| hosts.iter().any(|row| row.name == *name));
        views.push(KeyView {
            name: key.to_string(),
            key: key.clone(),
            standing: standing.standing,
            state: standing.state,
            problem: standing.problem(),
            made: known.is_some_and(|known| known.made),
            vms: users.vms.iter().filter(|row| sight.sees(*row)).map(|row| use_of(row, key)).collect(),
            host_key_of: {
                let named = users.hosts.iter().map(|(.., name)| name);
                named.filter(|name| hosts.iter().any(|row| row.name == **name)).cloned().collect()
            },
            tasks: users.tasks,
            hosts: holders,
            unneeded_since: unneeded,
            kept_until: unneeded.map(|since| kept_until(since, days)),
        });
    }
    Ok(views)
}

/// Lists the keys that the inventory needs, or needed: who needs each, which hosts hold it, and whether its provider has it.
#[utoipa::path(get, path = "/keys", tag = "key", params(KeyQuery),
    responses((status = 200, body = [KeyView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    sight: Sight,
    Params(query): Params<KeyQuery>,
    page: Page,
) -> ApiResult<Listed<KeyView>> {
    let mut db = controller.store.read().await?;
    let needed = all_needed(&mut db).await?;
    let known = server_key::list(&mut db, None, query.unneeded).await?;
    drop(db);
    let mut all: Vec<KeyRef> = known.into_iter().map(|known| known.key).collect();
    if query.unneeded {
        all.retain(|key| !needed.contains(key));
    } else {
        all.extend(needed);
    }
    all.sort();
    all.dedup();
    let is_shown = |key: &KeyRef| {
        let path = [Object::Provider(key.provider.clone()), Object::Root];
        query.provider.as_deref().is_none_or(|provider| key.provider.as_str() == provider)
            && sight.has(Privilege::CryptoReadKeyServers, &path)
    };
    all.retain(is_shown);
    let (keys, last) = page.slice(all, ToString::to_string);
    let standings = match query.offline {
        true => BTreeMap::new(),
        false => stand(&controller, "cannot tell how a key stands", &keys, Ask::States).await?,
    };
    Ok(page.page(views(&controller, &sight, &keys, &standings).await?, last))
}

/// Shows a key, and asks its provider for it.
#[utoipa::path(get, path = "/keys/{key}", tag = "key",
    params(("key" = String, Path, description = "`PROVIDER/ID`, with the slash as `%2F`")),
    responses((status = 200, body = KeyView), (status = "4XX", body = Problem)))]
pub(super) async fn show(
    State(controller): State<Shared>,
    sight: Sight,
    granted: Granted<ReadKey>,
) -> ApiResult<Json<KeyView>> {
    let keys = std::slice::from_ref(&granted.on().key);
    let standings = stand(&controller, "cannot tell how a key stands", keys, Ask::States).await?;
    let view = views(&controller, &sight, keys, &standings).await?.pop();
    Ok(Json(view.ok_or_else(|| Problem::internal("cannot show a key", "it is gone"))?))
}

/// Looks for the keys that the inventory needs, some at a time: whether each can be had. Tells of those that can't.
#[utoipa::path(post, path = "/keys/check", tag = "key", request_body = CheckKeys,
    responses((status = 200, body = KeyCheck), (status = "4XX", body = Problem)))]
pub(super) async fn check(
    State(controller): State<Shared>,
    sight: Sight,
    Body(asked): Body<CheckKeys>,
) -> ApiResult<Json<KeyCheck>> {
    let what = "cannot make sure that a key can be had";
    let caller = sight.caller();
    let ask = if asked.fetch {
        let _: Granted<FetchKeys> = grant(&controller, caller, Root, Default::default()).await?;
        Ask::Keys
    } else {
        let _: Granted<operations::CheckKeys> = grant(&controller, caller, Root, Default::default()).await?;
        Ask::States
    };
    let limit = match asked.limit.unwrap_or(CHECK) {
        0 => {
            let why = "no keys at a time is none at all";
            return Err(Problem::new(Code::RequestInvalid, what, why, "give a limit of 1 or more").into());
        }
        limit => limit.min(MAX_LIMIT) as usize,
    };
    let mut db = controller.store.read().await?;
    let total = needed::count(&mut db).await?;
    let (keys, next) = needed::some(&mut db, asked.after.as_deref(), limit).await?;
    drop(db);
    let standings = stand(&controller, what, &keys, ask).await?;
    let subject = EventSubject { user: Some(caller.user().clone()), ..EventSubject::default() };
    let lost: BTreeMap<_, _> = standings.into_iter().filter(|(_, standing)| standing.fault.is_some()).collect();
    keys::tell(&controller, &subject, &lost).await?;
    let named: Vec<KeyRef> = lost.keys().cloned().collect();
    Ok(Json(KeyCheck { total, checked: keys.len(), faults: views(&controller, &sight, &named, &lost).await?, next }))
}

/// Destroys a key at its key server, for good: one that this controller had made and that nothing has needed for some time.
#[utoipa::path(delete, path = "/keys/{key}", tag = "key",
    params(("key" = String, Path, description = "`PROVIDER/ID`, with the slash as `%2F`")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn destroy(State(controller): State<Shared>, granted: Granted<DestroyKey>) -> ApiResult<Json<()>> {
    keys::destroy(&controller, &granted).await?;
    Ok(Json(()))
}

/// Looks at a provider's key server for keys that were made for tasks which came to nothing. Those of this controller's tasks
/// are among the keys that nothing needs from now on.
#[utoipa::path(post, path = "/providers/{provider}/orphans", tag = "key",
    params(("provider" = String, Path, description = "name"), PageQuery),
    responses((status = 200, body = [OrphanView]), (status = "4XX", body = Problem)))]
pub(super) async fn orphans(
    State(controller): State<Shared>,
    granted: Granted<FindOrphans>,
    page: Page,
) -> ApiResult<Listed<OrphanView>> {
    let found = keys::orphans(&controller, &granted).await?;
    Ok(page.cut(found, |view: &OrphanView| view.name.clone()))
}

/// Tells for how long keys that nothing needs are kept.
#[utoipa::path(get, path = "/keys/grace", tag = "key",
    responses((status = 200, body = KeyGrace), (status = "4XX", body = Problem)))]
pub(super) async fn grace(State(controller): State<Shared>, _: Caller) -> ApiResult<Json<KeyGrace>> {
    Ok(Json(KeyGrace { days: keys::grace(&mut *controller.store.read().await?).await? }))
}

/// Sets for how long keys that nothing needs are kept.
#[utoipa::path(put, path = "/keys/grace", tag = "key", request_body = KeyGrace,
    responses((status = 200, body = KeyGrace), (status = "4XX", body = Problem)))]
pub(super) async fn set_grace(
    State(controller): State<Shared>,
    caller: Caller,
    Body(wanted): Body<KeyGrace>,
) -> ApiResult<Json<KeyGrace>> {
    let note = format!("{} days", wanted.days);
    let granted: Granted<SetKeyGrace> = grant(&controller, &caller, Root, note.into()).await?;
    let mut tx = controller.store.write().await?;
    keys::set_grace(&mut tx, wanted.days).await?;
    let subject = EventSubject { user: Some(granted.user().clone()), ..EventSubject::default() };
    let message = format!("keys that nothing needs are kept for {} days", wanted.days);
    event::record(&mut tx, EventKind::KeyGraceSet, &subject, &message).await?;
    tx.commit().await?;
    Ok(Json(wanted))
}
