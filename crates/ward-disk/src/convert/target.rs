//! What a conversion writes to.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, StorageOpenOptions};

use super::{FileIdentity, space, sync_directory_of};
use crate::buffer::is_zero;
use crate::error::{DiskError, DiskErrorKind, Doing, Result};
use crate::lock::{self, Access};
use crate::order::{ConvertSide, ImageFormat, SectorSize};

/// Direct I/O wants offsets, lengths and memory in multiples of this; no storage is known to want more.
const DIRECT_ALIGNMENT: usize = 4096;
/// Runs of zeros shorter than this are written out in a raw image.
const RAW_HOLE: usize = 4096;
/// The cluster size of the qcow2 images that are made. Whole clusters are written or left out.
const CLUSTER: usize = 64 << 10;

/// An open, locked target.
pub(crate) struct Target {
    file: File,
    path: PathBuf,
    identity: FileIdentity,
    writer: Writer,
}

enum Writer {
    Raw,
    /// `None` until it is prepared.
    Qcow2(Option<Box<FormatAccess<imago::file::File>>>),
    Luks {
        data_offset: u64,
        sector_size: SectorSize,
        /// The same file for direct I/O, where the storage can do that.
        direct: Option<File>,
    },
}

impl Target {
    /// Opens and locks it, and changes nothing in it.
    pub(crate) fn open(side: &ConvertSide) -> Result<Self> {
        let path = &side.path;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let writer = match side.format {
            ImageFormat::Raw => Writer::Raw,
            ImageFormat::Qcow2 => Writer::Qcow2(None),
            ImageFormat::Luks2 { data_offset, sector_size } => Writer::Luks { data_offset, sector_size, direct: None },
        };
        if !matches!(writer, Writer::Luks { .. }) {
            // The plain contents of an encrypted disk are nobody else's.
            options.create(true).truncate(false).mode(0o600);
        }
        let file = options.open(path).doing("open the target image", path)?;
        lock::lock(&file, path, Access::Exclusive)?;
        let metadata = file.metadata().doing("look at the target image", path)?;
        if !metadata.is_file() {
            let why = "it is no regular file";
            return Err(DiskError::new(DiskErrorKind::ImageInvalid, "use the target image", why).at_path(path));
        }
        Ok(Self { file, path: path.clone(), identity: FileIdentity::of(&metadata), writer })
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Whether what is there may be kept. The tables of an unfinished qcow2 image say nothing reliable.
    pub(crate) fn can_resume(&self) -> bool {
        !matches!(self.writer, Writer::Qcow2(_))
    }

    /// Makes sure of the room, then makes the target ready for a disk of that size, keeping what lies before
    /// `resumed_at`. `data` is the most bytes that the source has besides holes.
    pub(crate) fn prepare(&mut self, size: u64, data: u64, resumed_at: u64) -> Result<()> {
        let Self { file, path, writer, .. } = self;
        let what = "prepare the target image";
        let has = file.metadata().doing(what, path)?.blocks() * 512;
        match writer {
            Writer::Raw => {
                space::check(file, path, data.saturating_sub(has))?;
                if resumed_at == 0 {
                    file.set_len(0).doing(what, path)?;
                }
                file.set_len(size).doing(what, path)
            }
            Writer::Qcow2(image) => {
                // Tables take eight bytes for each cluster and a little more.
                space::check(file, path, (data + data / 4096 + (1 << 20)).saturating_sub(has))?;
                file.set_len(0).doing(what, path)?;
                *image = Some(Box::new(create_qcow2(file, path, size)?));
                Ok(())
            }
            Writer::Luks { data_offset, sector_size, direct } => {
                space::reserve(file, path, *data_offset, size.next_multiple_of(sector_size.bytes()))?;
                *direct = open_direct(path);
                Ok(())
            }
        }
    }

    /// How many bytes of a chunk of that length are written: whole sectors.
    pub(crate) fn padded(&self, length: u64) -> u64 {
        match self.writer {
            Writer::Luks { sector_size, .. } => length.next_multiple_of(sector_size.bytes()),
            Writer::Raw | Writer::Qcow2(_) => length,
        }
    }

    /// Whether zeros must be written (encrypted), or just left out.
    pub(crate) fn stores_zeros(&self) -> bool {
        matches!(self.writer, Writer::Luks { .. })
    }

    /// Writes what lies at that offset of the disk, in ciphertext where the target is encrypted.
    pub(crate) fn write(&self, offset: u64, buffer: &[u8]) -> Result<()> {
        let what = "write the target image";
        match &self.writer {
            Writer::Luks { data_offset, direct, .. } => {
                let file = match direct {
                    Some(direct) if buffer.len().is_multiple_of(DIRECT_ALIGNMENT) => direct,
                    _ => &self.file,
                };
                let at = data_offset + offset;
                file.write_all_at(buffer, at).doing_at(what, &self.path, at)
            }
            Writer::Raw => for_each_run(buffer, RAW_HOLE, |from, bytes| {
                let at = offset + from as u64;
                self.file.write_all_at(bytes, at).doing_at(what, &self.path, at)
            }),
            Writer::Qcow2(image) => for_each_run(buffer, CLUSTER, |from, bytes| {
                let at = offset + from as u64;
                let image = image.as_ref().ok_or_else(|| unprepared(&self.path))?;
                image.write(bytes, at).doing_at(what, &self.path, at)
            }),
        }
    }

    /// Reads what was written there, for an encrypted target as ciphertext.
    pub(crate) fn read_back(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let at = match self.writer {
            Writer::Raw => offset,
            Writer::Luks { data_offset, .. } => data_offset + offset,
            Writer::Qcow2(_) => return Err(unprepared(&self.path)),
        };
        self.file.read_exact_at(buffer, at).doing_at("read the target image", &self.path, at)
    }

    /// Makes what was written so far last.
    pub(crate) fn sync_data(&self) -> Result<()> {
        let what = "sync the target image";
        if let Writer::Qcow2(Some(image)) = &self.writer {
            image.flush().doing(what, &self.path)?;
        }
        self.file.sync_data().doing(what, &self.path)
    }

    /// Makes the whole file last, and its name.
    pub(crate) fn finish(mut self, size: u64) -> Result<()> {
        let what = "sync the target image";
        if let Writer::Qcow2(image) = &mut self.writer {
            let image = image.take().ok_or_else(|| unprepared(&self.path))?;
            image.flush().doing(what, &self.path)?;
        }
        if matches!(self.writer, Writer::Raw) {
            self.file.set_len(size).doing(what, &self.path)?;
        }
        self.file.sync_all().doing(what, &self.path)?;
        crash_point::reach("convert.target.synced");
        sync_directory_of(&self.path)
    }
}

/// `None` where the storage has no direct I/O (a tmpfs, some network file systems).
fn open_direct(path: &Path) -> Option<File> {
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
    OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
}

fn create_qcow2(file: &File, path: &Path, size: u64) -> Result<FormatAccess<imago::file::File>> {
    let what = "create the target image";
    let file = file.try_clone().doing(what, path)?;
    let storage = imago::file::File::from_open_file(file, StorageOpenOptions::new().write(true)).doing(what, path)?;
    let image = Qcow2::<imago::file::File>::create_builder(storage)
        .cluster_size(CLUSTER)
        .size(size)
        .create_open(DenyImplicitOpenGate::default(), |storage| {
            Ok(Qcow2::builder(storage).backing(None).data_file(None).write(true))
        })
        .doing(what, path)?;
    Ok(FormatAccess::new(image))
}

/// Calls `write` for each run of blocks that are not all zero.
fn for_each_run(buffer: &[u8], block: usize, mut write: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
    let mut start = None;
    for (index, bytes) in buffer.chunks(block).enumerate() {
        let at = index * block;
        match (is_zero(bytes), start) {
            (false, None) => start = Some(at),
            (true, Some(from)) => {
                write(from, &buffer[from..at])?;
                start = None;
            }
            _ => {}
        }
    }
    start.map_or(Ok(()), |from| write(from, &buffer[from..]))
}

fn unprepared(path: &Path) -> DiskError {
    DiskError::new(DiskErrorKind::Protocol, "use the target image", "it has not been prepared").at_path(path)
}
