//! Taking VMs into the inventory from their homes, and out of it: the home is the truth, the row its index.

use std::sync::Arc;

use ward_rpc::api::host::{HomeRef, ReadHome};
use ward_types::{Code, EventKind, EventSubject, KeyRef, Name, Power, Problem, VmConfig, VmId};

use crate::authz::operations::{RegisterEncryptedVm, RegisterVm, UnlockVm};
use crate::authz::{Granted, Note, grant};
use crate::controller::Shared;
use crate::hosts::Link;
use crate::keys::{KeyFault, Supply, report, supply};
use crate::native;
use crate::plan::{Needs, place};
use crate::store::cluster::{self, DatastoreRow};
use crate::store::vm::{self, VmRow};
use crate::store::{self, Tx, event, policy};

/// The proof for having a VM's keys given to hosts.
struct MayUnlock;

impl From<Granted<RegisterEncryptedVm>> for MayUnlock {
    fn from(_: Granted<RegisterEncryptedVm>) -> Self {
        Self
    }
}

impl From<Granted<UnlockVm>> for MayUnlock {
    fn from(_: Granted<UnlockVm>) -> Self {
        Self
    }
}

/// A home, and a host that can read it.
struct Place {
    what: String,
    subject: EventSubject,
    home: HomeRef,
    link: Arc<Link>,
    hosts: Vec<Arc<Link>>,
}

impl Place {
    fn new(
        controller: &Shared,
        user: &Name,
        what: String,
        datastore: &DatastoreRow,
        directory: &Name,
    ) -> Result<Self, Problem> {
        let needs = Needs { keys: true, ..Needs::default() };
        let host = place(&what, &controller.links.facts(datastore.cluster), needs)?;
        let link = controller.links.get(host).ok_or_else(|| Problem::internal(what.clone(), "the host is gone"))?;
        let home = HomeRef { datastore: datastore.directory.clone(), directory: directory.clone() };
        let subject = EventSubject { user: Some(user.clone()), ..EventSubject::default() };
        Ok(Self { what, subject, home, link, hosts: controller.links.of_cluster(datastore.cluster) })
    }

    async fn read(&self) -> Result<VmConfig, Problem> {
        let read = self.link.call(ReadHome { home: self.home.clone() }).await;
        let problem = match read {
            Ok(config) => return Ok(config),
            Err(error) => error.into_problem(&self.what),
        };
        Err(Problem { what: self.what.clone(), ..problem })
    }

    /// Refuses a VM of a native provider that the cluster has not: its hosts could never open it.
    async fn check_providers(
        &self,
        controller: &Shared,
        datastore: &DatastoreRow,
        config: &VmConfig,
    ) -> Result<(), Problem> {
        let rows = store::native::list(&mut *controller.store.read().await?).await?;
        for key in config.keys() {
            let Some(kdk) = key.kdk() else { continue };
            if let Err(problem) = native::check(&self.what, &rows, &kdk, datastore.cluster) {
                let fault = KeyFault::new(&key.provider, Some(key), problem);
                return Err(report(controller, &self.subject, fault).await);
            }
        }
        Ok(())
    }

    /// Gets the VM's keys to the hosts and has the home's code checked under them: the description as Ward wrote it, or
    /// why the VM is locked. A home that something else wrote is refused.
    async fn unlock(
        &self,
        controller: &Shared,
        _: MayUnlock,
        config: VmConfig,
    ) -> Result<(VmConfig, Option<Problem>), Problem> {
        let keys: Vec<KeyRef> = config.keys().into_iter().cloned().collect();
        if keys.is_empty() {
            return Ok((config, None));
        }
        let link = Some(self.link.id);
        let order = Supply { what: &self.what, subject: &self.subject, keys: &keys, hosts: &self.hosts, must: link };
        if let Err(problem) = supply(controller, order).await {
            return Ok((config, Some(problem)));
        }
        match self.read().await {
            Ok(config) => Ok((config, None)),
            // A key server that has another key under that ID: it may be put right.
            Err(problem) if problem.code == Code::KeyWrong => Ok((config, Some(problem))),
            Err(problem) => Err(problem),
        }
    }
}

/// Takes a VM into the inventory. Where its keys are not to be had, it is locked until they are.
pub(crate) async fn register(
    controller: &Shared,
    granted: Granted<RegisterVm>,
    directory: &Name,
) -> Result<VmId, Problem> {
    let (user, datastore) = (granted.user(), granted.on());
    let what = format!("cannot register the VM in `{directory}` on datastore `{}`", datastore.name);
    controller.links.settled().await;
    let place = Place::new(controller, user, what.clone(), datastore, directory)?;
    let config = place.read().await?;
    check_new(&mut *controller.store.read().await?, &what, &config).await?;
    let keys: Vec<KeyRef> = config.keys().into_iter().cloned().collect();
    let (config, locked) = if keys.is_empty() {
        (config, None)
    } else {
        let note = Note { detail: format!("VM `{}` in directory `{directory}`", config.name), keys };
        let may: Granted<RegisterEncryptedVm> = grant(controller, granted.caller(), datastore.clone(), note).await?;
        place.check_providers(controller, datastore, &config).await?;
        place.unlock(controller, may.into(), config).await?
    };
    let mut tx = controller.store.write().await?;
    check_new(&mut tx, &what, &config).await?;
    let row = VmRow {
        id: config.id,
        name: config.name.clone(),
        cluster: datastore.cluster,
        datastore: datastore.id,
        directory: directory.clone(),
        config: None,
        host: None,
        power: Power::Off,
        locked: None,
        template: false,
    };
    match vm::add(&mut tx, &row).await {
        Err(error) if error.is_conflict() => {
            let why = format!("a VM with its home in `{directory}` is in the inventory already");
            return Err(Problem::new(Code::Exists, what, why, "`ward vm ls` lists the VMs"));
        }
        added => added?,
    }
    vm::set_config(&mut tx, row.id, &config).await?;
    let message = format!("VM `{}` registered from {}", row.name, place.home.path().display());
    record(&mut tx, user, &row, EventKind::VmRegistered, &message).await?;
    set_locked(&mut tx, user, &row, locked.as_ref()).await?;
    tx.commit().await?;
    Ok(row.id)
}

async fn check_new(db: &mut sqlx::AnyConnection, what: &str, config: &VmConfig) -> Result<(), Problem> {
    let exists = |why: String, remedy: &str| Err(Problem::new(Code::Exists, what, why, remedy));
    if let Some(row) = vm::get(db, config.id).await? {
        let why = format!("it is in the inventory already, as VM `{}`", row.name);
        return exists(
            why,
            "nothing is to be done; a copy of a home is no VM of its own: clone it with `ward vm clone`",
        );
    }
    if vm::find(db, config.name.as_str()).await?.is_some() {
        let why = format!("there is another VM `{}` already", config.name);
        return exists(why, "unregister or remove that one first");
    }
    Ok(())
}

async fn record(tx: &mut Tx, user: &Name, row: &VmRow, kind: EventKind, message: &str) -> Result<(), Problem> {
    let subject = EventSubject { vm: Some(row.id), user: Some(user.clone()), ..EventSubject::default() };
    Ok(event::record(tx, kind, &subject, message).await?)
}

async fn set_locked(tx: &mut Tx, user: &Name, row: &VmRow, locked: Option<&Problem>) -> Result<(), Problem> {
    vm::set_locked(tx, row.id, locked).await?;
    if let Some(problem) = locked {
        let message = format!("VM `{}` is locked: {}. {}", row.name, problem.why, problem.remedy);
        record(tx, user, row, EventKind::VmLocked, &message).await?;
    }
    Ok(())
}

/// Tries again to get the keys of a VM that is locked.
pub(crate) async fn unlock(controller: &Shared, granted: Granted<UnlockVm>) -> Result<(), Problem> {
    let (user, row) = (granted.user().clone(), granted.on().clone());
    let what = format!("cannot unlock VM `{}`", row.name);
    if row.locked.is_none() {
        return Ok(());
    }
    let datastores = cluster::datastores(&mut *controller.store.read().await?).await?;
    let datastore = datastores.into_iter().find(|datastore| datastore.id == row.datastore);
    let datastore = datastore.ok_or_else(|| Problem::internal(what.clone(), "its datastore is gone"))?;
    controller.links.settled().await;
    let place = Place::new(controller, &user, what, &datastore, &row.directory)?;
    let config = place.read().await?;
    let (config, locked) = place.unlock(controller, granted.into(), config).await?;
    let mut tx = controller.store.write().await?;
    if let Some(problem) = locked {
        set_locked(&mut tx, &user, &row, Some(&problem)).await?;
        tx.commit().await?;
        return Err(problem);
    }
    vm::set_config(&mut tx, row.id, &config).await?;
    policy::follow(&mut tx, row.id, &crate::plan::keys(&config)).await?;
    vm::set_locked(&mut tx, row.id, None).await?;
    record(&mut tx, &user, &row, EventKind::VmUnlocked, &format!("VM `{}` is unlocked", row.name)).await?;
    Ok(tx.commit().await?)
}
