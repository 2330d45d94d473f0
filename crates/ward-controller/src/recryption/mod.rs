//! The recryption of many VMs: a row with a row for each VM, worked off so many at a time, gone on with after a restart.
//!
//! What is left to do is worked out anew before each VM, so that nothing is done twice, whatever was killed when.

mod schedule;
mod select;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ward_types::{Code, EventKind, EventSubject, Privilege, Problem, TaskId, TaskInfo, TaskKind, TaskState, VmId};

use crate::api::auth::Caller;
use crate::api::types::{
    RecryptionPlanVm, RecryptionRequest, RecryptionState, RecryptionView, RecryptionVm, RecryptionVmState,
};
use crate::authz::operations::{BeginRecryption, ChangeRecryption, RecryptVm};
use crate::authz::{self, Granted, Note, Sight, Target as _, grant, grant_to_schedule, named};
use crate::controller::{Controller, Shared};
use crate::plan;
use crate::store::recryption::{self, RecryptionRow};
use crate::store::request::{self, Came};
use crate::store::vm::VmRow;
use crate::store::{StoreError, Tx, cluster, event, policy, provider, task, vm};
use crate::tasks::cannot;
use crate::tasks::submit::Order;
#[cfg(test)]
pub(crate) use schedule::look;
pub(crate) use schedule::schedule;
use select::{Fleet, FleetComponent, FleetVm, request_of};

/// How many VMs are worked on at a time unless said otherwise, and at most.
const CONCURRENCY: (u32, u32) = (4, 64);
/// How often it is looked for what has ended and what can be begun.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while a VM is worked on, which may take no longer than this.
const LOOK_EVERY_AT_WORK: Duration = Duration::from_millis(50);

/// What a request would come to.
pub(crate) struct Planned {
    /// What the privilege is needed on.
    pub(crate) fleet: authz::Fleet,
    /// What would be done.
    pub(crate) vms: Vec<RecryptionPlanVm>,
}

/// What a request would come to now, among the VMs that are to be shown.
pub(crate) async fn plan(
    controller: &Controller,
    request: &RecryptionRequest,
    sight: &Sight,
) -> Result<Planned, Problem> {
    check(controller, request).await?;
    let mut db = controller.store.read().await?;
    let (mut rows, clusters) = (vm::list(&mut db).await?, cluster::list(&mut db).await?);
    drop(db);
    rows.retain(|row| sight.sees(row));
    if rows.is_empty() {
        // Whoever may recrypt what will be in some cluster may know that nothing is there now.
        let place = clusters.into_iter().find(|cluster| sight.may(Privilege::CryptoRecrypt, cluster));
        let fleet = place.map_or_else(|| authz::Fleet::new(Vec::new()), authz::Fleet::nothing_in);
        return Ok(Planned { fleet, vms: Vec::new() });
    }
    let mut vms = load(controller, None).await?.select(request, Timestamp::now());
    vms.retain(|planned| rows.iter().any(|row| row.id == planned.vm));
    if !vms.is_empty() {
        rows.retain(|row| vms.iter().any(|planned| row.id == planned.vm));
    }
    let (able, unable): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| sight.may(Privilege::CryptoRecrypt, row));
    // A refusal is to name those VMs for which it is.
    Ok(Planned { fleet: authz::Fleet::new(if unable.is_empty() { able } else { unable }), vms })
}

/// What is due by the clock, but for VMs that are taken.
async fn due(
    controller: &Controller,
    request: &RecryptionRequest,
    now: Timestamp,
    taken: &BTreeSet<VmId>,
) -> Result<Planned, Problem> {
    check(controller, request).await?;
    let mut vms = load(controller, None).await?.select(request, now);
    vms.retain(|planned| !taken.contains(&planned.vm));
    let mut rows = vm::list(&mut *controller.store.read().await?).await?;
    rows.retain(|row| vms.iter().any(|planned| row.id == planned.vm));
    Ok(Planned { fleet: authz::Fleet::new(rows), vms })
}

/// Begins it.
pub(crate) async fn begin(
    controller: &Shared,
    granted: Granted<BeginRecryption>,
    request: RecryptionRequest,
    vms: Vec<RecryptionPlanVm>,
    now: Timestamp,
) -> Result<TaskId, Problem> {
    let row = RecryptionRow {
        id: granted.caller().task(),
        user: granted.user().clone(),
        request,
        state: RecryptionState::Running,
        created: now,
        ended: None,
    };
    let item = |vm: RecryptionPlanVm| RecryptionVm {
        vm: vm.vm,
        name: vm.name,
        state: RecryptionVmState::Pending,
        task: None,
        problem: None,
    };
    let vms: Vec<_> = vms.into_iter().map(item).collect();
    let mut tx = controller.store.write().await?;
    recryption::add(&mut tx, &row, &vms).await?;
    if let Some(key) = granted.caller().request() {
        request::began(&mut tx, "cannot recrypt VMs", key, &Came::Recryption(row.id)).await?;
    }
    let message = format!("recryption {} of {} VMs begun by `{}`", row.id, vms.len(), row.user);
    event::record(&mut tx, EventKind::RecryptionStarted, &about(&row), &message).await?;
    let id = row.id;
    if vms.is_empty() {
        end(&mut tx, &row, RecryptionState::Ended, &vms).await?;
        tx.commit().await?;
        return Ok(id);
    }
    tx.commit().await?;
    crash_point::reach("recryption.accepted");
    spawn(controller, row);
    Ok(id)
}

fn about(row: &RecryptionRow) -> EventSubject {
    EventSubject { user: Some(row.user.clone()), task: Some(row.id), ..EventSubject::default() }
}

async fn check(controller: &Controller, request: &RecryptionRequest) -> Result<(), Problem> {
    let what = "cannot recrypt VMs";
    if request.concurrency.is_some_and(|most| !(1..=CONCURRENCY.1).contains(&most)) {
        let why = format!("so many VMs can't be worked on at a time; 1 to {} can", CONCURRENCY.1);
        return Err(Problem::new(Code::RequestInvalid, what, why, "give another number"));
    }
    // That keys come from a provider that is gone is a reason to move away from it, if there is another copy of them.
    let Some(to) = request.to.as_ref().or(request.provider.as_ref()) else { return Ok(()) };
    if provider::get(&mut *controller.store.read().await?, to).await?.is_none() {
        let why = format!("there is no key provider `{to}` to take new keys from");
        return Err(Problem::new(Code::NotFound, what, why, "`ward provider ls` lists them"));
    }
    Ok(())
}

/// What is known of all VMs, or of one.
async fn load(controller: &Controller, one: Option<VmId>) -> Result<Fleet, StoreError> {
    let mut db = controller.store.read().await?;
    let mut assigned = policy::assigned(&mut db, one).await?;
    let rows = match one {
        None => vm::list(&mut db).await?,
        Some(id) => vm::get(&mut db, id).await?.into_iter().collect(),
    };
    let keys = one.map(|_| rows.iter().flat_map(VmRow::keys).collect::<Vec<_>>());
    let mut vms = Vec::new();
    for row in rows {
        let Some(config) = &row.config else { continue };
        let component = |(component, key): (_, Option<_>)| {
            Some(FleetComponent { component, key: key?, policy: assigned.remove(&(row.id, component)) })
        };
        let components = plan::keys(config).into_iter().filter_map(component).collect();
        vms.push(FleetVm { id: row.id, name: row.name, components });
    }
    let policies = policy::list(&mut db).await?.into_iter();
    Ok(Fleet {
        vms,
        ages: recryption::key_ages(&mut db, keys.as_deref()).await?,
        rotations: recryption::rotations(&mut db).await?,
        policies: policies.filter_map(|row| row.rotate_days.map(|days| (row.name, days))).collect(),
    })
}

/// One as it stands.
pub(crate) async fn view(controller: &Controller, id: TaskId) -> Result<Option<RecryptionView>, StoreError> {
    let mut db = controller.store.read().await?;
    let Some(row) = recryption::get(&mut db, id).await? else { return Ok(None) };
    let vms = recryption::vms(&mut db, id).await?;
    Ok(Some(summary(row, &vms)))
}

/// Its VMs, by name: the report.
pub(crate) async fn report(controller: &Controller, id: TaskId) -> Result<Vec<RecryptionVm>, StoreError> {
    recryption::vms(&mut *controller.store.read().await?, id).await
}

/// The newest that are to be shown, at most `limit`, and whether there are more.
pub(crate) async fn newest(
    controller: &Controller,
    sight: &Sight,
    after: Option<TaskId>,
    limit: usize,
) -> Result<(Vec<RecryptionView>, bool), StoreError> {
    let mut db = controller.store.read().await?;
    let mut views = Vec::new();
    for row in recryption::list(&mut db).await? {
        if after.is_some_and(|after| row.id >= after) || !sight.sees(&authz::Fleet::of(&mut db, row.id).await?) {
            continue;
        }
        if views.len() == limit {
            return Ok((views, true));
        }
        let vms = recryption::vms(&mut db, row.id).await?;
        views.push(summary(row, &vms));
    }
    Ok((views, false))
}

fn summary(row: RecryptionRow, vms: &[RecryptionVm]) -> RecryptionView {
    let count = |state| vms.iter().filter(|vm| vm.state == state).count();
    RecryptionView {
        id: row.id,
        request: row.request,
        state: row.state,
        user: row.user,
        created: row.created,
        ended: row.ended,
        total: vms.len(),
        done: count(RecryptionVmState::Done),
        failed: count(RecryptionVmState::Failed),
    }
}

/// Pauses it, lets it go on, or cancels it.
pub(crate) async fn change(
    controller: &Controller,
    granted: &Granted<ChangeRecryption>,
    state: RecryptionState,
) -> Result<TaskId, Problem> {
    let gone = || Problem::internal("cannot change a recryption", "it was never begun");
    let id = granted.on().recryption().ok_or_else(gone)?;
    let mut tx = controller.store.write().await?;
    let row = recryption::get(&mut tx, id).await?;
    let is_cancelled = row.as_ref().is_some_and(|row| row.state == RecryptionState::Cancelling);
    let (Some(row), false) = (row, is_cancelled && state != RecryptionState::Cancelling) else {
        let why = "there is none of that ID, or it is being cancelled";
        return Err(Problem::new(Code::NotFound, format!("cannot change recryption {id}"), why, "`ward recrypt ls`"));
    };
    if !recryption::set_state(&mut tx, id, state).await? {
        let why = format!("it has {} already", row.state);
        let what = format!("cannot change recryption {id}");
        return Err(Problem::new(Code::Cancelled, what, why, "begin another with `ward recrypt run`"));
    }
    let subject = EventSubject { user: Some(granted.user().clone()), ..about(&row) };
    event::record(&mut tx, EventKind::RecryptionChanged, &subject, &format!("recryption {id} is {state}")).await?;
    tx.commit().await?;
    Ok(id)
}

/// Goes on with those that have not ended.
pub(crate) async fn resume_all(controller: &Shared) -> Result<(), StoreError> {
    for row in recryption::open(&mut *controller.store.read().await?).await? {
        spawn(controller, row);
    }
    Ok(())
}

fn spawn(controller: &Shared, row: RecryptionRow) {
    let shared = Arc::clone(controller);
    controller.background.spawn(async move {
        // Nobody else changes how far it is with its VMs, so they are read once.
        let mut vms = None;
        loop {
            let ended = tokio::select! {
                () = shared.shutdown.cancelled() => return,
                ended = round(&shared, &row, &mut vms) => ended,
            };
            match ended {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, recryption = %row.id, "a recryption waits for the store");
                    vms = None;
                }
            }
            let works = vms.as_ref().is_some_and(|vms| running(vms) > 0);
            tokio::select! {
                () = shared.shutdown.cancelled() => return,
                () = tokio::time::sleep(if works { LOOK_EVERY_AT_WORK } else { LOOK_EVERY }) => {}
            }
        }
    });
}

/// Notes what has ended, begins what can be begun; says whether all is over.
async fn round(
    controller: &Shared,
    row: &RecryptionRow,
    known: &mut Option<Vec<RecryptionVm>>,
) -> Result<bool, StoreError> {
    let now = {
        let mut db = controller.store.read().await?;
        let Some(now) = recryption::get(&mut db, row.id).await? else { return Ok(true) };
        if known.is_none() {
            *known = Some(recryption::vms(&mut db, row.id).await?);
        }
        now
    };
    let vms = known.get_or_insert_default();
    if now.state.is_final() {
        return Ok(true);
    }
    for item in vms.iter_mut().filter(|item| item.state == RecryptionVmState::Running) {
        look_at(controller, row.id, item).await?;
    }
    let most = usize::try_from(row.request.concurrency.unwrap_or(CONCURRENCY.0)).unwrap_or(1);
    if now.state == RecryptionState::Running {
        let mut room = most.saturating_sub(running(vms));
        for item in vms.iter_mut().filter(|item| item.state == RecryptionVmState::Pending) {
            if room == 0 {
                break;
            }
            let left = load(controller, Some(item.vm)).await?.select(&row.request, row.created).pop();
            start(controller, row, item, left.as_ref()).await?;
            room -= usize::from(item.state == RecryptionVmState::Running);
        }
    }
    let pending = vms.iter().any(|vm| vm.state == RecryptionVmState::Pending);
    let end = match now.state {
        _ if running(vms) > 0 => return Ok(false),
        RecryptionState::Cancelling => RecryptionState::Cancelled,
        _ if pending => return Ok(false),
        _ => RecryptionState::Ended,
    };
    finish(controller, row, end, vms).await?;
    Ok(true)
}

fn running(vms: &[RecryptionVm]) -> usize {
    vms.iter().filter(|vm| vm.state == RecryptionVmState::Running).count()
}

/// Notes how the task of a VM ended, if it has.
async fn look_at(controller: &Controller, id: TaskId, item: &mut RecryptionVm) -> Result<(), StoreError> {
    let task = match item.task {
        Some(task) => task::get(&mut *controller.store.read().await?, task).await?,
        None => None,
    };
    let (state, problem) = match task {
        Some(task) if !task.state.is_final() => return Ok(()),
        Some(task) if task.state == TaskState::Succeeded => (RecryptionVmState::Done, None),
        Some(task) => (RecryptionVmState::Failed, task.problem),
        None => (RecryptionVmState::Pending, None),
    };
    set(controller, id, item, state, None, problem).await
}

async fn start(
    controller: &Shared,
    row: &RecryptionRow,
    item: &mut RecryptionVm,
    left: Option<&RecryptionPlanVm>,
) -> Result<(), StoreError> {
    let Some(left) = left else {
        // A task of ours, of which a crash kept us from taking note, did it; or somebody else did.
        return set(controller, row.id, item, RecryptionVmState::Skipped, None, None).await;
    };
    match begin_vm(controller, row, left).await {
        Ok(task) => {
            crash_point::reach("recryption.begun");
            set(controller, row.id, item, RecryptionVmState::Running, Some(task.id), None).await
        }
        // Another task works on it: later.
        Err(problem) if problem.code == Code::Busy => Ok(()),
        Err(problem) => set(controller, row.id, item, RecryptionVmState::Failed, None, Some(problem)).await,
    }
}

/// Begins the task of a VM. That whoever asked may is looked at anew: much may have happened since.
async fn begin_vm(controller: &Shared, row: &RecryptionRow, left: &RecryptionPlanVm) -> Result<TaskInfo, Problem> {
    let vm: VmRow = named(controller, &left.vm.to_string()).await?;
    let what = cannot(TaskKind::VmRecrypt, &vm.name);
    let note = Note::from(format!("recryption {}", row.id));
    let granted: Granted<RecryptVm> = if Caller::is_scheduler(&row.user) {
        grant_to_schedule(controller, vm, note).await?
    } else {
        let caller = Caller::who_began(controller, &what, &row.user).await?;
        grant(controller, &caller, vm, note).await?
    };
    Order { controller }.crypt(&granted.into(), &request_of(left)).await
}

async fn set(
    controller: &Controller,
    id: TaskId,
    item: &mut RecryptionVm,
    state: RecryptionVmState,
    task: Option<TaskId>,
    problem: Option<Problem>,
) -> Result<(), StoreError> {
    let mut tx = controller.store.write().await?;
    recryption::set_vm(&mut tx, id, item.vm, state, task, problem.as_ref()).await?;
    tx.commit().await?;
    crash_point::reach("recryption.noted");
    (item.state, item.problem) = (state, problem);
    item.task = task.or(item.task);
    Ok(())
}

async fn finish(
    controller: &Controller,
    row: &RecryptionRow,
    end: RecryptionState,
    vms: &[RecryptionVm],
) -> Result<(), StoreError> {
    let mut tx = controller.store.write().await?;
    self::end(&mut tx, row, end, vms).await?;
    tx.commit().await?;
    crash_point::reach("recryption.ended");
    Ok(())
}

async fn end(tx: &mut Tx, row: &RecryptionRow, end: RecryptionState, vms: &[RecryptionVm]) -> Result<(), StoreError> {
    let count = |state| vms.iter().filter(|vm| vm.state == state).count();
    recryption::set_state(tx, row.id, end).await?;
    let message = format!(
        "recryption {} has {end}: {} VMs done, {} failed, {} needed nothing, {} not begun",
        row.id,
        count(RecryptionVmState::Done),
        count(RecryptionVmState::Failed),
        count(RecryptionVmState::Skipped),
        count(RecryptionVmState::Pending)
    );
    event::record(tx, EventKind::RecryptionEnded, &about(row), &message).await
}
