//! VM homes as they are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ward_types::{KeyRef, Name, VmConfig};

use crate::call::calls;

calls! {
    "read-home" = ReadHome => VmConfig;
    "homes-under" = HomesUnder => Vec<PathBuf>;
}

/// Where a VM home lies: a directory in a datastore.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HomeRef {
    /// The datastore's directory, the same on all hosts of a cluster.
    pub datastore: PathBuf,
    /// The home's directory in it; the VM's name when it was made.
    pub directory: Name,
}

impl HomeRef {
    /// The home's path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.datastore.join(self.directory.as_str())
    }
}

/// Reads a VM home: to rebuild the controller's index, or to check it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadHome {
    /// The home.
    pub home: HomeRef,
}

/// Asks which VM homes of some datastores need a key: whether they are in the inventory or not.
#[derive(Debug, Serialize, Deserialize)]
pub struct HomesUnder {
    /// The datastores' directories.
    pub datastores: Vec<PathBuf>,
    /// The key.
    pub key: KeyRef,
}
