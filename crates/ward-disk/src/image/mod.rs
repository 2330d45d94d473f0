//! What kind of image a file is, and whether it is whole. Nothing here changes a file.

mod qcow2;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{DiskError, DiskErrorKind, Doing, Result};

/// What a file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// Nothing that is known: the disk as it is.
    Raw,
    /// QEMU's qcow2, version 2 or 3.
    Qcow2,
    /// A LUKS volume.
    Luks {
        /// The version of its header.
        version: u16,
    },
}

/// What a file's headers say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// What it looks like.
    pub format: ImageKind,
    /// The disk's size as a guest sees it. For [`ImageKind::Luks`] this is the file's size, header and all.
    pub virtual_size: u64,
    /// What it takes on storage, in bytes.
    pub allocated: u64,
    /// The file's length.
    pub file_size: u64,
    /// Whether it is an overlay over a backing file.
    pub has_backing_file: bool,
    /// Whether its data lies in another file.
    pub has_data_file: bool,
    /// Whether its contents are encrypted.
    pub encrypted: bool,
    /// Whether it was not closed cleanly.
    pub dirty: bool,
    /// How many internal snapshots it holds.
    pub snapshots: u32,
}

impl ImageInfo {
    /// Whether the image can be taken in as a plain, self-contained disk.
    ///
    /// # Errors
    /// [`DiskErrorKind::ImageHasBackingFile`], [`DiskErrorKind::ImageHasDataFile`], [`DiskErrorKind::ImageEncrypted`],
    /// [`DiskErrorKind::ImageDirty`], [`DiskErrorKind::ImageHasSnapshots`].
    pub fn check_plain(&self, path: &Path) -> Result<()> {
        use DiskErrorKind as Kind;
        let refused = [
            (self.encrypted, Kind::ImageEncrypted, "it is encrypted already; decrypt it first"),
            (
                self.has_backing_file,
                Kind::ImageHasBackingFile,
                "it has a backing file; flatten it with qemu-img convert",
            ),
            (
                self.has_data_file,
                Kind::ImageHasDataFile,
                "its data is in another file; flatten it with qemu-img convert",
            ),
            (self.dirty, Kind::ImageDirty, "it was not closed cleanly; repair it with qemu-img check -r all"),
            (self.snapshots > 0, Kind::ImageHasSnapshots, "its internal snapshots would be lost; delete them first"),
        ];
        match refused.into_iter().find(|(applies, ..)| *applies) {
            Some((_, kind, why)) => Err(DiskError::new(kind, "use the image", why).at_path(path)),
            None => Ok(()),
        }
    }
}

/// Looks at a file and says what it is.
///
/// A raw disk whose guest wrote a header of another format to its first sector looks like that format. Where the format
/// is known from elsewhere, use [`probe_as`].
///
/// # Errors
/// [`DiskErrorKind::ImageMissing`], [`DiskErrorKind::ImageTruncated`], [`DiskErrorKind::ImageInvalid`],
/// [`DiskErrorKind::ImageUnsupported`], and what the operating system says.
pub fn probe(path: &Path) -> Result<ImageInfo> {
    probe_any(path, None)
}

/// Looks at a file that is said to be of that format; for raw, its contents say nothing.
///
/// # Errors
/// As [`probe`]; [`DiskErrorKind::ImageInvalid`] where it is not of that format.
pub fn probe_as(path: &Path, format: ImageKind) -> Result<ImageInfo> {
    probe_any(path, Some(format))
}

fn probe_any(path: &Path, said: Option<ImageKind>) -> Result<ImageInfo> {
    let file = File::open(path).doing("open the image", path)?;
    probe_file(&file, path, said)
}

pub(crate) fn probe_file(file: &File, path: &Path, said: Option<ImageKind>) -> Result<ImageInfo> {
    let metadata = file.metadata().doing("look at the image", path)?;
    if !metadata.is_file() {
        return Err(invalid(path, "it is no regular file"));
    }
    let file_size = metadata.len();
    let mut head = [0u8; 512];
    let read = read_up_to(file, &mut head, 0).doing("read the image", path)?;
    let seen = recognise(&head[..read], path);
    let format = match said {
        Some(ImageKind::Raw) => ImageKind::Raw,
        Some(said) => {
            let seen = seen?;
            if std::mem::discriminant(&seen) != std::mem::discriminant(&said) {
                return Err(invalid(path, "it does not have the header of the format that it is said to have"));
            }
            seen
        }
        None => seen?,
    };
    let mut info = ImageInfo {
        format,
        virtual_size: file_size,
        allocated: metadata.blocks() * 512,
        file_size,
        has_backing_file: false,
        has_data_file: false,
        encrypted: matches!(format, ImageKind::Luks { .. }),
        dirty: false,
        snapshots: 0,
    };
    match format {
        ImageKind::Raw if file_size == 0 => Err(truncated(path, "it is empty")),
        ImageKind::Raw if !file_size.is_multiple_of(512) => {
            Err(truncated(path, format!("its {file_size} bytes are no whole number of 512-byte sectors")))
        }
        ImageKind::Qcow2 => {
            qcow2::examine(file, path, &mut info)?;
            Ok(info)
        }
        ImageKind::Raw | ImageKind::Luks { .. } => Ok(info),
    }
}

fn recognise(head: &[u8], path: &Path) -> Result<ImageKind> {
    let unsupported = |name: &str| {
        let why = format!("it is a {name} image; convert it with qemu-img convert to qcow2 or raw");
        Err(DiskError::new(DiskErrorKind::ImageUnsupported, "use the image", why).at_path(path))
    };
    if let Some([a, b, ..]) = head.strip_prefix(b"LUKS\xba\xbe") {
        return Ok(ImageKind::Luks { version: u16::from_be_bytes([*a, *b]) });
    }
    match head {
        [b'Q', b'F', b'I', 0xfb, ..] => Ok(ImageKind::Qcow2),
        [b'K', b'D', b'M', b'V', ..] => unsupported("VMDK"),
        [b'v', b'h', b'd', b'x', b'f', b'i', b'l', b'e', ..] => unsupported("VHDX"),
        [b'c', b'o', b'n', b'e', b'c', b't', b'i', b'x', ..] => unsupported("VHD"),
        [b'Q', b'E', b'D', 0, ..] => unsupported("QED"),
        _ if head.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe]) => unsupported("VDI"),
        _ => Ok(ImageKind::Raw),
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match file.read_at(&mut buffer[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

fn invalid(path: &Path, why: impl Into<String>) -> DiskError {
    DiskError::new(DiskErrorKind::ImageInvalid, "use the image", why).at_path(path)
}

fn truncated(path: &Path, why: impl Into<String>) -> DiskError {
    DiskError::new(DiskErrorKind::ImageTruncated, "use the image", why).at_path(path)
}
