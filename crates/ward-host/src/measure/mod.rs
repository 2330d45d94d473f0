//! What `ward bench` measures: the steps of a job that replaces a KEK, on a disk that stands by itself; and what a host does
//! with a native provider's key.

mod native;

use std::fs::OpenOptions;
use std::path::Path;

use ward_secret::{KEK_LEN, Kek};
use ward_types::{DiskId, KeyRef, Problem, VmId};

use crate::fault::{Doing, Fault, Result};
use crate::keys::ResolvedKek;
use crate::volume::{self, Label, Volume};

pub use native::{NativeHost, NativeVm};

/// A new KEK under a name.
pub struct NamedKek(ResolvedKek);

impl NamedKek {
    /// Makes one.
    ///
    /// # Errors
    /// [`Problem`] where there is no memory for it.
    pub fn generate(reference: KeyRef) -> std::result::Result<Self, Problem> {
        let kek = Kek::generate().map_err(|error| Fault::from(error).problem("cannot make a key"))?;
        Ok(Self(ResolvedKek::new(reference, kek)))
    }

    /// Its bytes, for another program to try it with.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEK_LEN] {
        self.0.kek().expose()
    }
}

/// Makes an encrypted disk without content.
///
/// # Errors
/// [`Problem`] where the file can't be made.
pub fn make_disk(path: &Path, kek: &NamedKek, vm: VmId, disk: DiskId) -> std::result::Result<(), Problem> {
    let make = || -> Result<()> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).doing("create", path)?;
        volume::format(file, path, &kek.0, &Label::new(kek.0.reference().clone(), vm, disk))
    };
    make().map_err(|fault| fault.problem("cannot make a disk"))
}

/// Replaces a disk's KEK as a job does: the new one's keyslot is added, then the old one's removed and overwritten.
///
/// # Errors
/// [`Problem`] where the old one does not open it, or the file can't be written.
pub fn replace_kek(
    path: &Path,
    (old, new): (&NamedKek, &NamedKek),
    vm: VmId,
    disk: DiskId,
) -> std::result::Result<(), Problem> {
    let label = |kek: &NamedKek| Label::new(kek.0.reference().clone(), vm, disk);
    let open = || -> Result<Volume> {
        let file = OpenOptions::new().read(true).write(true).open(path).doing("open", path)?;
        Volume::open(file, path, old.0.reference())
    };
    let replace = || -> Result<()> {
        open()?.add_key((&old.0, &label(old)), (&new.0, &label(new)))?;
        // As the other half of a job, which trusts nothing that it remembers.
        open()?.keep_only(&label(new))
    };
    replace().map_err(|fault| fault.problem("cannot replace a disk's key"))
}
