//! What is in a new VM's home: worked out and checked before anything is made.

use std::path::PathBuf;

use ward_rpc::api::host::{CreateVm, DiskSource, HomeRef, NewFirmware};
use ward_secret::{HomeKey, TpmKey};
use ward_types::{
    Boot, Code, DiskConfig, DiskCrypto, DiskId, FileName, Firmware, HomeCrypto, KeyRef, Nvram, PlainFormat, TaskId,
    VirtualTpm, VmConfig, VmId, VolumeId,
};

use super::Environment;
use super::fill::{Form, Part, Source};
use super::make::{self, Content, Prepared};
use crate::fault::{Fault, Result};
use crate::firmware;
use crate::home::codec;
use crate::keys::ResolvedKeks;
use crate::volume::Label;
use crate::vtpm;

/// The KEKs of a VM that is encrypted from its beginning.
pub(crate) struct NewKeys {
    pub(crate) home: KeyRef,
    /// One place for each disk.
    pub(crate) disks: Vec<Option<KeyRef>>,
}

/// Checks everything, and takes the place where the home will be.
pub(crate) fn prepare(
    environment: &Environment,
    job: TaskId,
    at: &HomeRef,
    vm: CreateVm,
    new: Option<NewKeys>,
) -> Result<Prepared> {
    if let Some(made) = make::made_already(at, vm.id)? {
        return Ok(made);
    }
    let (mut keys, mut home, mut home_key, mut disk_keys) =
        (ResolvedKeks::default(), HomeCrypto::Plain, None, Vec::new());
    if let Some(new) = new {
        if new.disks.len() != vm.disks.len() {
            return Err(Fault::invalid("there are not as many keys as disks"));
        }
        keys = environment.resolve([], std::iter::once(&new.home).chain(new.disks.iter().flatten()))?;
        let key = HomeKey::generate()?;
        home = HomeCrypto::Encrypted { wrapped_key: codec::wrap(&key, keys.get(&new.home)?)?, key: new.home };
        home_key = Some(key);
        disk_keys = new.disks;
    }
    let mut config = VmConfig {
        version: VmConfig::VERSION,
        id: vm.id,
        name: vm.name,
        cpus: vm.cpus,
        memory_mib: vm.memory_mib,
        boot: Boot::Disk,
        home,
        disks: Vec::new(),
        firmware: Firmware::Bios,
        tpm: None,
    };
    let mut parts = Vec::new();
    if let NewFirmware::Uefi { secure_boot, vars } = vm.firmware {
        let (firmware, part) = new_variables(config.id, config.home.key(), secure_boot, vars)?;
        config.firmware = firmware;
        parts.push(part);
    }
    if vm.tpm {
        let (tpm, part) = new_tpm(config.home.key(), &keys)?;
        config.tpm = Some(tpm);
        parts.push(part);
    }
    if let Some(kernel) = vm.kernel {
        let mut take = |path: PathBuf, name: &str| -> Result<_> {
            parts.push(Part::Copy { source: Source::open_file(path)?, name: name.to_owned() });
            name.parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))
        };
        config.boot = Boot::Kernel {
            kernel: take(kernel.kernel, "kernel")?,
            initrd: kernel.initrd.map(|initrd| take(initrd, "initrd")).transpose()?,
            command_line: kernel.command_line,
        };
    }
    for (number, source) in (0..).zip(vm.disks) {
        let key = disk_keys.get(usize::from(number)).cloned().flatten();
        let (disk, part) = new_disk(config.id, DiskId(number), source, key)?;
        config.disks.push(disk);
        parts.push(part);
    }
    make::prepare(environment, job, at, Content { config, home_key, parts, keys, _source: None })
}

/// The UEFI variables that a VM gets.
fn new_variables(vm: VmId, key: Option<&KeyRef>, secure_boot: bool, vars: Option<PathBuf>) -> Result<(Firmware, Part)> {
    firmware::code(secure_boot)?;
    let path = vars.map_or_else(|| firmware::vars(secure_boot), Ok)?;
    let source = Source::open_file(path.clone())?;
    let size = source.size();
    if size == 0 || size % 4096 != 0 || size > codec::MAX_NVRAM {
        let why = format!("{} has {size} bytes, which is no size of UEFI variables", path.display());
        return Err(Fault::new(Code::ImageInvalid, why, "name a copy of one of OVMF's own files of variables"));
    }
    let (name, form) = match key {
        None => ("nvram.raw", Form::Plain(PlainFormat::Raw)),
        Some(key) => ("nvram.luks", Form::Luks(Label::new(key.clone(), vm, VolumeId::Nvram))),
    };
    let nvram = Nvram { file: file_name(name)?, size };
    Ok((Firmware::Uefi { secure_boot, nvram }, Part::Variables { source, name: name.into(), form }))
}

/// The vTPM that a VM gets.
fn new_tpm(kek: Option<&KeyRef>, keys: &ResolvedKeks) -> Result<(VirtualTpm, Part)> {
    let Some(kek) = kek else {
        let why = "a vTPM would be in a VM home that is not encrypted";
        return Err(Fault::new(Code::Composition, why, "encrypt the VM home too"));
    };
    vtpm::check_installed()?;
    let key = TpmKey::generate()?;
    let name = file_name("tpm")?;
    let tpm =
        VirtualTpm { state: name.clone(), wrapped_key: codec::wrap_tpm(&key, keys.get(kek)?)?, endorsement: None };
    Ok((tpm, Part::Tpm { name, key, from: None }))
}

fn file_name(name: &str) -> Result<FileName> {
    name.parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))
}

/// A disk that a VM gets, and how it comes to be.
fn new_disk(vm: VmId, id: DiskId, source: DiskSource, key: Option<KeyRef>) -> Result<(DiskConfig, Part)> {
    let (size, plain_format, source) = match source {
        DiskSource::Blank { size, format } => (size, format, None),
        DiskSource::Copy { path } => {
            let (source, format, size) = Source::open_image(path, None)?;
            (size, format, Some(source))
        }
    };
    let name = match &key {
        None => format!("{id}.{plain_format}"),
        Some(_) => format!("{id}.luks"),
    };
    let file = file_name(&name)?;
    let form = |key: &Option<KeyRef>| match key {
        None => Form::Plain(plain_format),
        Some(key) => Form::Luks(Label::new(key.clone(), vm, id)),
    };
    let part = match (source, &key) {
        (None, key) => Part::Blank { name, size, form: form(key) },
        (Some(source), None) => Part::Copy { source, name },
        (Some(source), Some(_)) => {
            let (from, to) = (Form::Plain(plain_format), form(&key));
            Part::Convert { source: source.into_path(), from, name, to, size }
        }
    };
    let crypto = key.map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key });
    Ok((DiskConfig { id, file, size, plain_format, crypto, attached: true }, part))
}
