//! Encrypting, decrypting and recrypting: the keys first, then the host's work.

use ward_rpc::api::host::JobSpec;
use ward_types::{Component, CryptoPlan, EventKind, KeyRef, Problem, StepAction, VmConfig};

use super::super::Work;
use super::super::job::{Done, forget, register_keys, run_job};
use super::super::run::{Run, Step};
use super::key::{Rehearsal, ready_keys};
use crate::plan;
use crate::store::{Tx, policy, vm};

pub(super) async fn run(run: &mut Run) -> Step {
    let before = run.vm.config.clone().ok_or_else(|| Problem::internal(run.what(), "the VM has no description"))?;
    let Work::Crypt { plan, policies, .. } = run.work.clone() else { return Ok(()) };
    if plan.steps.is_empty() && !plan.registers.is_empty() {
        register_keys(run, &plan.registers).await?;
    }
    let spec_of = |keys: &[KeyRef]| plan.steps(keys).map(|plan| JobSpec::Crypt { plan });
    let keys = ready_keys(run, Rehearsal { have: &keys_of(&before), spec: &spec_of }).await?;
    let plan = plan.steps(&keys).ok_or_else(|| Problem::internal(run.what(), "a key of the plan is missing"))?;
    let done = if plan.steps().is_empty() {
        None
    } else {
        // The home and what is to be decrypted or recrypted open with the keys that they have.
        let mut needed = keys_of(&before);
        needed.extend(keys.iter().filter(|key| !before.keys().contains(key)).cloned());
        Some(run_job(run, &JobSpec::Crypt { plan: plan.clone() }, &needed).await?)
    };
    let mut tx = run.controller.store.write().await?;
    let mut unneeded = Vec::new();
    if let Some(done) = &done {
        let config = done.config.as_ref().ok_or_else(|| Problem::internal(run.what(), "the host tells of no VM"))?;
        vm::set_config(&mut tx, run.info.vm, config).await?;
        policy::follow(&mut tx, run.info.vm, &plan::keys(config)).await?;
        run.notices(&mut tx, done.host, &done.notices).await?;
        record(run, &mut tx, done, &before, &plan).await?;
        unneeded = run.retire(&mut tx, keys_of(&before)).await?;
    }
    for (component, name) in &policies {
        if policy::assign(&mut tx, run.info.vm, *component, name).await? {
            let message = format!("{component} of VM `{}` is under storage policy `{name}`", run.info.vm_name);
            run.event(&mut tx, EventKind::VmPolicySet, None, None, &message).await?;
        }
    }
    run.succeed(tx).await?;
    run.drop_keys(unneeded).await;
    if let Some(done) = done {
        forget(run, done.host).await;
    }
    Ok(())
}

/// One event for each kind of change, with all components that it was made to.
pub(super) async fn record(run: &Run, tx: &mut Tx, done: &Done, before: &VmConfig, plan: &CryptoPlan) -> Step {
    let name = &run.info.vm_name;
    let old = plan::keys(before);
    let mut told: Vec<(EventKind, KeyRef, String, Vec<Component>)> = Vec::new();
    for step in plan.steps() {
        let old = old.get(&step.component).cloned().flatten();
        let under = |key: &Option<KeyRef>| key.as_ref().map_or_else(String::new, |key| format!(" (it was {key})"));
        let (kind, key, text) = match &step.action {
            StepAction::Encrypt { key } => (EventKind::VmEncrypted, key.clone(), format!("encrypted under key {key}")),
            StepAction::ShallowRecrypt { key } => {
                (EventKind::VmRecrypted, key.clone(), format!("given the new KEK {key}{}", under(&old)))
            }
            StepAction::DeepRecrypt { key } => {
                (EventKind::VmRecrypted, key.clone(), format!("encrypted anew under key {key}{}", under(&old)))
            }
            StepAction::Decrypt => match old {
                Some(key) => (EventKind::VmDecrypted, key, "decrypted".to_owned()),
                None => continue,
            },
        };
        match told.iter_mut().find(|(other, _, said, _)| *other == kind && *said == text) {
            Some((_, _, _, components)) => components.push(step.component),
            None => told.push((kind, key, text, vec![step.component])),
        }
    }
    for (kind, key, text, components) in told {
        let parts: Vec<_> = components.iter().map(ToString::to_string).collect();
        let message = format!("VM `{name}` {text}: {}", parts.join(", "));
        run.event(tx, kind, Some(done.host), Some(&key), &message).await?;
    }
    Ok(())
}

pub(super) fn keys_of(config: &VmConfig) -> Vec<KeyRef> {
    config.keys().into_iter().cloned().collect()
}
