//! What encrypting and decrypting comes to, worked out without touching a file.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use ward_types::{
    Code, Component, CryptoPlan, CryptoStep, DiskConfig, DiskCrypto, DiskId, FileName, HomeCrypto, KeyRef, PlainFormat,
    StepAction, VmConfig, WrappedHomeKey,
};

use crate::fault::{Fault, Result};

/// How a disk lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain(PlainFormat),
    Luks(KeyRef),
}

/// A disk in one of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) file: FileName,
    pub(crate) form: Form,
}

/// One disk's way from one file to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conversion {
    pub(crate) disk: DiskId,
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

/// A disk whose KEK is replaced in its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rekeying {
    pub(crate) disk: DiskId,
    pub(crate) file: FileName,
    pub(crate) size: u64,
    pub(crate) from: KeyRef,
    pub(crate) to: KeyRef,
}

/// All that is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) home: HomeStep,
    pub(crate) conversions: Vec<Conversion>,
    pub(crate) rekeyings: Vec<Rekeying>,
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
    pub(crate) disk: DiskId,
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
    Noted(&'a [Files]),
}

/// Works out what a plan comes to for a VM as it is.
///
/// A plan that was carried out before comes to nothing; one of which only a part holds already is refused, since jobs
/// are done whole or not at all, so it can't be this one that did it.
pub(crate) fn plan(config: &VmConfig, plan: &CryptoPlan, names: &Names<'_>) -> Result<Planned> {
    let mut seen = BTreeSet::new();
    let mut holds = Vec::new();
    for step in plan.steps() {
        if !seen.insert(step.component) {
            return Err(Fault::invalid(format!("the plan names {} twice", step.component)));
        }
        holds.push(step_holds(config, step)?);
    }
    if holds.iter().all(|holds| *holds) {
        return Ok(Planned::AlreadyDone);
    }
    let mut work = Work { home: HomeStep::Keep, conversions: Vec::new(), rekeyings: Vec::new() };
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
                refuse_same_or_plain(home_key(config), key, step.component)?;
                work.home = HomeStep::Rewrap(key.clone());
            }
            (Component::Home, StepAction::DeepRecrypt { key }) => {
                refuse_same_or_plain(home_key(config), key, step.component)?;
                work.home = HomeStep::Recrypt(key.clone());
            }
            (Component::Disk(id), StepAction::ShallowRecrypt { key }) => {
                let disk = find(config, id)?;
                let from = refuse_same_or_plain(disk.key(), key, step.component)?.clone();
                let (file, size) = (disk.file.clone(), disk.size);
                work.rekeyings.push(Rekeying { disk: id, file, size, from, to: key.clone() });
            }
            (Component::Disk(id), action) => {
                work.conversions.push(conversion(find(config, id)?, action, names)?);
            }
        }
    }
    let disk_is_encrypted_after = config.disks.iter().any(|disk| match work.conversion_of(disk.id) {
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
    Ok(Planned::Work(work))
}

fn conversion(disk: &DiskConfig, action: &StepAction, names: &Names<'_>) -> Result<Conversion> {
    let from = match &disk.crypto {
        DiskCrypto::Plain => Form::Plain(disk.plain_format),
        DiskCrypto::Encrypted { key } => Form::Luks(key.clone()),
    };
    let (to, extension) = match action {
        StepAction::Encrypt { key } => {
            refuse_encrypted(disk.key().is_some(), Component::Disk(disk.id))?;
            (Form::Luks(key.clone()), "luks".to_owned())
        }
        StepAction::Decrypt => {
            refuse_plain(disk.key().is_none(), Component::Disk(disk.id))?;
            (Form::Plain(disk.plain_format), disk.plain_format.to_string())
        }
        StepAction::DeepRecrypt { key } | StepAction::ShallowRecrypt { key } => {
            refuse_same_or_plain(disk.key(), key, Component::Disk(disk.id))?;
            (Form::Luks(key.clone()), "luks".to_owned())
        }
    };
    let from = Image { file: disk.file.clone(), form: from };
    let to = Image { file: names.choose(disk, &extension)?, form: to };
    Ok(Conversion { disk: disk.id, size: disk.size, from, to })
}

impl Names<'_> {
    fn choose(&self, disk: &DiskConfig, extension: &str) -> Result<FileName> {
        match self {
            Self::New { taken } => fresh_name(taken, disk.id, extension),
            Self::Noted(files) => files
                .iter()
                .find(|files| files.disk == disk.id && files.from == disk.file && files.to != disk.file)
                .map(|files| files.to.clone())
                .ok_or_else(|| Fault::home_invalid(format!("the record of the job says nothing sound of {}", disk.id))),
        }
    }
}

/// `disk-0.luks`, or with a number where something has that name, or would have it with one of Ward's endings.
fn fresh_name(taken: &BTreeSet<String>, disk: DiskId, extension: &str) -> Result<FileName> {
    let is_free = |name: &String| !taken.iter().any(|taken| taken.starts_with(name.as_str()));
    let plain = std::iter::once(format!("{disk}.{extension}"));
    let name = plain.chain((2..).map(|n| format!("{disk}-{n}.{extension}"))).find(is_free);
    name.unwrap_or_default().parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))
}

/// Whether a component is already as the step wants it.
fn step_holds(config: &VmConfig, step: &CryptoStep) -> Result<bool> {
    let key = match step.component {
        Component::Home => home_key(config),
        Component::Disk(id) => find(config, id)?.key(),
    };
    Ok(key == step.action.key())
}

/// The KEK of the home, if it is encrypted.
pub(crate) const fn home_key(config: &VmConfig) -> Option<&KeyRef> {
    match &config.home {
        HomeCrypto::Plain => None,
        HomeCrypto::Encrypted { key, .. } => Some(key),
    }
}

fn find(config: &VmConfig, id: DiskId) -> Result<&DiskConfig> {
    config
        .disk(id)
        .ok_or_else(|| Fault::new(Code::NotFound, format!("the VM has no {id}"), "`ward vm show` lists its disks"))
}

fn refuse_encrypted(is: bool, component: Component) -> Result<()> {
    if is {
        let why = format!("{component} is encrypted already");
        return Err(Fault::new(Code::AlreadyEncrypted, why, "leave it out, or decrypt it first"));
    }
    Ok(())
}

fn refuse_plain(is: bool, component: Component) -> Result<()> {
    if is {
        return Err(Fault::new(Code::NotEncrypted, format!("{component} is not encrypted"), "leave it out"));
    }
    Ok(())
}

/// The key that there is, where it can be replaced by that one.
fn refuse_same_or_plain<'a>(now: Option<&'a KeyRef>, new: &KeyRef, component: Component) -> Result<&'a KeyRef> {
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
    fn conversion_of(&self, disk: DiskId) -> Option<&Conversion> {
        self.conversions.iter().find(|conversion| conversion.disk == disk)
    }

    /// The files, as a job notes them.
    pub(crate) fn files(&self) -> Vec<Files> {
        let files = |conversion: &Conversion| Files {
            disk: conversion.disk,
            from: conversion.from.file.clone(),
            to: conversion.to.file.clone(),
        };
        self.conversions.iter().map(files).collect()
    }

    /// The disks whose KEK is replaced, as a job notes them.
    pub(crate) fn rekeyed(&self) -> Vec<DiskId> {
        self.rekeyings.iter().map(|rekeying| rekeying.disk).collect()
    }

    /// The VM when all is done. `wrapped_key` is needed where the home is encrypted under another KEK then.
    pub(crate) fn after(&self, before: &VmConfig, wrapped_key: Option<&WrappedHomeKey>) -> Result<VmConfig> {
        let mut after = before.clone();
        match &self.home {
            HomeStep::Keep => {}
            HomeStep::Decrypt => after.home = HomeCrypto::Plain,
            HomeStep::Encrypt(key) | HomeStep::Rewrap(key) | HomeStep::Recrypt(key) => {
                let wrapped_key = wrapped_key.ok_or_else(|| Fault::internal("there is no home key"))?.clone();
                after.home = HomeCrypto::Encrypted { key: key.clone(), wrapped_key };
            }
        }
        for disk in &mut after.disks {
            if let Some(conversion) = self.conversion_of(disk.id) {
                disk.file = conversion.to.file.clone();
                disk.crypto = match &conversion.to.form {
                    Form::Plain(_) => DiskCrypto::Plain,
                    Form::Luks(key) => DiskCrypto::Encrypted { key: key.clone() },
                };
            }
            if let Some(rekeying) = self.rekeyings.iter().find(|rekeying| rekeying.disk == disk.id) {
                disk.crypto = DiskCrypto::Encrypted { key: rekeying.to.clone() };
            }
        }
        Ok(after)
    }

    /// The keys that it takes, those of what is encrypted now (besides the home) and those of what will be.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &KeyRef> {
        let home = match &self.home {
            HomeStep::Encrypt(key) | HomeStep::Rewrap(key) | HomeStep::Recrypt(key) => Some(key),
            HomeStep::Keep | HomeStep::Decrypt => None,
        };
        let rekeyings = self.rekeyings.iter().flat_map(|rekeying| [&rekeying.from, &rekeying.to]);
        let disks = self.conversions.iter().flat_map(|conversion| [&conversion.from.form, &conversion.to.form]);
        home.into_iter().chain(rekeyings).chain(disks.filter_map(|form| match form {
            Form::Plain(_) => None,
            Form::Luks(key) => Some(key),
        }))
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
    use ward_types::{Boot, KeyId, VmId};

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
            DiskConfig { id, file, size: 1 << 20, plain_format: PlainFormat::Qcow2, crypto }
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
        }
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
        let taken = config.disks.iter().map(|disk| disk.file.to_string()).collect();
        plan(config, &CryptoPlan::new(steps.to_vec()), &Names::New { taken: &taken })
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
            match plan(&config, &steps, names).unwrap() {
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
            assert_eq!(plan_of(&Names::Noted(&work.files())), work);
        }
        let mut forged = plan_of(&Names::New { taken: &BTreeSet::new() }).files();
        forged[0].to = forged[0].from.clone();
        let steps = CryptoPlan::new(vec![step(Component::Home, Some(1)), step(disk(0), Some(1))]);
        assert_eq!(plan(&config, &steps, &Names::Noted(&forged)).unwrap_err().code, Code::HomeInvalid);
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
        ) {
            prop_assume!(home.is_some() || disks.iter().all(Option::is_none));
            let before = vm(home, &disks);
            let step = |component, action: &StepAction| CryptoStep { component, action: action.clone() };
            let mut steps: Vec<_> = ask_home.iter().map(|ask| step(Component::Home, ask)).collect();
            for (n, ask) in ask.iter().enumerate().take(disks.len()) {
                steps.extend(ask.iter().map(|ask| step(disk(u16::try_from(n).unwrap()), ask)));
            }
            let Ok(Planned::Work(work)) = run(&before, &steps) else { return Ok(()) };
            let after = work.after(&before, Some(&WrappedHomeKey("y".into()))).unwrap();
            prop_assert_eq!(run(&after, &steps), Ok(Planned::AlreadyDone));
            prop_assert!(after.home != HomeCrypto::Plain || !after.is_encrypted());
            let needed: Vec<_> = work.keys().collect();
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
