//! Dumps of memory: never in plain on the disk of a host that holds keys.
//!
//! ```text
//! format    a sealed stream with a head: who may open it, and what it is
//! lock      who may open it: a host key, or a password
//! store     the dumps that a host keeps
//! receive   what the kernel hands a crashed process's memory to
//! open      a dump decrypted
//! bundle    what a host tells those who are to help
//! ```
//!
//! Processes that hold keys leave no dump at all (`ward_secret::harden_process`). What may dump goes through here.

mod bundle;
mod format;
mod lock;
mod open;
mod receive;
mod store;

pub(crate) use bundle::{Contents, Pieces, write_bundle};
pub(crate) use format::{Head, seal, write_head};
pub(crate) use lock::Lock;
pub use open::{OpenWith, open_dump};
pub(crate) use receive::{DumpOf, NewDump};
pub use receive::{core_pattern, receive_dump};
pub(crate) use store::Dumps;
