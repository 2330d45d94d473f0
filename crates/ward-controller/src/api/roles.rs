//! Roles, and the permissions that give them.

use axum::extract::{Json, State};
use ward_types::{Code, Privilege, PrivilegeSet, Problem, Role, RoleKind, Subject};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, not_found};
use super::page::{Listed, Page};
use super::reform::Reform;
use super::types::{AddPermission, AddRole, PageQuery, PermissionView, PrivilegeView, SetRole};
use crate::authz::operations::{ChangePermissions, ChangeRoles};
use crate::authz::{Granted, Place, Root, Sight, Target as _, grant, grant_named};
use crate::controller::{Controller, Shared};
use crate::store::permission::{self, PermissionRow, SubjectId};
use crate::store::user;

/// Lists all privileges, with what each allows.
#[utoipa::path(get, path = "/privileges", tag = "role", params(PageQuery),
    responses((status = 200, body = [PrivilegeView]), (status = "4XX", body = Problem)))]
pub(super) async fn privileges(_: Caller, page: Page) -> Listed<PrivilegeView> {
    let view = |&name: &Privilege| PrivilegeView { name, allows: name.allows().to_owned() };
    page.cut(Privilege::ALL.iter().map(view).collect(), |view: &PrivilegeView| view.name.to_string())
}

/// Lists roles.
#[utoipa::path(get, path = "/roles", tag = "role", params(PageQuery),
    responses((status = 200, body = [Role]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(controller): State<Shared>, _: Caller, page: Page) -> ApiResult<Listed<Role>> {
    let roles = permission::roles(&mut *controller.store.read().await?).await?;
    Ok(page.cut(roles, |role: &Role| role.name.to_string()))
}

async fn may_change(
    controller: &Controller,
    caller: &Caller,
    verb: &str,
    name: &str,
    privileges: PrivilegeSet,
) -> Result<Granted<ChangeRoles>, Problem> {
    let with = if privileges.is_empty() { String::new() } else { format!(": {privileges}") };
    grant(controller, caller, Root, format!("{verb} role `{name}`{with}").into()).await
}

/// Adds a role.
#[utoipa::path(post, path = "/roles", tag = "role", request_body = AddRole,
    responses((status = 200, body = Role), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddRole>,
) -> ApiResult<Json<Role>> {
    may_change(&controller, &caller, "add", new.name.as_str(), new.privileges).await?;
    let mut tx = controller.store.write().await?;
    if permission::roles(&mut tx).await?.iter().any(|role| role.name == new.name) {
        let what = format!("cannot add role `{}`", new.name);
        let why = "there is one of that name already";
        return Err(Problem::new(Code::Exists, what, why, "choose another name, or change that one").into());
    }
    permission::add_role(&mut tx, &new.name, new.privileges).await?;
    tx.commit().await?;
    Ok(Json(Role { name: new.name, kind: RoleKind::Custom, privileges: new.privileges }))
}

/// A change of a role that users made.
async fn custom(reform: &mut Reform, what: &str, name: &str) -> Result<Role, Problem> {
    let roles = permission::roles(&mut reform.tx).await?;
    let role = roles.into_iter().find(|role| role.name.as_str() == name).ok_or_else(|| not_found("role", name))?;
    match role.kind {
        RoleKind::Custom => Ok(role),
        RoleKind::BuiltIn => Err(Problem::new(
            Code::RoleBuiltIn,
            what,
            "it is part of Ward",
            "make a role of your own with `ward role add`",
        )),
    }
}

/// Changes what a role allows, for all who have it.
#[utoipa::path(put, path = "/roles/{role}", tag = "role", request_body = SetRole,
    params(("role" = String, Path, description = "name")),
    responses((status = 200, body = Role), (status = "4XX", body = Problem)))]
pub(super) async fn set(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(new): Body<SetRole>,
) -> ApiResult<Json<Role>> {
    let granted = may_change(&controller, &caller, "change", keys.last(), new.privileges).await?;
    let what = format!("cannot change role `{}`", keys.last());
    let mut reform = Reform::begin(&controller).await?;
    let role = custom(&mut reform, &what, keys.last()).await?;
    permission::set_role(&mut reform.tx, &role.name, new.privileges).await?;
    reform.finish(&controller, &granted, &what).await?;
    Ok(Json(Role { privileges: new.privileges, ..role }))
}

/// Removes a role that nobody has.
#[utoipa::path(delete, path = "/roles/{role}", tag = "role", params(("role" = String, Path, description = "name")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn remove(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<()>> {
    let granted = may_change(&controller, &caller, "remove", keys.last(), PrivilegeSet::NONE).await?;
    let what = format!("cannot remove role `{}`", keys.last());
    let mut reform = Reform::begin(&controller).await?;
    let role = custom(&mut reform, &what, keys.last()).await?;
    if let Some(given) = reform.before().given.iter().find(|given| given.role == role.name) {
        let why = format!("{} has it on {}", given.subject, given.object);
        return Err(Problem::new(Code::InUse, what, why, "take it away first; `ward permission ls` tells where").into());
    }
    permission::remove_role(&mut reform.tx, &role.name).await?;
    reform.finish(&controller, &granted, &what).await?;
    Ok(Json(()))
}

/// Lists permissions: the caller's own, and those on objects whose permissions it may manage.
#[utoipa::path(get, path = "/permissions", tag = "permission", params(PageQuery),
    responses((status = 200, body = [PermissionView]), (status = "4XX", body = Problem)))]
pub(super) async fn permissions(
    State(controller): State<Shared>,
    sight: Sight,
    page: Page,
) -> ApiResult<Listed<PermissionView>> {
    let mut db = controller.store.read().await?;
    let policy = permission::policy(&mut db).await?;
    let user = sight.caller().user();
    let mut views = Vec::new();
    for PermissionRow { id, given } in permission::list(&mut db).await? {
        let own = match &given.subject {
            Subject::User(name) => name == user,
            Subject::Group(name) => policy.groups.get(name).is_some_and(|members| members.contains(user)),
        };
        let Some(place) = Place::find(&mut db, &given.object.to_string()).await? else { continue };
        if own || sight.has(Privilege::PermissionManage, &place.path()) {
            let (subject, role, propagates) = (given.subject, given.role, given.propagates);
            views.push(PermissionView { id, subject, object: place.text(), role, propagates });
        }
    }
    Ok(page.cut(views, |view: &PermissionView| view.id.to_string()))
}

/// Gives a user or group a role on an object, in place of the one that it had there.
#[utoipa::path(post, path = "/permissions", tag = "permission", request_body = AddPermission,
    responses((status = 200, body = PermissionView), (status = "4XX", body = Problem)))]
pub(super) async fn give(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddPermission>,
) -> ApiResult<Json<PermissionView>> {
    let AddPermission { subject, object, role, propagates } = new;
    let how = if propagates { "with all that is in it" } else { "alone" };
    let note = format!("give {subject} role `{role}` on `{object}` {how}");
    let granted: Granted<ChangePermissions> = grant_named(&controller, &caller, &object, note.into()).await?;
    let what = format!("cannot give {subject} role `{role}` on `{object}`");
    let mut reform = Reform::begin(&controller).await?;
    if !reform.before().roles.contains_key(&role) {
        return Err(not_found("role", role.as_str()).into());
    }
    let id = match &subject {
        Subject::User(name) => {
            let row = user::find(&mut reform.tx, name.as_str()).await?;
            SubjectId::User(row.ok_or_else(|| not_found("user", name.as_str()))?.id)
        }
        Subject::Group(name) => {
            let row = user::group(&mut reform.tx, name.as_str()).await?;
            SubjectId::Group(row.ok_or_else(|| not_found("group", name.as_str()))?.id)
        }
    };
    let id = permission::give(&mut reform.tx, id, &granted.on().object(), &role, propagates).await?;
    reform.finish(&controller, &granted, &what).await?;
    Ok(Json(PermissionView { id, subject, object: granted.on().text(), role, propagates }))
}

/// Takes a permission away.
#[utoipa::path(delete, path = "/permissions/{permission}", tag = "permission",
    params(("permission" = String, Path, description = "ID")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn take(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<()>> {
    let missing = || not_found("permission", keys.last());
    let rows = permission::list(&mut *controller.store.read().await?).await?;
    let row = rows.into_iter().find(|row| row.id.to_string() == keys.last()).ok_or_else(missing)?;
    let given = row.given;
    let note = format!("take role `{}` on {} from {}", given.role, given.object, given.subject);
    let granted = grant_named::<ChangePermissions>(&controller, &caller, &given.object.to_string(), note.into()).await;
    let granted = granted.map_err(|problem| if problem.code == Code::NotFound { missing() } else { problem })?;
    let what = format!("cannot take role `{}` from {}", given.role, given.subject);
    let mut reform = Reform::begin(&controller).await?;
    permission::remove(&mut reform.tx, row.id).await?;
    reform.finish(&controller, &granted, &what).await?;
    Ok(Json(()))
}
