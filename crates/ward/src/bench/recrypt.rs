//! Shallow recrypt of many disks, against cryptsetup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use ward_host::measure::{NamedKek, make_disk, replace_kek};
use ward_types::{DiskId, KeyId, KeyRef, Problem, VmId};

use super::RecryptArguments;
use super::disk::{Failure, Place, tool};
use super::measure::Spread;
use crate::output::Output;

/// What of a disk's header and keyslots is copied for each disk; behind that the first keyslot of a new disk ends.
const HEADER: u64 = 512 << 10;
/// In so many parts the disks are worked off, each by both programs in turn.
const PARTS: usize = 10;

#[derive(Serialize)]
struct Findings {
    sets: Vec<Set>,
    /// The time for one disk in the largest set over that in the smallest.
    growth: f64,
}

/// So many disks.
#[derive(Serialize)]
struct Set {
    disks: usize,
    /// Of how many of them cryptsetup replaced the key too.
    cryptsetup_disks: usize,
    /// Milliseconds for one disk, part by part: one disk after the other.
    ward: Spread,
    /// The same, so many disks at a time.
    ward_at_once: Spread,
    at_once: usize,
    cryptsetup: Spread,
    /// cryptsetup's time over Ward's, part by part.
    cryptsetup_over_ward: Spread,
    cryptsetup_over_ward_at_once: Spread,
    /// The time for one disk in the last part over that in the first.
    last_over_first: f64,
}

pub(super) fn run(arguments: &RecryptArguments, output: Output) -> Result<(), Failure> {
    let mut sets = Vec::new();
    for &disks in &arguments.disks {
        sets.push(measure(arguments, disks)?);
    }
    let time = |set: Option<&Set>| set.map_or(f64::NAN, |set| set.ward.median);
    let growth = time(sets.last()) / time(sets.first());
    let findings = Findings { sets, growth };
    Ok(output.show(&findings, || table(&findings))?)
}

fn measure(arguments: &RecryptArguments, disks: usize) -> Result<Set, Failure> {
    let place = Place::new(&arguments.dir)?;
    let vm = VmId::new();
    let key = |n: usize| {
        let id = KeyId::try_from(format!("bench-{n}"))?;
        Ok::<_, Failure>(NamedKek::generate(KeyRef::standard("bench".parse()?, id))?)
    };
    let (first, second, third, last) = (key(1)?, key(2)?, key(3)?, key(4)?);
    // Keys of disks that are thrown away.
    let files = [place.file("third"), place.file("last")];
    for (path, kek) in files.iter().zip([&third, &last]) {
        secret_file(path, kek.expose())?;
    }
    eprintln!("making {disks} disks");
    let model = place.file("model");
    make_disk(&model, &first, vm, DiskId(0))?;
    let paths: Vec<_> = (0..disks).map(|n| place.file(&format!("{n}.luks"))).collect();
    copies(&model, &paths)?;

    let sample = arguments.cryptsetup_disks.min(disks).div_ceil(PARTS);
    let (mut ward, mut ward_at_once, mut cryptsetup) = (Vec::new(), Vec::new(), Vec::new());
    for (n, part) in paths.chunks(disks.div_ceil(PARTS)).enumerate() {
        eprintln!("{disks} disks, part {} of {PARTS}", n + 1);
        let of = |time: Duration, count: usize| time.as_secs_f64() * 1000.0 / count as f64;
        let start = Instant::now();
        for path in part {
            replace_kek(path, (&first, &second), vm, DiskId(0))?;
        }
        ward.push(of(start.elapsed(), part.len()));
        let start = Instant::now();
        at_once(usize::from(arguments.at_once), part, |path| replace_kek(path, (&second, &third), vm, DiskId(0)))?;
        ward_at_once.push(of(start.elapsed(), part.len()));
        let part = &part[..sample.min(part.len())];
        let start = Instant::now();
        for path in part {
            cryptsetup_replaces(path, &files)?;
        }
        cryptsetup.push(of(start.elapsed(), part.len()));
    }
    let ratio = |a: Option<&f64>, b: Option<&f64>| a.copied().unwrap_or(f64::NAN) / b.copied().unwrap_or(f64::NAN);
    let over = |ward: &[f64]| Spread::of(cryptsetup.iter().zip(ward).map(|(other, ward)| other / ward).collect());
    Ok(Set {
        disks,
        cryptsetup_disks: sample * PARTS,
        cryptsetup_over_ward: over(&ward),
        cryptsetup_over_ward_at_once: over(&ward_at_once),
        at_once: usize::from(arguments.at_once),
        ward_at_once: Spread::of(ward_at_once),
        last_over_first: ratio(ward.last(), ward.first()),
        ward: Spread::of(ward),
        cryptsetup: Spread::of(cryptsetup),
    })
}

/// Does `work` to each path, so many at a time, as the recryption of a fleet does.
fn at_once(most: usize, paths: &[PathBuf], work: impl Fn(&Path) -> Result<(), Problem> + Sync) -> Result<(), Problem> {
    let next = AtomicUsize::new(0);
    let worker = || loop {
        match paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            Some(path) => work(path)?,
            None => return Ok(()),
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..most.max(1)).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(Problem::internal("cannot replace a disk's key", "a thread panicked")))
        });
        ended.collect()
    })
}

fn secret_file(path: &Path, content: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all_at(content, 0)
}

/// Copies the head of a disk, and on the storage, so that nothing of it is written while the time runs.
fn copies(model: &Path, paths: &[PathBuf]) -> Result<(), Failure> {
    let size = fs::metadata(model)?.len();
    let mut head = Vec::new();
    File::open(model)?.take(HEADER).read_to_end(&mut head)?;
    for path in paths {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.set_len(size)?;
        file.write_all_at(&head, 0)?;
    }
    rustix::fs::syncfs(File::open(model)?)?;
    Ok(())
}

/// The same as Ward does: a keyslot with the new key, then none with the old one.
fn cryptsetup_replaces(path: &Path, [old, new]: &[PathBuf; 2]) -> Result<(), Failure> {
    let mut add = Command::new("cryptsetup");
    add.args(["luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file"]);
    tool(add.args([old, path, new]))?;
    tool(Command::new("cryptsetup").args(["luksRemoveKey", "-q"]).args([path, old]))
}

fn table(findings: &Findings) -> String {
    let mut text = String::from("a new KEK for each of many disks, each on the storage before the next\n");
    for set in &findings.sets {
        text += &format!("\n{:<32}{:>10}{:>10}{:>10}\n", format!("{} disks", set.disks), "min", "median", "max");
        let mut row = |name: &str, Spread { min, median, max }: Spread| {
            text += &format!("{name:<32}{min:>10.2}{median:>10.2}{max:>10.2}\n");
        };
        row("ward, ms for one disk", set.ward);
        row(&format!("ward, {} at a time, ms", set.at_once), set.ward_at_once);
        row(&format!("cryptsetup (of {} disks), ms", set.cryptsetup_disks), set.cryptsetup);
        row("cryptsetup / ward", set.cryptsetup_over_ward);
        row(&format!("cryptsetup / ward, {} at a time", set.at_once), set.cryptsetup_over_ward_at_once);
        text += &format!("last part / first part           {:>9.2}\n", set.last_over_first);
    }
    if let [first, .., last] = findings.sets.as_slice() {
        text += &format!("\none disk of {} / one disk of {}: {:.2}", last.disks, first.disks, findings.growth);
    }
    text
}
