use proptest::prelude::*;
use ward_types::{
    Code, Component, CryptoPlan, DiskCrypto, DiskId, HomeCrypto, KeyId, KeyWish, Problem, ProviderName, StepAction,
    VmConfig, WrappedHomeKey,
};

use super::super::{CryptPlan, KeyChoice, ProviderFacts, Selection, Verb, VmFacts, crypt, whole};
use super::{Vm, any_config, key, refused, vm_config};

const HOME: Component = Component::Home;

fn disk(number: u16) -> Component {
    Component::Disk(DiskId(number))
}

fn provider(name: &str) -> ProviderName {
    name.parse().unwrap()
}

fn providers(names: &[&str], default: Option<&str>) -> Vec<ProviderFacts> {
    names
        .iter()
        .map(|name| ProviderFacts { name: provider(name), is_default: Some(*name) == default, native: None })
        .collect()
}

/// Encrypts all that is not.
fn encrypt(
    vm: VmFacts<'_>,
    provider: Option<&ProviderName>,
    key_id: Option<&KeyId>,
    known: &[ProviderFacts],
) -> Result<CryptPlan, Problem> {
    let wish = KeyWish { provider: provider.cloned(), key_id: key_id.cloned() };
    crypt(vm, &whole(vm, &Selection::default(), Verb::Encrypt(wish))?, known)
}

/// Decrypts all that is encrypted.
fn decrypt(vm: VmFacts<'_>) -> Result<CryptoPlan, Problem> {
    let plan = crypt(vm, &whole(vm, &Selection::default(), Verb::Decrypt)?, &[])?;
    Ok(plan.steps(&[]).expect("no step takes a key"))
}

fn components(plan: &CryptPlan) -> Vec<Component> {
    plan.steps.iter().map(|step| step.component).collect()
}

#[test]
fn all_that_is_not_encrypted_will_be() {
    let kms = providers(&["kms"], Some("kms"));
    let table = [
        (vm_config(None, &[]), vec![HOME]),
        (vm_config(None, &[None, None]), vec![HOME, disk(0), disk(1)]),
        (vm_config(Some("1"), &[None]), vec![disk(0)]),
        (vm_config(Some("1"), &[Some("1"), None]), vec![disk(1)]),
        (vm_config(None, &[Some("1"), None]), vec![HOME, disk(1)]),
    ];
    for (config, wanted) in table {
        let plan = encrypt(Vm::off(config).facts(), None, None, &kms).unwrap();
        assert_eq!(plan.keys, [KeyChoice::New(provider("kms"))]);
        assert_eq!(components(&plan), wanted);
    }
}

#[test]
fn the_key_comes_from_whom_was_named_or_the_default() {
    let two = providers(&["a", "b"], Some("b"));
    let id = KeyId::try_from("42".to_owned()).unwrap();
    let existing = |name| KeyChoice::Existing(ward_types::KeyRef::standard(provider(name), id.clone()));
    let table = [
        (None, None, KeyChoice::New(provider("b"))),
        (Some("a"), None, KeyChoice::New(provider("a"))),
        (None, Some(&id), existing("b")),
        (Some("a"), Some(&id), existing("a")),
    ];
    for (asked, key_id, key) in table {
        let asked = asked.map(provider);
        let vm = Vm::off(vm_config(None, &[]));
        assert_eq!(encrypt(vm.facts(), asked.as_ref(), key_id, &two).unwrap().keys, [key]);
    }
}

#[test]
fn without_a_provider_there_is_no_key() {
    let table = [
        (vec![], None, Code::ProviderNone),
        (providers(&["a", "b"], None), None, Code::ProviderNone),
        (providers(&["a"], Some("a")), Some("b"), Code::NotFound),
        (vec![], Some("b"), Code::NotFound),
    ];
    for (known, asked, code) in table {
        let asked = asked.map(provider);
        refused(encrypt(Vm::off(vm_config(None, &[])).facts(), asked.as_ref(), None, &known), code);
    }
}

#[test]
fn refusals_of_encrypting() {
    let kms = providers(&["kms"], Some("kms"));
    let table = [
        (Vm::off(vm_config(Some("1"), &[Some("1"), Some("2")])), Code::AlreadyEncrypted),
        (Vm::off(vm_config(Some("1"), &[])), Code::AlreadyEncrypted),
        (Vm::on(vm_config(None, &[None])), Code::VmRunning),
        (Vm::busy(vm_config(None, &[None])), Code::Busy),
        (Vm::unfinished(), Code::HomeInvalid),
    ];
    for (vm, code) in table {
        let problem = refused(encrypt(vm.facts(), None, None, &kms), code);
        assert_eq!(problem.what, "cannot encrypt VM `web`");
    }
}

#[test]
fn all_that_is_encrypted_will_be_plain_and_the_home_last() {
    let table = [
        (vm_config(Some("1"), &[]), vec![HOME]),
        (vm_config(Some("1"), &[Some("1"), Some("2")]), vec![disk(0), disk(1), HOME]),
        (vm_config(Some("1"), &[None, Some("1")]), vec![disk(1), HOME]),
        (vm_config(None, &[Some("1")]), vec![disk(0)]),
    ];
    for (config, components) in table {
        let plan = decrypt(Vm::off(config).facts()).unwrap();
        assert!(plan.steps().iter().all(|step| step.action == StepAction::Decrypt));
        assert_eq!(plan.steps().iter().map(|step| step.component).collect::<Vec<_>>(), components);
    }
}

#[test]
fn refusals_of_decrypting() {
    let table = [
        (Vm::off(vm_config(None, &[None])), Code::NotEncrypted),
        (Vm::on(vm_config(Some("1"), &[Some("1")])), Code::VmRunning),
        (Vm::busy(vm_config(Some("1"), &[Some("1")])), Code::Busy),
        (Vm::unfinished(), Code::HomeInvalid),
    ];
    for (vm, code) in table {
        let problem = refused(decrypt(vm.facts()), code);
        assert_eq!(problem.what, "cannot decrypt VM `web`");
    }
}

#[test]
fn a_refusal_names_the_host_and_the_task() {
    let running = refused(decrypt(Vm::on(vm_config(Some("1"), &[])).facts()), Code::VmRunning);
    assert!(running.why.contains("`h1`"), "{}", running.why);
    let vm = Vm::busy(vm_config(Some("1"), &[]));
    let busy = refused(decrypt(vm.facts()), Code::Busy);
    assert!(busy.why.contains(&vm.busy.as_ref().unwrap().id.to_string()) && busy.why.contains("`ann`"), "{}", busy.why);
}

/// What a host makes of a plan.
fn apply(mut config: VmConfig, plan: &CryptoPlan) -> VmConfig {
    for step in plan.steps() {
        let key = match &step.action {
            StepAction::Decrypt => None,
            other => other.key().cloned(),
        };
        match step.component {
            Component::Home => {
                config.home = key.map_or(HomeCrypto::Plain, |key| HomeCrypto::Encrypted {
                    key,
                    wrapped_key: WrappedHomeKey("AAAA".into()),
                });
            }
            Component::Disk(id) => {
                let disk = config.disks.iter_mut().find(|disk| disk.id == id).unwrap();
                disk.crypto = key.map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key });
            }
        }
    }
    config
}

fn parts(config: &VmConfig) -> Vec<(Component, bool)> {
    let home = (HOME, config.home != HomeCrypto::Plain);
    let disks = config.disks.iter().map(|disk| (Component::Disk(disk.id), disk.key().is_some()));
    std::iter::once(home).chain(disks).collect()
}

proptest! {
    #[test]
    fn an_encrypt_plan_covers_exactly_what_is_not_encrypted(config in any_config()) {
        let plain: Vec<_> = parts(&config).into_iter().filter(|(_, secret)| !secret).map(|(part, _)| part).collect();
        let kms = providers(&["kms"], Some("kms"));
        match encrypt(Vm::off(config).facts(), None, None, &kms) {
            Ok(plan) => prop_assert_eq!(components(&plan), plain),
            Err(problem) => {
                prop_assert_eq!(problem.code, Code::AlreadyEncrypted);
                prop_assert!(plain.is_empty());
            }
        }
    }

    #[test]
    fn encrypting_touches_no_key_that_is_there_and_puts_the_home_first(config in any_config()) {
        let kms = providers(&["kms"], Some("kms"));
        if let Ok(plan) = encrypt(Vm::off(config.clone()).facts(), None, None, &kms) {
            let steps = plan.steps(&[key("new")]).unwrap();
            let home = steps.steps().iter().position(|step| step.component == HOME);
            prop_assert!(home.is_none_or(|at| at == 0));
            let after = apply(config.clone(), &steps);
            prop_assert!(parts(&after).iter().all(|(_, secret)| *secret));
            for key in config.keys() {
                prop_assert!(after.keys().contains(&key));
            }
        }
    }

    #[test]
    fn decrypting_puts_the_home_last(config in any_config()) {
        if let Ok(plan) = decrypt(Vm::off(config).facts()) {
            let last = plan.steps().len() - 1;
            let home = plan.steps().iter().position(|step| step.component == HOME);
            prop_assert!(home.is_none_or(|at| at == last));
        }
    }

    #[test]
    fn decrypting_what_was_encrypted_leaves_nothing_encrypted_and_all_there(config in any_config()) {
        let kms = providers(&["kms"], Some("kms"));
        let mut now = config.clone();
        if let Ok(plan) = encrypt(Vm::off(now.clone()).facts(), None, None, &kms) {
            now = apply(now, &plan.steps(&[key("new")]).unwrap());
        }
        let plan = decrypt(Vm::off(now.clone()).facts()).unwrap();
        let after = apply(now, &plan);
        prop_assert!(after.keys().is_empty());
        prop_assert_eq!(parts(&after).len(), parts(&config).len());
        prop_assert_eq!(decrypt(Vm::off(after).facts()).unwrap_err().code, Code::NotEncrypted);
    }
}
