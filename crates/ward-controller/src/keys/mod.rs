//! The way of a key: made and activated at its key server, got from there, given to hosts, forgotten.
//!
//! Nothing is kept here: a KEK is in the controller's memory for the time of one push. Whatever goes wrong with a key
//! becomes an event, and a problem for whoever waits for it.

mod fault;
mod make;
mod retire;
mod server;
mod supply;

pub(crate) use fault::KeyFault;
pub(crate) use make::{Made, NotMade, adopt, locate_or_make, make_ready, name_of};
pub(crate) use retire::{drop_from_hosts, retire};
pub(crate) use server::{client, client_of, connect, probe, seal_purpose};
pub(crate) use supply::{Supply, supply};

use ward_types::{EventSubject, Problem};

use crate::controller::Controller;

/// Makes a fault of a key an event and a problem.
pub(crate) async fn report(controller: &Controller, subject: &EventSubject, fault: KeyFault) -> Problem {
    let mut subject = subject.clone();
    subject.provider = Some(fault.provider);
    subject.key = fault.key.or(subject.key);
    let problem = *fault.problem;
    controller.record(fault.kind, &subject, &format!("{}: {}. {}", problem.what, problem.why, problem.remedy)).await;
    problem
}
