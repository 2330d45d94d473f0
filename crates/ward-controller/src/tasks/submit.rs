//! How a task comes to be: everything is checked, then the task is written down, then it runs.

use ward_types::{
    ClusterId, Code, EventKind, KeyId, KeyRef, Name, Power, Problem, ProviderName, TaskInfo, TaskKind, VmId,
};

use super::{KeyMark, Work, cannot, engine};
use crate::controller::Shared;
use crate::hosts;
use crate::native;
use crate::plan::{self, NativeFacts, NewVm, ProviderFacts, VmFacts};
use crate::store::task::TaskRow;
use crate::store::vm::VmRow;
use crate::store::{self, Tx, cluster, event, provider, task, vm};

/// Who asks, for the log.
pub(crate) struct Order<'a> {
    pub(crate) controller: &'a Shared,
    pub(crate) user: &'a Name,
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
    /// Makes a VM on a datastore: the one named, or the cluster's only one.
    pub(crate) async fn make(&self, new: NewVm, datastore: Option<&str>) -> Result<TaskInfo, Problem> {
        let mut tx = self.controller.store.write().await?;
        let exists = vm::find(&mut tx, new.name.as_str()).await?.is_some();
        let plan = plan::create(new, exists)?;
        let what = cannot(plan.kind, &plan.spec.name);
        let datastores = cluster::datastores(&mut tx).await?;
        let place = match datastore {
            Some(name) => datastores.into_iter().find(|row| row.name.as_str() == name || row.id.to_string() == name),
            None if datastores.len() == 1 => datastores.into_iter().next(),
            None => {
                let (why, remedy) = if datastores.is_empty() {
                    ("there is no datastore", "add one with `ward datastore add NAME DIRECTORY`")
                } else {
                    ("there are several datastores", "name one with `--datastore`; `ward datastore ls` lists them")
                };
                return Err(Problem::new(Code::RequestInvalid, what, why, remedy));
            }
        };
        let place = place.ok_or_else(|| {
            let why = format!("there is no datastore `{}`", datastore.unwrap_or_default());
            Problem::new(Code::NotFound, what.clone(), why, "`ward datastore ls` lists them")
        })?;
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
        self.begin(tx, plan.kind, (row.id, &row.name), Work::Make { spec: plan.spec, host: None }).await
    }

    /// Encrypts all of a VM that is not encrypted.
    pub(crate) async fn encrypt(
        &self,
        key: &str,
        provider: Option<&ProviderName>,
        key_id: Option<&KeyId>,
    ) -> Result<TaskInfo, Problem> {
        let mut asked = self.ask(TaskKind::VmEncrypt, key).await?;
        let providers = provider_facts(&mut asked.tx, asked.row.cluster).await?;
        let plan = plan::encrypt(asked.facts(), provider, key_id, &providers)?;
        self.check_place(TaskKind::VmEncrypt, &asked.row, plan.tpm)?;
        let work = Work::Encrypt { key: plan.key, components: plan.components, mark: KeyMark::None, host: None };
        self.begin(asked.tx, TaskKind::VmEncrypt, (asked.row.id, &asked.row.name), work).await
    }

    /// Decrypts all of a VM that is encrypted.
    pub(crate) async fn decrypt(&self, key: &str) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmDecrypt, key).await?;
        let plan = plan::decrypt(asked.facts())?;
        let keys: Vec<_> =
            asked.row.config.as_ref().map_or_else(Vec::new, |config| config.keys().into_iter().cloned().collect());
        self.check_place(TaskKind::VmDecrypt, &asked.row, native::needs_tpm(self.controller, &keys).await?)?;
        let work = Work::Decrypt { plan, keys, host: None };
        self.begin(asked.tx, TaskKind::VmDecrypt, (asked.row.id, &asked.row.name), work).await
    }

    /// Starts a VM.
    pub(crate) async fn start(&self, key: &str, host: Option<Name>) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmStart, key).await?;
        let hosts = self.controller.links.facts(asked.row.cluster);
        let keys = plan::start(asked.facts(), asked.row.host, host.as_ref(), &hosts)?;
        self.check_native(TaskKind::VmStart, &asked.row, &keys).await?;
        let work = Work::Start { asked: host, keys, host: None };
        self.begin(asked.tx, TaskKind::VmStart, (asked.row.id, &asked.row.name), work).await
    }

    /// Stops a VM.
    pub(crate) async fn stop(&self, key: &str, force: bool, wait_ms: u32) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmStop, key).await?;
        let host = plan::stop(asked.facts(), asked.row.host)?;
        let work = Work::Stop { host, force, wait_ms };
        self.begin(asked.tx, TaskKind::VmStop, (asked.row.id, &asked.row.name), work).await
    }

    /// Deletes a VM with its home.
    pub(crate) async fn remove(&self, key: &str) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmRemove, key).await?;
        let hosts = self.controller.links.facts(asked.row.cluster);
        let keys = plan::remove(asked.facts(), &hosts)?;
        let work = Work::Remove { keys, host: None };
        self.begin(asked.tx, TaskKind::VmRemove, (asked.row.id, &asked.row.name), work).await
    }

    async fn ask(&self, kind: TaskKind, key: &str) -> Result<Asked, Problem> {
        let missing = || {
            let what = match key.parse() {
                Ok(name) => cannot(kind, &name),
                Err(_) => format!("cannot {}", kind),
            };
            Problem::new(Code::NotFound, what, format!("there is no VM `{key}`"), "`ward vm ls` lists the VMs")
        };
        let row = vm::find(&mut *self.controller.store.read().await?, key).await?.ok_or_else(missing)?;
        hosts::refresh_power(self.controller, &row).await;
        let mut tx = self.controller.store.write().await?;
        let row = vm::find(&mut tx, key).await?.ok_or_else(missing)?;
        let busy = task::open_of_vm(&mut tx, row.id).await?;
        let host = row.host.and_then(|host| self.controller.links.name(host));
        Ok(Asked { tx, row, busy, host })
    }

    /// Makes sure that the controller has what hosts unwrap a VM's keys with.
    async fn check_native(&self, kind: TaskKind, row: &VmRow, keys: &[KeyRef]) -> Result<(), Problem> {
        let rows = store::native::list(&mut *self.controller.store.read().await?).await?;
        let what = cannot(kind, &row.name);
        keys.iter().filter_map(KeyRef::kdk).try_for_each(|kdk| native::check(&what, &rows, &kdk, row.cluster))
    }

    fn check_place(&self, kind: TaskKind, row: &VmRow, tpm: bool) -> Result<(), Problem> {
        let hosts = self.controller.links.facts(row.cluster);
        let needs = plan::Needs { rather: row.host, keys: true, tpm, ..plan::Needs::default() };
        plan::place(&cannot(kind, &row.name), &hosts, needs).map(drop)
    }

    async fn begin(
        &self,
        mut tx: Tx,
        kind: TaskKind,
        (id, name): (VmId, &Name),
        work: Work,
    ) -> Result<TaskInfo, Problem> {
        let row: TaskRow = match task::add(&mut tx, kind, (id, name), self.user, &work).await {
            // Only where two controllers share a database: here the transaction would have seen the other task.
            Err(error) if error.is_conflict() => {
                let why = "another task works on it";
                return Err(Problem::new(Code::Busy, cannot(kind, name), why, "`ward task ls` lists the tasks"));
            }
            added => added?,
        };
        let message = format!("task {} ({kind} of VM `{name}`) begun by `{}`", row.info.id, self.user);
        event::record(&mut tx, EventKind::TaskStarted, &engine::about(&row.info), &message).await?;
        tx.commit().await?;
        crash_point::reach("task.accepted");
        let info = row.info.clone();
        engine::spawn(self.controller, row);
        Ok(info)
    }
}

/// What planners need to know of key providers, for VMs of a cluster.
pub(crate) async fn provider_facts(tx: &mut Tx, cluster: ClusterId) -> Result<Vec<ProviderFacts>, Problem> {
    let natives = store::native::list(tx).await?;
    let facts = |row: provider::ProviderRow| {
        let native = natives.iter().find(|native| native.name == row.name).map(|native| NativeFacts {
            backed_up: native.backed_up.is_some(),
            serves: native.serves(cluster),
            tpm_required: native.tpm_required,
        });
        ProviderFacts { name: row.name, is_default: row.is_default, native }
    };
    Ok(provider::list(tx).await?.into_iter().map(facts).collect())
}

/// The datastores' cluster, for callers that have only a name.
pub(crate) async fn cluster_named(controller: &Shared, what: &str, key: Option<&str>) -> Result<ClusterId, Problem> {
    let mut db = controller.store.read().await?;
    let clusters = cluster::list(&mut db).await?;
    let found = match key {
        Some(key) => cluster::find(&mut db, key).await?,
        None if clusters.len() == 1 => clusters.into_iter().next(),
        None => clusters.into_iter().find(|cluster| cluster.name.as_str() == "default"),
    };
    found.map(|cluster| cluster.id).ok_or_else(|| {
        let why = format!("there is no cluster `{}`", key.unwrap_or("default"));
        Problem::new(Code::NotFound, what, why, "`ward cluster ls` lists them")
    })
}
