//! Who works on a home: one job, or the VM that runs from it, on whichever host.
//!
//! The lock is on the file `.lock`, by `flock`: it goes with the open file. A job holds it itself. For a running VM, QEMU
//! holds it (the open file is its standard input), so that it lasts exactly as long as the VM, whatever becomes of the
//! agent. What stands in the file only tells others who it is.
//!
//! A second lock, on `.lock-job`, is held by whoever changes the home or reads it to start the VM. It alone is enough for
//! a job that works beside the running VM, on the VM's own host: one that replaces keys and touches no content.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ward_types::{Code, HostId, TaskId, VmId};

use crate::fault::{Doing, Fault, Result};

const LOCK: &str = ".lock";
const JOB_LOCK: &str = ".lock-job";

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

/// Whether a name in a home is that of a lock.
pub(crate) fn is_lock(name: &std::ffi::OsStr) -> bool {
    name == LOCK || name == JOB_LOCK
}

/// A home that nobody else has.
#[derive(Debug)]
pub(crate) struct HomeLock {
    file: File,
    _jobs: Option<File>,
}

impl HomeLock {
    /// The open file that is the lock, to be given to the process that shall keep it, and that can't change what stands in
    /// it. Jobs may work beside that one.
    pub(crate) fn into_file(self) -> Result<File> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let kept = File::open(&path).doing("open", &path)?;
        // Whoever wants this one takes that of jobs first, so that nobody comes between.
        self.file.unlock().doing("unlock", &path)?;
        match kept.try_lock() {
            Ok(()) => Ok(kept),
            // Over NFS only what can be written can be locked.
            Err(TryLockError::Error(_)) if matches!(self.file.try_lock(), Ok(())) => Ok(self.file),
            Err(error) => Err(busy(format!("its lock could not be kept: {error}"))),
        }
    }
}

/// A home that no other job has, but perhaps a VM that runs on this host.
#[derive(Debug)]
pub(crate) struct JobLock {
    used: Option<File>,
    _jobs: File,
}

impl JobLock {
    /// Whether no VM runs from the home.
    pub(crate) const fn is_alone(&self) -> bool {
        self.used.is_some()
    }
}

/// Locks the directory, and no more than that.
pub(crate) fn lock_file(dir: &Path, holder: &Holder) -> Result<HomeLock> {
    let file = try_lock(dir, LOCK, holder)?.map_err(|said| taken(said, dir))?;
    Ok(HomeLock { file, _jobs: None })
}

/// Locks the home in that directory, or says who has it.
pub(crate) fn lock_home(home: &Path, holder: &Holder) -> Result<HomeLock> {
    let jobs = lock_jobs(home, holder)?;
    let lock = lock_file(home, holder)?;
    Ok(HomeLock { _jobs: Some(jobs), ..lock })
}

/// As [`lock_home`], for a job.
pub(crate) fn lock_alone(home: &Path, holder: &Holder) -> Result<JobLock> {
    let jobs = lock_jobs(home, holder)?;
    Ok(JobLock { used: Some(lock_file(home, holder)?.file), _jobs: jobs })
}

/// As [`lock_alone`], but where the VM runs on this very host, so much of the home as can be had beside it.
pub(crate) fn lock_beside_vm(home: &Path, holder: &Holder) -> Result<JobLock> {
    let jobs = lock_jobs(home, holder)?;
    match try_lock(home, LOCK, holder)? {
        Ok(file) => Ok(JobLock { used: Some(file), _jobs: jobs }),
        Err(Some(Holder { host, r#use: Use::Vm(_) })) if host == holder.host => Ok(JobLock { used: None, _jobs: jobs }),
        Err(Some(Holder { host, r#use: Use::Vm(vm) })) => Err(Fault::new(
            Code::VmRunning,
            format!("VM {vm} runs on host {host}, and meanwhile its keys can be replaced there alone"),
            "ask again: the controller then asks that host",
        )),
        Err(said) => Err(taken(said, home)),
    }
}

fn lock_jobs(home: &Path, holder: &Holder) -> Result<File> {
    try_lock(home, JOB_LOCK, holder)?.map_err(|said| match said {
        Some(Holder { r#use: Use::Vm(vm), .. }) => busy(format!("VM {vm} is just being started")),
        said => taken(said, home),
    })
}

/// The locked file, or what who has it wrote into it.
fn try_lock(dir: &Path, name: &str, holder: &Holder) -> Result<std::result::Result<File, Option<Holder>>> {
    let path = dir.join(name);
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
        Err(TryLockError::WouldBlock) => return Ok(Err(said(&mut file))),
        Err(TryLockError::Error(error)) => return Err(Fault::io("lock", &path, &error)),
    }
    let is_still_there = match (file.metadata(), std::fs::symlink_metadata(&path)) {
        (Ok(mine), Ok(there)) => (mine.dev(), mine.ino()) == (there.dev(), there.ino()),
        _ => false,
    };
    if !is_still_there {
        // It was renamed or deleted between opening and locking.
        return Err(busy(format!("{} was just changed by another job", dir.display())));
    }
    let text = serde_json::to_vec(holder).map_err(|error| Fault::internal(error.to_string()))?;
    // It may be empty after a crash; then who has it is not known, and it is refused as taken.
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text)).doing("write", &path)?;
    Ok(Ok(file))
}

fn said(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn taken(said: Option<Holder>, home: &Path) -> Fault {
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

        let kept = lock_file(home.path(), &Holder { host, r#use: Use::Vm(vm) }).unwrap().into_file().unwrap();
        assert!((&kept).write(b"garbage").is_err(), "whoever keeps it can't say that another has it");
        let copy = kept.try_clone().unwrap();
        drop(kept);
        let fault = lock_file(home.path(), &Holder { host, r#use: Use::Job(job) }).unwrap_err();
        assert_eq!(fault.code, Code::VmRunning, "a duplicate in another process keeps the lock");
        assert!(fault.why.contains(&vm.to_string()) && fault.why.contains(&host.to_string()), "{fault:?}");
        drop(copy);
        lock_file(home.path(), &Holder { host, r#use: Use::Job(job) }).unwrap();
    }

    #[test]
    fn one_job_works_beside_a_vm_on_its_own_host_only() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        let (host, vm) = (HostId::new(), VmId::new());
        let job = || Holder { host, r#use: Use::Job(TaskId::new()) };
        let starting = lock_home(home, &Holder { host, r#use: Use::Vm(vm) }).unwrap();
        assert_eq!(lock_beside_vm(home, &job()).unwrap_err().code, Code::Busy, "it is being started");
        let runs = starting.into_file();

        assert_eq!(lock_home(home, &job()).unwrap_err().code, Code::VmRunning);
        let elsewhere = Holder { host: HostId::new(), r#use: Use::Job(TaskId::new()) };
        assert_eq!(lock_beside_vm(home, &elsewhere).unwrap_err().code, Code::VmRunning);
        let beside = lock_beside_vm(home, &job()).unwrap();
        assert!(!beside.is_alone());
        assert_eq!(lock_beside_vm(home, &job()).unwrap_err().code, Code::Busy);

        // The VM ends while the job works: nobody starts it before that is done.
        drop(runs);
        assert_eq!(lock_home(home, &Holder { host, r#use: Use::Vm(vm) }).unwrap_err().code, Code::Busy);
        drop(beside);
        assert!(lock_beside_vm(home, &job()).unwrap().is_alone());
        lock_home(home, &Holder { host, r#use: Use::Vm(vm) }).unwrap();
    }
}
