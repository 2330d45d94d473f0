//! Keys that a host ought to hold and does not: its agent has started, it has joined, or it was away when they were given
//! out. And keys that it holds and nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;
use ward_rpc::KeyPush;
use ward_types::{Code, EventKind, EventSubject, KeyRef, Problem, ProviderName, VmId};

use super::keys::Ought;
use super::link::Told;
use super::{Link, about};
use crate::controller::Shared;
use crate::keys::{self, KeyFault, id_at_server};
use crate::store::StoreError;

/// How long to wait after the first failure, unless the agent has started anew; twice as long after each further one.
const BACK_OFF: Duration = Duration::from_secs(10);
/// How long to wait at most.
const MAX_BACK_OFF: Duration = Duration::from_secs(300);
/// How many keys are got and given at once: so many are in the controller's memory at a time.
const PORTION: usize = 128;

/// When to give a host its keys again.
#[derive(Clone, Default)]
pub(super) struct Refill(Arc<Mutex<Failures>>);

#[derive(Default)]
struct Failures {
    boot: Option<Uuid>,
    at: Option<Instant>,
    times: u32,
    /// What could not be given, and why, so that it is said once and not at each try.
    keys: BTreeMap<KeyRef, Code>,
}

/// Keys to give.
#[derive(Default)]
pub(super) struct Wanted {
    of_vms: Vec<KeyRef>,
    /// Those that the host needs for itself.
    own: Vec<KeyRef>,
}

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        self.of_vms.is_empty() && self.own.is_empty()
    }
}

/// What went wrong in one run.
#[derive(Default)]
struct Faults(BTreeMap<KeyRef, Problem>);

impl Refill {
    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys to give now. What failed a moment ago waits; what is newly needed does not.
    pub(super) fn wanted(&self, ought: &Ought, told: &Told) -> Wanted {
        let mut failures = self.failures();
        if failures.boot != Some(told.status.boot) {
            *failures = Failures { boot: Some(told.status.boot), ..Failures::default() };
        }
        if told.status.unfit.is_some() {
            return Wanted::default();
        }
        let waits = failures.at.is_some_and(|at| at.elapsed() < back_off(failures.times));
        // What is unwrapped on the host needs no giving of its own: see `native` and `trusted`.
        let now = |key: &&KeyRef| id_at_server(key).is_some() && !(waits && failures.keys.contains_key(*key));
        let [of_vms, own] = ought.missing(&told.held).map(|keys| keys.into_iter().filter(now).cloned().collect());
        Wanted { of_vms, own }
    }

    /// Gives them. One key that can't be had must not keep the others from the host.
    pub(super) async fn run(&self, controller: &Shared, link: &Arc<Link>, missing: Wanted) {
        let mut faults = Faults::default();
        // Those of VMs first, and what is wrong with them is told by itself.
        for keys in [missing.of_vms, missing.own] {
            let mut by_provider: BTreeMap<ProviderName, Vec<KeyRef>> = BTreeMap::new();
            for key in keys {
                by_provider.entry(key.provider.clone()).or_default().push(key);
            }
            for (provider, keys) in &by_provider {
                self.give(controller, link, (provider, keys), &mut faults).await;
            }
        }
        self.note(&faults);
        if !faults.0.is_empty()
            && let Err(error) = keys::lock(controller, link.cluster, &about(link), &faults.0).await
        {
            tracing::error!(%error, host = %link.name, "cannot lock VMs whose keys are not to be had");
        }
    }

    async fn give(
        &self,
        controller: &Shared,
        link: &Arc<Link>,
        (provider, keys): (&ProviderName, &[KeyRef]),
        faults: &mut Faults,
    ) {
        let what = format!("cannot give host `{}` its keys", link.name);
        let servers = match keys::connect(controller, &what, provider).await {
            Ok(servers) => servers,
            Err(problem) => {
                let fault = KeyFault::new(provider, None, problem);
                return self.all_failed(controller, link, keys, fault, faults).await;
            }
        };
        let mut rest = keys;
        while let Some((portion, after)) = rest.split_at_checked(PORTION.min(rest.len())).filter(|it| !it.0.is_empty())
        {
            let wanted: Vec<_> = portion.iter().collect();
            let fetched = match keys::fetch(&what, (provider, &servers), &wanted).await {
                Ok(fetched) => fetched,
                Err(fault) => return self.all_failed(controller, link, rest, *fault, faults).await,
            };
            let mut push = KeyPush::default();
            for (key, got) in portion.iter().zip(fetched) {
                match got {
                    Ok(kek) => push.keys.push((key.clone(), kek)),
                    Err(fault) => self.failed(controller, link, key, fault, faults).await,
                }
            }
            let subject = about(link);
            if !push.keys.is_empty()
                && let Err(problem) =
                    keys::give(controller, &subject, std::slice::from_ref(link), Some(link.id), push).await
            {
                // Told already. The VMs are not locked by a host that does not answer.
                let codes = rest.iter().map(|key| (key.clone(), problem.code));
                self.failures().keys.extend(codes);
                self.failures().at = Some(Instant::now());
                return;
            }
            rest = after;
        }
    }

    /// None of the keys can be had, for one reason, which is told once.
    async fn all_failed(
        &self,
        controller: &Shared,
        link: &Link,
        keys: &[KeyRef],
        fault: KeyFault,
        faults: &mut Faults,
    ) {
        let code = fault.problem.code;
        let is_known = {
            let known = &self.failures().keys;
            keys.iter().all(|key| known.get(key) == Some(&code))
        };
        if !is_known {
            let mut subject = about(link);
            subject.provider = Some(fault.provider.clone());
            let mut problem = (*fault.problem).clone();
            match keys {
                [only] => {
                    subject.key = Some(only.clone());
                    subject.vm = self.users(controller, only).await.0;
                    problem.why = format!("key {only}: {}", problem.why);
                }
                several => problem.why = format!("{} keys: {}", several.len(), problem.why),
            }
            controller.record_problem(fault.kind, &subject, &problem).await;
        }
        faults.0.extend(keys.iter().map(|key| (key.clone(), (*fault.problem).clone())));
    }

    /// One key can't be had.
    async fn failed(&self, controller: &Shared, link: &Link, key: &KeyRef, fault: KeyFault, faults: &mut Faults) {
        let is_known = self.failures().keys.get(key) == Some(&fault.problem.code);
        if !is_known {
            let (vm, users) = self.users(controller, key).await;
            let subject =
                EventSubject { vm, key: Some(key.clone()), provider: Some(key.provider.clone()), ..about(link) };
            let mut problem = (*fault.problem).clone();
            problem.why = format!("{} (needed by {users})", problem.why);
            controller.record_problem(fault.kind, &subject, &problem).await;
        }
        faults.0.insert(key.clone(), *fault.problem);
    }

    /// The first VM that needs a key, and all that does, in words.
    async fn users(&self, controller: &Shared, key: &KeyRef) -> (Option<VmId>, String) {
        let users = async { keys::users(&mut *controller.store.read().await?, key).await };
        users.await.map_or_else(|_: StoreError| (None, String::new()), |users| (users.first_vm(), users.named()))
    }

    fn note(&self, faults: &Faults) {
        let mut failures = self.failures();
        if faults.0.is_empty() && failures.at.is_none() {
            return;
        }
        failures.at = (!faults.0.is_empty()).then(Instant::now).or(failures.at);
        failures.times += 1;
        failures.keys.extend(faults.0.iter().map(|(key, problem)| (key.clone(), problem.code)));
    }

    /// The host has all that it ought to have.
    pub(super) fn done(&self) {
        let mut failures = self.failures();
        *failures = Failures { boot: failures.boot, ..Failures::default() };
    }
}

fn back_off(times: u32) -> Duration {
    BACK_OFF.saturating_mul(1 << times.saturating_sub(1).min(16)).min(MAX_BACK_OFF)
}

/// Keys that a host holds and nobody needs: a push came late, a task failed, a VM left while the host was away.
#[derive(Default)]
pub(super) struct Surplus(BTreeSet<KeyRef>);

impl Surplus {
    /// Takes from the host what nobody needed at the last look, nor does now.
    pub(super) async fn take_away(
        &mut self,
        controller: &Shared,
        link: &Link,
        ought: &Ought,
        told: &Told,
    ) -> Result<(), StoreError> {
        let mut extra = ought.surplus(&told.held);
        if !extra.is_empty() {
            let of_tasks = keys::of_tasks(&mut *controller.store.read().await?).await?;
            extra.retain(|key| !of_tasks.contains(key) && !controller.reserved.has(key));
        }
        let again: Vec<KeyRef> = extra.intersection(&self.0).cloned().collect();
        self.0 = extra;
        if again.is_empty() {
            return Ok(());
        }
        let message = format!("{} taken from host `{}`: nothing needs them there", keys::named(&again), link.name);
        match link.call(ward_rpc::api::host::DropKeys { keys: again }).await {
            Ok(()) => controller.record(EventKind::KeyDropped, &about(link), &message).await,
            Err(error) => tracing::debug!(host = %link.name, %error, "cannot take keys away"),
        }
        Ok(())
    }
}
