//! The memory of a running process, as `/proc` gives it to who may look.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use aho_corasick::AhoCorasick;

use crate::Failure;
use crate::scan::{Finding, Total};

/// How much is read at once, and in what steps where that can't be read.
const CHUNK: u64 = 4 << 20;
const PAGE: u64 = 4096;
/// No pattern is longer.
const OVERLAP: u64 = 128;

/// Searches all memory of a process that can be read. Fails where there is next to none.
pub(crate) fn process(pid: u32, searcher: &AhoCorasick, total: &mut Total) -> Result<(), Failure> {
    let place = Path::new("/proc").join(pid.to_string());
    let at = |error: std::io::Error| format!("{}: {error}", place.display());
    let memory = File::open(place.join("mem")).map_err(at)?;
    let maps = fs::read_to_string(place.join("maps")).map_err(at)?;
    let before = total.bytes;
    for line in maps.lines() {
        let Some((from, until)) = region(line) else { continue };
        let mut at = from;
        while at < until {
            let end = until.min(at + CHUNK);
            search(&memory, at.saturating_sub(OVERLAP).max(from)..end, searcher, (&place, total));
            at = end;
        }
    }
    if total.bytes - before < CHUNK / 4 {
        return Err(format!("{}: only {} bytes could be read", place.display(), total.bytes - before).into());
    }
    Ok(())
}

/// From where to where a region goes that can be read. What the kernel maps itself can't.
fn region(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (from, until) = range.split_once('-')?;
    let readable = rest.starts_with('r') && !rest.ends_with("[vvar]") && !rest.ends_with("[vsyscall]");
    let address = |text| u64::from_str_radix(text, 16).ok();
    readable.then_some(())?;
    Some((address(from)?, address(until)?))
}

fn search(memory: &File, range: std::ops::Range<u64>, searcher: &AhoCorasick, (place, total): (&Path, &mut Total)) {
    let length = range.end - range.start;
    let Ok(size) = usize::try_from(length) else { return };
    let mut bytes = ward_secret::Zeroizing::new(vec![0; size]);
    if memory.read_exact_at(&mut bytes, range.start).is_err() {
        // Some of it is gone, or was never there.
        if length > PAGE {
            let steps = std::iter::successors(Some(range.start), |at| Some(at + PAGE));
            for from in steps.take_while(|at| *at < range.end) {
                search(memory, from..range.end.min(from + PAGE), searcher, (place, total));
            }
        }
        return;
    }
    total.bytes += length;
    for found in searcher.find_iter(bytes.as_slice()) {
        let file = place.join(format!("mem at {:#x}", range.start + found.start() as u64));
        total.findings.push(Finding { pattern: found.pattern().as_usize(), file });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_secret::Kek;

    use crate::Keys;

    #[test]
    fn a_key_is_found_in_the_memory_of_a_process_wherever_it_lies() {
        let key = Kek::generate().unwrap();
        let mut keys = Keys::default();
        keys.add("key", key.expose());
        let found = keys.finder().unwrap().in_process(std::process::id()).unwrap();
        // The key itself, and the patterns.
        assert!(found.iter().any(|(name, _)| name == "key (raw)"), "{found:?}");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let elsewhere = keys.finder().unwrap().in_process(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(elsewhere.unwrap(), []);
        assert!(keys.finder().unwrap().in_process(child.id()).is_err(), "it has ended");
    }
}
