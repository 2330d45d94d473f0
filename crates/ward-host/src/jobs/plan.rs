//! What encrypting and decrypting comes to, worked out without touching a file.

use std::collections::BTreeSet;
use std::fmt::Display;

use serde::{Deserialize, Serialize};
use ward_rpc::api::host::TpmChange;
use ward_types::{
    Code, Component, CryptoPlan, CryptoStep, DiskConfig, DiskCrypto, DiskId, EkCertificate, Endorsement,
    EndorsementKey, FileName, Firmware, HomeCrypto, KeyRef, PlainFormat, StepAction, VirtualTpm, VmConfig, VolumeId,
    VolumeRef, WrappedHomeKey, WrappedTpmKey,
};

use crate::fault::{Fault, Result};
use crate::vtpm::Given;

/// How a volume lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain(PlainFormat),
    Luks(KeyRef),
}

impl Form {
    const fn key(&self) -> Option<&KeyRef> {
        match self {
            Self::Plain(_) => None,
            Self::Luks(key) => Some(key),
        }
    }
}

/// A volume in one of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) file: FileName,
    pub(crate) form: Form,
}

/// One volume's way from one file to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conversion {
    pub(crate) volume: VolumeId,
    pub(crate) size: u64,
    pub(crate) from: Image,
    pub(crate) to: Image,
}

/// What happens to the home itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HomeStep {
    Keep,
    Encrypt(KeyRef),
    Decrypt,
    /// Its key stays and is wrapped under another KEK.
    Rewrap(KeyRef),
    /// It gets a new key, and that another KEK.
    Recrypt(KeyRef),
}

/// A volume whose KEK is replaced in its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rekeying {
    pub(crate) volume: VolumeId,
    pub(crate) file: FileName,
    pub(crate) size: u64,
    pub(crate) from: KeyRef,
    pub(crate) to: KeyRef,
}

/// What happens to the vTPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TpmStep {
    Keep,
    /// There is a new one.
    Make {
        to: FileName,
    },
    /// Its key stays and is wrapped under the home's new KEK.
    Rewrap,
    /// Its state is encrypted anew, under a new key.
    Rewrite {
        from: FileName,
        to: FileName,
    },
    /// The same, and it gets certificates.
    Certify {
        from: FileName,
        to: FileName,
        given: Given,
    },
    Remove {
        from: FileName,
    },
}

impl TpmStep {
    /// The state that goes.
    pub(crate) const fn from(&self) -> Option<&FileName> {
        match self {
            Self::Rewrite { from, .. } | Self::Certify { from, .. } | Self::Remove { from } => Some(from),
            Self::Keep | Self::Make { .. } | Self::Rewrap => None,
        }
    }

    /// The state that comes.
    pub(crate) const fn to(&self) -> Option<&FileName> {
        match self {
            Self::Rewrite { to, .. } | Self::Certify { to, .. } | Self::Make { to } => Some(to),
            Self::Keep | Self::Remove { .. } | Self::Rewrap => None,
        }
    }
}

/// All that is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) home: HomeStep,
    pub(crate) conversions: Vec<Conversion>,
    pub(crate) rekeyings: Vec<Rekeying>,
    pub(crate) tpm: TpmStep,
}

/// What is new of a vTPM when all is done.
#[derive(Clone, Copy, Default)]
pub(crate) struct NewTpm<'a> {
    /// Its key, where that is another one, or under another KEK.
    pub(crate) key: Option<&'a WrappedTpmKey>,
    /// Its endorsement keys or their certificates.
    pub(crate) endorsement: Option<&'a Endorsement>,
}

/// What a plan comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    /// Everything is as it asks already: it was carried out before.
    AlreadyDone,
    Work(Box<Work>),
}

/// The files of one conversion, as a job notes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    #[serde(rename = "disk")]
    pub(crate) volume: VolumeId,
    pub(crate) from: FileName,
    pub(crate) to: FileName,
}

/// Where the names of new files come from.
pub(crate) enum Names<'a> {
    /// Names that nothing in the home has.
    New {
        /// All names in the home.
        taken: &'a BTreeSet<String>,
    },
    /// Those that the job chose when it began.
    Noted {
        files: &'a [Files],
        /// The directory of the vTPM's new state.
        tpm: Option<&'a FileName>,
    },
}

/// Works out what a plan comes to for a VM as it is.
///
/// A plan that was carried out before comes to nothing; one of which only a part holds already is refused, since jobs
/// are done whole or not at all, so it can't be this one that did it.
pub(crate) fn plan(
    config: &VmConfig,
    plan: &CryptoPlan,
    tpm: Option<&TpmChange>,
    names: &Names<'_>,
) -> Result<Planned> {
    let mut seen = BTreeSet::new();
    let mut holds: Vec<_> = tpm.iter().map(|change| change_holds(config, change)).collect();
    for step in plan.steps() {
        if !seen.insert(step.component) {
            return Err(Fault::invalid(format!("the plan names {} twice", step.component)));
        }
        holds.push(step_holds(config, step)?);
    }
    if holds.iter().all(|holds| *holds) {
        return Ok(Planned::AlreadyDone);
    }
    let mut work = Work { home: HomeStep::Keep, conversions: Vec::new(), rekeyings: Vec::new(), tpm: TpmStep::Keep };
    for step in plan.steps() {
        match (step.component, &step.action) {
            (Component::Home, StepAction::Encrypt { key }) => {
                refuse_encrypted(config.home != HomeCrypto::Plain, step.component)?;
                work.home = HomeStep::Encrypt(key.clone());
            }
            (Component::Home, StepAction::Decrypt) => {
                refuse_plain(config.home == HomeCrypto::Plain, step.component)?;
                work.home = HomeStep::Decrypt;
            }
            (Component::Home, StepAction::ShallowRecrypt { key }) => {
                refuse_same_or_plain(config.home.key(), key, step.component)?;
                work.home = HomeStep::Rewrap(key.clone());
            }
            (Component::Home, StepAction::DeepRecrypt { key }) => {
                refuse_same_or_plain(config.home.key(), key, step.component)?;
                work.home = HomeStep::Recrypt(key.clone());
            }
            (Component::Disk(id), action) => work.change(find(config, id)?.into(), action, names)?,
        }
        // The UEFI variables go with the home.
        if let (Component::Home, Some(nvram)) = (step.component, config.volume(VolumeId::Nvram)) {
            work.change(nvram, &step.action, names)?;
        }
    }
    let disk_is_encrypted_after = config.disks.iter().any(|disk| match work.conversion_of(disk.id.into()) {
        Some(conversion) => matches!(conversion.to.form, Form::Luks(_)),
        None => disk.key().is_some(),
    });
    let home_is_encrypted_after = match work.home {
        HomeStep::Keep => config.home != HomeCrypto::Plain,
        HomeStep::Encrypt(_) | HomeStep::Rewrap(_) | HomeStep::Recrypt(_) => true,
        HomeStep::Decrypt => false,
    };
    if disk_is_encrypted_after && !home_is_encrypted_after {
        return Err(Fault::new(
            Code::Composition,
            "a disk would be encrypted in a VM home that is not",
            "encrypt the VM home too, or decrypt all disks",
        ));
    }
    work.tpm = tpm_step(config, &work.home, tpm, home_is_encrypted_after, names)?;
    Ok(Planned::Work(Box::new(work)))
}

/// Whether the vTPM is already as a change wants it.
fn change_holds(config: &VmConfig, change: &TpmChange) -> bool {
    match (change, &config.tpm) {
        (TpmChange::Add, tpm) => tpm.is_some(),
        (TpmChange::Remove, tpm) => tpm.is_none(),
        (TpmChange::Certify { .. }, None) => false,
        (TpmChange::Certify { rsa, ecc }, Some(tpm)) => tpm.endorsement.as_ref().is_some_and(|now| {
            let has = |given: &Option<EkCertificate>, key: &EndorsementKey| {
                given.as_ref().is_none_or(|given| *given == key.certificate)
            };
            has(rsa, &now.rsa) && has(ecc, &now.ecc)
        }),
    }
}

fn tpm_step(
    config: &VmConfig,
    home: &HomeStep,
    change: Option<&TpmChange>,
    home_is_encrypted_after: bool,
    names: &Names<'_>,
) -> Result<TpmStep> {
    let refuse = |code, why: &str, remedy: &str| Err(Fault::new(code, why, remedy));
    Ok(match (change, &config.tpm) {
        (Some(TpmChange::Add), Some(_)) => {
            return refuse(Code::Exists, "the VM has a vTPM already", "leave it out, or remove that one first");
        }
        (Some(TpmChange::Add), None) if config.firmware.is_bios() => {
            return refuse(Code::Composition, "a vTPM needs UEFI", "make the VM with `--firmware uefi`");
        }
        (Some(TpmChange::Add), None) if !home_is_encrypted_after => {
            let why = "a vTPM would be in a VM home that is not encrypted";
            return refuse(Code::Composition, why, "encrypt the VM home too");
        }
        (Some(TpmChange::Add), None) => TpmStep::Make { to: names.choose_tpm(None)? },
        (Some(TpmChange::Remove), Some(tpm)) => TpmStep::Remove { from: tpm.state.clone() },
        (Some(TpmChange::Certify { rsa, ecc }), Some(tpm)) if home_is_encrypted_after => {
            let given = Given { rsa: rsa.clone(), ecc: ecc.clone() };
            TpmStep::Certify { from: tpm.state.clone(), to: names.choose_tpm(Some(&tpm.state))?, given }
        }
        (Some(TpmChange::Remove | TpmChange::Certify { .. }), None) => {
            return refuse(Code::TpmNone, "the VM has no vTPM", "leave it out");
        }
        (None, None) => TpmStep::Keep,
        (None | Some(TpmChange::Certify { .. }), Some(tpm)) => match home {
            HomeStep::Keep => TpmStep::Keep,
            HomeStep::Rewrap(_) => TpmStep::Rewrap,
            HomeStep::Recrypt(_) | HomeStep::Encrypt(_) => {
                TpmStep::Rewrite { from: tpm.state.clone(), to: names.choose_tpm(Some(&tpm.state))? }
            }
            HomeStep::Decrypt => {
                let why = "the VM has a vTPM, which keeps its home encrypted";
                return refuse(Code::Composition, why, "remove the vTPM first, or leave the VM home encrypted");
            }
        },
    })
}

fn conversion(volume: VolumeRef<'_>, action: &StepAction, names: &Names<'_>) -> Result<Conversion> {
    let from = volume.key.map_or(Form::Plain(volume.plain_format), |key| Form::Luks(key.clone()));
    let (to, extension) = match action {
        StepAction::Encrypt { key } => {
            refuse_encrypted(volume.key.is_some(), volume.id)?;
            (Form::Luks(key.clone()), "luks".to_owned())
        }
        StepAction::Decrypt => {
            refuse_plain(volume.key.is_none(), volume.id)?;
            (Form::Plain(volume.plain_format), volume.plain_format.to_string())
        }
        StepAction::DeepRecrypt { key } | StepAction::ShallowRecrypt { key } => {
            refuse_same_or_plain(volume.key, key, volume.id)?;
            (Form::Luks(key.clone()), "luks".to_owned())
        }
    };
    let from = Image { file: volume.file.clone(), form: from };
    let to = Image { file: names.choose(volume, &extension)?, form: to };
    Ok(Conversion { volume: volume.id, size: volume.size, from, to })
}

impl Names<'_> {
    fn choose(&self, volume: VolumeRef<'_>, extension: &str) -> Result<FileName> {
        match self {
            Self::New { taken } => fresh_name(taken, &volume.id.to_string(), &format!(".{extension}")),
            Self::Noted { files, .. } => files
                .iter()
                .find(|files| files.volume == volume.id && files.from == *volume.file && files.to != *volume.file)
                .map(|files| files.to.clone())
                .ok_or_else(|| {
                    Fault::home_invalid(format!("the record of the job says nothing sound of {}", volume.id))
                }),
        }
    }

    /// The directory of a vTPM's new state, beside the old one.
    fn choose_tpm(&self, old: Option<&FileName>) -> Result<FileName> {
        match self {
            Self::New { taken } => fresh_name(taken, "tpm", ""),
            Self::Noted { tpm: Some(to), .. } if Some(*to) != old => Ok((*to).clone()),
            Self::Noted { .. } => {
                Err(Fault::home_invalid("the record of the job says nothing sound of the vTPM's state"))
            }
        }
    }
}

/// `disk-0.luks`, or with a number where something has that name, or would have it with one of Ward's endings.
pub(crate) fn fresh_name(taken: &BTreeSet<String>, base: &str, extension: &str) -> Result<FileName> {
    let is_free = |name: &String| !taken.iter().any(|taken| taken.starts_with(name.as_str()));
    let plain = std::iter::once(format!("{base}{extension}"));
    let name = plain.chain((2..).map(|n| format!("{base}-{n}{extension}"))).find(is_free);
    name.unwrap_or_default().parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))
}

/// Whether a component is already as the step wants it.
fn step_holds(config: &VmConfig, step: &CryptoStep) -> Result<bool> {
    let key = match step.component {
        Component::Home => config.home.key(),
        Component::Disk(id) => find(config, id)?.key(),
    };
    Ok(key == step.action.key())
}

fn find(config: &VmConfig, id: DiskId) -> Result<&DiskConfig> {
    config
        .disk(id)
        .ok_or_else(|| Fault::new(Code::NotFound, format!("the VM has no {id}"), "`ward vm show` lists its disks"))
}

fn refuse_encrypted(is: bool, component: impl Display) -> Result<()> {
    if is {
        let why = format!("{component} is encrypted already");
        return Err(Fault::new(Code::AlreadyEncrypted, why, "leave it out, or decrypt it first"));
    }
    Ok(())
}

fn refuse_plain(is: bool, component: impl Display) -> Result<()> {
    if is {
        return Err(Fault::new(Code::NotEncrypted, format!("{component} is not encrypted"), "leave it out"));
    }
    Ok(())
}

/// The key that there is, where it can be replaced by that one.
fn refuse_same_or_plain<'a>(now: Option<&'a KeyRef>, new: &KeyRef, component: impl Display) -> Result<&'a KeyRef> {
    match now {
        None => {
            Err(Fault::new(Code::NotEncrypted, format!("{component} is not encrypted"), "leave it out, or encrypt it"))
        }
        Some(now) if now == new => {
            let why = format!("{component} is under the key {now} already");
            Err(Fault::new(Code::KeyUnchanged, why, "leave it out, or name another key"))
        }
        Some(now) => Ok(now),
    }
}

impl Work {
    /// Adds what is done to one volume.
    fn change(&mut self, volume: VolumeRef<'_>, action: &StepAction, names: &Names<'_>) -> Result<()> {
        if let StepAction::ShallowRecrypt { key } = action {
            let from = refuse_same_or_plain(volume.key, key, volume.id)?.clone();
            let (file, size) = (volume.file.clone(), volume.size);
            self.rekeyings.push(Rekeying { volume: volume.id, file, size, from, to: key.clone() });
        } else {
            self.conversions.push(conversion(volume, action, names)?);
        }
        Ok(())
    }

    fn conversion_of(&self, volume: VolumeId) -> Option<&Conversion> {
        self.conversions.iter().find(|conversion| conversion.volume == volume)
    }

    /// The files, as a job notes them.
    pub(crate) fn files(&self) -> Vec<Files> {
        let files = |conversion: &Conversion| Files {
            volume: conversion.volume,
            from: conversion.from.file.clone(),
            to: conversion.to.file.clone(),
        };
        self.conversions.iter().map(files).collect()
    }

    /// The volumes whose KEK is replaced, as a job notes them.
    pub(crate) fn rekeyed(&self) -> Vec<VolumeId> {
        self.rekeyings.iter().map(|rekeying| rekeying.volume).collect()
    }

    /// The VM when all is done. `wrapped_key` is needed where the home is encrypted under another KEK then, `tpm` has
    /// what is new of the vTPM.
    pub(crate) fn after(
        &self,
        before: &VmConfig,
        wrapped_key: Option<&WrappedHomeKey>,
        tpm: NewTpm<'_>,
    ) -> Result<VmConfig> {
        let mut after = before.clone();
        let state = match (&self.tpm, &before.tpm) {
            (TpmStep::Make { to } | TpmStep::Rewrite { to, .. } | TpmStep::Certify { to, .. }, _) => Some(to),
            (TpmStep::Rewrap, Some(tpm)) => Some(&tpm.state),
            (TpmStep::Rewrap | TpmStep::Remove { .. } | TpmStep::Keep, _) => None,
        };
        if let Some(state) = state {
            let wrapped_key = tpm.key.ok_or_else(|| Fault::internal("there is no key of the vTPM"))?.clone();
            let as_before = before.tpm.as_ref().and_then(|tpm| tpm.endorsement.as_ref());
            let endorsement = tpm.endorsement.or(as_before).cloned();
            after.tpm = Some(VirtualTpm { state: state.clone(), wrapped_key, endorsement });
        }
        if let TpmStep::Remove { .. } = self.tpm {
            after.tpm = None;
        }
        if let (Firmware::Uefi { nvram, .. }, Some(conversion)) =
            (&mut after.firmware, self.conversion_of(VolumeId::Nvram))
        {
            nvram.file = conversion.to.file.clone();
        }
        match &self.home {
            HomeStep::Keep => {}
            HomeStep::Decrypt => after.home = HomeCrypto::Plain,
            HomeStep::Encrypt(key) | HomeStep::Rewrap(key) | HomeStep::Recrypt(key) => {
                let wrapped_key = wrapped_key.ok_or_else(|| Fault::internal("there is no home key"))?.clone();
                after.home = HomeCrypto::Encrypted { key: key.clone(), wrapped_key };
            }
        }
        for disk in &mut after.disks {
            if let Some(conversion) = self.conversion_of(disk.id.into()) {
                disk.file = conversion.to.file.clone();
                disk.crypto = match &conversion.to.form {
                    Form::Plain(_) => DiskCrypto::Plain,
                    Form::Luks(key) => DiskCrypto::Encrypted { key: key.clone() },
                };
            }
            if let Some(rekeying) = self.rekeyings.iter().find(|rekeying| rekeying.volume == disk.id.into()) {
                disk.crypto = DiskCrypto::Encrypted { key: rekeying.to.clone() };
            }
        }
        Ok(after)
    }

    /// The keys of what is encrypted now and is worked on, besides the home.
    pub(crate) fn old_keys(&self) -> impl Iterator<Item = &KeyRef> {
        let disks = self.conversions.iter().filter_map(|conversion| conversion.from.form.key());
        self.rekeyings.iter().map(|rekeying| &rekeying.from).chain(disks)
    }

    /// The keys of what will be.
    pub(crate) fn new_keys(&self) -> impl Iterator<Item = &KeyRef> {
        let home = match &self.home {
            HomeStep::Encrypt(key) | HomeStep::Rewrap(key) | HomeStep::Recrypt(key) => Some(key),
            HomeStep::Keep | HomeStep::Decrypt => None,
        };
        let disks = self.conversions.iter().filter_map(|conversion| conversion.to.form.key());
        home.into_iter().chain(self.rekeyings.iter().map(|rekeying| &rekeying.to)).chain(disks)
    }

    /// How many bytes of disk are to be converted.
    pub(crate) fn total(&self) -> u64 {
        self.conversions.iter().map(|conversion| conversion.size).sum()
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
