//! VMs that are locked: the key of their home is on no host that answers, and not to be had.
//!
//! A VM is locked when a host that lacks its key could not be given it, and unlocked when a host of its cluster has it: the
//! hosts' supervisors, which look after missing keys with a back-off, see either.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use ward_types::{ClusterId, EventKind, EventSubject, KeyRef, Power, Problem};

use crate::controller::Shared;
use crate::hosts::Link;
use crate::register;
use crate::store::vm::{self, VmRow};
use crate::store::{StoreError, event};

/// How many VMs are looked at at once.
const AT_ONCE: usize = 8;
/// How long a host may take to say which keys it has.
const LOOK: Duration = Duration::from_secs(5);
/// How many are locked in one transaction.
const PER_TRANSACTION: usize = 100;

/// Locks the VMs of a cluster that are off and whose homes are under keys that can't be had, where no host that answers has
/// the key. A VM that runs goes on.
pub(crate) async fn lock(
    controller: &Shared,
    cluster: ClusterId,
    subject: &EventSubject,
    faults: &BTreeMap<KeyRef, Problem>,
) -> Result<(), StoreError> {
    // What was given a moment ago is not known yet.
    join_all(controller.links.of_cluster(cluster).iter().map(|link| link.ask(LOOK))).await;
    let faults: Vec<_> = faults.iter().filter(|(key, _)| !controller.links.somebody_has(cluster, key)).collect();
    for faults in faults.chunks(PER_TRANSACTION) {
        let mut tx = controller.store.write().await?;
        for (key, problem) in faults {
            for row in vm::under(&mut tx, key).await? {
                if row.cluster != cluster || row.power != Power::Off {
                    continue;
                }
                let Some(why) = why(&row, key, problem) else { continue };
                vm::set_locked(&mut tx, row.id, Some(&why)).await?;
                let subject = EventSubject {
                    vm: Some(row.id),
                    key: Some((*key).clone()),
                    provider: Some(key.provider.clone()),
                    ..subject.clone()
                };
                event::record_problem(&mut tx, EventKind::VmLocked, &subject, &why).await?;
            }
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Why a VM is locked, where that is news.
fn why(row: &VmRow, key: &KeyRef, problem: &Problem) -> Option<Problem> {
    let home = row.config.as_ref().and_then(|config| config.home.key());
    if home != Some(key) || row.locked.as_ref().is_some_and(|known| known.code == problem.code) {
        return None;
    }
    let why = format!("no host of its cluster has its key {key}, and it is not to be had: {}", problem.why);
    let remedy = format!("{}; it is unlocked by itself when the key is there", problem.remedy);
    Some(Problem::new(problem.code, format!("VM `{}` is locked", row.name), why, remedy))
}

/// Unlocks the VMs of a cluster whose key a host has by now.
pub(crate) async fn release(controller: &Shared, cluster: ClusterId) -> Result<(), StoreError> {
    let rows = vm::locked(&mut *controller.store.read().await?, cluster).await?;
    let found = rows.into_iter().filter_map(|row| {
        let key = row.config.as_ref().and_then(|config| config.home.key())?;
        let has = |link: &Arc<Link>| link.told().is_some_and(|told| told.has(key));
        let link = controller.links.of_cluster(cluster).into_iter().find(has)?;
        Some((row, link))
    });
    let each = |(row, link): (VmRow, Arc<Link>)| async move {
        if let Err(problem) = register::unlock_by_itself(controller, &row, &link).await {
            tracing::warn!(vm = %row.name, %problem, "a VM whose key is there stays locked");
        }
    };
    stream::iter(found.collect::<Vec<_>>()).for_each_concurrent(AT_ONCE, each).await;
    Ok(())
}
