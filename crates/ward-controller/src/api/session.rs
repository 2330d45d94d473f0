//! Logging in and out, the user's own password, sessions.

use axum::extract::{Json, State};
use ward_secret::Zeroizing;
use ward_types::{Privilege, Problem};

use super::auth::{Caller, Origin, change_password, log_in, log_out};
use super::edge::{ApiResult, Body, Keys, not_found};
use super::page::{Listed, Page};
use super::types::{Allowed, AllowedQuery, ChangePassword, Login, PageQuery, Session, SessionView, WhoAmI};
use crate::api::edge::Params;
use crate::authz::operations::ChangeUsers;
use crate::authz::{Note, Place, Root, Sight, Target as _, grant, named};
use crate::controller::Shared;
use crate::store::user::{self, SessionRow};

/// Begins a session. The only call that needs none.
#[utoipa::path(post, path = "/session", tag = "session", security(()), request_body = Login,
    responses((status = 200, body = Session), (status = "4XX", body = Problem)))]
pub(super) async fn begin(
    State(controller): State<Shared>,
    origin: Origin,
    Body(login): Body<Login>,
) -> ApiResult<Json<Session>> {
    let password = Zeroizing::new(login.password);
    let (token, expires) = log_in(&controller, &login.user, password, origin).await?;
    Ok(Json(Session { token: token.to_string(), expires }))
}

/// Tells who is asking.
#[utoipa::path(get, path = "/session", tag = "session",
    responses((status = 200, body = WhoAmI), (status = "4XX", body = Problem)))]
pub(super) async fn show(caller: Caller) -> Json<WhoAmI> {
    Json(WhoAmI { user: caller.user().clone(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Ends the session.
#[utoipa::path(delete, path = "/session", tag = "session",
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn end(State(controller): State<Shared>, caller: Caller) -> ApiResult<Json<()>> {
    log_out(&controller, &caller).await?;
    Ok(Json(()))
}

/// Tells what the caller may do on an object.
#[utoipa::path(get, path = "/session/privileges", tag = "session", params(AllowedQuery),
    responses((status = 200, body = Allowed), (status = "4XX", body = Problem)))]
pub(super) async fn privileges(
    State(controller): State<Shared>,
    sight: Sight,
    Params(query): Params<AllowedQuery>,
) -> ApiResult<Json<Allowed>> {
    let place: Place = named(&controller, &query.object).await?;
    let privileges = sight.privileges(&place.path());
    if privileges.is_empty() && place.path().len() > 1 {
        return Err(not_found(Place::NOUN, &query.object).into());
    }
    Ok(Json(Allowed { object: place.text(), privileges }))
}

/// Changes the caller's own password. Its other sessions end.
#[utoipa::path(post, path = "/session/password", tag = "session", request_body = ChangePassword,
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn password(
    State(controller): State<Shared>,
    caller: Caller,
    Body(change): Body<ChangePassword>,
) -> ApiResult<Json<()>> {
    let (current, new) = (Zeroizing::new(change.current), Zeroizing::new(change.new));
    change_password(&controller, &caller, current, new).await?;
    Ok(Json(()))
}

/// Lists sessions: the caller's own, and everybody's for who manages users.
#[utoipa::path(get, path = "/sessions", tag = "session", params(PageQuery),
    responses((status = 200, body = [SessionView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(controller): State<Shared>, sight: Sight, page: Page) -> ApiResult<Listed<SessionView>> {
    let caller = sight.caller();
    let all = sight.has_at_root(Privilege::UserManage);
    let rows = user::sessions(&mut *controller.store.read().await?).await?;
    let view = |row: SessionRow| SessionView {
        id: row.id,
        current: row.id == caller.session(),
        user: row.user,
        created: row.created,
        expires: row.expires,
    };
    let views = rows.into_iter().filter(|row| all || row.user_id == caller.id()).map(view).collect();
    Ok(page.cut(views, |view: &SessionView| view.id.to_string()))
}

/// Ends a session: one of the caller's own, or anybody's for who manages users.
#[utoipa::path(delete, path = "/sessions/{session}", tag = "session",
    params(("session" = String, Path, description = "ID")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn revoke(State(controller): State<Shared>, sight: Sight, keys: Keys) -> ApiResult<Json<()>> {
    let caller = sight.caller();
    let rows = user::sessions(&mut *controller.store.read().await?).await?;
    let found = rows.into_iter().find(|row| row.id.to_string() == keys.last());
    let row = found.ok_or_else(|| not_found("session", keys.last()))?;
    if row.user_id != caller.id() {
        if !sight.has_at_root(Privilege::UserManage) {
            return Err(not_found("session", keys.last()).into());
        }
        let note = Note::from(format!("ended session {} of user `{}`", row.id, row.user));
        grant::<ChangeUsers>(&controller, caller, Root, note).await?;
    }
    let mut tx = controller.store.write().await?;
    user::end_session(&mut tx, row.id).await?;
    tx.commit().await?;
    Ok(Json(()))
}
