//! How a host keeps the processes of VMs apart.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a host keeps the processes of each VM (QEMU, the disk process, swtpm) from everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Isolation {
    /// The IDs of users of which each running VM has one; none where all run as the agent's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<String>,
    /// Whether each process is in a network of its own, with nothing in it.
    #[serde(default)]
    pub own_network: bool,
    /// The version of the kernel's Landlock by which each process can open only what it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock: Option<i32>,
    /// What can't be had on this host, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
}
