//! The memory of a running process, as `/proc` gives it to who may look.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use aho_corasick::AhoCorasick;
use ward_secret::Zeroizing;

use crate::Failure;
use crate::scan::{Finding, Total};

/// How much is read at once, and in what steps where not all of that can be read.
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

fn search(memory: &File, range: Range<u64>, searcher: &AhoCorasick, (place, total): (&Path, &mut Total)) {
    let mut look = |from: u64, bytes: &[u8]| {
        total.bytes += bytes.len() as u64;
        for found in searcher.find_iter(bytes) {
            let file = place.join(format!("mem at {:#x}", from + found.start() as u64));
            total.findings.push(Finding { pattern: found.pattern().as_usize(), file });
        }
    };
    let Ok(size) = usize::try_from(range.end - range.start) else { return };
    let mut bytes = Zeroizing::new(vec![0; size]);
    if memory.read_exact_at(&mut bytes, range.start).is_ok() {
        return look(range.start, &bytes);
    }
    // Some of it is gone, or was never there: what lies together is searched together.
    let (mut from, mut read, mut at) = (range.start, 0, range.start);
    while at < range.end {
        let end = ((at / PAGE + 1) * PAGE).min(range.end);
        let length = usize::try_from(end - at).unwrap_or(0);
        if memory.read_exact_at(&mut bytes[read..read + length], at).is_ok() {
            read += length;
        } else {
            look(from, &bytes[..read]);
            (from, read) = (end, 0);
        }
        at = end;
    }
    look(from, &bytes[..read]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;
    use std::time::{Duration, Instant};

    use ward_secret::Kek;

    use super::*;
    use crate::Keys;
    use crate::patterns::Patterns;

    /// The place in a buffer of this process that lies on a border between what is read at once.
    fn border(buffer: &[u8]) -> usize {
        let address = buffer.as_ptr() as u64;
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let (from, _) =
            maps.lines().filter_map(region).find(|(from, until)| (*from..*until).contains(&address)).unwrap();
        let borders = std::iter::successors(Some(from), |at| Some(at + CHUNK));
        let border = borders.take_while(|at| *at < address + buffer.len() as u64).last().unwrap();
        usize::try_from(border - address).unwrap()
    }

    #[test]
    fn a_key_is_found_in_the_memory_of_a_process_wherever_it_lies() {
        let key = Kek::generate().unwrap();
        let mut keys = Keys::default();
        keys.add("key", key.expose());
        let finder = keys.finder().unwrap();
        let chunk = usize::try_from(CHUNK).unwrap();
        let mut buffer = vec![0_u8; 3 * chunk];
        let places = [chunk / 2, border(&buffer) - 16];
        let address = |place: usize| format!("mem at {:#x}", buffer.as_ptr() as usize + place);
        let wanted = places.map(address);
        let found = finder.in_process(std::process::id()).unwrap();
        assert!(!found.iter().any(|(_, at)| wanted.iter().any(|wanted| at.ends_with(wanted))), "{found:?}");
        for place in places {
            buffer[place..place + 32].copy_from_slice(key.expose());
        }
        let found = finder.in_process(std::process::id()).unwrap();
        for wanted in wanted {
            let there = |(name, at): &(String, std::path::PathBuf)| name == "key (raw)" && at.ends_with(&wanted);
            assert!(found.iter().any(there), "{wanted}: {found:?}");
        }
        drop(buffer);

        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // It has next to no memory before its libraries are there.
        let deadline = Instant::now() + Duration::from_secs(30);
        let elsewhere = loop {
            match finder.in_process(child.id()) {
                Err(_) if Instant::now() < deadline => {}
                found => break found,
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(elsewhere.unwrap(), []);
        assert!(finder.in_process(child.id()).is_err(), "it has ended");
    }

    #[test]
    fn what_lies_beside_pages_that_can_t_be_read_is_found_too() {
        let key: Vec<u8> = (100..132).collect();
        let mut patterns = Patterns::default();
        patterns.add("key", &key);
        let page = usize::try_from(PAGE).unwrap();
        // Three pages are there; the key goes over the border of the last two, as in memory whose end is gone.
        let mut content = vec![0; 3 * page];
        content[2 * page - 16..2 * page + 16].copy_from_slice(&key);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let mut total = Total::default();
        search(&file, PAGE - OVERLAP..8 * PAGE, &patterns.searcher().unwrap(), (Path::new("it"), &mut total));
        let found: Vec<_> = total.findings.iter().map(|found| found.file.clone()).collect();
        assert_eq!(found, [Path::new("it").join(format!("mem at {:#x}", 2 * page - 16))]);
        assert_eq!(total.bytes, 2 * PAGE + OVERLAP);
    }
}
