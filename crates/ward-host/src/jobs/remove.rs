//! Deleting a VM with all that is in its home.
//!
//! The home first gets a hidden name, `.NAME.removing-JOB`: that is the moment. Then it is deleted; what an interrupted
//! deletion left, the next job at that place deletes.

use std::fs;
use std::path::PathBuf;

use ward_disk::lock;
use ward_rpc::api::host::{HomeRef, JobOutcome};
use ward_types::TaskId;

use super::control::Control;
use super::{Ended, Environment};
use crate::fault::{Doing, Fault, Result};
use crate::files;
use crate::home::{Holder, Home, HomeLock, Use, VM_TOML, check_datastore, is_lock};

/// A home that can be deleted.
pub(crate) struct Prepared {
    place: HomeRef,
    hidden: PathBuf,
    /// None where it has its hidden name already, or is gone.
    there: Option<(Home, HomeLock)>,
}

/// Makes sure that it is a VM's home and that nobody uses anything in it.
pub(crate) fn prepare(environment: &Environment, job: TaskId, at: &HomeRef) -> Result<Prepared> {
    check_datastore(at)?;
    let hidden = at.datastore.join(format!("{}{job}", prefix(at)));
    let there = if files::exists(&at.path())? {
        let home = Home::open(at)?;
        if !home.has(VM_TOML)? {
            let why = format!("{} has no {VM_TOML}, so it is no VM home", home.path().display());
            return Err(Fault::home_invalid(why));
        }
        let held = home.lock(&Holder { host: environment.host, r#use: Use::Job(job) })?;
        for name in files::names(home.path())? {
            let path = home.path().join(&name);
            if !is_lock(&name) && fs::symlink_metadata(&path).doing("look at", &path)?.is_file() {
                lock::check_unused(&path)?;
            }
        }
        Some((home, held))
    } else {
        None
    };
    Ok(Prepared { place: at.clone(), hidden, there })
}

impl Prepared {
    /// Deletes it.
    pub(crate) fn run(self, control: &Control) -> Ended {
        control.step("deleting");
        match self.delete() {
            Ok(()) => Ended::With(JobOutcome::Done { config: None, notices: Vec::new() }),
            Err(fault) => Ended::Failed(fault),
        }
    }

    fn delete(&self) -> Result<()> {
        if let Some((home, _)) = &self.there {
            fs::rename(home.path(), &self.hidden).doing("rename", home.path())?;
            crash_point::reach("remove.hidden");
        }
        files::sync_dir(&self.place.datastore)?;
        crash_point::reach("remove.hidden-durably");
        remove_leftovers(&self.place)?;
        crash_point::reach("remove.deleted");
        files::sync_dir(&self.place.datastore)
    }
}

/// Deletes all homes of that name that were being deleted.
fn remove_leftovers(at: &HomeRef) -> Result<()> {
    let prefix = prefix(at);
    for name in files::names(&at.datastore)? {
        let job = name.to_str().and_then(|name| name.strip_prefix(&prefix)).and_then(|job| job.parse::<TaskId>().ok());
        if job.is_some() {
            files::remove_tree(&at.datastore.join(name))?;
        }
    }
    Ok(())
}

fn prefix(at: &HomeRef) -> String {
    format!(".{}.removing-", at.directory)
}
