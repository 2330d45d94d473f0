//! Making a KEK: asked for once, found again where the answer got lost.

use kmip::attribute::{Attribute, AttributeName};
use kmip::client::{Filter, Replicas};
use kmip::names::State;
use uuid::Uuid;
use ward_types::{
    EventKind, EventSubject, KeyId, KeyLocator, KeyRef, KeyState, Name, Problem, ProviderName, TaskId, VmId,
};

use super::{KeyFault, not_at_a_server, report};
use crate::controller::Controller;
use crate::plan::{KeyUse, judge_state};
use crate::store::{StoreError, event, provider};

/// The attributes of every key that Ward makes, besides its version.
pub(super) const ATTRIBUTES: [(&str, &str); 2] = [("x-Vendor", "Ward"), ("x-Product", "Ward VM encryption")];
/// What the names of such keys begin with.
pub(super) const NAME_PREFIX: &str = "ward-task-";

/// The name under which the n-th key of a task is made at the key server: the same whenever the task goes on.
pub(crate) fn name_of(task: TaskId, n: usize) -> String {
    match n {
        0 => format!("{NAME_PREFIX}{task}"),
        n => format!("{NAME_PREFIX}{task}-{n}"),
    }
}

/// The same of host keys: behind it stands the attempt.
pub(super) const HOST_KEY_PREFIX: &str = "ward-host-";

/// The name under which a host key is made: the same at each try of one attempt.
pub(crate) fn host_key_name(attempt: Uuid) -> String {
    format!("{HOST_KEY_PREFIX}{attempt}")
}

/// A key that exists, and custom attributes that it does not have since the server does not take them.
pub(crate) struct Made {
    pub(crate) key: KeyRef,
    pub(crate) refused: Vec<AttributeName>,
    /// Where there may be a second one of the same name, which nothing needs.
    pub(crate) twin: Option<Twin>,
}

/// A key that may be at a server which failed when it was to make one, and could not be asked since.
pub(crate) struct Twin {
    pub(crate) name: String,
    /// `HOST:PORT`, of each server where it may be.
    pub(crate) servers: String,
}

impl Made {
    /// One that is there as it should be.
    pub(crate) const fn known(key: KeyRef) -> Self {
        Self { key, refused: Vec::new(), twin: None }
    }
}

/// Why there is no key that is known, and whether there may be one all the same.
pub(crate) struct NotMade {
    pub(crate) fault: Box<KeyFault>,
    pub(crate) maybe_there: bool,
}

/// The key of that name: found, where an earlier request for it may have been answered to nobody, else made.
pub(crate) async fn locate_or_make(
    what: &str,
    servers: &Replicas,
    provider: &ProviderName,
    name: &str,
    maybe_there: bool,
) -> Result<Made, NotMade> {
    let failed =
        |error, maybe_there| NotMade { fault: Box::new(KeyFault::of(what, provider, None, &error)), maybe_there };
    let lost = |error| failed(error, true);
    let by_name = Filter::by_name(name);
    let twin = |servers: String| Some(Twin { name: name.to_owned(), servers });
    let mut not_asked = Vec::new();
    if maybe_there {
        let located = servers.locate(&by_name).await.map_err(lost)?;
        if let Some(id) = located.ids.into_iter().next() {
            return key_ref(what, provider, id).map(Made::known);
        }
        not_asked = located.not_asked;
    }
    let mut attributes = vec![Attribute::name(name)];
    attributes.extend(ATTRIBUTES.map(|(name, value)| Attribute::custom_text(name, value)));
    attributes.push(Attribute::custom_text("x-Product_Version", env!("CARGO_PKG_VERSION")));
    match servers.create_aes256(&attributes).await {
        Ok(created) => {
            not_asked.extend(created.maybe_also_at);
            not_asked.dedup();
            let twin = if not_asked.is_empty() { None } else { twin(not_asked.join(", ")) };
            Ok(Made { key: key_ref(what, provider, created.id)?, refused: created.refused_attributes, twin })
        }
        // The key may be there all the same: look for it before anybody asks for another.
        Err(error) if error.may_have_taken_effect() => {
            match servers.locate(&by_name).await.map_err(lost)?.ids.into_iter().next() {
                Some(id) => key_ref(what, provider, id).map(Made::known),
                // It may still be on its way to being made.
                None => Err(lost(error)),
            }
        }
        Err(error) => Err(failed(error, false)),
    }
}

fn key_ref(what: &str, provider: &ProviderName, id: String) -> Result<KeyRef, NotMade> {
    KeyId::try_from(id).map(|id| KeyRef::standard(provider.clone(), id)).map_err(|error| {
        let why = format!("key provider `{provider}` gave a key an ID that can't be kept: {error}");
        let problem = Problem::new(ward_types::Code::KeyServerRefused, what, why, "see the key server's log");
        NotMade { fault: Box::new(KeyFault::new(provider, None, problem)), maybe_there: true }
    })
}

/// Takes a key that exists into use for encrypting: checks its state, activates it where that is to be done.
pub(crate) async fn adopt(what: &str, servers: &Replicas, key: &KeyRef) -> Result<(), KeyFault> {
    let KeyLocator::Standard { key_id } = &key.key else { return Err(not_at_a_server(what, key)) };
    let fault = |error| KeyFault::of(what, &key.provider, Some(key), &error);
    let state = servers.state(key_id.as_str()).await.map_err(fault)?;
    let judged = match state_of(state) {
        Some(state) => judge_state(what, key, state),
        None => Err(Problem::new(
            ward_types::Code::KeyNotUsable,
            what,
            format!("key {key} is in a state at its key server that KMIP does not know: {state}"),
            "name another key",
        )),
    };
    match judged.map_err(|problem| KeyFault::new(&key.provider, Some(key), problem))? {
        KeyUse::Ready => Ok(()),
        KeyUse::Activate => servers.activate(key_id.as_str()).await.map_err(fault),
    }
}

/// A state that KMIP knows.
pub(crate) fn state_of(state: State) -> Option<KeyState> {
    Some(match state {
        State::PRE_ACTIVE => KeyState::PreActive,
        State::ACTIVE => KeyState::Active,
        State::DEACTIVATED => KeyState::Deactivated,
        State::COMPROMISED => KeyState::Compromised,
        State::DESTROYED => KeyState::Destroyed,
        State::DESTROYED_COMPROMISED => KeyState::DestroyedCompromised,
        _ => return None,
    })
}

/// Whose key it is, as its key server is told.
pub(crate) struct Owner<'a> {
    pub(crate) component: &'static str,
    pub(crate) name: &'a Name,
    pub(crate) identifier: String,
}

impl<'a> Owner<'a> {
    pub(crate) fn vm(id: VmId, name: &'a Name) -> Self {
        Self { component: "Virtual Machine", name, identifier: id.to_string() }
    }
}

/// Says at the key server what the key is used for, as far as the server lets us, and records once what it does not.
pub(crate) async fn make_ready(
    controller: &Controller,
    subject: &EventSubject,
    servers: &Replicas,
    made: Made,
    owner: &Owner<'_>,
) -> Result<(), Problem> {
    let what = format!("cannot mark key {} as that of {} `{}`", made.key, owner.component, owner.name);
    let KeyLocator::Standard { key_id } = &made.key.key else {
        return Err(*not_at_a_server(&what, &made.key).problem);
    };
    if let Some(Twin { name, servers }) = made.twin {
        let subject = EventSubject { provider: Some(made.key.provider.clone()), ..subject.clone() };
        let message = format!(
            "a second key of the name {name} may have been made at {servers}, which failed before it answered; the key in \
             use is {}, nothing needs the other",
            made.key
        );
        controller.record(EventKind::KeyUnneeded, &subject, &message).await;
    }
    let mut refused = made.refused;
    let marks = [
        ("x-Component", owner.component.to_owned()),
        ("x-Name", owner.name.to_string()),
        ("x-Identifier", owner.identifier.clone()),
    ];
    for (name, value) in marks {
        if !refused.is_empty() {
            refused.push(AttributeName::from(name));
            continue;
        }
        match servers.add_attribute(key_id.as_str(), &Attribute::custom_text(name, &value)).await {
            Ok(_) => {}
            Err(error) if error.result_reason().is_some() => refused.push(AttributeName::from(name)),
            Err(error) => {
                let fault = KeyFault::of(&what, &made.key.provider, Some(&made.key), &error);
                return Err(report(controller, subject, fault).await);
            }
        }
    }
    if !refused.is_empty() {
        tell_refused(controller, subject, &made.key, &refused).await?;
    }
    Ok(())
}

/// Says which attributes a provider's key servers do not take, once.
async fn tell_refused(
    controller: &Controller,
    subject: &EventSubject,
    key: &KeyRef,
    refused: &[AttributeName],
) -> Result<(), StoreError> {
    let names = refused.iter().map(AttributeName::as_str).collect::<Vec<_>>().join(", ");
    let mut tx = controller.store.write().await?;
    if provider::note_refused(&mut tx, &key.provider, &names).await? {
        let subject = EventSubject { provider: Some(key.provider.clone()), key: Some(key.clone()), ..subject.clone() };
        let message = format!(
            "key provider `{}` does not take the attributes {names}: its keys, {key} the first, are good without them, but \
             nobody sees at the key server what they are for",
            key.provider
        );
        event::record(&mut tx, EventKind::KeyAttributesRefused, &subject, &message).await?;
    }
    tx.commit().await
}
