//! Running VMs.

use serde::{Deserialize, Serialize};
use ward_types::{Power, VmConfig, VmId};

use super::{HomeRef, Notice};
use crate::call::calls;

calls! {
    "start-vm" = StartVm => Started;
    "stop-vm" = StopVm => ();
    "vm-power" = VmPower => Power;
    "read-console" = ReadConsole => ConsoleText;
    "start-home" = StartHome => Started;
}

/// Starts a VM. Refused with `key.not-on-host` where a key is missing, `image.locked` where it runs elsewhere.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartVm {
    /// Which VM.
    pub vm: VmId,
    /// Its home.
    pub home: HomeRef,
    /// What its description must say, value by value: of an encrypted VM, what the controller knows of it. A description
    /// that was right once and was put back is known by nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Box<VmConfig>>,
}

/// A VM was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// What somebody should know all the same.
    pub notices: Vec<Notice>,
}

/// Stops a VM. Answered when it is off.
#[derive(Debug, Serialize, Deserialize)]
pub struct StopVm {
    /// Which VM.
    pub vm: VmId,
    /// Whether to pull the plug instead of asking the guest (ACPI) and waiting for `wait_ms`.
    pub force: bool,
    /// How long the guest may take, in milliseconds, before the plug is pulled.
    pub wait_ms: u32,
}

/// Asks whether a VM runs here.
#[derive(Debug, Serialize, Deserialize)]
pub struct VmPower {
    /// Which VM.
    pub vm: VmId,
}

/// Reads a VM's serial console from `offset` on; waits up to `wait_ms` for something to read. What a guest prints is
/// kept in the agent's memory only, at most its last 64 KiB.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadConsole {
    /// Which VM.
    pub vm: VmId,
    /// How much the caller has read, counted from the VM's start.
    pub offset: u64,
    /// How long to wait, in milliseconds; at most 30,000.
    pub wait_ms: u32,
}

/// A piece of a console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleText {
    /// Where it ends, counted from the VM's start: the next `offset`.
    pub end: u64,
    /// What the guest printed; bytes that are no UTF-8 replaced.
    pub text: String,
    /// Whether the VM still runs.
    pub power: Power,
}

/// Starts the VM in a home. Answered on the host's own socket too, so that it works without the controller.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartHome {
    /// The home.
    pub home: HomeRef,
}
