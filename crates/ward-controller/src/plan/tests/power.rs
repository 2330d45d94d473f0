use ward_types::{Code, HostId, Power};

use super::super::{HostFacts, remove, start, stop};
use super::{Vm, host, key, name, refused, unfit, vm_config};

#[test]
fn a_start_tells_each_key_once() {
    let table = [
        (vm_config(None, &[None]), vec![]),
        (vm_config(Some("1"), &[Some("1"), Some("2"), None]), vec![key("1"), key("2")]),
        (vm_config(None, &[Some("2")]), vec![key("2")]),
    ];
    for (config, keys) in table {
        assert_eq!(start(Vm::off(config).facts(), None, None, &[host("a")]), Ok(keys));
    }
}

#[test]
fn a_plain_vm_needs_no_host_that_holds_keys() {
    let hosts = [HostFacts { unfit: Some(unfit()), ..host("a") }];
    assert_eq!(start(Vm::off(vm_config(None, &[None])).facts(), None, None, &hosts), Ok(vec![]));
    refused(start(Vm::off(vm_config(Some("1"), &[])).facts(), None, None, &hosts), Code::HostUnfit);
}

#[test]
fn refusals_of_a_start() {
    let plain = || vm_config(None, &[None]);
    let asked = name("b");
    let table = [
        (Vm::on(plain()), vec![host("a")], None, Code::VmRunning),
        (Vm::busy(plain()), vec![host("a")], None, Code::Busy),
        (Vm::unfinished(), vec![host("a")], None, Code::HomeInvalid),
        (Vm::off(plain()), vec![], None, Code::HostNone),
        (Vm::off(plain()), vec![HostFacts { qemu: false, ..host("a") }], None, Code::HostUnfit),
        (Vm::off(plain()), vec![HostFacts { connected: false, ..host("a") }], None, Code::HostUnreachable),
        (Vm::off(plain()), vec![host("a")], Some(&asked), Code::NotFound),
    ];
    for (vm, hosts, asked, code) in table {
        let problem = refused(start(vm.facts(), None, asked, &hosts), code);
        assert_eq!(problem.what, "cannot start VM `web`");
    }
}

#[test]
fn a_stop_goes_to_the_host_where_it_runs() {
    let host = HostId::new();
    assert_eq!(stop(Vm::on(vm_config(None, &[])).facts(), Some(host)), Ok(host));
}

#[test]
fn refusals_of_a_stop() {
    let plain = || vm_config(None, &[]);
    let busy = Vm { power: Power::On, ..Vm::busy(plain()) };
    let table = [
        (Vm::off(plain()), Some(HostId::new()), Code::VmNotRunning),
        (Vm::off(plain()), None, Code::VmNotRunning),
        (busy, Some(HostId::new()), Code::Busy),
        (Vm::unfinished(), None, Code::HomeInvalid),
    ];
    for (vm, host, code) in table {
        let problem = refused(stop(vm.facts(), host), code);
        assert_eq!(problem.what, "cannot stop VM `web`");
    }
}

#[test]
fn a_deletion_tells_which_keys_may_have_become_unneeded() {
    let hosts = [host("a")];
    let vm = Vm::off(vm_config(Some("1"), &[Some("2"), Some("1")]));
    assert_eq!(remove(vm.facts(), &hosts), Ok(vec![key("1"), key("2")]));
    assert_eq!(remove(Vm::off(vm_config(None, &[None])).facts(), &hosts), Ok(vec![]));
}

#[test]
fn what_was_never_finished_can_be_deleted() {
    assert_eq!(remove(Vm::unfinished().facts(), &[host("a")]), Ok(vec![]));
}

#[test]
fn deleting_takes_any_host_that_answers() {
    let hosts = [HostFacts { unfit: Some(unfit()), qemu: false, ..host("a") }];
    assert_eq!(remove(Vm::off(vm_config(Some("1"), &[])).facts(), &hosts), Ok(vec![key("1")]));
}

#[test]
fn refusals_of_a_deletion() {
    let plain = || vm_config(None, &[None]);
    let making = Vm { config: None, ..Vm::busy(plain()) };
    let table = [
        (Vm::on(plain()), vec![host("a")], Code::VmRunning),
        (Vm::busy(plain()), vec![host("a")], Code::Busy),
        (making, vec![host("a")], Code::Busy),
        (Vm::off(plain()), vec![], Code::HostNone),
        (Vm::unfinished(), vec![HostFacts { connected: false, ..host("a") }], Code::HostUnreachable),
    ];
    for (vm, hosts, code) in table {
        let problem = refused(remove(vm.facts(), &hosts), code);
        assert_eq!(problem.what, "cannot delete VM `web`");
    }
}
