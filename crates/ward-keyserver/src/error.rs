//! What can go wrong outside of a request.

use std::net::SocketAddr;
use std::path::PathBuf;

/// What can go wrong in setting up or running the server. Never holds key bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A certificate can't be made or used.
    #[error("certificate {what}: {reason}")]
    Certificate {
        /// Which one.
        what: String,
        /// Why not.
        reason: String,
    },
    /// A name for a client that could not be a file name or a common name.
    #[error("{0:?} cannot name a client: use letters, digits, '.', '-', '_' and '@', at most 64, no '.' first")]
    ClientName(String),
    /// A row of the database was not sealed under this master key, or was changed since.
    #[error(
        "key {id}: its sealed bytes do not open under the master key: the row was changed or belongs to another server"
    )]
    KeyTampered {
        /// The key's identifier.
        id: String,
    },
    /// A file or directory can't be used.
    #[error(transparent)]
    File(#[from] whole_file::Error),
    /// The address can't be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The master key file isn't the one the database was sealed under.
    #[error("{path} is not the master key that this key server's database was sealed under", path = path.display())]
    MasterKeyMismatch {
        /// The master key file.
        path: PathBuf,
    },
    /// The master key file doesn't hold a master key.
    #[error("{path} does not hold a master key: {what}", path = path.display())]
    MasterKeyUnusable {
        /// The master key file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another key of the same client has this name.
    #[error("another object is named {name:?}")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The state directory was not set up.
    #[error("{path} is not a key server's state directory yet: set it up first", path = path.display())]
    NotInitialized {
        /// The state directory.
        path: PathBuf,
    },
    /// The database failed.
    #[error("the key database: {0}")]
    Store(#[from] sqlx::Error),
    /// The database's schema can't be brought up to date.
    #[error("the key database's schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// The database holds a row that this program can't have written.
    #[error("the key database: object {id}: {what}")]
    Corrupt {
        /// Which object.
        id: String,
        /// What is wrong with it.
        what: String,
    },
}
