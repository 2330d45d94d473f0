//! Making VMs.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ward_rpc::api::host::{CreateVm, DiskSource, KernelSource, NewFirmware};
use ward_types::{Code, Name, PlainFormat, Problem, TaskKind, VmId};

use super::cannot;

/// A VM that somebody asks for.
#[derive(Clone, Debug)]
pub(crate) struct NewVm {
    pub(crate) name: Name,
    pub(crate) cpus: u16,
    pub(crate) memory_mib: u32,
    pub(crate) kernel: Option<KernelSource>,
    pub(crate) disks: Vec<NewDisk>,
    pub(crate) firmware: NewFirmware,
    pub(crate) tpm: bool,
}

impl NewVm {
    /// Whether it is made of files that a host reads.
    pub(crate) fn reads_files(&self) -> bool {
        let vars = matches!(self.firmware, NewFirmware::Uefi { vars: Some(_), .. });
        vars || self.kernel.is_some() || self.disks.iter().any(|disk| matches!(disk, NewDisk::Copy { .. }))
    }
}

/// One of its disks.
#[derive(Clone, Debug)]
pub(crate) enum NewDisk {
    Blank { size: u64, format: PlainFormat },
    Copy { path: PathBuf },
}

/// What making it comes to.
#[derive(Debug)]
pub(crate) struct CreatePlan {
    pub(crate) kind: TaskKind,
    pub(crate) spec: CreateVm,
}

const SECTOR: u64 = 4096;
const MAX_DISK: u64 = 64 << 40;
pub(super) const MAX_DISKS: usize = 32;

/// Whether a disk of that size can be made.
pub(super) fn check_size(size: u64) -> Result<(), (String, &'static str)> {
    if size == 0 || !size.is_multiple_of(SECTOR) || size > MAX_DISK {
        return Err((
            format!("a disk of {size} bytes can't be made"),
            "give a size that is a multiple of 4096 bytes, at most 64 TiB",
        ));
    }
    Ok(())
}

/// Whether a file can be named by that path.
pub(super) fn is_path(path: &Path) -> bool {
    path.is_absolute() && !path.as_os_str().as_bytes().contains(&0)
}

/// Plans the making of a VM; `exists` says whether there is one of that name.
pub(crate) fn create(new: NewVm, exists: bool) -> Result<CreatePlan, Problem> {
    let imports = new.disks.iter().any(|disk| matches!(disk, NewDisk::Copy { .. }));
    let kind = if imports { TaskKind::VmImport } else { TaskKind::VmCreate };
    let what = cannot(kind, &new.name);
    if exists {
        return Err(Problem::new(
            Code::Exists,
            what,
            "there is a VM of that name already",
            "choose another name; `ward vm ls` lists those in use",
        ));
    }
    let invalid = |why: String, remedy: &str| Err(Problem::new(Code::RequestInvalid, what.clone(), why, remedy));
    if new.disks.is_empty() && new.kernel.is_none() {
        return invalid(
            "it has neither a disk nor a kernel to boot".to_owned(),
            "give it a disk with `--disk`, or a kernel with `--kernel`",
        );
    }
    if new.disks.len() > MAX_DISKS {
        return invalid(format!("it has {} disks", new.disks.len()), &format!("give it at most {MAX_DISKS} disks"));
    }
    if !(1..=512).contains(&new.cpus) {
        return invalid(format!("it has {} processors", new.cpus), "give it 1 to 512 processors");
    }
    if !(16..=16 * 1024 * 1024).contains(&new.memory_mib) {
        return invalid(format!("it has {} MiB of memory", new.memory_mib), "give it 16 MiB to 16 TiB of memory");
    }
    if new.tpm && new.firmware == NewFirmware::Bios {
        let why = "it has a vTPM, which needs UEFI";
        return Err(Problem::new(Code::Composition, what, why, "make it with `--firmware uefi`, or leave `--tpm` out"));
    }
    if new.kernel.is_some() && matches!(new.firmware, NewFirmware::Uefi { secure_boot: true, .. }) {
        return invalid(
            "its firmware would start a kernel that is given to it by itself whether that is signed or not".to_owned(),
            "boot it from a disk, or leave `--secure-boot` out",
        );
    }
    let vars = match &new.firmware {
        NewFirmware::Uefi { vars, .. } => vars.as_ref(),
        NewFirmware::Bios => None,
    };
    let mut paths = vars.into_iter().chain(
        new.kernel.iter().flat_map(|kernel| std::iter::once(&kernel.kernel).chain(&kernel.initrd)).chain(
            new.disks.iter().filter_map(|disk| match disk {
                NewDisk::Copy { path } => Some(path),
                NewDisk::Blank { .. } => None,
            }),
        ),
    );
    if let Some(path) = paths.find(|path| !is_path(path)) {
        return invalid(
            format!("`{}` is not an absolute path", path.display()),
            "name files by the path under which the hosts find them",
        );
    }
    for disk in &new.disks {
        if let NewDisk::Blank { size, .. } = disk
            && let Err((why, remedy)) = check_size(*size)
        {
            return invalid(why, remedy);
        }
    }
    let disks = new.disks.into_iter().map(|disk| match disk {
        NewDisk::Blank { size, format } => DiskSource::Blank { size, format },
        NewDisk::Copy { path } => DiskSource::Copy { path },
    });
    let spec = CreateVm {
        id: VmId::new(),
        name: new.name,
        cpus: new.cpus,
        memory_mib: new.memory_mib,
        kernel: new.kernel,
        disks: disks.collect(),
        firmware: new.firmware,
        tpm: new.tpm,
    };
    Ok(CreatePlan { kind, spec })
}
