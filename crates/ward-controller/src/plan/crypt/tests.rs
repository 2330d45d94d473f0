//! Every rule of what may be asked of which component, by table; `plan/tests/sequence.rs` has them all by property.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use ward_types::{Boot, DiskConfig, DiskCrypto, DiskId, KeyId, PlainFormat, Power, VmId, WrappedHomeKey};

use super::super::NativeFacts;
use super::super::tests::{Vm, any_config, vm_config};
use super::*;

pub(in crate::plan) fn key(id: u8) -> KeyRef {
    KeyRef::standard("a".parse().unwrap(), KeyId::try_from(id.to_string()).unwrap())
}

/// `None`: plain; `Some(n)`: encrypted under key n.
pub(in crate::plan) fn vm(home: Option<u8>, disks: &[Option<u8>]) -> VmConfig {
    let disk = |(n, crypto): (usize, &Option<u8>)| {
        let id = DiskId(u16::try_from(n).unwrap());
        let crypto = crypto.map_or(DiskCrypto::Plain, |id| DiskCrypto::Encrypted { key: key(id) });
        let file = format!("{id}.raw").parse().unwrap();
        DiskConfig { id, file, size: 1 << 20, plain_format: PlainFormat::Raw, crypto, attached: true }
    };
    VmConfig {
        version: VmConfig::VERSION,
        id: VmId::new(),
        name: "vm".parse().unwrap(),
        cpus: 1,
        memory_mib: 64,
        boot: Boot::Disk,
        home: encrypted_home(home.map(key)),
        disks: disks.iter().enumerate().map(disk).collect(),
        firmware: ward_types::Firmware::Bios,
        tpm: None,
    }
}

pub(in crate::plan) fn encrypted_home(key: Option<KeyRef>) -> HomeCrypto {
    key.map_or(HomeCrypto::Plain, |key| HomeCrypto::Encrypted { key, wrapped_key: WrappedHomeKey("x".into()) })
}

pub(in crate::plan) fn providers(default: Option<&str>) -> Vec<ProviderFacts> {
    let provider =
        |name: &str| ProviderFacts { name: name.parse().unwrap(), is_default: default == Some(name), native: None };
    vec![provider("a"), provider("b")]
}

fn ask_with(
    config: &VmConfig,
    power: Power,
    request: &CryptoRequest,
    providers: &[ProviderFacts],
) -> Result<CryptPlan, Problem> {
    let name: Name = "vm".parse().unwrap();
    let facts =
        VmFacts { name: &name, config: Some(config), power, host: None, busy: None, locked: None, template: false };
    crypt(facts, request, providers)
}

fn ask(config: &VmConfig, request: &CryptoRequest) -> Result<CryptPlan, Problem> {
    ask_with(config, Power::Off, request, &providers(Some("a")))
}

pub(in crate::plan) fn wish(provider: Option<&str>, key_id: Option<u8>) -> KeyWish {
    KeyWish {
        provider: provider.map(|name| name.parse().unwrap()),
        key_id: key_id.map(|id| KeyId::try_from(id.to_string()).unwrap()),
    }
}

fn request(home: CryptoSpec, disks: &[(u16, CryptoSpec)]) -> CryptoRequest {
    CryptoRequest { home, disks: disks.iter().map(|(n, spec)| (DiskId(*n), spec.clone())).collect() }
}

const E: fn() -> CryptoSpec = || CryptoSpec::Encrypt(KeyWish::default());
const S: fn() -> CryptoSpec = || CryptoSpec::ShallowRecrypt(KeyWish::default());
const P: fn() -> CryptoSpec = || CryptoSpec::DeepRecrypt(KeyWish::default());
const D: CryptoSpec = CryptoSpec::Decrypt;
const N: CryptoSpec = CryptoSpec::NoOp;

fn refused(config: &VmConfig, request: &CryptoRequest, code: Code) {
    let problem = ask(config, request).unwrap_err();
    assert_eq!(problem.code, code, "{request:?}: {problem}");
    assert!(!problem.why.is_empty() && !problem.remedy.is_empty() && problem.what.contains("`vm`"), "{problem:?}");
}

/// What a plan makes of a VM, step by step; the composition rule holds after each of them.
pub(in crate::plan) fn apply(config: &VmConfig, plan: &CryptPlan, new: &[KeyRef]) -> VmConfig {
    let mut now = config.clone();
    for step in plan.steps(new).unwrap().steps() {
        let key = step.action.key().cloned();
        match step.component {
            Component::Home => now.home = encrypted_home(key),
            Component::Disk(id) => {
                let disk = now.disks.iter_mut().find(|disk| disk.id == id).unwrap();
                disk.crypto = key.map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key });
            }
        }
        assert!(now.home != HomeCrypto::Plain || !now.is_encrypted(), "{plan:?} breaks the rule on its way");
    }
    now
}

#[test]
fn a_disk_is_encrypted_only_with_its_home() {
    refused(&vm(None, &[None]), &request(N, &[(0, E())]), Code::Composition);
    ask(&vm(None, &[None]), &request(E(), &[(0, E())])).unwrap();
    ask(&vm(Some(1), &[None]), &request(N, &[(0, E())])).unwrap();
}

#[test]
fn no_encrypted_disk_stays_on_a_plain_vm() {
    refused(&vm(Some(1), &[Some(1)]), &request(D, &[]), Code::Composition);
    refused(&vm(Some(1), &[Some(1), Some(1)]), &request(D, &[(0, D)]), Code::Composition);
    refused(&vm(Some(1), &[Some(1), None]), &request(D, &[(0, D), (1, E())]), Code::Composition);
    refused(&vm(Some(1), &[Some(1)]), &request(D, &[(0, S())]), Code::Composition);
    ask(&vm(Some(1), &[Some(1)]), &request(D, &[(0, D)])).unwrap();
}

#[test]
fn plain_disks_on_an_encrypted_vm_are_allowed() {
    let plan = ask(&vm(None, &[None, None]), &request(E(), &[(1, E())])).unwrap();
    assert_eq!(plan.steps.len(), 2);
    ask(&vm(Some(1), &[Some(1), Some(1)]), &request(N, &[(0, D)])).unwrap();
}

#[test]
fn disks_are_decrypted_before_the_home_even_if_asked_together() {
    let plan = ask(&vm(Some(1), &[Some(1), Some(2)]), &request(D, &[(1, D), (0, D)])).unwrap();
    let order: Vec<_> = plan.steps(&[]).unwrap().steps().iter().map(|step| step.component).collect();
    assert_eq!(order, [Component::Disk(DiskId(0)), Component::Disk(DiskId(1)), Component::Home]);
}

#[test]
fn what_is_encrypted_is_not_encrypted_again_and_what_is_plain_not_decrypted() {
    refused(&vm(Some(1), &[Some(1)]), &request(N, &[(0, E())]), Code::AlreadyEncrypted);
    refused(&vm(Some(1), &[Some(1)]), &request(E(), &[]), Code::AlreadyEncrypted);
    for spec in [D, S(), P(), CryptoSpec::Register] {
        refused(&vm(Some(1), &[None]), &request(N, &[(0, spec.clone())]), Code::NotEncrypted);
        refused(&vm(None, &[None]), &request(spec, &[]), Code::NotEncrypted);
    }
}

#[test]
fn what_is_not_there_and_what_is_nothing_is_refused() {
    refused(&vm(Some(1), &[Some(1)]), &request(N, &[(7, D)]), Code::NotFound);
    refused(&vm(Some(1), &[Some(1)]), &CryptoRequest::default(), Code::RequestInvalid);
}

#[test]
fn what_is_registered_stays_as_it_is_and_its_keys_are_given() {
    let register = || CryptoSpec::Register;
    let plan =
        ask(&vm(Some(1), &[Some(2), Some(1)]), &request(register(), &[(0, register()), (1, register())])).unwrap();
    assert_eq!(plan, CryptPlan { registers: vec![key(1), key(2)], ..CryptPlan::default() });
    let plan = ask(&vm(Some(1), &[Some(2)]), &request(register(), &[(0, D)])).unwrap();
    assert_eq!((plan.registers, plan.steps.len()), (vec![key(1)], 1));
}

#[test]
fn one_kek_serves_all_that_is_encrypted_together() {
    let plan = ask(&vm(None, &[None, None]), &request(E(), &[(0, E()), (1, E())])).unwrap();
    assert_eq!(plan.keys, [KeyChoice::New("a".parse().unwrap())]);
    assert!(plan.steps.iter().all(|step| step.action == PlannedAction::Encrypt(0)));
    // A recrypt in the same request takes the same one.
    let plan = ask(&vm(Some(1), &[None]), &request(S(), &[(0, E())])).unwrap();
    assert_eq!(plan.keys.len(), 1);
}

#[test]
fn different_keys_for_home_and_disks_are_had_by_asking_for_them() {
    let other = |provider, id| CryptoSpec::Encrypt(wish(provider, id));
    let asked = request(E(), &[(0, other(Some("b"), None)), (1, other(None, Some(7))), (2, other(Some("b"), None))]);
    let plan = ask(&vm(None, &[None, None, None]), &asked).unwrap();
    let b = KeyChoice::New("b".parse().unwrap());
    assert_eq!(plan.keys, [KeyChoice::New("a".parse().unwrap()), b, KeyChoice::Existing(key(7))]);
    let places: Vec<_> = plan.steps.iter().map(|step| step.action).collect();
    assert_eq!(places, [0, 1, 2, 1].map(PlannedAction::Encrypt));
}

#[test]
fn a_recrypt_to_the_same_key_is_refused() {
    for spec in [CryptoSpec::ShallowRecrypt(wish(None, Some(1))), CryptoSpec::DeepRecrypt(wish(Some("a"), Some(1)))] {
        refused(&vm(Some(1), &[]), &request(spec, &[]), Code::KeyUnchanged);
    }
    // Another provider's key of that ID is another key.
    ask(&vm(Some(1), &[]), &request(CryptoSpec::ShallowRecrypt(wish(Some("b"), Some(1))), &[])).unwrap();
}

#[test]
fn only_a_shallow_recrypt_is_allowed_while_the_vm_runs() {
    let config = vm(Some(1), &[Some(1), None]);
    let on = |request: &CryptoRequest| ask_with(&config, Power::On, request, &providers(Some("a")));
    on(&request(S(), &[(0, S())])).unwrap();
    for asked in [request(P(), &[]), request(N, &[(0, D)]), request(N, &[(1, E())]), request(S(), &[(0, P())])] {
        assert_eq!(on(&asked).unwrap_err().code, Code::VmRunning, "{asked:?}");
    }
}

#[test]
fn the_provider_is_the_one_named_or_the_default_one() {
    let config = vm(None, &[]);
    let asked = |provider| request(CryptoSpec::Encrypt(wish(provider, None)), &[]);
    let code =
        |provider, known: &[ProviderFacts]| ask_with(&config, Power::Off, &asked(provider), known).map_err(|p| p.code);
    assert_eq!(code(Some("c"), &providers(Some("a"))).unwrap_err(), Code::NotFound);
    assert_eq!(code(None, &providers(None)).unwrap_err(), Code::ProviderNone);
    assert_eq!(code(None, &[]).unwrap_err(), Code::ProviderNone);
    assert_eq!(code(Some("b"), &providers(None)).unwrap().keys, [KeyChoice::New("b".parse().unwrap())]);
}

#[test]
fn a_native_provider_encrypts_once_it_is_backed_up_for_its_own_clusters_and_without_key_ids() {
    let config = vm(None, &[]);
    let native = |backed_up, serves| {
        let native = Some(NativeFacts { backed_up, serves, tpm_required: false });
        vec![ProviderFacts { name: "n".parse().unwrap(), is_default: true, native }]
    };
    let ask = |key_id, known: &[ProviderFacts]| {
        let request = request(CryptoSpec::Encrypt(wish(Some("n"), key_id)), &[]);
        ask_with(&config, Power::Off, &request, known).map_err(|problem| problem.code)
    };
    assert_eq!(ask(None, &native(true, true)).unwrap().keys, [KeyChoice::New("n".parse().unwrap())]);
    assert_eq!(ask(None, &native(false, true)).unwrap_err(), Code::ProviderNotBackedUp);
    assert_eq!(ask(None, &native(true, false)).unwrap_err(), Code::ProviderNone);
    assert_eq!(ask(Some(1), &native(true, true)).unwrap_err(), Code::RequestInvalid);
}

#[test]
fn a_vm_that_is_busy_locked_or_unfinished_is_left_alone() {
    let (config, name): (_, Name) = (vm(None, &[None]), "vm".parse().unwrap());
    let locked = Problem::new(Code::KeyMissing, "cannot register", "the key is gone", "restore it");
    let facts = VmFacts {
        name: &name,
        config: Some(&config),
        power: Power::Off,
        host: None,
        busy: None,
        locked: None,
        template: false,
    };
    let code = |facts: VmFacts<'_>| crypt(facts, &request(E(), &[]), &providers(Some("a"))).unwrap_err();
    let problem = code(VmFacts { locked: Some(&locked), ..facts });
    assert_eq!(problem.code, Code::KeyMissing);
    assert!(problem.why.contains("the key is gone") && problem.remedy.contains("ward vm unlock vm"), "{problem:?}");
    assert_eq!(code(VmFacts { config: None, ..facts }).code, Code::HomeInvalid);
    // A template's keys are replaced as a VM's are.
    crypt(VmFacts { template: true, ..facts }, &request(E(), &[]), &providers(Some("a"))).unwrap();
}

#[test]
fn a_request_that_names_nothing_means_all_that_it_applies_to() {
    let name: Name = "vm".parse().unwrap();
    let ask = |home, disks: &[Option<u8>], selection: &Selection, verb| {
        let config = vm(home, disks);
        let facts = VmFacts {
            name: &name,
            config: Some(&config),
            power: Power::Off,
            host: None,
            busy: None,
            locked: None,
            template: false,
        };
        whole(facts, selection, verb).map_err(|problem| problem.code)
    };
    let all = Selection::default();
    let encrypt = || Verb::Encrypt(KeyWish::default());
    let recrypt = |key| Verb::Recrypt { deep: false, key };
    assert_eq!(ask(Some(1), &[None, Some(1)], &all, encrypt()).unwrap(), request(N, &[(0, E())]));
    assert_eq!(ask(Some(1), &[None, Some(1)], &all, Verb::Decrypt).unwrap(), request(D, &[(1, D)]));
    assert_eq!(ask(Some(1), &[None, Some(2)], &all, recrypt(wish(None, None))).unwrap(), request(S(), &[(1, S())]));
    let to_1 = CryptoSpec::ShallowRecrypt(wish(None, Some(1)));
    let asked = ask(Some(1), &[None, Some(2)], &all, recrypt(wish(None, Some(1))));
    assert_eq!(asked.unwrap(), request(N, &[(1, to_1.clone())]), "what is under that key already is left out");
    let one = Selection { home: false, disks: vec![DiskId(0)] };
    assert_eq!(ask(None, &[None, None], &one, encrypt()).unwrap(), request(N, &[(0, E())]));
    assert_eq!(ask(Some(1), &[Some(1)], &all, encrypt()), Err(Code::AlreadyEncrypted));
    assert_eq!(ask(None, &[None], &all, Verb::Decrypt), Err(Code::NotEncrypted));
    assert_eq!(ask(None, &[None], &all, recrypt(wish(None, None))), Err(Code::NotEncrypted));
    assert_eq!(ask(Some(1), &[Some(1)], &all, recrypt(wish(None, Some(1)))), Err(Code::KeyUnchanged));
}

#[test]
fn a_task_is_called_what_it_does() {
    assert_eq!(kind(&request(E(), &[(0, E())])), TaskKind::VmEncrypt);
    assert_eq!(kind(&request(S(), &[(0, P())])), TaskKind::VmRecrypt);
    assert_eq!(kind(&request(D, &[])), TaskKind::VmDecrypt);
    assert_eq!(kind(&request(S(), &[(0, D)])), TaskKind::VmReconfigure);
}

#[test]
fn a_refusal_names_the_host_and_the_task() {
    let running = refusal(Vm::on(vm_config(Some("1"), &[])).facts(), Verb::Decrypt, Code::VmRunning);
    assert!(running.why.contains("`h1`") && running.what == "cannot decrypt VM `web`", "{running}");
    let busy = Vm::busy(vm_config(Some("1"), &[]));
    let problem = refusal(busy.facts(), Verb::Decrypt, Code::Busy);
    let task = busy.busy.as_ref().unwrap().id.to_string();
    assert!(problem.why.contains(&task) && problem.why.contains("`ann`"), "{problem}");
    refusal(Vm::unfinished().facts(), Verb::Decrypt, Code::HomeInvalid);
}

fn refusal(facts: VmFacts<'_>, verb: Verb, code: Code) -> Problem {
    super::super::tests::refused(all_of(facts, verb), code)
}

/// Does it to all that it applies to.
fn all_of(facts: VmFacts<'_>, verb: Verb) -> Result<CryptPlan, Problem> {
    crypt(facts, &whole(facts, &Selection::default(), verb)?, &providers(Some("a")))
}

fn parts(config: &VmConfig, encrypted: bool) -> Vec<Component> {
    keys(config).into_iter().filter(|(_, key)| key.is_some() == encrypted).map(|(component, _)| component).collect()
}

proptest! {
    #[test]
    fn encrypting_all_covers_exactly_what_is_plain_and_touches_no_key_that_is_there(config in any_config()) {
        let (plain, there) = (parts(&config, false), config.keys().into_iter().cloned().collect::<Vec<_>>());
        match all_of(Vm::off(config.clone()).facts(), Verb::Encrypt(KeyWish::default())) {
            Ok(plan) => {
                prop_assert_eq!(plan.steps.iter().map(|step| step.component).collect::<Vec<_>>(), plain);
                let steps = plan.steps(&[key(9)]).unwrap();
                let home = steps.steps().iter().position(|step| step.component == Component::Home);
                prop_assert!(home.is_none_or(|at| at == 0));
                let after = apply(&config, &plan, &[key(9)]);
                prop_assert!(parts(&after, false).is_empty() && there.iter().all(|key| after.keys().contains(&key)));
            }
            Err(problem) => prop_assert!(problem.code == Code::AlreadyEncrypted && plain.is_empty()),
        }
    }

    #[test]
    fn decrypting_all_leaves_nothing_encrypted_and_the_home_for_last(config in any_config()) {
        let encrypted = parts(&config, true);
        match all_of(Vm::off(config.clone()).facts(), Verb::Decrypt) {
            Ok(plan) => {
                let steps = plan.steps(&[]).unwrap();
                let home = steps.steps().iter().position(|step| step.component == Component::Home);
                prop_assert!(home.is_none_or(|at| at == steps.steps().len() - 1));
                let after = apply(&config, &plan, &[]);
                prop_assert!(after.keys().is_empty());
                prop_assert_eq!(after.disks.len(), config.disks.len());
            }
            Err(problem) => prop_assert!(problem.code == Code::NotEncrypted && encrypted.is_empty()),
        }
    }
}
