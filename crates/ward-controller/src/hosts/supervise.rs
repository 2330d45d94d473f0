//! Looking after a host: whether it answers, whether it has its keys, which VMs it runs, which jobs nobody wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ward_rpc::CallError;
use ward_rpc::api::host::{BrokenVm, ForgetJob, HostStatus, KeysMark, VmPart, VmPower};
use ward_types::{Code, EventKind, EventSubject, KdkRef, Power, Problem, ProviderName, VmId};

use super::attend::Attention;
use super::keys::Ought;
use super::link::Told;
use super::refill::{Refill, Surplus};
use super::{Link, note_if_stopped};
use crate::controller::Shared;
use crate::keys::{self, Needed};
use crate::store::host_crypto::{self, HostStanding};
use crate::store::native::NativeRow;
use crate::store::trusted::TrustedRow;
use crate::store::{StoreError, event, native, setting, task, trusted, vm};

/// How often a host is asked.
const INTERVAL: Duration = Duration::from_secs(2);
/// How soon it is asked again where it did not answer the first time.
const SECOND_TRY: Duration = Duration::from_millis(500);
/// How long it may take to say how it is.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Looks after a host until the controller ends, or the host leaves.
pub(crate) async fn supervise(controller: Shared, link: Arc<Link>) {
    let mut misses = 0u32;
    let mut keys = Keys::default();
    let mut native_fault = None;
    let mut trouble = None;
    let mut broken = None;
    let (mut verdicts, mut untold) = (BTreeMap::new(), None);
    let (mut attention, mut known) = (Attention::default(), None);
    loop {
        let round = async {
            // Before the host is asked: what it must hold by then it holds by then.
            let before = Before::load(&controller, &link, &mut known).await?;
            let refilling = keys.refilling.load(Ordering::Acquire);
            let asked = match refilling {
                true => link.ask_without_keys(TIMEOUT).await,
                false => link.ask(TIMEOUT).await,
            };
            match asked {
                Ok(told) => {
                    misses = 0;
                    let is_back = answered(&controller, &link, &before, &told).await?;
                    say_trouble(&controller, &link, &told.status, &mut trouble).await;
                    say_broken(&controller, &link, &told.status, &mut broken).await?;
                    if before.native(&link, &told.status) != told.status.native.keys && told.status.unfit.is_none() {
                        give_native(&controller, &link, &mut native_fault).await;
                    }
                    crate::trusted::note_verdicts(&controller, &link, &told.status.trust, &mut verdicts).await;
                    if before.trusted(&link) != applied(&told.status) {
                        tell_trusted(&controller, &link, &mut untold).await;
                    }
                    attention.attend(&controller, &link, &before, &told).await?;
                    if !refilling {
                        keys.look(&controller, &link, &before, &told, is_back).await?;
                    }
                }
                Err(error) => {
                    misses += 1;
                    tracing::debug!(host = %link.name, %error, "no answer");
                    if misses >= 2 && link.missed() {
                        let why = match error {
                            CallError::Unreachable { why, .. } => why,
                            CallError::Refused(problem) => problem.why,
                        };
                        let address = link.snapshot().address;
                        let message = format!("host `{}` at {address} does not answer: {why}", link.name);
                        controller.record(EventKind::HostDisconnected, &about(&link), &message).await;
                    }
                }
            }
            Ok::<_, StoreError>(())
        };
        let pause = tokio::select! {
            () = controller.shutdown.cancelled() => return,
            () = link.gone.cancelled() => return,
            done = round => {
                if let Err(error) = done {
                    tracing::error!(host = %link.name, %error, "cannot look after a host");
                }
                if misses == 1 { SECOND_TRY } else { INTERVAL }
            }
        };
        tokio::select! {
            () = controller.shutdown.cancelled() => return,
            () = link.gone.cancelled() => return,
            () = link.poke.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether the host has its keys, and no others.
#[derive(Default)]
struct Keys {
    refill: Refill,
    refilling: Arc<AtomicBool>,
    surplus: Surplus,
    /// As it was when the host had just what it ought to have: the number of what is needed, and the host's mark.
    settled: Option<(i64, KeysMark)>,
}

/// How a host stood under a number of what is needed.
type Known = Option<(i64, HostStanding)>;

impl Keys {
    async fn look(
        &mut self,
        controller: &Shared,
        link: &Arc<Link>,
        before: &Before,
        told: &Told,
        is_back: bool,
    ) -> Result<(), StoreError> {
        let now = (before.generation, told.status.mark);
        if self.settled == Some(now) && !is_back {
            return Ok(());
        }
        if is_back {
            // What failed since the host was away does not wait any longer.
            self.refill.done();
        }
        let boot = told.status.boot;
        let wanted = self.refill.wanted(&Ought::new(&before.standing, &before.needed, boot), told);
        if !wanted.is_empty() && !self.refilling.swap(true, Ordering::AcqRel) {
            let (refill, refilling) = (self.refill.clone(), Arc::clone(&self.refilling));
            let (shared, link) = (Arc::clone(controller), Arc::clone(link));
            controller.background.spawn(async move {
                refill.run(&shared, &link, wanted).await;
                refilling.store(false, Ordering::Release);
                // So that it is seen at once which keys it has.
                link.poke.notify_one();
            });
        }
        // After the host was asked: what it holds for a task that has ended meanwhile is needed by a VM.
        let mut known = Some((before.generation, before.standing.clone()));
        let (generation, needed, standing) = needs(controller, link, &mut known).await?;
        let ought = Ought::new(&standing, &needed, boot);
        self.surplus.take_away(controller, link, &ought, told).await?;
        self.settled = ought.is_held(&told.held).map(|held| {
            self.refill.done();
            link.share(told.status.mark, held);
            (generation, told.status.mark)
        });
        // It may have what others lack.
        keys::release(controller, link.cluster).await
    }
}

pub(super) fn about(link: &Link) -> EventSubject {
    EventSubject { host: Some(link.id), ..EventSubject::default() }
}

/// The keys that VMs of the host's cluster need, how the host itself stands, and the number under which it is so.
async fn needs(controller: &Shared, link: &Link, known: &mut Known) -> Result<(i64, Needed, HostStanding), StoreError> {
    let (generation, needed) = keys::needed(controller, link.cluster).await?;
    if let Some((number, standing)) = known
        && *number == generation
    {
        return Ok((generation, needed, standing.clone()));
    }
    let standing = host_crypto::standing(&mut *controller.store.read().await?, link.id, link.cluster).await?;
    *known = Some((generation, standing.clone()));
    Ok((generation, needed, standing))
}

/// What the inventory said before the host was asked.
pub(super) struct Before {
    /// The keys that VMs of its cluster need, and the number under which they are these.
    pub(super) generation: i64,
    pub(super) needed: Needed,
    /// The host's encryption mode, and the keys that it needs for itself.
    pub(super) standing: HostStanding,
    /// The VMs that ought to run there.
    on: BTreeSet<VmId>,
    /// The native providers.
    pub(super) native: Vec<NativeRow>,
    /// The trusted providers.
    trusted: Vec<TrustedRow>,
}

impl Before {
    async fn load(controller: &Shared, link: &Link, known: &mut Known) -> Result<Self, StoreError> {
        let (generation, needed, standing) = needs(controller, link, known).await?;
        link.set_crypto(standing.crypto.clone());
        let mut db = controller.store.read().await?;
        let on = vm::running_on(&mut db, link.id).await?;
        Ok(Self {
            generation,
            needed,
            on,
            native: if standing.crypto.takes_native_keys() { native::list(&mut db).await? } else { Vec::new() },
            standing,
            trusted: trusted::list(&mut db).await?,
        })
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

/// Says once that a process of a running VM has died. What was said is kept: another controller says it no second time.
async fn say_broken(
    controller: &Shared,
    link: &Link,
    status: &HostStatus,
    said: &mut Option<BTreeSet<BrokenVm>>,
) -> Result<(), StoreError> {
    let setting = format!("broken-on-{}", link.id);
    let before = match said.take() {
        Some(before) => before,
        None => {
            let kept = setting::get(&mut *controller.store.read().await?, &setting).await?;
            kept.and_then(|kept| serde_json::from_str(&kept).ok()).unwrap_or_default()
        }
    };
    let now: BTreeSet<_> = status.broken.iter().copied().collect();
    if now != before {
        let mut tx = controller.store.write().await?;
        for BrokenVm { vm: id, part, .. } in now.difference(&before) {
            let name = vm::get(&mut tx, *id).await?.map_or_else(|| id.to_string(), |row| row.name.to_string());
            let (host, subject) = (&link.name, EventSubject { vm: Some(*id), ..about(link) });
            let message = match part {
                VmPart::Tpm => format!(
                    "swtpm of VM `{name}` died on host `{host}`: its guest goes on without its vTPM. See the log of the agent \
                     of `{host}`; stop the VM and start it"
                ),
                VmPart::Disk => format!(
                    "the disk process of VM `{name}` died on host `{host}`, so that the VM was stopped. See the log of the \
                     agent of `{host}`; start the VM"
                ),
            };
            event::record(&mut tx, EventKind::VmPartDied, &subject, &message).await?;
        }
        setting::put(&mut tx, &setting, &serde_json::to_string(&now).unwrap_or_default()).await?;
        tx.commit().await?;
    }
    *said = Some(now);
    Ok(())
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

/// Notes an answer. Tells whether the host did not answer before.
async fn answered(controller: &Shared, link: &Link, before: &Before, told: &Told) -> Result<bool, StoreError> {
    let status = &told.status;
    let is_back = link.seen(told);
    if is_back {
        let message = format!("host `{}` answers (agent {})", link.name, status.version);
        controller.record(EventKind::HostConnected, &about(link), &message).await;
    }
    let runs: BTreeSet<VmId> = status.vms.iter().copied().collect();
    for &id in before.on.difference(&runs) {
        note_if_stopped(controller, link, id).await?;
    }
    for &id in runs.difference(&before.on) {
        note_that_it_runs(controller, link, id).await?;
    }
    sweep_jobs(controller, link, status).await?;
    Ok(is_back)
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
