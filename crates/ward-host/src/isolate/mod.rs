//! A VM's processes apart from everything else: each VM's as a user of its own, in a network of its own with nothing in it,
//! and able to open only what they need.
//!
//! ```text
//! user    a VM's user, for as long as a process of it lives
//! enter   what `ward confine` does: it confines itself, and becomes the program
//! ```
//!
//! The files of a VM home belong to the agent's user and stay so, whichever host runs the VM: images reach the processes as
//! open descriptors. The one exception is a vTPM's state, which swtpm replaces by name.
//!
//! What this machine's kernel, or the agent's user, can't do is left out. It is found out once, by trying, and told.

mod enter;
mod user;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Gid, Uid, geteuid};
use serde::{Deserialize, Serialize};
use ward_types::Isolation;

use crate::fault::{Doing, Fault, Result};
use crate::files;
pub use enter::confine;
pub(crate) use user::{Users, VmUser};

/// The lock on its user, as each process of a VM has it.
const USER_FD: RawFd = 3;
/// The first of the descriptors that a program is given besides.
pub(crate) const FIRST_FD: RawFd = 10;
/// The group of a process that holds no key. Of one user's processes, only those of one group can look into each other.
const NO_GROUP: u32 = 65534;

/// What programs need that is the same for all, where it is there: themselves, and what they are linked with.
const PROGRAMS: [&str; 6] = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store"];
const SETTINGS: [&str; 4] = ["/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ssl", "/sys/devices/system"];
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// What `ward confine` is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Orders {
    /// The user to become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Ids>,
    /// Whether to leave the host's network.
    #[serde(default)]
    own_network: bool,
    /// Whether it may lock as much memory as it likes, as root may.
    #[serde(default)]
    lock_memory: bool,
    /// Whether none of its memory may be in a core, whoever makes one.
    #[serde(default)]
    no_core: bool,
    /// What can still be opened; none means as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    files: Option<Files>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    user: u32,
    group: u32,
    /// Further groups.
    groups: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    /// Read, and started.
    programs: Vec<PathBuf>,
    read: Vec<PathBuf>,
    devices: Vec<PathBuf>,
    /// Where sockets are made and taken away.
    sockets: Vec<PathBuf>,
    /// Where files are made, changed and taken away.
    write: Vec<PathBuf>,
}

/// One of a VM's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The disk process, or swtpm: it has keys.
    Keeper,
    /// QEMU.
    Vmm,
}

/// What one process may see and touch.
pub(crate) struct Cell<'a> {
    pub(crate) part: Part,
    pub(crate) program: &'a Path,
    /// Where its sockets are.
    pub(crate) sockets: &'a Path,
    /// Directories whose files it changes.
    pub(crate) write: Vec<PathBuf>,
    /// What it is given open, from [`FIRST_FD`] on.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// How VMs are kept apart on this host.
pub(crate) struct Isolator {
    exe: PathBuf,
    users: Option<Users>,
    own_network: bool,
    lock_memory: bool,
    files: bool,
    report: Isolation,
}

impl Isolator {
    /// Finds out what can be done, by doing it.
    pub(crate) fn find(exe: PathBuf, users: Option<Users>) -> Self {
        let mut lacks = Vec::new();
        let mut can = |without: &str, outcome: std::result::Result<String, String>| {
            outcome.map_err(|why| lacks.push(format!("{without}: {why}"))).ok()
        };
        let users = users.filter(|users| {
            let tried = users.check().and_then(|first| try_out(&exe, &as_user(first)));
            can("VMs run as the agent's user", tried).is_some()
        });
        let network = Orders { own_network: true, ..Orders::default() };
        let network = can("processes of VMs stay in the host's network", try_out(&exe, &network));
        let locking = Orders { lock_memory: true, ..Orders::default() };
        let locking = can("disk processes can't lock all of their memory", try_out(&exe, &locking));
        let files =
            Orders { files: Some(Files { programs: vec![exe.clone()], ..Files::default() }), ..Orders::default() };
        let files = can("processes of VMs can open what their user can", try_out(&exe, &files));
        let seccomp = Path::new("/proc/sys/kernel/seccomp/actions_avail").exists().then(String::new);
        let seccomp = seccomp.ok_or_else(|| "the kernel has no seccomp".to_owned());
        can("processes of VMs can make any system call", seccomp);
        let report = Isolation {
            users: users.as_ref().map(ToString::to_string),
            own_network: network.is_some(),
            landlock: files.as_ref().and_then(|said| said.trim().parse().ok()),
            lacks,
        };
        let (own_network, lock_memory, files) = (network.is_some(), locking.is_some(), files.is_some());
        Self { exe, users, own_network, lock_memory, files, report }
    }

    pub(crate) fn report(&self) -> &Isolation {
        &self.report
    }

    /// What keeps the processes of one VM that is to be started apart.
    pub(crate) fn vm(&self) -> Result<Isolated<'_>> {
        Ok(Isolated { isolator: self, user: self.users.as_ref().map(Users::take).transpose()? })
    }
}

/// The processes of one VM.
pub(crate) struct Isolated<'a> {
    isolator: &'a Isolator,
    user: Option<VmUser>,
}

impl Isolated<'_> {
    /// The `ward` binary, of which the disk process is one.
    pub(crate) fn exe(&self) -> &Path {
        &self.isolator.exe
    }

    /// The VM's user, where it has one.
    pub(crate) fn user(&self) -> Option<&VmUser> {
        self.user.as_ref()
    }

    /// The command that starts a confined program, its arguments still to come.
    pub(crate) fn command(&self, cell: Cell<'_>) -> Result<Command> {
        let Cell { part, program, sockets, write, descriptors } = cell;
        let (isolator, user) = (self.isolator, self.user());
        let program = find_program(program);
        let kvm = (part == Part::Vmm).then(|| Path::new("/dev/kvm")).filter(|kvm| kvm.exists());
        let ids = user.map(|user| Ids {
            user: user.id(),
            group: if part == Part::Vmm { NO_GROUP } else { user.id() },
            groups: kvm.and_then(|kvm| Some(fs::metadata(kvm).ok()?.gid())).into_iter().collect(),
        });
        let devices = DEVICES.iter().map(Path::new).chain(kvm).map(Path::to_owned).collect();
        let files = isolator.files.then(|| Files {
            programs: PROGRAMS.iter().map(Path::new).chain([&*program]).map(Path::to_owned).collect(),
            read: SETTINGS.iter().map(Path::new).chain([sockets]).map(Path::to_owned).collect(),
            devices,
            sockets: vec![sockets.to_owned()],
            write,
        });
        let keeper = part == Part::Keeper;
        let orders = Orders {
            user: ids,
            own_network: isolator.own_network,
            lock_memory: isolator.lock_memory && keeper,
            no_core: keeper,
            files,
        };
        let mut command = command(&isolator.exe, &orders)?;
        command.arg(&program);
        let lock = match user {
            Some(user) => Some(FdMapping { parent_fd: user.lock()?, child_fd: USER_FD }),
            None => None,
        };
        let given = (FIRST_FD..).zip(descriptors).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        let mappings = lock.into_iter().chain(given).collect();
        command.fd_mappings(mappings).map_err(|error| Fault::internal(error.to_string()))?;
        Ok(command)
    }
}

fn as_user(id: u32) -> Orders {
    Orders { user: Some(Ids { user: id, group: id, groups: Vec::new() }), ..Orders::default() }
}

fn command(exe: &Path, orders: &Orders) -> Result<Command> {
    let orders = serde_json::to_string(orders).map_err(|error| Fault::internal(error.to_string()))?;
    let mut command = Command::new(exe);
    command.arg("confine").arg(orders);
    Ok(command)
}

/// Has nothing be run under these orders: what that says, or why it can't be done.
fn try_out(exe: &Path, orders: &Orders) -> std::result::Result<String, String> {
    let mut command = command(exe, orders).map_err(|fault| fault.why)?;
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Where a program is that is to be looked for in `PATH`.
fn find_program(program: &Path) -> PathBuf {
    if program.components().count() > 1 {
        return program.to_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| program.to_owned())
}

/// Gives a directory of the agent's, with the files in it, to a VM's user.
pub(crate) fn give(dir: &Path, user: Option<&VmUser>) -> Result<()> {
    user.map_or(Ok(()), |user| hand_over(dir, user.id()))
}

/// Takes back what was given.
pub(crate) fn take_back(dir: &Path) -> Result<()> {
    if fs::symlink_metadata(dir).is_ok_and(|metadata| metadata.uid() != geteuid().as_raw()) {
        return hand_over(dir, geteuid().as_raw());
    }
    Ok(())
}

fn hand_over(dir: &Path, owner: u32) -> Result<()> {
    let owner = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
    let change = |file: &dyn AsFd, path: &Path| {
        rustix::fs::fchown(file.as_fd(), owner.0, owner.1).map_err(|error| {
            let why = format!("{} can't be given to a VM's own user: {error}", path.display());
            let remedy =
                "let root change owners on the datastore (NFS: no_root_squash), or run the agent with --vm-users none";
            Fault::unfit(why, remedy)
        })
    };
    for name in files::names(dir)?.into_iter().collect::<BTreeSet<_>>() {
        let path = dir.join(name);
        // Its user could have put anything here, and what is given must not be another's file by a second name.
        if let Some(file) = files::open_regular(&path, false)? {
            if file.metadata().doing("look at", &path)?.nlink() != 1 {
                return Err(Fault::home_invalid(format!("{} has a second name", path.display())));
            }
            change(&file, &path)?;
        }
    }
    let opened = fs::File::open(dir).doing("open", dir)?;
    change(&opened, dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_handed_over_is_nobody_elses_file() {
        let dir = tempfile::tempdir().unwrap();
        let (state, other) = (dir.path().join("tpm"), dir.path().join("other"));
        files::make_private_dir(&state).unwrap();
        fs::write(state.join("a"), "a").unwrap();
        fs::write(&other, "b").unwrap();
        let owner = geteuid().as_raw();
        hand_over(&state, owner).unwrap();
        fs::hard_link(&other, state.join("b")).unwrap();
        assert!(hand_over(&state, owner).unwrap_err().why.contains("second name"));
        fs::remove_file(state.join("b")).unwrap();
        std::os::unix::fs::symlink(&other, state.join("b")).unwrap();
        assert!(hand_over(&state, owner).unwrap_err().why.contains("symbolic link"));
    }
}
