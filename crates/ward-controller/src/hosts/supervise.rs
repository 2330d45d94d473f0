//! Looking after a host: whether it answers, whether it has its keys, which VMs it runs, which jobs nobody wants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ward_rpc::api::host::{ForgetJob, HostStatus, Status, VmPower};
use ward_types::{Code, EventKind, EventSubject, KdkRef, KeyRef, Power, Problem, ProviderName, VmId};

use super::refill::Refill;
use super::{Link, note_if_stopped};
use crate::controller::Shared;
use crate::store::native::NativeRow;
use crate::store::trusted::TrustedRow;
use crate::store::{StoreError, event, native, task, trusted, vm};

/// How often a host is asked.
const INTERVAL: Duration = Duration::from_secs(2);
/// How soon it is asked again where it did not answer the first time.
const SECOND_TRY: Duration = Duration::from_millis(500);
/// How long it may take to say how it is.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Looks after a host until the controller ends.
pub(crate) async fn supervise(controller: Shared, link: Arc<Link>) {
    let mut misses = 0u32;
    let refill = Refill::default();
    let mut native_fault = None;
    let mut trouble = None;
    let (mut verdicts, mut untold) = (BTreeMap::new(), None);
    let refilling = Arc::new(AtomicBool::new(false));
    loop {
        let round = async {
            // Before the host is asked: what it must hold by then it holds by then.
            let before = Before::load(&controller, &link).await?;
            match link.call_within(Status {}, TIMEOUT).await {
                Ok(status) => {
                    misses = 0;
                    answered(&controller, &link, &before, &status).await?;
                    say_trouble(&controller, &link, &status, &mut trouble).await;
                    if before.native(&link, &status) != status.native.keys && status.unfit.is_none() {
                        give_native(&controller, &link, &mut native_fault).await;
                    }
                    crate::trusted::note_verdicts(&controller, &link, &status.trust, &mut verdicts).await;
                    if before.trusted(&link) != applied(&status) {
                        tell_trusted(&controller, &link, &mut untold).await;
                    }
                    if let Some(wanted) = refill.wanted(&before.keys, &status)
                        && !refilling.swap(true, Ordering::AcqRel)
                    {
                        let (controller, link) = (Arc::clone(&controller), Arc::clone(&link));
                        let (running, refilling) = (refill.clone(), Arc::clone(&refilling));
                        controller.clone().background.spawn(async move {
                            running.run(&controller, &link, wanted).await;
                            refilling.store(false, Ordering::Release);
                        });
                    }
                }
                Err(error) => {
                    misses += 1;
                    tracing::debug!(host = %link.name, %error, "no answer");
                    if misses >= 2 && link.missed() {
                        let message = format!("host `{}` does not answer: {error}", link.name);
                        controller.record(EventKind::HostDisconnected, &about(&link), &message).await;
                    }
                }
            }
            Ok::<_, StoreError>(())
        };
        let pause = tokio::select! {
            () = controller.shutdown.cancelled() => return,
            done = round => {
                if let Err(error) = done {
                    tracing::error!(host = %link.name, %error, "cannot look after a host");
                }
                if misses == 1 { SECOND_TRY } else { INTERVAL }
            }
        };
        tokio::select! {
            () = controller.shutdown.cancelled() => return,
            () = link.poke.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn about(link: &Link) -> EventSubject {
    EventSubject { host: Some(link.id), ..EventSubject::default() }
}

/// What the inventory said before the host was asked.
struct Before {
    /// The keys that the host ought to hold.
    keys: Vec<KeyRef>,
    /// The VMs that ought to run there.
    on: Vec<VmId>,
    /// The native providers.
    native: Vec<NativeRow>,
    /// The trusted providers.
    trusted: Vec<TrustedRow>,
}

impl Before {
    async fn load(controller: &Shared, link: &Link) -> Result<Self, StoreError> {
        let mut db = controller.store.read().await?;
        let keys = vm::keys_of_cluster(&mut db, link.cluster).await?;
        let rows = vm::list(&mut db).await?;
        let on = rows.iter().filter(|row| row.power == Power::On && row.host == Some(link.id)).map(|row| row.id);
        let on = on.collect();
        Ok(Self { keys, on, native: native::list(&mut db).await?, trusted: trusted::list(&mut db).await? })
    }

    /// The trusted providers that the host is to be told of, each with the digest of its description.
    fn trusted(&self, link: &Link) -> BTreeMap<ProviderName, String> {
        crate::trusted::desired(&self.trusted, link.cluster)
    }

    /// The keys of native providers that the host is to have.
    fn native(&self, link: &Link, status: &HostStatus) -> Vec<KdkRef> {
        crate::native::wanted(&self.native, link.cluster, status.native.tpm)
    }
}

fn applied(status: &HostStatus) -> BTreeMap<ProviderName, String> {
    status.trust.iter().map(|trust| (trust.provider.clone(), trust.applied.clone())).collect()
}

/// Tells a host of trusted providers. What is wrong is said once.
async fn tell_trusted(controller: &Shared, link: &Link, said: &mut Option<Code>) {
    match crate::trusted::bring_up_to_date(controller, link, false).await {
        Ok(_) => *said = None,
        Err(problem) if *said != Some(problem.code) => {
            let message = format!("{}: {}. {}", problem.what, problem.why, problem.remedy);
            controller.record(EventKind::HostNotAttested, &about(link), &message).await;
            *said = Some(problem.code);
        }
        Err(_) => {}
    }
}

/// Says once that a host can't use its TPM, or what it has sealed.
async fn say_trouble(controller: &Shared, link: &Link, status: &HostStatus, said: &mut Option<Problem>) {
    let trouble = &status.native.trouble;
    if trouble != said
        && let Some(problem) = trouble
    {
        let message = format!("host `{}`: {}: {}. {}", link.name, problem.what, problem.why, problem.remedy);
        controller.record(EventKind::KeyNotOnHost, &about(link), &message).await;
    }
    said.clone_from(trouble);
}

/// Brings a host up to date that was away, or has started anew. What is wrong is said once.
async fn give_native(controller: &Shared, link: &Link, said: &mut Option<Code>) {
    match crate::native::bring_up_to_date(controller, link).await {
        Ok(has) => {
            *said = None;
            let keys: Vec<_> = has.keys.iter().map(ToString::to_string).collect();
            let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
            let message = format!("host `{}` brought up to date: keys of native providers: {keys}", link.name);
            controller.record(EventKind::KeyPushed, &about(link), &message).await;
        }
        Err(problem) if *said != Some(problem.code) => {
            let message = format!("{}: {}. {}", problem.what, problem.why, problem.remedy);
            controller.record(EventKind::KeyHostUnfit, &about(link), &message).await;
            *said = Some(problem.code);
        }
        Err(_) => {}
    }
}

async fn answered(controller: &Shared, link: &Link, before: &Before, status: &HostStatus) -> Result<(), StoreError> {
    if link.seen(status.clone()) {
        let message = format!("host `{}` answers (agent {})", link.name, status.version);
        controller.record(EventKind::HostConnected, &about(link), &message).await;
    }
    for &id in before.on.iter().filter(|id| !status.vms.contains(id)) {
        note_if_stopped(controller, link, id).await?;
    }
    for &id in status.vms.iter().filter(|id| !before.on.contains(id)) {
        note_that_it_runs(controller, link, id).await?;
    }
    sweep_jobs(controller, link, status).await
}

/// Corrects the row of a VM that runs here though the inventory does not know: the controller was killed, or its
/// database put back from a backup.
async fn note_that_it_runs(controller: &Shared, link: &Link, id: VmId) -> Result<(), StoreError> {
    // The answer may be older than the end of a task that stopped it.
    if !matches!(link.call(VmPower { vm: id }).await, Ok(Power::On)) {
        return Ok(());
    }
    let mut tx = controller.store.write().await?;
    let Some(row) = vm::get(&mut tx, id).await? else { return Ok(()) };
    let known = row.power == Power::On && row.host == Some(link.id);
    if known || task::open_of_vm(&mut tx, id).await?.is_some() {
        return Ok(());
    }
    vm::set_power(&mut tx, id, Power::On, Some(link.id)).await?;
    let subject = EventSubject { vm: Some(id), ..about(link) };
    let message = format!("VM `{}` was found running on host `{}`", row.name, link.name);
    event::record(&mut tx, EventKind::VmStarted, &subject, &message).await?;
    tx.commit().await
}

/// Lets the host forget jobs that have ended and whose tasks have too.
async fn sweep_jobs(controller: &Shared, link: &Link, status: &HostStatus) -> Result<(), StoreError> {
    for job in status.jobs.iter().filter(|job| job.outcome.is_some()) {
        let task = task::get(&mut *controller.store.read().await?, job.job).await?;
        if task.is_none_or(|task| task.state.is_final())
            && let Err(error) = link.call(ForgetJob { job: job.job }).await
        {
            tracing::debug!(host = %link.name, %error, "cannot let a job be forgotten");
        }
    }
    Ok(())
}
