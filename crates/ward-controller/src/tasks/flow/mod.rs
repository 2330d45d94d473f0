//! What each kind of task does, step by step.

mod clone;
mod crypt;
mod disk;
mod key;
mod make;
mod native;
mod power;
mod remove;
mod tpm;
mod trusted;

use tokio::sync::watch;
use ward_rpc::api::host::{AbandonJob, HomeRef};
use ward_types::{AuditOutcome, EventKind, EventSubject, KeyRef, Problem, TaskInfo, TaskKind, VmConfig};

use super::board::Live;
use super::engine::about;
use super::run::{Run, Step, told};
use super::{KeyMark, Work};
use crate::authz::Target as _;
use crate::controller::Controller;
use crate::keys::{drop_from_hosts, event_of_host, name_of};
use crate::plan::{KeyChoice, keys as keys_by_component};
use crate::store::vm::VmRow;
use crate::store::{StoreError, Tx, cluster, event, needed, policy, server_key, task, vm};

/// Runs a task from the first step that is not behind it to its end.
pub(crate) async fn run(run: &mut Run) -> Step {
    match &run.work {
        Work::Make { .. } | Work::MakeEncrypted { .. } => make::run(run).await,
        Work::Clone { .. } => clone::run(run).await,
        Work::Crypt { .. } => crypt::run(run).await,
        Work::Tpm { .. } => tpm::run(run).await,
        Work::AddDisk { .. } | Work::ChangeDisk { .. } => disk::run(run).await,
        Work::Start { .. } => power::start(run).await,
        Work::Stop { .. } => power::stop(run).await,
        Work::Remove { .. } => remove::run(run).await,
    }
}

/// Writes down that a task has failed. Whoever did the work has undone it; what is left is in the inventory.
pub(crate) async fn give_up(
    controller: &Controller,
    info: &TaskInfo,
    work: &Work,
    problem: &Problem,
    live: &watch::Sender<Live>,
) -> Result<(), StoreError> {
    let now = abandon(controller, info, work).await?;
    let mut tx = controller.store.write().await?;
    let mut subject = about(info);
    subject.host = work.host();
    if matches!(info.kind, TaskKind::VmCreate | TaskKind::VmImport | TaskKind::VmClone) {
        vm::remove(&mut tx, info.vm).await?;
    }
    if let Some(now) = &now {
        vm::set_config(&mut tx, info.vm, now).await?;
        policy::follow(&mut tx, info.vm, &keys_by_component(now)).await?;
    }
    let vm = vm::get(&mut tx, info.vm).await?;
    let mut unneeded = Vec::new();
    for (n, key) in work.keys().enumerate() {
        unneeded.extend(tell_of_key(&mut tx, info, &subject, n, key).await?);
    }
    subject.provider = work.providers().next().cloned();
    subject.key = unneeded.first().cloned();
    let message = format!("{}: {}. {} [{}]", problem.what, problem.why, problem.remedy, problem.code);
    if let Some(kind) = event_of_host(problem.code) {
        event::record_problem(&mut tx, kind, &subject, problem).await?;
    }
    event::record_problem(&mut tx, EventKind::TaskFailed, &subject, problem).await?;
    let mut keys = unneeded.clone();
    keys.extend(vm.as_ref().map_or_else(Vec::new, VmRow::keys));
    told(&mut tx, info, AuditOutcome::Failed, keys, message).await?;
    let progress = live.borrow().progress;
    task::end(&mut tx, info.id, progress, Some(problem)).await?;
    tx.commit().await?;
    if let Some(vm) = vm {
        drop_from_hosts(controller, vm.cluster, unneeded).await;
    }
    if let Some(link) = work.host().and_then(|host| controller.links.get(host)) {
        // Swept by the host's supervisor where this fails.
        let _ = link.call(ward_rpc::api::host::ForgetJob { job: info.id }).await;
    }
    Ok(())
}

/// Records what is left at a key server of a task that came to nothing; tells the keys that hosts may forget.
async fn tell_of_key(
    tx: &mut Tx,
    info: &TaskInfo,
    subject: &EventSubject,
    n: usize,
    (choice, mark): (&KeyChoice, &KeyMark),
) -> Result<Vec<KeyRef>, StoreError> {
    let mut subject = EventSubject { provider: Some(choice.provider().clone()), ..subject.clone() };
    let (message, key) = match (choice, mark) {
        // It was there before, and is somebody else's affair.
        (KeyChoice::Existing(key), _) => return needed::unneeded(tx, vec![key.clone()]).await,
        (KeyChoice::New(_), KeyMark::None) => return Ok(Vec::new()),
        (KeyChoice::New(provider), KeyMark::Wanted) => {
            let name = name_of(info.id, n);
            let message = format!(
                "a key of the name {name} may have been made at key provider `{provider}` for a task that failed; \
                 nothing needs it; `ward key orphans {provider}` looks for it"
            );
            (message, None)
        }
        (KeyChoice::New(_), KeyMark::Made { key } | KeyMark::Ready { key }) => {
            // One that is wrapped was in the reference only, and is gone with it.
            if key.is_wrapped() {
                return Ok(Vec::new());
            }
            // The host was past the point at which it is undone.
            if needed::unneeded(tx, vec![key.clone()]).await?.is_empty() {
                return Ok(Vec::new());
            }
            subject.key = Some(key.clone());
            server_key::made(tx, key).await?;
            server_key::unneeded(tx, key, None).await?;
            let message =
                format!("key {key} was made for a task that failed; nothing needs it; it stays at the key server");
            (message, Some(key.clone()))
        }
    };
    event::record(tx, EventKind::KeyUnneeded, &subject, &message).await?;
    Ok(key.into_iter().collect())
}

/// Has the host settle what an interrupted run of its job left; tells what the VM is then, if there was anything. Where the
/// host does not answer, the next job on the VM does it, or its start.
async fn abandon(controller: &Controller, info: &TaskInfo, work: &Work) -> Result<Option<Box<VmConfig>>, StoreError> {
    let Some(link) = work.host().and_then(|host| controller.links.get(host)) else { return Ok(None) };
    if matches!(work, Work::Start { .. } | Work::Stop { .. } | Work::Remove { .. }) {
        return Ok(None);
    }
    let mut db = controller.store.read().await?;
    let Some(vm) = vm::get(&mut db, info.vm).await? else { return Ok(None) };
    let datastores = cluster::datastores(&mut db).await?;
    drop(db);
    let Some(datastore) = datastores.into_iter().find(|row| row.id == vm.datastore) else { return Ok(None) };
    let home = HomeRef { datastore: datastore.directory, directory: vm.directory };
    match link.call(AbandonJob { job: info.id, home }).await {
        Ok(abandoned) => Ok(abandoned.config),
        Err(error) => {
            tracing::warn!(host = %link.name, %error, task = %info.id, "cannot settle what a job may have left");
            Ok(None)
        }
    }
}
