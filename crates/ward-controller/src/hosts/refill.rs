//! Keys that a host ought to hold and does not: its agent has started, or it was away when they were given out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;
use ward_rpc::api::host::HostStatus;
use ward_types::{Code, EventKind, EventSubject, KeyRef};

use super::Link;
use crate::controller::Shared;
use crate::keys::{Supply, supply};
use crate::store::vm;

/// How long to wait after the first failure, unless the agent has started anew; twice as long after each further one.
const BACK_OFF: Duration = Duration::from_secs(10);
/// How long to wait at most.
const MAX_BACK_OFF: Duration = Duration::from_secs(300);

/// When to give a host its keys again.
#[derive(Clone, Default)]
pub(super) struct Refill(Arc<Mutex<Failure>>);

#[derive(Default)]
struct Failure {
    boot: Option<Uuid>,
    at: Option<Instant>,
    times: u32,
    /// What was wrong, so that it is said once and not at each try.
    code: Option<Code>,
}

impl Refill {
    /// The keys to give now.
    pub(super) fn wanted(&self, needed: &[KeyRef], status: &HostStatus) -> Option<Vec<KeyRef>> {
        let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.boot != Some(status.boot) {
            *failure = Failure { boot: Some(status.boot), ..Failure::default() };
        }
        // What is unwrapped on the host needs no giving of its own: see `native` and `trusted`.
        let missing: Vec<_> = needed.iter().filter(|key| !key.is_wrapped() && !status.has(key)).cloned().collect();
        let waits = failure.at.is_some_and(|at| at.elapsed() < back_off(failure.times));
        (!missing.is_empty() && !waits && status.unfit.is_none()).then_some(missing)
    }

    /// Gives them. One key that can't be had must not keep the others from the host.
    pub(super) async fn run(&self, controller: &Shared, link: &Arc<Link>, missing: Vec<KeyRef>) {
        let subject = EventSubject { host: Some(link.id), ..EventSubject::default() };
        let what = format!("cannot give host `{}` the keys of its VMs", link.name);
        let mut failed = None;
        for key in &missing {
            let keys = std::slice::from_ref(key);
            let hosts = std::slice::from_ref(link);
            let order = Supply { what: &what, subject: &subject, keys, hosts, must: Some(link.id) };
            if let Err(problem) = supply(controller, order).await {
                let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).code == Some(problem.code);
                if !known {
                    self.locked(controller, key, &problem.why).await;
                }
                let unreachable = matches!(problem.code, Code::KeyServerUnreachable | Code::HostUnreachable);
                failed = Some(problem.code);
                if unreachable {
                    break;
                }
            }
        }
        let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failure.at = failed.map(|_| Instant::now());
        failure.times = if failed.is_some() { failure.times + 1 } else { 0 };
        failure.code = failed;
        drop(failure);
        if failed.is_none() {
            link.poke.notify_one();
        }
    }

    /// Says which VMs a key that is not to be had locks.
    async fn locked(&self, controller: &Shared, key: &KeyRef, why: &str) {
        let rows = match controller.store.read().await {
            Ok(mut db) => vm::list(&mut db).await,
            Err(error) => Err(error),
        };
        for row in rows.unwrap_or_default() {
            if row.config.as_ref().is_some_and(|config| config.keys().contains(&key)) {
                let subject = EventSubject { vm: Some(row.id), key: Some(key.clone()), ..EventSubject::default() };
                let message = format!("VM `{}` is locked on a host that has just come back: {why}", row.name);
                controller.record(EventKind::VmLocked, &subject, &message).await;
            }
        }
    }
}

fn back_off(times: u32) -> Duration {
    BACK_OFF.saturating_mul(1 << times.saturating_sub(1).min(16)).min(MAX_BACK_OFF)
}
