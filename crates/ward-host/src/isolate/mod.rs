//! A VM's processes apart from everything else: each VM's as a user of its own, in a network of its own with nothing in it,
//! and able to open only what they need.
//!
//! ```text
//! user    a VM's user, for as long as a process of it lives
//! lent    what of the agent's that user has
//! enter   what `ward confine` does: it confines itself, and becomes the program
//! ```
//!
//! The files of a VM home belong to the agent's user and stay so, whichever host runs the VM: images reach the processes as
//! open descriptors. The one exception is a vTPM's state, which swtpm replaces by name: it is lent to the VM's user.
//!
//! What works on a home without a VM is confined too: a swtpm as that of a VM, with a user for the time; what converts disks
//! as the agent's user, since it makes files, but with little more than its files in reach.
//!
//! What this machine's kernel, or the agent's user, can't do is left out. It is found out once, by trying, and told.

mod enter;
mod lent;
mod user;

use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use command_fds::{CommandFdExt, FdMapping};
use serde::{Deserialize, Serialize};
use ward_types::Isolation;

use crate::fault::{Fault, Result};
use crate::files;
pub use enter::confine;
pub(crate) use lent::{Lent, give, take_back, take_back_all};
pub(crate) use user::{Users, VmUser};

/// The lock on its user, as each process of a VM has it.
const USER_FD: RawFd = 3;
/// The first of the descriptors that a program is given besides.
pub(crate) const FIRST_FD: RawFd = 10;
/// The group of a process that holds no key. Of one user's processes, only those of one group can look into each other.
const NO_GROUP: u32 = 65534;

/// What programs need that is the same for all, where it is there: themselves, and what they are linked with.
const PROGRAMS: [&str; 6] = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store"];
/// Beside the directory that a program is in.
const BESIDE: [&str; 4] = ["lib", "lib64", "libexec", "share"];
const SETTINGS: [&str; 4] = ["/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ssl", "/sys/devices/system"];
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// Where sockets of the machine's services are, which no rule of Landlock's closes, and other things of passing.
const HIDDEN: [&str; 3] = ["/run", "/tmp", "/var"];

/// What `ward confine` is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Orders {
    /// The user to become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Ids>,
    /// Whether to stay the agent's user, but without all privileges that it does not take to open files.
    #[serde(default)]
    few_privileges: bool,
    /// Whether to leave the host's network.
    #[serde(default)]
    own_network: bool,
    /// Directories that are to be empty for it.
    #[serde(default)]
    hide: Vec<PathBuf>,
    /// Whether it may lock as much memory as it likes, as root may.
    #[serde(default)]
    lock_memory: bool,
    #[serde(default)]
    cores: Cores,
    #[serde(default)]
    calls: Calls,
    /// What can still be opened; none means as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    files: Option<Files>,
}

/// What becomes of its memory when it crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Cores {
    /// What would become of the agent's.
    #[default]
    AsBefore,
    /// The kernel writes it to no file. If it is told of a program that takes dumps, that gets it.
    Handed,
    /// Nobody gets any of it, whoever makes the core.
    None,
}

/// Which system calls it may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Calls {
    #[default]
    All,
    /// None that no program of a VM's needs.
    Few,
    /// And io_uring.
    FewAndRings,
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

/// One of a VM's processes, or one that works on a home without a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The disk process: it has keys.
    Disk,
    /// swtpm: it has a key.
    Tpm,
    /// QEMU.
    Vmm,
    /// What converts disks: it has keys, and makes files of the agent's.
    Converter,
}

/// What one process may see and touch.
pub(crate) struct Cell<'a> {
    pub(crate) part: Part,
    pub(crate) program: &'a Path,
    /// Where its sockets are, if it has any.
    pub(crate) sockets: Option<&'a Path>,
    /// Files that it reads.
    pub(crate) read: Vec<PathBuf>,
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
    hide: bool,
    lock_memory: bool,
    calls: bool,
    files: bool,
    report: Isolation,
}

impl Isolator {
    /// For one that starts nothing.
    pub(crate) fn idle() -> Self {
        Self {
            exe: PathBuf::new(),
            users: None,
            own_network: false,
            hide: false,
            lock_memory: false,
            calls: false,
            files: false,
            report: Isolation::default(),
        }
    }

    /// Finds out what can be done, by doing it.
    pub(crate) fn find(exe: PathBuf, users: Option<Users>) -> Self {
        let mut lacks = Vec::new();
        let mut can = |without: &str, outcome: std::result::Result<String, String>| {
            outcome.map_err(|why| lacks.push(format!("{without}: {why}"))).ok()
        };
        let users = users.filter(|users| {
            let tried = users.check().and_then(|first| try_out(&exe, &as_user(first)));
            can("VMs run as the agent's user", tried.and_then(|said| kvm_group().map(|_| said))).is_some()
        });
        let network = Orders { own_network: true, ..Orders::default() };
        let network = can("processes of VMs stay in the host's network", try_out(&exe, &network));
        let hide = Orders { hide: hidden(&exe), ..Orders::default() };
        let hide = can("processes of VMs can call on services of this machine", try_out(&exe, &hide));
        let locking = Orders { lock_memory: true, ..Orders::default() };
        let locking = can("disk processes can't lock all of their memory", try_out(&exe, &locking));
        let files =
            Orders { files: Some(Files { programs: vec![exe.clone()], ..Files::default() }), ..Orders::default() };
        let files = can("processes of VMs can open what their user can", try_out(&exe, &files));
        let calls = Orders { calls: Calls::Few, ..Orders::default() };
        let calls = can("processes of VMs can make any system call", try_out(&exe, &calls));
        let report = Isolation {
            users: users.as_ref().map(ToString::to_string),
            own_network: network.is_some(),
            landlock: files.as_ref().and_then(|said| said.trim().parse().ok()),
            lacks,
        };
        Self {
            users,
            own_network: network.is_some(),
            hide: hide.is_some(),
            lock_memory: locking.is_some(),
            calls: calls.is_some(),
            files: files.is_some(),
            report,
            exe,
        }
    }

    pub(crate) fn report(&self) -> &Isolation {
        &self.report
    }

    /// What keeps the processes of one VM that is to be started apart, or a swtpm without a VM.
    pub(crate) fn vm(self: &Arc<Self>) -> Result<Isolated> {
        Ok(Isolated { user: self.users.as_ref().map(Users::take).transpose()?, isolator: Arc::clone(self) })
    }

    /// The command that starts what converts a disk: of the agent's files it gets at these only.
    pub(crate) fn converter(self: &Arc<Self>, read: PathBuf, write: PathBuf) -> Result<Command> {
        let cell = Cell {
            part: Part::Converter,
            program: &self.exe,
            sockets: None,
            read: vec![read],
            write: vec![write],
            descriptors: Vec::new(),
        };
        Isolated { user: None, isolator: Arc::clone(self) }.command(cell)
    }
}

/// The processes of one VM.
pub(crate) struct Isolated {
    isolator: Arc<Isolator>,
    user: Option<VmUser>,
}

impl Isolated {
    /// The `ward` binary, of which the disk process is one.
    pub(crate) fn exe(&self) -> &Path {
        &self.isolator.exe
    }

    /// The VM's user, where it has one.
    pub(crate) fn user(&self) -> Option<&VmUser> {
        self.user.as_ref()
    }

    /// Gives a directory to the VM's user until that is dropped, or ended.
    pub(crate) fn lend(&self, dir: &Path) -> Result<Lent> {
        Lent::new(dir, self.user())
    }

    /// The command that starts a confined program, its arguments still to come.
    pub(crate) fn command(&self, cell: Cell<'_>) -> Result<Command> {
        let isolator = &*self.isolator;
        let program = find_program(cell.program);
        let orders = self.orders(&cell, &program)?;
        let mut command = command(&isolator.exe, &orders)?;
        command.arg(&program);
        let lock = match self.user() {
            Some(user) => Some(FdMapping { parent_fd: user.lock()?, child_fd: USER_FD }),
            None => None,
        };
        let given = (FIRST_FD..).zip(cell.descriptors).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        let mappings = lock.into_iter().chain(given).collect();
        command.fd_mappings(mappings).map_err(|error| Fault::internal(error.to_string()))?;
        Ok(command)
    }

    fn orders(&self, cell: &Cell<'_>, program: &Path) -> Result<Orders> {
        let Cell { part, sockets, read, write, .. } = cell;
        let isolator = &*self.isolator;
        let is_vmm = *part == Part::Vmm;
        let kvm = is_vmm.then(|| Path::new(KVM)).filter(|kvm| kvm.exists());
        let user = match self.user() {
            Some(user) if is_vmm => {
                let groups = kvm_group()
                    .map_err(|why| Fault::unfit(why, "give it a group of its own, and restart the agent"))?;
                Some(Ids { user: user.id(), group: NO_GROUP, groups: groups.into_iter().collect() })
            }
            Some(user) => Some(Ids { user: user.id(), group: user.id(), groups: Vec::new() }),
            None => None,
        };
        let owned = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let files = isolator.files.then(|| Files {
            programs: [owned(&PROGRAMS), installed(program)].concat(),
            read: [owned(&SETTINGS), sockets.iter().map(|path| path.to_path_buf()).collect(), read.clone()].concat(),
            devices: owned(&DEVICES).into_iter().chain(kvm.map(Path::to_owned)).collect(),
            sockets: sockets.iter().map(|path| path.to_path_buf()).collect(),
            write: write.clone(),
        });
        Ok(Orders {
            user,
            few_privileges: *part == Part::Converter,
            own_network: isolator.own_network,
            // What converts opens its files there by name.
            hide: if isolator.hide && *part != Part::Converter { hidden(program) } else { Vec::new() },
            lock_memory: isolator.lock_memory && !is_vmm,
            cores: if is_vmm { Cores::Handed } else { Cores::None },
            calls: match part {
                _ if !isolator.calls => Calls::All,
                Part::Disk => Calls::FewAndRings,
                Part::Tpm | Part::Vmm | Part::Converter => Calls::Few,
            },
            files,
        })
    }
}

const KVM: &str = "/dev/kvm";

/// The group that QEMU needs for KVM, if it needs one.
fn kvm_group() -> std::result::Result<Option<u32>, String> {
    match fs::metadata(KVM) {
        Ok(kvm) => group_for(kvm.permissions().mode(), kvm.gid()),
        Err(_) => Ok(None),
    }
}

/// The group that it takes to use a device.
fn group_for(mode: u32, group: u32) -> std::result::Result<Option<u32>, String> {
    match (mode & 0o006 == 0o006, mode & 0o060 == 0o060, group) {
        (true, _, _) => Ok(None),
        (false, true, 1..) => Ok(Some(group)),
        _ => Err(format!("{KVM} is for root only")),
    }
}

/// What a program that is not where programs are needs of the place where it is: itself, and what was installed with it.
fn installed(program: &Path) -> Vec<PathBuf> {
    let prefix = program.parent().filter(|bin| bin.ends_with("bin")).and_then(Path::parent);
    let beside = prefix.into_iter().flat_map(|prefix| BESIDE.iter().map(|name| prefix.join(name)));
    std::iter::once(program.to_owned()).chain(beside).collect()
}

/// What can be hidden from a program that has to be found itself.
fn hidden(program: &Path) -> Vec<PathBuf> {
    let hidden = HIDDEN.iter().map(PathBuf::from);
    hidden.filter(|directory| directory.is_dir() && !program.starts_with(directory)).collect()
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

/// Where a program is, which may be only named, or be a link.
fn find_program(program: &Path) -> PathBuf {
    let found = if program.components().count() > 1 { None } else { files::in_path(program) };
    let found = found.unwrap_or_else(|| program.to_owned());
    found.canonicalize().unwrap_or(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn qemu_gets_no_group_that_it_does_not_need() {
        assert_eq!(group_for(0o020_666, 0), Ok(None));
        assert_eq!(group_for(0o020_666, 104), Ok(None));
        assert_eq!(group_for(0o020_660, 104), Ok(Some(104)));
        assert!(group_for(0o020_660, 0).unwrap_err().contains("root only"), "root's group is none to give");
        group_for(0o020_600, 104).unwrap_err();
    }

    /// An isolator that can do all, on whatever machine.
    fn able() -> Arc<Isolator> {
        let exe = "/opt/ward/bin/ward".into();
        let all =
            Isolator { own_network: true, hide: true, lock_memory: true, calls: true, files: true, ..Isolator::idle() };
        Arc::new(Isolator { exe, ..all })
    }

    /// What the command that starts a part would be told.
    fn orders(part: Part) -> Orders {
        let isolated = Isolated { isolator: able(), user: None };
        let cell = Cell {
            part,
            program: Path::new("/opt/tool/bin/program"),
            sockets: Some(Path::new("/s")),
            read: vec!["/r".into()],
            write: vec!["/w".into()],
            descriptors: Vec::new(),
        };
        let command = isolated.command(cell).unwrap();
        assert_eq!(command.get_program(), "/opt/ward/bin/ward");
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_str().unwrap()).collect();
        let ["confine", orders, "/opt/tool/bin/program"] = arguments.as_slice() else { panic!("{arguments:?}") };
        serde_json::from_str(orders).unwrap()
    }

    #[test]
    fn each_part_is_ordered_what_it_needs_and_no_more() {
        for (part, cores, calls, lock_memory, hides) in [
            (Part::Disk, Cores::None, Calls::FewAndRings, true, true),
            (Part::Tpm, Cores::None, Calls::Few, true, true),
            (Part::Vmm, Cores::Handed, Calls::Few, false, true),
            (Part::Converter, Cores::None, Calls::Few, true, false),
        ] {
            let orders = orders(part);
            assert_eq!((orders.cores, orders.calls), (cores, calls), "{part:?}");
            assert_eq!((orders.lock_memory, !orders.hide.is_empty()), (lock_memory, hides), "{part:?}");
            assert!(orders.own_network, "{part:?}");
            assert_eq!(orders.few_privileges, part == Part::Converter);
            let files = orders.files.unwrap();
            assert_eq!(files.sockets, [Path::new("/s")]);
            assert_eq!(files.write, [Path::new("/w")]);
            assert!(files.read.ends_with(&["/s".into(), "/r".into()]), "{:?}", files.read);
            // What was installed beside the program, and nothing of the agent's.
            let tools =
                files.programs.iter().filter(|path| path.starts_with("/opt")).map(|path| path.to_str().unwrap());
            let expected = ["bin/program", "lib", "lib64", "libexec", "share"].map(|name| format!("/opt/tool/{name}"));
            assert_eq!(tools.collect::<Vec<_>>(), expected);
            let all = [&files.programs, &files.read, &files.devices].into_iter().flatten();
            assert!(!all.into_iter().any(|path| path == Path::new("/") || path.starts_with("/opt/ward")));
            let kvm = files.devices.iter().any(|path| path == Path::new(KVM));
            assert_eq!(kvm, part == Part::Vmm && Path::new(KVM).exists());
        }
        assert!(!hidden(Path::new("/var/lib/qemu")).contains(&"/var".into()), "it could not be started");
        assert_eq!(installed(Path::new("/root/ward")), [Path::new("/root/ward")]);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What keeps a swtpm of a test apart, as on a host.
    pub(crate) fn isolated() -> Isolated {
        let test = std::env::current_exe().unwrap();
        let exe = test.parent().unwrap().parent().unwrap().join("examples/test_ward");
        assert!(exe.exists(), "{} is missing: build the examples too", exe.display());
        let users = Users::new(crate::Config::VM_USERS);
        Arc::new(Isolator::find(exe, Some(users))).vm().unwrap()
    }
}
