//! What a disk process is told to do. An order holds no secret: keys follow it and are meant by their index.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{DiskError, DiskErrorKind, Result};

/// The most disks and the most queues per disk that one process serves.
pub const MAX_DISKS: usize = 64;
/// The most queues that one disk may have.
pub const MAX_QUEUES: u16 = 16;

/// The size of one encrypted sector of a LUKS2 payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum SectorSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl SectorSize {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

impl TryFrom<u32> for SectorSize {
    type Error = String;

    fn try_from(bytes: u32) -> std::result::Result<Self, String> {
        match bytes {
            512 => Ok(Self::B512),
            4096 => Ok(Self::B4096),
            other => Err(format!("a sector size of {other} bytes is not supported")),
        }
    }
}

impl From<SectorSize> for u32 {
    fn from(size: SectorSize) -> Self {
        match size {
            SectorSize::B512 => 512,
            SectorSize::B4096 => 4096,
        }
    }
}

/// How a disk lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// As it is.
    Raw,
    /// QEMU's format, self-contained and plain.
    Qcow2,
    /// The payload of a LUKS2 volume, aes-xts-plain64 with a 512-bit key; its IVs count 512-byte units from zero at the
    /// payload's start.
    Luks2 {
        /// Where the payload begins, in bytes; a multiple of 4096.
        data_offset: u64,
        /// The size of its encrypted sectors.
        sector_size: SectorSize,
    },
}

impl ImageFormat {
    /// Whether a key is needed to use it.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        matches!(self, Self::Luks2 { .. })
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Serve disks to a virtual machine monitor.
    Export(ExportOrder),
    /// Copy a disk into another format or under another key.
    Convert(ConvertOrder),
}

/// Serve these disks until every front end has gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportOrder {
    /// Those that are served as vhost-user-blk.
    pub disks: Vec<ExportDisk>,
    /// Those that are served over NBD.
    #[serde(default)]
    pub nbd: Vec<NbdDisk>,
}

/// One volume to serve over NBD: one that a VMM itself reads and writes, such as the store of UEFI variables. Small and
/// slow, one client at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NbdDisk {
    /// As [`ExportDisk::path`].
    pub path: PathBuf,
    /// How the volume lies in it; not [`ImageFormat::Qcow2`].
    pub format: ImageFormat,
    /// The volume's size in bytes; a multiple of 512.
    pub size: u64,
    /// The Unix socket to make, with mode 0600.
    pub socket: PathBuf,
    /// Whether it may only be read.
    pub read_only: bool,
    /// As [`ExportDisk::dek`].
    pub dek: Option<usize>,
}

/// One disk to serve as vhost-user-blk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportDisk {
    /// The image file. Whoever gives the order opens it; for the process it is but a name in errors.
    pub path: PathBuf,
    /// How the disk lies in it. [`ImageFormat::Qcow2`] is not served: a VMM reads plain qcow2 by itself.
    pub format: ImageFormat,
    /// The disk's size as the guest sees it, in bytes; a multiple of 512.
    pub size: u64,
    /// The Unix socket to make, with mode 0600.
    pub socket: PathBuf,
    /// The serial number that the guest sees; at most 20 bytes of ASCII.
    pub serial: String,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// The number of request queues, each served by a thread of its own.
    pub num_queues: u16,
    /// Which of the keys that follow the order is the disk's; for encrypted formats, and only for those.
    pub dek: Option<usize>,
}

/// Copy `source` to `target`.
///
/// `source` is never changed. Work that was interrupted goes on where `checkpoint` says when the same order is given
/// again. Removing an unfinished target and the checkpoint is the caller's part, also after success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertOrder {
    /// What to read.
    pub source: ConvertSide,
    /// What to write. A LUKS2 target must exist with its header; any other is made, or overwritten.
    pub target: ConvertSide,
    /// The disk's size in bytes as a guest sees it.
    pub size: u64,
    /// Where to note how far the work has come.
    pub checkpoint: PathBuf,
}

/// One end of a conversion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertSide {
    /// The image file.
    pub path: PathBuf,
    /// How the disk lies in it.
    pub format: ImageFormat,
    /// Which of the keys that follow the order is its key; for encrypted formats, and only for those.
    pub dek: Option<usize>,
}

impl Order {
    /// How many keys must follow the order.
    #[must_use]
    pub fn dek_count(&self) -> usize {
        self.keys().filter_map(|(_, dek)| dek).max().map_or(0, |index| index + 1)
    }

    /// Checks what can be checked without looking at a file.
    ///
    /// # Errors
    /// [`DiskErrorKind::Protocol`], or [`DiskErrorKind::ImageUnsupported`] for a disk that is not served.
    pub fn validate(&self) -> Result<()> {
        for (format, dek) in self.keys() {
            if format.is_encrypted() != dek.is_some() {
                return Err(refuse("an encrypted format needs a key, and only an encrypted format has one"));
            }
            if let ImageFormat::Luks2 { data_offset, .. } = format
                && !data_offset.is_multiple_of(4096)
            {
                return Err(refuse("the payload does not begin at a multiple of 4096 bytes"));
            }
        }
        if self.dek_count() > 2 * MAX_DISKS {
            return Err(refuse("it means more keys than it can have disks"));
        }
        match self {
            Self::Export(order) => {
                order.disks.iter().try_for_each(ExportDisk::validate)?;
                order.nbd.iter().try_for_each(|disk| validate_image(&disk.path, disk.format, disk.size))?;
                let count = order.disks.len() + order.nbd.len();
                if count == 0 || count > MAX_DISKS {
                    return Err(refuse(format!("it has {count} disks, not 1 to {MAX_DISKS}")));
                }
                Ok(())
            }
            Self::Convert(order) if order.size == 0 || !order.size.is_multiple_of(512) => {
                Err(refuse(format!("a disk of {} bytes is no whole number of 512-byte sectors", order.size)))
            }
            Self::Convert(_) => Ok(()),
        }
    }

    fn keys(&self) -> impl Iterator<Item = (ImageFormat, Option<usize>)> + '_ {
        let (disks, nbd, sides) = match self {
            Self::Export(order) => (order.disks.as_slice(), order.nbd.as_slice(), None),
            Self::Convert(order) => (&[][..], &[][..], Some([&order.source, &order.target])),
        };
        let sides = sides.into_iter().flatten().map(|side| (side.format, side.dek));
        let nbd = nbd.iter().map(|disk| (disk.format, disk.dek));
        disks.iter().map(|disk| (disk.format, disk.dek)).chain(nbd).chain(sides)
    }
}

impl ExportOrder {
    /// The images, and whether they are only read, in the order in which the process is given them open.
    pub(crate) fn images(&self) -> impl Iterator<Item = (&Path, bool)> {
        let disks = self.disks.iter().map(|disk| (disk.path.as_path(), disk.read_only));
        disks.chain(self.nbd.iter().map(|disk| (disk.path.as_path(), disk.read_only)))
    }
}

impl ExportDisk {
    fn validate(&self) -> Result<()> {
        validate_image(&self.path, self.format, self.size)?;
        if self.num_queues == 0 || self.num_queues > MAX_QUEUES {
            return Err(refuse(format!("a disk has 1 to {MAX_QUEUES} queues, not {}", self.num_queues)));
        }
        if self.serial.len() > 20 || !self.serial.is_ascii() {
            return Err(refuse("a serial number is at most 20 ASCII characters"));
        }
        Ok(())
    }
}

fn validate_image(path: &Path, format: ImageFormat, size: u64) -> Result<()> {
    if format == ImageFormat::Qcow2 {
        let why = "plain qcow2 is not exported; attach it to the virtual machine monitor itself";
        return Err(DiskError::new(DiskErrorKind::ImageUnsupported, "export", why).at_path(path));
    }
    if size == 0 || !size.is_multiple_of(512) {
        return Err(refuse(format!("a disk of {size} bytes is no whole number of 512-byte sectors")));
    }
    Ok(())
}

fn refuse(why: impl Into<String>) -> DiskError {
    DiskError::new(DiskErrorKind::Protocol, "carry out the order", why)
}
