//! Whose dumps may be read: what was in a VM's memory is as the VM, whether the inventory has it still or not.

use ward_types::{ClusterId, DumpInfo, DumpSubject, Name, Object, Problem, VmId};

use super::auth::Caller;
use crate::authz::operations::{DumpVm, ReadDumps};
use crate::authz::{Place, Target as _, allows};
use crate::controller::Controller;
use crate::store::vm::VmRow;
use crate::store::{vm, vm_left};

/// Those of a host of the cluster that somebody may read: a guest's like its VM, and, where that is not in the inventory any
/// more, like what is known of it, or like the cluster. A process's where it may read all of these, since it may have been any
/// one's.
pub(super) async fn readable(
    controller: &Controller,
    caller: &Caller,
    cluster: ClusterId,
    dumps: &[DumpInfo],
) -> Result<Vec<Name>, Problem> {
    let mut db = controller.store.read().await?;
    let rows = vm::list(&mut db).await?;
    let left = vm_left::of_cluster(&mut db, cluster).await?;
    drop(db);
    let reads = Reads { controller, caller, cluster, rows };
    // The same for each process, and a long question.
    let of_process = |dump: &DumpInfo| matches!(dump.about.subject, DumpSubject::Process { .. });
    let reads_processes = dumps.iter().any(of_process) && reads.everything(&left).await?;
    let mut names = Vec::new();
    for dump in dumps {
        let may = match dump.about.subject {
            DumpSubject::Guest { vm } => reads.vm(vm).await?,
            DumpSubject::Process { .. } => reads_processes,
        };
        names.extend(may.then(|| dump.name.clone()));
    }
    Ok(names)
}

struct Reads<'a> {
    controller: &'a Controller,
    caller: &'a Caller,
    cluster: ClusterId,
    /// All VMs of the inventory.
    rows: Vec<VmRow>,
}

impl Reads<'_> {
    async fn vm(&self, id: VmId) -> Result<bool, Problem> {
        if let Some(row) = self.rows.iter().find(|row| row.id == id) {
            return allows::<DumpVm>(self.controller, self.caller, row).await;
        }
        let place = self.place(&Object::Vm(id)).await?;
        match place {
            Some(place) => allows::<ReadDumps>(self.controller, self.caller, &place).await,
            None => self.cluster().await,
        }
    }

    async fn cluster(&self) -> Result<bool, Problem> {
        match self.place(&Object::Cluster(self.cluster)).await? {
            Some(place) => allows::<ReadDumps>(self.controller, self.caller, &place).await,
            None => Ok(false),
        }
    }

    async fn everything(&self, left: &[VmId]) -> Result<bool, Problem> {
        if !self.cluster().await? {
            return Ok(false);
        }
        let here = self.rows.iter().filter(|row| row.cluster == self.cluster).map(|row| row.id);
        for id in here.chain(left.iter().copied()) {
            if !self.vm(id).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn place(&self, object: &Object) -> Result<Option<Place>, Problem> {
        Ok(Place::find(&mut *self.controller.store.read().await?, &object.to_string()).await?)
    }
}
