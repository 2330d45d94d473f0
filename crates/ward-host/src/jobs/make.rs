//! Filling a new home.
//!
//! It is filled under a hidden name in the datastore, `.NAME.creating`, and gets its own name when it is whole: that rename
//! is the moment. What an interrupted attempt left is thrown away and made anew.

use std::fs;
use std::path::PathBuf;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use ward_rpc::api::host::{HomeRef, JobOutcome};
use ward_secret::HomeKey;
use ward_types::{Code, TaskId, VmConfig, VmId};

use super::control::{Control, Stop};
use super::fill::{Filling, Part, SPARE};
use super::{Ended, Environment};
use crate::fault::{Doing, Fault, Result};
use crate::files::{self, Moments};
use crate::home::{Holder, Home, HomeLock, JobLock, Use, VM_TOML, check_datastore, codec, is_lock, lock_file, mark};
use crate::keys::ResolvedKeks;

/// A home of which everything has been checked.
pub(crate) enum Prepared {
    /// It was made already.
    Made(Box<VmConfig>),
    /// It is to be made.
    Make(Box<Making>),
}

/// A home that is to be filled.
pub(crate) struct Making {
    lock: HomeLock,
    hidden: PathBuf,
    place: PathBuf,
    content: Content,
}

/// What is to be in it.
pub(crate) struct Content {
    pub(crate) config: VmConfig,
    /// Where the home is encrypted.
    pub(crate) home_key: Option<HomeKey>,
    pub(crate) parts: Vec<Part>,
    /// The keys of all disks that are encrypted, or were.
    pub(crate) keys: ResolvedKeks,
    /// The home that is cloned, which nobody else may use until it is done.
    pub(crate) _source: Option<JobLock>,
}

/// Whether the place is taken: by the same VM, which this job then made before the agent was interrupted, or another.
pub(crate) fn made_already(at: &HomeRef, id: VmId) -> Result<Option<Prepared>> {
    check_datastore(at)?;
    if !files::exists(&at.path())? {
        return Ok(None);
    }
    if let Ok(described) = Home::open(at).and_then(|home| home.read())
        && described.unverified().id == id
    {
        files::sync_dir(&at.datastore)?;
        return Ok(Some(Prepared::Made(Box::new(described.unverified().clone()))));
    }
    Err(Fault::new(
        Code::Exists,
        format!("{} is there already", at.path().display()),
        "choose another name; if it is a VM's home, register that VM with `ward vm register`",
    ))
}

/// Checks whether the content makes sense and fits, and takes the place where the home will be.
pub(crate) fn prepare(environment: &Environment, job: TaskId, at: &HomeRef, content: Content) -> Result<Prepared> {
    codec::encode(&content.config, content.home_key.as_ref())
        .map_err(|fault| Fault { code: Code::RequestInvalid, ..fault })?;
    let (hidden, lock) = take_place(environment, job, at)?;
    let needed = SPARE + content.parts.iter().map(Part::needed).sum::<u64>();
    let free = files::free_space(&hidden)?;
    if needed > free {
        let _ = files::remove_tree(&hidden);
        return Err(Fault::new(
            Code::StorageFull,
            format!("{needed} bytes are needed, {} has {free} free", at.datastore.display()),
            "make room on the datastore, or take another",
        ));
    }
    Ok(Prepared::Make(Box::new(Making { lock, hidden, place: at.path(), content })))
}

fn hidden(at: &HomeRef) -> PathBuf {
    at.datastore.join(format!(".{}.creating", at.directory))
}

/// Removes what an interrupted creation left at that place, unless another one is under way there.
pub(crate) fn abandon(environment: &Environment, job: TaskId, at: &HomeRef) -> Result<()> {
    let hidden = hidden(at);
    if !files::exists(&hidden)? {
        return Ok(());
    }
    let _lock = lock_file(&hidden, &Holder { host: environment.host, r#use: Use::Job(job) })?;
    files::remove_tree(&hidden)
}

fn take_place(environment: &Environment, job: TaskId, at: &HomeRef) -> Result<(PathBuf, HomeLock)> {
    let hidden = hidden(at);
    files::make_private_dir(&hidden)?;
    let lock = lock_file(&hidden, &Holder { host: environment.host, r#use: Use::Job(job) })?;
    for name in files::names(&hidden)? {
        let path = hidden.join(&name);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            files::remove_tree(&path)?;
        } else if !is_lock(&name) {
            files::remove(&path)?;
        }
    }
    Ok((hidden, lock))
}

impl Prepared {
    /// Leaves all as it was.
    pub(crate) fn leave(self) -> Result<()> {
        match self {
            Self::Made(_) => Ok(()),
            Self::Make(making) => files::remove_tree(&making.hidden),
        }
    }

    /// Makes it.
    pub(crate) fn run(self, environment: &Environment, control: &Control) -> Ended {
        let making = match self {
            Self::Made(config) => return done(*config),
            Self::Make(making) => making,
        };
        match making.make(environment, control) {
            Ok(config) => done(config),
            Err(Stop::Suspended) => Ended::Suspended,
            Err(Stop::Failed(mut fault)) => {
                if let Err(second) = files::remove_tree(&making.hidden) {
                    fault.why.push_str(&format!("; and what was begun could not be removed: {}", second.why));
                }
                drop(making.lock);
                Ended::Failed(fault)
            }
        }
    }
}

fn done(config: VmConfig) -> Ended {
    Ended::With(JobOutcome::Done { config: Some(Box::new(config)), notices: Vec::new() })
}

impl Making {
    fn make(&self, environment: &Environment, control: &Control) -> std::result::Result<VmConfig, Stop> {
        let Content { config, home_key, parts, keys, .. } = &self.content;
        let mut config = config.clone();
        let filling = Filling { dir: &self.hidden, keys };
        let total = parts.iter().map(Part::size).sum();
        let mut before = 0;
        control.progress(0, total);
        for part in parts {
            control.check()?;
            control.step(format!("{} {}", part.verb(), part.name()));
            let report = &mut |done| control.progress(before + done, total);
            let endorsement = filling.fill(environment, control, part, report)?;
            if let (Some(tpm), Some(endorsement)) = (&mut config.tpm, endorsement) {
                tpm.endorsement = Some(endorsement);
            }
            crash_point::reach(match part {
                Part::Copy { .. } => "create.copied",
                Part::CopyLuks { .. } => "create.disk-copied",
                Part::Convert { .. } => "create.converted",
                Part::Blank { .. } => "create.blank-made",
                Part::Variables { .. } => "create.variables-made",
                Part::Tpm { .. } => "create.tpm-made",
            });
            before += part.size();
        }
        control.check()?;
        let moments = Moments { written: "create.description-written", renamed: "create.described" };
        let content = codec::encode(&config, home_key.as_ref())?;
        files::write_atomically(&self.hidden.join(VM_TOML), &content, moments)?;
        self.put_in_place()?;
        Ok(config)
    }

    fn put_in_place(&self) -> Result<()> {
        files::sync_dir(&self.hidden)?;
        if let Some(datastore) = self.place.parent() {
            mark(datastore);
        }
        match renameat_with(CWD, &self.hidden, CWD, &self.place, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let why = format!("{} was made by somebody else meanwhile", self.place.display());
                return Err(Fault::new(Code::Exists, why, "choose another name"));
            }
            // Not every file system knows that; the place was free when this began.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::rename(&self.hidden, &self.place).doing("rename", &self.hidden)?;
            }
            Err(error) => return Err(Fault::io("rename", &self.hidden, &error.into())),
        }
        crash_point::reach("create.committed");
        files::sync_parent(&self.place)
    }
}
