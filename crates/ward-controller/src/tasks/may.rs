//! The proofs that a change of a VM's encryption takes: one for each kind of thing that is done to any of its components.

use std::collections::BTreeMap;

use ward_types::{Component, CryptoRequest, CryptoSpec, KeyWish, Problem};

use crate::api::auth::Caller;
use crate::authz::operations::{DecryptVm, EncryptVm, RecryptVm};
use crate::authz::{Granted, grant};
use crate::controller::Controller;
use crate::plan::{CryptPlan, PlannedAction};
use crate::store::vm::VmRow;

/// What somebody may do to the components of a VM.
pub(crate) struct MayCrypt {
    caller: Caller,
    vm: VmRow,
    encrypt: Option<Granted<EncryptVm>>,
    decrypt: Option<Granted<DecryptVm>>,
    recrypt: Option<Granted<RecryptVm>>,
}

impl MayCrypt {
    fn nothing(caller: &Caller, vm: &VmRow) -> Self {
        Self { caller: caller.clone(), vm: vm.clone(), encrypt: None, decrypt: None, recrypt: None }
    }

    /// Asks for each privilege that the request takes.
    pub(crate) async fn ask(
        controller: &Controller,
        caller: &Caller,
        vm: VmRow,
        request: &CryptoRequest,
    ) -> Result<Self, Problem> {
        let mut may = Self::nothing(caller, &vm);
        for (kind, parts) in by_kind(request) {
            let note = parts.join("; ").into();
            match kind {
                Kind::Encrypt => may.encrypt = Some(grant(controller, caller, vm.clone(), note).await?),
                Kind::Decrypt => may.decrypt = Some(grant(controller, caller, vm.clone(), note).await?),
                Kind::Recrypt => may.recrypt = Some(grant(controller, caller, vm.clone(), note).await?),
            }
        }
        Ok(may)
    }

    /// Whether nothing was asked for.
    pub(crate) const fn is_nothing(&self) -> bool {
        self.encrypt.is_none() && self.decrypt.is_none() && self.recrypt.is_none()
    }

    pub(crate) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whose components.
    pub(crate) const fn vm(&self) -> &VmRow {
        &self.vm
    }

    /// Whether all of a plan may be done.
    pub(crate) fn covers(&self, plan: &CryptPlan) -> bool {
        plan.steps.iter().all(|step| match step.action {
            PlannedAction::Encrypt(_) => self.encrypt.is_some(),
            PlannedAction::Decrypt => self.decrypt.is_some(),
            PlannedAction::ShallowRecrypt(_) | PlannedAction::DeepRecrypt(_) => self.recrypt.is_some(),
        })
    }
}

impl From<Granted<EncryptVm>> for MayCrypt {
    fn from(granted: Granted<EncryptVm>) -> Self {
        let nothing = Self::nothing(granted.caller(), granted.on());
        Self { encrypt: Some(granted), ..nothing }
    }
}

impl From<Granted<DecryptVm>> for MayCrypt {
    fn from(granted: Granted<DecryptVm>) -> Self {
        let nothing = Self::nothing(granted.caller(), granted.on());
        Self { decrypt: Some(granted), ..nothing }
    }
}

impl From<Granted<RecryptVm>> for MayCrypt {
    fn from(granted: Granted<RecryptVm>) -> Self {
        let nothing = Self::nothing(granted.caller(), granted.on());
        Self { recrypt: Some(granted), ..nothing }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Encrypt,
    Decrypt,
    Recrypt,
}

/// What is asked, by the privilege that it takes: for the audit log in words.
fn by_kind(request: &CryptoRequest) -> BTreeMap<Kind, Vec<String>> {
    let mut kinds: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
    for (component, spec) in request.specs() {
        let (kind, how) = match spec {
            CryptoSpec::Encrypt(wish) => (Kind::Encrypt, key(wish)),
            CryptoSpec::Decrypt => (Kind::Decrypt, String::new()),
            CryptoSpec::ShallowRecrypt(wish) => (Kind::Recrypt, key(wish)),
            CryptoSpec::DeepRecrypt(wish) => (Kind::Recrypt, format!("deep, {}", key(wish))),
            CryptoSpec::NoOp | CryptoSpec::Register => continue,
        };
        let part = if how.is_empty() { component.to_string() } else { format!("{component}: {how}") };
        kinds.entry(kind).or_default().push(part);
    }
    kinds
}

/// A wish for a key in words.
pub(crate) fn key(KeyWish { provider, key_id }: &KeyWish) -> String {
    let key = key_id.as_ref().map_or_else(|| "a new key".to_owned(), |id| format!("key {id}"));
    let provider = provider.as_ref().map_or_else(|| "the default provider".to_owned(), ToString::to_string);
    format!("{key} of {provider}")
}

/// Components in words: those that are named, or all.
pub(crate) fn parts(home: bool, disks: &[ward_types::DiskId]) -> String {
    let home = home.then_some(Component::Home);
    let named: Vec<_> =
        home.into_iter().chain(disks.iter().map(|disk| Component::Disk(*disk))).map(|part| part.to_string()).collect();
    if named.is_empty() { "all of it".to_owned() } else { named.join(", ") }
}
