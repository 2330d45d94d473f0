//! Starting, stopping, deleting and unregistering VMs.

use ward_types::{EventKind, EventSubject, KeyRef, Name, Problem, TaskInfo, TaskKind};

use super::super::may::MayStart;
use super::super::{Work, cannot};
use super::{Order, changed};
use crate::authz::Granted;
use crate::authz::operations::{RemoveVm, SetTemplate, StopVm, UnregisterVm};
use crate::keys;
use crate::native;
use crate::plan;
use crate::store::vm::VmRow;
use crate::store::{self, Tx, event, vm, vm_left};

impl Order<'_> {
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
}

/// Makes sure that the controller has what hosts unwrap a VM's keys with.
async fn check_native(tx: &mut Tx, kind: TaskKind, row: &VmRow, keys: &[KeyRef]) -> Result<(), Problem> {
    let rows = store::native::list(tx).await?;
    let what = cannot(kind, &row.name);
    keys.iter().filter_map(KeyRef::kdk).try_for_each(|kdk| native::check(&what, &rows, &kdk, row.cluster))
}
