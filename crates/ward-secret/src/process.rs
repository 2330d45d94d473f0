//! What a process that holds keys does first.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps the process out of core dumps and away from other users' debuggers.
///
/// To be called at the start of every process that will hold a key.
///
/// # Errors
/// What the kernel says; neither call needs a privilege.
pub fn harden_process() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn leaves_no_dump() {
        harden_process().unwrap();
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        assert!(matches!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable));
    }
}
