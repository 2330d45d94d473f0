//! Proofs for changes of a VM's disks: one for the change, and one for each thing that is done with keys on the way.

use ward_types::{CryptoSpec, Problem};

use super::may;
use super::may_key::MayGive;
use crate::api::auth::Caller;
use crate::authz::operations::{
    AddDisk, AddEncryptedDisk, AttachDisk, CopyDisk, DecryptVm, DetachDisk, EncryptNewDisk, ImportDisk, RecryptVm,
    RemoveDisk,
};
use crate::authz::{Granted, Note, Target as _, grant};
use crate::controller::Controller;
use crate::plan::{DiskVerb, NewDiskPlan, Origin, PlannedAction};
use crate::store::vm::{self, VmRow};

/// That a VM may get a disk.
pub(crate) struct MayAddDisk {
    add: Granted<AddDisk>,
    /// One from a file on a host.
    import: Option<Granted<ImportDisk>>,
    /// One of another VM.
    copy: Option<Granted<CopyDisk>>,
    /// The key that it has where it comes from.
    gives: MayGive,
    /// One that is encrypted in the VM.
    encrypted: Option<Granted<AddEncryptedDisk>>,
    encrypt: Option<Granted<EncryptNewDisk>>,
    decrypt: Option<Granted<DecryptVm>>,
    recrypt: Option<Granted<RecryptVm>>,
}

/// Where a disk comes from, for those who must be allowed to take it.
pub(crate) enum From {
    Nowhere,
    /// A file that somebody names.
    File,
    /// A disk of a VM of the inventory.
    Vm(Box<VmRow>),
}

impl MayAddDisk {
    /// Asks for each privilege that the disk takes. Whoever takes an encrypted disk by its file needs what it takes to copy
    /// it from the VM that it is of, and from every VM that its key opens.
    pub(crate) async fn ask(
        controller: &Controller,
        caller: &Caller,
        vm: VmRow,
        (from, origin): (From, &Origin),
        (spec, policy_encrypts): (&CryptoSpec, Option<bool>),
    ) -> Result<Self, Problem> {
        let note = |text: &str| Note::from(text.to_owned());
        let mut may = Self {
            add: grant(controller, caller, vm.clone(), note("a new disk")).await?,
            import: None,
            copy: None,
            gives: MayGive::nothing(),
            encrypted: None,
            encrypt: None,
            decrypt: None,
            recrypt: None,
        };
        let copies = || note(&format!("to VM `{}`", vm.name));
        match from {
            From::Nowhere => {}
            From::Vm(source) => {
                let granted = grant(controller, caller, *source, copies()).await?;
                may.gives = MayGive::copied(&granted);
                may.copy = Some(granted);
            }
            From::File => {
                if let Origin::Image { path, .. } | Origin::Volume { path, .. } = origin {
                    let note = path.display().to_string().into();
                    may.import = Some(grant(controller, caller, vm.clone(), note).await?);
                }
                if let Origin::Volume { label, .. } = origin {
                    let of = vm::get(&mut *controller.store.read().await?, label.vm).await?;
                    if let Some(of) = of.filter(|of| of.id != vm.id) {
                        may.copy = Some(grant(controller, caller, of, copies()).await?);
                    }
                    let have = vm.keys();
                    may.gives = MayGive::ask(controller, caller, (vm.cluster, &have), [label.key.clone()]).await?;
                }
            }
        }
        let was = origin.key();
        let (encrypts, decrypts) = match (policy_encrypts, was) {
            (Some(encrypts), was) => (encrypts && was.is_none(), !encrypts && was.is_some()),
            (None, _) => (matches!(spec, CryptoSpec::Encrypt(_)), *spec == CryptoSpec::Decrypt),
        };
        if encrypts || was.is_some() && !decrypts {
            let note = Note { detail: "a new disk".to_owned(), keys: was.cloned().into_iter().collect() };
            may.encrypted = Some(grant(controller, caller, vm.clone(), note).await?);
        }
        if encrypts {
            let key = match spec {
                CryptoSpec::Encrypt(wish) => may::key(wish),
                _ => "by its storage policy".to_owned(),
            };
            may.encrypt = Some(grant(controller, caller, vm.clone(), key.into()).await?);
        }
        if decrypts {
            may.decrypt = Some(grant(controller, caller, vm.clone(), note("a new disk, on its way")).await?);
        }
        if let CryptoSpec::ShallowRecrypt(wish) | CryptoSpec::DeepRecrypt(wish) = spec {
            let detail = format!("a new disk, on its way: {}", may::key(wish));
            may.recrypt = Some(grant(controller, caller, vm, detail.into()).await?);
        }
        Ok(may)
    }

    pub(crate) const fn caller(&self) -> &Caller {
        self.add.caller()
    }

    /// Which VM.
    pub(crate) const fn vm(&self) -> &VmRow {
        self.add.on()
    }

    /// Whether the disk takes keys.
    pub(crate) const fn takes_keys(&self) -> bool {
        self.encrypted.is_some() || self.decrypt.is_some()
    }

    /// Whether all of a plan may be done.
    pub(crate) fn covers(&self, plan: &NewDiskPlan) -> bool {
        let from_outside = self.import.is_some() || self.copy.is_some();
        let action = plan.crypt.steps.first().map(|step| step.action);
        let stays_encrypted = plan.origin.key().is_some() && action != Some(PlannedAction::Decrypt);
        (matches!(plan.origin, Origin::Blank { .. }) || from_outside)
            && self.gives.covers(plan.origin.key())
            && (!stays_encrypted || self.encrypted.is_some())
            && match action {
                None => true,
                Some(PlannedAction::Encrypt(_)) => self.encrypted.is_some() && self.encrypt.is_some(),
                Some(PlannedAction::Decrypt) => self.decrypt.is_some(),
                Some(PlannedAction::ShallowRecrypt(_) | PlannedAction::DeepRecrypt(_)) => self.recrypt.is_some(),
            }
    }
}

/// That a disk of a VM may be attached, detached or deleted.
pub(crate) struct MayChangeDisk(Change);

enum Change {
    Attach(Granted<AttachDisk>, Option<Box<Granted<AddEncryptedDisk>>>),
    Detach(Granted<DetachDisk>),
    Remove(Granted<RemoveDisk>),
}

impl MayChangeDisk {
    /// Asks for the privileges that it takes; `encrypted` is whether the disk is.
    pub(crate) async fn ask(
        controller: &Controller,
        caller: &Caller,
        vm: VmRow,
        (disk, verb, encrypted): (ward_types::DiskId, DiskVerb, bool),
    ) -> Result<Self, Problem> {
        let note = || Note::from(disk.to_string());
        Ok(Self(match verb {
            DiskVerb::Attach => {
                let may = grant(controller, caller, vm.clone(), note()).await?;
                let key = if encrypted { Some(Box::new(grant(controller, caller, vm, note()).await?)) } else { None };
                Change::Attach(may, key)
            }
            DiskVerb::Detach => Change::Detach(grant(controller, caller, vm, note()).await?),
            DiskVerb::Remove => Change::Remove(grant(controller, caller, vm, note()).await?),
        }))
    }

    pub(crate) const fn caller(&self) -> &Caller {
        match &self.0 {
            Change::Attach(may, _) => may.caller(),
            Change::Detach(may) => may.caller(),
            Change::Remove(may) => may.caller(),
        }
    }

    /// Which VM.
    pub(crate) const fn vm(&self) -> &VmRow {
        match &self.0 {
            Change::Attach(may, _) => may.on(),
            Change::Detach(may) => may.on(),
            Change::Remove(may) => may.on(),
        }
    }

    /// Whether that may be done.
    pub(crate) fn covers(&self, verb: DiskVerb, encrypted: bool) -> bool {
        match (&self.0, verb) {
            (Change::Attach(_, key), DiskVerb::Attach) => !encrypted || key.is_some(),
            (Change::Detach(_), DiskVerb::Detach) | (Change::Remove(_), DiskVerb::Remove) => true,
            _ => false,
        }
    }
}
