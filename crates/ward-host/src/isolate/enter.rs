//! What `ward confine ORDERS [PROGRAM [ARGUMENT...]]` does: it confines itself and becomes the program, under the same number.
//!
//! It does what it is ordered or fails: whoever orders knows what this machine can do.

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

use super::{Calls, Cores, Files, Ids, Orders};

/// What is known of; a kernel that knows less does less.
const KNOWN: ABI = ABI::V6;

/// Runs a program confined, or says why not. Without a program it says what Landlock of the kernel's it used.
#[must_use]
pub fn confine(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let why = match run(arguments.into_iter()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(why) => why,
    };
    // The agent reads it, in the program's log.
    eprintln!("ward confine: {why}");
    ExitCode::FAILURE
}

fn run(mut arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let orders = arguments.next().ok_or("it is told nothing")?;
    let orders: Orders = serde_json::from_slice(orders.as_encoded_bytes()).map_err(|error| error.to_string())?;
    let landlock = enter(orders)?;
    let Some(program) = arguments.next() else {
        if let Some(landlock) = landlock {
            println!("{landlock}");
        }
        return Ok(());
    };
    let error = Command::new(&program).args(arguments).exec();
    Err(format!("cannot run {}: {error}", program.display()))
}

/// This process has one thread, and all of this holds for it alone.
fn enter(orders: Orders) -> Result<Option<i32>, String> {
    let Orders { user, few_privileges, own_network, hide, lock_memory, cores, calls, files } = orders;
    if own_network {
        // Not even its loopback is up.
        unshare(CloneFlags::CLONE_NEWNET).map_err(failed("leave the network"))?;
    }
    if lock_memory {
        setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).map_err(failed("raise its limits"))?;
    }
    forgo(cores)?;
    // Its paths are opened while they can be.
    let rules = files.map(rules).transpose()?;
    cover(&hide)?;
    if let Some(user) = user {
        become_user(&user)?;
    }
    if few_privileges {
        keep_few_privileges()?;
    }
    rustix::thread::set_no_new_privs(true).map_err(failed("give up privileges"))?;
    let landlock = rules.map(restrict).transpose()?;
    match calls {
        Calls::All => {}
        Calls::Few => ward_disk::forbid_to_any(false).map_err(failed("give up system calls"))?,
        Calls::FewAndRings => ward_disk::forbid_to_any(true).map_err(failed("give up system calls"))?,
    }
    Ok(landlock)
}

fn forgo(cores: Cores) -> Result<(), String> {
    let limited = match cores {
        Cores::AsBefore => Ok(()),
        Cores::Handed => ward_secret::limit_cores(0),
        Cores::None => ward_secret::limit_cores(1),
    };
    limited.map_err(failed("forgo cores"))?;
    if cores == Cores::None {
        // No kind of memory; debuggers that write cores heed it.
        std::fs::write("/proc/self/coredump_filter", "0").map_err(failed("leave its memory out of cores"))?;
    }
    Ok(())
}

/// Lays nothing over directories, for this process alone: what it has open there, and where it is, stays.
fn cover(hide: &[PathBuf]) -> Result<(), String> {
    if hide.is_empty() {
        return Ok(());
    }
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("have mounts of its own"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("have mounts of its own"))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let empty = |directory: &PathBuf| {
        let covered = mount(Some("none"), directory, Some("tmpfs"), flags, Some("size=4k,mode=755"));
        covered.map_err(failed("cover what it does not need"))
    };
    hide.iter().try_for_each(empty)
}

/// The agent's user stays, but with no more than what it takes to open files of others.
fn keep_few_privileges() -> Result<(), String> {
    let has = capabilities(None).map_err(failed("look at its privileges"))?;
    let kept = has.permitted & (CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed("give up privileges"))
}

fn become_user(Ids { user, group, groups }: &Ids) -> Result<(), String> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (user, group) = (Uid::from_raw(*user), Gid::from_raw(*group));
    for privilege in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(privilege) {
            // One that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(failed("give up privileges")(error)),
        }
    }
    rustix::thread::set_thread_groups(&groups).map_err(failed("leave its groups"))?;
    rustix::thread::set_thread_res_gid(group, group, group).map_err(failed("change its group"))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(failed("change its user"))
}

fn rules(Files { programs, read, devices, sockets, write }: Files) -> Result<RulesetCreated, String> {
    let reads = AccessFs::ReadFile | AccessFs::ReadDir;
    let all = AccessFs::from_all(KNOWN);
    let of_sockets = AccessFs::MakeSock | AccessFs::RemoveFile;
    // Neither links to elsewhere nor devices.
    let writes = reads | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let of_devices = reads | AccessFs::WriteFile | AccessFs::IoctlDev;
    let ruleset = Ruleset::default()
        .handle_access(all)
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .map_err(failed("make Landlock's rules"))?;
    let allow = |ruleset: RulesetCreated, paths: Vec<PathBuf>, access: BitFlags<AccessFs>| {
        // Those that are not there need no rule.
        ruleset.add_rules(path_beneath_rules(paths, access)).map_err(failed("make Landlock's rules"))
    };
    let ruleset = allow(ruleset, programs, reads | AccessFs::Execute)?;
    let ruleset = allow(ruleset, read, reads)?;
    let ruleset = allow(ruleset, devices, of_devices)?;
    let ruleset = allow(ruleset, sockets, of_sockets)?;
    allow(ruleset, write, writes)
}

fn restrict(ruleset: RulesetCreated) -> Result<i32, String> {
    let status = ruleset.restrict_self().map_err(failed("obey Landlock's rules"))?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err("the kernel has no Landlock".into()),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as i32),
        (_, status) => Err(format!("Landlock is not there: {status:?}")),
    }
}

fn failed<E: Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("it can't {what}: {error}")
}
