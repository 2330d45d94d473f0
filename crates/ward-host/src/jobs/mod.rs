//! Jobs: work that takes long, survives a kill at any moment, and undoes itself where it fails.
//!
//! A job has two halves. What can be refused is found out while it is asked for, with the home locked: a refusal has
//! touched nothing, and is not remembered. Then it works in a thread of its own.

mod clone;
mod control;
mod convert;
mod create;
mod crypt;
mod disks;
mod fill;
mod make;
mod plan;
mod record;
mod remove;
mod settle;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use ward_rpc::api::host::{
    AbandonJob, Abandoned, CheckJob, DiskInfo, GiveCertificates, HomeRef, JobOutcome, JobSpec, JobStatus, StartJob,
    TpmChange,
};
use ward_types::{Code, CryptoStep, HostId, KeyRef, Problem, StepAction, TaskId};

use crate::fault::{Fault, Result};
use crate::isolate::Isolator;
use crate::keys::{ResolvedKeks, SharedKeys};
use control::{Control, Interrupt};
pub(crate) use settle::settle_left;

/// What jobs need of the agent.
#[derive(Clone)]
pub(crate) struct Environment {
    pub(crate) host: HostId,
    /// What keeps the programs apart that work for it.
    pub(crate) isolator: Arc<Isolator>,
    pub(crate) keys: SharedKeys,
    /// Whether it is only asked what would be refused. Then keys that are not made yet stand for those that will be.
    pub(crate) rehearsal: bool,
}

impl Environment {
    /// The keys that a piece of work needs: those under which something is already, and those under which it will be.
    fn resolve<'k>(
        &self,
        old: impl IntoIterator<Item = &'k KeyRef>,
        new: impl IntoIterator<Item = &'k KeyRef>,
    ) -> Result<ResolvedKeks> {
        let old: Vec<_> = old.into_iter().collect();
        if !self.rehearsal {
            return self.keys.lock().resolve_all(old.into_iter().chain(new));
        }
        let mut keys = self.keys.lock().resolve_all(old)?;
        for key in new {
            keys.stand_in(key)?;
        }
        Ok(keys)
    }
}

/// How the working half of a job came to its end.
pub(crate) enum Ended {
    With(JobOutcome),
    Failed(Fault),
    /// Not at all: the next agent goes on with it.
    Suspended,
}

/// A job of which everything has been checked.
enum Prepared {
    Make(make::Prepared),
    Crypt(Box<crypt::Prepared>),
    Disks(disks::Prepared),
    Remove(remove::Prepared),
}

impl Prepared {
    fn new(environment: &Environment, job: TaskId, home: &HomeRef, spec: JobSpec) -> Result<Self> {
        Ok(match spec {
            JobSpec::Create(vm) => Self::Make(create::prepare(environment, job, home, vm, None)?),
            JobSpec::CreateEncrypted { vm, home: key, disks } => {
                let keys = create::NewKeys { home: key, disks };
                Self::Make(create::prepare(environment, job, home, vm, Some(keys))?)
            }
            JobSpec::Clone(clone) => Self::Make(clone::prepare(environment, job, home, clone)?),
            JobSpec::Crypt { plan } => Self::Crypt(Box::new(crypt::prepare(environment, job, home, plan, None)?)),
            JobSpec::Tpm { plan, change } => {
                Self::Crypt(Box::new(crypt::prepare(environment, job, home, plan, Some(change))?))
            }
            JobSpec::Disks(change) => Self::Disks(disks::prepare(environment, job, home, change)?),
            JobSpec::Remove => Self::Remove(remove::prepare(environment, job, home)?),
        })
    }

    fn run(self, environment: &Environment, control: &Control) -> Ended {
        match self {
            Self::Make(make) => make.run(environment, control),
            Self::Crypt(crypt) => crypt.run(environment, control),
            Self::Disks(disks) => disks.run(environment, control),
            Self::Remove(remove) => remove.run(control),
        }
    }

    /// Leaves all as it was.
    fn leave(self) -> Result<()> {
        match self {
            Self::Make(make) => make.leave(),
            Self::Crypt(_) | Self::Disks(_) | Self::Remove(_) => Ok(()),
        }
    }
}

/// All jobs that the agent knows.
pub(crate) struct Jobs {
    environment: Environment,
    known: Mutex<HashMap<TaskId, Arc<Control>>>,
    /// Those that are being checked: a second request for one waits for the first.
    beginning: Mutex<HashMap<TaskId, Arc<tokio::sync::Mutex<()>>>>,
    working: TaskTracker,
}

impl Jobs {
    pub(crate) fn new(environment: Environment) -> Self {
        Self { environment, known: Mutex::default(), beginning: Mutex::default(), working: TaskTracker::new() }
    }

    /// Begins a job, or tells how it stands.
    pub(crate) async fn start(self: &Arc<Self>, call: StartJob) -> std::result::Result<JobStatus, Problem> {
        let (job, what) = (call.job, what(&call.home, &call.spec));
        let (jobs, said) = (Arc::clone(self), what.clone());
        // In a task of its own: it must come to its end even where the caller hangs up.
        let beginning = tokio::spawn(async move {
            let turn = Arc::clone(jobs.beginning().entry(job).or_default());
            let begun = {
                let _turn = turn.lock().await;
                jobs.begin(call, said).await
            };
            drop(turn);
            jobs.beginning().retain(|_, turn| Arc::strong_count(turn) > 1);
            begun
        });
        beginning.await.unwrap_or_else(|panic| Err(Problem::internal(what, panic)))
    }

    async fn begin(self: &Arc<Self>, call: StartJob, what: String) -> std::result::Result<JobStatus, Problem> {
        if let Some(control) = self.find(call.job) {
            return Ok(control.status());
        }
        if self.working.is_closed() {
            let fault = Fault::new(Code::HostUnreachable, "the agent is ending", "ask again when it runs");
            return Err(fault.problem(what));
        }
        let StartJob { job, home, spec } = call;
        let environment = self.environment.clone();
        let prepared = tokio::task::spawn_blocking(move || Prepared::new(&environment, job, &home, spec)).await;
        let prepared = match prepared {
            Ok(prepared) => prepared.map_err(|fault| fault.problem(&what))?,
            Err(panic) => return Err(Problem::internal(what, panic)),
        };
        let control = Arc::new(Control::new(job));
        self.known().insert(job, Arc::clone(&control));
        if self.working.is_closed() {
            control.interrupt(Interrupt::Suspend);
        }
        let status = control.status();
        let jobs = Arc::clone(self);
        self.working.spawn(async move { jobs.work(what, prepared, control).await });
        Ok(status)
    }

    /// Tells why a job would be refused now, and leaves everything as it is.
    pub(crate) async fn check(&self, call: CheckJob) -> std::result::Result<(), Problem> {
        let what = what(&call.home, &call.spec);
        let environment = Environment { rehearsal: true, ..self.environment.clone() };
        let checking = tokio::task::spawn_blocking(move || {
            Prepared::new(&environment, call.job, &call.home, call.spec).and_then(Prepared::leave)
        });
        match checking.await {
            Ok(checked) => checked.map_err(|fault| fault.problem(what)),
            Err(panic) => Err(Problem::internal(what, panic)),
        }
    }

    /// Tells what a file is that is to become a disk.
    pub(crate) async fn look_at(&self, path: PathBuf) -> std::result::Result<DiskInfo, Problem> {
        let what = format!("cannot use {}", path.display());
        match tokio::task::spawn_blocking(move || disks::look_at(&path)).await {
            Ok(info) => info.map_err(|fault| fault.problem(what)),
            Err(panic) => Err(Problem::internal(what, panic)),
        }
    }

    fn beginning(&self) -> MutexGuard<'_, HashMap<TaskId, Arc<tokio::sync::Mutex<()>>>> {
        self.beginning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(&self, what: String, prepared: Prepared, control: Arc<Control>) {
        let environment = self.environment.clone();
        let inner = Arc::clone(&control);
        let ended = tokio::task::spawn_blocking(move || prepared.run(&environment, &inner)).await;
        match ended {
            Ok(Ended::With(outcome)) => control.end(outcome),
            Ok(Ended::Failed(fault)) => {
                let problem = fault.problem(what);
                tracing::warn!(%problem, "a job failed");
                control.end(JobOutcome::Failed { problem });
            }
            Ok(Ended::Suspended) => tracing::info!(job = %control.status().job, "a job was suspended"),
            Err(panic) => control.end(JobOutcome::Failed { problem: Problem::internal(what, panic) }),
        }
    }

    /// Waits until a job is not as the caller knows it any more, and tells how it stands.
    pub(crate) async fn watch(
        &self,
        job: TaskId,
        seen: u64,
        wait: Duration,
        shutdown: &CancellationToken,
    ) -> std::result::Result<JobStatus, Problem> {
        let control = self.find(job).ok_or_else(|| unknown(job))?;
        let mut status = control.subscribe();
        // A number that this run of the agent has not come to is of an earlier run: news too.
        let change = status.wait_for(|status| status.revision != seen || status.outcome.is_some());
        tokio::select! {
            _ = tokio::time::timeout(wait, change) => {}
            () = shutdown.cancelled() => {}
        }
        Ok(control.status())
    }

    /// Stops a job.
    pub(crate) fn cancel(&self, job: TaskId) -> std::result::Result<(), Problem> {
        self.find(job).ok_or_else(|| unknown(job))?.interrupt(Interrupt::Cancel);
        Ok(())
    }

    /// Gives a job the certificates for which it asks.
    pub(crate) fn give(&self, call: GiveCertificates) -> std::result::Result<(), Problem> {
        self.find(call.job).ok_or_else(|| unknown(call.job))?.give(call);
        Ok(())
    }

    /// Settles what an interrupted run of a job left in its home.
    pub(crate) async fn abandon(&self, call: AbandonJob) -> std::result::Result<Abandoned, Problem> {
        let AbandonJob { job, home } = call;
        let what = format!("cannot abandon job {job}");
        if self.find(job).is_some_and(|control| control.status().outcome.is_none()) {
            return Err(Fault::new(Code::Busy, "it has not ended", "wait for it, or cancel it first").problem(what));
        }
        let environment = self.environment.clone();
        let settled = tokio::task::spawn_blocking(move || {
            make::abandon(&environment, job, &home)?;
            settle::abandon(&environment, job, &home)
        });
        match settled.await {
            Ok(config) => {
                let config = config.map_err(|fault| fault.problem(what))?;
                Ok(Abandoned { config: config.map(Box::new) })
            }
            Err(panic) => Err(Problem::internal(what, panic)),
        }
    }

    /// Forgets a job that has ended. One that is not known is forgotten already.
    pub(crate) fn forget(&self, job: TaskId) -> std::result::Result<(), Problem> {
        let mut known = self.known();
        if let Some(control) = known.get(&job) {
            if control.status().outcome.is_none() {
                let fault = Fault::new(Code::Busy, "it has not ended", "wait for it, or cancel it first");
                return Err(fault.problem(format!("cannot forget job {job}")));
            }
            known.remove(&job);
        }
        Ok(())
    }

    /// How all jobs stand.
    pub(crate) fn list(&self) -> Vec<JobStatus> {
        self.known().values().map(|control| control.status()).collect()
    }

    /// Stops all jobs where they are, for the next agent to go on with.
    pub(crate) async fn suspend(&self) {
        self.working.close();
        for control in self.known().values() {
            control.interrupt(Interrupt::Suspend);
        }
        self.working.wait().await;
    }

    fn find(&self, job: TaskId) -> Option<Arc<Control>> {
        self.known().get(&job).cloned()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TaskId, Arc<Control>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(job: TaskId) -> Problem {
    let fault = Fault::new(Code::NotFound, "the host does not know it", "start it again: it goes on where it was");
    fault.problem(format!("cannot find job {job}"))
}

/// What a job does, as the first sentence of a problem.
fn what(home: &HomeRef, spec: &JobSpec) -> String {
    let name = &home.directory;
    match spec {
        JobSpec::Create(_) | JobSpec::CreateEncrypted { .. } => format!("cannot create VM `{name}`"),
        JobSpec::Clone(clone) => format!("cannot clone VM `{}`", clone.from.directory),
        JobSpec::Disks(_) => format!("cannot change the disks of VM `{name}`"),
        JobSpec::Remove => format!("cannot remove VM `{name}`"),
        JobSpec::Tpm { change: TpmChange::Add, .. } => format!("cannot give VM `{name}` a vTPM"),
        JobSpec::Tpm { change: TpmChange::Remove, .. } => format!("cannot remove the vTPM of VM `{name}`"),
        JobSpec::Tpm { change: TpmChange::Certify { .. }, .. } => {
            format!("cannot give the vTPM of VM `{name}` certificates")
        }
        JobSpec::Crypt { plan } => {
            let verb = |step: &CryptoStep| match step.action {
                StepAction::Encrypt { .. } => "encrypt",
                StepAction::Decrypt => "decrypt",
                StepAction::ShallowRecrypt { .. } | StepAction::DeepRecrypt { .. } => "recrypt",
            };
            let mut verbs: Vec<_> = plan.steps().iter().map(verb).collect();
            verbs.dedup();
            format!("cannot {} VM `{name}`", verbs.join(" and "))
        }
    }
}
