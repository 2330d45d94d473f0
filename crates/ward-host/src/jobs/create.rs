//! What is in a new VM's home: worked out and checked before anything is made.

use std::path::PathBuf;

use ward_rpc::api::host::{CreateVm, DiskSource, HomeRef};
use ward_secret::HomeKey;
use ward_types::{Boot, DiskConfig, DiskCrypto, DiskId, HomeCrypto, KeyRef, TaskId, VmConfig};

use super::Environment;
use super::make::{self, Content, Form, Part, Prepared, Source};
use crate::fault::{Fault, Result};
use crate::home::codec;
use crate::keys::ResolvedKeks;
use crate::volume::Label;

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
        keys = environment.keys.lock().resolve_all(std::iter::once(&new.home).chain(new.disks.iter().flatten()))?;
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
    };
    let mut parts = Vec::new();
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

/// A disk that a VM gets, and how it comes to be.
fn new_disk(vm: ward_types::VmId, id: DiskId, source: DiskSource, key: Option<KeyRef>) -> Result<(DiskConfig, Part)> {
    let (size, plain_format, source) = match source {
        DiskSource::Blank { size, format } => (size, format, None),
        DiskSource::Copy { path } => {
            let (source, format, size) = Source::open_image(path)?;
            (size, format, Some(source))
        }
    };
    let name = match &key {
        None => format!("{id}.{plain_format}"),
        Some(_) => format!("{id}.luks"),
    };
    let file = name.parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))?;
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
    Ok((DiskConfig { id, file, size, plain_format, crypto }, part))
}
