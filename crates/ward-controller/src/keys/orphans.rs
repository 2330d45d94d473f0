//! Keys at a key server that were made for tasks which came to nothing, and of which nobody heard: the answer got lost, or
//! the controller was killed in that moment.
//!
//! Each is found by the attributes that it was made with, or, where the server takes none, by its name, which is that of its
//! task.

use std::collections::BTreeSet;

use kmip::attribute::{Attribute, AttributeName, AttributeValue};
use kmip::client::{Filter, Replicas, ReplicasError};
use kmip::names::ObjectType;
use ward_types::{EventKind, EventSubject, KeyId, KeyRef, Problem, TaskId};

use super::inspect::all_needed;
use super::make::{ATTRIBUTES, NAME_PREFIX};
use super::{KeyFault, client_of, report};
use crate::api::types::OrphanView;
use crate::authz::Granted;
use crate::authz::operations::FindOrphans;
use crate::controller::Shared;
use crate::plan::kept_until;
use crate::store::{event, server_key, task};

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
    let found = match named_after_tasks(&servers).await {
        Ok(found) => found,
        Err(error) => {
            return Err(report(controller, &subject, KeyFault::of(&what, &provider.name, None, &error)).await);
        }
    };
    let mut tx = controller.store.write().await?;
    let days = super::grace(&mut tx).await?;
    let needed = all_needed(&mut tx).await?;
    let mut views = Vec::new();
    for (id, label, task_id) in found {
        let Ok(id) = KeyId::try_from(id) else { continue };
        let key = KeyRef::standard(provider.name.clone(), id);
        let known = server_key::get(&mut tx, &key).await?;
        let task = task::get(&mut tx, task_id).await?;
        // What goes on asks for its key by that name.
        let goes_on = task.as_ref().is_some_and(|task| !task.state.is_final());
        if needed.contains(&key) || known.is_some() || goes_on {
            continue;
        }
        let mut view =
            OrphanView { name: key.to_string(), key: key.clone(), label, task: task_id, ours: false, kept_until: None };
        if let Some(task) = task {
            let since = task.ended.unwrap_or(task.created);
            server_key::made(&mut tx, &key).await?;
            server_key::unneeded(&mut tx, &key, Some(since)).await?;
            let message = format!(
                "key {key} was found at its key server under the name {}: it was made for a task that failed; nothing \
                 needs it",
                view.label
            );
            let subject = EventSubject { key: Some(key), task: Some(task_id), ..subject.clone() };
            event::record(&mut tx, EventKind::KeyUnneeded, &subject, &message).await?;
            view.ours = true;
            view.kept_until = Some(kept_until(since, days));
        }
        views.push(view);
    }
    tx.commit().await?;
    Ok(views)
}

/// The keys whose name is that of a task: ID, name, task.
async fn named_after_tasks(servers: &Replicas) -> Result<Vec<(String, String, TaskId)>, ReplicasError> {
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
        let task = attributes.into_iter().find_map(|attribute| match attribute.value {
            AttributeValue::Name(name) => task_in(&name.value).map(|task| (name.value.clone(), task)),
            _ => None,
        });
        found.extend(task.map(|(name, task)| (id.clone(), name, task)));
    }
    Ok(found)
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

    use super::super::name_of;
    use super::*;

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
