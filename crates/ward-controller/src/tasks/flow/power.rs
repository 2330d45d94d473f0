//! Starting and stopping.

use std::sync::Arc;
use std::time::Duration;

use ward_rpc::CallError;
use ward_rpc::api::host::{StartVm, StopVm, VmPower};
use ward_types::{Code, DiskConfig, EventKind, EventSubject, KeyRef, Power, Problem, VmConfig};

use super::super::Work;
use super::super::job::safe;
use super::super::run::{Run, Step};
use crate::hosts::Link;
use crate::keys::{Supply, lock, report_problem, supply};
use crate::native::needs_tpm;
use crate::plan::{self, Needs, place};
use crate::store::vm;

/// How long a host may take to start a VM.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// How much longer than the guest's time a stop may take.
const STOP_MARGIN: Duration = Duration::from_secs(60);
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How long a start or stop waits for a host that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn start(run: &mut Run) -> Step {
    let Work::Start { asked, keys, host } = &run.work else { return Ok(()) };
    let (asked, keys, placed) = (asked.clone(), keys.clone(), *host);
    let link = match placed {
        Some(host) => run.link(host)?,
        None => {
            run.controller.links.settled().await;
            let hosts = run.controller.links.facts(run.vm.cluster);
            let trusted = plan::trusted(&keys);
            let needs = Needs {
                asked: asked.as_ref(),
                rather: run.vm.host,
                qemu: true,
                keys: !keys.is_empty(),
                tpm: needs_tpm(&mut *run.controller.store.read().await?, &keys).await?,
                trusted: &trusted,
                parts: run.work.parts(run.vm.config.as_ref()),
                ..Needs::default()
            };
            let host = match place(&run.what(), &hosts, needs) {
                Err(problem) if needs.tpm => {
                    let subject = EventSubject { key: keys.first().cloned(), ..run.subject() };
                    return Err(report_problem(&run.controller, &subject, problem).await.into());
                }
                placed => placed?,
            };
            let link = run.link(host)?;
            run.work.set_host(host);
            run.mark("task.placed", &format!("starts it on host {}", link.name)).await?;
            link
        }
    };
    // Where the controller was killed after the host had the order, the VM runs already.
    let runs = placed.is_some() && matches!(link.call(VmPower { vm: run.info.vm }).await, Ok(Power::On));
    let notices = if runs { Vec::new() } else { start_on(run, &link, &keys).await? };
    crash_point::reach("task.vm-started");
    let mut tx = run.controller.store.write().await?;
    vm::set_power(&mut tx, run.info.vm, Power::On, Some(link.id)).await?;
    run.notices(&mut tx, link.id, &notices).await?;
    let message = format!("VM `{}` started on host `{}`", run.info.vm_name, link.name);
    run.event(&mut tx, EventKind::VmStarted, Some(link.id), keys.first(), &message).await?;
    Ok(run.succeed(tx).await?)
}

async fn start_on(run: &Run, link: &Arc<Link>, keys: &[KeyRef]) -> Step<Vec<ward_rpc::api::host::Notice>> {
    let what = run.what();
    let unreachable = |error: CallError| error.into_problem(&what);
    safe(run, link, (!keys.is_empty()).then_some(keys)).await?;
    // A host that has its keys needs no key server.
    let mut lacking = link.lacks(keys).await.map_err(unreachable)?;
    for last_try in [false, true] {
        if !lacking.is_empty() {
            give(run, link, &lacking).await?;
        }
        run.say(&format!("starts it on host {}", link.name));
        let known = run.vm.config.clone().filter(VmConfig::is_encrypted).map(Box::new);
        let call = StartVm { vm: run.info.vm, home: run.home.clone(), expected: known };
        match link.call_within(call, START_TIMEOUT).await {
            Ok(started) => return Ok(started.notices),
            // Its agent has started anew since we asked.
            Err(CallError::Refused(problem)) if problem.code == Code::KeyNotOnHost && !last_try => {
                lacking = keys.to_vec();
            }
            Err(CallError::Refused(problem)) => return Err((*problem).into()),
            Err(error @ CallError::Unreachable { .. }) => {
                return match power_when_back(run, link).await {
                    Some(Power::On) => Ok(Vec::new()),
                    Some(Power::Off) | None => Err(error.into_problem(&what).into()),
                };
            }
        }
    }
    Err(Problem::internal(what, "the host loses its keys").into())
}

async fn give(run: &Run, link: &Arc<Link>, keys: &[KeyRef]) -> Step {
    run.say(&format!("gives host {} its keys", link.name));
    let hosts = run.controller.links.safe_of_cluster(run.vm.cluster);
    let (what, subject) = (run.what(), run.subject());
    let home = run.vm.config.as_ref().and_then(|config| config.home.key());
    // The home's first: without it the VM is locked.
    let (home, disks): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(|key| home == Some(key));
    let order = Supply { what: &what, subject: &subject, keys: &home, hosts: &hosts, must: Some(link.id) };
    if let Some(key) = home.first()
        && let Err(problem) = supply(&run.controller, order).await
    {
        if problem.code != Code::HostUnreachable {
            let faults = [(key.clone(), problem.clone())].into();
            lock(&run.controller, run.vm.cluster, &run.subject(), &faults).await?;
        }
        return Err(problem.into());
    }
    // Each by itself, so that it is known which disk's it is that is not to be had.
    for key in &disks {
        if let Err(problem) = supply(&run.controller, Supply { keys: std::slice::from_ref(key), ..order }).await {
            let disk = disk_of(run, key);
            return Err(disk.map_or_else(|| problem.clone(), |disk| without(run, disk, problem.clone())).into());
        }
    }
    Ok(())
}

/// The disk that the VM can't do without, of those under a key that its home is not under.
fn disk_of<'r>(run: &'r Run, key: &KeyRef) -> Option<&'r DiskConfig> {
    let config = run.vm.config.as_ref()?;
    if config.home.key() == Some(key) {
        return None;
    }
    config.attached().find(|disk| disk.key() == Some(key))
}

/// The problem of a VM that could start but for a disk.
fn without(run: &Run, disk: &DiskConfig, problem: Problem) -> Problem {
    let (id, file, vm) = (disk.id, &disk.file, &run.info.vm_name);
    let why = format!("{id} ({file}) is encrypted and its key is not to be had: {}", problem.why);
    let boots = run.vm.config.as_ref().and_then(|config| config.boot_disk()).is_some_and(|boot| boot.id == id);
    let remedy = if boots {
        problem.remedy.clone()
    } else {
        format!(
            "{}; or do without the disk: `ward vm disk detach {vm} {n}` or `ward vm disk rm {vm} {n}`",
            problem.remedy,
            n = id.0
        )
    };
    Problem { why, remedy, ..problem }
}

/// Whether the VM runs, as the host says when it answers again.
async fn power_when_back(run: &Run, link: &Link) -> Option<Power> {
    run.say(&format!("waits for host {}, which does not answer", link.name));
    let ask = async {
        loop {
            match link.call(VmPower { vm: run.info.vm }).await {
                Ok(power) => return Some(power),
                Err(CallError::Refused(_)) => return Some(Power::Off),
                Err(CallError::Unreachable { .. }) => tokio::time::sleep(TRY_EVERY).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, ask).await.ok().flatten()
}

pub(super) async fn stop(run: &mut Run) -> Step {
    let Work::Stop { host, force, wait_ms } = &run.work else { return Ok(()) };
    let (host, force, wait_ms) = (*host, *force, *wait_ms);
    let link = run.link(host)?;
    let step = if force { "pulls the plug" } else { "asks the guest to shut down, and waits" };
    run.mark("task.stop-ordered", step).await?;
    let call = StopVm { vm: run.info.vm, force, wait_ms };
    match link.call_within(call, Duration::from_millis(wait_ms.into()) + STOP_MARGIN).await {
        Ok(()) => {}
        // It ended by itself, or an earlier run of this task had it stopped.
        Err(CallError::Refused(problem)) if matches!(problem.code, Code::VmNotRunning | Code::NotFound) => {}
        Err(CallError::Refused(problem)) => return Err((*problem).into()),
        Err(error @ CallError::Unreachable { .. }) => match power_when_back(run, &link).await {
            Some(Power::Off) => {}
            Some(Power::On) | None => return Err(error.into_problem(&run.what()).into()),
        },
    }
    crash_point::reach("task.vm-stopped");
    let mut tx = run.controller.store.write().await?;
    vm::set_power(&mut tx, run.info.vm, Power::Off, Some(host)).await?;
    let message = format!("VM `{}` stopped on host `{}`", run.info.vm_name, link.name);
    run.event(&mut tx, EventKind::VmStopped, Some(host), None, &message).await?;
    Ok(run.succeed(tx).await?)
}
