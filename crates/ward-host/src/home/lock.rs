//! Who works on a home: one job, or the VM that runs from it, on whichever host.
//!
//! The lock is on the file `.lock`, by `flock`: it goes with the open file. A job holds it itself. For a running VM, QEMU
//! holds it (the open file is its standard input), so that it lasts exactly as long as the VM, whatever becomes of the
//! agent. What stands in the file only tells others who it is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use ward_types::{Code, HostId, TaskId, VmId};

use crate::fault::{Doing, Fault, Result};

const LOCK: &str = ".lock";

/// Who has a home, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) host: HostId,
    pub(crate) r#use: Use,
}

/// What a home is used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Use {
    /// A job works on it.
    Job(TaskId),
    /// A VM runs from it.
    Vm(VmId),
    /// It is no home: an agent keeps its state there.
    Agent,
}

/// A home that nobody else has.
#[derive(Debug)]
pub(crate) struct HomeLock {
    file: File,
}

impl HomeLock {
    /// The open file that is the lock, to be given to the process that shall keep it.
    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// Whether the directory at `home` is still the one that was locked.
    fn holds(&self, home: &Path) -> bool {
        let (Ok(mine), Ok(there)) = (self.file.metadata(), std::fs::symlink_metadata(home.join(LOCK))) else {
            return false;
        };
        (mine.dev(), mine.ino()) == (there.dev(), there.ino())
    }
}

/// Locks the home in that directory, or says who has it.
pub(crate) fn lock_file(home: &Path, holder: &Holder) -> Result<HomeLock> {
    let path = home.join(LOCK);
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(&path)
        .doing("open", &path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(taken(&mut file, home)),
        Err(TryLockError::Error(error)) => return Err(Fault::io("lock", &path, &error)),
    }
    let lock = HomeLock { file };
    if !lock.holds(home) {
        // It was renamed or deleted between opening and locking.
        return Err(busy(format!("{} was just changed by another job", home.display())));
    }
    let said = serde_json::to_vec(holder).map_err(|error| Fault::internal(error.to_string()))?;
    // It says what it says for people; after a crash it may be empty, and nothing depends on it.
    let mut file = &lock.file;
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&said)).doing("write", &path)?;
    Ok(lock)
}

fn taken(file: &mut File, home: &Path) -> Fault {
    let mut text = String::new();
    let said = file.take(4096).read_to_string(&mut text).ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok());
    match said {
        Some(Holder { host, r#use: Use::Vm(vm) }) => Fault::new(
            Code::VmRunning,
            format!("the VM {vm} runs from {} on host {host}", home.display()),
            "stop it first with `ward vm stop`",
        ),
        Some(Holder { host, r#use: Use::Job(job) }) => {
            busy(format!("job {job} of host {host} works on {}", home.display()))
        }
        Some(Holder { r#use: Use::Agent, .. }) | None => busy(format!("somebody works on {}", home.display())),
    }
}

fn busy(why: String) -> Fault {
    Fault::new(Code::Busy, why, "wait for it to end, or cancel it, and ask again")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_at_a_time_and_the_other_is_named() {
        let home = tempfile::tempdir().unwrap();
        let (host, job, vm) = (HostId::new(), TaskId::new(), VmId::new());
        let lock = lock_file(home.path(), &Holder { host, r#use: Use::Job(job) }).unwrap();
        let fault = lock_file(home.path(), &Holder { host, r#use: Use::Vm(vm) }).unwrap_err();
        assert_eq!(fault.code, Code::Busy);
        assert!(fault.why.contains(&job.to_string()), "{fault:?}");
        drop(lock);

        let kept = lock_file(home.path(), &Holder { host, r#use: Use::Vm(vm) }).unwrap().into_file();
        let copy = kept.try_clone().unwrap();
        drop(kept);
        let fault = lock_file(home.path(), &Holder { host, r#use: Use::Job(job) }).unwrap_err();
        assert_eq!(fault.code, Code::VmRunning, "a duplicate in another process keeps the lock");
        assert!(fault.why.contains(&vm.to_string()) && fault.why.contains(&host.to_string()), "{fault:?}");
        drop(copy);
        lock_file(home.path(), &Holder { host, r#use: Use::Job(job) }).unwrap();
    }
}
