//! Points at which a test can kill the process, as a power cut would.
//!
//! Code that must survive a crash names its steps: `crash_point::reach("encrypt.renamed")`. In an ordinary build that
//! is nothing at all. With the feature `armed`, the process sends itself SIGKILL at the point that the environment
//! names:
//!
//! - `WARD_CRASH_AT=encrypt.renamed`: there, the first time;
//! - `WARD_CRASH_AT=encrypt.renamed#3`: there, the third time;
//! - `WARD_CRASH_LOG=FILE`: never, but appends each name that is reached, so that a test can try them all.

/// Says that the step `name` has been reached.
#[cfg(not(feature = "armed"))]
#[inline(always)]
pub fn reach(_name: &str) {}

/// Says that the step `name` has been reached; kills the process where the environment asks for it.
#[cfg(feature = "armed")]
pub fn reach(name: &str) {
    armed::reach(name);
}

#[cfg(feature = "armed")]
mod armed {
    use std::collections::HashMap;
    use std::io::Write;
    use std::sync::{Mutex, OnceLock, PoisonError};

    struct Target {
        name: String,
        nth: u64,
    }

    fn target() -> Option<&'static Target> {
        static TARGET: OnceLock<Option<Target>> = OnceLock::new();
        TARGET
            .get_or_init(|| {
                let text = std::env::var("WARD_CRASH_AT").ok()?;
                let (name, nth) = match text.rsplit_once('#') {
                    Some((name, nth)) => (name.to_owned(), nth.parse().unwrap_or(1)),
                    None => (text, 1),
                };
                Some(Target { name, nth })
            })
            .as_ref()
    }

    pub(crate) fn reach(name: &str) {
        if let Ok(path) = std::env::var("WARD_CRASH_LOG")
            && let Ok(mut log) = std::fs::OpenOptions::new().create(true).append(true).open(path)
        {
            // A test that misses a line of its log fails by itself.
            let _ = log.write_all(format!("{name}\n").as_bytes());
        }
        let Some(target) = target().filter(|target| target.name == name) else { return };
        static SEEN: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.get_or_insert_default().entry(name.to_owned()).or_default();
        *count += 1;
        if *count == target.nth {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
