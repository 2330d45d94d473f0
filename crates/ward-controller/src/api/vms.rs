//! VMs. What takes long is answered with its task.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::extract::{Json, State};
use ward_rpc::api::host::{self, KernelSource, NewFirmware};
use ward_types::{Code, Component, HomeCrypto, KeyRef, PolicyName, Problem, TaskInfo, VmConfig, VmId};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, Params, not_found};
use super::page::{Listed, Page};
use super::policies::built_in;
use super::tasks::task_view;
use super::types::{
    AddDisk, AddVm, ComponentPolicy, ConsoleQuery, ConsoleView, PageQuery, Start, Stop, TaskView, VmView,
};
use crate::authz::operations::{ReadConsole, ReadVm, RemoveVm};
use crate::authz::{Granted, Note, Sight, grant_named, named};
use crate::controller::{Controller, Shared};
use crate::plan::{NewDisk, NewVm};
use crate::store::cluster::{self, DatastoreRow};
use crate::store::vm::{self, VmRow};
use crate::store::{policy, task};
use crate::tasks::may::{MayMake, MayStart};
use crate::tasks::submit::{self, Order};

const MAX_WAIT_MS: u32 = 30_000;
const DEFAULT_CPUS: u16 = 1;
const DEFAULT_MEMORY_MIB: u32 = 512;
const DEFAULT_STOP_S: u32 = 60;
const MAX_STOP_S: u32 = 3600;

type Assigned = BTreeMap<(VmId, Component), PolicyName>;

fn view(
    controller: &Controller,
    row: VmRow,
    datastores: &[DatastoreRow],
    open: &[TaskInfo],
    assigned: &Assigned,
) -> Option<VmView> {
    let datastore = datastores.iter().find(|datastore| datastore.id == row.datastore)?;
    let home: PathBuf = datastore.directory.join(row.directory.as_str());
    let components = row.config.as_ref().map(crate::plan::keys).unwrap_or_default();
    let policy = |(component, key): (&Component, &Option<KeyRef>)| ComponentPolicy {
        component: *component,
        policy: assigned.get(&(row.id, *component)).cloned().unwrap_or_else(|| built_in(key.is_some())),
    };
    let policies = components.iter().map(policy).collect();
    let keys = row.config.as_ref().map_or_else(Vec::new, |config| config.keys().into_iter().cloned().collect());
    Some(VmView {
        id: row.id,
        name: row.name,
        power: row.power,
        host: row.host.and_then(|host| controller.links.name(host)),
        datastore: datastore.name.clone(),
        home,
        encrypted: !keys.is_empty(),
        keys,
        config: row.config.map(shown),
        task: open.iter().find(|task| task.vm == row.id).map(|task| task.id),
        locked: row.locked,
        template: row.template,
        policies,
    })
}

/// A description as it is shown: without the keys that lie in it wrapped, of which nobody needs to see more than that they
/// are there.
fn shown(mut config: VmConfig) -> VmConfig {
    if let HomeCrypto::Encrypted { wrapped_key, .. } = &mut config.home {
        wrapped_key.0.clear();
    }
    if let Some(tpm) = &mut config.tpm {
        tpm.wrapped_key.0.clear();
    }
    config
}

/// All VMs that are to be shown.
pub(crate) async fn all(controller: &Controller, sight: &Sight) -> Result<Vec<VmView>, Problem> {
    let mut db = controller.store.read().await?;
    let datastores = cluster::datastores(&mut db).await?;
    let open = task::list(&mut db, true, i64::MAX).await?;
    let assigned = policy::assigned(&mut db, None).await?;
    let mut rows = vm::list(&mut db).await?;
    rows.retain(|row| sight.sees(row));
    Ok(rows.into_iter().filter_map(|row| view(controller, row, &datastores, &open, &assigned)).collect())
}

/// Lists VMs.
#[utoipa::path(get, path = "/vms", tag = "vm", params(PageQuery),
    responses((status = 200, body = [VmView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(controller): State<Shared>, sight: Sight, page: Page) -> ApiResult<Listed<VmView>> {
    Ok(page.cut(all(&controller, &sight).await?, |view: &VmView| view.name.to_string()))
}

/// Shows a VM.
#[utoipa::path(get, path = "/vms/{vm}", tag = "vm", params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = VmView), (status = "4XX", body = Problem)))]
pub(super) async fn show(State(controller): State<Shared>, granted: Granted<ReadVm>) -> ApiResult<Json<VmView>> {
    one(&controller, granted.on().id).await
}

/// One VM, for those who may see it.
pub(super) async fn one(controller: &Controller, id: VmId) -> ApiResult<Json<VmView>> {
    let missing = || not_found("vm", &id.to_string());
    let mut db = controller.store.read().await?;
    let datastores = cluster::datastores(&mut db).await?;
    let row = vm::get(&mut db, id).await?.ok_or_else(missing)?;
    let open: Vec<_> = task::open_of_vm(&mut db, id).await?.into_iter().collect();
    let assigned = policy::assigned(&mut db, Some(id)).await?;
    let view = view(controller, row, &datastores, &open, &assigned).ok_or_else(missing)?;
    Ok(Json(view))
}

/// Makes a VM, with blank disks or from images.
#[utoipa::path(post, path = "/vms", tag = "vm", request_body = AddVm,
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    sight: Sight,
    Body(new): Body<AddVm>,
) -> ApiResult<Json<TaskView>> {
    let disk = |disk| match disk {
        AddDisk::Blank { size, format } => NewDisk::Blank { size, format },
        AddDisk::Copy { path } => NewDisk::Copy { path },
    };
    let kernel = new.kernel.map(|kernel| KernelSource {
        kernel: kernel.kernel,
        initrd: kernel.initrd,
        command_line: kernel.command_line,
    });
    let vm = NewVm {
        name: new.name,
        cpus: new.cpus.unwrap_or(DEFAULT_CPUS),
        memory_mib: new.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB),
        kernel,
        disks: new.disks.into_iter().map(disk).collect(),
        firmware: new
            .uefi
            .map_or(NewFirmware::Bios, |uefi| NewFirmware::Uefi { secure_boot: uefi.secure_boot, vars: uefi.vars }),
        tpm: new.tpm,
    };
    let target = submit::datastore_for(&controller, &sight, &vm, new.datastore.as_deref()).await?;
    let may = MayMake::ask(&controller, sight.caller(), target, &vm, new.policies.as_ref()).await?;
    let info = Order { controller: &controller }.make(&may, vm, new.policies.as_ref()).await?;
    Ok(task_view(&controller, info))
}

/// Deletes a VM with its home.
#[utoipa::path(delete, path = "/vms/{vm}", tag = "vm", params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn remove(State(controller): State<Shared>, granted: Granted<RemoveVm>) -> ApiResult<Json<TaskView>> {
    let info = Order { controller: &controller }.remove(granted).await?;
    Ok(task_view(&controller, info))
}

/// Starts a VM. To start an encrypted one on another host than it ran on last takes the privilege to move it.
#[utoipa::path(post, path = "/vms/{vm}/start", tag = "vm", request_body = Start,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn start(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(how): Body<Start>,
) -> ApiResult<Json<TaskView>> {
    let vm = named(&controller, keys.first()).await?;
    let may = MayStart::ask(&controller, &caller, vm, how.host.as_ref()).await?;
    let info = Order { controller: &controller }.start(&may, how.host).await?;
    Ok(task_view(&controller, info))
}

/// Stops a VM.
#[utoipa::path(post, path = "/vms/{vm}/stop", tag = "vm", request_body = Stop,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn stop(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(how): Body<Stop>,
) -> ApiResult<Json<TaskView>> {
    let granted = grant_named(&controller, &caller, keys.first(), Note::default()).await?;
    let wait_ms = how.wait_s.unwrap_or(DEFAULT_STOP_S).min(MAX_STOP_S) * 1000;
    let info = Order { controller: &controller }.stop(granted, how.force, wait_ms).await?;
    Ok(task_view(&controller, info))
}

/// Reads a VM's serial console.
#[utoipa::path(get, path = "/vms/{vm}/console", tag = "vm",
    params(("vm" = String, Path, description = "name or ID"), ConsoleQuery),
    responses((status = 200, body = ConsoleView), (status = "4XX", body = Problem)))]
pub(super) async fn console(
    State(controller): State<Shared>,
    granted: Granted<ReadConsole>,
    Params(query): Params<ConsoleQuery>,
) -> ApiResult<Json<ConsoleView>> {
    let row = granted.on();
    let what = format!("cannot read the console of VM `{}`", row.name);
    let link = row.host.and_then(|host| controller.links.get(host)).ok_or_else(|| {
        let remedy = format!("start it with `ward vm start {}`", row.name);
        Problem::new(Code::VmNotRunning, what.clone(), "it has never run", remedy)
    })?;
    let wait_ms = query.wait_ms.min(MAX_WAIT_MS);
    let call = host::ReadConsole { vm: row.id, offset: query.offset, wait_ms };
    let timeout = std::time::Duration::from_millis(u64::from(wait_ms) + 10_000);
    let text = link.call_within(call, timeout).await.map_err(|error| error.into_problem(&what))?;
    Ok(Json(ConsoleView { end: text.end, text: text.text, power: text.power }))
}
