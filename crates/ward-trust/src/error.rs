//! What can go wrong outside of a host's request.

use std::net::SocketAddr;
use std::path::PathBuf;

/// What can go wrong in setting up, changing or running a service. Never holds key bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory can't be used.
    #[error(transparent)]
    File(#[from] whole_file::Error),
    /// The state directory was not set up for this service.
    #[error("{path} is no state directory of this service: set it up first", path = path.display())]
    NotInitialized {
        /// The state directory.
        path: PathBuf,
    },
    /// The root key file is not the one that the database was sealed under, or is damaged.
    #[error("{path}: {what}", path = path.display())]
    RootKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The TLS certificate can't be made or used.
    #[error("the service's TLS certificate: {0}")]
    Certificate(String),
    /// The address can't be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("the database: {0}")]
    Store(#[from] sqlx::Error),
    /// The database's schema can't be brought up to date.
    #[error("the database's schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// The database holds what this program can't have written.
    #[error("the database: {what}: {why}")]
    Corrupt {
        /// Which part.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such thing.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// There is one already.
    #[error("there is a {what} `{name}` already")]
    Exists {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Something else needs it.
    #[error("{what} `{name}` is needed: {by}")]
    InUse {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// What needs it.
        by: String,
    },
    /// What was given can't be used.
    #[error("{what} can't be used: {why}")]
    Invalid {
        /// What was given.
        what: &'static str,
        /// Why it can't be used.
        why: String,
    },
}

impl Error {
    pub(crate) fn invalid(what: &'static str, why: impl ToString) -> Self {
        Self::Invalid { what, why: why.to_string() }
    }

    pub(crate) fn corrupt(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Corrupt { what: what.into(), why: why.to_string() }
    }
}
