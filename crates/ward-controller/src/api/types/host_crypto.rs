//! Host encryption mode, dumps, key persistence.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether a host is to have keys.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetEncryption {
    /// On makes it `safe`; off `pending-incapable`, until it starts anew.
    pub on: bool,
}

/// Whether a host keeps its keys over a restart, sealed to its TPM.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetHostPersistence {
    /// Whether; none leaves it to its cluster.
    #[serde(default)]
    pub on: Option<bool>,
}

/// Whether the hosts of a cluster that have a TPM keep their keys over a restart, unless something else is said of them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetClusterPersistence {
    /// Whether.
    pub on: bool,
}

/// A support bundle that is to be made.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeBundle {
    /// The password under which dumps are put; none leaves them under the host key.
    #[serde(default)]
    pub password: Option<String>,
}

impl fmt::Debug for MakeBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MakeBundle").finish_non_exhaustive()
    }
}
