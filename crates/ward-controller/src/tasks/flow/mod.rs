//! What each kind of task does, step by step.

mod clone;
mod crypt;
mod key;
mod make;
mod power;
mod remove;

use tokio::sync::watch;
use ward_types::{EventKind, Problem, TaskInfo, TaskKind};

use super::board::Live;
use super::engine::about;
use super::run::{Run, Step};
use super::{KeyMark, Work};
use crate::controller::Controller;
use crate::keys;
use crate::plan::KeyChoice;
use crate::store::{StoreError, event, task, vm};

/// Runs a task from the first step that is not behind it to its end.
pub(crate) async fn run(run: &mut Run) -> Step {
    match &run.work {
        Work::Make { .. } | Work::MakeEncrypted { .. } => make::run(run).await,
        Work::Clone { .. } => clone::run(run).await,
        Work::Crypt { .. } => crypt::run(run).await,
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
    let mut tx = controller.store.write().await?;
    let mut subject = about(info);
    subject.host = work.host();
    if matches!(info.kind, TaskKind::VmCreate | TaskKind::VmImport | TaskKind::VmClone) {
        vm::remove(&mut tx, info.vm).await?;
    }
    let vm = vm::get(&mut tx, info.vm).await?;
    let mut unneeded = Vec::new();
    for (choice, mark) in work.keys() {
        let (KeyChoice::New(_), KeyMark::Made { key } | KeyMark::Ready { key }) = (choice, mark) else { continue };
        subject.key = Some(key.clone());
        unneeded.push(key.clone());
        let message =
            format!("key {key} was made for a task that failed; nothing needs it; it stays at the key server");
        event::record(&mut tx, EventKind::KeyUnneeded, &subject, &message).await?;
    }
    let message = format!("{}: {}. {} [{}]", problem.what, problem.why, problem.remedy, problem.code);
    event::record(&mut tx, EventKind::TaskFailed, &subject, &message).await?;
    let progress = live.borrow().progress;
    task::end(&mut tx, info.id, progress, Some(problem)).await?;
    tx.commit().await?;
    if let Some(vm) = vm {
        keys::drop_from_hosts(controller, vm.cluster, unneeded).await;
    }
    if let Some(link) = work.host().and_then(|host| controller.links.get(host)) {
        // Swept by the host's supervisor where this fails.
        let _ = link.call(ward_rpc::api::host::ForgetJob { job: info.id }).await;
    }
    Ok(())
}
