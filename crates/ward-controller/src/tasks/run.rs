//! One run of a task: what its flow has in hand.

use std::sync::Arc;

use tokio::sync::watch;
use ward_rpc::api::host::{HomeRef, Notice};
use ward_types::{
    AuditOutcome, Code, EventKind, EventSubject, HostId, KeyRef, Object, Power, PrivilegeSet, Problem, Progress,
    ProviderName, TaskInfo,
};

use super::board::{Live, change};
use super::{Work, cannot};
use crate::authz::Target as _;
use crate::controller::Shared;
use crate::hosts::Link;
use crate::keys;
use crate::store::audit::{self, Draft};
use crate::store::cells::word;
use crate::store::vm::VmRow;
use crate::store::{StoreError, Tx, cluster, event, task, vm};
use crate::trusted;

/// Why a run ended before its task did.
#[derive(Debug)]
pub(crate) enum Interrupted {
    /// The task has failed for good.
    Failed(Problem),
    /// The controller's own state could not be read or written just now: to be tried again.
    Store(StoreError),
}

impl From<Problem> for Interrupted {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

impl From<StoreError> for Interrupted {
    fn from(error: StoreError) -> Self {
        if error.is_for_good() { Self::Failed(error.into()) } else { Self::Store(error) }
    }
}

pub(crate) type Step<T = ()> = Result<T, Interrupted>;

/// Writes to the audit log what came of a task.
pub(crate) async fn told(
    tx: &mut Tx,
    info: &TaskInfo,
    outcome: AuditOutcome,
    mut keys: Vec<KeyRef>,
    detail: String,
) -> Result<(), StoreError> {
    keys.sort();
    keys.dedup();
    let draft = Draft {
        user: info.user.as_str(),
        // `vm-encrypt` is `vm.encrypt` there.
        operation: &word(&info.kind)?.replacen('-', ".", 1),
        outcome,
        object: Object::Vm(info.vm),
        object_name: info.vm_name.to_string(),
        privileges: PrivilegeSet::NONE,
        keys,
        task: Some(info.id),
        detail,
    };
    audit::record(tx, draft).await
}

/// One run of a task.
pub(crate) struct Run {
    pub(crate) controller: Shared,
    pub(crate) info: TaskInfo,
    pub(crate) work: Work,
    pub(crate) vm: VmRow,
    pub(crate) home: HomeRef,
    pub(crate) live: watch::Sender<Live>,
}

impl Run {
    pub(crate) async fn load(
        controller: Shared,
        row: task::TaskRow,
        live: watch::Sender<Live>,
    ) -> Result<Self, Interrupted> {
        let mut db = controller.store.read().await?;
        let gone = |what: &str| {
            let what_failed = cannot(row.info.kind, &row.info.vm_name);
            Interrupted::Failed(Problem::new(Code::NotFound, what_failed, format!("its {what} is gone"), "nothing"))
        };
        let vm = vm::get(&mut db, row.info.vm).await?.ok_or_else(|| gone("row in the inventory"))?;
        let datastores = cluster::datastores(&mut db).await?;
        let datastore = datastores.into_iter().find(|datastore| datastore.id == vm.datastore);
        let datastore = datastore.ok_or_else(|| gone("datastore"))?;
        drop(db);
        let home = HomeRef { datastore: datastore.directory, directory: vm.directory.clone() };
        Ok(Self { controller, info: row.info, work: row.work, vm, home, live })
    }

    /// "cannot encrypt VM `web-1`".
    pub(crate) fn what(&self) -> String {
        cannot(self.info.kind, &self.info.vm_name)
    }

    /// What the events of this task are about.
    pub(crate) fn subject(&self) -> EventSubject {
        EventSubject {
            vm: Some(self.info.vm),
            task: Some(self.info.id),
            user: Some(self.info.user.clone()),
            ..EventSubject::default()
        }
    }

    /// Where the VM runs, if it does.
    pub(crate) fn runs_on(&self) -> Option<HostId> {
        self.vm.host.filter(|_| self.vm.power == Power::On)
    }

    /// Whether somebody has asked that the task ends where it can.
    pub(crate) async fn is_cancelled(&self) -> Result<bool, StoreError> {
        task::is_cancelled(&mut *self.controller.store.read().await?, self.info.id).await
    }

    /// The end, where somebody has asked for it: nothing has begun yet.
    pub(crate) async fn check_cancelled(&self) -> Step {
        match self.is_cancelled().await? {
            true => Err(Problem::new(Code::Cancelled, self.what(), "it was cancelled", "ask for it again").into()),
            false => Ok(()),
        }
    }

    /// Says what is being done just now.
    pub(crate) fn say(&self, step: &str) {
        change(&self.live, |live| step.clone_into(&mut live.step));
    }

    /// Says how far the work on a host is.
    pub(crate) fn say_progress(&self, step: &str, progress: Progress) {
        change(&self.live, |live| {
            step.clone_into(&mut live.step);
            live.progress = progress;
        });
    }

    /// Writes down how far the work is. After a crash it goes on from here.
    pub(crate) async fn mark(&mut self, point: &str, step: &str) -> Result<(), StoreError> {
        let mut tx = self.controller.store.write().await?;
        task::set_work(&mut tx, self.info.id, step, &self.work).await?;
        tx.commit().await?;
        self.say(step);
        crash_point::reach(point);
        Ok(())
    }

    /// The trusted providers whose keys the work needs or makes.
    pub(crate) async fn trusted(&self) -> Result<Vec<ProviderName>, StoreError> {
        let makers = trusted::makers(self.work.keys().map(|(choice, _)| choice));
        trusted::needed(&mut *self.controller.store.read().await?, &self.vm.keys(), makers).await
    }

    pub(crate) fn link(&self, id: HostId) -> Result<Arc<Link>, Problem> {
        self.controller.links.get(id).ok_or_else(|| {
            Problem::new(Code::HostNone, self.what(), format!("host {id} is gone"), "`ward host ls` lists the hosts")
        })
    }

    /// Records an event of this task in the transaction that makes it true.
    pub(crate) async fn event(
        &self,
        tx: &mut Tx,
        kind: EventKind,
        host: Option<HostId>,
        key: Option<&KeyRef>,
        message: &str,
    ) -> Result<(), StoreError> {
        let mut subject = self.subject();
        subject.host = host;
        subject.key = key.cloned();
        subject.provider = key.map(|key| key.provider.clone());
        event::record(tx, kind, &subject, message).await
    }

    /// Records what a host did besides what it was asked.
    pub(crate) async fn notices(&self, tx: &mut Tx, host: HostId, notices: &[Notice]) -> Result<(), StoreError> {
        for notice in notices {
            match notice {
                Notice::HeaderRepaired { file, damage } => {
                    let message = format!(
                        "one copy of the LUKS2 header of {} was damaged ({damage}) and was restored from the other; \
                         check the storage",
                        file.display()
                    );
                    self.event(tx, EventKind::DiskHeaderRepaired, Some(host), None, &message).await?;
                }
            }
        }
        Ok(())
    }

    /// Ends the task well, with all that the transaction holds.
    pub(crate) async fn succeed(&self, mut tx: Tx) -> Result<(), StoreError> {
        let mut progress = self.live.borrow().progress;
        progress.done = progress.total;
        crash_point::reach("task.before-end");
        let mut keys = self.vm.keys();
        keys.extend(vm::get(&mut tx, self.info.vm).await?.map_or_else(Vec::new, |row| row.keys()));
        told(&mut tx, &self.info, AuditOutcome::Done, keys, String::new()).await?;
        task::end(&mut tx, self.info.id, progress, None).await?;
        tx.commit().await?;
        crash_point::reach("task.ended");
        Ok(())
    }

    /// Of `keys`, those that no VM needs any more, which is recorded.
    pub(crate) async fn retire(&self, tx: &mut Tx, keys: Vec<KeyRef>) -> Result<Vec<KeyRef>, StoreError> {
        keys::retire(tx, &self.subject(), keys).await
    }

    /// Lets the cluster's hosts forget keys. One that is away now will not have them when it is back.
    pub(crate) async fn drop_keys(&self, keys: Vec<KeyRef>) {
        keys::drop_from_hosts(&self.controller, self.vm.cluster, keys).await;
    }
}
