//! Every rule: what is accepted and its plan, what is refused and its code.
#![allow(clippy::unwrap_used)]

mod create;
mod disks;
mod key;
mod place;
mod power;
mod sequence;
mod tpm;

use jiff::Timestamp;
use proptest::prelude::*;
use ward_rpc::api::host::HostParts;
use ward_types::{
    Boot, Code, DiskConfig, DiskCrypto, DiskId, HomeCrypto, HostId, HostMode, KeyId, KeyRef, Name, PlainFormat, Power,
    Problem, Progress, TaskId, TaskInfo, TaskKind, TaskState, VmConfig, VmId, WrappedHomeKey,
};

use super::{HostFacts, VmFacts};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn key(id: &str) -> KeyRef {
    KeyRef::standard("kms".parse().unwrap(), KeyId::try_from(id.to_owned()).unwrap())
}

/// A VM whose home and disks are encrypted under the keys that are given.
pub(super) fn vm_config(home: Option<&str>, disks: &[Option<&str>]) -> VmConfig {
    let disk = |(number, crypto): (usize, &Option<&str>)| DiskConfig {
        id: DiskId(u16::try_from(number).unwrap()),
        file: format!("disk-{number}.img").parse().unwrap(),
        size: 1 << 20,
        plain_format: PlainFormat::Raw,
        crypto: crypto.map_or(DiskCrypto::Plain, |id| DiskCrypto::Encrypted { key: key(id) }),
        attached: true,
    };
    VmConfig {
        version: VmConfig::VERSION,
        id: VmId::new(),
        name: name("web"),
        cpus: 1,
        memory_mib: 64,
        boot: Boot::Disk,
        home: home.map_or(HomeCrypto::Plain, |id| HomeCrypto::Encrypted {
            key: key(id),
            wrapped_key: WrappedHomeKey("AAAA".into()),
        }),
        disks: disks.iter().enumerate().map(disk).collect(),
        firmware: ward_types::Firmware::Bios,
        tpm: None,
    }
}

/// Any VM of up to four disks, of which each part may be encrypted under one of two keys.
pub(super) fn any_config() -> impl Strategy<Value = VmConfig> {
    let part = || prop::option::of(prop::sample::select(vec!["1", "2"]));
    (part(), prop::collection::vec(part(), 0..5))
        .prop_filter("a disk is encrypted only with its home", |(home, disks)| {
            home.is_some() || disks.iter().all(Option::is_none)
        })
        .prop_map(|(home, disks)| vm_config(home, &disks))
}

fn task(kind: TaskKind) -> TaskInfo {
    TaskInfo {
        id: TaskId::new(),
        kind,
        vm: VmId::new(),
        vm_name: name("web"),
        state: TaskState::Running,
        step: "copies".into(),
        progress: Progress::default(),
        problem: None,
        user: name("ann"),
        created: Timestamp::UNIX_EPOCH,
        ended: None,
    }
}

/// What facts of a VM consist of.
pub(super) struct Vm {
    name: Name,
    config: Option<VmConfig>,
    power: Power,
    host: Option<Name>,
    pub(super) busy: Option<TaskInfo>,
}

impl Vm {
    pub(super) fn off(config: VmConfig) -> Self {
        Self { name: name("web"), config: Some(config), power: Power::Off, host: None, busy: None }
    }

    pub(super) fn on(config: VmConfig) -> Self {
        Self { power: Power::On, host: Some(name("h1")), ..Self::off(config) }
    }

    pub(super) fn busy(config: VmConfig) -> Self {
        Self { busy: Some(task(TaskKind::VmDecrypt)), ..Self::off(config) }
    }

    pub(super) fn unfinished() -> Self {
        Self { config: None, ..Self::off(vm_config(None, &[])) }
    }

    pub(super) fn facts(&self) -> VmFacts<'_> {
        VmFacts {
            name: &self.name,
            config: self.config.as_ref(),
            power: self.power,
            host: self.host.as_ref(),
            busy: self.busy.as_ref(),
            locked: None,
            template: false,
        }
    }
}

fn host(host_name: &str) -> HostFacts {
    HostFacts {
        id: HostId::new(),
        name: name(host_name),
        connected: true,
        unfit: None,
        qemu: true,
        tpm: false,
        parts: HostParts { uefi: true, secure_boot: true, swtpm: true },
        trust: Vec::new(),
        vms: 0,
        mode: HostMode::Safe,
    }
}

fn unfit() -> Problem {
    Problem::new(Code::HostUnfit, "cannot hold keys", "memory can't be locked", "raise RLIMIT_MEMLOCK")
}

/// The problem of a refusal, which must be whole: what, on what, why, and what to do.
pub(super) fn refused<T>(result: Result<T, Problem>, code: Code) -> Problem {
    let problem = result.err().expect("a refusal");
    assert_eq!(problem.code, code, "{problem}");
    assert!(problem.what.starts_with("cannot ") && problem.what.contains("`web`"), "{}", problem.what);
    assert!(!problem.why.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
    problem
}
