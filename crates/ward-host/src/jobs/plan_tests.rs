//! What plans come to, by table and by property.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use ward_types::{Boot, KeyId, Nvram, TpmMake, VmId};

use super::*;

fn key(id: u8) -> KeyRef {
    KeyRef::standard("kms".parse().unwrap(), KeyId::try_from(id.to_string()).unwrap())
}

/// `None`: plain; `Some(n)`: encrypted under key n.
fn vm(home: Option<u8>, disks: &[Option<u8>]) -> VmConfig {
    let disk = |(n, crypto): (usize, &Option<u8>)| {
        let id = DiskId(u16::try_from(n).unwrap());
        let (extension, crypto) = match crypto {
            None => ("qcow2", DiskCrypto::Plain),
            Some(k) => ("luks", DiskCrypto::Encrypted { key: key(*k) }),
        };
        let file = format!("{id}.{extension}").parse().unwrap();
        DiskConfig { id, file, size: 1 << 20, plain_format: PlainFormat::Qcow2, crypto, attached: true }
    };
    VmConfig {
        version: 1,
        id: VmId::new(),
        name: "vm".parse().unwrap(),
        cpus: 1,
        memory_mib: 64,
        boot: Boot::Disk,
        home: match home {
            None => HomeCrypto::Plain,
            Some(k) => HomeCrypto::Encrypted { key: key(k), wrapped_key: WrappedHomeKey("x".into()) },
        },
        disks: disks.iter().enumerate().map(disk).collect(),
        firmware: Firmware::Bios,
        tpm: None,
    }
}

/// The same with UEFI, and with a vTPM.
fn with_uefi(config: VmConfig, tpm: bool) -> VmConfig {
    let encrypted = config.home != HomeCrypto::Plain;
    let file = if encrypted { "nvram.luks" } else { "nvram.raw" }.parse().unwrap();
    let firmware = Firmware::Uefi { secure_boot: false, nvram: Nvram { file, size: 540_672 } };
    let tpm = tpm.then(|| VirtualTpm {
        state: "tpm".parse().unwrap(),
        wrapped_key: WrappedTpmKey("t".into()),
        endorsement: None,
    });
    VmConfig { firmware, tpm, ..config }
}

fn recrypt(component: Component, deep: bool, k: u8) -> CryptoStep {
    let key = key(k);
    let action = if deep { StepAction::DeepRecrypt { key } } else { StepAction::ShallowRecrypt { key } };
    CryptoStep { component, action }
}

fn step(component: Component, encrypt: Option<u8>) -> CryptoStep {
    let action = encrypt.map_or(StepAction::Decrypt, |k| StepAction::Encrypt { key: key(k) });
    CryptoStep { component, action }
}

fn disk(n: u16) -> Component {
    Component::Disk(DiskId(n))
}

fn run(config: &VmConfig, steps: &[CryptoStep]) -> Result<Planned> {
    run_with(config, steps, None)
}

fn run_with(config: &VmConfig, steps: &[CryptoStep], tpm: Option<TpmChange>) -> Result<Planned> {
    let mut taken: BTreeSet<_> = config.volumes().map(|volume| volume.file.to_string()).collect();
    taken.extend(config.tpm.iter().map(|tpm| tpm.state.to_string()));
    plan(config, &CryptoPlan::new(steps.to_vec()), tpm.as_ref(), &Names::New { taken: &taken })
}

fn after(work: &Work, before: &VmConfig, endorsement: Option<&Endorsement>) -> VmConfig {
    let tpm = NewTpm { key: Some(&WrappedTpmKey("u".into())), endorsement };
    work.after(before, Some(&WrappedHomeKey("y".into())), tpm).unwrap()
}

fn endorsement(rsa: &str, ecc: &str) -> Endorsement {
    let key = |public: &str, certificate: &str| EndorsementKey {
        public: public.into(),
        certificate: EkCertificate(certificate.into()),
    };
    let text = || "x".to_owned();
    let make = TpmMake { manufacturer: text(), model: text(), version: text(), revision: 164 };
    Endorsement { make, rsa: key("R", rsa), ecc: key("E", ecc) }
}

#[test]
fn certificates_of_a_vtpm_are_replaced_with_its_state_and_stay_else() {
    let certify = |rsa: Option<&str>, ecc: Option<&str>| {
        let given = |text: &str| EkCertificate(text.into());
        Some(TpmChange::Certify { rsa: rsa.map(given), ecc: ecc.map(given) })
    };
    let bare = with_uefi(vm(Some(1), &[]), true);
    let with = |rsa, ecc| {
        let tpm = bare.tpm.clone().map(|tpm| VirtualTpm { endorsement: Some(endorsement(rsa, ecc)), ..tpm });
        VmConfig { tpm, ..bare.clone() }
    };
    let step = |config: &VmConfig, change| match run_with(config, &[], change).unwrap() {
        Planned::Work(work) => Some(work),
        Planned::AlreadyDone => None,
    };
    // One that has none gets them; one that has those is done.
    for change in [certify(None, None), certify(Some("c"), None)] {
        let work = step(&bare, change.clone()).unwrap();
        assert_eq!(work.tpm.to().unwrap().as_str(), "tpm-2");
        let now = after(&work, &bare, Some(&endorsement("c", "d")));
        assert_eq!(now.tpm.as_ref().unwrap().endorsement, Some(endorsement("c", "d")));
        assert_eq!(step(&now, change), None);
    }
    let old = with("a", "b");
    assert!(step(&old, certify(Some("c"), None)).is_some() && step(&old, certify(Some("a"), Some("d"))).is_some());
    assert_eq!(step(&old, certify(Some("a"), Some("b"))), None);
    let plain = with_uefi(vm(Some(1), &[]), false);
    assert_eq!(run_with(&plain, &[], certify(None, None)).unwrap_err().code, Code::TpmNone);
    // Neither a new KEK nor a new key of the state takes them away.
    for deep in [false, true] {
        let Planned::Work(work) = run(&old, &[recrypt(Component::Home, deep, 2)]).unwrap() else { panic!() };
        assert_eq!(after(&work, &old, None).tpm.unwrap().endorsement, Some(endorsement("a", "b")));
    }
}

#[test]
fn refusals() {
    let (home, e, d) = (Component::Home, Some(1), None);
    for (config, steps, code) in [
        (vm(None, &[None]), vec![step(disk(0), e)], Code::Composition),
        (vm(None, &[None]), vec![step(home, e), step(disk(1), e)], Code::NotFound),
        (vm(None, &[None]), vec![step(home, e), step(home, d)], Code::RequestInvalid),
        (vm(e, &[None, e]), vec![step(disk(0), e), step(disk(1), e)], Code::AlreadyEncrypted),
        (vm(Some(2), &[None]), vec![step(home, e)], Code::AlreadyEncrypted),
        (vm(e, &[e]), vec![step(home, d)], Code::Composition),
        (vm(e, &[e, e]), vec![step(disk(0), d), step(home, d)], Code::Composition),
        (vm(e, &[None, e]), vec![step(disk(0), d), step(disk(1), d)], Code::NotEncrypted),
        (vm(e, &[None]), vec![recrypt(disk(0), false, 2)], Code::NotEncrypted),
        (vm(d, &[d]), vec![recrypt(home, false, 2)], Code::NotEncrypted),
        (vm(e, &[Some(2)]), vec![recrypt(home, false, 2), recrypt(disk(0), false, 2)], Code::KeyUnchanged),
        (vm(e, &[Some(2)]), vec![recrypt(home, true, 2), recrypt(disk(0), true, 2)], Code::KeyUnchanged),
        (vm(e, &[e]), vec![recrypt(disk(0), false, 2), step(home, d)], Code::Composition),
    ] {
        assert_eq!(run(&config, &steps).unwrap_err().code, code, "{config:?} {steps:?}");
    }
}

#[test]
fn the_uefi_variables_go_with_the_home() {
    let home = Component::Home;
    let nvram = |config: &VmConfig, steps: &[CryptoStep]| {
        let Ok(Planned::Work(work)) = run(config, steps) else { panic!("{config:?} {steps:?}") };
        let converted = work.conversion_of(VolumeId::Nvram).map(|conversion| conversion.to.clone());
        let after = after(&work, config, None);
        (converted.map(|to| to.file.to_string()), work.rekeyed(), after)
    };
    let plain = with_uefi(vm(None, &[None]), false);
    let (to, _, after) = nvram(&plain, &[step(home, Some(1))]);
    assert_eq!(to.as_deref(), Some("nvram.luks"));
    assert_eq!(after.firmware.nvram().unwrap().file.as_str(), "nvram.luks");
    let encrypted = with_uefi(vm(Some(1), &[Some(1)]), true);
    let (to, rekeyed, after) = nvram(&encrypted, &[recrypt(home, false, 2)]);
    assert_eq!((to, rekeyed), (None, vec![VolumeId::Nvram]));
    assert_eq!(
        after.tpm.unwrap(),
        VirtualTpm { state: "tpm".parse().unwrap(), wrapped_key: WrappedTpmKey("u".into()), endorsement: None }
    );
    let (to, _, after) = nvram(&encrypted, &[recrypt(home, true, 2)]);
    assert_eq!(to.as_deref(), Some("nvram-2.luks"));
    assert_eq!(after.tpm.unwrap().state.as_str(), "tpm-2", "it has a key of its own, which is replaced too");
    let bare = VmConfig { tpm: None, ..encrypted.clone() };
    let (to, ..) = nvram(&bare, &[step(disk(0), None), step(home, None)]);
    assert_eq!(to.as_deref(), Some("nvram.raw"));
    let (to, _, after) = nvram(&encrypted, &[recrypt(disk(0), true, 2)]);
    assert_eq!((to, &after.tpm), (None, &encrypted.tpm), "a disk alone");
}

#[test]
fn a_vtpm_comes_and_goes_by_the_rules() {
    use TpmChange::{Add, Remove};
    let (home, none) = (Component::Home, &[][..]);
    let (encrypt, decrypt) = ([step(home, Some(1))], [step(home, None)]);
    let (plain, encrypted) = (with_uefi(vm(None, &[]), false), with_uefi(vm(Some(1), &[]), false));
    let with = with_uefi(vm(Some(1), &[]), true);
    for (config, steps, change, expected) in [
        (&plain, &encrypt[..], Add, Ok(TpmStep::Make { to: "tpm".parse().unwrap() })),
        (&encrypted, none, Add, Ok(TpmStep::Make { to: "tpm".parse().unwrap() })),
        (&with, none, Remove, Ok(TpmStep::Remove { from: "tpm".parse().unwrap() })),
        (&with, &decrypt, Remove, Ok(TpmStep::Remove { from: "tpm".parse().unwrap() })),
        (&plain, none, Add, Err(Code::Composition)),
        (&encrypted, &decrypt, Add, Err(Code::Composition)),
        (&vm(Some(1), &[]), none, Add, Err(Code::Composition)),
        (&with, &decrypt, Add, Err(Code::Exists)),
        (&encrypted, &decrypt, Remove, Err(Code::TpmNone)),
    ] {
        let planned = run_with(config, steps, Some(change.clone())).map_err(|fault| fault.code);
        let step = planned.map(|planned| match planned {
            Planned::Work(work) => work.tpm,
            Planned::AlreadyDone => panic!("{config:?} {steps:?}"),
        });
        assert_eq!(step, expected, "{config:?} {steps:?} {change:?}");
    }
    assert_eq!(run_with(&with, none, Some(Add)), Ok(Planned::AlreadyDone));
    assert_eq!(run_with(&encrypted, none, Some(Remove)), Ok(Planned::AlreadyDone));
    assert_eq!(run(&with, &decrypt).unwrap_err().code, Code::Composition, "a vTPM keeps the home encrypted");
}

#[test]
fn what_holds_already_is_done() {
    let all = [step(Component::Home, Some(1)), step(disk(0), Some(1))];
    assert_eq!(run(&vm(Some(1), &[Some(1)]), &all), Ok(Planned::AlreadyDone));
    let none = [step(Component::Home, None), step(disk(0), None)];
    assert_eq!(run(&vm(None, &[None]), &none), Ok(Planned::AlreadyDone));
    assert_eq!(run(&vm(None, &[]), &[]), Ok(Planned::AlreadyDone));
}

#[test]
fn names_are_new_or_those_noted() {
    let config = vm(None, &[None]);
    let plan_of = |names: &Names<'_>| {
        let steps = CryptoPlan::new(vec![step(Component::Home, Some(1)), step(disk(0), Some(1))]);
        match plan(&config, &steps, None, names).unwrap() {
            Planned::Work(work) => work,
            Planned::AlreadyDone => panic!("nothing to do"),
        }
    };
    for (taken, expected) in [
        (vec![], "disk-0.luks"),
        (vec!["disk-0.luks"], "disk-0-2.luks"),
        (vec!["disk-0.luks.part"], "disk-0-2.luks"),
        (vec!["disk-0.luks", "disk-0-2.luks"], "disk-0-3.luks"),
    ] {
        let taken = taken.into_iter().map(str::to_owned).collect();
        let work = plan_of(&Names::New { taken: &taken });
        assert_eq!(work.conversions[0].to.file.as_str(), expected);
        assert_eq!(plan_of(&Names::Noted { files: &work.files(), tpm: None }), work);
    }
    let mut forged = plan_of(&Names::New { taken: &BTreeSet::new() }).files();
    forged[0].to = forged[0].from.clone();
    let steps = CryptoPlan::new(vec![step(Component::Home, Some(1)), step(disk(0), Some(1))]);
    let forged = Names::Noted { files: &forged, tpm: None };
    assert_eq!(plan(&config, &steps, None, &forged).unwrap_err().code, Code::HomeInvalid);
}

fn action() -> impl Strategy<Value = StepAction> {
    let key = (1u8..3).prop_map(key);
    prop_oneof![
        key.clone().prop_map(|key| StepAction::Encrypt { key }),
        key.clone().prop_map(|key| StepAction::ShallowRecrypt { key }),
        key.prop_map(|key| StepAction::DeepRecrypt { key }),
        Just(StepAction::Decrypt),
    ]
}

fn crypto() -> impl Strategy<Value = Option<u8>> {
    prop::option::of(1u8..3)
}

proptest! {
    /// Whatever is accepted leads to what was asked, touches nothing else, asks for every key that it takes, and
    /// holds when it is asked again.
    #[test]
    fn what_is_planned_is_what_was_asked(
        home in crypto(), disks in prop::collection::vec(crypto(), 0..4),
        ask_home in prop::option::of(action()), ask in prop::collection::vec(prop::option::of(action()), 0..4),
        uefi: bool, tpm: bool,
    ) {
        prop_assume!(home.is_some() || disks.iter().all(Option::is_none));
        let before = vm(home, &disks);
        let before = if uefi { with_uefi(before, tpm && home.is_some()) } else { before };
        let step = |component, action: &StepAction| CryptoStep { component, action: action.clone() };
        let mut steps: Vec<_> = ask_home.iter().map(|ask| step(Component::Home, ask)).collect();
        for (n, ask) in ask.iter().enumerate().take(disks.len()) {
            steps.extend(ask.iter().map(|ask| step(disk(u16::try_from(n).unwrap()), ask)));
        }
        let Ok(Planned::Work(work)) = run(&before, &steps) else { return Ok(()) };
        let after = after(&work, &before, None);
        prop_assert_eq!(run(&after, &steps), Ok(Planned::AlreadyDone));
        prop_assert!(after.home != HomeCrypto::Plain || !after.is_encrypted() && after.tpm.is_none());
        prop_assert_eq!(before.tpm.is_some(), after.tpm.is_some());
        // What was encrypted under the home's key is so no longer where the home isn't.
        let moved = before.firmware.nvram() != after.firmware.nvram();
        prop_assert_eq!(moved, uefi && ask_home.as_ref().is_some_and(|action| !action.is_online()));
        prop_assert_eq!(before.tpm != after.tpm, before.tpm.is_some() && ask_home.is_some());
        let needed: Vec<_> = work.old_keys().chain(work.new_keys()).collect();
        for (old, new) in before.disks.iter().zip(&after.disks) {
            let asked = steps.iter().find(|step| step.component == Component::Disk(old.id));
            prop_assert_eq!(asked.is_some(), old != new);
            if let Some(CryptoStep { action, .. }) = asked {
                prop_assert_eq!(action.is_online(), old.file == new.file);
                prop_assert_eq!(action.key(), new.key());
                prop_assert!(old.key().into_iter().chain(new.key()).all(|key| needed.contains(&key)));
                prop_assert_eq!((old.size, old.plain_format), (new.size, new.plain_format));
            }
        }
        let names: BTreeSet<_> = after.disks.iter().map(|disk| &disk.file).collect();
        prop_assert_eq!(names.len(), after.disks.len());
    }
}
