//! The proofs for changing a VM's encryption: for each kind of change that a plan has, one of its own.

use ward_types::{CryptoSpec, Name, Problem, VmId};

use crate::api::auth::Caller;
use crate::authz::operations::{DecryptVm, EncryptVm, ReadVm, RecryptVm};
use crate::authz::{Granted, Note, grant};
use crate::controller::Controller;
use crate::plan::{CryptPlan, PlannedAction};
use crate::store::recryption::RecryptionRow;
use crate::store::vm::VmRow;

/// On whose behalf a task is begun.
#[derive(Clone, Copy)]
pub(crate) enum By<'a> {
    /// Of somebody who asks just now.
    Caller(&'a Caller),
    /// Of somebody who asked for all of it before.
    User(&'a Name),
}

impl By<'_> {
    pub(crate) const fn user(&self) -> &Name {
        match self {
            Self::Caller(caller) => caller.user(),
            Self::User(user) => user,
        }
    }
}

impl<'a> From<&'a Caller> for By<'a> {
    fn from(caller: &'a Caller) -> Self {
        Self::Caller(caller)
    }
}

/// What may be done to the encryption of a VM, and who asks.
pub(crate) struct MayCrypt(Proofs);

enum Proofs {
    /// Each kind by itself, on one VM.
    One(Box<OnOne>),
    /// To recrypt any VM.
    Many(Name),
}

struct OnOne {
    caller: Caller,
    encrypt: Option<Granted<EncryptVm>>,
    decrypt: Option<Granted<DecryptVm>>,
    recrypt: Option<Granted<RecryptVm>>,
}

impl MayCrypt {
    /// Whether the caller may do what is asked of that VM's components; refused where anything of it is not allowed.
    pub(crate) async fn of(
        controller: &Controller,
        caller: &Caller,
        vm: &VmRow,
        specs: &[&CryptoSpec],
        note: &str,
    ) -> Result<Self, Problem> {
        let note = || Note::from(note.to_owned());
        let any = |is: fn(&CryptoSpec) -> bool| specs.iter().any(|spec| is(spec));
        let mut proofs = (None, None, None);
        if any(|spec| matches!(spec, CryptoSpec::Encrypt(_))) {
            proofs.0 = Some(grant(controller, caller, vm.clone(), note()).await?);
        }
        if any(|spec| matches!(spec, CryptoSpec::Decrypt)) {
            proofs.1 = Some(grant(controller, caller, vm.clone(), note()).await?);
        }
        if any(|spec| matches!(spec, CryptoSpec::ShallowRecrypt(_) | CryptoSpec::DeepRecrypt(_))) {
            proofs.2 = Some(grant(controller, caller, vm.clone(), note()).await?);
        }
        let (encrypt, decrypt, recrypt) = proofs;
        if encrypt.is_none() && decrypt.is_none() && recrypt.is_none() {
            // What asks for nothing is still answered only to who may see the VM.
            let _: Granted<ReadVm> = grant(controller, caller, vm.clone(), note()).await?;
        }
        Ok(Self(Proofs::One(Box::new(OnOne { caller: caller.clone(), encrypt, decrypt, recrypt }))))
    }

    /// As who was allowed to recrypt many VMs. That the row is there is the proof of that.
    pub(crate) fn in_course_of(row: &RecryptionRow) -> Self {
        Self(Proofs::Many(row.user.clone()))
    }

    /// On whose behalf.
    pub(crate) const fn by(&self) -> By<'_> {
        match &self.0 {
            Proofs::One(one) => By::Caller(&one.caller),
            Proofs::Many(user) => By::User(user),
        }
    }

    /// Makes sure that all of a plan is covered. A plan that is not is a defect, since a request that is not was refused.
    pub(crate) fn check(&self, vm: VmId, plan: &CryptPlan) -> Result<(), Problem> {
        let covered = |action: &PlannedAction| match (&self.0, action) {
            (Proofs::One(one), PlannedAction::Encrypt(_)) => is_of(one.encrypt.as_ref().map(Granted::on), vm),
            (Proofs::One(one), PlannedAction::Decrypt) => is_of(one.decrypt.as_ref().map(Granted::on), vm),
            (Proofs::One(one), PlannedAction::ShallowRecrypt(_) | PlannedAction::DeepRecrypt(_)) => {
                is_of(one.recrypt.as_ref().map(Granted::on), vm)
            }
            (Proofs::Many(_), action) => matches!(action, PlannedAction::ShallowRecrypt(_)),
        };
        if plan.steps.iter().all(|step| covered(&step.action)) {
            return Ok(());
        }
        Err(Problem::internal("cannot change the encryption of a VM", "part of it was not checked against privileges"))
    }
}

fn is_of(proof: Option<&VmRow>, vm: VmId) -> bool {
    proof.is_some_and(|row| row.id == vm)
}
