//! The swtpm of a running VM.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use ward_secret::TpmKey;
use ward_types::Code;

use super::command_line::TPM_SOCKET;
use super::launch::{wait_for, with_log};
use super::process::{Process, ProcessId};
use super::run_dir::{RunDir, TPM_LOG};
use crate::fault::{Doing, Fault, Result};
use crate::isolate::{self, Isolated};
use crate::{files, vtpm};

/// How long it may take until its socket is there.
const SOCKET_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long it may take to end when QEMU has.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Starts it, for a QEMU that runs in the same directory. It ends with that QEMU.
pub(super) async fn start(
    isolated: &Isolated,
    run_dir: &RunDir,
    state: &Path,
    key: TpmKey,
) -> Result<(ProcessId, Process)> {
    isolate::give(state, isolated.user())?;
    crash_point::reach("run.tpm-given");
    let log = run_dir.log(TPM_LOG)?;
    let control = format!("type=unixio,path={TPM_SOCKET},mode=0600");
    let child = vtpm::spawn(isolated, state, Some(run_dir.path()), &key, &control, |command| {
        command.current_dir(run_dir.path()).stdout(Stdio::null()).stderr(Stdio::from(log)).process_group(0);
    })?;
    drop(key);
    let known = ProcessId::of(child.id()).and_then(|id| Ok((id.clone(), Process::find(&id)?)));
    wait_for(child);
    let (id, found) = known.doing("watch a process", run_dir.path())?;
    let process = found.ok_or_else(|| failed(run_dir, "swtpm ended at once"))?;
    let socket = run_dir.file(TPM_SOCKET);
    let deadline = Instant::now() + SOCKET_WITHIN;
    loop {
        if files::exists(&socket)? {
            return Ok((id, process));
        }
        if process.has_ended() || Instant::now() > deadline {
            process.kill();
            process.ended().await;
            return Err(failed(run_dir, "swtpm does not listen"));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Sees to it that it ends, now that QEMU has.
pub(super) async fn end(process: &Process) {
    if tokio::time::timeout(ENDS_WITHIN, process.ended()).await.is_err() {
        process.kill();
        process.ended().await;
    }
}

fn failed(run_dir: &RunDir, why: &str) -> Fault {
    with_log(Fault::new(Code::VmmFailed, why, "check swtpm's installation"), run_dir, TPM_LOG)
}
