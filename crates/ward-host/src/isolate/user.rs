//! A VM's own user.
//!
//! An ID is taken by a lock on a file of its name, which all processes of the VM hold. So it is given to no other VM, by no
//! agent of this machine, before the last of them has ended, and an agent that comes later need not know of it.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use ward_types::Code;

use crate::fault::{Doing, Fault, Result};

/// Where the locks are, which must go with the machine's power.
const DIRECTORY: &str = "/run/ward/users";

/// The IDs that VMs are given, users' and groups' alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Users {
    ids: RangeInclusive<u32>,
    directory: PathBuf,
}

/// Goes with the last process that holds it.
#[derive(Debug)]
pub(crate) struct VmUser {
    id: u32,
    lock: File,
}

impl Users {
    pub(crate) fn new(ids: RangeInclusive<u32>) -> Self {
        Self { ids, directory: DIRECTORY.into() }
    }

    /// Whether users can be given at all: the first of them.
    pub(super) fn check(&self) -> std::result::Result<u32, String> {
        if !geteuid().is_root() {
            return Err("it is not root".into());
        }
        make(&self.directory).map_err(|fault| fault.why)?;
        Ok(*self.ids.start())
    }

    /// One that no VM has.
    pub(super) fn take(&self) -> Result<VmUser> {
        make(&self.directory)?;
        for id in self.ids.clone() {
            let path = self.directory.join(id.to_string());
            let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
            let lock = lock.doing("open", &path)?;
            match lock.try_lock() {
                Ok(()) => return Ok(VmUser { id, lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(Fault::io("lock", &path, &error)),
            }
        }
        let why = format!("all users that VMs can have on this host ({self}) are taken");
        Err(Fault::new(Code::HostUnfit, why, "stop VMs, or give the agent a larger range (--vm-users)"))
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ids.start(), self.ids.end())
    }
}

impl VmUser {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// What a process must hold.
    pub(super) fn lock(&self) -> Result<OwnedFd> {
        self.lock.try_clone().map(OwnedFd::from).doing("hold", Path::new(DIRECTORY))
    }
}

fn make(directory: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).doing("create", directory)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn no_two_have_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users { ids: 7..=8, directory: dir.path().join("users") };
        let (first, second) = (users.take().unwrap(), users.take().unwrap());
        assert_eq!((first.id(), second.id()), (7, 8));
        assert!(users.take().unwrap_err().why.contains("7-8"));
        let held = first.lock().unwrap();
        drop(first);
        assert!(users.take().is_err(), "a process holds it");
        drop(held);
        assert_eq!(users.take().unwrap().id(), 7);
    }
}
