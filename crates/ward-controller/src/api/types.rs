//! What requests and answers of the REST API are made of. The command-line client speaks these types too.

mod access;
mod disks;
mod host_crypto;
mod keys;
mod native;
mod operations;
mod provider;
mod trusted;

pub use self::access::*;
pub use self::disks::*;
pub use self::host_crypto::*;
pub use self::keys::*;
pub use self::native::*;
pub use self::operations::*;
pub use self::provider::*;
pub use self::trusted::*;
pub use super::page::PageQuery;

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use ward_types::{
    ClusterId, DatastoreId, DumpInfo, HostId, HostMode, Isolation, KdkRef, KeyRef, LostDump, Name, PlainFormat, Power,
    Problem, TaskId, TaskInfo, VmConfig, VmId,
};

/// Who wants to log in.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The user's password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A session that has begun.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// What to show with each request: `Authorization: Bearer TOKEN`.
    pub token: String,
    /// Until when it is good.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Who is asking.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The user.
    pub user: Name,
    /// The controller's version.
    pub version: String,
}

/// A cluster.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// Its ID.
    pub id: ClusterId,
    /// Its name.
    pub name: Name,
    /// Its hosts.
    pub hosts: Vec<Name>,
    /// Its datastores.
    pub datastores: Vec<Name>,
    /// How many VMs it has.
    pub vms: usize,
}

/// A datastore.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DatastoreView {
    /// Its ID.
    pub id: DatastoreId,
    /// Its name.
    pub name: Name,
    /// The cluster whose hosts share it.
    pub cluster: Name,
    /// Where it is on each of them.
    #[schema(value_type = String)]
    pub directory: PathBuf,
}

/// A datastore that is to be known.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDatastore {
    /// Its name.
    pub name: Name,
    /// Where it is on each of the cluster's hosts: an absolute path.
    #[schema(value_type = String, pattern = "^/")]
    pub directory: PathBuf,
    /// The cluster; none means `default`.
    #[serde(default)]
    pub cluster: Option<String>,
}

/// A host that is to join.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddHost {
    /// The cluster; none means `default`.
    #[serde(default)]
    pub cluster: Option<String>,
    /// For how many minutes the token is good; none means 60.
    #[serde(default)]
    pub minutes: Option<u32>,
}

/// A token with which a host joins, once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct HostToken {
    /// The token, one line.
    pub token: String,
    /// Until when it is good.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
}

impl fmt::Debug for HostToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostToken").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Whether a host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// It was not asked yet.
    Unknown,
    /// It does.
    Connected,
    /// It does not.
    Disconnected,
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
        })
    }
}

/// A host. What it says of itself is as of its last answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// Its ID.
    pub id: HostId,
    /// Its name.
    pub name: Name,
    /// Its cluster.
    pub cluster: Name,
    /// Where it answers.
    pub address: String,
    /// Whether it answers.
    pub state: HostState,
    /// When it answered last.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
    /// The agent's version.
    #[serde(default)]
    pub version: Option<String>,
    /// QEMU's version, if it has a QEMU.
    #[serde(default)]
    pub qemu: Option<String>,
    /// Whether guests run on the processor itself.
    pub kvm: bool,
    /// How it keeps the processes of VMs apart.
    #[serde(default)]
    pub isolation: Isolation,
    /// How many keys it holds.
    #[serde(default)]
    pub key_count: usize,
    /// The keys that it holds. In a list of hosts they are left out.
    pub keys: Vec<KeyRef>,
    /// The VMs that it runs.
    pub vms: Vec<VmId>,
    /// Why it can't hold keys, if it can't.
    #[serde(default)]
    pub unfit: Option<Problem>,
    /// The keys of native providers that it has.
    #[serde(default)]
    pub native_keys: Vec<KdkRef>,
    /// Whether it has a TPM to which it seals those.
    #[serde(default)]
    pub tpm: bool,
    /// What is wrong with its TPM, or with what it has sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm_trouble: Option<Problem>,
    /// Its encryption mode: whether it may have keys.
    #[serde(default)]
    pub mode: HostMode,
    /// The key under which it encrypts dumps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<KeyRef>,
    /// Whether it keeps its keys over a restart, sealed to its TPM.
    #[serde(default)]
    pub key_persistence: bool,
    /// The dumps that it keeps.
    #[serde(default)]
    pub dumps: Vec<DumpInfo>,
    /// The dumps that it could not keep, the newest of them.
    #[serde(default)]
    pub lost_dumps: Vec<LostDump>,
    /// Whether its kernel hands it the memory of processes that crash, which it encrypts.
    #[serde(default)]
    pub core_handler: bool,
    /// Whether it has UEFI firmware for VMs.
    #[serde(default)]
    pub uefi: bool,
    /// Whether it has UEFI firmware that does Secure Boot.
    #[serde(default)]
    pub secure_boot: bool,
    /// Whether it has swtpm, for vTPMs.
    #[serde(default)]
    pub swtpm: bool,
}

/// A VM.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VmView {
    /// Its ID.
    pub id: VmId,
    /// Its name.
    pub name: Name,
    /// Whether it runs.
    pub power: Power,
    /// The host where it runs, or ran last.
    #[serde(default)]
    pub host: Option<Name>,
    /// The datastore where its home lies.
    pub datastore: Name,
    /// Its home.
    #[schema(value_type = String)]
    pub home: PathBuf,
    /// Whether anything of it is encrypted.
    pub encrypted: bool,
    /// The keys that it needs to run.
    pub keys: Vec<KeyRef>,
    /// Its description, without the keys that lie in it wrapped; none while its home is being made.
    #[serde(default)]
    pub config: Option<VmConfig>,
    /// The task that works on it.
    #[serde(default)]
    pub task: Option<TaskId>,
    /// Why it can't be used, if it can't.
    #[serde(default)]
    pub locked: Option<Problem>,
    /// Whether it is a template, which is never started.
    #[serde(default)]
    pub template: bool,
    /// The storage policies of its home and its disks.
    #[serde(default)]
    pub policies: Vec<ComponentPolicy>,
}

/// A VM that is to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddVm {
    /// Its name.
    pub name: Name,
    /// The datastore; none means the only one.
    #[serde(default)]
    pub datastore: Option<String>,
    /// Virtual processors; none means 1.
    #[serde(default)]
    pub cpus: Option<u16>,
    /// Memory in MiB; none means 512.
    #[serde(default)]
    pub memory_mib: Option<u32>,
    /// A kernel to boot directly; none means to boot from the first disk.
    #[serde(default)]
    pub kernel: Option<AddKernel>,
    /// Its disks, the first first.
    #[serde(default)]
    pub disks: Vec<AddDisk>,
    /// The storage policies of its home and its disks. What one encrypts is never plain on the storage.
    #[serde(default)]
    pub policies: Option<SetPolicy>,
    /// UEFI firmware; none means a BIOS.
    #[serde(default)]
    pub uefi: Option<AddUefi>,
    /// Whether it has a vTPM. That takes UEFI, and encrypts its home with a key of the default provider where no storage
    /// policy does.
    #[serde(default)]
    pub tpm: bool,
}

/// UEFI firmware that a new VM has.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddUefi {
    /// Whether it boots only what is signed.
    #[serde(default)]
    pub secure_boot: bool,
    /// The path on the hosts of a file with the variables that it begins with; none means the hosts' own, which with Secure
    /// Boot hold Microsoft's keys.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub vars: Option<PathBuf>,
}

/// A kernel to boot directly. The files are copied into the VM home.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddKernel {
    /// The kernel's path on the hosts.
    #[schema(value_type = String)]
    pub kernel: PathBuf,
    /// The initial RAM disk's path on the hosts.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[serde(default)]
    pub command_line: String,
}

/// A disk that is to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "source", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AddDisk {
    /// A blank one.
    Blank {
        /// Its size in bytes.
        size: u64,
        /// Its format.
        format: PlainFormat,
    },
    /// A copy of an image, which stays as it is.
    Copy {
        /// The image's path on the hosts.
        #[schema(value_type = String)]
        path: PathBuf,
    },
}

/// Where a VM is to be started.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The host; none means where it ran last, or where most room is.
    #[serde(default)]
    pub host: Option<Name>,
}

/// How a VM is to be stopped.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Whether to pull the plug at once.
    #[serde(default)]
    pub force: bool,
    /// How many seconds the guest may take before the plug is pulled; none means 60.
    #[serde(default)]
    pub wait_s: Option<u32>,
}

/// A task, with the number of its last change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// The task.
    #[serde(flatten)]
    pub info: TaskInfo,
    /// Grows with each change; to be given back as `seen`.
    pub revision: u64,
}

/// A piece of a guest's console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsoleView {
    /// Where it ends: the next `offset`.
    pub end: u64,
    /// What the guest printed.
    pub text: String,
    /// Whether the VM still runs.
    pub power: Power,
}

/// Which piece of a console.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConsoleQuery {
    /// How much the caller has read, counted from the VM's start.
    #[serde(default)]
    pub offset: u64,
    /// How many milliseconds to wait for something new; at most 30000.
    #[serde(default)]
    pub wait_ms: u32,
}

/// How to watch a task.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WatchQuery {
    /// The revision that the caller knows.
    #[serde(default)]
    pub seen: u64,
    /// How many milliseconds to wait for a change; at most 30000.
    #[serde(default)]
    pub wait_ms: u32,
}

/// Which tasks.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TaskQuery {
    /// Only those that have not ended.
    #[serde(default)]
    pub open: bool,
    /// At most so many, the newest; none means 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub limit: Option<u32>,
    /// Those begun before this one; as the `Link` of the page before says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<TaskId>,
}

/// Which events.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Those after this number; none means the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// At most so many; none means 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub limit: Option<u32>,
    /// How many milliseconds to wait where there are none; at most 30000.
    #[serde(default)]
    pub wait_ms: u32,
}
