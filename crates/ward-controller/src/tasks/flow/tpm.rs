//! Giving a VM a vTPM, and taking it away.

use ward_rpc::api::host::{JobSpec, TpmChange};
use ward_types::{EventKind, KeyRef, Problem};

use super::super::Work;
use super::super::job::{forget, run_job};
use super::super::run::{Run, Step};
use super::crypt::{keys_of, record};
use super::key::{Rehearsal, ready_keys};
use crate::plan;
use crate::store::{policy, vm};

pub(super) async fn run(run: &mut Run) -> Step {
    let before = run.vm.config.clone().ok_or_else(|| Problem::internal(run.what(), "the VM has no description"))?;
    let Work::Tpm { change, plan, .. } = run.work.clone() else { return Ok(()) };
    let spec_of = |keys: &[KeyRef]| plan.steps(keys).map(|plan| JobSpec::Tpm { plan, change: change.clone() });
    let keys = ready_keys(run, Rehearsal { have: &keys_of(&before), spec: &spec_of }).await?;
    let plan = plan.steps(&keys).ok_or_else(|| Problem::internal(run.what(), "a key of the plan is missing"))?;
    let mut needed = keys_of(&before);
    needed.extend(keys.into_iter().filter(|key| !before.keys().contains(&key)));
    let done = run_job(run, &JobSpec::Tpm { plan: plan.clone(), change: change.clone() }, &needed).await?;
    let config = done.config.as_ref().ok_or_else(|| Problem::internal(run.what(), "the host tells of no VM"))?;
    let mut tx = run.controller.store.write().await?;
    vm::set_config(&mut tx, run.info.vm, config).await?;
    policy::follow(&mut tx, run.info.vm, &plan::keys(config)).await?;
    run.notices(&mut tx, done.host, &done.notices).await?;
    record(run, &mut tx, &done, &before, &plan).await?;
    let name = &run.info.vm_name;
    let message = match change {
        TpmChange::Add => format!("VM `{name}` has a vTPM"),
        TpmChange::Remove => format!("VM `{name}` has no vTPM any more; what its guest kept in it is gone"),
        TpmChange::Certify { .. } => format!("the vTPM of VM `{name}` has other certificates"),
    };
    run.event(&mut tx, EventKind::VmTpmChanged, Some(done.host), config.home.key(), &message).await?;
    run.succeed(tx).await?;
    forget(run, done.host).await;
    Ok(())
}
