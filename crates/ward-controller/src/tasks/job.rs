//! A host's job: placed, begun, watched to its end, whatever host or agent goes away in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ward_rpc::CallError;
use ward_rpc::api::host::{
    CancelJob, CheckJob, EkRequest, ForgetJob, GiveCertificates, JobOutcome, JobSpec, JobStatus, Notice, StartJob,
    WatchJob,
};
use ward_types::{Code, EventKind, HostId, KeyRef, Problem, VmConfig};

use super::run::{Run, Step};
use crate::hosts::{Link, make_cluster_safe};
use crate::keys::{Supply, supply};
use crate::native::needs_tpm;
use crate::plan::{Needs, place};

/// How long one question for news waits at the host.
const WATCH_MS: u32 = 20_000;
/// How long a host may be away before another one takes its job.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long, where somebody waits for the job to be undone: the other one goes on with it, and undoes it.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);
/// How often a host that is away is tried.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How often a host may lose its keys in the course of one job before we stop giving them.
const MAX_KEY_LOSSES: u32 = 10;

/// What a job came to.
pub(crate) struct Done {
    pub(crate) host: HostId,
    pub(crate) config: Option<Box<VmConfig>>,
    pub(crate) notices: Vec<Notice>,
}

/// Has a host do a job for which it needs `keys`.
pub(crate) async fn run_job(run: &mut Run, spec: &JobSpec, keys: &[KeyRef]) -> Step<Done> {
    let mut losses = 0;
    loop {
        let tpm = needs_tpm(&mut *run.controller.store.read().await?, keys).await?;
        let link = placed(run, (!keys.is_empty()).then_some(keys), tpm).await?;
        match attend(run, &link, spec, keys).await? {
            Attended::Ended(done) => return Ok(done),
            Attended::Away => {
                if !replace(run, &link, keys, tpm).await? {
                    run.say(&format!("waits for host {}, which does not answer", link.name));
                }
            }
            Attended::LostKeys => {
                losses += 1;
                if losses > MAX_KEY_LOSSES {
                    return Err(Problem::new(
                        Code::KeyNotOnHost,
                        run.what(),
                        format!("host `{}` loses its keys again and again", link.name),
                        format!("see the log of the agent of `{}`", link.name),
                    )
                    .into());
                }
            }
        }
    }
}

/// Has a host check whether it could do a job, for which it needs the keys that are `have`.
pub(super) async fn check_job(run: &mut Run, spec: &JobSpec, have: &[KeyRef], tpm: bool) -> Step {
    prepare(run, Some(spec), have, tpm).await
}

/// Gives a host keys that are there, and with it the others of its cluster.
pub(super) async fn register_keys(run: &mut Run, keys: &[KeyRef]) -> Step {
    prepare(run, None, keys, false).await
}

async fn prepare(run: &mut Run, spec: Option<&JobSpec>, have: &[KeyRef], tpm: bool) -> Step {
    let mut away_since: Option<Instant> = None;
    let mut losses = 0;
    loop {
        run.check_cancelled().await?;
        let tpm = tpm || needs_tpm(&mut *run.controller.store.read().await?, have).await?;
        let link = placed(run, Some(have), tpm).await?;
        let answer = match give_keys(run, &link, have).await? {
            Ok(()) => match spec {
                None => Ok(()),
                Some(spec) => {
                    run.say(&format!("has host {} check what it takes", link.name));
                    let call = CheckJob { job: run.info.id, home: run.home.clone(), spec: spec.clone() };
                    link.call(call).await.inspect(|()| crash_point::reach("task.checked"))
                }
            },
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) => return Ok(()),
            // Its agent has started anew since it got them.
            Err(CallError::Refused(problem)) if problem.code == Code::KeyNotOnHost && losses < MAX_KEY_LOSSES => {
                losses += 1;
            }
            Err(CallError::Refused(problem)) => return Err((*problem).into()),
            Err(CallError::Unreachable { .. }) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE && replace(run, &link, have, tpm).await? {
                    away_since = None;
                }
                run.say(&format!("waits for host {}, which does not answer", link.name));
                tokio::time::sleep(TRY_EVERY).await;
            }
        }
    }
}

/// Lets the host forget a job whose end is written down. The host's supervisor does it where this fails.
pub(crate) async fn forget(run: &Run, host: HostId) {
    if let Some(link) = run.controller.links.get(host)
        && let Err(error) = link.call(ForgetJob { job: run.info.id }).await
    {
        tracing::debug!(host = %link.name, %error, "cannot let a job be forgotten");
    }
}

/// The host that has the job, chosen now where none has it yet. Work that takes keys says those that there are already.
pub(super) async fn placed(run: &mut Run, keys: Option<&[KeyRef]>, tpm: bool) -> Step<Arc<Link>> {
    if let Some(host) = run.work.host() {
        let link = run.link(host)?;
        safe(run, &link, keys).await?;
        return Ok(link);
    }
    run.check_cancelled().await?;
    run.controller.links.settled().await;
    let hosts = run.controller.links.facts(run.vm.cluster);
    let trusted = run.trusted().await?;
    let (rather, only, parts) = (run.vm.host, run.runs_on(), run.work.parts(run.vm.config.as_ref()));
    let needs = Needs { rather, only, keys: keys.is_some(), tpm, trusted: &trusted, parts, ..Needs::default() };
    let host = place(&run.what(), &hosts, needs)?;
    let link = run.link(host)?;
    run.work.set_host(host);
    run.mark("task.placed", &format!("gives the work to host {}", link.name)).await?;
    safe(run, &link, keys).await?;
    Ok(link)
}

/// Where the work takes keys: host keys for the hosts whose encryption mode was switched on for it.
pub(super) async fn safe(run: &Run, link: &Arc<Link>, keys: Option<&[KeyRef]>) -> Step {
    if let Some(keys) = keys {
        make_cluster_safe(&run.controller, &run.what(), &run.subject(), link, keys).await?;
    }
    Ok(())
}

enum Attended {
    Ended(Done),
    /// The host has been away for too long.
    Away,
    /// The host has not the keys (any more).
    LostKeys,
}

async fn attend(run: &Run, link: &Arc<Link>, spec: &JobSpec, keys: &[KeyRef]) -> Step<Attended> {
    let mut away_since: Option<Instant> = None;
    let mut began = false;
    let mut seen = 0;
    let mut cancels = false;
    loop {
        if began && !cancels && run.is_cancelled().await? {
            // Whoever asked for it may have found the host away, or the job not begun.
            cancels = link.call(CancelJob { job: run.info.id }).await.is_ok();
        }
        let answer = if began { watch(run, link, seen).await } else { begin(run, link, spec, keys).await? };
        match answer {
            Ok(status) => {
                if !began {
                    crash_point::reach("task.job-begun");
                }
                began = true;
                away_since = None;
                seen = status.revision;
                run.say_progress(&status.step, status.progress);
                if let Some(asks) = &status.asks {
                    certify(run, link, spec, asks).await?;
                }
                match status.outcome {
                    None => {}
                    Some(JobOutcome::Done { config, notices }) => {
                        crash_point::reach("task.job-done");
                        return Ok(Attended::Ended(Done { host: link.id, config, notices }));
                    }
                    Some(JobOutcome::Failed { problem }) if problem.code == Code::KeyNotOnHost => {
                        forget(run, link.id).await;
                        return Ok(Attended::LostKeys);
                    }
                    Some(JobOutcome::Failed { problem }) => return Err(problem.into()),
                }
            }
            Err(CallError::Refused(problem)) => match problem.code {
                // The agent has started anew and knows nothing of the job, or has lost its keys: tell it again.
                Code::NotFound if began => began = false,
                Code::KeyNotOnHost => return Ok(Attended::LostKeys),
                _ => return Err((*problem).into()),
            },
            Err(CallError::Unreachable { why, .. }) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                // Whoever answers next may be a new agent, without keys and jobs.
                began = false;
                tracing::debug!(host = %link.name, why, "no answer during a job");
                let patience = if run.is_cancelled().await? { CANCEL_PATIENCE } else { PATIENCE };
                if since.elapsed() > patience {
                    return Ok(Attended::Away);
                }
                run.say(&format!("waits for host {}, which does not answer", link.name));
                tokio::time::sleep(TRY_EVERY).await;
            }
        }
    }
}

/// Gives a job the certificates of the vTPM that it makes. Where the host does not take them, the job asks again. One that
/// has none to ask for is not believed.
async fn certify(run: &Run, link: &Link, spec: &JobSpec, asks: &EkRequest) -> Step {
    let made = match spec.certifies_tpm() {
        true => run.controller.vtpm.certify(asks, run.info.vm, &run.info.vm_name).map_err(|error| error.to_string()),
        false => Err("no vTPM is made in this work".to_owned()),
    };
    let (rsa, ecc) = match made {
        Ok(made) => made,
        Err(why) => {
            if let Err(error) = link.call(CancelJob { job: run.info.id }).await {
                tracing::debug!(host = %link.name, %error, "cannot cancel a job");
            }
            let why = format!("host `{}` asks for certificates of a vTPM that it can't have: {why}", link.name);
            let remedy = "look at the host: its agent may be of another version, or not what it should be";
            return Err(Problem::new(Code::HostUnfit, run.what(), why, remedy).into());
        }
    };
    if let Err(error) = link.call(GiveCertificates { job: run.info.id, rsa, ecc }).await {
        tracing::debug!(host = %link.name, %error, "cannot give a job its certificates");
    }
    Ok(())
}

async fn watch(run: &Run, link: &Link, seen: u64) -> Result<JobStatus, CallError> {
    let call = WatchJob { job: run.info.id, seen, wait_ms: WATCH_MS };
    link.call_within(call, Duration::from_millis(WATCH_MS.into()) + Duration::from_secs(10)).await
}

/// Gives the host the keys that it lacks, then the job. A job that it has already it only tells of.
async fn begin(run: &Run, link: &Arc<Link>, spec: &JobSpec, keys: &[KeyRef]) -> Step<Result<JobStatus, CallError>> {
    if let Err(error) = give_keys(run, link, keys).await? {
        return Ok(Err(error));
    }
    let call = StartJob { job: run.info.id, home: run.home.clone(), spec: spec.clone() };
    Ok(link.call(call).await)
}

/// Gives the host the keys that it lacks.
async fn give_keys(run: &Run, link: &Arc<Link>, keys: &[KeyRef]) -> Step<Result<(), CallError>> {
    match link.lacks(keys).await {
        Err(error) => return Ok(Err(error)),
        Ok(lacking) if lacking.is_empty() => {}
        Ok(lacking) => {
            run.say(&format!("gives host {} its keys", link.name));
            let hosts = run.controller.links.safe_of_cluster(run.vm.cluster);
            let (what, subject) = (run.what(), run.subject());
            let order = Supply { what: &what, subject: &subject, keys: &lacking, hosts: &hosts, must: Some(link.id) };
            match supply(&run.controller, order).await {
                Ok(()) => crash_point::reach("task.keys-given"),
                // Not the key, but its road: the host went away in this moment.
                Err(problem) if problem.code == Code::HostUnreachable => {
                    return Ok(Err(CallError::Unreachable { peer: link.name.to_string(), why: problem.why }));
                }
                Err(problem) => return Err(problem.into()),
            }
        }
    }
    Ok(Ok(()))
}

/// Gives the job of a host that is away to another one, if there is one that can take it.
async fn replace(run: &mut Run, away: &Link, keys: &[KeyRef], tpm: bool) -> Step<bool> {
    // What is done beside a running VM is done where it runs.
    if run.runs_on().is_some() {
        return Ok(false);
    }
    let hosts = run.controller.links.facts(run.vm.cluster);
    let trusted = run.trusted().await?;
    let (not, keys, parts) = (Some(away.id), !keys.is_empty(), run.work.parts(run.vm.config.as_ref()));
    let needs = Needs { not, keys, tpm, trusted: &trusted, parts, ..Needs::default() };
    let Ok(host) = place(&run.what(), &hosts, needs) else { return Ok(false) };
    let link = run.link(host)?;
    run.work.set_host(host);
    run.mark("task.replaced", &format!("gives the work to host {}", link.name)).await?;
    let mut tx = run.controller.store.write().await?;
    let message = format!(
        "task {} goes on on host `{}`: host `{}` has not answered for {} seconds",
        run.info.id,
        link.name,
        away.name,
        PATIENCE.as_secs()
    );
    run.event(&mut tx, EventKind::TaskResumed, Some(host), None, &message).await?;
    tx.commit().await?;
    Ok(true)
}
