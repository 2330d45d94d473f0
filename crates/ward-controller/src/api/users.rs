//! Users and groups.

use axum::extract::{Json, State};
use ward_secret::Zeroizing;
use ward_types::{Code, Name, Problem};

use super::auth::{Caller, new_hash};
use super::edge::{ApiResult, Body, Keys, not_found};
use super::page::{Listed, Page};
use super::reform::{Reform, too_much};
use super::types::{AddGroup, AddUser, GroupView, NewPassword, PageQuery, UserView};
use crate::authz::operations::{ChangeUsers, ReadUsers};
use crate::authz::{Granted, Root, grant};
use crate::controller::{Controller, Shared};
use crate::store::user::{self, GroupRow, UserRow};

async fn may_change(controller: &Controller, caller: &Caller, what: &str) -> Result<Granted<ChangeUsers>, Problem> {
    grant(controller, caller, Root, what.to_owned().into()).await
}

fn view(row: UserRow, groups: &[GroupRow]) -> UserView {
    let groups = groups.iter().filter(|group| group.members.contains(&row.name)).map(|group| group.name.clone());
    UserView { groups: groups.collect(), name: row.name, disabled: row.disabled, created: row.created }
}

async fn shown(controller: &Controller, _: &Granted<ChangeUsers>, name: &str) -> Result<UserView, Problem> {
    let mut db = controller.store.read().await?;
    let row = user::find(&mut db, name).await?.ok_or_else(|| not_found("user", name))?;
    Ok(view(row, &user::groups(&mut db).await?))
}

fn taken(what: &str) -> Problem {
    Problem::new(Code::Exists, what, "there is one of that name already", "choose another name")
}

/// Lists users.
#[utoipa::path(get, path = "/users", tag = "user", params(PageQuery),
    responses((status = 200, body = [UserView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    _: Granted<ReadUsers>,
    page: Page,
) -> ApiResult<Listed<UserView>> {
    let mut db = controller.store.read().await?;
    let groups = user::groups(&mut db).await?;
    let views = user::list(&mut db).await?.into_iter().map(|row| view(row, &groups)).collect();
    Ok(page.cut(views, |view: &UserView| view.name.to_string()))
}

/// Shows a user.
#[utoipa::path(get, path = "/users/{user}", tag = "user", params(("user" = String, Path, description = "name")),
    responses((status = 200, body = UserView), (status = "4XX", body = Problem)))]
pub(super) async fn show(
    State(controller): State<Shared>,
    _: Granted<ReadUsers>,
    keys: Keys,
) -> ApiResult<Json<UserView>> {
    let mut db = controller.store.read().await?;
    let row = user::find(&mut db, keys.last()).await?.ok_or_else(|| not_found("user", keys.last()))?;
    Ok(Json(view(row, &user::groups(&mut db).await?)))
}

/// Adds a user. It may nothing until it is given a permission.
#[utoipa::path(post, path = "/users", tag = "user", request_body = AddUser,
    responses((status = 200, body = UserView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddUser>,
) -> ApiResult<Json<UserView>> {
    let password = Zeroizing::new(new.password);
    let granted = may_change(&controller, &caller, &format!("add user `{}`", new.name)).await?;
    let what = format!("cannot add user `{}`", new.name);
    if Caller::is_scheduler(&new.name) {
        let why = "that is how the controller calls itself where it works by the clock";
        return Err(Problem::new(Code::Exists, what, why, "choose another name").into());
    }
    let hash = new_hash(&controller, &what, password).await?;
    let mut tx = controller.store.write().await?;
    match user::add(&mut tx, &new.name, &hash).await {
        Err(error) if error.is_conflict() => return Err(taken(&what).into()),
        added => added?,
    };
    tx.commit().await?;
    Ok(Json(shown(&controller, &granted, new.name.as_str()).await?))
}

/// Sets a user's password. All its sessions end.
#[utoipa::path(post, path = "/users/{user}/password", tag = "user", request_body = NewPassword,
    params(("user" = String, Path, description = "name")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn password(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(new): Body<NewPassword>,
) -> ApiResult<Json<()>> {
    let password = Zeroizing::new(new.password);
    let (granted, row) = find(&controller, &caller, "set the password of", keys.first()).await?;
    let what = format!("cannot set the password of user `{}`", row.name);
    let hash = new_hash(&controller, &what, password).await?;
    let mut reform = Reform::begin(&controller).await?;
    // Whoever knows a password can be that user.
    if let Some(excess) = reform.before().excess_of(&row.name, caller.user()) {
        drop(reform);
        return Err(too_much(&controller, &granted, &what, excess).await.into());
    }
    user::set_password(&mut reform.tx, row.id, &hash, None).await?;
    reform.finish(&controller, &granted, &what).await?;
    Ok(Json(()))
}

async fn find(
    controller: &Controller,
    caller: &Caller,
    verb: &str,
    name: &str,
) -> Result<(Granted<ChangeUsers>, UserRow), Problem> {
    let granted = may_change(controller, caller, &format!("{verb} user `{name}`")).await?;
    let row = user::find(&mut *controller.store.read().await?, name).await?;
    Ok((granted, row.ok_or_else(|| not_found("user", name))?))
}

/// Keeps a user from logging in. Its sessions end.
#[utoipa::path(post, path = "/users/{user}/disable", tag = "user",
    params(("user" = String, Path, description = "name")),
    responses((status = 200, body = UserView), (status = "4XX", body = Problem)))]
pub(super) async fn disable(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<UserView>> {
    set_disabled(&controller, &caller, keys.first(), true).await
}

/// Lets a user log in again.
#[utoipa::path(post, path = "/users/{user}/enable", tag = "user",
    params(("user" = String, Path, description = "name")),
    responses((status = 200, body = UserView), (status = "4XX", body = Problem)))]
pub(super) async fn enable(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<UserView>> {
    set_disabled(&controller, &caller, keys.first(), false).await
}

async fn set_disabled(
    controller: &Controller,
    caller: &Caller,
    name: &str,
    disabled: bool,
) -> ApiResult<Json<UserView>> {
    let verb = if disabled { "disable" } else { "enable" };
    let (granted, row) = find(controller, caller, verb, name).await?;
    let mut reform = Reform::begin(controller).await?;
    user::set_disabled(&mut reform.tx, row.id, disabled).await?;
    reform.finish(controller, &granted, &format!("cannot {verb} user `{name}`")).await?;
    Ok(Json(shown(controller, &granted, name).await?))
}

/// Removes a user with its sessions and permissions.
#[utoipa::path(delete, path = "/users/{user}", tag = "user", params(("user" = String, Path, description = "name")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn remove(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<()>> {
    let (granted, row) = find(&controller, &caller, "remove", keys.last()).await?;
    let mut reform = Reform::begin(&controller).await?;
    user::remove(&mut reform.tx, row.id).await?;
    reform.finish(&controller, &granted, &format!("cannot remove user `{}`", row.name)).await?;
    Ok(Json(()))
}

/// Lists groups.
#[utoipa::path(get, path = "/groups", tag = "group", params(PageQuery),
    responses((status = 200, body = [GroupView]), (status = "4XX", body = Problem)))]
pub(super) async fn groups(
    State(controller): State<Shared>,
    _: Granted<ReadUsers>,
    page: Page,
) -> ApiResult<Listed<GroupView>> {
    let rows = user::groups(&mut *controller.store.read().await?).await?;
    let views = rows.into_iter().map(group_view).collect();
    Ok(page.cut(views, |view: &GroupView| view.name.to_string()))
}

fn group_view(row: GroupRow) -> GroupView {
    GroupView { name: row.name, members: row.members }
}

/// Adds a group.
#[utoipa::path(post, path = "/groups", tag = "group", request_body = AddGroup,
    responses((status = 200, body = GroupView), (status = "4XX", body = Problem)))]
pub(super) async fn add_group(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddGroup>,
) -> ApiResult<Json<GroupView>> {
    may_change(&controller, &caller, &format!("add group `{}`", new.name)).await?;
    let mut tx = controller.store.write().await?;
    match user::add_group(&mut tx, &new.name).await {
        Err(error) if error.is_conflict() => {
            return Err(taken(&format!("cannot add group `{}`", new.name)).into());
        }
        added => added?,
    };
    tx.commit().await?;
    Ok(Json(GroupView { name: new.name, members: Vec::new() }))
}

/// Removes a group with its permissions. Its members stay.
#[utoipa::path(delete, path = "/groups/{group}", tag = "group", params(("group" = String, Path, description = "name")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn remove_group(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<()>> {
    let granted = may_change(&controller, &caller, &format!("remove group `{}`", keys.last())).await?;
    let mut reform = Reform::begin(&controller).await?;
    let row = user::group(&mut reform.tx, keys.last()).await?.ok_or_else(|| not_found("group", keys.last()))?;
    user::remove_group(&mut reform.tx, row.id).await?;
    reform.finish(&controller, &granted, &format!("cannot remove group `{}`", row.name)).await?;
    Ok(Json(()))
}

/// Makes a user a member of a group.
#[utoipa::path(put, path = "/groups/{group}/members/{user}", tag = "group",
    params(("group" = String, Path, description = "name"), ("user" = String, Path, description = "name")),
    responses((status = 200, body = GroupView), (status = "4XX", body = Problem)))]
pub(super) async fn join(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<GroupView>> {
    change_members(&controller, &caller, &keys, true).await
}

/// Takes a user out of a group.
#[utoipa::path(delete, path = "/groups/{group}/members/{user}", tag = "group",
    params(("group" = String, Path, description = "name"), ("user" = String, Path, description = "name")),
    responses((status = 200, body = GroupView), (status = "4XX", body = Problem)))]
pub(super) async fn leave(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<GroupView>> {
    change_members(&controller, &caller, &keys, false).await
}

async fn change_members(
    controller: &Controller,
    caller: &Caller,
    keys: &Keys,
    joins: bool,
) -> ApiResult<Json<GroupView>> {
    let (group, member) = (keys.first(), keys.last());
    let verb = if joins { format!("add user `{member}` to") } else { format!("take user `{member}` out of") };
    let granted = may_change(controller, caller, &format!("{verb} group `{group}`")).await?;
    let mut reform = Reform::begin(controller).await?;
    let row = user::group(&mut reform.tx, group).await?.ok_or_else(|| not_found("group", group))?;
    let user = user::find(&mut reform.tx, member).await?.ok_or_else(|| not_found("user", member))?;
    if joins {
        user::join(&mut reform.tx, row.id, user.id).await?;
    } else {
        user::leave(&mut reform.tx, row.id, user.id).await?;
    }
    let members = user::group(&mut reform.tx, group).await?.map_or_else(Vec::<Name>::new, |group| group.members);
    reform.finish(controller, &granted, &format!("cannot {verb} group `{group}`")).await?;
    Ok(Json(GroupView { name: row.name, members }))
}
