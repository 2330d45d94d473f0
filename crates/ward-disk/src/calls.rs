//! System calls that VMs' processes never need, and that nobody who took one over shall have.
//!
//! Not a list of those that they may use: that would be guessed from one C library and one kernel, and a wrong guess would
//! cost a guest its disks. Here is what the processes by their nature do not do: talk to anything but Unix sockets, look
//! into other processes, change their user, their namespaces or the machine; and a disk process starts no programs, and
//! calls nobody.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, BpfProgramRef, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::error::{DiskError, DiskErrorKind, Result};

/// What none of a VM's programs needs: neither a disk process nor swtpm nor QEMU.
const NONE: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Other namespaces and file systems.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // The kernel and the machine.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// What a disk process does not need besides.
const NOT_DISK: &[i64] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    // Other processes.
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    // It is called, and calls nobody.
    libc::SYS_connect,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
];

/// By an io_uring the kernel can be asked for much of this past any filter.
const RINGS: &[i64] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
/// What is over when a disk process has its rings, which are good for reading and writing only.
const NEW_RINGS: &[i64] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_register];

/// Calls of the x32 ABI have numbers of their own, from here on.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Forbids this thread, which is about to become one of a VM's programs, what none of these needs, and io_uring unless it
/// needs that. They are told that there is no such thing, or that they may not; a call by another ABI ends them.
///
/// # Errors
/// What the kernel says, also where it has no such filters.
pub fn forbid_to_any(rings: bool) -> io::Result<()> {
    let filters = filters_of_any(rings).map_err(io::Error::other)?;
    for filter in filters {
        seccompiler::apply_filter(&filter).map_err(|error| match error {
            seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error) => error,
            error => io::Error::other(error),
        })?;
    }
    Ok(())
}

/// Forbids this thread, and those that it will start, what a disk process does not need. A call that is made all the same
/// ends the process.
pub(crate) fn forbid() -> Result<()> {
    let filters = filters_of_disk().map_err(failed)?;
    filters.iter().try_for_each(|filter| apply(filter, seccompiler::apply_filter))
}

/// Forbids all threads to make rings.
pub(crate) fn forbid_new_rings() -> Result<()> {
    let filter = program(always(NEW_RINGS), SeccompAction::KillProcess).map_err(failed)?;
    apply(&filter, seccompiler::apply_filter_all_threads)
}

fn apply(filter: &BpfProgram, how: fn(BpfProgramRef<'_>) -> seccompiler::Result<()>) -> Result<()> {
    match how(filter) {
        Ok(()) => Ok(()),
        // A kernel that has no such filters. The agent says so.
        Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error))
            if error.raw_os_error() == Some(libc::EINVAL) =>
        {
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

fn failed(why: impl std::fmt::Display) -> DiskError {
    DiskError::new(DiskErrorKind::Io, "give up system calls", why.to_string())
}

type Built<T> = std::result::Result<T, seccompiler::BackendError>;
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filters_of_any(rings: bool) -> Built<Vec<BpfProgram>> {
    let mut none = always(NONE);
    // A user namespace gives whoever makes it privileges in it.
    let user = u64::try_from(libc::CLONE_NEWUSER).unwrap_or_default();
    none.insert(libc::SYS_clone, vec![only_if(0, SeccompCmpOp::MaskedEq(user), user)?]);
    let mut unknown = always(&[libc::SYS_clone3]);
    if !rings {
        unknown.append(&mut always(RINGS));
    }
    Ok(vec![
        own_abi(),
        program(none, errno(libc::EPERM))?,
        program(other_sockets()?, errno(libc::EAFNOSUPPORT))?,
        program(unknown, errno(libc::ENOSYS))?,
    ])
}

fn filters_of_disk() -> Built<Vec<BpfProgram>> {
    let mut never = always(NONE);
    never.append(&mut always(NOT_DISK));
    never.append(&mut other_sockets()?);
    let thread = u64::try_from(libc::CLONE_THREAD).unwrap_or_default();
    never.insert(libc::SYS_clone, vec![only_if(0, SeccompCmpOp::MaskedEq(thread), 0)?]);
    // Its flags lie in memory, where a filter can't look. Told that there is no such call, the C library takes `clone`.
    let clone3 = always(&[libc::SYS_clone3]);
    Ok(vec![own_abi(), program(never, SeccompAction::KillProcess)?, program(clone3, errno(libc::ENOSYS))?])
}

fn always(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn other_sockets() -> Built<Rules> {
    let unix = u64::try_from(libc::AF_UNIX).unwrap_or_default();
    let other = |call| Ok((call, vec![only_if(0, SeccompCmpOp::Ne, unix)?]));
    [libc::SYS_socket, libc::SYS_socketpair].into_iter().map(other).collect()
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn only_if(argument: u8, how: SeccompCmpOp, value: u64) -> Built<SeccompRule> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)?])
}

fn program(rules: Rules, action: SeccompAction) -> Built<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()
}

/// The library looks at the architecture alone, of which x32 is the same as ours.
fn own_abi() -> BpfProgram {
    let code = |code: u32| u16::try_from(code).unwrap_or_default();
    let allow = sock_filter { code: code(libc::BPF_RET | libc::BPF_K), jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    #[cfg(target_arch = "x86_64")]
    let program = vec![
        // The number of the call is what a filter is given first.
        sock_filter { code: code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), jt: 0, jf: 0, k: 0 },
        sock_filter { code: code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K), jt: 0, jf: 1, k: X32 },
        sock_filter { k: libc::SECCOMP_RET_KILL_PROCESS, ..allow.clone() },
        allow,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let program = vec![allow];
    program
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// What the child process tries.
    const TRIES: &str = "WARD_TEST_TRIES";

    #[test]
    fn what_is_forbidden_ends_the_process() {
        if let Ok(what) = std::env::var(TRIES) {
            forbid().unwrap();
            // What it needs it has: threads of its own, and Unix sockets.
            let ring = io_uring::IoUring::new(1).is_ok();
            std::thread::spawn(|| UnixStream::pair().unwrap()).join().unwrap();
            match what.as_str() {
                "program" => drop(Command::new("/bin/true").status()),
                "network" => drop(UdpSocket::bind("127.0.0.1:0")),
                "user" => drop(rustix::thread::set_thread_uid(rustix::process::getuid())),
                "call" => drop(UnixStream::connect("/nowhere")),
                "ring" => {
                    let (started, waits) = std::sync::mpsc::channel::<()>();
                    let other = std::thread::spawn(move || waits.recv().map(|()| io_uring::IoUring::new(1)));
                    forbid_new_rings().unwrap();
                    started.send(()).unwrap();
                    drop(other.join());
                }
                "nothing" => {}
                other => panic!("{other}"),
            }
            std::process::exit(if ring { 7 } else { 8 });
        }
        let tried = |what: &str| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["calls::tests::what_is_forbidden_ends_the_process", "--exact"]).env(TRIES, what);
            child.output().unwrap().status
        };
        assert_eq!(tried("nothing").code(), Some(7));
        for what in ["program", "network", "user", "call", "ring"] {
            assert_eq!(tried(what).signal(), Some(libc::SIGSYS), "{what}");
        }
    }

    /// What the kernel would do: the strictest of what the filters say.
    fn says(filters: &[BpfProgram], call: i64, argument: u64) -> u32 {
        // Of two that are not to be carried out, the lower number is the stricter one, but for the end of the process.
        let strictness = |action: u32| (action != libc::SECCOMP_RET_KILL_PROCESS, action);
        filters.iter().map(|filter| run(filter, call, argument)).min_by_key(|action| strictness(*action)).unwrap()
    }

    /// As much of the machine as filters are made of (`linux/filter.h`).
    fn run(filter: &BpfProgram, call: i64, argument: u64) -> u32 {
        let arch: u32 = if cfg!(target_arch = "x86_64") { 0xC000_003E } else { 0xC000_00B7 };
        let mut data = u32::try_from(call).unwrap().to_ne_bytes().to_vec();
        data.extend(arch.to_ne_bytes());
        data.extend([0; 8]);
        data.extend(argument.to_ne_bytes());
        data.extend([0; 40]);
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let step = &filter[at];
            let code = u32::from(step.code);
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            at += 1;
            match code & 7 {
                libc::BPF_LD => {
                    let offset = usize::try_from(step.k).unwrap();
                    accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                libc::BPF_ALU if code & 0xF0 == libc::BPF_AND => accumulator &= step.k,
                libc::BPF_JMP => match code & 0xF0 {
                    libc::BPF_JA => at += usize::try_from(step.k).unwrap(),
                    libc::BPF_JEQ => at += jump(accumulator == step.k),
                    libc::BPF_JGT => at += jump(accumulator > step.k),
                    libc::BPF_JGE => at += jump(accumulator >= step.k),
                    other => panic!("jump {other:#x}"),
                },
                libc::BPF_RET => return step.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn each_call_is_allowed_or_not_as_the_lists_say() {
        let refused = |number: i32| libc::SECCOMP_RET_ERRNO | number.unsigned_abs();
        let (kill, allow) = (libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_ALLOW);
        let disk = [filters_of_any(true).unwrap(), filters_of_disk().unwrap()].concat();
        let [with_rings, without] = [true, false].map(|rings| filters_of_any(rings).unwrap());
        for call in NONE {
            assert_eq!(says(&disk, *call, 0), kill, "{call}");
            assert_eq!(says(&with_rings, *call, 0), refused(libc::EPERM), "{call}");
        }
        for call in NOT_DISK {
            assert_eq!(says(&disk, *call, 0), kill, "{call}");
            assert_eq!(says(&without, *call, 0), allow, "{call}");
        }
        for call in RINGS {
            assert_eq!(says(&disk, *call, 0), allow, "{call}");
            assert_eq!(says(&without, *call, 0), refused(libc::ENOSYS), "{call}");
        }
        for call in [libc::SYS_read, libc::SYS_write, libc::SYS_openat, libc::SYS_futex, libc::SYS_accept4] {
            for filters in [&disk, &with_rings, &without] {
                assert_eq!(says(filters, call, 0), allow, "{call}");
                #[cfg(target_arch = "x86_64")]
                assert_eq!(says(filters, call | i64::from(X32), 0), kill, "{call} of x32");
            }
        }
        let number = |number: i32| u64::try_from(number).unwrap();
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            for family in
                [libc::AF_INET, libc::AF_INET6, libc::AF_VSOCK, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_ALG]
            {
                assert_eq!(says(&disk, call, number(family)), kill, "{family}");
                assert_eq!(says(&without, call, number(family)), refused(libc::EAFNOSUPPORT), "{family}");
            }
            assert_eq!(says(&disk, call, number(libc::AF_UNIX)), allow);
            assert_eq!(says(&without, call, number(libc::AF_UNIX)), allow);
        }
        let (fork, thread) = (number(libc::SIGCHLD), number(libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND));
        let user = number(libc::CLONE_NEWUSER) | fork;
        assert_eq!([fork, thread, user].map(|flags| says(&disk, libc::SYS_clone, flags)), [kill, allow, kill]);
        let [forked, started, with_user] = [fork, thread, user].map(|flags| says(&without, libc::SYS_clone, flags));
        assert_eq!((forked, started, with_user), (allow, allow, refused(libc::EPERM)));
        assert_eq!(says(&disk, libc::SYS_clone3, 0), refused(libc::ENOSYS));
    }
}
