//! What each kind of task does, step by step.

mod crypt;
mod make;
mod native;
mod power;
mod remove;

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::watch;
use ward_rpc::api::host::DropKeys;
use ward_types::{EventKind, KeyRef, Problem, TaskInfo, TaskKind};

use super::board::Live;
use super::engine::about;
use super::run::{Run, Step};
use super::{KeyMark, Work};
use crate::controller::Controller;
use crate::hosts::Link;
use crate::store::vm::VmRow;
use crate::store::{StoreError, event, task, vm};

/// Runs a task from the first step that is not behind it to its end.
pub(crate) async fn run(run: &mut Run) -> Step {
    match &run.work {
        Work::Make { .. } => make::run(run).await,
        Work::Encrypt { .. } => crypt::encrypt(run).await,
        Work::Decrypt { .. } => crypt::decrypt(run).await,
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
    if matches!(info.kind, TaskKind::VmCreate | TaskKind::VmImport) {
        vm::remove(&mut tx, info.vm).await?;
    }
    let vm = vm::get(&mut tx, info.vm).await?;
    let mut unneeded = None;
    if let Work::Encrypt { key: crate::plan::KeyChoice::New(_), mark, .. } = work
        && let KeyMark::Made { key } | KeyMark::Ready { key } = mark
        // One that is wrapped was in the reference only, and is gone with it.
        && key.kdk().is_none()
    {
        subject.key = Some(key.clone());
        unneeded = Some(key.clone());
        let message =
            format!("key {key} was made for a task that failed; nothing needs it; it stays at the key server");
        event::record(&mut tx, EventKind::KeyUnneeded, &subject, &message).await?;
    }
    let message = format!("{}: {}. {} [{}]", problem.what, problem.why, problem.remedy, problem.code);
    if let Some(kind) = crate::keys::event_of_host(problem.code) {
        event::record(&mut tx, kind, &subject, &message).await?;
    }
    event::record(&mut tx, EventKind::TaskFailed, &subject, &message).await?;
    let progress = live.borrow().progress;
    task::end(&mut tx, info.id, progress, Some(problem)).await?;
    tx.commit().await?;
    if let Some(key) = unneeded {
        drop_key(controller, vm, key).await;
    }
    if let Some(link) = work.host().and_then(|host| controller.links.get(host)) {
        // Swept by the host's supervisor where this fails.
        let _ = link.call(ward_rpc::api::host::ForgetJob { job: info.id }).await;
    }
    Ok(())
}

/// Lets hosts forget the key of an encryption that came to nothing.
async fn drop_key(controller: &Controller, vm: Option<VmRow>, key: KeyRef) {
    let Some(vm) = vm else { return };
    let call = |link: Arc<Link>| {
        let keys = vec![key.clone()];
        // One that is away now comes back without it.
        async move { drop(link.call(DropKeys { keys }).await) }
    };
    join_all(controller.links.of_cluster(vm.cluster).into_iter().map(call)).await;
}
