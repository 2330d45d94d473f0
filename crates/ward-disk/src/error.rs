//! Why a disk could not be served, converted or understood.
//!
//! ```text
//! kind    a small stable vocabulary: what a program decides by
//! what    the step that failed, with its path and offset: what a person looks for
//! why     the cause, as text, since the error crosses a socket
//! ```

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What kind of failure it is. Stable: other programs decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DiskErrorKind {
    /// There is no file of that name.
    ImageMissing,
    /// Another process uses the image.
    ImageLocked,
    /// The file ends before its contents do.
    ImageTruncated,
    /// The file is not what it is said to be, or is marked corrupt.
    ImageInvalid,
    /// The image is of a format, or has a feature, that is not supported.
    ImageUnsupported,
    /// The image is an overlay over a backing file.
    ImageHasBackingFile,
    /// The image keeps its data in another file.
    ImageHasDataFile,
    /// The image is encrypted where a plain one is needed.
    ImageEncrypted,
    /// The image was not closed cleanly.
    ImageDirty,
    /// The image holds internal snapshots, which would be lost.
    ImageHasSnapshots,
    /// The storage has not enough free space.
    NoSpace,
    /// The operating system denies access.
    AccessDenied,
    /// A key is unfit for its cipher, or the cipher failed.
    Cipher,
    /// Reading or writing failed.
    Io,
    /// The work was cancelled.
    Cancelled,
    /// The order makes no sense, or the two sides don't understand each other.
    Protocol,
    /// The disk process could not be started.
    Spawn,
    /// The disk process ended without saying why.
    ProcessGone,
}

impl DiskErrorKind {
    /// The kind of an error of the operating system.
    #[must_use]
    pub fn of(source: &io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::ImageMissing,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::AccessDenied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::NoSpace,
            io::ErrorKind::UnexpectedEof => Self::ImageTruncated,
            _ => Self::Io,
        }
    }
}

/// Why something failed: a kind to decide by, and what a person needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskError {
    /// What kind of failure it is.
    pub kind: DiskErrorKind,
    /// What was being done, as a phrase: "read the source image".
    pub what: String,
    /// The file it was done to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Where in the file, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The cause, as a sentence fragment.
    pub why: String,
}

impl DiskError {
    /// An error of that kind.
    pub fn new(kind: DiskErrorKind, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { kind, what: what.into(), path: None, offset: None, why: why.into() }
    }

    /// An error of the operating system.
    pub fn io(what: impl Into<String>, source: &io::Error) -> Self {
        Self::new(DiskErrorKind::of(source), what, source.to_string())
    }

    /// The same, about that file.
    #[must_use]
    pub fn at_path(mut self, path: &Path) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// The same, at that offset.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.what)?;
        if let Some(path) = &self.path {
            write!(f, " {}", path.display())?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl std::error::Error for DiskError {}

/// The crate's result.
pub type Result<T> = std::result::Result<T, DiskError>;

/// Says what was being done when a result of the operating system is an error.
pub(crate) trait Doing<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T>;
    fn doing_at(self, what: &str, path: &Path, offset: u64) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|source| DiskError::io(what, &source).at_path(path))
    }

    fn doing_at(self, what: &str, path: &Path, offset: u64) -> Result<T> {
        self.map_err(|source| DiskError::io(what, &source).at_path(path).at_offset(offset))
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(io::Error::from).doing(what, path)
    }

    fn doing_at(self, what: &str, path: &Path, offset: u64) -> Result<T> {
        self.map_err(io::Error::from).doing_at(what, path, offset)
    }
}
