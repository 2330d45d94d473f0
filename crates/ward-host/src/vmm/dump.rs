//! A guest's memory as QEMU writes it, through a pipe: nothing of it touches the disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use ward_types::{Code, VmId};

use super::{Running, Slot, Vms};
use crate::fault::{Fault, Result};

/// How often QEMU is asked whether it has ended a dump.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A dump that QEMU has begun.
pub(crate) struct GuestDump {
    /// Where it comes out.
    pub(crate) pipe: File,
    /// Who writes it.
    pub(crate) running: Dumping,
}

/// A VM that is being dumped.
pub(crate) struct Dumping(Arc<Running>);

impl Dumping {
    /// Waits for QEMU to say how it went; the pipe is at its end by then, and the guest goes on.
    pub(crate) async fn dumped(&self) -> Result<()> {
        let qmp = self.0.qmp.as_ref().ok_or_else(no_control)?;
        loop {
            let status = qmp.query_dump().await.map_err(|error| failed(&error.to_string()))?;
            match status.as_str() {
                "completed" => return Ok(()),
                "active" => sleep(ASK_EVERY).await,
                other => return Err(failed(&format!("QEMU's dump is {other}"))),
            }
        }
    }
}

fn no_control() -> Fault {
    failed("QEMU does not answer on its control socket since the agent started anew")
}

fn failed(why: &str) -> Fault {
    Fault::new(Code::VmmFailed, why, "see QEMU's log; the guest goes on")
}

impl Vms {
    /// Has QEMU dump a guest's memory.
    pub(crate) async fn dump(&self, vm: VmId) -> Result<GuestDump> {
        let running = match self.slots().get(&vm) {
            Some(Slot::Running(running)) => Arc::clone(running),
            Some(Slot::Busy) | None => {
                return Err(Fault::new(Code::VmNotRunning, "it does not run on this host", "start it first"));
            }
        };
        let qmp = running.qmp.as_ref().ok_or_else(no_control)?;
        // QEMU is given the pipe itself: it may make no files.
        let (pipe, its) = io::pipe().map_err(|error| Fault::internal(format!("no pipe: {error}")))?;
        qmp.dump_guest_memory(its.as_fd()).await.map_err(|error| failed(&error.to_string()))?;
        drop(its);
        let pipe = File::from(OwnedFd::from(pipe));
        Ok(GuestDump { pipe, running: Dumping(Arc::clone(&running)) })
    }

    /// The logs of the VMs that run, with their places in a support bundle.
    pub(crate) fn logs(&self) -> Vec<(String, std::path::PathBuf)> {
        let dir = |vm: &VmId| self.settings.run_dir.join(vm.to_string());
        let names = [super::run_dir::QEMU_LOG, super::run_dir::DISK_LOG];
        let of_vm = |vm: VmId| names.map(|name| (format!("logs/{vm}/{name}"), dir(&vm).join(name)));
        self.running().into_iter().flat_map(of_vm).collect()
    }
}
