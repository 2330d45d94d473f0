//! Processes that outlive the agent: known again by their number, their start and the machine's, watched and killed
//! through a descriptor that can't come to mean another process.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What tells a process from every other, on this machine and until it is started anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pid: i32,
    /// When it started, in ticks of the kernel's clock.
    start: u64,
    /// The machine's boot.
    boot: String,
}

impl ProcessId {
    /// The identity of a process that runs, or has ended but was not waited for.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self { pid, start: start_of(pid)?, boot: boot()? })
    }
}

/// A process under watch.
pub(crate) struct Process {
    pid: i32,
    fd: Arc<OwnedFd>,
    ended: watch::Receiver<bool>,
}

impl Process {
    /// Finds a process again; `None` where it has ended.
    pub(crate) fn find(id: &ProcessId) -> io::Result<Option<Self>> {
        if id.boot != boot()? {
            return Ok(None);
        }
        let pid = Pid::from_raw(id.pid).ok_or(io::ErrorKind::InvalidInput)?;
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Asked after the descriptor is there: from now on the number can't be given to another.
        match start_of(id.pid) {
            Ok(start) if start == id.start => {}
            _ => return Ok(None),
        }
        let fd = Arc::new(fd);
        let (sender, ended) = watch::channel(false);
        let watched = Arc::clone(&fd);
        // A thread that sleeps until then: the runtime has no safe way to wait for such a descriptor.
        std::thread::Builder::new().name("process watch".into()).spawn(move || wait_for_end(&watched, &sender))?;
        Ok(Some(Self { pid: id.pid, fd, ended }))
    }

    /// Its number, which is another's once it has ended.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        if self.ended.clone().wait_for(|ended| *ended).await.is_err() {
            tracing::error!("cannot watch a process");
            std::future::pending::<()>().await;
        }
    }

    /// Whether it has ended, as far as is known yet.
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Kills it. One that has ended is killed already.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&*self.fd, Signal::KILL);
    }
}

fn wait_for_end(process: &OwnedFd, ended: &watch::Sender<bool>) {
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], None) {
            Ok(_) => {
                ended.send_replace(true);
                return;
            }
            Err(rustix::io::Errno::INTR) => {}
            // The sender is dropped, which tells that nobody watches any more.
            Err(_) => return,
        }
    }
}

/// The processes that run in that directory: whatever was started there.
pub(crate) fn running_in(dir: &Path) -> Vec<ProcessId> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir))
        .filter_map(|pid| ProcessId::of(pid).ok())
        .collect()
}

fn start_of(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program, in parentheses, may hold anything; the start is field 22, and field 3 follows the name.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    fields
        .and_then(|fields| fields.split_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel says nothing sound of a process"))
}

fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_process_is_found_again_watched_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let mut child = Command::new("sleep").arg("600").current_dir(&dir).spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert_eq!(running_in(&dir), std::slice::from_ref(&id));
        let process = Process::find(&id).unwrap().unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), process.ended()).await.is_err());
        let text = serde_json::to_string(&id).unwrap();
        assert!(Process::find(&serde_json::from_str(&text).unwrap()).unwrap().is_some());
        for other in [ProcessId { start: id.start + 1, ..id.clone() }, ProcessId { boot: "x".into(), ..id.clone() }] {
            assert!(Process::find(&other).unwrap().is_none(), "{other:?}");
        }
        process.kill();
        process.ended().await;
        child.wait().unwrap();
        process.kill();
        assert!(Process::find(&id).unwrap().is_none());
    }
}
