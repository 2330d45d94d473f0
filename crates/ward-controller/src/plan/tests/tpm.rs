use ward_rpc::api::host::NewFirmware;
use ward_types::{
    Code, Component, CryptoRequest, CryptoSpec, Firmware, KeyWish, Nvram, PolicyName, TaskKind, VirtualTpm, VmConfig,
    WrappedTpmKey,
};

use super::super::{CloneWish, PlannedAction, add_tpm, clone, create, create_under, crypt, with_tpm_off};
use super::{Vm, name, refused, vm_config};
use crate::api::types::{CloneKeys, SetPolicy, TpmClone};
use crate::plan::{NewDisk, NewVm, ProviderFacts};
use crate::store::policy::PolicyRow;

fn off(config: &VmConfig) -> Vm {
    Vm::off(config.clone())
}

fn providers() -> Vec<ProviderFacts> {
    vec![ProviderFacts { name: "kms".parse().unwrap(), is_default: true, native: None }]
}

fn with_uefi(config: VmConfig, tpm: bool) -> VmConfig {
    let nvram = Nvram { file: "nvram.raw".parse().unwrap(), size: 540_672 };
    let tpm = tpm.then(|| VirtualTpm {
        state: "tpm".parse().unwrap(),
        wrapped_key: WrappedTpmKey("AAAA".into()),
        endorsement: None,
    });
    VmConfig { firmware: Firmware::Uefi { secure_boot: false, nvram }, tpm, ..config }
}

#[test]
fn adding_one_encrypts_the_home_alone() {
    let (plain, shut) = (with_uefi(vm_config(None, &[None]), false), with_uefi(vm_config(Some("1"), &[None]), false));
    let wish = KeyWish::default();
    let plan = add_tpm(off(&plain).facts(), &wish, &providers()).unwrap();
    let steps: Vec<_> = plan.steps.iter().map(|step| (step.component, step.action)).collect();
    assert_eq!(steps, [(Component::Home, PlannedAction::Encrypt(0))]);
    assert_eq!(add_tpm(off(&shut).facts(), &wish, &providers()).unwrap(), Default::default());
    let other = KeyWish { provider: Some("kms".parse().unwrap()), key_id: None };
    refused(add_tpm(off(&shut).facts(), &other, &providers()), Code::AlreadyEncrypted);
    refused(add_tpm(off(&plain).facts(), &wish, &[]), Code::ProviderNone);
    refused(add_tpm(off(&vm_config(None, &[None])).facts(), &wish, &providers()), Code::Composition);
    let with = with_uefi(vm_config(Some("1"), &[None]), true);
    refused(add_tpm(off(&with).facts(), &wish, &providers()), Code::Exists);
    with_tpm_off(off(&with).facts()).unwrap();
    refused(with_tpm_off(off(&shut).facts()), Code::TpmNone);
}

#[test]
fn it_keeps_the_home_encrypted() {
    let with = with_uefi(vm_config(Some("1"), &[Some("1")]), true);
    let decrypt = |home| {
        let home = if home { CryptoSpec::Decrypt } else { CryptoSpec::NoOp };
        CryptoRequest { home, disks: [(ward_types::DiskId(0), CryptoSpec::Decrypt)].into() }
    };
    refused(crypt(off(&with).facts(), &decrypt(true), &providers()), Code::Composition);
    crypt(off(&with).facts(), &decrypt(false), &providers()).unwrap();
    let without = VmConfig { tpm: None, ..with };
    crypt(off(&without).facts(), &decrypt(true), &providers()).unwrap();
}

#[test]
fn a_clone_says_what_becomes_of_the_one_that_there_is() {
    let wish = |tpm| CloneWish { keys: CloneKeys::Same, tpm, ..CloneWish::default() };
    let with = with_uefi(vm_config(Some("1"), &[]), true);
    let without = VmConfig { tpm: None, ..with.clone() };
    for tpm in [None, Some(TpmClone::Copy), Some(TpmClone::Replace)] {
        clone(off(&with).facts(), &wish(tpm), false, &name("new"), &providers()).unwrap();
        let planned = clone(off(&without).facts(), &wish(tpm), false, &name("new"), &providers());
        match tpm {
            None => drop(planned.unwrap()),
            Some(_) => drop(refused(planned, Code::TpmNone)),
        }
    }
}

#[test]
fn a_new_vm_with_one_has_an_encrypted_home_under_whatever_policy() {
    let disks = vec![NewDisk::Blank { size: 4096, format: ward_types::PlainFormat::Raw }];
    let firmware = NewFirmware::Uefi { secure_boot: false, vars: None };
    let new = NewVm { name: name("web"), cpus: 1, memory_mib: 64, kernel: None, disks, firmware, tpm: true };
    let spec = create(new, false).unwrap().spec;
    let policies: Vec<_> = [(PolicyName::plain(), false), (PolicyName::encryption(), true)]
        .map(|(name, encrypts)| PolicyRow { name, encrypts, provider: None, rotate_days: None, built_in: true })
        .into();
    let under = |home: Option<PolicyName>, all_disks: Option<PolicyName>| {
        let wanted = SetPolicy { home, all_disks, ..SetPolicy::default() };
        let wanted = (wanted.home.is_some() || wanted.all_disks.is_some()).then_some(wanted);
        create_under(TaskKind::VmCreate, &spec, wanted.as_ref(), &policies, &providers())
    };
    let (plan, assigned) = under(None, None).unwrap();
    assert_eq!((plan.steps.len(), plan.steps[0].component, assigned.len()), (1, Component::Home, 0));
    let (plan, _) = under(None, Some(PolicyName::plain())).unwrap();
    assert_eq!((plan.steps.len(), plan.steps[0].component), (1, Component::Home), "the disks stay plain");
    let (plan, _) = under(Some(PolicyName::encryption()), Some(PolicyName::encryption())).unwrap();
    assert_eq!(plan.steps.len(), 2);
    refused(under(Some(PolicyName::plain()), None), Code::Composition);
}
