//! What a conversion reads from. Never written to.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, StorageOpenOptions};
use rustix::fs::{Advice, SeekFrom, fadvise, seek};

use super::FileIdentity;
use crate::error::{DiskError, DiskErrorKind, Doing, Result};
use crate::image::{self, ImageKind};
use crate::lock;
use crate::order::{ConvertSide, ImageFormat, SectorSize};

/// An open, locked source that is whole.
pub(crate) struct Source {
    reader: Reader,
    path: PathBuf,
    metadata: std::fs::Metadata,
    /// The disk's size.
    size: u64,
}

enum Reader {
    Raw(File),
    Qcow2 {
        access: Box<FormatAccess<imago::file::File>>,
        /// Keeps the lock.
        _file: File,
    },
    Luks {
        file: File,
        data_offset: u64,
        sector_size: SectorSize,
    },
}

/// A part of the disk that is of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Whether it is known to be zero without being read.
    pub(crate) zero: bool,
    /// Where it ends.
    pub(crate) end: u64,
}

impl Source {
    pub(crate) fn open(side: &ConvertSide, size: u64) -> Result<Self> {
        let path = &side.path;
        let file = lock::open_to_read(path)?;
        let metadata = file.metadata().doing("look at the source image", path)?;
        let wrong_size = |has: u64| {
            let why = format!("its disk has {has} bytes, not the {size} that were ordered");
            DiskError::new(DiskErrorKind::ImageInvalid, "use the source image", why).at_path(path)
        };
        let reader = match side.format {
            ImageFormat::Raw => {
                let info = image::probe_file(&file, path, Some(ImageKind::Raw))?;
                if info.virtual_size < size {
                    return Err(ends_early(path, info.virtual_size, size));
                }
                if info.virtual_size != size {
                    return Err(wrong_size(info.virtual_size));
                }
                Reader::Raw(file)
            }
            ImageFormat::Qcow2 => {
                let info = image::probe_file(&file, path, Some(ImageKind::Qcow2))?;
                info.check_plain(path)?;
                if info.virtual_size != size {
                    return Err(wrong_size(info.virtual_size));
                }
                Reader::Qcow2 { access: Box::new(open_qcow2(&file, path)?), _file: file }
            }
            ImageFormat::Luks2 { data_offset, sector_size } => {
                let needed = size.next_multiple_of(sector_size.bytes()).saturating_add(data_offset);
                if metadata.len() < needed {
                    return Err(ends_early(path, metadata.len(), needed));
                }
                Reader::Luks { file, data_offset, sector_size }
            }
        };
        if let Reader::Raw(file) | Reader::Luks { file, .. } = &reader {
            // Only a hint.
            let _ = fadvise(file, 0, None, Advice::Sequential);
        }
        Ok(Self { reader, path: path.clone(), metadata, size })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        FileIdentity::of(&self.metadata)
    }

    /// Size and time of the last change: with the identity, what says that it is still the same disk.
    pub(crate) fn version(&self) -> (u64, i64, i64) {
        (self.metadata.len(), self.metadata.mtime(), self.metadata.mtime_nsec())
    }

    /// The most bytes of a plain copy that are not holes.
    pub(crate) fn allocated(&self) -> u64 {
        match self.reader {
            Reader::Raw(_) | Reader::Luks { .. } => self.size.min(self.metadata.blocks() * 512),
            // It may be compressed.
            Reader::Qcow2 { .. } => self.size.min(self.data_bytes().unwrap_or(self.size)),
        }
    }

    fn data_bytes(&self) -> Result<u64> {
        let (mut at, mut data) = (0, 0);
        while at < self.size {
            let extent = self.extent(at)?;
            if !extent.zero {
                data += extent.end - at;
            }
            at = extent.end;
        }
        Ok(data)
    }

    /// What lies at that offset, and up to where. To be asked by one thread at a time.
    pub(crate) fn extent(&self, offset: u64) -> Result<Extent> {
        match &self.reader {
            // A hole in ciphertext is no zero.
            Reader::Luks { .. } => Ok(Extent { zero: false, end: self.size }),
            Reader::Raw(file) => self.raw_extent(file, offset),
            Reader::Qcow2 { access, .. } => {
                let (mapping, length) = access.get_mapping(offset, self.size - offset).doing_at(
                    "read the tables of the source image",
                    &self.path,
                    offset,
                )?;
                let zero = matches!(mapping, Mapping::Zero { .. });
                match length {
                    // The library says so at the end, before which nobody asks.
                    0 => Err(ends_early(&self.path, offset, self.size)),
                    _ => Ok(Extent { zero, end: (offset + length).min(self.size) }),
                }
            }
        }
    }

    fn raw_extent(&self, file: &File, offset: u64) -> Result<Extent> {
        let what = "find the holes of the source image";
        match seek(file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok(Extent { zero: true, end: data.min(self.size) }),
            Ok(_) => {
                let hole = seek(file, SeekFrom::Hole(offset)).doing_at(what, &self.path, offset)?;
                Ok(Extent { zero: false, end: hole.min(self.size) })
            }
            // No data up to the end of the file.
            Err(rustix::io::Errno::NXIO) => Ok(Extent { zero: true, end: self.size }),
            // The storage doesn't tell.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Extent { zero: false, end: self.size }),
            Err(error) => Err(error).doing_at(what, &self.path, offset),
        }
    }

    /// How many bytes must be read for a chunk of that length: whole sectors.
    pub(crate) fn padded(&self, length: u64) -> u64 {
        match self.reader {
            Reader::Luks { sector_size, .. } => length.next_multiple_of(sector_size.bytes()),
            Reader::Raw(_) | Reader::Qcow2 { .. } => length,
        }
    }

    /// Reads what lies there: of an encrypted source, ciphertext, of which whole sectors may be asked.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let what = "read the source image";
        match &self.reader {
            Reader::Raw(file) => file.read_exact_at(buffer, offset).doing_at(what, &self.path, offset),
            Reader::Luks { file, data_offset, .. } => {
                file.read_exact_at(buffer, data_offset + offset).doing_at(what, &self.path, data_offset + offset)
            }
            Reader::Qcow2 { access, .. } => access.read(buffer, offset).doing_at(what, &self.path, offset),
        }
    }
}

/// Opens an image that was found to be self-contained; anything else that it names is not opened.
fn open_qcow2(file: &File, path: &Path) -> Result<FormatAccess<imago::file::File>> {
    let what = "open the source image";
    let file = file.try_clone().doing(what, path)?;
    let storage = imago::file::File::from_open_file(file, StorageOpenOptions::new()).doing(what, path)?;
    let image = Qcow2::<imago::file::File>::builder(storage)
        .backing(None)
        .write(false)
        .open(DenyImplicitOpenGate::default())
        .doing(what, path)?;
    Ok(FormatAccess::new(image))
}

fn ends_early(path: &Path, has: u64, needs: u64) -> DiskError {
    let why = format!("it ends after {has} bytes and should have {needs}");
    DiskError::new(DiskErrorKind::ImageTruncated, "use the source image", why).at_path(path)
}
