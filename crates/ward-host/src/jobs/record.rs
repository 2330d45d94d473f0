//! The record of a job that is under way, in the home: enough to go on with it or to undo it, on any host.
//!
//! Whoever can write to the storage can write a record. So it is believed in nothing that matters: what is to be done
//! comes from the controller again, what the VM is from its authenticated description, and a key that it names must open
//! under a KEK.

use serde::{Deserialize, Serialize};
use ward_rpc::api::host::TpmChange;
use ward_types::{CryptoPlan, DiskId, FileName, TaskId, VolumeId, WrappedHomeKey, WrappedTpmKey};

use super::plan::{Files, Names, Work};
use crate::fault::{Fault, Result};
use crate::files::{self, Moments};
use crate::home::codec::{CHECKPOINT, PART};
use crate::home::{Home, JOB_JSON};
use crate::vtpm;

const VERSION: u32 = 1;
const MAX_RECORD: u64 = 1 << 20;

/// The record of encrypting, decrypting and recrypting, and of disks that come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    /// Which job.
    pub(crate) job: TaskId,
    /// What it does.
    pub(crate) plan: CryptoPlan,
    /// The files, old and new, of each disk that it converts.
    pub(crate) files: Vec<Files>,
    /// The volumes whose KEK it replaces.
    #[serde(default)]
    pub(crate) rekeyed: Vec<VolumeId>,
    /// The new key of the home, wrapped, where it gets one.
    pub(crate) home_key: Option<WrappedHomeKey>,
    /// What it does to the vTPM.
    #[serde(default, skip_serializing_if = "TpmRecord::is_empty")]
    pub(crate) tpm: TpmRecord,
    /// The disk that the VM gets or loses, where that is all that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk: Option<DiskNote>,
}

/// What a job does to the vTPM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TpmRecord {
    /// What was asked.
    pub(crate) change: Option<TpmChange>,
    /// The state that goes.
    pub(crate) from: Option<FileName>,
    /// The state that comes.
    pub(crate) to: Option<FileName>,
    /// Its key, wrapped.
    pub(crate) key: Option<WrappedTpmKey>,
}

impl TpmRecord {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A disk that a VM gets or loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskNote {
    pub(crate) id: DiskId,
    /// Whether it gets it.
    pub(crate) added: bool,
}

impl Record {
    pub(crate) fn new(
        job: TaskId,
        (plan, change): (CryptoPlan, Option<TpmChange>),
        work: &Work,
        home_key: Option<WrappedHomeKey>,
        tpm_key: Option<WrappedTpmKey>,
    ) -> Self {
        let (from, to) = (work.tpm.from().cloned(), work.tpm.to().cloned());
        let tpm = TpmRecord { change, from, to, key: tpm_key };
        Self { version: VERSION, job, plan, files: work.files(), rekeyed: work.rekeyed(), home_key, tpm, disk: None }
    }

    /// That of a job that gives a VM a disk or takes one from it. Where it is not in the description, its file goes.
    pub(crate) fn of_disk(job: TaskId, disk: DiskNote, file: FileName) -> Self {
        let files = vec![Files { volume: disk.id.into(), from: file.clone(), to: file }];
        let (plan, tpm) = (CryptoPlan::default(), TpmRecord::default());
        Self { version: VERSION, job, plan, files, rekeyed: Vec::new(), home_key: None, tpm, disk: Some(disk) }
    }

    /// The names of new files that the job chose.
    pub(crate) fn names(&self) -> Names<'_> {
        Names::Noted { files: &self.files, tpm: self.tpm.to.as_ref() }
    }

    /// Whether the job works beside the running VM.
    pub(crate) fn is_online(&self) -> bool {
        self.plan.is_online() && self.tpm.change.is_none() && self.disk.is_none()
    }

    /// The record in a home, if a job left one.
    pub(crate) fn read(home: &Home) -> Result<Option<Self>> {
        let path = home.file(JOB_JSON);
        let Some(content) = files::read_small(&path, MAX_RECORD)? else { return Ok(None) };
        let invalid = |why: String| Fault::home_invalid(format!("{} makes no sense: {why}", path.display()));
        let record: Self = serde_json::from_slice(&content).map_err(|error| invalid(error.to_string()))?;
        if record.version != VERSION {
            return Err(invalid(format!("its version {} is unknown", record.version)));
        }
        Ok(Some(record))
    }

    pub(crate) fn write(&self, home: &Home) -> Result<()> {
        let content = serde_json::to_vec_pretty(self).map_err(|error| Fault::internal(error.to_string()))?;
        let moments = Moments { written: "crypt.record-written", renamed: "crypt.recorded" };
        files::write_atomically(&home.file(JOB_JSON), &content, moments)
    }

    /// Removes what is left beside the disks themselves, the record last.
    pub(crate) fn remove(&self, home: &Home) -> Result<()> {
        for files in &self.files {
            home.remove(&part(&files.to))?;
            home.remove(&checkpoint(&files.to))?;
            home.remove(&format!("{}.new", checkpoint(&files.to)))?;
            // Of a disk that is filled as those of a new VM are.
            let filled = part(&files.to);
            for note in [format!("{filled}.raw"), format!("{filled}{CHECKPOINT}"), format!("{filled}{CHECKPOINT}.new")]
            {
                home.remove(&note)?;
            }
        }
        if let Some(to) = &self.tpm.to {
            vtpm::remove(&home.file(&vtpm::part(to)))?;
        }
        home.remove("vm.toml.new")?;
        home.sync()?;
        crash_point::reach("crypt.tidied");
        home.remove(JOB_JSON)?;
        crash_point::reach("crypt.record-removed");
        home.sync()
    }
}

/// The name of a file until it is whole.
pub(crate) fn part(file: &FileName) -> String {
    format!("{file}{PART}")
}

/// The name of the note of how far it is.
pub(crate) fn checkpoint(file: &FileName) -> String {
    format!("{file}{CHECKPOINT}")
}
