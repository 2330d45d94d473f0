//! How a task comes to be: everything is checked, then the task is written down, then it runs.

mod crypt;
mod disk;
mod life;
mod make;
mod named;
mod tpm;

use ward_types::{ClusterId, Code, EventKind, EventSubject, KeyRef, KeyWish, Name, Problem, TaskInfo, TaskKind, VmId};

use super::may::MayEnable;
use super::may_key::MayGive;
use super::{KeyMark, Work, cannot, engine};
use crate::api::auth::Caller;
use crate::authz::Target as _;
use crate::controller::Shared;
use crate::hosts;
use crate::keys;
use crate::plan::{self, CryptPlan, HostFacts, KeyChoice, ModeChange, ProviderFacts, VmFacts};
use crate::register;
use crate::store::request::Came;
use crate::store::task::TaskRow;
use crate::store::vm::VmRow;
use crate::store::{Tx, event, request, task, vm};
pub(crate) use named::{cluster_named, datastore_for, providers};

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

/// The refusal where a proof is of how things were.
fn changed(what: String, of: &str) -> Problem {
    Problem::new(Code::Busy, what, format!("{of} has changed since it was decided whether you may"), "try again")
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
