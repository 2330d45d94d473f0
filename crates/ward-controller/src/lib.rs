//! The controller: inventory, key providers, tasks, events, REST API, console.
//!
//! ```text
//! api, console   what users ask; everything typed and authenticated at the edge
//! authz          who may do what, decided in one place
//! plan           what a request comes to: pure functions to a plan or a refusal
//! tasks          long work, written down step by step, gone on with after a restart
//! recryption     new keys for many VMs, and by the clock
//! register       VMs taken into the inventory from their homes
//! keys           the way of a key: made, activated, got, pushed, forgotten
//! native         native key providers: their keys, given to hosts, backed up, restored
//! trusted        trusted key providers: the trust authority described to hosts, and looked after
//! root           the root key, under which secrets are sealed: how it is kept
//! hosts          enrolment, and one supervisor for each host
//! store          SQL: one code path for SQLite and PostgreSQL
//! ```
//!
//! No KEK and no DEK is ever stored here; a KEK is in memory for the time of one push. The secrets that must be kept
//! (the CA's key, the private keys with which the controller speaks to key servers, the keys of native providers) lie in
//! the database sealed under a root key, which is kept as the operator chose.

#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
mod authz;
mod config;
mod console;
mod controller;
mod error;
mod files;
mod hosts;
mod init;
mod keys;
pub mod measure;
mod native;
mod password;
mod plan;
mod recryption;
mod register;
mod root;
mod server;
mod store;
mod tasks;
mod trusted;
mod turns;
mod vtpm;

pub use config::{Config, RootKey, RootKeyWay};
pub use error::Error;
pub use init::{ADMIN_PASSWORD_FILE, CA_FILE};
pub use root::{RootKeyChange, change_root_key, root_key_way};
pub use server::Server;
pub use store::StoreError;

use tokio_util::sync::CancellationToken;

/// Runs a controller until `shutdown`.
///
/// # Errors
/// [`Error`], where it does not start.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Server::start(config, shutdown).await?.serve().await;
    Ok(())
}
