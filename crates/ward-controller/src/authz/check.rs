//! The one place where it is decided whether somebody may do something, and where that is written down.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use http::request::Parts;
use ward_types::{AuditOutcome, Code, KeyRef, Name, Object, PrivilegeSet, Problem, TokenId};

use super::decide::privileges_on;
use super::operations::Operation;
use super::target::{Root, Target, named};
use crate::api::auth::Caller;
use crate::api::edge::{ApiError, Keys, not_found};
use crate::controller::{Controller, Shared};
use crate::store::audit::{self, Draft};
use crate::store::permission;

/// For how long repeated reading is one entry of the audit log.
const ONE_READING: Duration = Duration::from_secs(3600);

/// The proof that somebody may do an operation on an object. Only this module makes one.
pub(crate) struct Granted<O: Operation> {
    caller: Caller,
    on: O::On,
    operation: PhantomData<O>,
}

impl<O: Operation> Granted<O> {
    /// Who may.
    pub(crate) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The user's name.
    pub(crate) const fn user(&self) -> &Name {
        self.caller.user()
    }

    /// On what.
    pub(crate) const fn on(&self) -> &O::On {
        &self.on
    }
}

/// What the audit log is to hold besides what follows from the operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Note {
    pub(crate) detail: String,
    pub(crate) keys: Vec<KeyRef>,
}

impl From<String> for Note {
    fn from(detail: String) -> Self {
        Self { detail, keys: Vec::new() }
    }
}

/// Which readings are in the audit log already.
#[derive(Default)]
pub(crate) struct Recent(Mutex<HashMap<(TokenId, &'static str, Object), Instant>>);

impl Recent {
    /// Whether it is the first in a long time; from now on it is not.
    fn is_first(&self, session: TokenId, operation: &'static str, object: Object) -> bool {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, since| since.elapsed() < ONE_READING);
        let mut first = false;
        recent.entry((session, operation, object)).or_insert_with(|| {
            first = true;
            Instant::now()
        });
        first
    }
}

/// Decides whether the caller may do the operation on the object. What changes anything or takes a cryptographic
/// privilege is written to the audit log first, reading once an hour; where that can't be, it is refused.
pub(crate) async fn grant<O: Operation>(
    controller: &Controller,
    caller: &Caller,
    on: O::On,
    note: Note,
) -> Result<Granted<O>, Problem> {
    let have = privileges_of(controller, caller, &on).await?;
    let needs = needs::<O>(&on);
    let lacks = needs.without(have);
    let allowed = lacks.is_empty();
    let audited = if allowed {
        O::CHANGES || needs.has_crypto() && controller.recent.is_first(caller.session(), O::NAME, on.object())
    } else {
        O::CHANGES || needs.has_crypto()
    };
    if audited {
        let outcome = if allowed { AuditOutcome::Granted } else { AuditOutcome::Refused };
        record::<O>(controller, caller, &on, outcome, note).await?;
    }
    if allowed {
        return Ok(Granted { caller: caller.clone(), on, operation: PhantomData });
    }
    Err(refusal::<O>(caller, &on, have, lacks))
}

async fn privileges_of<T: Target>(controller: &Controller, caller: &Caller, on: &T) -> Result<PrivilegeSet, Problem> {
    let grants = permission::grants_of(&mut *controller.store.read().await?, caller.id()).await?;
    let have = on.paths().iter().map(|path| privileges_on(&grants, path)).reduce(PrivilegeSet::intersection);
    Ok(have.unwrap_or(PrivilegeSet::NONE))
}

/// As [`grant`], for what is done on the way of something else where it may be: that it may not is no refusal.
pub(crate) async fn grant_if_allowed<O: Operation>(
    controller: &Controller,
    caller: &Caller,
    on: O::On,
    note: Note,
) -> Result<Option<Granted<O>>, Problem> {
    match allows::<O>(controller, caller, &on).await? {
        true => grant(controller, caller, on, note).await.map(Some),
        false => Ok(None),
    }
}

/// Whether somebody might do that. It is no grant: nothing is done upon it, some of an answer is left out.
pub(crate) async fn allows<O: Operation>(
    controller: &Controller,
    caller: &Caller,
    on: &O::On,
) -> Result<bool, Problem> {
    Ok(needs::<O>(on).without(privileges_of(controller, caller, on).await?).is_empty())
}

fn needs<O: Operation>(on: &O::On) -> PrivilegeSet {
    if on.keys().is_empty() { O::NEEDS } else { O::NEEDS.union(O::NEEDS_IF_ENCRYPTED) }
}

async fn record<O: Operation>(
    controller: &Controller,
    caller: &Caller,
    on: &O::On,
    outcome: AuditOutcome,
    note: Note,
) -> Result<(), Problem> {
    let mut keys = on.keys();
    keys.extend(note.keys);
    keys.dedup();
    let mut tx = controller.store.write().await?;
    let draft = Draft {
        user: caller.user().as_str(),
        operation: O::NAME,
        outcome,
        object: on.object(),
        object_name: on.name(),
        privileges: needs::<O>(on),
        keys,
        task: (O::BEGINS && outcome == AuditOutcome::Granted).then(|| caller.task()),
        detail: note.detail,
    };
    audit::record(&mut tx, draft).await?;
    Ok(tx.commit().await?)
}

/// The proof for what the controller does by the clock: whoever set the rule was allowed to.
pub(crate) async fn grant_to_schedule<O: Operation>(
    controller: &Controller,
    on: O::On,
    note: Note,
) -> Result<Granted<O>, Problem> {
    let caller = Caller::scheduler()?;
    record::<O>(controller, &caller, &on, AuditOutcome::Granted, note).await?;
    Ok(Granted { caller, on, operation: PhantomData })
}

/// As [`grant`], for the object with that name or ID.
pub(crate) async fn grant_named<O: Operation>(
    controller: &Controller,
    caller: &Caller,
    key: &str,
    note: Note,
) -> Result<Granted<O>, Problem> {
    let on = named(controller, key).await?;
    grant(controller, caller, on, note).await
}

fn refusal<O: Operation>(caller: &Caller, on: &O::On, have: PrivilegeSet, lacks: PrivilegeSet) -> Problem {
    if !on.is_known() && !have.contains(O::On::SEEN_BY) {
        // Word for word as where there is none.
        return not_found(O::On::NOUN, &on.name());
    }
    let what = if O::On::NOUN == Root::NOUN {
        format!("cannot {}", O::VERB)
    } else {
        format!("cannot {} {}", O::VERB, on.label())
    };
    let plural = if lacks.iter().count() == 1 { "privilege" } else { "privileges" };
    Problem::new(
        Code::AuthDenied,
        what,
        format!("user `{}` lacks the {plural} {lacks} on {}", caller.user(), on.label()),
        "ask an administrator for a role that has it; `ward permission ls` shows what you were given",
    )
}

/// In a handler's signature it is the check: of the object that the path names.
impl<O: Operation> FromRequestParts<Shared> for Granted<O> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, controller: &Shared) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, controller).await?;
        let key = Keys::named(parts, controller, O::On::NOUN).await?;
        Ok(grant_named(controller, &caller, &key, Note::default()).await?)
    }
}
