//! How a task comes to be: everything is checked, then the task is written down, then it runs.

mod disk;

use sqlx::AnyConnection;
use ward_rpc::api::host::{HomeRef, HostParts, TpmChange};
use ward_types::{
    ClusterId, Code, Component, CryptoRequest, EventKind, EventSubject, KeyRef, KeyWish, Name, PolicyName, Power,
    Problem, TaskInfo, TaskKind, VmId,
};

use super::may::{MayClone, MayCrypt, MayEnable, MayMake, MayStart};
use super::may_key::MayGive;
use super::{KeyMark, Work, cannot, engine};
use crate::api::auth::Caller;
use crate::api::types::{CertifyTpm, SetPolicy, TpmClone};
use crate::authz::operations::{self, AddTpm, RemoveTpm, RemoveVm, SetTemplate, SetVmPolicy, StopVm, UnregisterVm};
use crate::authz::{Granted, Sight, Target as _};
use crate::controller::Shared;
use crate::hosts;
use crate::keys;
use crate::native;
use crate::plan::{
    self, CryptPlan, HostFacts, KeyChoice, ModeChange, NativeFacts, NewVm, ProviderFacts, Selection, Verb, VmFacts,
};
use crate::register;
use crate::store::cluster::{ClusterRow, DatastoreRow};
use crate::store::policy::PolicyRow;
use crate::store::request::Came;
use crate::store::task::TaskRow;
use crate::store::vm::VmRow;
use crate::store::{self, Tx, cluster, event, policy, provider, request, task, vm, vm_left};
use crate::trusted;
use crate::vtpm;

/// What makes tasks. Who asks, and that it may, is in the proof that each kind of task takes.
pub(crate) struct Order<'a> {
    pub(crate) controller: &'a Shared,
}

/// A VM that is being asked about, in the transaction in which its task is to be written down.
struct Asked {
    tx: Tx,
    row: VmRow,
    busy: Option<TaskInfo>,
    host: Option<Name>,
    /// The hosts whose encryption mode whoever asks may switch on for it.
    enable: MayEnable,
    /// The keys that are there already and that whoever asks may have given to hosts for it.
    gives: MayGive,
}

/// Which keys are asked for.
enum Takes {
    /// Those that the VM has.
    Own,
    /// Others too: new ones, and such as are named.
    Others(Vec<KeyWish>),
}

impl Takes {
    fn others<'a>(wishes: impl IntoIterator<Item = &'a KeyWish>) -> Self {
        Self::Others(wishes.into_iter().cloned().collect())
    }
}

impl Asked {
    fn facts(&self) -> VmFacts<'_> {
        VmFacts {
            name: &self.row.name,
            config: self.row.config.as_ref(),
            power: self.row.power,
            host: self.host.as_ref(),
            busy: self.busy.as_ref(),
            locked: self.row.locked.as_ref(),
            template: self.row.template,
        }
    }
}

impl Order<'_> {
    /// Makes a VM. Under `policies` it is encrypted from its beginning.
    pub(crate) async fn make(
        &self,
        may: &MayMake,
        new: NewVm,
        policies: Option<&SetPolicy>,
    ) -> Result<TaskInfo, Problem> {
        let place = may.on();
        if new.reads_files() && !may.reads_files() {
            return Err(Problem::internal("cannot make a VM", "it is made of files, and was allowed without"));
        }
        self.controller.links.settled().await;
        let enable = match may.encrypts() {
            true => MayEnable::ask(self.controller, may.caller(), place.cluster).await?,
            false => MayEnable::nothing(),
        };
        let mut tx = self.controller.store.write().await?;
        let exists = vm::find(&mut tx, new.name.as_str()).await?.is_some();
        let plan = plan::create(new, exists)?;
        let what = cannot(plan.kind, &plan.spec.name);
        let work = match policies {
            None if !plan.spec.tpm => Work::Make { spec: plan.spec.clone(), policies: Vec::new(), host: None },
            wanted => {
                let rows = policy::list(&mut tx).await?;
                let providers = providers(&mut tx, place.cluster).await?;
                let (crypt, policies) = plan::create_under(plan.kind, &plan.spec, wanted, &rows, &providers)?;
                let (spec, marks) = (plan.spec.clone(), vec![KeyMark::None; crypt.keys.len()]);
                if crypt.steps.is_empty() {
                    Work::Make { spec, policies, host: None }
                } else if may.encrypts() {
                    Work::MakeEncrypted { spec, plan: crypt, marks, policies, host: None }
                } else {
                    return Err(changed(what, "a storage policy"));
                }
            }
        };
        let (keys, parts) = (work.keys().next().is_some(), work.parts(None));
        let needs = plan::Needs { keys, parts, ..plan::Needs::default() };
        self.place(&mut tx, &what, place.cluster, needs, (&enable, may.caller().user())).await?;
        let row = new_row(plan.spec.id, &plan.spec.name, place);
        self.add_row(&mut tx, &what, &row).await?;
        self.begin(tx, (may.caller(), &MayGive::nothing()), plan.kind, (row.id, &row.name), work).await
    }

    /// Makes a VM from another one.
    pub(crate) async fn clone_vm(
        &self,
        may: &MayClone,
        new: &Name,
        wish: &plan::CloneWish,
    ) -> Result<TaskInfo, Problem> {
        let kind = TaskKind::VmClone;
        let wishes = std::iter::once(&wish.key).chain(wish.crypto.wishes()).filter(|wish| wish.key_id.is_some());
        let takes = match wishes.cloned().collect::<Vec<_>>() {
            named if named.is_empty() && !may.encrypts() => Takes::Own,
            named => Takes::Others(named),
        };
        let mut asked = self.ask_for_keys(kind, may.vm(), may.caller(), takes).await?;
        let place = may.place();
        let exists = vm::find(&mut asked.tx, new.as_str()).await?.is_some();
        let providers = providers(&mut asked.tx, asked.row.cluster).await?;
        let plan = plan::clone(asked.facts(), wish, exists, new, &providers)?;
        let what = cannot(kind, &asked.row.name);
        if !may.covers(&plan) || !asked.row.keys().is_empty() && may.vm().keys().is_empty() {
            return Err(changed(what, "it"));
        }
        let datastores = cluster::datastores(&mut asked.tx).await?;
        let source = datastores.into_iter().find(|row| row.id == asked.row.datastore);
        let source = source.ok_or_else(|| Problem::internal(what.clone(), "its datastore is gone"))?;
        if place.cluster != asked.row.cluster {
            let why = format!("datastore `{}` is another cluster's, whose hosts can't read the VM", place.name);
            return Err(Problem::new(Code::RequestInvalid, what, why, "name a datastore of the VM's own cluster"));
        }
        let keys = asked.row.keys();
        let encrypts = !keys.is_empty() || !plan.keys.is_empty();
        let tpm = makes_under_tpm(&plan, &providers) || native::needs_tpm(&mut asked.tx, &keys).await?;
        let trusted = trusted::needed(&mut asked.tx, &keys, trusted::makers(&plan.keys)).await?;
        let has_tpm = asked.row.config.as_ref().is_some_and(|config| config.tpm.is_some());
        let parts = HostParts { swtpm: has_tpm, ..HostParts::default() };
        let (rather, keyed) = (asked.row.host, encrypts);
        let needs = plan::Needs { rather, keys: keyed, tpm, trusted: &trusted, parts, ..plan::Needs::default() };
        self.place_asked(&mut asked, &what, needs, may.caller()).await?;
        let assigned = policy::assigned(&mut asked.tx, Some(asked.row.id)).await?;
        let policies = assigned.into_iter().map(|((_, component), name)| (component, name)).collect();
        let row = new_row(VmId::new(), new, place);
        self.add_row(&mut asked.tx, &what, &row).await?;
        let work = Work::Clone {
            source: asked.row.name.clone(),
            from: HomeRef { datastore: source.directory, directory: asked.row.directory.clone() },
            keys,
            marks: vec![KeyMark::None; plan.keys.len()],
            plan,
            policies,
            host: None,
            replace_tpm: wish.tpm == Some(TpmClone::Replace),
            has_tpm,
        };
        self.begin(asked.tx, (may.caller(), &asked.gives), kind, (row.id, &row.name), work).await
    }

    async fn add_row(&self, tx: &mut Tx, what: &str, row: &VmRow) -> Result<(), Problem> {
        match vm::add(tx, row).await {
            Err(error) if error.is_conflict() => Err(Problem::new(
                Code::Exists,
                what,
                "there is a VM of that name, or one with a home in that directory, already",
                "choose another name",
            )),
            added => Ok(added?),
        }
    }

    /// Encrypts, decrypts or recrypts the components of a VM that are named, or all that the verb applies to.
    pub(crate) async fn crypt_whole(
        &self,
        may: &MayCrypt,
        selection: &Selection,
        verb: Verb,
    ) -> Result<TaskInfo, Problem> {
        let asked = self.ask_for_keys(verb.kind(), may.vm(), may.caller(), Takes::others(verb.wish())).await?;
        let request = plan::whole(asked.facts(), selection, verb)?;
        self.crypt_asked(may, asked, &request, Vec::new()).await
    }

    /// Does what is asked of each component of a VM.
    pub(crate) async fn crypt(&self, may: &MayCrypt, request: &CryptoRequest) -> Result<TaskInfo, Problem> {
        let takes = Takes::others(request.wishes());
        let asked = self.ask_for_keys(plan::kind(request), may.vm(), may.caller(), takes).await?;
        self.crypt_asked(may, asked, request, Vec::new()).await
    }

    /// What it would take to put components of a VM under storage policies; and those whose keys are replaced at another age
    /// then.
    pub(crate) async fn policy_request(
        &self,
        granted: &Granted<SetVmPolicy>,
        wanted: &SetPolicy,
    ) -> Result<(CryptoRequest, Vec<Component>), Problem> {
        let mut db = self.controller.store.read().await?;
        let rows = policy::list(&mut db).await?;
        let row = granted.on();
        let facts = VmFacts {
            name: &row.name,
            config: row.config.as_ref(),
            power: row.power,
            host: None,
            busy: None,
            locked: row.locked.as_ref(),
            template: row.template,
        };
        let (request, policies) = plan::set_policy(facts, wanted, &rows)?;
        let rotated = rotated_otherwise(&mut db, row, &policies, &rows).await?;
        Ok((request, rotated))
    }

    /// Puts components of a VM under storage policies, and makes them as these want.
    pub(crate) async fn set_policy(
        &self,
        granted: Granted<SetVmPolicy>,
        may: &MayCrypt,
        wanted: &SetPolicy,
    ) -> Result<TaskInfo, Problem> {
        // A policy names no key.
        let takes = if may.is_nothing() { Takes::Own } else { Takes::Others(Vec::new()) };
        let mut asked = self.ask_for_keys(TaskKind::VmReconfigure, granted.on(), granted.caller(), takes).await?;
        let rows = policy::list(&mut asked.tx).await?;
        let (request, policies) = plan::set_policy(asked.facts(), wanted, &rows)?;
        let rotated = rotated_otherwise(&mut asked.tx, &asked.row, &policies, &rows).await?;
        if !rotated.is_empty() && !may.recrypts() {
            return Err(changed(cannot(TaskKind::VmReconfigure, &asked.row.name), "a storage policy"));
        }
        if request == CryptoRequest::default() {
            // All is as the policies want it already; only their names change.
            let (row, plan) = (asked.row, CryptPlan::default());
            let work = Work::Crypt { plan, marks: Vec::new(), policies, host: None };
            let by = (granted.caller(), &asked.gives);
            return self.begin(asked.tx, by, TaskKind::VmReconfigure, (row.id, &row.name), work).await;
        }
        self.crypt_asked(may, asked, &request, policies).await
    }

    async fn crypt_asked(
        &self,
        may: &MayCrypt,
        mut asked: Asked,
        request: &CryptoRequest,
        policies: Vec<(Component, PolicyName)>,
    ) -> Result<TaskInfo, Problem> {
        let providers = providers(&mut asked.tx, asked.row.cluster).await?;
        let plan = plan::crypt(asked.facts(), request, &providers)?;
        let kind = plan::kind(request);
        if asked.row.id != may.vm().id || !may.covers(&plan) {
            return Err(changed(cannot(kind, &asked.row.name), "it"));
        }
        let only = asked.row.host.filter(|_| asked.row.power == Power::On);
        let tpm = makes_under_tpm(&plan, &providers) || native::needs_tpm(&mut asked.tx, &asked.row.keys()).await?;
        let trusted = trusted::needed(&mut asked.tx, &asked.row.keys(), trusted::makers(&plan.keys)).await?;
        let rather = asked.row.host;
        let marks = vec![KeyMark::None; plan.keys.len()];
        let work = Work::Crypt { plan, marks, policies, host: None };
        let parts = work.parts(asked.row.config.as_ref());
        let needs = plan::Needs { rather, only, keys: true, tpm, trusted: &trusted, parts, ..plan::Needs::default() };
        let what = cannot(kind, &asked.row.name);
        if let Err(problem) = self.place_asked(&mut asked, &what, needs, may.caller()).await {
            if !tpm {
                return Err(problem);
            }
            let keys = asked.row.keys();
            return Err(self.no_key(asked.tx, &asked.row, may.caller().user(), keys.first(), problem).await);
        }
        self.begin(asked.tx, (may.caller(), &asked.gives), kind, (asked.row.id, &asked.row.name), work).await
    }

    /// Gives a VM a vTPM.
    pub(crate) async fn add_tpm(&self, granted: Granted<AddTpm>, wish: &KeyWish) -> Result<TaskInfo, Problem> {
        let takes = Takes::others([wish]);
        let mut asked = self.ask_for_keys(TaskKind::VmReconfigure, granted.on(), granted.caller(), takes).await?;
        let providers = providers(&mut asked.tx, asked.row.cluster).await?;
        let plan = plan::add_tpm(asked.facts(), wish, &providers)?;
        let tpm = makes_under_tpm(&plan, &providers);
        self.change_tpm(granted.caller(), asked, TpmChange::Add, plan, tpm).await
    }

    /// Takes a VM's vTPM away.
    pub(crate) async fn remove_tpm(&self, granted: Granted<RemoveTpm>) -> Result<TaskInfo, Problem> {
        let takes = Takes::Others(Vec::new());
        let asked = self.ask_for_keys(TaskKind::VmReconfigure, granted.on(), granted.caller(), takes).await?;
        plan::with_tpm_off(asked.facts())?;
        self.change_tpm(granted.caller(), asked, TpmChange::Remove, CryptPlan::default(), false).await
    }

    /// Gives a VM's vTPM certificates.
    pub(crate) async fn certify_tpm(
        &self,
        granted: Granted<operations::CertifyTpm>,
        wish: &CertifyTpm,
    ) -> Result<TaskInfo, Problem> {
        let asked = self.ask_for_keys(TaskKind::VmReconfigure, granted.on(), granted.caller(), Takes::Own).await?;
        plan::with_tpm_off(asked.facts())?;
        let change = vtpm::certified(&self.controller.vtpm, &asked.row, wish)?;
        self.change_tpm(granted.caller(), asked, change, CryptPlan::default(), false).await
    }

    async fn change_tpm(
        &self,
        caller: &Caller,
        mut asked: Asked,
        change: TpmChange,
        plan: CryptPlan,
        makes_under_tpm: bool,
    ) -> Result<TaskInfo, Problem> {
        let kind = TaskKind::VmReconfigure;
        let tpm = makes_under_tpm || native::needs_tpm(&mut asked.tx, &asked.row.keys()).await?;
        let marks = vec![KeyMark::None; plan.keys.len()];
        let work = Work::Tpm { change, plan, marks, host: None };
        let parts = work.parts(asked.row.config.as_ref());
        let makers = trusted::makers(work.keys().map(|(choice, _)| choice));
        let trusted = trusted::needed(&mut asked.tx, &asked.row.keys(), makers).await?;
        let rather = asked.row.host;
        let needs = plan::Needs { rather, keys: true, tpm, trusted: &trusted, parts, ..plan::Needs::default() };
        let what = cannot(kind, &asked.row.name);
        self.place_asked(&mut asked, &what, needs, caller).await?;
        self.begin(asked.tx, (caller, &asked.gives), kind, (asked.row.id, &asked.row.name), work).await
    }

    /// Starts a VM.
    pub(crate) async fn start(&self, may: &MayStart, host: Option<Name>) -> Result<TaskInfo, Problem> {
        let user = may.caller().user();
        let mut asked = self.ask(TaskKind::VmStart, may.vm(), user).await?;
        if !may.covers(self.controller, &asked.row, host.as_ref()) {
            return Err(changed(cannot(TaskKind::VmStart, &asked.row.name), "it"));
        }
        let hosts = self.controller.links.facts(asked.row.cluster);
        let keys = plan::start(asked.facts(), asked.row.host, host.as_ref(), &hosts)?;
        if let Err(problem) = check_native(&mut asked.tx, TaskKind::VmStart, &asked.row, &keys).await {
            return Err(self.no_key(asked.tx, &asked.row, user, keys.first(), problem).await);
        }
        let work = Work::Start { asked: host, keys, host: None };
        self.begin_plain(asked, may.caller(), TaskKind::VmStart, work).await
    }

    /// Stops a VM.
    pub(crate) async fn stop(&self, granted: Granted<StopVm>, force: bool, wait_ms: u32) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmStop, granted.on(), granted.user()).await?;
        let host = plan::stop(asked.facts(), asked.row.host)?;
        let work = Work::Stop { host, force, wait_ms };
        self.begin_plain(asked, granted.caller(), TaskKind::VmStop, work).await
    }

    /// Deletes a VM with its home.
    pub(crate) async fn remove(&self, granted: Granted<RemoveVm>) -> Result<TaskInfo, Problem> {
        let asked = self.ask(TaskKind::VmRemove, granted.on(), granted.user()).await?;
        let hosts = self.controller.links.facts(asked.row.cluster);
        let keys = plan::remove(asked.facts(), &hosts)?;
        let work = Work::Remove { keys, host: None };
        self.begin_plain(asked, granted.caller(), TaskKind::VmRemove, work).await
    }

    /// Takes a VM out of the inventory. Its home stays as it is, and its keys stay at their key servers.
    pub(crate) async fn unregister(&self, granted: Granted<UnregisterVm>) -> Result<(), Problem> {
        let mut asked = self.ask(TaskKind::VmRemove, granted.on(), granted.user()).await?;
        let keys = plan::unregister(asked.facts())?;
        let (id, name, cluster) = (asked.row.id, asked.row.name.clone(), asked.row.cluster);
        let tx = &mut asked.tx;
        vm_left::leave(tx, &asked.row).await?;
        let subject = EventSubject { vm: Some(id), user: Some(granted.user().clone()), ..EventSubject::default() };
        let message = format!("VM `{name}` unregistered; its home stays");
        event::record(tx, EventKind::VmUnregistered, &subject, &message).await?;
        let unneeded = keys::retire(tx, &subject, keys).await?;
        asked.tx.commit().await?;
        keys::drop_from_hosts(self.controller, cluster, unneeded).await;
        Ok(())
    }

    /// Makes a VM a template, or a template a VM.
    pub(crate) async fn set_template(&self, granted: Granted<SetTemplate>, template: bool) -> Result<(), Problem> {
        let mut asked = self.ask(TaskKind::VmReconfigure, granted.on(), granted.user()).await?;
        plan::set_template(asked.facts())?;
        let (id, name) = (asked.row.id, asked.row.name.clone());
        vm::set_template(&mut asked.tx, id, template).await?;
        let subject = EventSubject { vm: Some(id), user: Some(granted.user().clone()), ..EventSubject::default() };
        let message = format!("VM `{name}` is {} template", if template { "a" } else { "no" });
        event::record(&mut asked.tx, EventKind::VmTemplate, &subject, &message).await?;
        Ok(asked.tx.commit().await?)
    }

    async fn ask(&self, kind: TaskKind, known: &VmRow, user: &Name) -> Result<Asked, Problem> {
        self.controller.links.settled().await;
        hosts::refresh_power(self.controller, known).await;
        if known.locked.is_some() {
            // Whoever asks may have brought its key back a moment ago.
            register::try_again(self.controller, known, user).await;
        }
        let mut tx = self.controller.store.write().await?;
        let row = vm::get(&mut tx, known.id).await?.ok_or_else(|| {
            Problem::new(Code::NotFound, cannot(kind, &known.name), "it is gone", "`ward vm ls` lists the VMs")
        })?;
        let busy = task::open_of_vm(&mut tx, row.id).await?;
        let host = row.host.and_then(|host| self.controller.links.name(host));
        let gives = MayGive::of(&row);
        Ok(Asked { tx, row, busy, host, enable: MayEnable::nothing(), gives })
    }

    /// As [`Self::ask`], for what takes keys: those that the VM has, or others. It may switch on encryption modes.
    async fn ask_for_keys(
        &self,
        kind: TaskKind,
        known: &VmRow,
        caller: &Caller,
        takes: Takes,
    ) -> Result<Asked, Problem> {
        let (have, wishes) = (
            known.keys(),
            match takes {
                Takes::Own if known.keys().is_empty() => return self.ask(kind, known, caller.user()).await,
                Takes::Own => Vec::new(),
                Takes::Others(wishes) => wishes,
            },
        );
        let providers = providers(&mut *self.controller.store.read().await?, known.cluster).await?;
        let named: Vec<_> = wishes.iter().filter_map(|wish| plan::named_key(wish, &providers)).collect();
        let gives = MayGive::ask(self.controller, caller, (known.cluster, &have), named).await?;
        self.controller.links.settled().await;
        let enable = MayEnable::ask(self.controller, caller, known.cluster).await?;
        Ok(Asked { enable, gives, ..self.ask(kind, known, caller.user()).await? })
    }

    /// Makes sure that there is a host which can do the work. Where that takes keys, it switches on the encryption modes that
    /// the user may.
    async fn place(
        &self,
        tx: &mut Tx,
        what: &str,
        cluster: ClusterId,
        needs: plan::Needs<'_>,
        (may, user): (&MayEnable, &Name),
    ) -> Result<(), Problem> {
        let mut facts: Vec<HostFacts> = self.controller.links.facts(cluster);
        if needs.keys {
            let subject = EventSubject { user: Some(user.clone()), ..EventSubject::default() };
            for id in plan::on_demand(what, &facts, &may.hosts(), needs)? {
                let Some(link) = self.controller.links.get(id) else { continue };
                let change = ModeChange::Prepare { attempt: uuid::Uuid::new_v4() };
                let crypto = hosts::change(tx, what, &link, change, &subject).await?;
                // Undone by the host's supervisor, should this come to nothing.
                link.set_crypto(crypto.clone());
                facts.iter_mut().filter(|host| host.id == id).for_each(|host| host.mode = crypto.mode());
            }
        }
        plan::place(what, &facts, needs).map(drop)
    }

    async fn place_asked(
        &self,
        asked: &mut Asked,
        what: &str,
        needs: plan::Needs<'_>,
        caller: &Caller,
    ) -> Result<(), Problem> {
        self.place(&mut asked.tx, what, asked.row.cluster, needs, (&asked.enable, caller.user())).await
    }

    /// Tells what is wrong with a key where that shows before a task begins.
    async fn no_key(&self, tx: Tx, row: &VmRow, user: &Name, key: Option<&KeyRef>, problem: Problem) -> Problem {
        // Events are written in a transaction of their own.
        drop(tx);
        let provider = key.map(|key| key.provider.clone());
        let subject = EventSubject { vm: Some(row.id), user: Some(user.clone()), provider, ..EventSubject::default() };
        keys::report_problem(self.controller, &EventSubject { key: key.cloned(), ..subject }, problem).await
    }

    /// Begins what has nothing to do with other keys than the VM's.
    async fn begin_plain(
        &self,
        asked: Asked,
        caller: &Caller,
        kind: TaskKind,
        work: Work,
    ) -> Result<TaskInfo, Problem> {
        self.begin(asked.tx, (caller, &asked.gives), kind, (asked.row.id, &asked.row.name), work).await
    }

    async fn begin(
        &self,
        mut tx: Tx,
        (caller, gives): (&Caller, &MayGive),
        kind: TaskKind,
        (id, name): (VmId, &Name),
        work: Work,
    ) -> Result<TaskInfo, Problem> {
        if !gives.covers(work.named_keys()) {
            return Err(changed(cannot(kind, name), "where keys come from"));
        }
        let row: TaskRow = match task::add(&mut tx, (caller.task(), kind), (id, name), caller.user(), &work).await {
            // Only where two controllers share a database: here the transaction would have seen the other task.
            Err(error) if error.is_conflict() => {
                let why = "another task works on it";
                return Err(Problem::new(Code::Busy, cannot(kind, name), why, "`ward task ls` lists the tasks"));
            }
            added => added?,
        };
        if let Some(key) = caller.request() {
            request::began(&mut tx, &cannot(kind, name), key, &Came::Task(row.info.id)).await?;
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

/// The components whose keys are replaced at another age once they are under these policies.
async fn rotated_otherwise(
    db: &mut AnyConnection,
    row: &VmRow,
    wanted: &[(Component, PolicyName)],
    policies: &[PolicyRow],
) -> Result<Vec<Component>, Problem> {
    let Some(config) = &row.config else { return Ok(Vec::new()) };
    let was = policy::assigned(db, Some(row.id)).await?;
    let was = was.into_iter().map(|((_, component), name)| (component, name)).collect();
    Ok(plan::rotated_otherwise(config, (&was, wanted), policies))
}

/// A VM whose home is about to be made.
fn new_row(id: VmId, name: &Name, place: &DatastoreRow) -> VmRow {
    VmRow {
        id,
        name: name.clone(),
        cluster: place.cluster,
        datastore: place.id,
        directory: name.clone(),
        config: None,
        host: None,
        power: Power::Off,
        locked: None,
        template: false,
    }
}

/// The refusal where a proof is of how things were.
fn changed(what: String, of: &str) -> Problem {
    Problem::new(Code::Busy, what, format!("{of} has changed since it was decided whether you may"), "try again")
}

/// What planners need to know of key providers, for VMs of a cluster.
pub(crate) async fn providers(db: &mut AnyConnection, cluster: ClusterId) -> Result<Vec<ProviderFacts>, Problem> {
    let natives = store::native::list(db).await?;
    let trusted = store::trusted::list(db).await?;
    let own_default = provider::default_of(db, cluster).await?;
    let facts = |row: provider::ProviderRow| {
        let native = natives.iter().find(|native| native.name == row.name).map(|native| NativeFacts {
            backed_up: native.backed_up.is_some(),
            serves: native.serves(cluster),
            tpm_required: native.tpm_required,
        });
        let trusted = trusted.iter().find(|trusted| trusted.name == row.name).map(|trusted| NativeFacts {
            backed_up: true,
            serves: trusted.serves(cluster),
            tpm_required: true,
        });
        let native = native.or(trusted);
        let is_default = own_default.as_ref().map_or(row.is_default, |own| *own == row.name);
        ProviderFacts { name: row.name, is_default, native }
    };
    Ok(provider::list(db).await?.into_iter().map(facts).collect())
}

/// Whether a plan takes a key that only hosts with a TPM may make.
fn makes_under_tpm(plan: &CryptPlan, providers: &[ProviderFacts]) -> bool {
    plan.keys.iter().any(|choice| match choice {
        KeyChoice::New(name) => {
            providers.iter().any(|facts| facts.name == *name && facts.native.is_some_and(|native| native.tpm_required))
        }
        KeyChoice::Existing(_) => false,
    })
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

/// Makes sure that the controller has what hosts unwrap a VM's keys with.
async fn check_native(tx: &mut Tx, kind: TaskKind, row: &VmRow, keys: &[KeyRef]) -> Result<(), Problem> {
    let rows = store::native::list(tx).await?;
    let what = cannot(kind, &row.name);
    keys.iter().filter_map(KeyRef::kdk).try_for_each(|kdk| native::check(&what, &rows, &kdk, row.cluster))
}
