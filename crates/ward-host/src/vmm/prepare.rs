//! Everything that is checked before a VM is started. When this is through, only the processes can fail.

use ward_disk::image::{self, ImageKind};
use ward_disk::{ExportDisk, ExportOrder, ImageFormat, lock};
use ward_rpc::api::host::{HomeRef, Notice};
use ward_secret::Dek;
use ward_types::{Code, DiskConfig, DiskCrypto, DiskId, HostId, PlainFormat, VmConfig, VmId};

use super::command_line::{Way, disk_socket, queues};
use super::run_dir::RunDir;
use crate::fault::{Fault, Result};
use crate::home::{Holder, Home, HomeLock, Use};
use crate::jobs::settle_left;
use crate::keys::{ResolvedKeks, SharedKeys};
use crate::volume::{Label, Volume};

/// A VM that can be started.
pub(crate) struct Prepared {
    pub(crate) config: VmConfig,
    pub(crate) home: Home,
    /// Goes to QEMU, which holds it as long as the VM runs.
    pub(crate) lock: HomeLock,
    pub(crate) ways: Vec<(DiskId, Way)>,
    /// What the disk process is to serve, and its keys.
    pub(crate) order: ExportOrder,
    pub(crate) deks: Vec<Dek>,
    pub(crate) notices: Vec<Notice>,
}

/// Locks the home, believes its description, and opens its disks.
pub(crate) fn prepare(host: HostId, keys: &SharedKeys, run_dir: &RunDir, vm: VmId, at: &HomeRef) -> Result<Prepared> {
    let home = Home::open(at)?;
    let lock = home.lock(&Holder { host, r#use: Use::Vm(vm) })?;
    // Of a job that failed while no host answered: with the lock taken, it is certain that none works here.
    settle_left(&home)?;
    let described = home.read()?;
    let config = described.unverified();
    if config.id != vm {
        return Err(Fault::home_invalid(format!("{} is the home of VM {}", home.path().display(), config.id)));
    }
    let keys = keys.lock().resolve_all(config.keys())?;
    let verified = described.verify(|key| keys.get(key))?;
    let config = verified.config();
    home.check_files(config)?;
    for disk in &config.disks {
        lock::check_unused(&home.file(disk.file.as_str()))?;
    }
    let mut opening =
        Opening { home: &home, config, run_dir, keys: &keys, disks: Vec::new(), deks: Vec::new(), damaged: Vec::new() };
    let ways = config.disks.iter().map(|disk| Ok((disk.id, opening.open(disk)?))).collect::<Result<_>>()?;
    let Opening { disks, deks, damaged, .. } = opening;
    let mut notices = Vec::new();
    for disk in damaged {
        if let DiskCrypto::Encrypted { key } = &disk.crypto {
            let path = home.file(disk.file.as_str());
            notices.extend(Volume::open(home.open_file(&disk.file, true)?, &path, key)?.repair(key)?);
        }
    }
    let config = config.clone();
    Ok(Prepared { config, home, lock, ways, order: ExportOrder { disks }, deks, notices })
}

struct Opening<'a> {
    home: &'a Home,
    config: &'a VmConfig,
    run_dir: &'a RunDir,
    keys: &'a ResolvedKeks,
    disks: Vec<ExportDisk>,
    deks: Vec<Dek>,
    /// Disks whose header wants repair; that comes when nothing more can be refused.
    damaged: Vec<&'a DiskConfig>,
}

impl<'a> Opening<'a> {
    fn open(&mut self, disk: &'a DiskConfig) -> Result<Way> {
        let path = self.home.file(disk.file.as_str());
        let (format, dek) = match &disk.crypto {
            DiskCrypto::Encrypted { key } => {
                let volume = Volume::open(self.home.open_file(&disk.file, false)?, &path, key)?;
                let unlocked = volume.unlock(self.keys.get(key)?, disk.size)?;
                volume.check_label(&Label::new(key.clone(), self.config.id, disk.id))?;
                if volume.wants_repair() {
                    self.damaged.push(disk);
                }
                (unlocked.format, Some(unlocked.dek))
            }
            DiskCrypto::Plain => {
                let kind = match disk.plain_format {
                    PlainFormat::Raw => ImageKind::Raw,
                    PlainFormat::Qcow2 => ImageKind::Qcow2,
                };
                let info = image::probe_as(&path, kind)?;
                info.check_plain(&path)?;
                if info.virtual_size < disk.size {
                    let why = format!("{} holds {} bytes, and should {}", path.display(), info.virtual_size, disk.size);
                    return Err(Fault::new(Code::ImageTruncated, why, "restore the disk from a backup"));
                }
                if disk.plain_format == PlainFormat::Qcow2 {
                    return Ok(Way::Qcow2);
                }
                (ImageFormat::Raw, None)
            }
        };
        let dek = dek.map(|dek| {
            self.deks.push(dek);
            self.deks.len() - 1
        });
        self.disks.push(ExportDisk {
            path,
            format,
            size: disk.size,
            socket: self.run_dir.file(&disk_socket(disk.id)),
            serial: disk.id.to_string(),
            read_only: false,
            num_queues: queues(self.config),
            dek,
        });
        Ok(Way::Served)
    }
}
