//! A header as its reader sees it.

use crate::error::{Damage, Unsupported};
use crate::id::KeyslotId;

/// How the two copies of a header are.
#[derive(Debug)]
pub enum Health {
    /// Both are sound and the same.
    Good,
    /// The first cannot be used; the second is in use.
    PrimaryDamaged(Damage),
    /// The second cannot be used; the first is in use.
    SecondaryDamaged(Damage),
    /// The first is older than the second, which is in use.
    PrimaryStale,
    /// The second is older than the first, which is in use.
    SecondaryStale,
}

impl Health {
    /// Whether there is nothing to repair.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        matches!(self, Self::Good)
    }
}

/// In which order keyslots are tried (specification 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Only where it is asked for by number.
    Ignore,
    /// After those of high priority.
    Normal,
    /// First.
    High,
}

/// What there is to know about a keyslot without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyslotInfo {
    /// Its number.
    pub id: KeyslotId,
    /// Its type; `luks2` for those that hold a key behind a passphrase.
    pub kind: String,
    /// Its key derivation function, if it has one.
    pub kdf: Option<String>,
    /// When it is tried.
    pub priority: Priority,
    /// Whether it leads to the volume key of the data segment.
    pub opens_data: bool,
    /// Why this crate cannot open it, if it cannot.
    pub unsupported: Option<Unsupported>,
}
