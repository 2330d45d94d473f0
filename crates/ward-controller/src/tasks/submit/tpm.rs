//! Tasks that give VMs vTPMs, take them away, and certify them.

use ward_rpc::api::host::TpmChange;
use ward_types::{KeyWish, Problem, TaskInfo, TaskKind};

use super::super::{KeyMark, Work, cannot};
use super::named::providers;
use super::{Asked, Order, Takes, makes_under_tpm};
use crate::api::auth::Caller;
use crate::api::types::CertifyTpm;
use crate::authz::operations::{self, AddTpm, RemoveTpm};
use crate::authz::{Granted, Target as _};
use crate::native;
use crate::plan::{self, CryptPlan};
use crate::trusted;
use crate::vtpm;

impl Order<'_> {
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
}
