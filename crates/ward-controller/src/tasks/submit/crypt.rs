//! Tasks that change the encryption of a VM, asked by itself or by storage policies.

use sqlx::AnyConnection;
use ward_types::{Component, CryptoRequest, PolicyName, Power, Problem, TaskInfo, TaskKind};

use super::super::may::MayCrypt;
use super::super::{KeyMark, Work, cannot};
use super::named::providers;
use super::{Asked, Order, Takes, changed, makes_under_tpm};
use crate::api::types::SetPolicy;
use crate::authz::operations::SetVmPolicy;
use crate::authz::{Granted, Target as _};
use crate::native;
use crate::plan::{self, CryptPlan, Selection, Verb, VmFacts};
use crate::store::policy;
use crate::store::policy::PolicyRow;
use crate::store::vm::VmRow;
use crate::trusted;

impl Order<'_> {
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
