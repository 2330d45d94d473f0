//! What becomes of a job that has begun: forward to its end where its moment has passed, else back to where it began.
//! Takes no key, so that it can always be done.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ward_disk::{DiskErrorKind, lock};
use ward_rpc::api::host::{HomeRef, JobOutcome, Notice};
use ward_types::{FileName, TaskId, VmConfig};

use super::plan::{self, Planned};
use super::record::{Record, part};
use super::{Ended, Environment};
use crate::fault::{Fault, Result};
use crate::files;
use crate::home::{Holder, Home, Use};
use crate::isolate;
use crate::volume::{Label, Volume};
use crate::vtpm;

/// How long a disk process without an agent may take to finish what it is at.
const ORPHANS_END_WITHIN: Duration = Duration::from_secs(10);
const ORPHANS_ASKED_EVERY: Duration = Duration::from_millis(50);

/// A disk process whose agent was killed gives up by itself, but may not have done so yet.
pub(super) fn wait_for_orphans(home: &Home, record: &Record) -> Result<()> {
    let deadline = Instant::now() + ORPHANS_END_WITHIN;
    let names = record.files.iter().flat_map(|files| [files.from.to_string(), files.to.to_string(), part(&files.to)]);
    for path in names.map(|name| home.file(&name)) {
        loop {
            match lock::check_unused(&path) {
                Err(error) if error.kind == DiskErrorKind::ImageLocked && Instant::now() < deadline => {
                    std::thread::sleep(ORPHANS_ASKED_EVERY);
                }
                Err(error) if error.kind == DiskErrorKind::ImageLocked => return Err(error.into()),
                // Whatever else is wrong with it is seen where it matters.
                _ => break,
            }
        }
    }
    Ok(())
}

/// What a record's job comes to where another one is to follow: forward if its moment has passed, else back.
pub(super) fn settle(home: &Home, record: &Record) -> Result<()> {
    tracing::warn!(job = %record.job, home = %home.path().display(), "a job was interrupted and is settled now");
    let described = home.read()?;
    if is_done(described.unverified(), record)? {
        finish(home, described.unverified(), record)
    } else {
        undo(home, described.unverified(), record)
    }
}

/// Settles what an interrupted job left in a home that the caller has locked.
pub(crate) fn settle_left(home: &Home) -> Result<()> {
    let Some(record) = Record::read(home)? else { return Ok(()) };
    wait_for_orphans(home, &record)?;
    settle(home, &record)
}

/// The same for that job only; tells what the VM is then.
pub(crate) fn abandon(environment: &Environment, job: TaskId, at: &HomeRef) -> Result<Option<VmConfig>> {
    if !files::exists(&at.path())? {
        return Ok(None);
    }
    let home = Home::open(at)?;
    let Some(record) = Record::read(&home)?.filter(|record| record.job == job) else { return Ok(None) };
    let holder = Holder { host: environment.host, r#use: Use::Job(job) };
    let _lock = home.lock_for_job(&holder, !record.is_online())?;
    if Record::read(&home)?.is_none_or(|record| record.job != job) {
        return Ok(None);
    }
    settle_left(&home)?;
    Ok(Some(home.read()?.unverified().clone()))
}

pub(super) fn is_done(config: &VmConfig, record: &Record) -> Result<bool> {
    if let Some(disk) = &record.disk {
        return Ok(config.disk(disk.id).is_some() == disk.added);
    }
    Ok(plan::plan(config, &record.plan, record.tpm.change.as_ref(), &record.names())? == Planned::AlreadyDone)
}

/// Removes from disks whose KEK was to be replaced the one that the description doesn't name: the old one or the new one.
/// Takes no key, so that it can always be done.
fn settle_keys(home: &Home, config: &VmConfig, record: &Record) -> Result<()> {
    let volumes = record.rekeyed.iter().filter_map(|id| config.volume(*id));
    for (it, key) in volumes.filter_map(|volume| volume.key.map(|key| (volume, key))) {
        let path = home.file(it.file.as_str());
        let mut volume = Volume::open(home.open_file(it.file, true)?, &path, key)?;
        volume.keep_only(&Label::new(key.clone(), config.id, it.id))?;
        crash_point::reach("crypt.other-key-removed");
    }
    Ok(())
}

/// The files that a VM's volumes and its vTPM have.
fn files_of(config: &VmConfig) -> BTreeSet<&FileName> {
    let tpm = config.tpm.iter().map(|tpm| &tpm.state);
    config.volumes().map(|volume| volume.file).chain(tpm).collect()
}

/// Removes the old files of a job whose moment has passed.
pub(super) fn finish(home: &Home, config: &VmConfig, record: &Record) -> Result<()> {
    let in_use = files_of(config);
    if record.disk.is_none() {
        // What the VM needs must be there, and last, before what it came from goes.
        home.check_files(config)?;
    }
    home.sync()?;
    for files in record.files.iter().filter(|files| !in_use.contains(&files.from)) {
        home.remove(files.from.as_str())?;
        crash_point::reach("crypt.old-removed");
    }
    for state in record.tpm.from.iter().filter(|state| !in_use.contains(state)) {
        vtpm::remove(&home.file(state.as_str()))?;
        crash_point::reach("crypt.old-tpm-removed");
    }
    settle_keys(home, config, record)?;
    record.remove(home)
}

/// Removes the new files of a job whose moment has not come.
pub(super) fn undo(home: &Home, config: &VmConfig, record: &Record) -> Result<()> {
    let in_use = files_of(config);
    for files in record.files.iter().filter(|files| !in_use.contains(&files.to)) {
        home.remove(files.to.as_str())?;
        crash_point::reach("crypt.new-removed");
    }
    for state in record.tpm.to.iter().filter(|state| !in_use.contains(state)) {
        vtpm::remove(&home.file(state.as_str()))?;
    }
    for state in record.tpm.from.iter().filter(|state| in_use.contains(state)) {
        // Of a job that was killed while a swtpm read it.
        isolate::take_back_all(&home.file(state.as_str()))?;
    }
    settle_keys(home, config, record)?;
    record.remove(home)
}

pub(super) fn undone(undone: Result<()>, mut fault: Fault) -> Ended {
    if let Err(second) = undone {
        fault.why.push_str(&format!(
            "; and not all of it could be undone ({}): the next job on the VM does that",
            second.why
        ));
    }
    Ended::Failed(fault)
}

pub(super) fn not_tidied(fault: Fault) -> Fault {
    let why = format!("it is done, but old files or keyslots remain: {}", fault.why);
    Fault::new(fault.code, why, "put the storage right and ask again: only these are then removed")
}

pub(super) fn done(config: VmConfig, notices: Vec<Notice>) -> Ended {
    Ended::With(JobOutcome::Done { config: Some(Box::new(config)), notices })
}
