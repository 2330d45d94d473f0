//! Creating and importing.

use ward_rpc::api::host::JobSpec;
use ward_types::{Component, DiskId, EventKind, KeyRef, Problem, TaskKind};

use super::super::Work;
use super::super::job::{forget, run_job};
use super::super::run::{Run, Step};
use super::key::ready_keys;
use crate::store::{policy, vm};

pub(super) async fn run(run: &mut Run) -> Step {
    let keys = ready_keys(run).await?;
    let (spec, policies) = match &run.work {
        Work::Make { spec, .. } => (JobSpec::Create(spec.clone()), Vec::new()),
        Work::MakeEncrypted { spec, plan, policies, .. } => {
            let home = plan.key_of(Component::Home, &keys).cloned();
            let home = home.ok_or_else(|| Problem::internal(run.what(), "the key of its home is missing"))?;
            let disk = |n: u16| plan.key_of(Component::Disk(DiskId(n)), &keys).cloned();
            let disks = (0..).zip(&spec.disks).map(|(n, _)| disk(n)).collect();
            (JobSpec::CreateEncrypted { vm: spec.clone(), home, disks }, policies.clone())
        }
        _ => return Ok(()),
    };
    let done = run_job(run, &spec, &keys).await?;
    let config = done.config.ok_or_else(|| Problem::internal(run.what(), "the host made no VM"))?;
    let mut tx = run.controller.store.write().await?;
    vm::set_config(&mut tx, run.info.vm, &config).await?;
    for (component, name) in &policies {
        policy::assign(&mut tx, run.info.vm, *component, name).await?;
    }
    run.notices(&mut tx, done.host, &done.notices).await?;
    let (kind, verb) = match run.info.kind {
        TaskKind::VmImport => (EventKind::VmImported, "imported"),
        _ => (EventKind::VmCreated, "created"),
    };
    let message = format!("VM `{}` {verb}, with {} disks{}", config.name, config.disks.len(), under(&keys));
    run.event(&mut tx, kind, Some(done.host), keys.first(), &message).await?;
    run.succeed(tx).await?;
    forget(run, done.host).await;
    Ok(())
}

fn under(keys: &[KeyRef]) -> String {
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    if keys.is_empty() { String::new() } else { format!(", encrypted under key {}", keys.join(", ")) }
}
