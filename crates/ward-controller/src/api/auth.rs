//! Who is asking. Every request but a login goes through [`authenticate`]; what it proves is a [`Caller`].

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use jiff::{Timestamp, ToSpan as _};
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};
use ward_secret::Zeroizing;
use ward_types::{
    AuditOutcome, Code, EventKind, EventSubject, Name, Object, PrivilegeSet, Problem, TaskId, TokenId, UserId,
};

use super::edge::ApiError;
use super::repeat;
use crate::controller::{Controller, Shared};
use crate::password;
use crate::store::audit::{self, Draft};
use crate::store::request::RequestKey;
use crate::store::user::UserRow;
use crate::store::{event, user};
use crate::turns::Turns;

/// How many failures in a row with a name somebody may have before it must wait.
const MAX_FAILURES: u32 = 5;
/// How long it must wait then; each further failure doubles that, so many times.
const LOCK_OUT: Duration = Duration::from_secs(30);
const LOCK_OUT_DOUBLES: u32 = 4;
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

    /// Notes the key by which a repetition of the request is known.
    pub(super) fn carry(&mut self, key: RequestKey) {
        self.request = Some(key);
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
    let caller = caller(&controller, token).await?.ok_or_else(nobody)?;
    repeat::once(&controller, caller, request, next).await
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

/// From where somebody tries to log in: the address, of IPv6 its network, for whoever has one of that has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(Option<IpAddr>);

impl Origin {
    /// From within a session, whatever the address.
    const SESSION: Self = Self(None);

    fn new(address: IpAddr) -> Self {
        Self(Some(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
        }))
    }
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Ok(address.map_or(Self(None), |address| Self::new(address.0.ip())))
    }
}

/// Keeps guessers slow, and password hashing from using all memory. Whoever guesses a name's password makes itself wait, and
/// nobody who has that name and asks from elsewhere.
pub(crate) struct Guard {
    failures: Mutex<HashMap<(String, Origin), (u32, Instant)>>,
    hashing: Semaphore,
    /// Of each origin one at a time is let to hash.
    origins: Turns<Origin>,
}

/// What lets its holder hash a password.
struct Permit<'a> {
    _hashing: SemaphorePermit<'a>,
    _turn: OwnedMutexGuard<()>,
}

impl Default for Guard {
    fn default() -> Self {
        // One hash takes 19 MiB.
        Self { failures: Mutex::default(), hashing: Semaphore::new(2), origins: Turns::default() }
    }
}

impl Guard {
    async fn permit(&self, what: &str, origin: Origin) -> Result<Permit<'_>, Problem> {
        let turn = self.origins.take(origin).await;
        let hashing = self.hashing.acquire().await.map_err(|error| Problem::internal(what, error))?;
        Ok(Permit { _hashing: hashing, _turn: turn })
    }

    /// How long whoever gives a name must still wait.
    fn waits(&self, name: &str, origin: Origin) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (times, last) = failures.get(&(name.to_owned(), origin))?;
        let more = times.checked_sub(MAX_FAILURES)?;
        (LOCK_OUT * (1 << more.min(LOCK_OUT_DOUBLES))).checked_sub(last.elapsed())
    }

    fn failed(&self, name: &str, origin: Origin) {
        // Nobody can have that name, so nobody needs to be kept from it; and it may be of any length.
        if name.parse::<Name>().is_err() {
            return;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (_, last)| last.elapsed() < LOCK_OUT * (2 << LOCK_OUT_DOUBLES));
        let key = (name.to_owned(), origin);
        if failures.len() < MAX_NAMES || failures.contains_key(&key) {
            let entry = failures.entry(key).or_insert((0, Instant::now()));
            *entry = (entry.0.saturating_add(1), Instant::now());
        }
    }

    fn succeeded(&self, name: &str, origin: Origin) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&(name.to_owned(), origin));
    }
}

/// Begins a session for a user who knows the password: its token, and until when it is good.
pub(crate) async fn log_in(
    controller: &Arc<Controller>,
    name: &str,
    password: Zeroizing<String>,
    origin: Origin,
) -> Result<(Zeroizing<String>, Timestamp), Problem> {
    let what = "cannot log in";
    let guard = &controller.guard;
    let permit = guard.permit(what, origin).await?;
    // Asked by whoever holds a permit: else those who wait for one would all have been let past.
    if let Some(wait) = guard.waits(name, origin) {
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
        guard.failed(name, origin);
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
    guard.succeeded(name, origin);
    drop(permit);
    let token = password::random_secret().map_err(|error| Problem::internal(what, error))?;
    let expires =
        Timestamp::now().checked_add(SESSION_HOURS.hours()).map_err(|error| Problem::internal(what, error))?;
    let mut tx = controller.store.write().await?;
    if !user::begin_session(&mut tx, &user, &password::digest_secret(&token), expires.as_microsecond()).await? {
        let why = "the password was changed, or the user disabled, in this moment";
        return Err(Problem::new(Code::AuthDenied, what, why, "log in again"));
    }
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
    let permit = guard.permit(what, Origin::SESSION).await?;
    if let Some(wait) = guard.waits(name, Origin::SESSION) {
        return Err(throttled(what, wait));
    }
    let known = user.password_hash.clone();
    let good = tokio::task::spawn_blocking(move || password::verify(&current, &known))
        .await
        .map_err(|error| Problem::internal(what, error))?;
    if !good {
        guard.failed(name, Origin::SESSION);
        drop(permit);
        note(controller, &user, OPERATION, AuditOutcome::Refused, "the current password was wrong").await?;
        return Err(Problem::new(Code::AuthDenied, what, "the current password is wrong", "try again"));
    }
    guard.succeeded(name, Origin::SESSION);
    note(controller, &user, OPERATION, AuditOutcome::Granted, "").await?;
    let mut tx = controller.store.write().await?;
    if user::find(&mut tx, name).await?.is_none_or(|now| now.password_hash != user.password_hash) {
        let why = "somebody else has changed it in this moment";
        return Err(Problem::new(Code::AuthDenied, what, why, "log in again"));
    }
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
    let permit = controller.guard.permit(what, Origin::SESSION).await?;
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
        let origin = |text: &str| text.parse().map(Origin::new).unwrap_or(Origin::SESSION);
        let (here, there) = (origin("192.0.2.1"), origin("192.0.2.2"));
        for _ in 0..MAX_FAILURES {
            assert_eq!(guard.waits("a", here), None);
            guard.failed("a", here);
        }
        let first = guard.waits("a", here);
        assert!(first.is_some_and(|wait| wait <= LOCK_OUT));
        assert_eq!(guard.waits("b", here), None);
        assert_eq!(guard.waits("a", there), None, "who has the name and asks from elsewhere");
        guard.failed("a", here);
        assert!(guard.waits("a", here).is_some_and(|wait| wait > LOCK_OUT));
        for _ in 0..100 {
            guard.failed("a", here);
        }
        assert!(guard.waits("a", here).is_some_and(|wait| wait <= LOCK_OUT * 16));
        guard.succeeded("a", here);
        assert_eq!(guard.waits("a", here), None);
        // Whoever has an address of an IPv6 network has all of it.
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::2"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), here);
    }
}
