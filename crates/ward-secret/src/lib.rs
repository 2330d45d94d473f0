//! Keys in memory.
//!
//! Every secret of Ward lives in a [`Locked`] page of its own: locked (never swapped), left out of core dumps, wiped in
//! forked children and on drop. No type here is `Debug`, `Display`, `Clone` or `Serialize`, so that a key can't reach a
//! log, an error text or a file by accident; the one way to its bytes is a method named `expose`.
//!
//! What the types can't reach (buffers inside TLS and HTTP libraries) is covered by [`WipingAllocator`], which wipes
//! every heap block as it is freed, and by [`harden_process`], which keeps the process out of dumps and debuggers.

#![deny(unsafe_code)]

mod alloc;
mod keys;
mod native;
mod page;
mod process;
mod seal;
mod stream;

pub use alloc::WipingAllocator;
pub use keys::{
    DEK_LEN, Dek, HOME_KEY_LEN, HomeKey, KDK_LEN, KEK_LEN, Kdk, Kek, TPM_KEY_LEN, TpmKey, WRAPPING_KEY_LEN, WrappedKey,
    WrappingKey,
};
pub use native::{KekContext, SALT_LEN, WRAPPED_KEK_LEN};
pub use page::Locked;
pub use process::{harden_process, limit_cores};
pub use seal::{SealKey, Sealed};
pub use stream::{CHUNK_TAG_LEN, ChunkCipher, DUMP_KEY_LEN, DumpKey};
pub use zeroize::{Zeroize, Zeroizing};

/// Why a secret could not be made, taken in, wrapped or opened. Never says anything about its bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretError {
    /// The kernel gave no lockable page.
    #[error("cannot lock memory for a key ({0}); raise RLIMIT_MEMLOCK or grant CAP_IPC_LOCK")]
    Memory(rustix::io::Errno),
    /// The bytes offered are not as many as the key has.
    #[error("a key of {expected} bytes was expected, {got} were given")]
    Length {
        /// What the type holds.
        expected: usize,
        /// What was offered.
        got: usize,
    },
    /// The system's random generator failed.
    #[error("the system's random generator failed")]
    Random,
    /// Wrapping or sealing failed in the cryptographic library.
    #[error("the cryptographic library refused to wrap the key")]
    Wrap,
    /// The ciphertext was made under another key, for another purpose, or was altered.
    #[error("the ciphertext does not open: it was made under another key or altered")]
    Unwrap,
}
