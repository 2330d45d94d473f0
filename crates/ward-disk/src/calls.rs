//! System calls that a disk process never needs, and that nobody who took it over shall have.
//!
//! Not a list of those that it may use: that would be guessed from one C library and one kernel, and a wrong guess would
//! cost a guest its disks. Here is what the process by its nature does not do: start programs, talk to anything but Unix
//! sockets, look into other processes, change its user, its namespaces or the machine.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::error::{DiskError, DiskErrorKind, Result};

/// Whatever it is called with.
const NEVER: &[i64] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
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

/// Forbids them to this thread and to those that it will start. A call that is made all the same ends the process.
pub(crate) fn forbid() -> Result<()> {
    let failed = |why: String| DiskError::new(DiskErrorKind::Io, "give up system calls", why);
    for filter in filters().map_err(|error| failed(error.to_string()))? {
        match seccompiler::apply_filter(&filter) {
            Ok(()) => {}
            // A kernel that has no such filters. The agent says so.
            Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error))
                if error.raw_os_error() == Some(libc::EINVAL) =>
            {
                return Ok(());
            }
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    Ok(())
}

type Built<T> = std::result::Result<T, seccompiler::BackendError>;

fn filters() -> Built<[BpfProgram; 2]> {
    let mut never: BTreeMap<i64, Vec<SeccompRule>> = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    let unix = u64::try_from(libc::AF_UNIX).unwrap_or_default();
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        never.insert(call, vec![only_if(0, SeccompCmpOp::Ne, unix)?]);
    }
    let thread = u64::try_from(libc::CLONE_THREAD).unwrap_or_default();
    never.insert(libc::SYS_clone, vec![only_if(0, SeccompCmpOp::MaskedEq(thread), 0)?]);
    // Its flags lie in memory, where a filter can't look. Told that there is no such call, the C library takes `clone`.
    let unknown = SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap_or_default());
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([program(never, SeccompAction::KillProcess)?, program(clone3, unknown)?])
}

fn only_if(argument: u8, how: SeccompCmpOp, value: u64) -> Built<SeccompRule> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)?])
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, action: SeccompAction) -> Built<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()
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
            std::thread::spawn(|| UnixStream::pair().unwrap()).join().unwrap();
            match what.as_str() {
                "program" => drop(Command::new("/bin/true").status()),
                "network" => drop(UdpSocket::bind("127.0.0.1:0")),
                "user" => drop(rustix::thread::set_thread_uid(rustix::process::getuid())),
                "nothing" => {}
                other => panic!("{other}"),
            }
            std::process::exit(7);
        }
        let tried = |what: &str| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["calls::tests::what_is_forbidden_ends_the_process", "--exact"]).env(TRIES, what);
            child.output().unwrap().status
        };
        assert_eq!(tried("nothing").code(), Some(7));
        for what in ["program", "network", "user"] {
            assert_eq!(tried(what).signal(), Some(libc::SIGSYS), "{what}");
        }
    }
}
