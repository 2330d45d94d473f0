//! Making a VM from another one.

use ward_rpc::api::host::{CloneVm, JobSpec};
use ward_types::{EventKind, KeyRef, Problem};

use super::super::Work;
use super::super::job::{forget, run_job};
use super::super::run::{Run, Step};
use super::key::{Rehearsal, ready_keys};
use crate::plan;
use crate::store::{policy, vm};

pub(super) async fn run(run: &mut Run) -> Step {
    let Work::Clone { source, from, keys, plan, policies, replace_tpm, .. } = run.work.clone() else { return Ok(()) };
    let (id, name) = (run.info.vm, run.info.vm_name.clone());
    let spec_of = |keys: &[KeyRef]| {
        let (from, name, plan) = (from.clone(), name.clone(), plan.steps(keys)?);
        Some(JobSpec::Clone(CloneVm { from, id, name, plan, replace_tpm }))
    };
    let new = ready_keys(run, Rehearsal { have: &keys, spec: &spec_of }).await?;
    let spec = spec_of(&new).ok_or_else(|| Problem::internal(run.what(), "a key of the plan is missing"))?;
    let mut needed = keys.clone();
    needed.extend(new.into_iter().filter(|key| !keys.contains(key)));
    let done = run_job(run, &spec, &needed).await?;
    let config = done.config.ok_or_else(|| Problem::internal(run.what(), "the host made no VM"))?;
    let mut tx = run.controller.store.write().await?;
    vm::set_config(&mut tx, run.info.vm, &config).await?;
    for (component, name) in &policies {
        policy::assign(&mut tx, run.info.vm, *component, name).await?;
    }
    policy::follow(&mut tx, run.info.vm, &plan::keys(&config)).await?;
    run.notices(&mut tx, done.host, &done.notices).await?;
    let keys: Vec<&KeyRef> = config.keys();
    let message = format!("VM `{}` made from VM `{source}`", config.name);
    run.event(&mut tx, EventKind::VmCloned, Some(done.host), keys.first().copied(), &message).await?;
    run.succeed(tx).await?;
    forget(run, done.host).await;
    Ok(())
}
