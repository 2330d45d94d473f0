//! What the agent is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::fault::Fault;

/// The longest path that a Unix socket can have.
const MAX_SOCKET_PATH: usize = 107;

/// How an agent runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the agent keeps its credentials, and the sockets and logs of running VMs.
    pub state_dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the controller reaches it, as `HOST:PORT`, where that has changed since it was enrolled.
    pub advertise: Option<String>,
    /// The `ward` binary: `EXE disk` must be a disk process.
    pub exe: PathBuf,
    /// QEMU; none means the one of this machine's processor in `PATH`.
    pub qemu: Option<PathBuf>,
}

impl Config {
    /// A configuration in which only what must be said is said.
    #[must_use]
    pub fn new(state_dir: PathBuf, listen: SocketAddr, exe: PathBuf) -> Self {
        Self { state_dir, listen, advertise: None, exe, qemu: None }
    }

    /// The directory under which each running VM has one.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.state_dir.join("run")
    }

    /// The QEMU to run.
    pub(crate) fn qemu(&self) -> PathBuf {
        self.qemu.clone().unwrap_or_else(|| format!("qemu-system-{}", std::env::consts::ARCH).into())
    }

    /// Refuses a state directory whose name leaves no room for the sockets in it.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let longest = self.run_dir().join("00000000-0000-0000-0000-000000000000").join("disk-65535.sock");
        if longest.as_os_str().len() > MAX_SOCKET_PATH {
            let why = format!("the path of the state directory {} is too long for sockets", self.state_dir.display());
            return Err(Fault::unfit(why, "choose a shorter one"));
        }
        Ok(())
    }
}
