//! A VM home: a directory on a datastore with the VM's description, its disks, and what it boots.

pub(crate) mod codec;
mod lock;
mod uses;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use ward_rpc::api::host::HomeRef;
use ward_secret::HomeKey;
use ward_types::{Boot, Code, FileName, VmConfig, VolumeRef};

use crate::fault::{Doing, Fault, Result};
use crate::files::{self, Moments};
use crate::vtpm;
pub(crate) use codec::{Described, VerifiedHome};
pub(crate) use lock::{Holder, HomeLock, JobLock, Use, is_lock, lock_file};
pub(crate) use uses::{mark, uses};

/// The description's name.
pub(crate) const VM_TOML: &str = "vm.toml";
/// The name of the record of a job that is under way.
pub(crate) const JOB_JSON: &str = "job.json";

const MAX_DESCRIPTION: u64 = 1 << 20;

/// A home that is there.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
}

/// The datastore of a home, which must be there.
pub(crate) fn check_datastore(home: &HomeRef) -> Result<()> {
    let path = &home.datastore;
    if !path.is_absolute() {
        return Err(Fault::invalid(format!("the datastore's path {} is not absolute", path.display())));
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Fault::new(
            Code::NotFound,
            format!("the datastore {} is no directory", path.display()),
            "correct the datastore's path",
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Fault::new(
            Code::NotFound,
            format!("this host has no datastore {}", path.display()),
            "mount the datastore there, as on the other hosts of the cluster",
        )),
        Err(error) => Err(Fault::io("look at the datastore", path, &error)),
    }
}

impl Home {
    /// Finds a home.
    pub(crate) fn open(home: &HomeRef) -> Result<Self> {
        check_datastore(home)?;
        let path = home.path();
        let missing = || {
            Fault::new(
                Code::NotFound,
                format!("there is no VM home {}", path.display()),
                "check that the right datastore is mounted there; if the home was deleted, remove the VM from the inventory",
            )
        };
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                mark(&home.datastore);
                Ok(Self { path })
            }
            Ok(_) => Err(Fault::home_invalid(format!("{} is no directory", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(missing()),
            Err(error) => Err(Fault::io("look at the VM home", &path, &error)),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of it is.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the home for oneself.
    pub(crate) fn lock(&self, holder: &Holder) -> Result<HomeLock> {
        lock::lock_home(&self.path, holder)
    }

    /// Takes the home for a job: alone, or else as much of it as can be had beside the VM that runs on this host.
    pub(crate) fn lock_for_job(&self, holder: &Holder, alone: bool) -> Result<JobLock> {
        if alone { lock::lock_alone(&self.path, holder) } else { lock::lock_beside_vm(&self.path, holder) }
    }

    /// Reads the description.
    pub(crate) fn read(&self) -> Result<Described> {
        let path = self.file(VM_TOML);
        let content = files::read_small(&path, MAX_DESCRIPTION)?
            .ok_or_else(|| Fault::home_invalid(format!("there is no {}", path.display())))?;
        codec::decode(&content)
    }

    /// Replaces the description.
    pub(crate) fn write(&self, config: &VmConfig, key: Option<&HomeKey>, moments: Moments) -> Result<()> {
        files::write_atomically(&self.file(VM_TOML), &codec::encode(config, key)?, moments)
    }

    /// Opens a disk or another file that the description names. No link is followed.
    pub(crate) fn open_file(&self, name: &FileName, write: bool) -> Result<File> {
        let path = self.file(name.as_str());
        files::open_regular(&path, write)?.ok_or_else(|| {
            Fault::new(
                Code::ImageMissing,
                format!("there is no {}, which the VM's description names", path.display()),
                "restore it from a backup",
            )
        })
    }

    /// Looks for each file that the description names.
    pub(crate) fn check_files(&self, config: &VmConfig) -> Result<()> {
        self.check(config, config.volumes())
    }

    /// Looks for each file that the VM needs to run.
    pub(crate) fn check_files_to_run(&self, config: &VmConfig) -> Result<()> {
        self.check(config, config.volumes_to_run())
    }

    fn check<'a>(&self, config: &'a VmConfig, volumes: impl Iterator<Item = VolumeRef<'a>>) -> Result<()> {
        let boot = match &config.boot {
            Boot::Disk => [None, None],
            Boot::Kernel { kernel, initrd, .. } => [Some(kernel), initrd.as_ref()],
        };
        let names = boot.into_iter().flatten().chain(volumes.map(|volume| volume.file));
        for name in names {
            self.open_file(name, false)?;
        }
        if let Some(tpm) = &config.tpm {
            vtpm::check_there(&self.file(tpm.state.as_str()))?;
        }
        Ok(())
    }

    /// Whether anything in the home has that name.
    pub(crate) fn has(&self, name: &str) -> Result<bool> {
        files::exists(&self.file(name))
    }

    /// Removes a file of the home, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        files::remove(&self.file(name))
    }

    /// Renames a file of the home.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let from = self.file(from);
        fs::rename(&from, self.file(to)).doing("rename", &from)
    }

    /// Makes the names in the home last.
    pub(crate) fn sync(&self) -> Result<()> {
        files::sync_dir(&self.path)
    }
}
