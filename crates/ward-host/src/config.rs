//! What the agent is told at its start.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::fault::Fault;
use crate::vmm;

/// The longest path that a Unix socket can have.
const MAX_SOCKET_PATH: usize = 107;

/// The host's TPM, and what keys are bound to in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmConfig {
    /// How to reach it, as a TCTI: `device:/dev/tpmrm0`, or `swtpm:host=HOST,port=PORT`.
    pub tcti: String,
    /// The PCRs of the SHA-256 bank that must be as they were for it to unseal keys: 0 to 23.
    pub pcrs: Vec<u8>,
    /// The firmware's event log, for trust authorities.
    pub event_log: PathBuf,
}

impl TpmConfig {
    /// Where Linux shows the event log.
    pub const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
}

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
    /// The TPM to which keys of native providers are sealed, so that they outlive a restart, and by which trust authorities
    /// attest the host; none means that the host waits for the controller then, and is not attested.
    pub tpm: Option<TpmConfig>,
    /// A file with the key of the trust administrators whose descriptions the agent goes by; none means those of whose
    /// description it sees first.
    pub trust_key: Option<PathBuf>,
    /// The IDs of users and groups of which each running VM is given one, where the agent is root; none means that all VMs run
    /// as the agent's user.
    pub vm_users: Option<RangeInclusive<u32>>,
}

impl Config {
    /// IDs that no distribution gives to anything else.
    pub const VM_USERS: RangeInclusive<u32> = 1_900_000_000..=1_900_065_535;

    /// A configuration in which only what must be said is said.
    #[must_use]
    pub fn new(state_dir: PathBuf, listen: SocketAddr, exe: PathBuf) -> Self {
        Self {
            state_dir,
            listen,
            advertise: None,
            exe,
            qemu: None,
            tpm: None,
            trust_key: None,
            vm_users: Some(Self::VM_USERS),
        }
    }

    /// The directory under which each running VM has one.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.state_dir.join("run")
    }

    /// The socket on which the agent answers this machine's administrator.
    pub(crate) fn local_socket(&self) -> PathBuf {
        self.state_dir.join(crate::local::SOCKET)
    }

    /// The QEMU to run.
    pub(crate) fn qemu(&self) -> PathBuf {
        self.qemu.clone().unwrap_or_else(|| format!("qemu-system-{}", std::env::consts::ARCH).into())
    }

    /// Refuses a state directory whose name leaves no room for the sockets in it.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let longest = self.run_dir().join(format!("{}/{}/disk-65535.sock", uuid::Uuid::nil(), vmm::PROCESSES));
        if longest.as_os_str().len() > MAX_SOCKET_PATH {
            let why = format!("the path of the state directory {} is too long for sockets", self.state_dir.display());
            return Err(Fault::unfit(why, "choose a shorter one"));
        }
        Ok(())
    }
}
