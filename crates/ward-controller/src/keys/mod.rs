//! The way of a key: made and activated at its key server, got from there, given to hosts, forgotten.
//!
//! Nothing is kept here: a KEK is in the controller's memory for the time of one push. Whatever goes wrong with a key
//! becomes an event, and a problem for whoever waits for it.

mod fault;
mod health;
pub(crate) mod identity;
mod look;
mod make;
mod retire;
mod server;
mod supply;
mod watch;

pub(crate) use fault::KeyFault;
pub(crate) use health::Health;
pub(crate) use look::{Look, look, look_at};
pub(crate) use make::{Made, NotMade, adopt, locate_or_make, make_ready, name_of};
pub(crate) use retire::{drop_from_hosts, retire};
pub(crate) use server::{Identity, Pool, connect, seal_purpose};
pub(crate) use supply::{Supply, supply};
pub(crate) use watch::{light_of, look_again, summary, watch};

use ward_types::{Code, EventKind, EventSubject, KeyRef, Problem};

use crate::controller::Controller;

/// A key of another kind than those that lie at key servers.
fn not_at_a_server(what: &str, key: &KeyRef) -> KeyFault {
    let why = format!("the key {key} lies at no key server");
    let problem = Problem::new(Code::RequestInvalid, what, why, "name a key of a standard provider");
    KeyFault::new(&key.provider, Some(key), problem)
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
    tell(controller, fault.kind, &subject, *fault.problem).await
}

/// Records a problem with a key that no fault tells of. The subject names what it is about.
pub(crate) async fn report_problem(controller: &Controller, subject: &EventSubject, problem: Problem) -> Problem {
    tell(controller, fault::event_of(problem.code), subject, problem).await
}

async fn tell(controller: &Controller, kind: EventKind, subject: &EventSubject, problem: Problem) -> Problem {
    controller.record(kind, subject, &format!("{}: {}. {}", problem.what, problem.why, problem.remedy)).await;
    problem
}
