use proptest::prelude::*;
use ward_rpc::api::host::HostParts;
use ward_types::{Code, HostId, Problem, ProviderName};

use super::super::{HostFacts, Needs, place};
use super::{host, name, refused, unfit};

fn placed(hosts: &[HostFacts], needs: Needs<'_>) -> Result<HostId, Problem> {
    place("cannot start VM `web`", hosts, needs)
}

#[test]
fn the_preferred_host_else_the_one_with_the_fewest_vms_else_by_name() {
    let hosts = [
        HostFacts { vms: 3, ..host("a") },
        HostFacts { vms: 1, ..host("c") },
        HostFacts { vms: 1, ..host("b") },
        HostFacts { vms: 0, connected: false, ..host("d") },
    ];
    let [a, c, b, d] = &hosts;
    let none = Needs::default();
    assert_eq!(placed(&hosts, none), Ok(b.id));
    assert_eq!(placed(&hosts, Needs { rather: Some(a.id), ..none }), Ok(a.id));
    assert_eq!(placed(&hosts, Needs { rather: Some(d.id), ..none }), Ok(b.id), "d is away");
    assert_eq!(placed(&hosts, Needs { rather: Some(HostId::new()), ..none }), Ok(b.id), "of another cluster");
    assert_eq!(placed(&hosts, Needs { not: Some(b.id), ..none }), Ok(c.id));
    assert_eq!(placed(&hosts, Needs { not: Some(b.id), rather: Some(b.id), ..none }), Ok(c.id), "b was tried");
    assert_eq!(placed(&hosts, Needs { asked: Some(&name("a")), ..none }), Ok(a.id));
    assert_eq!(placed(&hosts, Needs { asked: Some(&name("a")), rather: Some(b.id), ..none }), Ok(a.id));
}

#[test]
fn what_is_not_needed_may_be_missing() {
    let bare = HostFacts { unfit: Some(unfit()), qemu: false, ..host("a") };
    assert_eq!(placed(std::slice::from_ref(&bare), Needs::default()), Ok(bare.id));
}

#[test]
fn each_lack_has_its_code_whether_or_not_the_host_was_asked_for() {
    let a = name("a");
    let all = Needs { qemu: true, keys: true, ..Needs::default() };
    let table = [
        (HostFacts { connected: false, ..host("a") }, Code::HostUnreachable, "does not answer"),
        (HostFacts { unfit: Some(unfit()), ..host("a") }, Code::HostUnfit, "memory can't be locked"),
        (HostFacts { qemu: false, ..host("a") }, Code::HostUnfit, "QEMU"),
    ];
    for (lacking, code, why) in table {
        for needs in [all, Needs { asked: Some(&a), ..all }] {
            let problem = refused(placed(std::slice::from_ref(&lacking), needs), code);
            assert!(problem.why.contains("`a`") && problem.why.contains(why), "{}", problem.why);
        }
    }
}

#[test]
fn keys_of_a_trusted_provider_are_for_hosts_that_are_attested_and_reach_it() {
    let [vault, safe]: [ProviderName; 2] = ["vault", "safe"].map(|name| name.parse().unwrap());
    let with = |host_name, trust: &[(&ProviderName, Option<Problem>)]| HostFacts {
        trust: trust.iter().map(|(provider, lack)| ((*provider).clone(), lack.clone())).collect(),
        ..host(host_name)
    };
    let lack = |code, why: &str| Some(Problem::new(code, "no key", why, "mend it"));
    let hosts = [
        with("a", &[(&vault, lack(Code::AttestationFailed, "PCR 4"))]),
        with("b", &[(&vault, lack(Code::TrustUnreachable, "no key provider service answers"))]),
        with("c", &[(&safe, None)]),
        HostFacts { vms: 9, ..with("d", &[(&safe, lack(Code::AttestationFailed, "PCR 7")), (&vault, None)]) },
    ];
    let needs = Needs { trusted: std::slice::from_ref(&vault), ..Needs::default() };
    assert_eq!(placed(&hosts, needs), Ok(hosts[3].id));
    for (host, code, why) in [
        ("a", Code::AttestationFailed, "PCR 4"),
        ("b", Code::TrustUnreachable, "no key provider service answers"),
        ("c", Code::ProviderNone, "was not told of trusted key provider `vault`"),
    ] {
        let asked = name(host);
        let problem = refused(placed(&hosts, Needs { asked: Some(&asked), ..needs }), code);
        assert!(problem.why.contains(why), "{problem}");
    }
    let both = [vault.clone(), safe];
    refused(placed(&hosts, Needs { trusted: &both, ..needs }), Code::HostNone);
    assert_eq!(placed(&hosts, Needs::default()), Ok(hosts[0].id), "a plain VM is placed anywhere");
}

#[test]
fn a_host_that_was_asked_for_is_taken_or_none_is() {
    let asked = name("a");
    let needs = Needs { asked: Some(&asked), ..Needs::default() };
    refused(placed(&[host("b")], needs), Code::NotFound);
    refused(placed(&[HostFacts { connected: false, ..host("a") }, host("b")], needs), Code::HostUnreachable);
}

#[test]
fn where_no_host_can_every_reason_is_told() {
    refused(placed(&[], Needs::default()), Code::HostNone);
    let hosts = [
        HostFacts { connected: false, ..host("a") },
        HostFacts { unfit: Some(unfit()), ..host("b") },
        HostFacts { qemu: false, ..host("c") },
    ];
    let problem = refused(placed(&hosts, Needs { qemu: true, keys: true, ..Needs::default() }), Code::HostNone);
    for host in ["`a`", "`b`", "`c`"] {
        assert!(problem.why.contains(host), "{}", problem.why);
    }
}

#[test]
fn the_only_host_was_tried() {
    let hosts = [host("a")];
    let needs = Needs { not: Some(hosts[0].id), ..Needs::default() };
    refused(placed(&hosts, needs), Code::HostNone);
}

fn any_hosts() -> impl Strategy<Value = Vec<HostFacts>> {
    let one = (any::<bool>(), any::<bool>(), any::<bool>(), 0usize..4);
    prop::collection::vec(one, 0..6).prop_map(|hosts| {
        let facts = |(number, (connected, fit, qemu, vms)): (usize, (bool, bool, bool, usize))| HostFacts {
            connected,
            unfit: (!fit).then(unfit),
            qemu,
            vms,
            ..host(&format!("h{number}"))
        };
        hosts.into_iter().enumerate().map(facts).collect()
    })
}

proptest! {
    #[test]
    fn a_host_is_chosen_exactly_where_one_can(
        hosts in any_hosts(),
        qemu: bool,
        keys: bool,
        asked in prop::option::of(0usize..6),
        rather in prop::option::of(0usize..6),
        not in prop::option::of(0usize..6),
    ) {
        let id = |number: Option<usize>| number.and_then(|number| hosts.get(number)).map(|host| host.id);
        let asked = asked.map(|number| name(&format!("h{number}")));
        let needs = Needs { asked: asked.as_ref(), rather: id(rather), not: id(not), qemu, keys, ..Needs::default() };
        let can = |host: &&HostFacts| {
            host.connected
                && (!keys || host.unfit.is_none())
                && (!qemu || host.qemu)
                && asked.as_ref().map_or(Some(host.id) != needs.not, |asked| &host.name == asked)
        };
        match placed(&hosts, needs) {
            Ok(chosen) => {
                let chosen = hosts.iter().find(|host| host.id == chosen).unwrap();
                prop_assert!(can(&chosen));
                let preferred = hosts.iter().filter(can).any(|host| Some(host.id) == needs.rather);
                if preferred {
                    prop_assert_eq!(Some(chosen.id), needs.rather);
                } else {
                    prop_assert!(hosts.iter().filter(can).all(|host| chosen.vms <= host.vms));
                }
            }
            Err(problem) => {
                prop_assert_eq!(hosts.iter().filter(can).count(), 0, "{}", problem);
                prop_assert!(!problem.why.is_empty() && !problem.remedy.is_empty(), "{:?}", problem);
            }
        }
    }
}

#[test]
fn a_host_has_the_firmware_and_the_swtpm_that_the_vm_takes() {
    let all = HostParts { uefi: true, secure_boot: true, swtpm: true };
    for (there, what, package) in [
        (HostParts { uefi: false, ..all }, "UEFI firmware for VMs", "`ovmf`"),
        (HostParts { secure_boot: false, ..all }, "Secure Boot", "`ovmf`"),
        (HostParts { swtpm: false, ..all }, "swtpm", "`swtpm`"),
    ] {
        let poor = HostFacts { parts: there, ..host("a") };
        let rich = HostFacts { vms: 9, ..host("b") };
        let needs = Needs { parts: all, ..Needs::default() };
        assert_eq!(placed(&[poor.clone(), rich.clone()], needs), Ok(rich.id));
        let problem = placed(std::slice::from_ref(&poor), needs).unwrap_err();
        assert!(problem.code == Code::HostUnfit && problem.why.contains(what), "{problem:?}");
        assert!(problem.remedy.contains(package), "{problem:?}");
        // What needs none of it is placed there.
        assert_eq!(placed(std::slice::from_ref(&poor), Needs::default()), Ok(poor.id));
    }
}
