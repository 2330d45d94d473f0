//! Keys at a key server that were made for what came to nothing, and of which nobody heard: the answer got lost, or the
//! controller was killed in that moment.
//!
//! Each is found by the attributes that it was made with, or, where the server takes none, by its name, which is that of the
//! task, or of the attempt to give a host a host key.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kmip::attribute::{Attribute, AttributeName, AttributeValue};
use kmip::client::{Filter, Replicas, ReplicasError};
use kmip::names::ObjectType;
use sqlx::AnyConnection;
use uuid::Uuid;
use ward_types::{EventKind, EventSubject, KeyId, KeyRef, Name, Problem, TaskId};

use super::inspect::all_needed;
use super::make::{ATTRIBUTES, HOST_KEY_PREFIX, NAME_PREFIX};
use super::{KeyFault, client_of, report};
use crate::api::types::OrphanView;
use crate::authz::Granted;
use crate::authz::operations::FindOrphans;
use crate::controller::Shared;
use crate::plan::kept_until;
use crate::store::{StoreError, event, host_crypto, server_key, task};

/// Looks for them at a provider. From now on they are among the keys that nothing needs.
pub(crate) async fn orphans(controller: &Shared, granted: &Granted<FindOrphans>) -> Result<Vec<OrphanView>, Problem> {
    let provider = granted.on();
    let what = format!("cannot look for keys of failed tasks at key provider `{}`", provider.name);
    let subject = EventSubject {
        user: Some(granted.user().clone()),
        provider: Some(provider.name.clone()),
        ..EventSubject::default()
    };
    let servers = client_of(controller, &what, provider)?;
    let found = match named_by_us(&servers).await {
        Ok(found) => found,
        Err(error) => {
            return Err(report(controller, &subject, KeyFault::of(&what, &provider.name, None, &error)).await);
        }
    };
    let mut tx = controller.store.write().await?;
    let days = super::grace(&mut tx).await?;
    let needed = all_needed(&mut tx).await?;
    let mut views = Vec::new();
    for (id, label, purpose) in found {
        let Ok(id) = KeyId::try_from(id) else { continue };
        let key = KeyRef::standard(provider.name.clone(), id);
        let origin = origin(&mut tx, purpose).await?;
        // What goes on asks for its key by that name.
        let goes_on = origin.as_ref().is_some_and(|origin| origin.ended.is_none());
        if needed.contains(&key) || server_key::get(&mut tx, &key).await?.is_some() || goes_on {
            continue;
        }
        let task = match purpose {
            Purpose::Task(task) => Some(task),
            Purpose::HostKey(_) => None,
        };
        let mut view = OrphanView {
            name: key.to_string(),
            key: key.clone(),
            label,
            task,
            host: None,
            ours: false,
            kept_until: None,
        };
        if let Some(Origin { was, host, ended: Some(since) }) = origin {
            server_key::made(&mut tx, &key).await?;
            server_key::unneeded(&mut tx, &key, Some(since)).await?;
            let message =
                format!("key {key} was found at its key server under the name {}: {was}; nothing needs it", view.label);
            let subject = EventSubject { key: Some(key), task, ..subject.clone() };
            event::record(&mut tx, EventKind::KeyUnneeded, &subject, &message).await?;
            view.host = host;
            view.ours = true;
            view.kept_until = Some(kept_until(since, days));
        }
        views.push(view);
    }
    tx.commit().await?;
    Ok(views)
}

/// What a key was made for, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Task(TaskId),
    /// An attempt to give a host a host key.
    HostKey(Uuid),
}

/// What this controller knows of that.
struct Origin {
    was: String,
    host: Option<Name>,
    /// When it came to nothing; none while it goes on.
    ended: Option<Timestamp>,
}

/// Nothing where it was none of this controller's.
async fn origin(db: &mut AnyConnection, purpose: Purpose) -> Result<Option<Origin>, StoreError> {
    Ok(match purpose {
        Purpose::Task(id) => task::get(db, id).await?.map(|task| Origin {
            was: "it was made for a task that failed".to_owned(),
            host: None,
            ended: task.state.is_final().then(|| task.ended.unwrap_or(task.created)),
        }),
        Purpose::HostKey(attempt) => host_crypto::attempt(db, attempt).await?.map(|attempt| Origin {
            was: format!("it was to be the host key of host `{}`, which did not take it", attempt.host),
            ended: (!attempt.goes_on).then_some(attempt.since),
            host: Some(attempt.host),
        }),
    })
}

/// The keys whose name tells what they were made for: ID, name, purpose.
async fn named_by_us(servers: &Replicas) -> Result<Vec<(String, String, Purpose)>, ReplicasError> {
    let attributes = ATTRIBUTES.map(|(name, value)| Attribute::custom_text(name, value)).to_vec();
    let ours = match servers.locate(&Filter { attributes, ..Filter::default() }).await {
        Ok(located) => located.ids,
        // A server that does not know such attributes can't look for them either.
        Err(error) if error.result_reason().is_some() => Vec::new(),
        Err(error) => return Err(error),
    };
    let ids: BTreeSet<String> = if ours.is_empty() {
        let symmetric = Attribute::new(AttributeValue::ObjectType(ObjectType::SYMMETRIC_KEY));
        servers.locate(&Filter { attributes: vec![symmetric], ..Filter::default() }).await?.ids.into_iter().collect()
    } else {
        ours.into_iter().collect()
    };
    let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
    let names = servers.get_attributes_of(&asked, &[AttributeName::NAME]).await?;
    let mut found = Vec::new();
    for (id, attributes) in ids.iter().zip(names) {
        // One that has gone meanwhile, or that is not ours to look at.
        let Ok(attributes) = attributes else { continue };
        let purpose = attributes.into_iter().find_map(|attribute| match attribute.value {
            AttributeValue::Name(name) => purpose_in(&name.value).map(|purpose| (name.value.clone(), purpose)),
            _ => None,
        });
        found.extend(purpose.map(|(name, purpose)| (id.clone(), name, purpose)));
    }
    Ok(found)
}

/// What a key's name says it was made for.
fn purpose_in(name: &str) -> Option<Purpose> {
    if let Some(attempt) = name.strip_prefix(HOST_KEY_PREFIX) {
        return attempt.parse().ok().map(Purpose::HostKey);
    }
    task_in(name).map(Purpose::Task)
}

/// The task in a key's name.
fn task_in(name: &str) -> Option<TaskId> {
    const UUID: usize = 36;
    let rest = name.strip_prefix(NAME_PREFIX)?;
    let (task, number) = rest.split_at_checked(UUID)?;
    let numbered = number.is_empty() || number.strip_prefix('-').is_some_and(|number| number.parse::<usize>().is_ok());
    task.parse().ok().filter(|_| numbered)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{host_key_name, name_of};
    use super::*;

    #[test]
    fn the_name_of_a_host_key_tells_the_attempt_and_no_task() {
        let attempt = Uuid::new_v4();
        let name = host_key_name(attempt);
        assert_eq!(purpose_in(&name), Some(Purpose::HostKey(attempt)));
        assert_eq!(purpose_in(&format!("{name}x")), None);
        let task = TaskId::new();
        assert_eq!(purpose_in(&name_of(task, 2)), Some(Purpose::Task(task)));
    }

    #[test]
    fn the_name_of_a_key_tells_its_task() {
        let task = TaskId::new();
        for n in [0, 1, 12] {
            assert_eq!(task_in(&name_of(task, n)), Some(task));
        }
        let bare = task.to_string();
        for other in
            [&bare, "ward-task-", "ward-task-x", "", &format!("ward-task-{task}x"), &format!("ward-task-{task}-")]
        {
            assert_eq!(task_in(other), None, "{other}");
        }
    }
}
