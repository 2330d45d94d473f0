//! Taking VMs into the inventory from their homes, and out of it: the home is the truth, the row its index.

use std::sync::Arc;

use ward_rpc::api::host::{HomeRef, ReadHome};
use ward_types::{ClusterId, Code, EventKind, EventSubject, KeyRef, Name, Power, Problem, VmConfig, VmId};

use crate::api::auth::Caller;
use crate::authz::operations::{RegisterEncryptedVm, RegisterVm, ReloadVm, UnlockVm};
use crate::authz::{Granted, Note, Target as _, grant, grant_to_schedule};
use crate::controller::Shared;
use crate::hosts::{self, Link, make_cluster_safe};
use crate::keys::{KeyFault, Supply, going, report, supply};
use crate::native;
use crate::plan::{self, ModeChange, Needs, on_demand, place};
use crate::store::cluster::{self, DatastoreRow};
use crate::store::vm::{self, VmRow};
use crate::store::{self, Tx, event, policy, server_key, task, vm_left};
use crate::tasks::may::MayEnable;
use crate::tasks::may_key::MayGive;

/// The proof for having a VM's keys given to hosts: these, and no others that its home may name.
struct MayUnlock(MayGive);

impl MayUnlock {
    fn new(_: &Granted<RegisterEncryptedVm>, gives: MayGive) -> Self {
        Self(gives)
    }

    /// For the keys that the VM has in the inventory, which its hosts hold as soon as they are to be had.
    fn again(_: &Granted<UnlockVm>, row: &VmRow) -> Self {
        Self(MayGive::of(row))
    }

    /// The same.
    fn reload(granted: &Granted<ReloadVm>) -> Self {
        Self(MayGive::of(granted.on()))
    }

    /// For others too, which its home names.
    async fn others(controller: &Shared, caller: &Caller, row: &VmRow, others: Vec<KeyRef>) -> Result<Self, Problem> {
        let note = Note { detail: "its home names other keys".to_owned(), keys: others.clone() };
        let _: Granted<UnlockVm> = grant(controller, caller, row.clone(), note).await?;
        let have = row.keys();
        MayGive::ask(controller, caller, (row.cluster, &have), others).await.map(Self)
    }
}

/// Who has the home of a VM of the inventory read again.
enum By<'a> {
    Unlock(&'a Granted<UnlockVm>),
    Reload(&'a Granted<ReloadVm>),
    /// The controller itself, since somebody wants something of the VM.
    Itself(&'a Name),
}

impl By<'_> {
    /// The proof for the keys that the VM has in the inventory.
    async fn known(&self, controller: &Shared, row: &VmRow) -> Result<MayUnlock, Problem> {
        Ok(match self {
            Self::Unlock(granted) => MayUnlock::again(granted, row),
            Self::Reload(granted) => MayUnlock::reload(granted),
            Self::Itself(user) => {
                let note = Note::from(format!("again, since `{user}` wants something of it"));
                MayUnlock::again(&grant_to_schedule(controller, row.clone(), note).await?, row)
            }
        })
    }

    const fn caller(&self) -> Option<&Caller> {
        match self {
            Self::Unlock(granted) => Some(granted.caller()),
            Self::Reload(granted) => Some(granted.caller()),
            Self::Itself(_) => None,
        }
    }
}

/// The keys that a home names and the inventory does not.
fn others(row: &VmRow, config: &VmConfig) -> Vec<KeyRef> {
    let have = row.keys();
    config.keys().into_iter().filter(|key| !have.contains(key)).cloned().collect()
}

/// A home, and a host that can read it.
struct Place {
    what: String,
    subject: EventSubject,
    home: HomeRef,
    link: Arc<Link>,
    cluster: ClusterId,
    enable: MayEnable,
}

impl Place {
    fn new(
        controller: &Shared,
        (user, enable): (&Name, MayEnable),
        what: String,
        datastore: &DatastoreRow,
        directory: &Name,
    ) -> Result<Self, Problem> {
        let facts = controller.links.facts(datastore.cluster);
        // One that may have keys, since the VM may need some; to read what it is any other will do.
        let able = place(&what, &facts, Needs { keys: true, ..Needs::default() });
        let host = able.or_else(|_| place(&what, &facts, Needs::default()))?;
        let link = controller.links.get(host).ok_or_else(|| Problem::internal(what.clone(), "the host is gone"))?;
        let home = HomeRef { datastore: datastore.directory.clone(), directory: directory.clone() };
        let subject = EventSubject { user: Some(user.clone()), ..EventSubject::default() };
        Ok(Self { what, subject, home, link, cluster: datastore.cluster, enable })
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

    /// Switches on the encryption modes that the VM's keys need, as far as whoever asks may.
    async fn switch_on(&self, controller: &Shared) -> Result<(), Problem> {
        let needs = Needs { keys: true, only: Some(self.link.id), ..Needs::default() };
        let facts = controller.links.facts(self.cluster);
        for id in on_demand(&self.what, &facts, &self.enable.hosts(), needs)? {
            if let Some(link) = controller.links.get(id) {
                let mut tx = controller.store.write().await?;
                let change = ModeChange::Prepare { attempt: uuid::Uuid::new_v4() };
                let crypto = hosts::change(&mut tx, &self.what, &link, change, &self.subject).await?;
                tx.commit().await?;
                link.set_crypto(crypto);
            }
        }
        place(&self.what, &controller.links.facts(self.cluster), needs).map(drop)
    }

    /// Gets the home's key to the one host that reads it and has its code checked under it: the description as Ward wrote
    /// it, or why the VM is locked. A home that something else wrote is refused, before any other host has a key for it.
    async fn unlock(
        &self,
        controller: &Shared,
        MayUnlock(gives): MayUnlock,
        config: VmConfig,
    ) -> Result<(VmConfig, Option<Problem>), Problem> {
        let Some(home) = config.home.key().cloned() else { return Ok((config, None)) };
        self.switch_on(controller).await?;
        if let Err(problem) =
            make_cluster_safe(controller, &self.what, &self.subject, &self.link, std::slice::from_ref(&home)).await
        {
            return Ok((config, Some(problem)));
        }
        if let Err(problem) = self.supply(controller, &home, &[Arc::clone(&self.link)]).await {
            return Ok((config, Some(problem)));
        }
        let read = match self.read().await {
            Ok(config) => Ok((config, None)),
            // A key server that has another key under that ID: it may be put right.
            Err(problem) if problem.code == Code::KeyWrong => Ok((config, Some(problem))),
            Err(problem) => Err(problem),
        };
        if let Ok((config, None)) = &read {
            if !gives.covers(config.keys()) {
                let why = "its home names other keys than a moment ago";
                return Err(Problem::new(Code::Busy, self.what.clone(), why, "try again"));
            }
            // A disk whose key is not to be had does not lock the VM: it is told, and named again where the VM is started.
            let hosts = controller.links.safe_of_cluster(self.cluster);
            for key in config.keys().into_iter().filter(|key| **key != home) {
                if self.supply(controller, key, &hosts).await.is_err() {
                    tracing::warn!(%key, home = %self.home.path().display(), "the key of a disk is not to be had");
                }
            }
        }
        read
    }

    /// Gives hosts a key, where the one that reads the home lacks it. What the others lack of a VM's keys, their supervisors
    /// see to.
    async fn supply(&self, controller: &Shared, key: &KeyRef, hosts: &[Arc<Link>]) -> Result<(), Problem> {
        let must = Some(self.link.id);
        let lacks = self.link.lacks(std::slice::from_ref(key)).await;
        let lacks = lacks.map_err(|error| error.into_problem(&self.what))?;
        if lacks.is_empty() {
            return Ok(());
        }
        let order = Supply { what: &self.what, subject: &self.subject, keys: &lacks, hosts, must };
        supply(controller, order).await
    }
}

/// Takes a VM into the inventory. Where its home's key is not to be had, it is locked until it is.
pub(crate) async fn register(
    controller: &Shared,
    granted: Granted<RegisterVm>,
    directory: &Name,
) -> Result<VmId, Problem> {
    let (user, datastore) = (granted.user(), granted.on());
    let what = format!("cannot register the VM in `{directory}` on datastore `{}`", datastore.name);
    controller.links.settled().await;
    let mut place = Place::new(controller, (user, MayEnable::nothing()), what.clone(), datastore, directory)?;
    let config = place.read().await?;
    check_new(&mut *controller.store.read().await?, &what, &config).await?;
    let keys: Vec<KeyRef> = config.keys().into_iter().cloned().collect();
    let _reserved = controller.reserved.reserve(keys.clone());
    let (config, locked) = if keys.is_empty() {
        (config, None)
    } else {
        let caller = granted.caller();
        let note = Note { detail: format!("VM `{}` in directory `{directory}`", config.name), keys: keys.clone() };
        let may: Granted<RegisterEncryptedVm> = grant(controller, caller, datastore.clone(), note).await?;
        let gives = MayGive::ask(controller, caller, (datastore.cluster, &[]), keys).await?;
        place.check_providers(controller, datastore, &config).await?;
        place.enable = MayEnable::ask(controller, caller, datastore.cluster).await?;
        place.unlock(controller, MayUnlock::new(&may, gives), config).await?
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
    vm_left::come_back(&mut tx, row.id).await?;
    policy::follow(&mut tx, row.id, &plan::keys(&config)).await?;
    let message = format!("VM `{}` registered from {}", row.name, place.home.path().display());
    record(&mut tx, user, &row, EventKind::VmRegistered, &message).await?;
    let locked = locked.map(|problem| lock_of(&row, &config, &problem));
    set_locked(&mut tx, user, &VmRow { config: Some(config), ..row.clone() }, locked.as_ref()).await?;
    tx.commit().await?;
    Ok(row.id)
}

async fn check_new(db: &mut sqlx::AnyConnection, what: &str, config: &VmConfig) -> Result<(), Problem> {
    let keys: Vec<KeyRef> = config.keys().into_iter().cloned().collect();
    if let Some(key) = server_key::being_destroyed(&mut *db, &keys).await? {
        return Err(going(what, &key));
    }
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
        let subject = EventSubject {
            vm: Some(row.id),
            user: Some(user.clone()),
            key: row.config.as_ref().and_then(|config| config.home.key()).cloned(),
            ..EventSubject::default()
        };
        event::record_problem(tx, EventKind::VmLocked, &subject, problem).await?;
    }
    Ok(())
}

/// Why a VM is locked, in the words in which it is kept.
fn lock_of(row: &VmRow, config: &VmConfig, problem: &Problem) -> Problem {
    let key = config.home.key().map_or_else(String::new, |key| format!(" {key}"));
    let why = format!("its key{key} is not to be had: {}", problem.why);
    let remedy = format!("{}; it is unlocked by itself when the key is there", problem.remedy);
    Problem::new(problem.code, format!("VM `{}` is locked", row.name), why, remedy)
}

async fn place_of(controller: &Shared, by: (&Name, MayEnable), what: String, row: &VmRow) -> Result<Place, Problem> {
    let datastores = cluster::datastores(&mut *controller.store.read().await?).await?;
    let datastore = datastores.into_iter().find(|datastore| datastore.id == row.datastore);
    let datastore = datastore.ok_or_else(|| Problem::internal(what.clone(), "its datastore is gone"))?;
    controller.links.settled().await;
    Place::new(controller, by, what, &datastore, &row.directory)
}

/// Tries again to get the keys of a VM that is locked.
pub(crate) async fn unlock(controller: &Shared, granted: Granted<UnlockVm>) -> Result<(), Problem> {
    let (user, row) = (granted.user().clone(), granted.on().clone());
    if row.locked.is_none() {
        return Ok(());
    }
    controller.links.settled().await;
    let enable = MayEnable::ask(controller, granted.caller(), row.cluster).await?;
    let mut place = place_of(controller, (&user, enable), format!("cannot unlock VM `{}`", row.name), &row).await?;
    match read_again(controller, &mut place, By::Unlock(&granted), &row).await? {
        None => Ok(()),
        Some(problem) => Err(problem),
    }
}

/// Tries again by itself, since somebody wants something of a VM that is locked. That it stays locked is told by whoever
/// looks at it next.
pub(crate) async fn try_again(controller: &Shared, row: &VmRow, user: &Name) {
    let what = format!("cannot unlock VM `{}`", row.name);
    let again = async {
        let mut place = place_of(controller, (user, MayEnable::nothing()), what, row).await?;
        read_again(controller, &mut place, By::Itself(user), row).await
    };
    if let Err(problem) = again.await {
        tracing::debug!(vm = %row.name, %problem, "a VM stays locked");
    }
}

/// Reads a VM's description from its home again: it was put back from a backup, or changed by hand while it was plain.
/// Where its key is not to be had, it is locked afterwards.
pub(crate) async fn reload(controller: &Shared, granted: Granted<ReloadVm>) -> Result<(), Problem> {
    let (user, row) = (granted.user().clone(), granted.on().clone());
    let what = format!("cannot reload VM `{}`", row.name);
    {
        let mut db = controller.store.read().await?;
        let busy = task::open_of_vm(&mut db, row.id).await?;
        plan::reload(&what, &row.name, row.power, busy.as_ref())?;
    }
    let enable = match row.keys().is_empty() {
        true => MayEnable::nothing(),
        false => MayEnable::ask(controller, granted.caller(), row.cluster).await?,
    };
    let mut place = place_of(controller, (&user, enable), what, &row).await?;
    read_again(controller, &mut place, By::Reload(&granted), &row).await?;
    let mut tx = controller.store.write().await?;
    let message = format!("VM `{}` read from {} again", row.name, place.home.path().display());
    record(&mut tx, &user, &row, EventKind::VmReloaded, &message).await?;
    Ok(tx.commit().await?)
}

/// Reads the home of a VM of the inventory, with its keys, and writes down what it says; tells why the VM is locked, if it is.
async fn read_again(
    controller: &Shared,
    place: &mut Place,
    by: By<'_>,
    row: &VmRow,
) -> Result<Option<Problem>, Problem> {
    let config = place.read().await?;
    if config.id != row.id {
        let why = format!("its home in `{}` is that of another VM, {}", row.directory, config.id);
        let remedy = "put the VM's own home back, or unregister it and register the other";
        return Err(Problem::new(Code::HomeInvalid, place.what.clone(), why, remedy));
    }
    let _reserved = controller.reserved.reserve(config.keys().into_iter().cloned().collect());
    let other = others(row, &config);
    let may = match by.caller() {
        _ if other.is_empty() => by.known(controller, row).await?,
        Some(caller) => {
            place.enable = MayEnable::ask(controller, caller, row.cluster).await?;
            MayUnlock::others(controller, caller, row, other).await?
        }
        // Somebody who may must ask for them.
        None => return Ok(row.locked.clone()),
    };
    let (config, locked) = place.unlock(controller, may, config).await?;
    let user = place.subject.user.clone();
    let locked = locked.map(|problem| lock_of(row, &config, &problem));
    settle(controller, row, user.as_ref(), &config, locked.as_ref()).await?;
    Ok(locked.map(|problem| Problem { what: place.what.clone(), ..problem }))
}

/// Writes down what a VM's home says, and whether the VM is locked.
async fn settle(
    controller: &Shared,
    row: &VmRow,
    user: Option<&Name>,
    config: &VmConfig,
    locked: Option<&Problem>,
) -> Result<(), Problem> {
    let mut tx = controller.store.write().await?;
    // Whoever works on it says more of it.
    let Some(now) = vm::get(&mut tx, row.id).await? else { return Ok(()) };
    if task::open_of_vm(&mut tx, row.id).await?.is_some() {
        return Ok(());
    }
    if locked.is_none() && now.config.as_ref() != Some(config) {
        vm::set_config(&mut tx, row.id, config).await?;
        policy::follow(&mut tx, row.id, &plan::keys(config)).await?;
    }
    let code = |problem: Option<&Problem>| problem.map(|problem| problem.code);
    if code(now.locked.as_ref()) != code(locked) {
        vm::set_locked(&mut tx, row.id, locked).await?;
        let key = config.home.key().cloned();
        let subject = EventSubject {
            vm: Some(row.id),
            user: user.cloned(),
            provider: key.as_ref().map(|key| key.provider.clone()),
            key,
            ..EventSubject::default()
        };
        match locked {
            Some(problem) => event::record_problem(&mut tx, EventKind::VmLocked, &subject, problem).await?,
            None => {
                let message = format!("VM `{}` is unlocked", row.name);
                event::record(&mut tx, EventKind::VmUnlocked, &subject, &message).await?;
            }
        }
    }
    Ok(tx.commit().await?)
}

/// Unlocks a VM whose key a host has: nobody need ask for it, nor any key server.
pub(crate) async fn unlock_by_itself(controller: &Shared, row: &VmRow, link: &Link) -> Result<(), Problem> {
    let what = format!("cannot unlock VM `{}`", row.name);
    let datastores = cluster::datastores(&mut *controller.store.read().await?).await?;
    let datastore = datastores.into_iter().find(|datastore| datastore.id == row.datastore);
    let datastore = datastore.ok_or_else(|| Problem::internal(what.clone(), "its datastore is gone"))?;
    let home = HomeRef { datastore: datastore.directory, directory: row.directory.clone() };
    let config = link.call(ReadHome { home }).await.map_err(|error| error.into_problem(&what))?;
    // What the home names now may be other keys, for which nobody has asked yet.
    if !others(row, &config).is_empty() {
        return Ok(());
    }
    settle(controller, row, None, &config, None).await
}
