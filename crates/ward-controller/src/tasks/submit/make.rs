//! Tasks that make VMs: of nothing, of files, of other VMs.

use ward_rpc::api::host::HomeRef;
use ward_rpc::api::host::HostParts;
use ward_types::{Code, Name, Power, Problem, TaskInfo, TaskKind, VmId};

use super::super::may::{MayClone, MayEnable, MayMake};
use super::super::may_key::MayGive;
use super::super::{KeyMark, Work, cannot};
use super::named::providers;
use super::{Order, Takes, changed, makes_under_tpm};
use crate::api::types::{SetPolicy, TpmClone};
use crate::authz::Target as _;
use crate::native;
use crate::plan::{self, NewVm};
use crate::store::cluster::DatastoreRow;
use crate::store::vm::VmRow;
use crate::store::{Tx, cluster, policy, vm};
use crate::trusted;

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
