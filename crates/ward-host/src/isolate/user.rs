//! A VM's own user.
//!
//! An ID is taken by locks on a file of its name: the agent has one while it starts the VM, and each process of the VM one of
//! its own, which no other process can let go. So it is given to no other VM, by no agent of this machine, before the last of
//! them has ended, and an agent that comes later need not know of it. A process that has let go of its own lock, which only one
//! does that somebody took over, is found by its user.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
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
    path: PathBuf,
    _lock: File,
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
        let alive = users_of_processes()?;
        for id in self.ids.clone().filter(|id| !alive.contains(id)) {
            let path = self.directory.join(id.to_string());
            let lock = open(&path)?;
            // Whether it is all ours; then in a way in which the VM's processes can have it too. Another agent may come between.
            if try_lock(&path, lock.try_lock())? && try_lock(&path, lock.try_lock_shared())? {
                return Ok(VmUser { id, path, _lock: lock });
            }
        }
        let why = format!("all users that VMs can have on this host ({self}) are taken");
        Err(Fault::new(Code::HostUnfit, why, "stop VMs, or give the agent a larger range (--vm-users)"))
    }
}

fn try_lock(path: &Path, tried: std::result::Result<(), TryLockError>) -> Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Fault::io("lock", path, &error)),
    }
}

/// Not to be written to: processes of VMs get it.
fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    opened.map(File::from).map_err(std::io::Error::from).doing("open", path)
}

/// The users of all processes that there are.
fn users_of_processes() -> Result<HashSet<u32>> {
    let proc = Path::new("/proc");
    let mut users = HashSet::new();
    for entry in fs::read_dir(proc).doing("read", proc)? {
        let path = entry.doing("read", proc)?.path().join("status");
        // One that has just ended, or no process.
        let Ok(status) = fs::read_to_string(&path) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        users.extend(line.into_iter().flat_map(str::split_whitespace).filter_map(|id| id.parse::<u32>().ok()));
    }
    Ok(users)
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

    /// What a process must hold: a lock of its own.
    pub(super) fn lock(&self) -> Result<OwnedFd> {
        let lock = open(&self.path)?;
        if try_lock(&self.path, lock.try_lock_shared())? {
            return Ok(lock.into());
        }
        Err(Fault::internal(format!("somebody else has taken {}", self.path.display())))
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
        let (held, another) = (first.lock().unwrap(), first.lock().unwrap());
        drop(first);
        assert!(users.take().is_err(), "two processes hold it");
        // One that was taken over lets go of what it has.
        File::from(another.try_clone().unwrap()).unlock().unwrap();
        assert!(users.take().is_err(), "the other process holds it");
        assert!(rustix::io::write(&held, b"x").is_err(), "nothing can be written there");
        drop((held, another));
        assert_eq!(users.take().unwrap().id(), 7);
    }

    #[test]
    fn one_of_which_a_process_is_left_is_not_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let own = geteuid().as_raw();
        let users = Users { ids: own..=own + 1, directory: dir.path().join("users") };
        assert_eq!(users.take().unwrap().id(), own + 1, "this process is one of the first");
    }
}
