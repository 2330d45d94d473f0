//! Whatever is asked of whatever VM, in any sequence: changes of its encryption and of its disks.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ward_rpc::api::host::VolumeLabel;
use ward_types::{
    Code, Component, CryptoRequest, CryptoSpec, DiskConfig, DiskCrypto, DiskId, HomeCrypto, KeyId, KeyRef, PlainFormat,
    Power, Problem, VmConfig, VmId,
};

use super::super::crypt::tests::{apply, key, providers, vm, wish};
use super::super::{
    CryptPlan, DiskVerb, DiskWish, KeyChoice, NewDiskPlan, Origin, VmFacts, add_disk, change_disk, crypt, keys,
};

/// Something that is asked.
#[derive(Clone, Debug)]
enum Ask {
    Crypto(CryptoRequest),
    Add(Option<u8>, CryptoSpec),
    Change(DiskId, DiskVerb),
}

fn spec() -> impl Strategy<Value = CryptoSpec> {
    let wish = (prop::option::of(prop_oneof![Just("a"), Just("b")]), prop::option::of(1u8..4))
        .prop_map(|(provider, id)| wish(provider, id));
    prop_oneof![
        2 => Just(CryptoSpec::NoOp),
        1 => Just(CryptoSpec::Register),
        3 => wish.clone().prop_map(CryptoSpec::Encrypt),
        3 => Just(CryptoSpec::Decrypt),
        2 => wish.clone().prop_map(CryptoSpec::ShallowRecrypt),
        2 => wish.prop_map(CryptoSpec::DeepRecrypt),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let id = || (0u16..6).prop_map(DiskId);
    let request = (spec(), prop::collection::btree_map(id(), spec(), 0..4))
        .prop_map(|(home, disks)| Ask::Crypto(CryptoRequest { home, disks }));
    let verb = prop_oneof![Just(DiskVerb::Attach), Just(DiskVerb::Detach), Just(DiskVerb::Remove)];
    prop_oneof![
        4 => request,
        3 => (prop::option::of(1u8..4), spec()).prop_map(|(was, spec)| Ask::Add(was, spec)),
        3 => (id(), verb).prop_map(|(id, verb)| Ask::Change(id, verb)),
    ]
}

fn facts<'a>(config: &'a VmConfig, power: Power) -> VmFacts<'a> {
    VmFacts { name: &config.name, config: Some(config), power, host: None, busy: None, locked: None, template: false }
}

fn origin(was: Option<u8>) -> Origin {
    match was {
        None => Origin::Blank { size: 4096, format: PlainFormat::Raw },
        Some(id) => {
            let label = VolumeLabel { key: key(id), vm: VmId::new(), disk: DiskId(0) };
            Origin::Volume { path: "/store/other/disk-0.luks".into(), label, known: None }
        }
    }
}

/// The keys that a plan takes, as they come to be.
fn keys_of(plan: &CryptPlan, n: usize) -> Vec<KeyRef> {
    let new = |(m, choice): (usize, &KeyChoice)| match choice {
        KeyChoice::Existing(key) => key.clone(),
        KeyChoice::New(provider) => {
            KeyRef::standard(provider.clone(), KeyId::try_from(format!("new-{n}-{m}")).unwrap())
        }
    };
    plan.keys.iter().enumerate().map(new).collect()
}

/// What a host makes of a change of disks.
fn added(config: &VmConfig, plan: &NewDiskPlan, keys: &[KeyRef]) -> VmConfig {
    let crypto = plan.outcome(keys).0.map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key });
    let mut after = config.clone();
    let file = format!("{}.new", plan.id).parse().unwrap();
    after.disks.push(DiskConfig {
        id: plan.id,
        file,
        size: 4096,
        plain_format: PlainFormat::Raw,
        crypto,
        attached: true,
    });
    after.disks.sort_by_key(|disk| disk.id);
    after
}

fn changed(config: &VmConfig, id: DiskId, verb: DiskVerb) -> VmConfig {
    let mut after = config.clone();
    match verb {
        DiskVerb::Remove => after.disks.retain(|disk| disk.id != id),
        _ => after
            .disks
            .iter_mut()
            .filter(|disk| disk.id == id)
            .for_each(|disk| disk.attached = verb == DiskVerb::Attach),
    }
    after
}

/// The key that a spec leads to, given the one that there is.
fn expected(spec: &CryptoSpec, before: Option<&KeyRef>, got: Option<&KeyRef>) -> Result<(), String> {
    let right = match spec {
        CryptoSpec::NoOp | CryptoSpec::Register => got == before,
        CryptoSpec::Decrypt => got.is_none(),
        CryptoSpec::Encrypt(wish) | CryptoSpec::ShallowRecrypt(wish) | CryptoSpec::DeepRecrypt(wish) => {
            let provider = wish.provider.clone().unwrap_or_else(|| "a".parse().unwrap());
            got.is_some_and(|key| {
                let named = wish.key_id.as_ref().map(|id| KeyRef::standard(provider.clone(), id.clone()));
                key.provider == provider && named.is_none_or(|named| *key == named)
            }) && got != before
        }
    };
    if right { Ok(()) } else { Err(format!("{spec:?}: {before:?} -> {got:?}")) }
}

fn begin(now: &VmConfig, asked: &Ask, n: usize) -> Result<VmConfig, Problem> {
    let known = providers(Some("a"));
    Ok(match asked {
        Ask::Crypto(request) => {
            let plan = crypt(facts(now, Power::Off), request, &known)?;
            apply(now, &plan, &keys_of(&plan, n))
        }
        Ask::Add(was, spec) => {
            let wish = DiskWish { origin: origin(*was), crypto: spec.clone(), policy: None };
            let (plan, _) = add_disk(facts(now, Power::Off), wish, &[], &known)?;
            added(now, &plan, &keys_of(&plan.crypt, n))
        }
        Ask::Change(id, verb) => {
            change_disk(facts(now, Power::Off), *id, *verb)?;
            changed(now, *id, *verb)
        }
    })
}

proptest! {
    /// What is accepted keeps the composition rule, leads each component to the key that was asked for, leaves all others
    /// under theirs, and takes nothing away that was not asked for. Of a VM that runs only its KEKs change.
    #[test]
    fn after_any_accepted_sequence_the_rules_hold(
        home in prop::option::of(1u8..3),
        disks in prop::collection::vec(prop::option::of(1u8..3), 0..4),
        asked in prop::collection::vec(ask(), 1..16),
    ) {
        prop_assume!(home.is_some() || disks.iter().all(Option::is_none));
        let mut now = vm(home, &disks);
        for (n, ask) in asked.iter().enumerate() {
            if !matches!(ask, Ask::Crypto(_)) {
                let on = match ask {
                    Ask::Add(was, spec) => {
                        let wish = DiskWish { origin: origin(*was), crypto: spec.clone(), policy: None };
                        add_disk(facts(&now, Power::On), wish, &[], &providers(Some("a"))).map(drop)
                    }
                    Ask::Change(id, verb) => change_disk(facts(&now, Power::On), *id, *verb).map(drop),
                    Ask::Crypto(_) => Ok(()),
                };
                prop_assert_eq!(on.unwrap_err().code, Code::VmRunning);
            }
            let Ok(after) = begin(&now, ask, n) else { continue };
            prop_assert!(after.home != HomeCrypto::Plain || !after.is_encrypted(), "{:?}", ask);
            let (old, got_keys): (BTreeMap<_, _>, BTreeMap<_, _>) = (keys(&now), keys(&after));
            let id_of = |component: &Component| match component {
                Component::Home => None,
                Component::Disk(id) => Some(*id),
            };
            for (component, got) in &got_keys {
                let before = old.get(component).cloned().flatten();
                let spec = match (ask, component) {
                    (Ask::Crypto(request), Component::Home) => request.home.clone(),
                    (Ask::Crypto(request), Component::Disk(id)) => request.disks.get(id).cloned().unwrap_or_default(),
                    (Ask::Add(was, spec), Component::Disk(_)) if !old.contains_key(component) => {
                        let was = was.map(key);
                        prop_assert_eq!(expected(spec, was.as_ref(), got.as_ref()), Ok(()));
                        continue;
                    }
                    _ => CryptoSpec::NoOp,
                };
                prop_assert_eq!(expected(&spec, before.as_ref(), got.as_ref()), Ok(()));
            }
            for component in old.keys().filter(|component| !got_keys.contains_key(*component)) {
                let removed = matches!(ask, Ask::Change(id, DiskVerb::Remove) if id_of(component) == Some(*id));
                prop_assert!(removed, "{:?} lost {}", ask, component);
            }
            prop_assert!(after.boot_disk().map(|disk| disk.id) == now.boot_disk().map(|disk| disk.id)
                || now.boot_disk().is_none());
            now = after;
        }
    }
}
