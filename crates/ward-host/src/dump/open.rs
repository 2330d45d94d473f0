//! A dump decrypted: on its host by its agent's key, anywhere by its password.

use std::io::Write;
use std::path::Path;

use ward_rpc::Client;
use ward_rpc::api::host::OPEN_DUMP_PATH;
use ward_secret::{DumpKey, Zeroize as _, Zeroizing};
use ward_types::{DumpAbout, Problem};

use super::format::unseal;
use super::store;
use crate::fault::Fault;
use crate::local::SOCKET;

/// What opens a dump.
pub enum OpenWith<'a> {
    /// The agent with that state directory: it has the host key. For root, and the agent's user.
    Agent(&'a Path),
    /// A password, as a support bundle's dumps have one.
    Password(&'a str),
}

/// Decrypts a dump to `output`. What was written before an error is true, and not all of it.
///
/// # Errors
/// [`Code::DumpInvalid`] where it is damaged; [`Code::PasswordWrong`]; [`Code::KeyNotOnHost`] where the agent does not have
/// the key, which the error names; [`Code::HostUnreachable`] where there is no agent; storage errors.
///
/// [`Code::DumpInvalid`]: ward_types::Code::DumpInvalid
/// [`Code::PasswordWrong`]: ward_types::Code::PasswordWrong
/// [`Code::KeyNotOnHost`]: ward_types::Code::KeyNotOnHost
/// [`Code::HostUnreachable`]: ward_types::Code::HostUnreachable
pub async fn open_dump(
    path: &Path,
    with: OpenWith<'_>,
    output: &mut (impl Write + Send),
) -> Result<DumpAbout, Problem> {
    let what = format!("cannot decrypt {}", path.display());
    ward_secret::harden_process().map_err(|error| Problem::internal(&what, error))?;
    let problem = |fault: Fault| fault.problem(&what);
    let (mut file, head) = store::open(path).map_err(problem)?;
    let key = match with {
        OpenWith::Password(password) => head.lock.open_with_password(password).map_err(problem)?,
        OpenWith::Agent(_) if head.lock.host_key().is_none() => {
            let why = "a password opens it: it is of a support bundle";
            let fault =
                Fault::new(ward_types::Code::PasswordWrong, why, "give it with `--password-file`, or at the prompt");
            return Err(fault.problem(&what));
        }
        OpenWith::Agent(state_dir) => {
            let client = Client::local(&state_dir.join(SOCKET)).map_err(|error| Problem::internal(&what, error))?;
            let asked = client.ask_bytes(OPEN_DUMP_PATH, None, &head.lock).await;
            let body = asked.map_err(|error| Problem { what: what.clone(), ..error.into_problem(&what) })?;
            let key = DumpKey::take(&mut Zeroizing::new(body.to_vec()));
            if let Ok(mut body) = body.try_into_mut() {
                body.zeroize();
            }
            key.map_err(|error| Problem::internal(&what, error))?
        }
    };
    unseal(&head, &key, (&mut file, path), output).map_err(problem)?;
    Ok(head.about)
}
