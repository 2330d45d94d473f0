//! How a job is watched and stopped from outside while it works.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use ward_disk::client::Commander;
use ward_rpc::api::host::{EkRequest, GiveCertificates, JobOutcome, JobStatus};
use ward_types::{Code, Endorsement, EndorsementKey, Progress, TaskId};

use crate::fault::Fault;

/// Why a job doesn't go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It failed or was cancelled: it undoes itself.
    Failed(Fault),
    /// The agent ends: the job stays as it is, for the next agent to go on with.
    Suspended,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    Cancel,
    Suspend,
}

#[derive(Default)]
struct Reins {
    interrupt: Option<Interrupt>,
    commander: Option<Commander>,
    /// What the job waits for.
    certificates: Option<GiveCertificates>,
}

impl Reins {
    fn check(&self) -> Result<(), Stop> {
        match self.interrupt {
            None => Ok(()),
            Some(Interrupt::Suspend) => Err(Stop::Suspended),
            Some(Interrupt::Cancel) => Err(cancelled()),
        }
    }
}

/// The two ends of a job: who asked for it, and what does it.
pub(crate) struct Control {
    status: watch::Sender<JobStatus>,
    reins: Mutex<Reins>,
    /// For a job that waits.
    pulled: Condvar,
}

impl Control {
    pub(crate) fn new(job: TaskId) -> Self {
        let (step, progress) = ("beginning".into(), Progress::default());
        let status = JobStatus { job, revision: 1, step, progress, asks: None, outcome: None };
        Self { status: watch::Sender::new(status), reins: Mutex::default(), pulled: Condvar::new() }
    }

    pub(crate) fn status(&self) -> JobStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<JobStatus> {
        self.status.subscribe()
    }

    /// Says what the job does now.
    pub(crate) fn step(&self, step: impl Into<String>) {
        let step = step.into();
        self.change(|status| status.step = step);
    }

    /// Says how far it is.
    pub(crate) fn progress(&self, done: u64, total: u64) {
        self.change(|status| status.progress = Progress { done, total, ..Progress::default() });
    }

    /// Says how it ended.
    pub(crate) fn end(&self, outcome: JobOutcome) {
        self.change(|status| {
            status.step = match &outcome {
                JobOutcome::Done { .. } => "done".into(),
                JobOutcome::Failed { .. } => "failed".into(),
            };
            status.asks = None;
            status.outcome = Some(outcome);
        });
    }

    fn change(&self, change: impl FnOnce(&mut JobStatus)) {
        self.status.send_modify(|status| {
            change(status);
            status.revision += 1;
        });
    }

    /// Stops the job at the next chance. The first reason counts.
    pub(crate) fn interrupt(&self, interrupt: Interrupt) {
        let mut reins = self.reins();
        reins.interrupt.get_or_insert(interrupt);
        if let Some(commander) = &reins.commander {
            // Where it has just ended there is nothing to stop.
            let _ = commander.cancel();
        }
        self.pulled.notify_all();
    }

    /// Whether the job may go on.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        self.reins().check()
    }

    /// Waits for certificates of a vTPM's keys: whoever asked for the job gives them. They are not looked at here.
    pub(crate) fn certify(&self, request: EkRequest) -> Result<Endorsement, Stop> {
        self.change(|status| {
            status.step = "waiting for the vTPM's certificates".into();
            status.asks = Some(request.clone());
        });
        let given = {
            let mut reins = self.reins();
            loop {
                reins.check()?;
                if let Some(given) = reins.certificates.take() {
                    break given;
                }
                reins = self.pulled.wait(reins).unwrap_or_else(PoisonError::into_inner);
            }
        };
        self.change(|status| status.asks = None);
        let EkRequest { make, rsa, ecc } = request;
        let rsa = EndorsementKey { public: rsa, certificate: given.rsa };
        let ecc = EndorsementKey { public: ecc, certificate: given.ecc };
        Ok(Endorsement { make, rsa, ecc })
    }

    /// What the job waits for, if it does.
    pub(crate) fn give(&self, certificates: GiveCertificates) {
        if self.status.borrow().asks.is_some() {
            self.reins().certificates = Some(certificates);
            self.pulled.notify_all();
        }
    }

    /// Lets a disk process be stopped together with the job.
    pub(crate) fn attach(&self, commander: Commander) {
        let mut reins = self.reins();
        if reins.interrupt.is_some() {
            let _ = commander.cancel();
        }
        reins.commander = Some(commander);
    }

    /// The disk process has ended.
    pub(crate) fn detach(&self) {
        self.reins().commander = None;
    }

    fn reins(&self) -> MutexGuard<'_, Reins> {
        self.reins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cancelled() -> Stop {
    Stop::Failed(Fault::new(Code::Cancelled, "it was cancelled", "nothing remains of it; ask again when it is wanted"))
}
