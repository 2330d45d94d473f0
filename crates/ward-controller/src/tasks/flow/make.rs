//! Creating and importing.

use ward_rpc::api::host::{CreateVm, JobSpec};
use ward_types::{Component, DiskId, EventKind, KeyRef, Problem, TaskKind};

use super::super::Work;
use super::super::job::{forget, run_job};
use super::super::run::{Run, Step};
use super::key::{Rehearsal, ready_keys};
use crate::plan::CryptPlan;
use crate::store::{policy, vm};

pub(super) async fn run(run: &mut Run) -> Step {
    let (spec, keys, policies) = match run.work.clone() {
        Work::Make { spec, policies, .. } => (JobSpec::Create(spec), Vec::new(), policies),
        Work::MakeEncrypted { spec, plan, policies, .. } => {
            let spec_of = |keys: &[KeyRef]| encrypted(&spec, &plan, keys);
            let keys = ready_keys(run, Rehearsal { have: &[], spec: &spec_of }).await?;
            let spec = spec_of(&keys).ok_or_else(|| Problem::internal(run.what(), "the key of its home is missing"))?;
            (spec, keys, policies)
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

fn encrypted(vm: &CreateVm, plan: &CryptPlan, keys: &[KeyRef]) -> Option<JobSpec> {
    let home = plan.key_of(Component::Home, keys).cloned()?;
    let disk = |n: u16| plan.key_of(Component::Disk(DiskId(n)), keys).cloned();
    let disks = (0..).zip(&vm.disks).map(|(n, _)| disk(n)).collect();
    Some(JobSpec::CreateEncrypted { vm: vm.clone(), home, disks })
}

fn under(keys: &[KeyRef]) -> String {
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    if keys.is_empty() { String::new() } else { format!(", encrypted under key {}", keys.join(", ")) }
}
