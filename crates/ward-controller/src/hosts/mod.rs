//! The hosts: how they join, whether they answer, what they hold.

mod attend;
mod enrol;
mod host_key;
mod keys;
mod leave;
mod link;
mod mode;
mod refill;
mod supervise;

pub(crate) use enrol::{make_token, router};
pub(crate) use leave::remove;
pub(crate) use link::{Link, Links, Reach};
pub(crate) use mode::{Rekey, change, make_cluster_safe, make_safe, prepare_served, rekey};
pub(crate) use supervise::supervise;

use supervise::about;

use std::sync::Arc;

use ward_rpc::api::host::VmPower;
use ward_types::{EventKind, EventSubject, Power, VmId};

use crate::controller::{Controller, Shared};
use crate::store::host::HostRow;
use crate::store::vm::VmRow;
use crate::store::{StoreError, event, host, task, vm};

/// Begins to look after all hosts that are known.
pub(crate) async fn start(controller: &Shared) -> Result<(), StoreError> {
    let rows = host::list(&mut *controller.store.read().await?).await?;
    for row in rows {
        watch_over(controller, &row);
    }
    Ok(())
}

/// Begins to look after a host.
pub(crate) fn watch_over(controller: &Shared, row: &HostRow) -> Arc<Link> {
    let link = controller.links.add(row);
    controller.background.spawn(supervise(Arc::clone(controller), Arc::clone(&link)));
    link
}

/// Asks the host, where a VM is thought to run, whether it does: its guest may have ended a moment ago.
pub(crate) async fn refresh_power(controller: &Controller, row: &VmRow) {
    if row.power == Power::On
        && let Some(link) = row.host.and_then(|host| controller.links.get(host))
        && let Err(error) = note_if_stopped(controller, &link, row.id).await
    {
        tracing::error!(%error, vm = %row.name, "cannot write down that a VM is off");
    }
}

/// Notes that a VM which ran on the host is off, if the host says so and no task is about to say more of it.
pub(crate) async fn note_if_stopped(controller: &Controller, link: &Link, id: VmId) -> Result<(), StoreError> {
    if !matches!(link.call(VmPower { vm: id }).await, Ok(Power::Off)) {
        return Ok(());
    }
    let mut tx = controller.store.write().await?;
    let Some(row) = vm::get(&mut tx, id).await? else { return Ok(()) };
    let still_on = row.power == Power::On && row.host == Some(link.id);
    if !still_on || task::open_of_vm(&mut tx, id).await?.is_some() {
        return Ok(());
    }
    vm::set_power(&mut tx, id, Power::Off, row.host).await?;
    let subject = EventSubject { vm: Some(id), host: Some(link.id), ..EventSubject::default() };
    let message =
        format!("VM `{}` ended on host `{}`: its guest shut down, or its processes died", row.name, link.name);
    event::record(&mut tx, EventKind::VmStopped, &subject, &message).await?;
    tx.commit().await
}
