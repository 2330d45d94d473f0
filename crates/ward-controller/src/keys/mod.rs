//! The way of a key: made and activated at its key server, got from there, given to hosts, forgotten.
//!
//! Nothing is kept here: a KEK is in the controller's memory for the time of one push. Whatever goes wrong with a key
//! becomes an event, and a problem for whoever waits for it.

mod destroy;
mod fault;
mod fetch;
mod health;
pub(crate) mod identity;
mod inspect;
mod lock;
mod look;
mod make;
mod needs;
mod orphans;
mod retire;
mod server;
mod supply;
mod watch;

pub(crate) use destroy::{destroy, grace, set_grace};
pub(crate) use fault::KeyFault;
pub(crate) use fetch::{fetch, id_at_server, is_destroyed, states, withheld};
pub(crate) use health::Health;
pub(crate) use inspect::{Ask, Standing, all_needed, holders, stand, tell, use_of};
pub(crate) use lock::{lock, release};
pub(crate) use look::{Look, look, look_at};
pub(crate) use make::{Made, NotMade, Owner, adopt, host_key_name, locate_or_make, make_ready, name_of, state_of};
pub(crate) use needs::{Needed, NeededKeys, ReservedKeys, needed, of_tasks, users};
pub(crate) use orphans::orphans;
pub(crate) use retire::{drop_from_hosts, retire};
pub(crate) use server::{Identity, Pool, client_of, connect, seal_purpose};
pub(crate) use supply::{MOMENT, Supply, give, named, supply, takes_none};
pub(crate) use watch::{light_of, look_again, summary, watch};

use ward_types::{Code, EventKind, EventSubject, KeyRef, Problem};

use crate::controller::Controller;

/// A key of another kind than those that lie at key servers.
fn not_at_a_server(what: &str, key: &KeyRef) -> KeyFault {
    let why = format!("the key {key} lies at no key server");
    let problem = Problem::new(Code::RequestInvalid, what, why, "name a key of a standard provider");
    KeyFault::new(&key.provider, Some(key), problem)
}

/// The refusal of a key that is being destroyed.
pub(crate) fn going(what: &str, key: &KeyRef) -> Problem {
    let why = format!("key {key} is being destroyed at its key server");
    Problem::new(Code::KeyNotUsable, what, why, "name another key, or leave it out to have a new one made")
}

/// The event that tells of a key problem that a host found.
pub(crate) const fn event_of_host(code: Code) -> Option<EventKind> {
    match code {
        Code::KeyNotOnHost => Some(EventKind::KeyNotOnHost),
        Code::KeyWrongVersion => Some(EventKind::KeyWrongVersion),
        Code::KeyWrong => Some(EventKind::KeyWrong),
        Code::KeyTampered => Some(EventKind::KeyTampered),
        _ => None,
    }
}

/// Makes a fault of a key an event and a problem.
pub(crate) async fn report(controller: &Controller, subject: &EventSubject, fault: KeyFault) -> Problem {
    let mut subject = subject.clone();
    subject.provider = Some(fault.provider);
    subject.key = fault.key.or(subject.key);
    note(controller, fault.kind, &subject, *fault.problem).await
}

/// Records a problem with a key that no fault tells of. The subject names what it is about.
pub(crate) async fn report_problem(controller: &Controller, subject: &EventSubject, problem: Problem) -> Problem {
    note(controller, fault::event_of(problem.code), subject, problem).await
}

async fn note(controller: &Controller, kind: EventKind, subject: &EventSubject, problem: Problem) -> Problem {
    controller.record_problem(kind, subject, &problem).await;
    problem
}
