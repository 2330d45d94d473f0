//! VM homes as they are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ward_types::{KeyRef, Name, VmConfig};

use crate::call::calls;

calls! {
    "read-home" = ReadHome => VmConfig;
    "find-uses" = FindUses => Vec<DatastoreUses>;
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

/// Asks what on some datastores needs a key: VM homes and encrypted disks, whether they are in the inventory or not.
#[derive(Debug, Serialize, Deserialize)]
pub struct FindUses {
    /// The datastores' directories.
    pub datastores: Vec<PathBuf>,
    /// The key.
    pub key: KeyRef,
}

/// What of it lies on a datastore. One that the host does not have at all is left out of the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct DatastoreUses {
    /// Its directory.
    pub directory: PathBuf,
    /// Whether Ward's mark is there, which each datastore has from its first VM home on: where that is not mounted, it is not.
    pub marked: bool,
    /// The homes, and disks outside of such homes.
    pub uses: Vec<PathBuf>,
}
