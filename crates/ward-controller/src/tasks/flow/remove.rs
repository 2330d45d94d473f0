//! Deleting.

use ward_rpc::api::host::JobSpec;
use ward_types::EventKind;

use super::super::Work;
use super::super::job::{forget, run_job};
use super::super::run::{Run, Step};
use crate::store::vm;

pub(super) async fn run(run: &mut Run) -> Step {
    let Work::Remove { keys, .. } = &run.work else { return Ok(()) };
    let keys = keys.clone();
    // Deleting needs no key: a VM whose key is lost must not stay for ever.
    let done = run_job(run, &JobSpec::Remove, &[]).await?;
    let mut tx = run.controller.store.write().await?;
    vm::remove(&mut tx, run.info.vm).await?;
    let message = format!("VM `{}` deleted with its home", run.info.vm_name);
    run.event(&mut tx, EventKind::VmRemoved, Some(done.host), keys.first(), &message).await?;
    let unneeded = run.retire(&mut tx, keys).await?;
    run.succeed(tx).await?;
    run.drop_keys(unneeded).await;
    forget(run, done.host).await;
    Ok(())
}
