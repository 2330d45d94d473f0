//! Creating and importing.

use ward_rpc::api::host::JobSpec;
use ward_types::{EventKind, Problem, TaskKind};

use super::super::Work;
use super::super::job::{forget, run_job};
use super::super::run::{Run, Step};
use crate::store::vm;

pub(super) async fn run(run: &mut Run) -> Step {
    let Work::Make { spec, .. } = &run.work else { return Ok(()) };
    let spec = JobSpec::Create(spec.clone());
    let done = run_job(run, &spec, &[]).await?;
    let config = done.config.ok_or_else(|| Problem::internal(run.what(), "the host made no VM"))?;
    let mut tx = run.controller.store.write().await?;
    vm::set_config(&mut tx, run.info.vm, &config).await?;
    run.notices(&mut tx, done.host, &done.notices).await?;
    let (kind, verb) = match run.info.kind {
        TaskKind::VmImport => (EventKind::VmImported, "imported"),
        _ => (EventKind::VmCreated, "created"),
    };
    let message = format!("VM `{}` {verb}, with {} disks", config.name, config.disks.len());
    run.event(&mut tx, kind, Some(done.host), None, &message).await?;
    run.succeed(tx).await?;
    forget(run, done.host).await;
    Ok(())
}
