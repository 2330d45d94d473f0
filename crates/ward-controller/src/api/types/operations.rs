//! What changes the encryption of VMs, and which VMs there are.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use ward_types::{
    Component, CryptoRequest, DiskId, KeyId, KeyRef, Name, PolicyName, Problem, ProviderName, TaskId, VmId,
};

/// How a VM is to be encrypted. Where no component is named, all are meant that are not encrypted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Encrypt {
    /// The key provider; none means the default one.
    #[serde(default)]
    pub provider: Option<ProviderName>,
    /// A key that exists; none means that a new one is made.
    #[serde(default)]
    pub key_id: Option<KeyId>,
    /// Whether the VM home is named.
    #[serde(default)]
    pub home: bool,
    /// The disks that are named, by number.
    #[serde(default)]
    pub disks: Vec<DiskId>,
}

/// How a VM is to be decrypted. Where no component is named, all are meant that are encrypted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decrypt {
    /// Whether the VM home is named.
    #[serde(default)]
    pub home: bool,
    /// The disks that are named, by number.
    #[serde(default)]
    pub disks: Vec<DiskId>,
}

/// How a VM is to get new keys. Where no component is named, all are meant that are encrypted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recrypt {
    /// Whether to make new DEKs too, and write everything anew.
    #[serde(default)]
    pub deep: bool,
    /// The key provider; none means the default one.
    #[serde(default)]
    pub provider: Option<ProviderName>,
    /// A key that exists; none means that a new one is made.
    #[serde(default)]
    pub key_id: Option<KeyId>,
    /// Whether the VM home is named.
    #[serde(default)]
    pub home: bool,
    /// The disks that are named, by number.
    #[serde(default)]
    pub disks: Vec<DiskId>,
}

/// Under which storage policies a VM is to be. What is not named stays under its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPolicy {
    /// That of the home.
    #[serde(default)]
    pub home: Option<PolicyName>,
    /// That of each disk that isn't named by itself.
    #[serde(default)]
    pub all_disks: Option<PolicyName>,
    /// Those of single disks.
    #[serde(default)]
    pub disks: BTreeMap<DiskId, PolicyName>,
}

/// A component and the storage policy under which it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComponentPolicy {
    /// The component.
    pub component: Component,
    /// The policy.
    pub policy: PolicyName,
}

/// A storage policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyView {
    /// Its name.
    pub name: PolicyName,
    /// Whether what is under it is encrypted.
    pub encrypts: bool,
    /// Where keys come from; none means the default provider.
    #[serde(default)]
    pub provider: Option<ProviderName>,
    /// After how many days keys are replaced; none means what the provider says.
    #[serde(default)]
    pub rotate_days: Option<u32>,
    /// Whether it is Ward's own and can't be changed.
    pub built_in: bool,
    /// The VMs of which something is under it.
    pub vms: Vec<Name>,
}

/// A storage policy that is to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPolicy {
    /// Its name.
    pub name: PolicyName,
    /// The policy that it is a copy of, but for what is said here.
    #[serde(default)]
    pub from: Option<PolicyName>,
    /// Whether what is under it is encrypted; none means as the other one, or yes.
    #[serde(default)]
    pub encrypts: Option<bool>,
    /// Where keys come from; none means as the other one, or from the default provider.
    #[serde(default)]
    pub provider: Option<ProviderName>,
    /// After how many days keys are replaced; none means as the other one, or as the provider says.
    #[serde(default)]
    pub rotate_days: Option<u32>,
}

/// Under which keys a clone is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CloneKeys {
    /// Under the same KEKs, with the same DEKs.
    #[default]
    Same,
    /// Under a new KEK, with the same DEKs.
    NewKek,
    /// Under a new KEK, with new DEKs: everything is encrypted anew.
    New,
}

/// What becomes of a vTPM when its VM is cloned. Either way the clone's has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TpmClone {
    /// The clone has the same secrets.
    Copy,
    /// The clone has a new, empty one.
    Replace,
}

/// A VM that is to be made from another one.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneVm {
    /// Its name.
    pub name: Name,
    /// The datastore, of the same cluster; none means that of the other one.
    #[serde(default)]
    pub datastore: Option<String>,
    /// Under which keys it is.
    #[serde(default)]
    pub keys: CloneKeys,
    /// The provider of new keys; none means the default one.
    #[serde(default)]
    pub provider: Option<ProviderName>,
    /// A key that exists; none means that a new one is made.
    #[serde(default)]
    pub key_id: Option<KeyId>,
    /// What is asked of single components besides: to encrypt or to decrypt them on the way, say.
    #[serde(default)]
    pub crypto: CryptoRequest,
    /// What becomes of the vTPM, only where there is one; none means that it is copied.
    #[serde(default)]
    pub tpm: Option<TpmClone>,
}

/// A vTPM that a VM is to get.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddTpm {
    /// The provider of the key under which its home is encrypted, where that is plain; none means the default one.
    #[serde(default)]
    pub provider: Option<ProviderName>,
    /// A key that exists; none means that a new one is made.
    #[serde(default)]
    pub key_id: Option<KeyId>,
}

/// At what age a provider's keys are to be replaced.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRotation {
    /// After so many days; none means never.
    #[serde(default)]
    pub days: Option<u32>,
}

/// A VM home that is to be taken into the inventory.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The home's directory in the datastore.
    pub directory: Name,
}

/// Whether a VM is to be a template.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTemplate {
    /// Whether it is one.
    pub template: bool,
}

/// Which keys of which VMs are to be replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecryptionRequest {
    /// Only keys of this provider; none means of any.
    #[serde(default)]
    pub provider: Option<ProviderName>,
    /// The provider of the new keys; none means that of each old one.
    #[serde(default)]
    pub to: Option<ProviderName>,
    /// Only keys that have been in use for so many days.
    #[serde(default)]
    pub older_than_days: Option<u32>,
    /// Only keys that are older than their storage policy or their provider allows.
    #[serde(default)]
    pub due: bool,
    /// How many VMs are worked on at a time; none means 4.
    #[serde(default)]
    pub concurrency: Option<u32>,
}

/// How the recryption of many VMs stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecryptionState {
    /// VM after VM is begun.
    Running,
    /// No more VMs are begun until it is resumed.
    Paused,
    /// No more VMs are begun; those that were are finished.
    Cancelling,
    /// All VMs are done, or failed, or left out.
    Ended,
    /// It was cancelled.
    Cancelled,
}

impl RecryptionState {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Ended | Self::Cancelled)
    }
}

impl fmt::Display for RecryptionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Ended => "ended",
            Self::Cancelled => "cancelled",
        })
    }
}

/// How one of its VMs stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecryptionVmState {
    /// Not begun.
    Pending,
    /// A task works on it.
    Running,
    /// Its keys are replaced.
    Done,
    /// They could not be.
    Failed,
    /// It has no such key any more, or is gone, or was left out.
    Skipped,
}

impl fmt::Display for RecryptionVmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        })
    }
}

/// One VM of many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecryptionVm {
    /// Which.
    pub vm: VmId,
    /// Its name.
    pub name: Name,
    /// How it stands.
    pub state: RecryptionVmState,
    /// The task that works or worked on it.
    #[serde(default)]
    pub task: Option<TaskId>,
    /// Why it failed or was left out.
    #[serde(default)]
    pub problem: Option<Problem>,
}

/// The recryption of many VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecryptionView {
    /// Its ID.
    pub id: TaskId,
    /// What was asked for.
    pub request: RecryptionRequest,
    /// How it stands.
    pub state: RecryptionState,
    /// Who asked for it.
    pub user: Name,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When it ended.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Timestamp>,
    /// How many VMs it has.
    pub total: usize,
    /// How many of them are done.
    pub done: usize,
    /// How many failed.
    pub failed: usize,
}

/// A VM to which a recryption of many would give new keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecryptionPlanVm {
    /// Which.
    pub vm: VmId,
    /// Its name.
    pub name: Name,
    /// Which of its components, each with the key that it has now.
    pub components: Vec<RecryptionPlanComponent>,
}

/// One of its components.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecryptionPlanComponent {
    /// Which.
    pub component: Component,
    /// The key that it has now.
    pub key: KeyRef,
    /// Since when that has been in use.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The provider of the key that it would get.
    pub to: ProviderName,
}

/// Which recryptions.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RecryptionQuery {
    /// At most so many, the newest; none means 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub limit: Option<u32>,
    /// Those begun before this one; as the `Link` of the page before says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<TaskId>,
}
