//! Whether somebody may have a key given to the hosts of a cluster that is there already: since a request names it, a VM's
//! home does, or an encrypted file. This is what keeps clusters under one key provider apart, for a key's ID is no secret.

use ward_types::{ClusterId, Code, KeyRef, Problem};

use crate::api::auth::Caller;
use crate::authz::operations::{AdoptKey, ChangeHostKey, CopyDisk};
use crate::authz::{Granted, KeyTarget, Note, Target as _, grant};
use crate::controller::Controller;
use crate::store::vm::{self, VmRow};
use crate::store::{host, needed};

/// The keys that somebody may have given to the hosts of a cluster.
pub(crate) struct MayGive(Vec<KeyRef>);

impl MayGive {
    /// None.
    pub(crate) const fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Those of a VM of the inventory, which its hosts hold anyway.
    pub(crate) fn of(vm: &VmRow) -> Self {
        Self(vm.keys())
    }

    /// Those of a VM of which somebody may have copies.
    pub(crate) fn copied(granted: &Granted<CopyDisk>) -> Self {
        Self::of(granted.on())
    }

    /// Asks for each key that is not among `have`, the VM's own. Whoever has it given to hosts takes what it takes to copy
    /// every other VM that it opens, and to change the host key of every host whose host key it is. One that nothing needs
    /// is had by who manages the provider's keys, unless a VM of the cluster has needed it before.
    pub(crate) async fn ask(
        controller: &Controller,
        caller: &Caller,
        (cluster, have): (ClusterId, &[KeyRef]),
        wanted: impl IntoIterator<Item = KeyRef>,
    ) -> Result<Self, Problem> {
        let mut may = Self(have.to_vec());
        for key in wanted {
            if !may.0.contains(&key) {
                ask_for(controller, caller, cluster, &key).await?;
                may.0.push(key);
            }
        }
        Ok(may)
    }

    /// Whether all of them are among these.
    pub(crate) fn covers<'a>(&self, keys: impl IntoIterator<Item = &'a KeyRef>) -> bool {
        keys.into_iter().all(|key| self.0.contains(key))
    }
}

async fn ask_for(controller: &Controller, caller: &Caller, cluster: ClusterId, key: &KeyRef) -> Result<(), Problem> {
    let mut db = controller.store.read().await?;
    let (vms, hosts) = (vm::under(&mut db, key).await?, host::under(&mut db, key).await?);
    // What is wrapped opens only where the provider lets it, whoever has the reference.
    let known = key.is_wrapped() || needed::was_in(&mut db, key, cluster).await?;
    drop(db);
    let note = || Note { detail: format!("to have key {key} given to other hosts"), keys: vec![key.clone()] };
    let adopts = vms.is_empty() && hosts.is_empty() && !known;
    for vm in vms {
        let _: Granted<CopyDisk> = grant(controller, caller, vm, note()).await.map_err(|it| unseen(key, it))?;
    }
    for host in hosts {
        let _: Granted<ChangeHostKey> = grant(controller, caller, host, note()).await.map_err(|it| unseen(key, it))?;
    }
    if adopts {
        let on = KeyTarget { key: key.clone() };
        let _: Granted<AdoptKey> =
            grant(controller, caller, on, Note::default()).await.map_err(|it| unseen(key, it))?;
    }
    Ok(())
}

/// Whoever names a key does not learn what needs it that it must not see, nor whether anything does.
fn unseen(key: &KeyRef, problem: Problem) -> Problem {
    if problem.code != Code::NotFound {
        return problem;
    }
    Problem::new(
        Code::AuthDenied,
        format!("cannot have key {key} given to hosts"),
        "no VM of the cluster has needed it, or something needs it that you may not see",
        "have a new key made, or ask somebody who has `crypto.manage-keys` on its provider, and may see all that needs it",
    )
}
