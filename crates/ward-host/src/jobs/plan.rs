//! What encrypting and decrypting comes to, worked out without touching a file.

use std::collections::BTreeSet;
use std::fmt::Display;

use serde::{Deserialize, Serialize};
use ward_rpc::api::host::TpmChange;
use ward_types::{
    Code, Component, CryptoPlan, CryptoStep, DiskConfig, DiskCrypto, DiskId, FileName, Firmware, HomeCrypto, KeyRef,
    PlainFormat, StepAction, VirtualTpm, VmConfig, VolumeId, VolumeRef, WrappedHomeKey, WrappedTpmKey,
};

use crate::fault::{Fault, Result};

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
    Remove {
        from: FileName,
    },
}

impl TpmStep {
    /// The state that goes.
    pub(crate) const fn from(&self) -> Option<&FileName> {
        match self {
            Self::Rewrite { from, .. } | Self::Remove { from } => Some(from),
            Self::Keep | Self::Make { .. } | Self::Rewrap => None,
        }
    }

    /// The state that comes.
    pub(crate) const fn to(&self) -> Option<&FileName> {
        match self {
            Self::Rewrite { to, .. } | Self::Make { to } => Some(to),
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

/// What a plan comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    /// Everything is as it asks already: it was carried out before.
    AlreadyDone,
    Work(Work),
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
pub(crate) fn plan(config: &VmConfig, plan: &CryptoPlan, tpm: Option<TpmChange>, names: &Names<'_>) -> Result<Planned> {
    let mut seen = BTreeSet::new();
    let mut holds: Vec<_> = tpm.iter().map(|change| (*change == TpmChange::Add) == config.tpm.is_some()).collect();
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
    Ok(Planned::Work(work))
}

fn tpm_step(
    config: &VmConfig,
    home: &HomeStep,
    change: Option<TpmChange>,
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
        (Some(TpmChange::Remove), None) => {
            return refuse(Code::TpmNone, "the VM has no vTPM", "leave it out");
        }
        (None, None) => TpmStep::Keep,
        (None, Some(tpm)) => match home {
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

    /// The VM when all is done. `wrapped_key` is needed where the home is encrypted under another KEK then, `tpm_key` where
    /// the vTPM's key is another one, or under another KEK.
    pub(crate) fn after(
        &self,
        before: &VmConfig,
        wrapped_key: Option<&WrappedHomeKey>,
        tpm_key: Option<&WrappedTpmKey>,
    ) -> Result<VmConfig> {
        let mut after = before.clone();
        let state = match (&self.tpm, &before.tpm) {
            (TpmStep::Make { to } | TpmStep::Rewrite { to, .. }, _) => Some(to),
            (TpmStep::Rewrap, Some(tpm)) => Some(&tpm.state),
            (TpmStep::Rewrap | TpmStep::Remove { .. } | TpmStep::Keep, _) => None,
        };
        if let Some(state) = state {
            let wrapped_key = tpm_key.ok_or_else(|| Fault::internal("there is no key of the vTPM"))?.clone();
            after.tpm = Some(VirtualTpm { state: state.clone(), wrapped_key });
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
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use ward_types::{Boot, KeyId, Nvram, VmId};

    use super::*;

    fn key(id: u8) -> KeyRef {
        KeyRef::standard("kms".parse().unwrap(), KeyId::try_from(id.to_string()).unwrap())
    }

    /// `None`: plain; `Some(n)`: encrypted under key n.
    fn vm(home: Option<u8>, disks: &[Option<u8>]) -> VmConfig {
        let disk = |(n, crypto): (usize, &Option<u8>)| {
            let id = DiskId(u16::try_from(n).unwrap());
            let (extension, crypto) = match crypto {
                None => ("qcow2", DiskCrypto::Plain),
                Some(k) => ("luks", DiskCrypto::Encrypted { key: key(*k) }),
            };
            let file = format!("{id}.{extension}").parse().unwrap();
            DiskConfig { id, file, size: 1 << 20, plain_format: PlainFormat::Qcow2, crypto, attached: true }
        };
        VmConfig {
            version: 1,
            id: VmId::new(),
            name: "vm".parse().unwrap(),
            cpus: 1,
            memory_mib: 64,
            boot: Boot::Disk,
            home: match home {
                None => HomeCrypto::Plain,
                Some(k) => HomeCrypto::Encrypted { key: key(k), wrapped_key: WrappedHomeKey("x".into()) },
            },
            disks: disks.iter().enumerate().map(disk).collect(),
            firmware: Firmware::Bios,
            tpm: None,
        }
    }

    /// The same with UEFI, and with a vTPM.
    fn with_uefi(config: VmConfig, tpm: bool) -> VmConfig {
        let encrypted = config.home != HomeCrypto::Plain;
        let file = if encrypted { "nvram.luks" } else { "nvram.raw" }.parse().unwrap();
        let firmware = Firmware::Uefi { secure_boot: false, nvram: Nvram { file, size: 540_672 } };
        let tpm = tpm.then(|| VirtualTpm { state: "tpm".parse().unwrap(), wrapped_key: WrappedTpmKey("t".into()) });
        VmConfig { firmware, tpm, ..config }
    }

    fn recrypt(component: Component, deep: bool, k: u8) -> CryptoStep {
        let key = key(k);
        let action = if deep { StepAction::DeepRecrypt { key } } else { StepAction::ShallowRecrypt { key } };
        CryptoStep { component, action }
    }

    fn step(component: Component, encrypt: Option<u8>) -> CryptoStep {
        let action = encrypt.map_or(StepAction::Decrypt, |k| StepAction::Encrypt { key: key(k) });
        CryptoStep { component, action }
    }

    fn disk(n: u16) -> Component {
        Component::Disk(DiskId(n))
    }

    fn run(config: &VmConfig, steps: &[CryptoStep]) -> Result<Planned> {
        run_with(config, steps, None)
    }

    fn run_with(config: &VmConfig, steps: &[CryptoStep], tpm: Option<TpmChange>) -> Result<Planned> {
        let mut taken: BTreeSet<_> = config.volumes().map(|volume| volume.file.to_string()).collect();
        taken.extend(config.tpm.iter().map(|tpm| tpm.state.to_string()));
        plan(config, &CryptoPlan::new(steps.to_vec()), tpm, &Names::New { taken: &taken })
    }

    #[test]
    fn refusals() {
        let (home, e, d) = (Component::Home, Some(1), None);
        for (config, steps, code) in [
            (vm(None, &[None]), vec![step(disk(0), e)], Code::Composition),
            (vm(None, &[None]), vec![step(home, e), step(disk(1), e)], Code::NotFound),
            (vm(None, &[None]), vec![step(home, e), step(home, d)], Code::RequestInvalid),
            (vm(e, &[None, e]), vec![step(disk(0), e), step(disk(1), e)], Code::AlreadyEncrypted),
            (vm(Some(2), &[None]), vec![step(home, e)], Code::AlreadyEncrypted),
            (vm(e, &[e]), vec![step(home, d)], Code::Composition),
            (vm(e, &[e, e]), vec![step(disk(0), d), step(home, d)], Code::Composition),
            (vm(e, &[None, e]), vec![step(disk(0), d), step(disk(1), d)], Code::NotEncrypted),
            (vm(e, &[None]), vec![recrypt(disk(0), false, 2)], Code::NotEncrypted),
            (vm(d, &[d]), vec![recrypt(home, false, 2)], Code::NotEncrypted),
            (vm(e, &[Some(2)]), vec![recrypt(home, false, 2), recrypt(disk(0), false, 2)], Code::KeyUnchanged),
            (vm(e, &[Some(2)]), vec![recrypt(home, true, 2), recrypt(disk(0), true, 2)], Code::KeyUnchanged),
            (vm(e, &[e]), vec![recrypt(disk(0), false, 2), step(home, d)], Code::Composition),
        ] {
            assert_eq!(run(&config, &steps).unwrap_err().code, code, "{config:?} {steps:?}");
        }
    }

    #[test]
    fn the_uefi_variables_go_with_the_home() {
        let home = Component::Home;
        let nvram = |config: &VmConfig, steps: &[CryptoStep]| {
            let Ok(Planned::Work(work)) = run(config, steps) else { panic!("{config:?} {steps:?}") };
            let converted = work.conversion_of(VolumeId::Nvram).map(|conversion| conversion.to.clone());
            let after =
                work.after(config, Some(&WrappedHomeKey("y".into())), Some(&WrappedTpmKey("u".into()))).unwrap();
            (converted.map(|to| to.file.to_string()), work.rekeyed(), after)
        };
        let plain = with_uefi(vm(None, &[None]), false);
        let (to, _, after) = nvram(&plain, &[step(home, Some(1))]);
        assert_eq!(to.as_deref(), Some("nvram.luks"));
        assert_eq!(after.firmware.nvram().unwrap().file.as_str(), "nvram.luks");
        let encrypted = with_uefi(vm(Some(1), &[Some(1)]), true);
        let (to, rekeyed, after) = nvram(&encrypted, &[recrypt(home, false, 2)]);
        assert_eq!((to, rekeyed), (None, vec![VolumeId::Nvram]));
        assert_eq!(
            after.tpm.unwrap(),
            VirtualTpm { state: "tpm".parse().unwrap(), wrapped_key: WrappedTpmKey("u".into()) }
        );
        let (to, _, after) = nvram(&encrypted, &[recrypt(home, true, 2)]);
        assert_eq!(to.as_deref(), Some("nvram-2.luks"));
        assert_eq!(after.tpm.unwrap().state.as_str(), "tpm-2", "it has a key of its own, which is replaced too");
        let bare = VmConfig { tpm: None, ..encrypted.clone() };
        let (to, ..) = nvram(&bare, &[step(disk(0), None), step(home, None)]);
        assert_eq!(to.as_deref(), Some("nvram.raw"));
        let (to, _, after) = nvram(&encrypted, &[recrypt(disk(0), true, 2)]);
        assert_eq!((to, &after.tpm), (None, &encrypted.tpm), "a disk alone");
    }

    #[test]
    fn a_vtpm_comes_and_goes_by_the_rules() {
        use TpmChange::{Add, Remove};
        let (home, none) = (Component::Home, &[][..]);
        let (encrypt, decrypt) = ([step(home, Some(1))], [step(home, None)]);
        let (plain, encrypted) = (with_uefi(vm(None, &[]), false), with_uefi(vm(Some(1), &[]), false));
        let with = with_uefi(vm(Some(1), &[]), true);
        for (config, steps, change, expected) in [
            (&plain, &encrypt[..], Add, Ok(TpmStep::Make { to: "tpm".parse().unwrap() })),
            (&encrypted, none, Add, Ok(TpmStep::Make { to: "tpm".parse().unwrap() })),
            (&with, none, Remove, Ok(TpmStep::Remove { from: "tpm".parse().unwrap() })),
            (&with, &decrypt, Remove, Ok(TpmStep::Remove { from: "tpm".parse().unwrap() })),
            (&plain, none, Add, Err(Code::Composition)),
            (&encrypted, &decrypt, Add, Err(Code::Composition)),
            (&vm(Some(1), &[]), none, Add, Err(Code::Composition)),
            (&with, &decrypt, Add, Err(Code::Exists)),
            (&encrypted, &decrypt, Remove, Err(Code::TpmNone)),
        ] {
            let planned = run_with(config, steps, Some(change)).map_err(|fault| fault.code);
            let step = planned.map(|planned| match planned {
                Planned::Work(work) => work.tpm,
                Planned::AlreadyDone => panic!("{config:?} {steps:?}"),
            });
            assert_eq!(step, expected, "{config:?} {steps:?} {change:?}");
        }
        assert_eq!(run_with(&with, none, Some(Add)), Ok(Planned::AlreadyDone));
        assert_eq!(run_with(&encrypted, none, Some(Remove)), Ok(Planned::AlreadyDone));
        assert_eq!(run(&with, &decrypt).unwrap_err().code, Code::Composition, "a vTPM keeps the home encrypted");
    }

    #[test]
    fn what_holds_already_is_done() {
        let all = [step(Component::Home, Some(1)), step(disk(0), Some(1))];
        assert_eq!(run(&vm(Some(1), &[Some(1)]), &all), Ok(Planned::AlreadyDone));
        let none = [step(Component::Home, None), step(disk(0), None)];
        assert_eq!(run(&vm(None, &[None]), &none), Ok(Planned::AlreadyDone));
        assert_eq!(run(&vm(None, &[]), &[]), Ok(Planned::AlreadyDone));
    }

    #[test]
    fn names_are_new_or_those_noted() {
        let config = vm(None, &[None]);
        let plan_of = |names: &Names<'_>| {
            let steps = CryptoPlan::new(vec![step(Component::Home, Some(1)), step(disk(0), Some(1))]);
            match plan(&config, &steps, None, names).unwrap() {
                Planned::Work(work) => work,
                Planned::AlreadyDone => panic!("nothing to do"),
            }
        };
        for (taken, expected) in [
            (vec![], "disk-0.luks"),
            (vec!["disk-0.luks"], "disk-0-2.luks"),
            (vec!["disk-0.luks.part"], "disk-0-2.luks"),
            (vec!["disk-0.luks", "disk-0-2.luks"], "disk-0-3.luks"),
        ] {
            let taken = taken.into_iter().map(str::to_owned).collect();
            let work = plan_of(&Names::New { taken: &taken });
            assert_eq!(work.conversions[0].to.file.as_str(), expected);
            assert_eq!(plan_of(&Names::Noted { files: &work.files(), tpm: None }), work);
        }
        let mut forged = plan_of(&Names::New { taken: &BTreeSet::new() }).files();
        forged[0].to = forged[0].from.clone();
        let steps = CryptoPlan::new(vec![step(Component::Home, Some(1)), step(disk(0), Some(1))]);
        let forged = Names::Noted { files: &forged, tpm: None };
        assert_eq!(plan(&config, &steps, None, &forged).unwrap_err().code, Code::HomeInvalid);
    }

    fn action() -> impl Strategy<Value = StepAction> {
        let key = (1u8..3).prop_map(key);
        prop_oneof![
            key.clone().prop_map(|key| StepAction::Encrypt { key }),
            key.clone().prop_map(|key| StepAction::ShallowRecrypt { key }),
            key.prop_map(|key| StepAction::DeepRecrypt { key }),
            Just(StepAction::Decrypt),
        ]
    }

    fn crypto() -> impl Strategy<Value = Option<u8>> {
        prop::option::of(1u8..3)
    }

    proptest! {
        /// Whatever is accepted leads to what was asked, touches nothing else, asks for every key that it takes, and
        /// holds when it is asked again.
        #[test]
        fn what_is_planned_is_what_was_asked(
            home in crypto(), disks in prop::collection::vec(crypto(), 0..4),
            ask_home in prop::option::of(action()), ask in prop::collection::vec(prop::option::of(action()), 0..4),
            uefi: bool, tpm: bool,
        ) {
            prop_assume!(home.is_some() || disks.iter().all(Option::is_none));
            let before = vm(home, &disks);
            let before = if uefi { with_uefi(before, tpm && home.is_some()) } else { before };
            let step = |component, action: &StepAction| CryptoStep { component, action: action.clone() };
            let mut steps: Vec<_> = ask_home.iter().map(|ask| step(Component::Home, ask)).collect();
            for (n, ask) in ask.iter().enumerate().take(disks.len()) {
                steps.extend(ask.iter().map(|ask| step(disk(u16::try_from(n).unwrap()), ask)));
            }
            let Ok(Planned::Work(work)) = run(&before, &steps) else { return Ok(()) };
            let after = work.after(&before, Some(&WrappedHomeKey("y".into())), Some(&WrappedTpmKey("u".into()))).unwrap();
            prop_assert_eq!(run(&after, &steps), Ok(Planned::AlreadyDone));
            prop_assert!(after.home != HomeCrypto::Plain || !after.is_encrypted() && after.tpm.is_none());
            prop_assert_eq!(before.tpm.is_some(), after.tpm.is_some());
            // What was encrypted under the home's key is so no longer where the home isn't.
            let moved = before.firmware.nvram() != after.firmware.nvram();
            prop_assert_eq!(moved, uefi && ask_home.as_ref().is_some_and(|action| !action.is_online()));
            prop_assert_eq!(before.tpm != after.tpm, before.tpm.is_some() && ask_home.is_some());
            let needed: Vec<_> = work.old_keys().chain(work.new_keys()).collect();
            for (old, new) in before.disks.iter().zip(&after.disks) {
                let asked = steps.iter().find(|step| step.component == Component::Disk(old.id));
                prop_assert_eq!(asked.is_some(), old != new);
                if let Some(CryptoStep { action, .. }) = asked {
                    prop_assert_eq!(action.is_online(), old.file == new.file);
                    prop_assert_eq!(action.key(), new.key());
                    prop_assert!(old.key().into_iter().chain(new.key()).all(|key| needed.contains(&key)));
                    prop_assert_eq!((old.size, old.plain_format), (new.size, new.plain_format));
                }
            }
            let names: BTreeSet<_> = after.disks.iter().map(|disk| &disk.file).collect();
            prop_assert_eq!(names.len(), after.disks.len());
        }
    }
}
