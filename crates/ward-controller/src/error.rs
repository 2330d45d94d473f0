//! Why a controller does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use ward_rpc::{EkError, PkiError};
use ward_secret::SecretError;

use crate::store::StoreError;

/// Why a controller does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory can't be used.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The address can't be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The process can't be kept out of core dumps.
    #[error("cannot keep the process out of core dumps: {0}")]
    Harden(#[source] io::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The CA of vTPMs.
    #[error(transparent)]
    Ek(#[from] EkError),
    /// The root key does not open what the database holds sealed.
    #[error(
        "{from} is not the root key under which the controller's database was sealed ({source}); give it the right one"
    )]
    RootKey {
        /// Where the key came from.
        from: String,
        /// What was wrong.
        source: SecretError,
    },
    /// The root key is gone, and the database holds what was sealed under it.
    #[error(
        "{path} is missing, the root key under which the controller's database was sealed; restore it from a backup, or \
         name the state directory that it lies in", path = path.display()
    )]
    RootKeyMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is no root key where it should come from.
    #[error("there is no root key to be had from {from}: {why}")]
    RootKeySource {
        /// Where it should come from.
        from: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A secret could not be made.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The first user can't be made.
    #[error("cannot make the first user: {0}")]
    FirstUser(String),
    /// Another controller uses the state directory.
    #[error("another controller runs on {path}", path = path.display())]
    InUse {
        /// The state directory.
        path: PathBuf,
    },
}
