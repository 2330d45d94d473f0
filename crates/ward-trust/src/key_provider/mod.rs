//! The key provider service: hands KEKs to attested hosts.
//!
//! A KEK is made here, at random, and goes to the host in plain, over the TLS session that its token is bound to, and
//! wrapped under the provider's primary key: by the key server, where it can encrypt (KMIP Encrypt), so that the primary
//! key never leaves it; else by this service, which then holds the primary key in memory. The host stores the wrapped one beside the data, and
//! comes with it whenever it needs the KEK again. Nothing is kept here, and the key server has one key per provider.

mod admin;
mod primary;
mod rules;
mod service;
mod wrapped;

use std::path::Path;

use attest::label::Label;

pub use admin::{Admin, Credentials};
pub use primary::make_primary_key;
pub use rules::{PrimaryUse, Provider, TrustSettings};
pub(crate) use rules::{load_issuers, load_providers, load_settings, put_settings};
pub use service::Service;
pub use wrapped::{WrappedKek, WrappedKekSyntax};

use crate::Error;
use crate::home::{Home, Kind};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/key_provider");

pub(crate) static KIND: Kind = Kind { name: "key provider", database: "key-provider.db", migrator: &MIGRATIONS };

/// Sets a state directory up: TLS certificate (for the machine itself and `server_names`), root key, database.
/// `audience` is who tokens must be for: the attestation service's setting of that name. What is there stays as it is.
///
/// # Errors
/// If something can't be made, or what is there can't be used.
pub async fn init(dir: &Path, audience: &Label, server_names: &[String]) -> Result<(), Error> {
    let home = Home::init(dir, &KIND, server_names).await?;
    let mut change = home.change().await?;
    if home.meta("settings").await?.is_none() {
        let settings = TrustSettings { audience: audience.clone(), refuse_issued_before: None };
        put_settings(&mut change, &settings).await?;
    }
    change.commit_unshared().await
}
