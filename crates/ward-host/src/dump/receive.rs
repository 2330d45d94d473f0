//! What the kernel hands a crashed process's memory to (`kernel.core_pattern` with `|`): a process of its own, which asks
//! the agent for a fresh key. Without one, nothing is kept.

use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ward_rpc::Client;
use ward_rpc::api::host::NEW_DUMP_PATH;
use ward_secret::{DUMP_KEY_LEN, DumpKey, Zeroize as _, Zeroizing};
use ward_types::{DumpAbout, DumpInfo, DumpSubject, HostId, Problem};

use super::{Dumps, Lock};
use crate::fault::{Fault, Result};
use crate::local::SOCKET;

/// Whose dump is to have a key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DumpOf {
    pub(crate) subject: DumpSubject,
    pub(crate) taken: Timestamp,
}

/// What the agent says with the key of a new dump.
#[derive(Serialize, Deserialize)]
pub(crate) struct NewDump {
    pub(crate) host: HostId,
    pub(crate) lock: Lock,
}

impl NewDump {
    /// The body: the length of this (4 bytes, big-endian), this, the key. Its memory is wiped.
    pub(crate) fn encode(&self, key: &DumpKey) -> Result<bytes::Bytes> {
        let said = serde_json::to_vec(self).map_err(|error| Fault::internal(error.to_string()))?;
        let length = u32::try_from(said.len()).map_err(|_| Fault::internal("a long lock"))?;
        let mut body = Zeroizing::new(Vec::with_capacity(4 + said.len() + DUMP_KEY_LEN));
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(&said);
        body.extend_from_slice(key.expose());
        Ok(bytes::Bytes::from_owner(body))
    }

    fn decode(body: &[u8]) -> Option<(Self, DumpKey)> {
        let (length, rest) = body.split_first_chunk::<4>()?;
        let (said, key) = rest.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)?;
        let key = DumpKey::take(&mut Zeroizing::new(key.to_vec())).ok()?;
        Some((serde_json::from_slice(said).ok()?, key))
    }
}

/// Keeps the memory of a process that comes in as a core file, encrypted under a fresh key that the host key wraps.
///
/// # Errors
/// [`Code::HostUnreachable`] where the agent does not run, [`Code::HostMode`] where the host has no host key,
/// [`Code::KeyNotOnHost`] where it does not hold it now; storage errors. Nothing is kept then.
///
/// [`Code::HostUnreachable`]: ward_types::Code::HostUnreachable
/// [`Code::HostMode`]: ward_types::Code::HostMode
/// [`Code::KeyNotOnHost`]: ward_types::Code::KeyNotOnHost
pub async fn receive_dump(
    state_dir: &Path,
    subject: DumpSubject,
    input: impl Read + Send + 'static,
) -> std::result::Result<DumpInfo, Problem> {
    let what = format!("cannot keep the dump of {subject}");
    let (dumps, taken) = (Dumps::of(state_dir), Timestamp::now());
    let kept = keep(state_dir, &what, (dumps.clone(), taken), subject.clone(), input).await;
    if let Err(problem) = &kept {
        // The kernel gives nobody what this says. The kernel's own log is where to look after a crash.
        let _ = std::fs::write("/dev/kmsg", format!("<4>ward: {problem}\n"));
        if let Err(fault) = dumps.note_lost(&subject, taken, &problem.why) {
            tracing::warn!(why = fault.why, "cannot note that a dump is lost");
        }
    }
    kept
}

async fn keep(
    state_dir: &Path,
    what: &str,
    (dumps, taken): (Dumps, Timestamp),
    subject: DumpSubject,
    mut input: impl Read + Send + 'static,
) -> std::result::Result<DumpInfo, Problem> {
    // It passes what it must not leave behind itself.
    ward_secret::harden_process().map_err(|error| Problem::internal(what, error))?;
    let client = Client::local(&state_dir.join(SOCKET)).map_err(|error| Problem::internal(what, error))?;
    let of = DumpOf { subject: subject.clone(), taken };
    let body = client.ask_bytes(NEW_DUMP_PATH, None, &of).await.map_err(|error| error.into_problem(what))?;
    let decoded = NewDump::decode(&body);
    if let Ok(mut body) = body.try_into_mut() {
        body.zeroize();
    }
    let (new, key) = decoded.ok_or_else(|| Problem::internal(what, "the agent's answer makes no sense"))?;
    let about = DumpAbout { host: new.host, taken, subject };
    let keeping = move || dumps.keep(&new.lock, &key, &about, &mut input);
    match tokio::task::spawn_blocking(keeping).await {
        Ok(kept) => kept.map_err(|fault: Fault| fault.problem(what)),
        Err(panic) => Err(Problem::internal(what, panic)),
    }
}

/// What the kernel is to be told (`kernel.core_pattern`) so that it has this program keep the memory of processes that
/// crash.
#[must_use]
pub fn core_pattern(exe: &Path, state_dir: &Path) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (exe, state_dir) = (absolute(exe), absolute(state_dir));
    let (exe, state_dir) = (exe.display(), state_dir.display());
    format!("|{exe} host dump-receive --state {state_dir} --pid %P --signal %s --command %e")
}
