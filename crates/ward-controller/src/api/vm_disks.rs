//! The disks of VMs.

use axum::extract::{Json, State};
use ward_rpc::api::host::{DiskInfo, ReadDisk, VolumeLabel};
use ward_types::{Code, Component, DiskConfig, DiskCrypto, DiskId, Problem, TaskKind};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, not_found};
use super::page::{Listed, Page};
use super::policies::built_in;
use super::tasks::task_view;
use super::types::{NewDiskFrom, NewVmDisk, PageQuery, TaskView, VmDiskView};
use crate::authz::operations::{ImportDisk, ReadVm};
use crate::authz::{Granted, Note, Sight, grant, named};
use crate::controller::Shared;
use crate::plan::{DiskVerb, DiskWish, Needs, Origin, place};
use crate::store::vm::VmRow;
use crate::store::{cluster, policy};
use crate::tasks::cannot;
use crate::tasks::may_disk::{From, MayAddDisk, MayChangeDisk};
use crate::tasks::submit::Order;

/// Lists the disks of a VM, those that are detached too.
#[utoipa::path(get, path = "/vms/{vm}/disks", tag = "vm",
    params(("vm" = String, Path, description = "name or ID"), PageQuery),
    responses((status = 200, body = [VmDiskView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    granted: Granted<ReadVm>,
    page: Page,
) -> ApiResult<Listed<VmDiskView>> {
    let row = granted.on();
    let assigned = policy::assigned(&mut *controller.store.read().await?, Some(row.id)).await?;
    let view = |disk: &DiskConfig| VmDiskView {
        id: disk.id,
        file: disk.file.clone(),
        size: disk.size,
        plain_format: disk.plain_format,
        crypto: disk.crypto.clone(),
        attached: disk.attached,
        boots: row.config.as_ref().and_then(|config| config.boot_disk()).is_some_and(|boot| boot.id == disk.id),
        policy: assigned
            .get(&(row.id, Component::Disk(disk.id)))
            .cloned()
            .unwrap_or_else(|| built_in(disk.key().is_some())),
    };
    let disks = row.config.iter().flat_map(|config| config.disks.iter().map(view)).collect();
    Ok(page.cut(disks, |view: &VmDiskView| format!("{:05}", view.id.0)))
}

/// Gives a VM, which must be off, another disk: a blank one, or a copy of an image, of another VM's disk, or of an encrypted
/// disk of whatever VM. Its key must be had for the hosts; so must the privileges for all that is done with it.
#[utoipa::path(post, path = "/vms/{vm}/disks", tag = "vm", request_body = NewVmDisk,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    sight: Sight,
    keys: Keys,
    Body(NewVmDisk { from, crypto, policy: under }): Body<NewVmDisk>,
) -> ApiResult<Json<TaskView>> {
    let caller = sight.caller();
    let vm: VmRow = named(&controller, keys.first()).await?;
    // Who may not see the VM learns nothing of the rest.
    let _: Granted<ReadVm> = grant(&controller, caller, vm.clone(), Note::default()).await?;
    let (from, origin) = origin(&controller, &sight, &vm, from).await?;
    let rows = policy::list(&mut *controller.store.read().await?).await?;
    let encrypts = under.as_ref().and_then(|name| rows.iter().find(|row| row.name == *name)).map(|row| row.encrypts);
    let may = MayAddDisk::ask(&controller, caller, vm, (from, &origin), (&crypto, encrypts)).await?;
    let wish = DiskWish { origin, crypto, policy: under };
    let info = Order { controller: &controller }.add_disk(&may, wish).await?;
    Ok(task_view(&controller, info))
}

/// What the new disk is made of, looked at where it lies.
async fn origin(controller: &Shared, sight: &Sight, vm: &VmRow, from: NewDiskFrom) -> ApiResult<(From, Origin)> {
    let what = cannot(TaskKind::VmDisks, &vm.name);
    match from {
        NewDiskFrom::Blank { size, format } => Ok((From::Nowhere, Origin::Blank { size, format })),
        NewDiskFrom::Vm { vm: key, disk } => {
            let source: VmRow = named(controller, &key).await?;
            if !sight.sees(&source) {
                return Err(not_found("vm", &key).into());
            }
            let found = source.config.as_ref().and_then(|config| config.disk(disk)).cloned();
            let Some(found) = found else {
                let why = format!("VM `{}` has no {disk}", source.name);
                return Err(Problem::new(Code::NotFound, what, why, "`ward vm disk ls` lists its disks").into());
            };
            if source.cluster != vm.cluster {
                let why = format!("VM `{}` is in another cluster, whose disks the VM's hosts can't read", source.name);
                return Err(Problem::new(Code::RequestInvalid, what, why, "take a disk of the VM's own cluster").into());
            }
            let datastores = cluster::datastores(&mut *controller.store.read().await?).await?;
            let datastore = datastores.into_iter().find(|row| row.id == source.datastore);
            let datastore =
                datastore.ok_or_else(|| Problem::internal(what, "the datastore of the other VM is gone"))?;
            let path = datastore.directory.join(source.directory.as_str()).join(found.file.as_str());
            let origin = match found.crypto {
                DiskCrypto::Plain => Origin::Image { path, format: Some(found.plain_format) },
                DiskCrypto::Encrypted { key } => Origin::Volume {
                    path,
                    label: VolumeLabel { key, vm: source.id, disk },
                    known: Some((found.size, found.plain_format)),
                },
            };
            Ok((From::Vm(Box::new(source)), origin))
        }
        NewDiskFrom::File { path } => {
            let note = path.display().to_string();
            let _: Granted<ImportDisk> = grant(controller, sight.caller(), vm.clone(), note.into()).await?;
            controller.links.settled().await;
            let host = place(&what, &controller.links.facts(vm.cluster), Needs::default())?;
            let link = controller.links.get(host).ok_or_else(|| Problem::internal(what.clone(), "the host is gone"))?;
            let info = link.call(ReadDisk { path: path.clone() }).await.map_err(|error| error.into_problem(&what))?;
            let origin = match info {
                DiskInfo::Plain => Origin::Image { path, format: None },
                DiskInfo::Volume(label) => Origin::Volume { path, label, known: None },
            };
            Ok((From::File, origin))
        }
    }
}

/// Gives a disk that was detached back to its VM, which must be off.
#[utoipa::path(post, path = "/vms/{vm}/disks/{disk}/attach", tag = "vm",
    params(("vm" = String, Path, description = "name or ID"), ("disk" = String, Path, description = "number")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn attach(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<TaskView>> {
    change(&controller, &caller, &keys, DiskVerb::Attach).await
}

/// Takes a disk from a VM, which must be off. It stays in the VM's home, under its number and its key, and what is done to
/// the VM's encryption is done to it.
#[utoipa::path(post, path = "/vms/{vm}/disks/{disk}/detach", tag = "vm",
    params(("vm" = String, Path, description = "name or ID"), ("disk" = String, Path, description = "number")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn detach(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<TaskView>> {
    change(&controller, &caller, &keys, DiskVerb::Detach).await
}

/// Deletes a disk of a VM, which must be off. Its key is not needed for it, and stays at the key server.
#[utoipa::path(delete, path = "/vms/{vm}/disks/{disk}", tag = "vm",
    params(("vm" = String, Path, description = "name or ID"), ("disk" = String, Path, description = "number")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn remove(State(controller): State<Shared>, caller: Caller, keys: Keys) -> ApiResult<Json<TaskView>> {
    change(&controller, &caller, &keys, DiskVerb::Remove).await
}

async fn change(controller: &Shared, caller: &Caller, keys: &Keys, verb: DiskVerb) -> ApiResult<Json<TaskView>> {
    let vm: VmRow = named(controller, keys.first()).await?;
    let id = keys.last().parse::<DiskId>().ok();
    let disk = id.and_then(|id| vm.config.as_ref()?.disk(id).cloned());
    let encrypted = disk.as_ref().is_some_and(|disk| disk.key().is_some());
    // Which disks there are is told to those who may change them.
    let id = id.unwrap_or(DiskId(u16::MAX));
    let may = MayChangeDisk::ask(controller, caller, vm, (id, verb, encrypted)).await?;
    if disk.is_none() {
        return Err(not_found("disk", keys.last()).into());
    }
    let info = Order { controller }.change_disk(&may, id, verb).await?;
    Ok(task_view(controller, info))
}
