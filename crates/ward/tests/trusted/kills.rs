//! The controller killed while hosts make keys with the trust authority.

use std::fs;

use ward_controller::api::types::{TrustState, VmView};

use crate::authority::{Authority, Machine, import, restart_agent, wait_for};
use crate::support::System;

#[test]
fn the_controller_killed_at_any_step_of_encrypting_under_a_trusted_provider() {
    let machine = Machine::booted();
    let mut authority = Authority::set_up(&machine);
    let mut system = System::start(1);
    restart_agent(&mut system, &machine, &authority);
    import(&system, &authority);
    authority.admit(&system, "h0");
    wait_for(&system, TrustState::Healthy);
    system.killed_while_encrypting("vault", |system, vm, content| {
        system.ward(&["vm", "decrypt", vm.name.as_str()]);
        let vm: VmView = system.json(&["vm", "show", vm.name.as_str()]);
        assert!(!vm.encrypted && fs::read(vm.home.join("disk-0.raw")).unwrap() == content);
    });
}
