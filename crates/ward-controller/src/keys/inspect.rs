//! How keys stand: at their providers, at hosts, and with those who need them.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use kmip::names::State;
use sqlx::AnyConnection;
use ward_types::{ClusterId, Component, EventSubject, KeyRef, KeyState, Name, Problem, ProviderName};

use super::{
    KeyFault, connect, fetch, id_at_server, is_destroyed, of_tasks, report, state_of, states, users, withheld,
};
use crate::api::types::{KeyStanding, KeyUser};
use crate::controller::{Controller, Shared};
use crate::native;
use crate::plan;
use crate::store::vm::VmRow;
use crate::store::{self, StoreError, needed};

/// How a key stands at its provider.
#[derive(Clone)]
pub(crate) struct Standing {
    pub(crate) standing: KeyStanding,
    pub(crate) state: Option<KeyState>,
    pub(crate) fault: Option<KeyFault>,
}

impl Standing {
    /// One of which nobody was asked.
    pub(crate) const UNKNOWN: Self = Self { standing: KeyStanding::Unknown, state: None, fault: None };

    fn of(fault: KeyFault) -> Self {
        use ward_types::Code;
        let standing = match fault.problem.code {
            Code::KeyMissing | Code::KeyNotUsable | Code::KeyWrong | Code::KeyWrongVersion => KeyStanding::Missing,
            _ => KeyStanding::Unknown,
        };
        Self { standing, state: None, fault: Some(fault) }
    }

    pub(crate) fn problem(&self) -> Option<Problem> {
        self.fault.as_ref().map(|fault| (*fault.problem).clone())
    }
}

/// How to ask.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// For the keys' states.
    States,
    /// For the keys themselves, which are forgotten at once.
    Keys,
}

/// Every key that the inventory needs, in order.
pub(crate) async fn all_needed(db: &mut AnyConnection) -> Result<BTreeSet<KeyRef>, StoreError> {
    let mut keys: BTreeSet<KeyRef> = needed::all(&mut *db).await?.into_iter().collect();
    keys.extend(of_tasks(db).await?);
    Ok(keys)
}

/// How keys stand at their providers, which are asked at the same time, each over one connection.
pub(crate) async fn stand(
    controller: &Shared,
    what: &str,
    keys: &[KeyRef],
    ask: Ask,
) -> Result<BTreeMap<KeyRef, Standing>, StoreError> {
    let mut by_provider: BTreeMap<&ProviderName, Vec<&KeyRef>> = BTreeMap::new();
    let mut standings = BTreeMap::new();
    for key in keys {
        if id_at_server(key).is_some() {
            by_provider.entry(&key.provider).or_default().push(key);
        } else {
            standings.insert(key.clone(), on_hosts(controller, what, key).await?);
        }
    }
    let asked = by_provider.into_iter().map(|(provider, keys)| async move {
        let answers = at_server(controller, what, provider, &keys, ask).await;
        keys.into_iter().cloned().zip(answers).collect::<Vec<_>>()
    });
    standings.extend(join_all(asked).await.into_iter().flatten());
    Ok(standings)
}

/// How a key stands that hosts unwrap, or have unwrapped: by what the controller has of its provider, or by whether hosts
/// are attested.
async fn on_hosts(controller: &Controller, what: &str, key: &KeyRef) -> Result<Standing, StoreError> {
    let mut db = controller.store.read().await?;
    let rows = store::native::list(&mut db).await?;
    let clusters = users(&mut db, key).await?.clusters();
    drop(db);
    let Some(kdk) = key.kdk() else {
        let lacking = clusters.into_iter().find_map(|cluster| nobody_attested(controller, cluster, key));
        let present = Standing { standing: KeyStanding::Present, ..Standing::UNKNOWN };
        return Ok(lacking.map_or(present, |problem| Standing::of(KeyFault::new(&key.provider, Some(key), problem))));
    };
    let checked = clusters.into_iter().try_for_each(|cluster| native::check(what, &rows, &kdk, cluster));
    Ok(match checked {
        Ok(()) => Standing { standing: KeyStanding::Present, ..Standing::UNKNOWN },
        Err(problem) => {
            let standing = KeyStanding::Missing;
            Standing { standing, state: None, fault: Some(KeyFault::new(&key.provider, Some(key), problem)) }
        }
    })
}

/// Why no host of the cluster can have a trusted provider's key at this moment.
fn nobody_attested(controller: &Controller, cluster: ClusterId, key: &KeyRef) -> Option<Problem> {
    let told: Vec<_> = controller.links.of_cluster(cluster).iter().filter_map(|link| link.told()).collect();
    let mut lacks = Vec::new();
    for told in told {
        lacks.push(told.lack_of_trust(&key.provider)?);
    }
    Some(lacks.into_iter().next().unwrap_or_else(|| {
        let why = format!("no host of the cluster answers that could get key {key}");
        Problem::new(ward_types::Code::HostNone, "cannot get a key", why, "start the agent of a host")
    }))
}

async fn at_server(
    controller: &Shared,
    what: &str,
    provider: &ProviderName,
    keys: &[&KeyRef],
    ask: Ask,
) -> Vec<Standing> {
    let none = |fault: KeyFault| vec![Standing::of(fault); keys.len()];
    let servers = match connect(controller, what, provider).await {
        Ok(servers) => servers,
        Err(problem) => return none(KeyFault::new(provider, None, problem)),
    };
    let present = |state| Standing { standing: KeyStanding::Present, state, fault: None };
    if ask == Ask::Keys {
        return match fetch(what, (provider, &servers), keys).await {
            Ok(got) => got.into_iter().map(|got| got.map_or_else(Standing::of, |_| present(None))).collect(),
            Err(fault) => none(*fault),
        };
    }
    let judge = |key: &KeyRef, state: State| {
        if is_destroyed(state) {
            return Standing { state: state_of(state), ..Standing::of(withheld(what, key, state)) };
        }
        present(state_of(state))
    };
    match states(what, (provider, &servers), keys).await {
        Ok(states) => {
            let told = keys.iter().zip(states);
            told.map(|(key, state)| state.map_or_else(Standing::of, |state| judge(key, state))).collect()
        }
        Err(fault) => none(*fault),
    }
}

/// Tells of keys that can't be had: of a provider that can't be asked once, of a key that it lacks each.
pub(crate) async fn tell(
    controller: &Controller,
    subject: &EventSubject,
    standings: &BTreeMap<KeyRef, Standing>,
) -> Result<(), StoreError> {
    let mut told = BTreeSet::new();
    for (key, standing) in standings {
        let Some(fault) = &standing.fault else { continue };
        if standing.standing == KeyStanding::Unknown {
            if told.insert(key.provider.clone()) {
                report(controller, subject, fault.clone()).await;
            }
            continue;
        }
        let users = users(&mut *controller.store.read().await?, key).await?;
        let mut fault = fault.clone();
        fault.key = Some(key.clone());
        fault.problem.why = format!("{} (needed by {})", fault.problem.why, users.named());
        let subject = EventSubject { vm: users.first_vm(), ..subject.clone() };
        report(controller, &subject, fault).await;
    }
    Ok(())
}

/// For what of a VM a key is.
pub(crate) fn use_of(row: &VmRow, key: &KeyRef) -> KeyUser {
    let mut user = KeyUser { vm: row.name.clone(), home: false, disks: Vec::new() };
    for (component, known) in row.config.as_ref().map(plan::keys).unwrap_or_default() {
        match component {
            _ if known.as_ref() != Some(key) => {}
            Component::Home => user.home = true,
            Component::Disk(disk) => user.disks.push(disk),
        }
    }
    user
}

/// The hosts that hold a key, or what it is unwrapped with.
pub(crate) fn holders(controller: &Controller, key: &KeyRef) -> Vec<Name> {
    let links = controller.links.all();
    links.iter().filter(|link| link.told().is_some_and(|told| told.has(key))).map(|link| link.name.clone()).collect()
}
