//! Keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use ward_types::{DiskId, KeyRef, KeyState, Name, Problem, TaskId};

/// Which keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct KeyQuery {
    /// Those of this provider only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Those only that nothing needs any more.
    #[serde(default)]
    pub unneeded: bool,
    /// Without asking key servers in which state they are.
    #[serde(default)]
    pub offline: bool,
    /// At most so many; none means 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub limit: Option<u32>,
    /// Those after this one; as the `Link` of the page before says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Whether a key can be had from its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyStanding {
    /// It can.
    Present,
    /// Its provider does not have it, or has it in a state in which it is not given out.
    Missing,
    /// Nobody knows: the key server was not asked, or did not answer.
    Unknown,
}

impl std::fmt::Display for KeyStanding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Present => "present",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        })
    }
}

/// A key: who needs it, who has it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// `PROVIDER/ID`.
    pub name: String,
    /// The key.
    pub key: KeyRef,
    /// Whether its provider still has it.
    pub standing: KeyStanding,
    /// Its state at its key server.
    #[serde(default)]
    pub state: Option<KeyState>,
    /// Why it can't be had, or why that is not known.
    #[serde(default)]
    pub problem: Option<Problem>,
    /// Whether this controller had it made.
    pub made: bool,
    /// The VMs that need it.
    pub vms: Vec<KeyUser>,
    /// The hosts of which it is the host key, or that keep dumps which it opens.
    #[serde(default)]
    pub host_key_of: Vec<Name>,
    /// The tasks that need it.
    pub tasks: Vec<TaskId>,
    /// The hosts that hold it.
    pub hosts: Vec<Name>,
    /// Since when nothing needs it.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub unneeded_since: Option<Timestamp>,
    /// Until when it is not destroyed.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub kept_until: Option<Timestamp>,
}

/// A VM that needs a key, and for what of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyUser {
    /// The VM.
    pub vm: Name,
    /// Whether for its home.
    pub home: bool,
    /// For which of its disks.
    pub disks: Vec<DiskId>,
}

/// Which keys of the inventory to look for next.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckKeys {
    /// Get each key, as a host would need it, in the place of asking for its state.
    #[serde(default)]
    pub fetch: bool,
    /// Those after these, as the answer before says; none means the first ones.
    #[serde(default)]
    pub after: Option<String>,
    /// At most so many; none means 256, and more than 1000 means 1000.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub limit: Option<u32>,
}

/// What became of looking for some of the keys that the inventory needs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyCheck {
    /// How many keys the VMs of the inventory need.
    pub total: usize,
    /// How many of them were looked for now.
    pub checked: usize,
    /// Those that can't be had.
    pub faults: Vec<KeyView>,
    /// With what to go on; none where these were the last ones.
    #[serde(default)]
    pub next: Option<String>,
}

/// A key that lies at a key server under the name of what came to nothing: of a task, or of an attempt to give a host a host key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OrphanView {
    /// `PROVIDER/ID`.
    pub name: String,
    /// The key.
    pub key: KeyRef,
    /// Its name at the key server.
    pub label: String,
    /// The task that it was made for, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The name of the host whose host key it was to be, where this controller knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// Whether it was made for this controller. Where it was not, the key may be another controller's, and is not
    /// destroyed from here.
    pub ours: bool,
    /// Until when it is not destroyed.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub kept_until: Option<Timestamp>,
}

/// For how long keys that nothing needs are kept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyGrace {
    /// For so many days, at most 3650; with 0 they can be destroyed at once.
    #[schema(minimum = 0, maximum = 3650)]
    pub days: u32,
}

/// How to remove a host.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RemoveHost {
    /// Although it does not answer, so that it keeps its keys in memory until it is restarted.
    #[serde(default)]
    pub force: bool,
}
