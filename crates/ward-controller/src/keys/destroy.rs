//! Destroying a key at its key server, for good: only one that nothing needs, and only after some time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use futures_util::future::join_all;
use jiff::Timestamp;
use kmip::attribute::RevocationReason;
use kmip::names::{ResultReason, RevocationReasonCode, State};
use sqlx::AnyConnection;
use ward_rpc::api::host::{DatastoreUses, FindUses};
use ward_types::{ClusterId, Code, EventKind, EventSubject, KeyRef, Problem};

use super::{KeyFault, connect, drop_from_hosts, id_at_server, is_destroyed, not_at_a_server, report, users};
use crate::authz::Granted;
use crate::authz::operations::DestroyKey;
use crate::controller::{Controller, Shared};
use crate::plan::{self, KeyFacts};
use crate::store::cluster::DatastoreRow;
use crate::store::{StoreError, cluster, event, server_key, setting};

/// For how many days a key is kept that nothing needs, unless set.
const GRACE_DAYS: u32 = 30;
/// The longest that can be set, in days.
const MAX_GRACE_DAYS: u32 = 3650;
const GRACE: &str = "key-grace-days";

/// For how many days a key is kept that nothing needs.
pub(crate) async fn grace(db: &mut AnyConnection) -> Result<u32, StoreError> {
    let set = setting::get(db, GRACE).await?.and_then(|days| days.parse().ok());
    Ok(set.unwrap_or(GRACE_DAYS))
}

/// Sets that.
pub(crate) async fn set_grace(db: &mut AnyConnection, days: u32) -> Result<(), Problem> {
    if days > MAX_GRACE_DAYS {
        let why = format!("{days} days are more than {MAX_GRACE_DAYS}");
        let what = "cannot set for how long unneeded keys are kept";
        return Err(Problem::new(Code::RequestInvalid, what, why, "give fewer"));
    }
    Ok(setting::put(db, GRACE, &days.to_string()).await?)
}

/// Destroys a key at its key server.
pub(crate) async fn destroy(controller: &Shared, granted: &Granted<DestroyKey>) -> Result<(), Problem> {
    let key = &granted.on().key;
    let what = format!("cannot destroy key {key}");
    let subject = EventSubject {
        user: Some(granted.user().clone()),
        provider: Some(key.provider.clone()),
        key: Some(key.clone()),
        ..EventSubject::default()
    };
    if id_at_server(key).is_none() {
        return Err(*not_at_a_server(&what, key).problem);
    }
    let facts = facts(controller, key).await?;
    let days = grace(&mut *controller.store.read().await?).await?;
    plan::destroy(key, &facts, days, Timestamp::now())?;
    let uses = uses_on_datastores(controller, &what, key).await?;
    plan::destroy(key, &KeyFacts { uses, ..facts }, days, Timestamp::now())?;
    // From now on nothing begins to need it.
    let mut tx = controller.store.write().await?;
    server_key::set_destroying(&mut tx, key, true).await?;
    tx.commit().await?;
    if let Err(problem) = at_server(controller, &what, key, days, &subject).await {
        let mut tx = controller.store.write().await?;
        server_key::set_destroying(&mut tx, key, false).await?;
        tx.commit().await?;
        return Err(problem);
    }
    crash_point::reach("key.destroyed-unknown");
    let mut tx = controller.store.write().await?;
    server_key::destroyed(&mut tx, key).await?;
    let message = format!("key {key}, which nothing needed, destroyed at its key server by `{}`", granted.user());
    event::record(&mut tx, EventKind::KeyDestroyed, &subject, &message).await?;
    tx.commit().await?;
    let clusters = cluster::list(&mut *controller.store.read().await?).await?;
    for cluster in clusters {
        drop_from_hosts(controller, cluster.id, vec![key.clone()]).await;
    }
    Ok(())
}

async fn facts(controller: &Controller, key: &KeyRef) -> Result<KeyFacts, StoreError> {
    let mut db = controller.store.read().await?;
    let users = users(&mut db, key).await?;
    let known = server_key::get(&mut db, key).await?;
    Ok(KeyFacts {
        vms: users.vms.into_iter().map(|row| row.name).collect(),
        hosts: users.hosts.into_iter().map(|(.., name)| name).collect(),
        tasks: users.tasks,
        uses: Vec::new(),
        made: known.as_ref().is_some_and(|known| known.made),
        unneeded: known.and_then(|known| known.unneeded),
    })
}

/// What on datastores needs a key, whether in the inventory or not: asked of all hosts that answer. Where no host sees a
/// datastore, nobody knows.
async fn uses_on_datastores(controller: &Controller, what: &str, key: &KeyRef) -> Result<Vec<PathBuf>, Problem> {
    let datastores = cluster::datastores(&mut *controller.store.read().await?).await?;
    let mut unseen: BTreeMap<(ClusterId, PathBuf), DatastoreRow> =
        datastores.into_iter().map(|row| ((row.cluster, row.directory.clone()), row)).collect();
    let asked = controller.links.all().into_iter().filter(|link| link.told().is_some()).map(|link| {
        let of_cluster = unseen.values().filter(|row| row.cluster == link.cluster);
        let call = FindUses { datastores: of_cluster.map(|row| row.directory.clone()).collect(), key: key.clone() };
        async move { (link.cluster, link.call(call).await) }
    });
    let (mut uses, mut last) = (BTreeSet::new(), None);
    for (cluster, answer) in join_all(asked.collect::<Vec<_>>()).await {
        match answer {
            Err(error) => last = Some(error.into_problem(what)),
            Ok(seen) => {
                for DatastoreUses { directory, marked, uses: found } in seen {
                    uses.extend(found);
                    let place = (cluster, directory);
                    if unseen.get(&place).is_some_and(|row| marked || !row.used) {
                        unseen.remove(&place);
                    }
                }
            }
        }
    }
    let Some(row) = unseen.values().next() else { return Ok(uses.into_iter().collect()) };
    let because = last.map_or_else(String::new, |problem| format!(" ({})", problem.why));
    let why = format!(
        "no host that answers sees datastore `{}` at {}, where VM homes may need it though they are not in the inventory\
         {because}",
        row.name,
        row.directory.display()
    );
    let remedy = format!(
        "mount it on a host of its cluster whose agent runs; where it is gone for good, `ward datastore rm {}` forgets it",
        row.name
    );
    Err(Problem::new(Code::HostNone, what, why, remedy))
}

/// Revokes it where it is in use, as KMIP wants it, then destroys it. One that is gone already is as it should be.
async fn at_server(
    controller: &Shared,
    what: &str,
    key: &KeyRef,
    days: u32,
    subject: &EventSubject,
) -> Result<(), Problem> {
    let Some(id) = id_at_server(key) else { return Ok(()) };
    let servers = connect(controller, what, &key.provider).await?;
    let gone = |reason: Option<ResultReason>| {
        matches!(
            reason,
            Some(ResultReason::ITEM_NOT_FOUND | ResultReason::OBJECT_NOT_FOUND | ResultReason::OBJECT_DESTROYED)
        )
    };
    let state = match servers.state(id.as_str()).await {
        Ok(state) if is_destroyed(state) => return Ok(()),
        Ok(state) => state,
        Err(error) if gone(error.result_reason()) => return Ok(()),
        Err(error) => {
            return Err(report(controller, subject, KeyFault::of(what, &key.provider, Some(key), &error)).await);
        }
    };
    if state == State::ACTIVE {
        let reason = RevocationReason { code: RevocationReasonCode::CESSATION_OF_OPERATION, message: None };
        if let Err(error) = servers.revoke(id.as_str(), &reason, None).await {
            return Err(report(controller, subject, KeyFault::of(what, &key.provider, Some(key), &error)).await);
        }
        crash_point::reach("key.revoked");
    }
    // The last moment: a key that is revoked still decrypts.
    plan::destroy(key, &facts(controller, key).await?, days, Timestamp::now())?;
    match servers.destroy(id.as_str()).await {
        Ok(()) => Ok(()),
        Err(error) if gone(error.result_reason()) => Ok(()),
        Err(error) => Err(report(controller, subject, KeyFault::of(what, &key.provider, Some(key), &error)).await),
    }
}
