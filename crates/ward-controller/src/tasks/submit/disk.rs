//! Tasks that give a VM disks and take them from it.

use ward_types::{DiskId, TaskInfo, TaskKind};

use super::super::may_disk::{MayAddDisk, MayChangeDisk};
use super::named::providers;
use super::{KeyMark, Order, Problem, Takes, Work, changed, makes_under_tpm};
use crate::native;
use crate::plan::{self, DiskVerb, DiskWish};
use crate::store::policy;
use crate::tasks::cannot;
use crate::trusted;

const KIND: TaskKind = TaskKind::VmDisks;

impl Order<'_> {
    /// Gives a VM another disk.
    pub(crate) async fn add_disk(&self, may: &MayAddDisk, wish: DiskWish) -> Result<TaskInfo, Problem> {
        let takes = if may.takes_keys() { Takes::others(wish.crypto.wish()) } else { Takes::Own };
        let mut asked = self.ask_for_keys(KIND, may.vm(), may.caller(), takes).await?;
        let rows = policy::list(&mut asked.tx).await?;
        let providers = providers(&mut asked.tx, asked.row.cluster).await?;
        let (plan, policies) = plan::add_disk(asked.facts(), wish, &rows, &providers)?;
        let what = cannot(KIND, &asked.row.name);
        if !may.covers(&plan) {
            return Err(changed(what, "it"));
        }
        let mut keys: Vec<_> = asked.row.config.iter().filter_map(|config| config.home.key().cloned()).collect();
        keys.extend(plan.origin.key().filter(|key| !keys.contains(key)).cloned());
        let encrypts = !keys.is_empty() || !plan.crypt.keys.is_empty();
        let tpm = makes_under_tpm(&plan.crypt, &providers) || native::needs_tpm(&mut asked.tx, &keys).await?;
        let trusted = trusted::needed(&mut asked.tx, &keys, trusted::makers(&plan.crypt.keys)).await?;
        let rather = asked.row.host;
        let needs = plan::Needs { rather, keys: encrypts, tpm, trusted: &trusted, ..plan::Needs::default() };
        self.place_asked(&mut asked, &what, needs, may.caller()).await?;
        let marks = vec![KeyMark::None; plan.crypt.keys.len()];
        let work = Work::AddDisk { keys, plan, marks, policies, host: None };
        self.begin(asked.tx, (may.caller(), &asked.gives), KIND, (asked.row.id, &asked.row.name), work).await
    }

    /// Attaches, detaches or deletes a disk that a VM has.
    pub(crate) async fn change_disk(
        &self,
        may: &MayChangeDisk,
        disk: DiskId,
        verb: DiskVerb,
    ) -> Result<TaskInfo, Problem> {
        let mut asked = self.ask_for_keys(KIND, may.vm(), may.caller(), Takes::Own).await?;
        let keys = plan::change_disk(asked.facts(), disk, verb)?;
        let encrypted =
            asked.row.config.as_ref().and_then(|config| config.disk(disk)).is_some_and(|it| it.key().is_some());
        let what = cannot(KIND, &asked.row.name);
        if !may.covers(verb, encrypted) {
            return Err(changed(what, "it"));
        }
        let tpm = native::needs_tpm(&mut asked.tx, &keys).await?;
        let trusted = plan::trusted(&keys);
        let rather = asked.row.host;
        let needs = plan::Needs { rather, keys: !keys.is_empty(), tpm, trusted: &trusted, ..plan::Needs::default() };
        self.place_asked(&mut asked, &what, needs, may.caller()).await?;
        let work = Work::ChangeDisk { keys, disk, verb, host: None };
        self.begin_plain(asked, may.caller(), KIND, work).await
    }
}
