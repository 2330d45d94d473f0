//! Everything that is checked before a VM is started. When this is through, only the processes can fail.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use ward_disk::image::{self, ImageKind};
use ward_disk::{ExportDisk, ExportOrder, ImageFormat, NbdDisk, lock};
use ward_rpc::api::host::{Notice, StartVm};
use ward_secret::{Dek, TpmKey};
use ward_types::{
    Boot, Code, DiskConfig, DiskId, FileName, Firmware, HostId, PlainFormat, VmConfig, VolumeId, VolumeRef,
};

use super::command_line::{INITRD, KERNEL, NVRAM_SOCKET, Way, disk_socket, queues};
use super::run_dir::{Loan, Note, RunDir};
use crate::fault::{Doing, Fault, Result};
use crate::firmware;
use crate::home::{Holder, Home, HomeLock, Use, VM_TOML, codec};
use crate::isolate::Isolated;
use crate::jobs::settle_left;
use crate::keys::{ResolvedKeks, SharedKeys};
use crate::volume::{Label, Volume};
use crate::vtpm;

/// A VM that can be started.
pub(crate) struct Prepared {
    /// What the next agent must know so far.
    pub(crate) note: Note,
    pub(crate) config: VmConfig,
    /// Goes to QEMU, which holds it as long as the VM runs.
    pub(crate) lock: HomeLock,
    pub(crate) ways: Vec<(DiskId, Way)>,
    /// Plain qcow2 images, open, in the order of the disks.
    pub(crate) images: Vec<File>,
    /// What the disk process is to serve, and its keys.
    pub(crate) order: ExportOrder,
    pub(crate) deks: Vec<Dek>,
    pub(crate) notices: Vec<Notice>,
    /// The firmware that the VM begins with, where it has variables.
    pub(crate) firmware: Option<PathBuf>,
    /// The vTPM's state, and its key.
    pub(crate) tpm: Option<(PathBuf, TpmKey)>,
}

/// Locks the home, believes its description, and opens its disks.
pub(crate) fn prepare(
    host: HostId,
    keys: &SharedKeys,
    isolated: &Isolated,
    run_dir: &RunDir,
    call: &StartVm,
) -> Result<Prepared> {
    let vm = call.vm;
    let home = Home::open(&call.home)?;
    let lock = home.lock(&Holder { host, r#use: Use::Vm(vm) })?;
    // Of a job that failed while no host answered: with the lock taken, it is certain that none works here.
    settle_left(&home)?;
    let described = home.read()?;
    let config = described.unverified();
    if config.id != vm {
        return Err(Fault::home_invalid(format!("{} is the home of VM {}", home.path().display(), config.id)));
    }
    let is_other = call.expected.as_deref().is_some_and(|expected| expected != config);
    let keys = match resolve(keys, config) {
        // An older description may name keys that nobody has any more. What is wrong with a key says more than that.
        Err(fault) if is_other && fault.code != Code::KeyTampered => return Err(other_than_known(&home)),
        Ok(_) if is_other => return Err(other_than_known(&home)),
        keys => keys?,
    };
    let verified = described.verify(|key| keys.get(key))?;
    let config = verified.config();
    home.check_files_to_run(config)?;
    for volume in config.volumes_to_run() {
        lock::check_unused(&home.file(volume.file.as_str()))?;
    }
    let mut opening = Opening {
        home: &home,
        config,
        keys: &keys,
        order: ExportOrder::default(),
        deks: Vec::new(),
        images: Vec::new(),
        damaged: Vec::new(),
    };
    let ways = config.attached().map(|disk| Ok((disk.id, opening.open(disk)?))).collect::<Result<_>>()?;
    let firmware = match (&config.firmware, config.volume(VolumeId::Nvram)) {
        (Firmware::Uefi { secure_boot, .. }, Some(nvram)) => {
            opening.open_nvram(nvram)?;
            Some(firmware::code(*secure_boot)?)
        }
        _ => None,
    };
    let mut note = Note::new(vm, call.home.clone());
    let tpm = match (&config.tpm, config.home.key()) {
        (Some(tpm), Some(kek)) => {
            let (path, key) = (home.file(tpm.state.as_str()), codec::unwrap_tpm(&tpm.wrapped_key, keys.get(kek)?)?);
            // Before it is: whoever finds the note takes back as much of it as was given.
            note.lent = isolated.user().map(|user| Loan { path: path.clone(), user: user.id() });
            run_dir.save(&note)?;
            vtpm::check(isolated, &path, &key)?;
            let state = path;
            Some((state, key))
        }
        _ => None,
    };
    let Opening { order, deks, images, damaged, .. } = opening;
    let mut notices = Vec::new();
    for volume in damaged {
        if let Some(key) = volume.key {
            let path = home.file(volume.file.as_str());
            notices.extend(Volume::open(home.open_file(volume.file, true)?, &path, key)?.repair(key)?);
        }
    }
    if let Boot::Kernel { kernel, initrd, .. } = &config.boot {
        bring(&home, kernel, run_dir, KERNEL)?;
        if let Some(initrd) = initrd {
            bring(&home, initrd, run_dir, INITRD)?;
        }
    }
    let config = config.clone();
    Ok(Prepared { note, config, lock, ways, images, order, deks, notices, firmware, tpm })
}

fn other_than_known(home: &Home) -> Fault {
    let why = format!("{} is not what the controller knows of the VM", home.file(VM_TOML).display());
    let remedy = "find out who changed it, or put an older one in its place; if it was restored on purpose, run `ward vm reload`";
    Fault::new(Code::HomeTampered, why, remedy)
}

/// Puts a file of the home where QEMU finds it.
fn bring(home: &Home, file: &FileName, run_dir: &RunDir, name: &str) -> Result<()> {
    let to = run_dir.file(name);
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&to).doing("create", &to)?;
    std::io::copy(&mut home.open_file(file, false)?, &mut copy).map(drop).doing("copy what the VM boots to", &to)
}

/// The keys that the VM needs to run. Where it is a disk's that is missing, the disk is named: without it the VM might run.
fn resolve(keys: &SharedKeys, config: &VmConfig) -> Result<ResolvedKeks> {
    let cache = keys.lock();
    let fault = match cache.resolve_all(config.keys_to_run()) {
        Ok(keys) => return Ok(keys),
        Err(fault) => fault,
    };
    cache.resolve_all(config.home.key())?;
    for disk in config.attached() {
        if let Err(fault) = cache.resolve_all(disk.key()) {
            let why = format!("{} ({}) is encrypted and its key can't be used: {}", disk.id, disk.file, fault.why);
            return Err(Fault { why, ..fault });
        }
    }
    Err(fault)
}

struct Opening<'a> {
    home: &'a Home,
    config: &'a VmConfig,
    keys: &'a ResolvedKeks,
    order: ExportOrder,
    deks: Vec<Dek>,
    images: Vec<File>,
    /// Volumes whose header wants repair; that comes when nothing more can be refused.
    damaged: Vec<VolumeRef<'a>>,
}

impl<'a> Opening<'a> {
    fn open(&mut self, disk: &'a DiskConfig) -> Result<Way> {
        let (format, dek) = self.image(disk.into())?;
        if format == ImageFormat::Qcow2 {
            self.images.push(self.home.open_file(&disk.file, true)?);
            return Ok(Way::Qcow2);
        }
        self.order.disks.push(ExportDisk {
            path: self.home.file(disk.file.as_str()),
            format,
            size: disk.size,
            socket: disk_socket(disk.id).into(),
            serial: disk.id.to_string(),
            read_only: false,
            num_queues: queues(self.config),
            dek,
        });
        Ok(Way::Served)
    }

    fn open_nvram(&mut self, nvram: VolumeRef<'a>) -> Result<()> {
        let (format, dek) = self.image(nvram)?;
        self.order.nbd.push(NbdDisk {
            path: self.home.file(nvram.file.as_str()),
            format,
            size: nvram.size,
            socket: NVRAM_SOCKET.into(),
            read_only: false,
            dek,
        });
        Ok(())
    }

    /// How a volume lies in its file, and the place of its key.
    fn image(&mut self, it: VolumeRef<'a>) -> Result<(ImageFormat, Option<usize>)> {
        let path = self.home.file(it.file.as_str());
        if let Some(key) = it.key {
            let volume = Volume::open(self.home.open_file(it.file, false)?, &path, key)?;
            let unlocked = volume.unlock(self.keys.get(key)?, it.size)?;
            volume.check_label(&Label::new(key.clone(), self.config.id, it.id))?;
            if volume.wants_repair() {
                self.damaged.push(it);
            }
            self.deks.push(unlocked.dek);
            return Ok((unlocked.format, Some(self.deks.len() - 1)));
        }
        let (kind, format) = match it.plain_format {
            PlainFormat::Raw => (ImageKind::Raw, ImageFormat::Raw),
            PlainFormat::Qcow2 => (ImageKind::Qcow2, ImageFormat::Qcow2),
        };
        let info = image::probe_as(&path, kind)?;
        info.check_plain(&path)?;
        if info.virtual_size < it.size {
            let why = format!("{} holds {} bytes, and should {}", path.display(), info.virtual_size, it.size);
            return Err(Fault::new(Code::ImageTruncated, why, "restore the disk from a backup"));
        }
        Ok((format, None))
    }
}
