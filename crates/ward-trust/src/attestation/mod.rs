//! The attestation service: enrols hosts by their TPM, and attests them.

mod admin;
mod config;
mod hosts;
mod service;

use std::path::Path;

use attest::label::Label;

pub use admin::Admin;
pub use config::{PolicySettings, Settings};
pub(crate) use config::{load_images, load_policy_settings, load_settings, pin, put_settings};
pub use hosts::HostInfo;
pub use service::Service;

use crate::Error;
use crate::home::{Home, Kind, put};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/attestation");

pub(crate) static KIND: Kind = Kind { name: "attestation", database: "attestation.db", migrator: &MIGRATIONS };

/// Sets a state directory up: TLS certificate (for the machine itself and `server_names`), root key, database, and the
/// key for signing tokens. `name` is what key providers call the service. What is already there stays as it is.
///
/// # Errors
/// If something can't be made, or what is there can't be used.
pub async fn init(dir: &Path, name: &Label, server_names: &[String]) -> Result<(), Error> {
    let home = Home::init(dir, &KIND, server_names).await?;
    let mut change = home.change().await?;
    if home.meta("token_key").await?.is_none() {
        let key = attest::token::TokenKey::generate_pkcs8().map_err(|error| Error::invalid("a token key", error))?;
        put(&mut change, "token_key", &home.seal("token_key", &key)?).await?;
    }
    if home.meta("settings").await?.is_none() {
        put_settings(&mut change, &Settings::new(name.clone())).await?;
    }
    change.commit_unshared().await
}
