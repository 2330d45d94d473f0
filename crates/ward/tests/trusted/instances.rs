//! Two instances of each service: they are tried in turn, and each serves by itself.

use jiff::Timestamp;
use ward_controller::api::types::{HostView, Light, ProviderView, TrustServiceView, TrustState, VmView};
use ward_types::{Code, Event, EventKind, HostMode, Power};

use crate::authority::{Authority, Machine, import, restart_agent, restart_attested, wait_for};
use crate::relay::Relay;
use crate::support::{System, eventually};

fn services(system: &System) -> Vec<TrustServiceView> {
    let status: serde_json::Value = system.json(&["trust", "status"]);
    serde_json::from_value(status["services"].clone()).unwrap()
}

/// Waits until so many of the four services answer; gives all of them.
fn answering(system: &System, count: usize) -> Vec<TrustServiceView> {
    eventually(&format!("{count} services answer"), || {
        let services = services(system);
        (services.iter().filter(|it| it.state != TrustState::Away).count() == count).then_some(services)
    })
}

fn told(system: &System, kind: EventKind) -> usize {
    system.json::<Vec<Event>>(&["event", "ls"]).iter().filter(|event| event.kind == kind).count()
}

fn light(system: &System) -> Light {
    system.json::<ProviderView>(&["provider", "show", "vault"]).status
}

#[test]
fn instances_are_tried_in_turn_and_one_that_comes_back_serves_again() {
    let machine = Machine::booted();
    let mut authority = Authority::with_instances(&machine, 2);
    let mut system = System::start(1);
    restart_agent(&mut system, &machine, &authority);
    import(&system, &authority);
    authority.admit(&system, "h0");
    wait_for(&system, TrustState::Healthy);
    let all = answering(&system, 4);
    // All four go by the configuration that was signed last.
    let configuration = all[0].desired.clone().unwrap();
    assert!(all.iter().all(|it| it.applied.as_ref() == Some(&configuration)), "{all:?}");
    assert!(all.iter().all(|it| it.state == TrustState::Healthy && it.answered.is_some()), "{all:?}");
    let counts = |it: &TrustServiceView| it.age_seconds < 60 && Timestamp::now() < it.expires;
    assert!(all.iter().all(counts), "{all:?}");
    assert_eq!(light(&system), Light::Green);

    // A token is asked for where none is there, and not for each key.
    let attested = authority.given(0, false).len();
    for vm in ["web-1", "web-2"] {
        system.encrypted_vm(vm, "vault");
        system.ward(&["vm", "start", vm]);
    }
    system.ward(&["vm", "stop", "web-2", "--force"]);
    assert_eq!(authority.given(0, false).len(), attested);
    let hosts: Vec<HostView> = system.json(&["host", "ls"]);
    let [host] = &hosts[..] else { panic!("{hosts:?}") };
    assert_eq!((host.mode, host.host_key.as_ref().unwrap().provider.as_str()), (HostMode::Safe, "vault"));
    assert_eq!(authority.given(0, true).len(), 3, "two VMs' keys and the host key were made, and are held");
    assert!(authority.given(1, true).is_empty() && authority.given(1, false).is_empty(), "the first ones come first");

    // The first of each is gone. It is told of, and the others serve: a host that has forgotten all is attested and gets
    // the keys that were made there; new ones are made.
    authority.kill(0);
    let left = answering(&system, 2);
    let away: Vec<_> = left.iter().filter(|it| it.state == TrustState::Away).collect();
    assert!(away.iter().all(|it| it.trouble.is_some() && counts(it)), "{left:?}");
    eventually("both are told of", || (told(&system, EventKind::TrustServiceDown) == 2).then_some(()));
    assert_eq!(light(&system), Light::Yellow);
    let view = restart_attested(&mut system, &machine, &authority);
    assert!(view.trouble.is_none(), "{view:?}");
    system.ward(&["vm", "start", "web-2"]);
    system.encrypted_vm("web-3", "vault");
    let [attested, given] = [false, true].map(|keys| authority.given(1, keys));
    assert!(attested.iter().any(|entry| entry.operation == "attest"), "{attested:?}");
    let operations: Vec<_> = given.iter().map(|entry| entry.operation.as_str()).collect();
    assert!(operations.contains(&"unwrap-kek") && operations.contains(&"make-kek"), "{operations:?}");
    assert_eq!(system.json::<VmView>(&["vm", "show", "web-1"]).power, Power::On);

    // It comes back, and the other one goes: what either made, either opens.
    authority.start(0);
    answering(&system, 4);
    eventually("both are told of", || (told(&system, EventKind::TrustServiceUp) == 2).then_some(()));
    assert_eq!(light(&system), Light::Green);

    // The first one runs, and its key server is away: the other one's is there.
    let relay = Relay::to(authority.key_server_port());
    let primary = authority.primary_key();
    authority.add_provider_by(0, "vault", relay.port(), &["--primary-key", &primary]);
    system.encrypted_vm("web-4", "vault");
    let before = [0, 1].map(|number| authority.given(number, true).len());
    drop(relay);
    system.encrypted_vm("web-5", "vault");
    assert_eq!([0, 1].map(|number| authority.given(number, true).len()), [before[0], before[1] + 1]);
    let last = authority.asked(0, true).pop().unwrap();
    assert!(last.result.starts_with("key.server-unreachable"), "{last:?}");
    authority.add_provider(0, "vault", &["--primary-key", &primary]);
    authority.share();
    authority.kill(1);
    answering(&system, 2);
    restart_attested(&mut system, &machine, &authority);
    system.ward(&["vm", "start", "web-3"]);

    // None is left: nothing that needs a key starts, before anything has begun; what runs runs on, and plain VMs are free.
    system.ward(&["vm", "stop", "web-3", "--force"]);
    authority.kill(0);
    restart_agent(&mut system, &machine, &authority);
    let view = eventually("the host says what it lacks", || {
        let view = wait_for(&system, TrustState::NotAttested);
        view.trouble.as_ref().is_some_and(|problem| problem.code == Code::TrustUnreachable).then_some(view)
    });
    assert!(view.trouble.unwrap().remedy.contains("runs"));
    eventually("all are away", || (light(&system) == Light::Red).then_some(()));
    let problem = system.refused(Code::TrustUnreachable, &["vm", "start", "web-3"]);
    assert!(problem.why.contains("gets no key of provider `vault`"), "{problem}");
    system.refused(Code::TrustUnreachable, &["vm", "recrypt", "web-3"]);
    assert_eq!(system.json::<VmView>(&["vm", "show", "web-1"]).power, Power::On);
    system.plain_vm("plain-1");
    system.ward(&["vm", "start", "plain-1"]);
    authority.start(1);
    wait_for(&system, TrustState::Healthy);
    system.ward(&["vm", "start", "web-3"]);

    // One whose configuration was changed and not signed shows.
    authority.start(0);
    answering(&system, 4);
    authority.trust(&["settings", "--token-seconds", "300"]);
    let differing = || services(&system).iter().filter(|it| it.state == TrustState::Differs).count();
    eventually("it shows", || (differing() == 1).then_some(()));
    authority.share();
    eventually("all go by one", || (differing() == 0).then_some(()));
    assert!(services(&system).iter().all(|it| it.desired != Some(configuration.clone())));
}
