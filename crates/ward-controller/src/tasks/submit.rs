//! How a task comes to be: everything is checked, then the task is written down, then it runs.

use ward_types::{Code, EventKind, KeyId, Name, Power, Problem, ProviderName, TaskInfo, TaskKind, VmId};

use super::{KeyMark, Work, cannot, engine};
use crate::api::auth::Caller;
use crate::api::repeat::repeated;
use crate::authz::operations::{CreateVm, DecryptVm, EncryptVm, ImportVm, RemoveVm, StartVm, StopVm};
use crate::authz::{Granted, Sight};
use crate::controller::Shared;
use crate::hosts;
use crate::plan::{self, NewVm, ProviderFacts, VmFacts};
use crate::store::cluster::{ClusterRow, DatastoreRow};
use crate::store::task::TaskRow;
use crate::store::vm::VmRow;
use crate::store::{Tx, cluster, event, provider, request, task, vm};

/// What makes tasks. Who asks, and that it may, is in the proof that each kind of task takes.
pub(crate) struct Order<'a> {
    pub(crate) controller: &'a Shared,
}

/// The proof for making a VM: one that is made of files takes more.
pub(crate) enum MayMake {
    Blank(Granted<CreateVm>),
    FromFiles(Granted<ImportVm>),
}

/// A VM that is being asked about, in the transaction in which its task is to be written down.
struct Asked {
    tx: Tx,
    row: VmRow,
    busy: Option<TaskInfo>,
    host: Option<Name>,
}

impl Asked {
    fn facts(&self) -> VmFacts<'_> {
        VmFacts {
            name: &self.row.name,
            config: self.row.config.as_ref(),
            power: self.row.power,
            host: self.host.as_ref(),
            busy: self.busy.as_ref(),
        }
    }
}

impl Order<'_> {
    /// Makes a VM.
    pub(crate) async fn make(&self, may: MayMake, new: NewVm) -> Result<TaskInfo, Problem> {
        let (caller, place) = match &may {
            MayMake::Blank(granted) => (granted.caller(), granted.on()),
            MayMake::FromFiles(granted) => (granted.caller(), granted.on()),
        };
        if new.reads_files() && matches!(may, MayMake::Blank(_)) {
            return Err(Problem::internal("cannot make a VM", "it is made of files, and was allowed without"));
        }
        self.controller.links.settled().await;
        let mut tx = self.controller.store.write().await?;
        let exists = vm::find(&mut tx, new.name.as_str()).await?.is_some();
        let plan = plan::create(new, exists)?;
        let what = cannot(plan.kind, &plan.spec.name);
        plan::place(&what, &self.controller.links.facts(place.cluster), plan::Needs::default())?;
        let row = VmRow {
            id: plan.spec.id,
            name: plan.spec.name.clone(),
            cluster: place.cluster,
            datastore: place.id,
            directory: plan.spec.name.clone(),
            config: None,
            host: None,
            power: Power::Off,
        };
        match vm::add(&mut tx, &row).await {
            Err(error) if error.is_conflict() => {
                return Err(Problem::new(
                    Code::Exists,
                    what,
                    "there is a VM of that name, or one with a home in that directory, already",
                    "choose another name",
                ));
            }
            added => added?,
        }
        self.begin(tx, caller, plan.kind, (row.id, &row.name), Work::Make { spec: plan.spec, host: None }).await
    }

    /// Encrypts all of a VM that is not encrypted.
    pub(crate) async fn encrypt(
        &self,
        granted: Granted<EncryptVm>,
        provider: Option<&ProviderName>,
        key_id: Option<&KeyId>,
    ) -> Result<TaskInfo, Problem> {
        let mut asked = self.ask(TaskKind::VmEncrypt, granted.on()).await?;
        let providers = provider::list(&mut asked.tx).await?;
        let providers: Vec<_> =
            providers.into_iter().map(|row| ProviderFacts { name: row.name, is_default: row.is_default }).collect();
        let plan = plan::encrypt(asked.facts(), provider, key_id, &providers)?;
        self.check_place(TaskKind::VmEncrypt, &asked.row, true)?;
        let work = Work::Encrypt { key: plan.key, components: plan.components, mark: KeyMark::None, host: None };
        self.begin(asked.tx, granted.caller(), TaskKind::VmEncrypt, (asked.row.id, &asked.row.name), work).await
    }

    /// Decrypts all of a VM that is encrypted.
    pub(crate) async fn decrypt(&self, granted: Granted<DecryptVm>) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmDecrypt, granted.on()).await?;
        let plan = plan::decrypt(asked.facts())?;
        self.check_place(TaskKind::VmDecrypt, &asked.row, true)?;
        let keys =
            asked.row.config.as_ref().map_or_else(Vec::new, |config| config.keys().into_iter().cloned().collect());
        let work = Work::Decrypt { plan, keys, host: None };
        self.begin(asked.tx, granted.caller(), TaskKind::VmDecrypt, (asked.row.id, &asked.row.name), work).await
    }

    /// Starts a VM.
    pub(crate) async fn start(&self, granted: Granted<StartVm>, host: Option<Name>) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmStart, granted.on()).await?;
        let hosts = self.controller.links.facts(asked.row.cluster);
        let keys = plan::start(asked.facts(), asked.row.host, host.as_ref(), &hosts)?;
        let work = Work::Start { asked: host, keys, host: None };
        self.begin(asked.tx, granted.caller(), TaskKind::VmStart, (asked.row.id, &asked.row.name), work).await
    }

    /// Stops a VM.
    pub(crate) async fn stop(&self, granted: Granted<StopVm>, force: bool, wait_ms: u32) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmStop, granted.on()).await?;
        let host = plan::stop(asked.facts(), asked.row.host)?;
        let work = Work::Stop { host, force, wait_ms };
        self.begin(asked.tx, granted.caller(), TaskKind::VmStop, (asked.row.id, &asked.row.name), work).await
    }

    /// Deletes a VM with its home.
    pub(crate) async fn remove(&self, granted: Granted<RemoveVm>) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmRemove, granted.on()).await?;
        let hosts = self.controller.links.facts(asked.row.cluster);
        let keys = plan::remove(asked.facts(), &hosts)?;
        let work = Work::Remove { keys, host: None };
        self.begin(asked.tx, granted.caller(), TaskKind::VmRemove, (asked.row.id, &asked.row.name), work).await
    }

    async fn ask(&self, kind: TaskKind, known: &VmRow) -> Result<Asked, Problem> {
        self.controller.links.settled().await;
        hosts::refresh_power(self.controller, known).await;
        let mut tx = self.controller.store.write().await?;
        let row = vm::get(&mut tx, known.id).await?.ok_or_else(|| {
            Problem::new(Code::NotFound, cannot(kind, &known.name), "it is gone", "`ward vm ls` lists the VMs")
        })?;
        let busy = task::open_of_vm(&mut tx, row.id).await?;
        let host = row.host.and_then(|host| self.controller.links.name(host));
        Ok(Asked { tx, row, busy, host })
    }

    fn check_place(&self, kind: TaskKind, row: &VmRow, keys: bool) -> Result<(), Problem> {
        let hosts = self.controller.links.facts(row.cluster);
        let needs = plan::Needs { rather: row.host, keys, ..plan::Needs::default() };
        plan::place(&cannot(kind, &row.name), &hosts, needs).map(drop)
    }

    async fn begin(
        &self,
        mut tx: Tx,
        caller: &Caller,
        kind: TaskKind,
        (id, name): (VmId, &Name),
        work: Work,
    ) -> Result<TaskInfo, Problem> {
        let row: TaskRow = match task::add(&mut tx, kind, (id, name), caller.user(), &work).await {
            // Only where two controllers share a database: here the transaction would have seen the other task.
            Err(error) if error.is_conflict() => {
                let why = "another task works on it";
                return Err(Problem::new(Code::Busy, cannot(kind, name), why, "`ward task ls` lists the tasks"));
            }
            added => added?,
        };
        if let Some(key) = caller.request() {
            match request::add(&mut tx, caller.user(), key, row.info.id).await {
                // The same request, at the same time: the other one was first.
                Err(error) if error.is_conflict() => {
                    drop(tx);
                    let gone = || Problem::internal(cannot(kind, name), "the task of an earlier request is gone");
                    return repeated(self.controller, caller, key).await?.ok_or_else(gone);
                }
                added => added?,
            }
        }
        let message = format!("task {} ({kind} of VM `{name}`) begun by `{}`", row.info.id, caller.user());
        event::record(&mut tx, EventKind::TaskStarted, &engine::about(&row.info), &message).await?;
        tx.commit().await?;
        crash_point::reach("task.accepted");
        let info = row.info.clone();
        engine::spawn(self.controller, row);
        Ok(info)
    }
}

/// The datastore for a new VM: the one named, or the only one that the caller may see.
pub(crate) async fn datastore_for(
    controller: &Shared,
    sight: &Sight,
    new: &NewVm,
    key: Option<&str>,
) -> Result<DatastoreRow, Problem> {
    let kind = if new.reads_files() { TaskKind::VmImport } else { TaskKind::VmCreate };
    let what = cannot(kind, &new.name);
    // What makes no sense makes none on any datastore.
    plan::create(new.clone(), false)?;
    let mut seen = cluster::datastores(&mut *controller.store.read().await?).await?;
    seen.retain(|row| sight.sees(row));
    match key {
        Some(key) => {
            let found = seen.into_iter().find(|row| row.name.as_str() == key || row.id.to_string() == key);
            found.ok_or_else(|| {
                let why = format!("there is no datastore `{key}`");
                Problem::new(Code::NotFound, what, why, "`ward datastore ls` lists them")
            })
        }
        None if seen.len() == 1 => Ok(seen.remove(0)),
        None => {
            let (why, remedy) = if seen.is_empty() {
                ("there is no datastore", "add one with `ward datastore add NAME DIRECTORY`")
            } else {
                ("there are several datastores", "name one with `--datastore`; `ward datastore ls` lists them")
            };
            Err(Problem::new(Code::RequestInvalid, what, why, remedy))
        }
    }
}

/// The cluster with that name or ID, or the one that is meant where none is named.
pub(crate) async fn cluster_named(controller: &Shared, what: &str, key: Option<&str>) -> Result<ClusterRow, Problem> {
    let mut db = controller.store.read().await?;
    let clusters = cluster::list(&mut db).await?;
    let found = match key {
        Some(key) => cluster::find(&mut db, key).await?,
        None if clusters.len() == 1 => clusters.into_iter().next(),
        None => clusters.into_iter().find(|cluster| cluster.name.as_str() == "default"),
    };
    found.ok_or_else(|| {
        let why = format!("there is no cluster `{}`", key.unwrap_or("default"));
        Problem::new(Code::NotFound, what, why, "`ward cluster ls` lists them")
    })
}
