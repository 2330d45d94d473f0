//! Giving a VM disks and taking them from it.

use ward_rpc::api::host::{AddDisk, DiskChange, DiskFrom, JobSpec};
use ward_types::{EventKind, KeyRef, Problem};

use super::super::Work;
use super::super::job::{forget, run_job};
use super::super::run::{Run, Step};
use super::key::{Rehearsal, ready_keys};
use crate::authz::Target as _;
use crate::plan::{self, DiskVerb, NewDiskPlan, Origin};
use crate::store::{policy, vm};

pub(super) async fn run(run: &mut Run) -> Step {
    let before = run.vm.keys();
    let (spec, needed, policies, message) = match run.work.clone() {
        Work::AddDisk { keys: have, plan, policies, .. } => {
            let spec_of = |keys: &[KeyRef]| Some(add(&plan, keys));
            let new = ready_keys(run, Rehearsal { have: &have, spec: &spec_of }).await?;
            let mut needed = have.clone();
            needed.extend(new.iter().filter(|key| !have.contains(key)).cloned());
            let under = plan.outcome(&new).0.map_or_else(|| "plain".to_owned(), |key| format!("under key {key}"));
            let from = match &plan.origin {
                Origin::Blank { .. } => "blank".to_owned(),
                Origin::Image { path, .. } | Origin::Volume { path, .. } => format!("from {}", path.display()),
            };
            (add(&plan, &new), needed, policies, format!("got {}, {from}, {under}", plan.id))
        }
        Work::ChangeDisk { keys, disk, verb, .. } => {
            let (change, what) = match verb {
                DiskVerb::Attach => (DiskChange::Attach { disk }, "attached again"),
                DiskVerb::Detach => (DiskChange::Detach { disk }, "detached; it stays in the home"),
                DiskVerb::Remove => (DiskChange::Remove { disk }, "deleted"),
            };
            (JobSpec::Disks(change), keys, Vec::new(), format!("{disk} {what}"))
        }
        _ => return Ok(()),
    };
    let done = run_job(run, &spec, &needed).await?;
    let config = done.config.ok_or_else(|| Problem::internal(run.what(), "the host tells of no VM"))?;
    let mut tx = run.controller.store.write().await?;
    vm::set_config(&mut tx, run.info.vm, &config).await?;
    for (component, name) in &policies {
        policy::assign(&mut tx, run.info.vm, *component, name).await?;
    }
    policy::follow(&mut tx, run.info.vm, &plan::keys(&config)).await?;
    run.notices(&mut tx, done.host, &done.notices).await?;
    let message = format!("VM `{}`: {message}", run.info.vm_name);
    run.event(&mut tx, EventKind::VmDisksChanged, Some(done.host), needed.last(), &message).await?;
    let unneeded = run.retire(&mut tx, before).await?;
    run.succeed(tx).await?;
    run.drop_keys(unneeded).await;
    forget(run, done.host).await;
    Ok(())
}

fn add(plan: &NewDiskPlan, keys: &[KeyRef]) -> JobSpec {
    let (key, new_dek) = plan.outcome(keys);
    let from = match plan.origin.clone() {
        Origin::Blank { size, format } => DiskFrom::Blank { size, format },
        Origin::Image { path, format } => DiskFrom::Image { path, format },
        Origin::Volume { path, label, known } => DiskFrom::Volume { path, label, known },
    };
    JobSpec::Disks(DiskChange::Add(AddDisk { id: plan.id, from, key, new_dek }))
}
