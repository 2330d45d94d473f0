//! The trust authority: keys for hosts that booted what they should, and for no others.
//!
//! Two services, which run apart from the hosts and have administrators of their own:
//!
//! - [`attestation`] enrols hosts by their TPM and attests them by quote and event log against base images. What it
//!   gives is a token: signed, short-lived, and bound to the host's TLS certificate.
//! - [`key_provider`] holds the credentials at a key server. To a host that shows such a token in a session of that
//!   certificate it hands a KEK: a new one, in plain and wrapped under the provider's primary key, or a wrapped one in
//!   plain.
//!
//! The rules are pure functions: [`attest`] has those of evidence and tokens, `attestation::config` and
//! `key_provider::rules` the rest. The services around them do TLS, HTTP and SQL. A service is administered on its own
//! machine, by who may write to its state directory; no request over the network changes its configuration.
//!
//! A host makes its own TLS certificate. The services let any pass that has its key, for what counts is what is bound
//! to it: a host's TPM quotes for the certificate, and the token names it.

#![deny(unsafe_code)]

pub mod api;
pub mod attestation;
mod audit;
pub mod client;
pub mod configuration;
mod error;
mod home;
pub mod key_provider;
pub mod measure;
mod pending;
mod serve;
pub mod services;
pub mod signed;

pub use audit::AuditEntry;
pub use error::Error;
pub use serve::Server;
