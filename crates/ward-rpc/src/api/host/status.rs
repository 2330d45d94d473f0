//! How a host is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use ward_types::{HostId, Isolation, KdkRef, KeyRef, Problem, TrustStatus, VmId};

use super::{CryptoStatus, JobStatus};
use crate::call::calls;

calls! {
    "status" = Status => HostStatus;
}

/// Asks how the host is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The keys that the asker knows the host to hold: of many keys it is not told again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<KeysMark>,
    /// Without its keys, whichever they are: many are just being given to it.
    #[serde(default)]
    pub without_keys: bool,
}

/// The keys that a host holds at one moment. Under the same mark they are the same keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysMark {
    /// The run of the agent.
    pub boot: Uuid,
    /// Grows with every change within it.
    pub revision: u64,
}

/// How a host is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Who answers.
    pub host: HostId,
    /// The agent's version.
    pub version: String,
    /// This run of the agent; another one has another key cache.
    pub boot: Uuid,
    /// Which keys it holds.
    pub mark: KeysMark,
    /// The keys that it holds; none where they are those that the asker knows, or does not want to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<KeyRef>>,
    /// The VMs that it runs.
    pub vms: Vec<VmId>,
    /// The jobs that it knows, ended ones too until they are forgotten.
    pub jobs: Vec<JobStatus>,
    /// QEMU's version, if there is a QEMU.
    pub qemu: Option<String>,
    /// Whether guests run on the processor itself (KVM), or are emulated (TCG).
    pub kvm: bool,
    /// What else it has for VMs.
    #[serde(default)]
    pub parts: HostParts,
    /// Running VMs of which a process has died.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<BrokenVm>,
    /// Why the host can't hold keys, if it can't.
    pub unfit: Option<Problem>,
    /// The keys of native providers.
    #[serde(default)]
    pub native: NativeStatus,
    /// How it stands with the trust authorities that it was told of.
    #[serde(default)]
    pub trust: Vec<TrustStatus>,
    /// Its host key and its dumps.
    #[serde(default)]
    pub crypto: CryptoStatus,
    /// How it keeps VMs apart.
    #[serde(default)]
    pub isolation: Isolation,
}

/// What a host has for VMs beside a QEMU. Each is a thing to be installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostParts {
    /// UEFI firmware.
    pub uefi: bool,
    /// UEFI firmware that does Secure Boot.
    pub secure_boot: bool,
    /// swtpm, for vTPMs.
    pub swtpm: bool,
}

/// A running VM of which a process has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BrokenVm {
    /// Which VM.
    pub vm: VmId,
    /// What died.
    pub part: VmPart,
    /// When, by the host's clock: so that a second time is another one.
    pub at: Timestamp,
}

/// A process without which a running VM is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmPart {
    /// swtpm. The guest goes on without its vTPM.
    Tpm,
    /// The disk process. QEMU is stopped: the guest would wait for its disks for ever.
    Disk,
}

/// What a host says of the keys of native providers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeStatus {
    /// Those that it has, in order.
    pub keys: Vec<KdkRef>,
    /// Whether it has a TPM to seal them to.
    pub tpm: bool,
    /// Whether they outlive a restart of the host: sealed to its TPM.
    pub sealed: bool,
    /// What is wrong with its TPM, or with what was sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Problem>,
}
