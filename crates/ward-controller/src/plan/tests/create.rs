use std::path::PathBuf;

use proptest::prelude::*;
use ward_rpc::api::host::{DiskSource, KernelSource, NewFirmware};
use ward_types::{Code, PlainFormat, TaskKind};

use super::super::{NewDisk, NewVm, create};
use super::{name, refused};

const GIB: u64 = 1 << 30;

fn blank(size: u64) -> NewDisk {
    NewDisk::Blank { size, format: PlainFormat::Qcow2 }
}

fn image(path: &str) -> NewDisk {
    NewDisk::Copy { path: path.into() }
}

fn kernel(kernel: &str, initrd: Option<&str>) -> KernelSource {
    KernelSource { kernel: kernel.into(), initrd: initrd.map(PathBuf::from), command_line: "quiet".into() }
}

fn vm(disks: Vec<NewDisk>) -> NewVm {
    NewVm { name: name("web"), cpus: 2, memory_mib: 512, kernel: None, disks, firmware: NewFirmware::Bios, tpm: false }
}

#[test]
fn blank_disks_are_made_and_images_imported() {
    let table = [
        (vec![blank(GIB)], TaskKind::VmCreate),
        (vec![image("/a.img")], TaskKind::VmImport),
        (vec![blank(4096), image("/a.img")], TaskKind::VmImport),
    ];
    for (disks, kind) in table {
        let wanted: Vec<_> = disks
            .iter()
            .map(|disk| match disk.clone() {
                NewDisk::Blank { size, format } => DiskSource::Blank { size, format },
                NewDisk::Copy { path } => DiskSource::Copy { path },
            })
            .collect();
        let plan = create(vm(disks), false).unwrap();
        assert_eq!(plan.kind, kind);
        assert_eq!(plan.spec.disks, wanted);
        assert_eq!((plan.spec.name.as_str(), plan.spec.cpus, plan.spec.memory_mib), ("web", 2, 512));
        assert_eq!(plan.spec.kernel, None);
    }
}

#[test]
fn a_kernel_does_without_disks() {
    let kernel = kernel("/boot/vmlinuz", Some("/boot/initrd"));
    let plan = create(NewVm { kernel: Some(kernel.clone()), ..vm(vec![]) }, false).unwrap();
    assert_eq!(plan.kind, TaskKind::VmCreate);
    assert_eq!(plan.spec.kernel, Some(kernel));
}

#[test]
fn each_vm_has_an_identity_of_its_own() {
    let make = || create(vm(vec![blank(GIB)]), false).unwrap().spec.id;
    assert_ne!(make(), make());
}

#[test]
fn limits_themselves_are_allowed() {
    let max = |count| (0..count).map(|_| blank(4096)).collect::<Vec<_>>();
    for good in [
        vm(max(32)),
        vm(vec![blank(64 << 40)]),
        NewVm { cpus: 1, ..vm(vec![blank(4096)]) },
        NewVm { cpus: 512, ..vm(vec![blank(4096)]) },
        NewVm { memory_mib: 16, ..vm(vec![blank(4096)]) },
        NewVm { memory_mib: 16 << 20, ..vm(vec![blank(4096)]) },
    ] {
        create(good, false).unwrap();
    }
    for bad in [
        vm(max(33)),
        vm(vec![blank((64 << 40) + 4096)]),
        NewVm { cpus: 0, ..vm(vec![blank(4096)]) },
        NewVm { cpus: 513, ..vm(vec![blank(4096)]) },
        NewVm { memory_mib: 15, ..vm(vec![blank(4096)]) },
        NewVm { memory_mib: (16 << 20) + 1, ..vm(vec![blank(4096)]) },
    ] {
        refused(create(bad, false), Code::RequestInvalid);
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_says_why() {
    let with_kernel = |kernel| NewVm { kernel: Some(kernel), ..vm(vec![]) };
    let table = [
        (vm(vec![]), "neither a disk nor a kernel"),
        (vm(vec![blank(0)]), "0 bytes"),
        (vm(vec![blank(4095)]), "4095 bytes"),
        (vm(vec![blank(4096), blank(4097)]), "4097 bytes"),
        (vm(vec![image("a.img")]), "`a.img`"),
        (vm(vec![image("/a\0.img")]), "/a"),
        (with_kernel(kernel("vmlinuz", None)), "`vmlinuz`"),
        (with_kernel(kernel("/vmlinuz", Some("./initrd"))), "`./initrd`"),
    ];
    for (new, why) in table {
        let kind = if new.disks.iter().any(|disk| matches!(disk, NewDisk::Copy { .. })) { "import" } else { "create" };
        let problem = refused(create(new, false), Code::RequestInvalid);
        assert!(problem.why.contains(why), "{}", problem.why);
        assert_eq!(problem.what, format!("cannot {kind} VM `web`"));
    }
}

#[test]
fn a_name_is_taken_once() {
    refused(create(vm(vec![blank(GIB)]), true), Code::Exists);
    // Before anything else that is wrong with it: the name is what to change first.
    refused(create(vm(vec![]), true), Code::Exists);
}

proptest! {
    #[test]
    fn what_is_planned_can_be_made(
        cpus: u16,
        memory_mib: u32,
        sizes in prop::collection::vec(prop_oneof![any::<u64>(), (0u64..=1 << 34).prop_map(|n| n * 4096)], 0..40),
    ) {
        let new = NewVm { cpus, memory_mib, ..vm(sizes.iter().copied().map(blank).collect()) };
        if let Ok(plan) = create(new, false) {
            prop_assert!((1..=512).contains(&plan.spec.cpus));
            prop_assert!((16..=16 << 20).contains(&plan.spec.memory_mib));
            prop_assert!((1..=32).contains(&plan.spec.disks.len()));
            for size in sizes {
                prop_assert!(size > 0 && size % 4096 == 0 && size <= 64 << 40);
            }
        }
    }
}

#[test]
fn a_vtpm_needs_uefi_and_secure_boot_a_disk() {
    let uefi = |secure_boot, vars: Option<&str>| NewFirmware::Uefi { secure_boot, vars: vars.map(PathBuf::from) };
    let new = |firmware, tpm, kernel| NewVm { firmware, tpm, kernel, ..vm(vec![blank(GIB)]) };
    for (firmware, tpm) in [(uefi(false, None), true), (uefi(true, Some("/vars")), false), (NewFirmware::Bios, false)] {
        let plan = create(new(firmware.clone(), tpm, None), false).unwrap();
        assert_eq!((plan.spec.firmware, plan.spec.tpm), (firmware, tpm));
    }
    create(new(uefi(false, None), true, Some(kernel("/k", None))), false).unwrap();
    refused(create(new(NewFirmware::Bios, true, None), false), Code::Composition);
    refused(create(new(uefi(true, None), false, Some(kernel("/k", None))), false), Code::RequestInvalid);
    refused(create(new(uefi(false, Some("vars")), false, None), false), Code::RequestInvalid);
    // What lies on a host is an import.
    assert!(new(uefi(false, Some("/vars")), false, None).reads_files());
    assert!(!new(uefi(false, None), true, None).reads_files());
}
