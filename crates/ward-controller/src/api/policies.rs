//! Storage policies.

use axum::extract::{Json, State};
use ward_types::{Code, EventKind, EventSubject, Name, PolicyName, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, not_found};
use super::page::{Listed, Page};
use super::types::{AddPolicy, PageQuery, PolicyView};
use crate::authz::operations::ChangePolicies;
use crate::authz::{Granted, Root, Sight, grant};
use crate::controller::{Controller, Shared};
use crate::plan;
use crate::store::policy::{self, PolicyRow};
use crate::store::vm::{self, VmRow};
use crate::store::{Tx, event, provider, task};

/// Policies, with those VMs under them that are to be shown.
async fn views(controller: &Controller, sight: &Sight, rows: Vec<PolicyRow>) -> Result<Vec<PolicyView>, Problem> {
    let mut db = controller.store.read().await?;
    let assigned = policy::assigned(&mut db, None).await?;
    let mut vms = vm::list(&mut db).await?;
    vms.retain(|vm| sight.sees(vm));
    let uses = |row: &VmRow, name: &PolicyName| {
        let keys = row.config.as_ref().map(plan::keys).unwrap_or_default();
        keys.iter().any(|(component, key)| {
            assigned
                .get(&(row.id, *component))
                .map_or_else(|| *name == built_in(key.is_some()), |policy| policy == name)
        })
    };
    let view = |row: PolicyRow| {
        let vms: Vec<Name> = vms.iter().filter(|vm| uses(vm, &row.name)).map(|vm| vm.name.clone()).collect();
        PolicyView {
            name: row.name,
            encrypts: row.encrypts,
            provider: row.provider,
            rotate_days: row.rotate_days,
            built_in: row.built_in,
            vms,
        }
    };
    Ok(rows.into_iter().map(view).collect())
}

/// The policy of a component that nobody put under one.
pub(super) fn built_in(encrypted: bool) -> PolicyName {
    if encrypted { PolicyName::encryption() } else { PolicyName::plain() }
}

async fn load(controller: &Controller, name: &str) -> Result<PolicyRow, Problem> {
    let found = match name.parse() {
        Ok(name) => policy::get(&mut *controller.store.read().await?, &name).await?,
        Err(_) => None,
    };
    found.ok_or_else(|| not_found("policy", name))
}

async fn one(controller: &Controller, sight: &Sight, row: PolicyRow) -> ApiResult<Json<PolicyView>> {
    let name = row.name.clone();
    let view = views(controller, sight, vec![row]).await?.pop();
    Ok(Json(view.ok_or_else(|| not_found("policy", name.as_str()))?))
}

async fn may_change(
    controller: &Controller,
    caller: &Caller,
    verb: &str,
    name: &str,
) -> Result<Granted<ChangePolicies>, Problem> {
    grant(controller, caller, Root, format!("{verb} storage policy `{name}`").into()).await
}

/// Lists storage policies.
#[utoipa::path(get, path = "/policies", tag = "policy", params(PageQuery),
    responses((status = 200, body = [PolicyView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(controller): State<Shared>, sight: Sight, page: Page) -> ApiResult<Listed<PolicyView>> {
    let rows = policy::list(&mut *controller.store.read().await?).await?;
    Ok(page.cut(views(&controller, &sight, rows).await?, |view: &PolicyView| view.name.to_string()))
}

/// Shows a storage policy.
#[utoipa::path(get, path = "/policies/{policy}", tag = "policy", params(("policy" = String, Path, description = "name")),
    responses((status = 200, body = PolicyView), (status = "4XX", body = Problem)))]
pub(super) async fn show(State(controller): State<Shared>, sight: Sight, keys: Keys) -> ApiResult<Json<PolicyView>> {
    let row = load(&controller, keys.last()).await?;
    one(&controller, &sight, row).await
}

/// Makes a storage policy, from nothing or as a copy of another one.
#[utoipa::path(post, path = "/policies", tag = "policy", request_body = AddPolicy,
    responses((status = 200, body = PolicyView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    sight: Sight,
    Body(new): Body<AddPolicy>,
) -> ApiResult<Json<PolicyView>> {
    let granted = may_change(&controller, sight.caller(), "add", new.name.as_str()).await?;
    let what = format!("cannot make storage policy `{}`", new.name);
    let from = match &new.from {
        None => None,
        Some(name) => Some(load(&controller, name.as_str()).await?),
    };
    let invalid = |why: &str, remedy: &str| Problem::new(Code::RequestInvalid, what.clone(), why, remedy);
    let encrypts = new.encrypts.or(from.as_ref().map(|from| from.encrypts)).unwrap_or(true);
    let inherited = from.filter(|from| from.encrypts && encrypts);
    let row = PolicyRow {
        name: new.name,
        encrypts,
        provider: new.provider.or_else(|| inherited.as_ref().and_then(|from| from.provider.clone())),
        rotate_days: new.rotate_days.or_else(|| inherited.as_ref().and_then(|from| from.rotate_days)),
        built_in: false,
    };
    if !row.encrypts && (row.provider.is_some() || row.rotate_days.is_some()) {
        let why = "a policy that encrypts nothing needs no keys";
        return Err(invalid(why, "leave out the provider and the rotation, or make one that encrypts").into());
    }
    if row.rotate_days == Some(0) {
        return Err(invalid("0 days is no age", "give 1 day or more").into());
    }
    let mut tx = controller.store.write().await?;
    if let Some(name) = &row.provider
        && provider::get(&mut tx, name).await?.is_none()
    {
        let why = format!("there is no key provider `{name}`");
        return Err(Problem::new(Code::NotFound, what, why, "`ward provider ls` lists them").into());
    }
    match policy::add(&mut tx, &row).await {
        Err(error) if error.is_conflict() => {
            let why = "there is one of that name already";
            return Err(Problem::new(Code::Exists, what, why, "choose another name").into());
        }
        added => added?,
    }
    record(&mut tx, &granted, EventKind::PolicyCreated, &format!("storage policy `{}` made", row.name)).await?;
    tx.commit().await?;
    one(&controller, &sight, row).await
}

/// Removes a storage policy under which nothing is.
#[utoipa::path(delete, path = "/policies/{policy}", tag = "policy",
    params(("policy" = String, Path, description = "name")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn remove(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<()>> {
    let name = keys.last();
    let granted = may_change(&controller, &caller, "remove", name).await?;
    let row = load(&controller, name).await?;
    let what = format!("cannot remove storage policy `{name}`");
    if row.built_in {
        let (why, remedy) = ("it is built in", "clone it and change the copy: `ward policy clone`");
        return Err(Problem::new(Code::PolicyBuiltIn, what, why, remedy).into());
    }
    let mut tx = controller.store.write().await?;
    let assigned = policy::assigned(&mut tx, None).await?;
    let mut users = Vec::new();
    for ((id, _), _) in assigned.iter().filter(|(_, policy)| **policy == row.name) {
        users.extend(vm::get(&mut tx, *id).await?.map(|vm| vm.name.to_string()));
    }
    for task in task::open(&mut tx).await? {
        if task.work.policies().iter().any(|(_, policy)| *policy == row.name) {
            users.push(task.info.vm_name.to_string());
        }
    }
    users.sort();
    users.dedup();
    if !users.is_empty() {
        let why = format!("parts of {} are under it, or about to be", users.join(", "));
        return Err(Problem::new(Code::InUse, what, why, "put them under another one with `ward vm set-policy`").into());
    }
    policy::remove(&mut tx, &row.name).await?;
    record(&mut tx, &granted, EventKind::PolicyRemoved, &format!("storage policy `{name}` removed")).await?;
    tx.commit().await?;
    Ok(Json(()))
}

async fn record(tx: &mut Tx, granted: &Granted<ChangePolicies>, kind: EventKind, message: &str) -> Result<(), Problem> {
    let subject = EventSubject { user: Some(granted.user().clone()), ..EventSubject::default() };
    Ok(event::record(tx, kind, &subject, message).await?)
}
