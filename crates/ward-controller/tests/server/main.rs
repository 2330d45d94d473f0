//! A whole controller as users, hosts and key servers meet it: over TLS, with a real key server, on real databases. Only
//! the hosts are played.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
#[path = "../postgres/mod.rs"]
mod postgres;
mod support;

mod access;
mod database;
mod enrolment;
mod host_mode;
mod key_faults;
mod key_server_dies;
mod key_server_lies;
mod keys;
mod locked;
mod operations;
mod providers;
mod push;
mod replicas;
mod requests;
mod restart;
mod rights;
mod tasks;
mod trust;
mod vtpm;
