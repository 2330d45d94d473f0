//! Who is asking. Every request but a login goes through [`authenticate`]; what it proves is a [`Caller`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use jiff::{Timestamp, ToSpan as _};
use tokio::sync::Semaphore;
use ward_secret::Zeroizing;
use ward_types::{
    AuditOutcome, Code, EventKind, EventSubject, Name, Object, PrivilegeSet, Problem, TaskId, TokenId, UserId,
};

use super::edge::ApiError;
use super::repeat::{self, Examined};
use super::tasks::task_view;
use crate::controller::{Controller, Shared};
use crate::password;
use crate::store::audit::{self, Draft};
use crate::store::request::RequestKey;
use crate::store::user::UserRow;
use crate::store::{event, user};

/// How many failures in a row a name may have before it must wait.
const MAX_FAILURES: u32 = 5;
/// How long it must wait.
const LOCK_OUT: Duration = Duration::from_secs(30);
/// How many names are remembered.
const MAX_NAMES: usize = 10_000;
/// How many characters a password has.
const MIN_PASSWORD: usize = 8;
const MAX_PASSWORD: usize = 256;
/// How long a session is good.
const SESSION_HOURS: i64 = 24;
/// The cookie of the console.
pub(crate) const COOKIE_NAME: &str = "ward_session";

/// As whom the controller does what it does by the clock. No user may have the name.
const SCHEDULER: &str = "scheduler";

/// A user who has proved who it is. Only this module makes one: from a session that is good, or for work that goes on
/// which such a one began.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    id: UserId,
    user: Name,
    session: TokenId,
    request: Option<RequestKey>,
    /// The task that the request begins, if it begins one: the audit log tells of it before there is one.
    task: TaskId,
}

impl Caller {
    /// The user who began work that goes on without it.
    ///
    /// # Errors
    /// Where it may not log in any more.
    pub(crate) async fn who_began(controller: &Controller, what: &str, name: &Name) -> Result<Self, Problem> {
        let row = user::find(&mut *controller.store.read().await?, name.as_str()).await?;
        match row.filter(|row| !row.disabled) {
            Some(row) => {
                Ok(Self { id: row.id, user: row.name, session: TokenId::new(), request: None, task: TaskId::new() })
            }
            None => Err(Problem::new(
                Code::AuthDenied,
                what,
                format!("user `{name}`, who began it, is removed or disabled"),
                "begin it again as somebody else",
            )),
        }
    }

    /// The controller itself, where it works by the clock.
    pub(crate) fn scheduler() -> Result<Self, Problem> {
        let user = SCHEDULER.parse().map_err(|error| Problem::internal("cannot work by the clock", error))?;
        Ok(Self { id: UserId::new(), user, session: TokenId::new(), request: None, task: TaskId::new() })
    }

    /// Whether a name is that of the controller itself.
    pub(crate) fn is_scheduler(name: &Name) -> bool {
        name.as_str() == SCHEDULER
    }

    pub(crate) const fn id(&self) -> UserId {
        self.id
    }

    pub(crate) const fn user(&self) -> &Name {
        &self.user
    }

    pub(crate) const fn session(&self) -> TokenId {
        self.session
    }

    /// The ID of the task that the request begins, if it begins one.
    pub(crate) const fn task(&self) -> TaskId {
        self.task
    }

    /// The key by which a repetition of the request is known.
    pub(crate) const fn request(&self) -> Option<&RequestKey> {
        self.request.as_ref()
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError(nobody()))
    }
}

fn nobody() -> Problem {
    Problem::new(
        Code::AuthRequired,
        "cannot tell who is asking",
        "the request has no token, or one that is wrong or has expired",
        "log in with `ward login`",
    )
}

fn throttled(what: &str, wait: Duration) -> Problem {
    Problem::new(
        Code::AuthThrottled,
        what,
        format!("there were {MAX_FAILURES} failures in a row"),
        format!("wait {} seconds, then try again", wait.as_secs() + 1),
    )
}

/// Lets a request pass whose token is good, and says whose it is.
pub(crate) async fn authenticate(
    State(controller): State<Shared>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(nobody)?;
    let mut caller = caller(&controller, token).await?.ok_or_else(nobody)?;
    let mut request = match repeat::examine(&controller, &caller, request).await? {
        Examined::New(request, key) => {
            caller.request = key;
            request
        }
        Examined::Repeated(task) => return Ok(task_view(&controller, task).into_response()),
    };
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Who a token stands for.
pub(crate) async fn caller(controller: &Controller, token: &str) -> Result<Option<Caller>, Problem> {
    let mut db = controller.store.read().await?;
    let session = user::session(&mut db, &password::digest_secret(token)).await?;
    Ok(session.map(|row| Caller {
        id: row.user_id,
        user: row.user,
        session: row.id,
        request: None,
        task: TaskId::new(),
    }))
}

/// Who the console's cookie stands for.
pub(crate) async fn caller_by_cookie(
    controller: &Controller,
    headers: &http::HeaderMap,
) -> Result<Option<Caller>, Problem> {
    let cookies = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let token = cookies
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='));
    match token {
        Some(token) => caller(controller, token).await,
        None => Ok(None),
    }
}

/// Keeps guessers slow, and password hashing from using all memory.
pub(crate) struct Guard {
    failures: Mutex<HashMap<String, (u32, Instant)>>,
    hashing: Semaphore,
}

impl Default for Guard {
    fn default() -> Self {
        // One hash takes 19 MiB.
        Self { failures: Mutex::default(), hashing: Semaphore::new(2) }
    }
}

impl Guard {
    /// How long a name must still wait.
    fn waits(&self, name: &str) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (times, last) = failures.get(name)?;
        (*times >= MAX_FAILURES).then(|| LOCK_OUT.checked_sub(last.elapsed())).flatten()
    }

    fn failed(&self, name: &str) {
        // Nobody can have that name, so nobody needs to be kept from it; and it may be of any length.
        if name.parse::<Name>().is_err() {
            return;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (_, last)| last.elapsed() < LOCK_OUT * 4);
        if failures.len() < MAX_NAMES || failures.contains_key(name) {
            let entry = failures.entry(name.to_owned()).or_insert((0, Instant::now()));
            *entry = (entry.0 + 1, Instant::now());
        }
    }

    fn succeeded(&self, name: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Begins a session for a user who knows the password: its token, and until when it is good.
pub(crate) async fn log_in(
    controller: &Arc<Controller>,
    name: &str,
    password: Zeroizing<String>,
) -> Result<(Zeroizing<String>, Timestamp), Problem> {
    let what = "cannot log in";
    let guard = &controller.guard;
    let permit = guard.hashing.acquire().await.map_err(|error| Problem::internal(what, error))?;
    // Asked by whoever holds a permit: else those who wait for one would all have been let past.
    if let Some(wait) = guard.waits(name) {
        return Err(throttled(what, wait));
    }
    // What can't be a name is nobody's.
    let found = match name.parse::<Name>() {
        Ok(name) => user::find(&mut *controller.store.read().await?, name.as_str()).await?,
        Err(_) => None,
    };
    let known = found.clone();
    let good = tokio::task::spawn_blocking(move || match known {
        Some(user) => password::verify(&password, &user.password_hash),
        // Takes as long as for a user who exists.
        None => {
            let _ = password::hash(&password);
            false
        }
    })
    .await
    .map_err(|error| Problem::internal(what, error))?;
    if let Some(user) = &found {
        let outcome = if good && !user.disabled { AuditOutcome::Granted } else { AuditOutcome::Refused };
        let detail = if good && user.disabled { "the user is disabled" } else { "" };
        note(controller, user, "session.begin", outcome, detail).await?;
    }
    if good && found.as_ref().is_some_and(|user| user.disabled) {
        let why = format!("user `{name}` is disabled");
        return Err(Problem::new(Code::AuthDenied, what, why, "ask an administrator: `ward user enable` lifts that"));
    }
    let Some(user) = found.filter(|_| good) else {
        guard.failed(name);
        drop(permit);
        let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        let message = format!("somebody failed to log in as `{shown}`");
        let subject = EventSubject { user: shown.parse().ok(), ..EventSubject::default() };
        controller.record(EventKind::UserLoginFailed, &subject, &message).await;
        return Err(Problem::new(
            Code::AuthDenied,
            what,
            "there is no such user, or the password is wrong",
            "check both; the first user is `admin`, its password lies in `admin-password` in the state directory",
        ));
    };
    guard.succeeded(name);
    drop(permit);
    let token = password::random_secret().map_err(|error| Problem::internal(what, error))?;
    let expires =
        Timestamp::now().checked_add(SESSION_HOURS.hours()).map_err(|error| Problem::internal(what, error))?;
    let mut tx = controller.store.write().await?;
    user::add_session(&mut tx, user.id, &password::digest_secret(&token), expires.as_microsecond()).await?;
    let subject = EventSubject { user: Some(user.name.clone()), ..EventSubject::default() };
    event::record(&mut tx, EventKind::UserLogin, &subject, &format!("user `{}` logged in", user.name)).await?;
    tx.commit().await?;
    Ok((token, expires))
}

/// Writes to the audit log what a user did about its own sessions and password.
async fn note(
    controller: &Controller,
    user: &UserRow,
    operation: &'static str,
    outcome: AuditOutcome,
    detail: &str,
) -> Result<(), Problem> {
    let mut tx = controller.store.write().await?;
    let draft = Draft {
        user: user.name.as_str(),
        operation,
        outcome,
        object: Object::Root,
        object_name: "root".to_owned(),
        privileges: PrivilegeSet::NONE,
        keys: Vec::new(),
        task: None,
        detail: detail.to_owned(),
    };
    audit::record(&mut tx, draft).await?;
    tx.commit().await?;
    Ok(())
}

/// Changes the caller's own password, which it must know. Its other sessions end.
pub(crate) async fn change_password(
    controller: &Controller,
    caller: &Caller,
    current: Zeroizing<String>,
    new: Zeroizing<String>,
) -> Result<(), Problem> {
    const OPERATION: &str = "session.password";
    let what = "cannot change the password";
    let guard = &controller.guard;
    let name = caller.user().as_str();
    let user = user::find(&mut *controller.store.read().await?, name).await?.ok_or_else(nobody)?;
    let hash = new_hash(controller, what, new).await?;
    let permit = guard.hashing.acquire().await.map_err(|error| Problem::internal(what, error))?;
    if let Some(wait) = guard.waits(name) {
        return Err(throttled(what, wait));
    }
    let known = user.password_hash.clone();
    let good = tokio::task::spawn_blocking(move || password::verify(&current, &known))
        .await
        .map_err(|error| Problem::internal(what, error))?;
    if !good {
        guard.failed(name);
        drop(permit);
        note(controller, &user, OPERATION, AuditOutcome::Refused, "the current password was wrong").await?;
        return Err(Problem::new(Code::AuthDenied, what, "the current password is wrong", "try again"));
    }
    guard.succeeded(name);
    note(controller, &user, OPERATION, AuditOutcome::Granted, "").await?;
    let mut tx = controller.store.write().await?;
    user::set_password(&mut tx, user.id, &hash, Some(caller.session())).await?;
    tx.commit().await?;
    Ok(())
}

/// The hash of a password that is to be somebody's.
pub(crate) async fn new_hash(
    controller: &Controller,
    what: &str,
    password: Zeroizing<String>,
) -> Result<String, Problem> {
    if !(MIN_PASSWORD..=MAX_PASSWORD).contains(&password.chars().count()) {
        let why = format!("a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters");
        return Err(Problem::new(Code::RequestInvalid, what, why, "choose another; several words make a good one"));
    }
    let permit = controller.guard.hashing.acquire().await.map_err(|error| Problem::internal(what, error))?;
    let hash = tokio::task::spawn_blocking(move || password::hash(&password)).await;
    drop(permit);
    hash.map_err(|error| Problem::internal(what, error))?.map_err(|error| Problem::internal(what, error))
}

/// Ends the caller's session.
pub(crate) async fn log_out(controller: &Controller, caller: &Caller) -> Result<(), Problem> {
    let mut tx = controller.store.write().await?;
    user::end_session(&mut tx, caller.session).await?;
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guesser_must_wait_and_others_need_not() {
        let guard = Guard::default();
        for _ in 0..MAX_FAILURES {
            assert_eq!(guard.waits("a"), None);
            guard.failed("a");
        }
        assert!(guard.waits("a").is_some());
        assert_eq!(guard.waits("b"), None);
        guard.succeeded("a");
        assert_eq!(guard.waits("a"), None);
    }
}
