use ward_rpc::api::host::VolumeLabel;
use ward_types::{
    Code, Component, CryptoSpec, DiskId, HomeCrypto, KdkId, KeyRef, KeyWish, NativeKey, PlainFormat, PolicyName,
    Problem, Salt, VmConfig, VmId, WrappedKek,
};

use super::super::crypt::tests::{providers, wish};
use super::super::{
    DiskVerb, DiskWish, HostFacts, KeyChoice, NewDiskPlan, Origin, PlannedAction, add_disk, change_disk, start,
};
use super::{Vm, host, key, refused, vm_config};
use crate::store::policy::PolicyRow;

const N: CryptoSpec = CryptoSpec::NoOp;
const D: CryptoSpec = CryptoSpec::Decrypt;

fn encrypt() -> CryptoSpec {
    CryptoSpec::Encrypt(KeyWish::default())
}

fn blank() -> Origin {
    Origin::Blank { size: 4096, format: PlainFormat::Raw }
}

fn volume() -> Origin {
    let label = VolumeLabel { key: key("7"), vm: VmId::new(), disk: DiskId(0) };
    Origin::Volume { path: "/store/other/disk-0.luks".into(), label, known: None }
}

fn policies() -> Vec<PolicyRow> {
    let row = |name: &str, encrypts| PolicyRow {
        name: name.parse().unwrap(),
        encrypts,
        provider: None,
        rotate_days: None,
        built_in: false,
    };
    vec![row("shut", true), row("open", false)]
}

fn wished(vm: &Vm, wish: DiskWish) -> Result<(NewDiskPlan, Vec<(Component, PolicyName)>), Problem> {
    add_disk(vm.facts(), wish, &policies(), &providers(Some("a")))
}

fn add(config: VmConfig, origin: Origin, crypto: CryptoSpec) -> Result<NewDiskPlan, Problem> {
    wished(&Vm::off(config), DiskWish { origin, crypto, policy: None }).map(|(plan, _)| plan)
}

#[test]
fn a_new_disk_is_encrypted_only_with_its_home() {
    refused(add(vm_config(None, &[None]), blank(), encrypt()), Code::Composition);
    let plan = add(vm_config(Some("1"), &[None]), blank(), encrypt()).unwrap();
    assert_eq!((plan.id, plan.crypt.keys), (DiskId(1), vec![KeyChoice::New("a".parse().unwrap())]));
    // A plain disk may be given to either.
    for home in [None, Some("1")] {
        let plan = add(vm_config(home, &[None]), blank(), N).unwrap();
        assert_eq!(plan.outcome(&[]), (None, false));
    }
}

#[test]
fn an_encrypted_disk_is_attached_to_an_encrypted_vm_only_and_keeps_its_key() {
    for spec in [N, CryptoSpec::Register] {
        refused(add(vm_config(None, &[None]), volume(), spec.clone()), Code::Composition);
        let plan = add(vm_config(Some("1"), &[None]), volume(), spec).unwrap();
        assert_eq!((plan.outcome(&[]), plan.crypt.keys.len()), ((Some(key("7")), false), 0));
    }
    // Decrypted on its way it may go anywhere.
    let plan = add(vm_config(None, &[None]), volume(), D).unwrap();
    assert_eq!(plan.outcome(&[]), (None, false));
}

#[test]
fn an_attached_disk_gets_the_keys_that_are_asked_for() {
    let on = || vm_config(Some("1"), &[None]);
    let new = [key("new")];
    for (spec, deep) in
        [(CryptoSpec::ShallowRecrypt(KeyWish::default()), false), (CryptoSpec::DeepRecrypt(KeyWish::default()), true)]
    {
        let plan = add(on(), volume(), spec).unwrap();
        assert_eq!(plan.outcome(&new), (Some(key("new")), deep));
    }
    refused(add(on(), volume(), encrypt()), Code::AlreadyEncrypted);
    refused(add(on(), blank(), D), Code::NotEncrypted);
    refused(add(on(), blank(), CryptoSpec::Register), Code::NotEncrypted);
    refused(add(on(), blank(), CryptoSpec::Encrypt(wish(Some("none"), None))), Code::NotFound);
    let plan = add(on(), blank(), CryptoSpec::Encrypt(wish(Some("b"), Some(3)))).unwrap();
    assert_eq!(plan.crypt.steps[0].action, PlannedAction::Encrypt(0));
}

#[test]
fn a_key_that_is_bound_to_another_vm_is_not_kept() {
    let vm = VmId::new();
    let native = NativeKey { key_id: KdkId::new(), version: 1, salt: Salt([0; 32]), wrapped: WrappedKek([0; 40]), vm };
    let label = VolumeLabel { key: KeyRef::native("n".parse().unwrap(), native), vm, disk: DiskId(0) };
    let origin = Origin::Volume { path: "/store/other/disk-0.luks".into(), label, known: None };
    refused(add(vm_config(Some("1"), &[None]), origin.clone(), N), Code::Composition);
    add(vm_config(Some("1"), &[None]), origin, CryptoSpec::ShallowRecrypt(KeyWish::default())).unwrap();
}

#[test]
fn a_new_disk_under_a_policy_is_as_that_wants() {
    let ask = |home, origin, policy: &str| {
        let policy = Some(policy.parse().unwrap());
        wished(&Vm::off(vm_config(home, &[])), DiskWish { origin, crypto: N, policy })
    };
    let (plan, assigned) = ask(Some("1"), blank(), "shut").unwrap();
    assert_eq!(plan.crypt.steps[0].action, PlannedAction::Encrypt(0));
    assert_eq!(assigned, [(Component::Disk(DiskId(0)), "shut".parse().unwrap())]);
    let (plan, assigned) = ask(None, blank(), "open").unwrap();
    assert!(plan.crypt.steps.is_empty() && assigned.len() == 1);
    let (plan, _) = ask(Some("1"), volume(), "open").unwrap();
    assert_eq!(plan.crypt.steps[0].action, PlannedAction::Decrypt);
    let (plan, _) = ask(Some("1"), volume(), "shut").unwrap();
    assert_eq!(plan.outcome(&[]).0, Some(key("7")), "it is as the policy wants already");
    refused(ask(None, blank(), "shut"), Code::Composition);
    refused(ask(None, volume(), "shut"), Code::Composition);
    refused(ask(None, blank(), "none"), Code::NotFound);
    let both = DiskWish { origin: blank(), crypto: encrypt(), policy: Some("shut".parse().unwrap()) };
    refused(wished(&Vm::off(vm_config(Some("1"), &[])), both), Code::RequestInvalid);
}

#[test]
fn what_is_no_disk_is_refused() {
    for size in [0, 100, 1 << 60] {
        let origin = Origin::Blank { size, format: PlainFormat::Raw };
        refused(add(vm_config(None, &[]), origin, N), Code::RequestInvalid);
    }
    let relative = Origin::Image { path: "disk.img".into(), format: None };
    refused(add(vm_config(None, &[]), relative, N), Code::RequestInvalid);
    refused(add(vm_config(None, &[None; 32]), blank(), N), Code::RequestInvalid);
}

#[test]
fn disks_change_only_while_the_vm_is_off_and_nobody_works_on_it() {
    for (vm, code) in [
        (Vm::on(vm_config(None, &[None, None])), Code::VmRunning),
        (Vm::busy(vm_config(None, &[None, None])), Code::Busy),
        (Vm::unfinished(), Code::HomeInvalid),
    ] {
        let problem = refused(wished(&vm, DiskWish { origin: blank(), crypto: N, policy: None }), code);
        assert_eq!(problem.what, "cannot change the disks of VM `web`");
        refused(change_disk(vm.facts(), DiskId(1), DiskVerb::Remove), code);
    }
}

#[test]
fn a_disk_that_goes_takes_no_key_of_its_own() {
    let vm = Vm::off(vm_config(Some("1"), &[Some("1"), Some("2")]));
    for verb in [DiskVerb::Detach, DiskVerb::Remove] {
        assert_eq!(change_disk(vm.facts(), DiskId(1), verb).unwrap(), [key("1")]);
        refused(change_disk(vm.facts(), DiskId(0), verb), Code::Composition);
        refused(change_disk(vm.facts(), DiskId(5), verb), Code::NotFound);
    }
    refused(change_disk(vm.facts(), DiskId(1), DiskVerb::Attach), Code::Exists);
    assert_eq!(change_disk(Vm::off(vm_config(None, &[None, None])).facts(), DiskId(1), DiskVerb::Remove).unwrap(), []);
}

#[test]
fn a_detached_disk_keeps_its_key_and_is_not_needed_to_run() {
    let mut config = vm_config(Some("1"), &[Some("1"), Some("2")]);
    config.disks[1].attached = false;
    assert!(config.keys().contains(&&key("2")) && config.home != HomeCrypto::Plain);
    let vm = Vm::off(config);
    refused(change_disk(vm.facts(), DiskId(1), DiskVerb::Detach), Code::NotFound);
    change_disk(vm.facts(), DiskId(1), DiskVerb::Attach).unwrap();
    change_disk(vm.facts(), DiskId(1), DiskVerb::Remove).unwrap();
    let hosts: Vec<HostFacts> = vec![host("h1")];
    assert_eq!(start(vm.facts(), None, None, &hosts).unwrap(), [key("1")]);
}
