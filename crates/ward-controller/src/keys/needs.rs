//! What needs a key: VMs by their descriptions, hosts for themselves, and tasks that are under way.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::AnyConnection;
use ward_types::{ClusterId, HostId, KeyRef, Name, TaskId, VmId};

use crate::controller::Controller;
use crate::store::needed::KeyOwner;
use crate::store::vm::{self, VmRow};
use crate::store::{StoreError, host_crypto, server_key, task};

/// The keys that the hosts of a cluster need for its VMs.
pub(crate) type Needed = Arc<BTreeSet<KeyRef>>;

/// The keys that VMs of each cluster need, as they were when they changed last.
#[derive(Default)]
pub(crate) struct NeededKeys(Mutex<HashMap<ClusterId, (i64, Needed)>>);

/// The keys that VMs of the cluster need now, and the number under which they are these.
pub(crate) async fn needed(controller: &Controller, cluster: ClusterId) -> Result<(i64, Needed), StoreError> {
    let mut db = controller.store.read().await?;
    // Read first: what changes meanwhile is another number at the next look.
    let generation = server_key::generation(&mut db).await?;
    let lock = || controller.needed.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, needed)) = lock().get(&cluster)
        && *known == generation
    {
        return Ok((generation, Arc::clone(needed)));
    }
    let needed: Needed = Arc::new(vm::keys_of_cluster(&mut db, cluster).await?.into_iter().collect());
    lock().insert(cluster, (generation, Arc::clone(&needed)));
    Ok((generation, needed))
}

/// What needs one key.
pub(crate) struct Users {
    pub(crate) vms: Vec<VmRow>,
    /// The hosts of which it is the host key, or that keep dumps which it opens; each with its cluster.
    pub(crate) hosts: Vec<(HostId, ClusterId, Name)>,
    pub(crate) tasks: Vec<TaskId>,
}

impl Users {
    /// Whether nothing does.
    pub(crate) fn is_nobody(&self) -> bool {
        self.vms.is_empty() && self.hosts.is_empty() && self.tasks.is_empty()
    }

    /// The VMs and hosts, in words.
    pub(crate) fn named(&self) -> String {
        let vms = self.vms.iter().map(|row| KeyOwner::Vm(row.name.clone()));
        let hosts = self.hosts.iter().map(|(.., name)| KeyOwner::Host(name.clone()));
        vms.chain(hosts).map(|owner| owner.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The clusters of them.
    pub(crate) fn clusters(&self) -> BTreeSet<ClusterId> {
        let hosts = self.hosts.iter().map(|(_, cluster, _)| *cluster);
        self.vms.iter().map(|row| row.cluster).chain(hosts).collect()
    }

    /// The VM that an event names.
    pub(crate) fn first_vm(&self) -> Option<VmId> {
        self.vms.first().map(|row| row.id)
    }
}

/// What needs a key.
pub(crate) async fn users(db: &mut AnyConnection, key: &KeyRef) -> Result<Users, StoreError> {
    let vms = vm::under(&mut *db, key).await?;
    let hosts = host_crypto::under(&mut *db, key).await?;
    let open = task::open(db).await?;
    let tasks =
        open.iter().filter(|row| row.work.all_keys().any(|known| known == key)).map(|row| row.info.id).collect();
    Ok(Users { vms, hosts, tasks })
}

/// The keys of tasks that are under way.
pub(crate) async fn of_tasks(db: &mut AnyConnection) -> Result<BTreeSet<KeyRef>, StoreError> {
    Ok(task::open(db).await?.iter().flat_map(|row| row.work.all_keys().cloned().collect::<Vec<_>>()).collect())
}

/// Keys that are about to be needed: a VM is being taken into the inventory. Hosts keep them.
#[derive(Default)]
pub(crate) struct ReservedKeys(Mutex<Vec<KeyRef>>);

/// As long as it is there, hosts keep these keys.
pub(crate) struct Reservation<'a> {
    all: &'a ReservedKeys,
    keys: Vec<KeyRef>,
}

impl ReservedKeys {
    /// Lets hosts keep keys.
    pub(crate) fn reserve(&self, keys: Vec<KeyRef>) -> Reservation<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(keys.iter().cloned());
        Reservation { all: self, keys }
    }

    /// Whether a key is among them.
    pub(crate) fn has(&self, key: &KeyRef) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            if let Some(place) = all.iter().position(|known| known == key) {
                all.swap_remove(place);
            }
        }
    }
}
