//! Proofs that belong together: a change of a VM's encryption takes one for each kind of thing that is done to any of its
//! components, a new VM one for the place where it is made and more for what it is made of.

use std::collections::BTreeMap;

use ward_types::{
    ClusterId, Component, CryptoRequest, CryptoSpec, HostId, HostMode, KeyWish, Name, PolicyName, Problem,
};

use crate::api::auth::Caller;
use crate::api::types::{CloneKeys, SetPolicy};
use crate::authz::operations::{
    CloneVm, CreateEncryptedVm, CreateVm, DecryptVm, EnableHost, EncryptVm, ImportVm, RecryptVm, StartElsewhere,
    StartVm, UnlockVm,
};
use crate::authz::{Granted, Note, Target as _, grant, grant_if_allowed, grant_named};
use crate::controller::Controller;
use crate::plan::{CloneWish, CryptPlan, NewVm, PlannedAction};
use crate::store::cluster::DatastoreRow;
use crate::store::host::{self, HostRow};
use crate::store::policy;
use crate::store::vm::VmRow;

/// The hosts of a cluster whose encryption mode is off, and that somebody may switch on.
pub(crate) struct MayEnable(Vec<Granted<EnableHost>>);

impl MayEnable {
    /// None: nothing is to be switched on.
    pub(crate) const fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Asks for each.
    pub(crate) async fn ask(controller: &Controller, caller: &Caller, cluster: ClusterId) -> Result<Self, Problem> {
        Self::ask_in(controller, caller, |known| known == cluster).await
    }

    /// The same for several clusters.
    pub(crate) async fn ask_in(
        controller: &Controller,
        caller: &Caller,
        is_meant: impl Fn(ClusterId) -> bool,
    ) -> Result<Self, Problem> {
        let mut granted = Vec::new();
        let rows = host::list(&mut *controller.store.read().await?).await?;
        let off = |row: &HostRow| {
            let mode = controller.links.get(row.id).map(|link| link.crypto().mode());
            is_meant(row.cluster) && mode == Some(HostMode::Incapable)
        };
        for row in rows.into_iter().filter(off) {
            let note = Note::from("on demand of a cryptographic operation".to_owned());
            granted.extend(grant_if_allowed(controller, caller, row, note).await?);
        }
        Ok(Self(granted))
    }

    /// Which.
    pub(crate) fn hosts(&self) -> Vec<HostId> {
        self.0.iter().map(|granted| granted.on().id).collect()
    }
}

/// That a VM may be started: where it was, or where the controller sees fit; or on another host, which somebody names.
pub(crate) enum MayStart {
    Here(Granted<StartVm>),
    On(Granted<StartElsewhere>),
}

impl MayStart {
    /// Asks for what it takes.
    pub(crate) async fn ask(
        controller: &Controller,
        caller: &Caller,
        vm: VmRow,
        host: Option<&Name>,
    ) -> Result<Self, Problem> {
        let Some(host) = host else { return Ok(Self::Here(grant(controller, caller, vm, Note::default()).await?)) };
        let note = format!("on host `{host}`").into();
        Ok(match moves(controller, &vm, host) {
            true => Self::On(grant(controller, caller, vm, note).await?),
            false => Self::Here(grant(controller, caller, vm, note).await?),
        })
    }

    pub(crate) const fn caller(&self) -> &Caller {
        match self {
            Self::Here(granted) => granted.caller(),
            Self::On(granted) => granted.caller(),
        }
    }

    /// Which VM.
    pub(crate) const fn vm(&self) -> &VmRow {
        match self {
            Self::Here(granted) => granted.on(),
            Self::On(granted) => granted.on(),
        }
    }

    /// Whether the VM, as it is now, may be started there.
    pub(crate) fn covers(&self, controller: &Controller, now: &VmRow, host: Option<&Name>) -> bool {
        let goes = host.is_some_and(|host| moves(controller, now, host));
        !goes || matches!(self, Self::On(_)) && (now.keys().is_empty() || !self.vm().keys().is_empty())
    }
}

/// Whether a VM that ran somewhere is to run on another host.
fn moves(controller: &Controller, vm: &VmRow, host: &Name) -> bool {
    vm.host.is_some_and(|last| controller.links.name(last).as_ref() != Some(host))
}

/// What somebody may do to the components of a VM.
pub(crate) struct MayCrypt {
    caller: Caller,
    vm: VmRow,
    encrypt: Option<Granted<EncryptVm>>,
    decrypt: Option<Granted<DecryptVm>>,
    recrypt: Option<Granted<RecryptVm>>,
    register: Option<Granted<UnlockVm>>,
}

impl MayCrypt {
    fn nothing(caller: &Caller, vm: &VmRow) -> Self {
        let (caller, vm) = (caller.clone(), vm.clone());
        Self { caller, vm, encrypt: None, decrypt: None, recrypt: None, register: None }
    }

    /// Asks for each privilege that the request takes. Whoever has keys replaced at another age has them replaced, or keeps
    /// them from being replaced: that takes what replacing them takes.
    pub(crate) async fn ask(
        controller: &Controller,
        caller: &Caller,
        vm: VmRow,
        request: &CryptoRequest,
        rotated: &[Component],
    ) -> Result<Self, Problem> {
        let mut may = Self::nothing(caller, &vm);
        let mut kinds = by_kind(request);
        if !rotated.is_empty() {
            let parts = rotated.iter().map(|part| format!("{part}: its keys are replaced at another age"));
            kinds.entry(Kind::Recrypt).or_default().extend(parts);
        }
        for (kind, parts) in kinds {
            let note = parts.join("; ").into();
            match kind {
                Kind::Encrypt => may.encrypt = Some(grant(controller, caller, vm.clone(), note).await?),
                Kind::Decrypt => may.decrypt = Some(grant(controller, caller, vm.clone(), note).await?),
                Kind::Recrypt => may.recrypt = Some(grant(controller, caller, vm.clone(), note).await?),
                Kind::Register => may.register = Some(grant(controller, caller, vm.clone(), note).await?),
            }
        }
        Ok(may)
    }

    /// Whether nothing was asked for.
    pub(crate) const fn is_nothing(&self) -> bool {
        self.encrypt.is_none() && self.decrypt.is_none() && self.recrypt.is_none() && self.register.is_none()
    }

    /// Whether keys may be replaced.
    pub(crate) const fn recrypts(&self) -> bool {
        self.recrypt.is_some()
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
        let registers = plan.registers.is_empty() || self.register.is_some();
        registers && plan.steps.iter().all(|step| self.allows(step.action))
    }

    const fn allows(&self, action: PlannedAction) -> bool {
        match action {
            PlannedAction::Encrypt(_) => self.encrypt.is_some(),
            PlannedAction::Decrypt => self.decrypt.is_some(),
            PlannedAction::ShallowRecrypt(_) | PlannedAction::DeepRecrypt(_) => self.recrypt.is_some(),
        }
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

/// That a VM may be made: one that is made of files takes more, and so does one that is encrypted.
pub(crate) struct MayMake {
    from: MayMakeFrom,
    encrypted: Option<Granted<CreateEncryptedVm>>,
}

enum MayMakeFrom {
    Nothing(Granted<CreateVm>),
    Files(Granted<ImportVm>),
}

impl MayMake {
    /// Asks for each privilege that the VM takes.
    pub(crate) async fn ask(
        controller: &Controller,
        caller: &Caller,
        place: DatastoreRow,
        new: &NewVm,
        policies: Option<&SetPolicy>,
    ) -> Result<Self, Problem> {
        let note = || Note::from(format!("make VM `{}`", new.name));
        let from = if new.reads_files() {
            MayMakeFrom::Files(grant(controller, caller, place.clone(), note()).await?)
        } else {
            MayMakeFrom::Nothing(grant(controller, caller, place.clone(), note()).await?)
        };
        let rows = policy::list(&mut *controller.store.read().await?).await?;
        let encrypts = |name: &PolicyName| rows.iter().any(|row| row.name == *name && row.encrypts);
        let by_policy = policies.is_some_and(|SetPolicy { home, all_disks, disks }| {
            home.iter().chain(all_disks).chain(disks.values()).any(encrypts)
        });
        let encrypted = match by_policy || new.tpm {
            true => Some(grant(controller, caller, place, note()).await?),
            false => None,
        };
        Ok(Self { from, encrypted })
    }

    pub(crate) const fn caller(&self) -> &Caller {
        match &self.from {
            MayMakeFrom::Nothing(granted) => granted.caller(),
            MayMakeFrom::Files(granted) => granted.caller(),
        }
    }

    /// Where.
    pub(crate) const fn on(&self) -> &DatastoreRow {
        match &self.from {
            MayMakeFrom::Nothing(granted) => granted.on(),
            MayMakeFrom::Files(granted) => granted.on(),
        }
    }

    /// Whether of files.
    pub(crate) const fn reads_files(&self) -> bool {
        matches!(self.from, MayMakeFrom::Files(_))
    }

    /// Whether encrypted.
    pub(crate) const fn encrypts(&self) -> bool {
        self.encrypted.is_some()
    }
}

/// That a VM may be made from another one, and what of it may be another way.
pub(crate) struct MayClone {
    clone: Granted<CloneVm>,
    create: Granted<CreateVm>,
    encrypted: Option<Granted<CreateEncryptedVm>>,
    change: MayCrypt,
}

impl MayClone {
    /// Asks for each privilege that the clone takes: what is plain of the one and encrypted of the other is encrypted anew
    /// where that one is made.
    pub(crate) async fn ask(
        controller: &Controller,
        caller: &Caller,
        vm: VmRow,
        (name, datastore): (&Name, Option<&str>),
        wish: &CloneWish,
    ) -> Result<Self, Problem> {
        let note = || Note::from(format!("to VM `{name}`"));
        let clone: Granted<CloneVm> = grant(controller, caller, vm.clone(), note()).await?;
        let datastore = datastore.map_or_else(|| vm.datastore.to_string(), str::to_owned);
        let create: Granted<CreateVm> =
            grant_named(controller, caller, &datastore, format!("make VM `{name}`").into()).await?;
        let mut change = MayCrypt::nothing(caller, &vm);
        let kinds = by_kind(&wish.crypto);
        if wish.keys != CloneKeys::Same || kinds.contains_key(&Kind::Recrypt) {
            change.recrypt = Some(grant(controller, caller, vm.clone(), note()).await?);
        }
        if kinds.contains_key(&Kind::Decrypt) {
            change.decrypt = Some(grant(controller, caller, vm, note()).await?);
        }
        let encrypted = match kinds.contains_key(&Kind::Encrypt) {
            true => Some(grant(controller, caller, create.on().clone(), note()).await?),
            false => None,
        };
        Ok(Self { clone, create, encrypted, change })
    }

    pub(crate) const fn caller(&self) -> &Caller {
        self.clone.caller()
    }

    /// From which.
    pub(crate) const fn vm(&self) -> &VmRow {
        self.clone.on()
    }

    /// Whether what is plain of the one is encrypted of the other.
    pub(crate) const fn encrypts(&self) -> bool {
        self.encrypted.is_some()
    }

    /// Where.
    pub(crate) const fn place(&self) -> &DatastoreRow {
        self.create.on()
    }

    /// Whether all of a plan may be done on the way.
    pub(crate) fn covers(&self, plan: &CryptPlan) -> bool {
        plan.steps.iter().all(|step| match step.action {
            PlannedAction::Encrypt(_) => self.encrypted.is_some(),
            _ => self.change.allows(step.action),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Encrypt,
    Decrypt,
    Recrypt,
    Register,
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
            CryptoSpec::Register => (Kind::Register, "its key given to hosts".to_owned()),
            CryptoSpec::NoOp => continue,
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
