//! What a running VM has on this host besides its processes: a directory with its logs, a note by which the next agent finds
//! the VM again, and, below it, the directory that its processes have, with their sockets.
//!
//! The processes run as the VM's own user where they can. So what the agent goes by is not in their directory, and who
//! answers there is looked at.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use ward_rpc::api::host::{BrokenVm, HomeRef};
use ward_types::{Code, HostId, VmId};

use super::process::{self, Process, ProcessId};
use crate::fault::{Doing, Fault, Result};
use crate::files::{self, Moments};
use crate::home::{Holder, Home, Use};
use crate::isolate::{self, VmUser};

const NOTE: &str = "run.json";
/// The directory of the processes.
pub(crate) const PROCESSES: &str = "vm";
const MAX_NOTE: u64 = 64 << 10;
/// A log is emptied when it has grown beyond that.
const MAX_LOG: u64 = 256 << 10;
/// How much of a log is shown.
const TAIL: u64 = 2 << 10;

/// The logs.
pub(crate) const QEMU_LOG: &str = "qemu.log";
pub(crate) const DISK_LOG: &str = "disk.log";
pub(crate) const TPM_LOG: &str = "tpm.log";

/// What the next agent must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) vm: VmId,
    pub(crate) home: HomeRef,
    /// The disk process, if the VM needs one.
    pub(crate) disk: Option<ProcessId>,
    /// The process of its vTPM, if it has one.
    #[serde(default)]
    pub(crate) tpm: Option<ProcessId>,
    pub(crate) qemu: Option<ProcessId>,
    /// What of the home was, or is just being, given to the VM's user.
    #[serde(default)]
    pub(crate) lent: Option<Loan>,
    /// Whether the guest may have begun to run.
    pub(crate) started: bool,
    /// What has died since.
    #[serde(default)]
    pub(crate) broken: BTreeSet<BrokenVm>,
}

/// A directory that a VM's user has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loan {
    pub(crate) path: PathBuf,
    pub(crate) user: u32,
}

impl Note {
    /// Of a VM of which nothing is started yet.
    pub(crate) fn new(vm: VmId, home: HomeRef) -> Self {
        Self { vm, home, disk: None, tpm: None, qemu: None, lent: None, started: false, broken: BTreeSet::new() }
    }
}

/// The run directory of one VM.
#[derive(Clone, Debug)]
pub(crate) struct RunDir {
    /// The agent's.
    own: PathBuf,
    /// The processes'.
    path: PathBuf,
}

impl RunDir {
    /// Makes a new one.
    pub(crate) fn create(run_dir: &Path, vm: VmId) -> Result<Self> {
        let this = Self::at(run_dir.join(vm.to_string()));
        if files::exists(&this.own)? {
            // Of a run that could not be tidied up after.
            if !process::running_in(&this.path).is_empty() {
                let why = format!("processes of an earlier run are left in {}", this.path.display());
                return Err(Fault::new(Code::Busy, why, "end them, or restart the agent"));
            }
            files::remove_tree(&this.own)?;
        }
        for path in [&this.own, &this.path] {
            fs::create_dir(path).doing("create", path)?;
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).doing("protect", path)?;
        }
        Ok(this)
    }

    fn at(own: PathBuf) -> Self {
        Self { path: own.join(PROCESSES), own }
    }

    /// Gives the processes' directory, with what was put there for them, to their user.
    pub(crate) fn give(&self, user: Option<&VmUser>) -> Result<()> {
        isolate::give(&self.path, user)
    }

    /// All that there are.
    pub(crate) fn list(run_dir: &Path) -> Result<Vec<Self>> {
        let names = files::names(run_dir)?.into_iter();
        let is_vm = |name: &std::ffi::OsString| name.to_str().is_some_and(|name| name.parse::<VmId>().is_ok());
        Ok(names.filter(is_vm).map(|name| Self::at(run_dir.join(name))).collect())
    }

    /// Where the processes run.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the processes.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Connects to a socket of that process. Another's, to which a name was made to lead, is none.
    pub(crate) async fn connect(&self, name: &str, process: &Process) -> std::io::Result<UnixStream> {
        let stream = UnixStream::connect(self.file(name)).await?;
        if stream.peer_cred()?.pid() == Some(process.pid()) {
            return Ok(stream);
        }
        Err(std::io::Error::other(format!("somebody else answers at {name}")))
    }

    /// The note, if there is one that can be read.
    pub(crate) fn note(&self) -> Option<Note> {
        serde_json::from_slice(&files::read_small(&self.own.join(NOTE), MAX_NOTE).ok()??).ok()
    }

    /// Notes what the next agent must know.
    pub(crate) fn save(&self, note: &Note) -> Result<()> {
        let json = serde_json::to_vec(note).map_err(|error| Fault::internal(error.to_string()))?;
        files::write_atomically(&self.own.join(NOTE), &json, Moments { written: "run.written", renamed: "run.noted" })
    }

    /// A log for a process to write to.
    pub(crate) fn log(&self, name: &str) -> Result<File> {
        let path = self.own.join(name);
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).doing("create", &path)
    }

    /// Empties logs that have grown too long. Their writers append, so that they go on at the new end.
    pub(crate) fn trim_logs(&self) {
        for name in [QEMU_LOG, DISK_LOG, TPM_LOG] {
            let path = self.own.join(name);
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG)
                && let Ok(file) = OpenOptions::new().write(true).open(&path)
            {
                let _ = file.set_len(0);
            }
        }
    }

    /// The last lines of a log, as one line.
    pub(crate) fn tail(&self, name: &str) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(self.own.join(name))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
            let mut bytes = Vec::new();
            file.take(TAIL).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        files::one_line(&bytes)
    }

    /// Removes it with all in it, now that its processes have ended, and takes back what they were given.
    pub(crate) fn remove(&self, host: HostId) -> Result<()> {
        if let Some(note) = self.note()
            && let Some(loan) = &note.lent
        {
            let locked = Home::open(&note.home).and_then(|home| home.lock(&Holder { host, r#use: Use::Vm(note.vm) }));
            match locked {
                Ok(_lock) => isolate::take_back(&loan.path, loan.user)?,
                // It runs elsewhere by now, or a job works on it: what it has there is that one's.
                Err(fault) if matches!(fault.code, Code::Busy | Code::VmRunning | Code::NotFound) => {}
                Err(fault) => return Err(fault),
            }
        }
        files::remove_tree(&self.own)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    fn process(pid: u32) -> Process {
        Process::find(&ProcessId::of(pid).unwrap()).unwrap().unwrap()
    }

    #[tokio::test]
    async fn who_answers_in_another_processs_place_is_not_talked_to() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(dir.path(), VmId::new()).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(run_dir.file("qmp.sock")).unwrap();
        run_dir.connect("qmp.sock", &process(std::process::id())).await.unwrap();
        let mut other = Command::new("sleep").arg("600").spawn().unwrap();
        let error = run_dir.connect("qmp.sock", &process(other.id())).await.unwrap_err();
        assert!(error.to_string().contains("somebody else answers"), "{error}");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_log_is_told_in_one_line_that_moves_no_cursor() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(dir.path(), VmId::new()).unwrap();
        let log = run_dir.own.join(QEMU_LOG);
        fs::write(&log, "one\x1b[2J\r\n\n two\u{9b}K\x07").unwrap();
        assert_eq!(run_dir.tail(QEMU_LOG), "one[2J; twoK");
        fs::write(&log, vec![b'x'; usize::try_from(MAX_LOG).unwrap() + 1]).unwrap();
        run_dir.trim_logs();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
    }
}
