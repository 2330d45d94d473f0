//! What a process that holds keys does first.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Keeps the process out of core dumps and away from other users' debuggers.
///
/// To be called at the start of every process that will hold a key.
///
/// # Errors
/// What the kernel says; neither call needs a privilege.
pub fn harden_process() -> std::io::Result<()> {
    limit_cores(1)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Limits the cores that the kernel makes of this process and of those that it will start, to so many bytes or, if less were
/// allowed before, to these. With none the kernel writes no core into a file; but where it hands cores to a program, it
/// heeds only a limit of one byte, with which it makes no core whatsoever (core(5)).
///
/// # Errors
/// What the kernel says; it needs no privilege.
pub fn limit_cores(bytes: u64) -> std::io::Result<()> {
    let bytes = getrlimit(Resource::Core).maximum.map_or(bytes, |most| bytes.min(most));
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(bytes), maximum: Some(bytes) })?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn leaves_no_dump() {
        harden_process().unwrap();
        assert!(getrlimit(Resource::Core).maximum.is_some_and(|most| most <= 1));
        assert!(matches!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable));
        limit_cores(0).unwrap();
        limit_cores(1).unwrap();
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0), "what was given up stays given up");
    }
}
