//! Destroying a key at its key server, for good: only one that nothing needs, and only after some time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use kmip::attribute::RevocationReason;
use kmip::names::{ResultReason, RevocationReasonCode, State};
use sqlx::AnyConnection;
use ward_rpc::api::host::HomesUnder;
use ward_types::{ClusterId, Code, EventKind, EventSubject, KeyRef, Problem};

use super::{KeyFault, connect, drop_from_hosts, id_at_server, is_destroyed, not_at_a_server, report, users};
use crate::authz::Granted;
use crate::authz::operations::DestroyKey;
use crate::controller::{Controller, Shared};
use crate::plan::{self, KeyFacts};
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
    let facts = facts(controller, key, Vec::new()).await?;
    let days = grace(&mut *controller.store.read().await?).await?;
    plan::destroy(key, &facts, days, Timestamp::now())?;
    let homes = homes_under(controller, &what, key).await?;
    plan::destroy(key, &KeyFacts { homes, ..facts }, days, Timestamp::now())?;
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

async fn facts(controller: &Controller, key: &KeyRef, homes: Vec<PathBuf>) -> Result<KeyFacts, StoreError> {
    let mut db = controller.store.read().await?;
    let users = users(&mut db, key).await?;
    let known = server_key::get(&mut db, key).await?;
    Ok(KeyFacts {
        vms: users.vms.into_iter().map(|row| row.name).collect(),
        hosts: users.hosts.into_iter().map(|(.., name)| name).collect(),
        tasks: users.tasks,
        homes,
        made: known.as_ref().is_some_and(|known| known.made),
        unneeded: known.and_then(|known| known.unneeded),
    })
}

/// The homes that need a key, whether in the inventory or not: asked of a host of each cluster that has datastores. Where
/// none answers, nobody knows.
async fn homes_under(controller: &Controller, what: &str, key: &KeyRef) -> Result<Vec<PathBuf>, Problem> {
    let mut by_cluster: BTreeMap<ClusterId, Vec<PathBuf>> = BTreeMap::new();
    for row in cluster::datastores(&mut *controller.store.read().await?).await? {
        by_cluster.entry(row.cluster).or_default().push(row.directory);
    }
    let mut homes = Vec::new();
    for (cluster, datastores) in by_cluster {
        let mut last = Problem::new(
            Code::HostNone,
            what,
            "no host answers that could look for VM homes which need it though they are not in the inventory",
            "try again when a host of each cluster answers",
        );
        let mut found = None;
        for link in controller.links.of_cluster(cluster).into_iter().filter(|link| link.told().is_some()) {
            match link.call(HomesUnder { datastores: datastores.clone(), key: key.clone() }).await {
                Ok(homes) => {
                    found = Some(homes);
                    break;
                }
                Err(error) => last = Problem { what: what.to_owned(), ..error.into_problem(what) },
            }
        }
        homes.extend(found.ok_or(last)?);
    }
    Ok(homes)
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
    plan::destroy(key, &facts(controller, key, Vec::new()).await?, days, Timestamp::now())?;
    match servers.destroy(id.as_str()).await {
        Ok(()) => Ok(()),
        Err(error) if gone(error.result_reason()) => Ok(()),
        Err(error) => Err(report(controller, subject, KeyFault::of(what, &key.provider, Some(key), &error)).await),
    }
}
