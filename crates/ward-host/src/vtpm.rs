//! A VM's TPM: swtpm, whose state lies in the VM home under a key of its own.
//!
//! The key reaches swtpm through a pipe that is its standard input, after the process was kept from dumping core; it is
//! on no command line, in no environment and in no file. Here swtpm is spoken to over its control channel, a socket that
//! it inherits, to make a state, to try a key, and to put a state under another key. How it runs beside a VM is in
//! [`crate::vmm`].

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use ward_secret::{TpmKey, Zeroizing};
use ward_types::{Code, FileName};

use crate::fault::{Doing, Fault, Result};
use crate::files;
use crate::home::codec::PART;

/// What is run.
pub(crate) const PROGRAM: &str = "swtpm";
/// The file with the state that outlasts the power.
const STATE: &str = "tpm2-00.permall";
/// How long swtpm may take for one command.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// No state is longer.
const MAX_STATE: usize = 4 << 20;

/// The commands of its control channel, and what they take (`swtpm_ioctls(3)`). All numbers are big-endian.
const INIT: u32 = 2;
const SHUTDOWN: u32 = 3;
const GET_STATE: u32 = 12;
const SET_STATE: u32 = 13;
const SET_DATA_FD: u32 = 16;
const PERMANENT: u32 = 1;
const DECRYPTED: u32 = 1;

/// Makes sure that there is a swtpm.
pub(crate) fn check_installed() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file()) { Ok(()) } else { Err(missing()) }
}

fn missing() -> Fault {
    Fault::unfit("this host has no swtpm, which vTPMs need", "install Debian's package `swtpm` on the host")
}

/// Makes sure that a vTPM's state is there. swtpm would make a new one where it is not, and so lose the guest's secrets
/// without a word.
pub(crate) fn check_there(state: &Path) -> Result<()> {
    if files::open_regular(&state.join(STATE), false)?.is_some() {
        return Ok(());
    }
    let why = format!("the state of the vTPM is gone: there is no {}", state.join(STATE).display());
    let remedy =
        "restore it from a backup; or remove the vTPM with `ward vm tpm rm`, with all that the guest kept in it";
    Err(Fault::new(Code::ImageMissing, why, remedy))
}

/// Makes the state of a new TPM. The directory must not be there.
pub(crate) fn make(state: &Path, key: &TpmKey) -> Result<()> {
    new_directory(state)?;
    let mut session = Session::open(state, key)?;
    session.init()?;
    session.end()?;
    sync(state)
}

/// Makes sure that the key opens the state, which stays as it is.
pub(crate) fn check(state: &Path, key: &TpmKey) -> Result<()> {
    check_there(state)?;
    let mut session = Session::open(state, key)?;
    session.init()?;
    session.end()
}

/// Makes a copy of a state, under another key. The directory of the copy must not be there.
pub(crate) fn rewrite(from: (&Path, &TpmKey), to: (&Path, &TpmKey)) -> Result<()> {
    check_there(from.0)?;
    let mut old = Session::open(from.0, from.1)?;
    old.init()?;
    let content = old.state()?;
    old.end()?;
    new_directory(to.0)?;
    let mut new = Session::open(to.0, to.1)?;
    new.set_state(&content)?;
    // Only now it is written.
    new.init()?;
    new.end()?;
    sync(to.0)
}

fn new_directory(state: &Path) -> Result<()> {
    files::remove_tree(state)?;
    files::make_private_dir(state)
}

fn sync(state: &Path) -> Result<()> {
    let path = state.join(STATE);
    File::open(&path).and_then(|file| file.sync_all()).doing("sync", &path)?;
    files::sync_dir(state)?;
    files::sync_parent(state)
}

/// The name of a state's directory until it is whole.
pub(crate) fn part(state: &FileName) -> String {
    format!("{state}{PART}")
}

/// A swtpm that has its key. It finds its state as `state`, by a name without commas, at which it splits its arguments.
pub(crate) fn start(mut command: Command, state: &OsStr, key: &TpmKey, control: &str) -> Result<Child> {
    let mut tpmstate = std::ffi::OsString::from("dir=");
    tpmstate.push(state);
    tpmstate.push(",mode=0600");
    let (pipe, mut key_end) = io::pipe().map_err(|error| Fault::internal(format!("no pipe: {error}")))?;
    let spawned = command
        .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
        .arg(tpmstate)
        .args(["--key", "fd=0,format=binary,mode=aes-256-cbc", "--ctrl", control])
        .stdin(Stdio::from(OwnedFd::from(pipe)))
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(Fault::unfit(format!("swtpm does not start: {error}"), "check its installation")),
    };
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let given = prlimit(pid, Resource::Core, nothing).map_err(io::Error::from).and_then(|_| {
        // A pipe holds it whole, so that swtpm need not read yet.
        key_end.write_all(key.expose())
    });
    if let Err(error) = given {
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed(&error.to_string(), &mut child));
    }
    Ok(child)
}

fn failed(why: &str, child: &mut Child) -> Fault {
    let said = said(child);
    let why =
        if said.is_empty() { format!("swtpm fails: {why}") } else { format!("swtpm fails: {why}; it said: {said}") };
    Fault::new(Code::VmmFailed, why, "check its installation, and that the datastore can be written")
}

/// What it said before it ended, as one line.
fn said(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(8 << 10).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// A swtpm that serves no VM, only its control channel.
struct Session {
    child: Child,
    control: UnixStream,
    /// On which a guest would ask. It ends with this, so that none is left with its state's lock where the agent is killed.
    _data: UnixStream,
    state: PathBuf,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    fn open(state: &Path, key: &TpmKey) -> Result<Self> {
        let (ours, its) = UnixStream::pair().doing("make a socket for", state)?;
        ours.set_read_timeout(Some(ANSWER_WITHIN)).doing("set up a socket for", state)?;
        let (Some(parent), Some(name)) = (state.parent(), state.file_name()) else {
            return Err(Fault::internal("a vTPM's state has no name"));
        };
        let mut command = Command::new(PROGRAM);
        command.current_dir(parent).stdout(Stdio::from(OwnedFd::from(its))).stderr(Stdio::piped());
        let child = start(command, name, key, "type=unixio,clientfd=1")?;
        let (data, its) = UnixStream::pair().doing("make a socket for", state)?;
        let mut session = Self { child, control: ours, _data: data, state: state.to_owned() };
        session.give_data(&its).map_err(|error| session.broken(&error))?;
        Ok(session)
    }

    fn give_data(&mut self, its: &UnixStream) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let rights = [its.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&rights));
        let command = SET_DATA_FD.to_be_bytes();
        sendmsg(&self.control, &[IoSlice::new(&command)], &mut ancillary, SendFlags::empty())?;
        match self.number()? {
            0 => Ok(()),
            code => Err(io::Error::other(format!("it takes no connection ({code:#x})"))),
        }
    }

    /// Powers the TPM on: its state is read, or made where there is none.
    fn init(&mut self) -> Result<()> {
        match self.call(INIT, &0u32.to_be_bytes()) {
            Ok(0) => Ok(()),
            Ok(code) => {
                let _ = self.child.kill();
                let (path, said) = (self.state.display(), said(&mut self.child));
                Err(Fault::new(
                    Code::HomeTampered,
                    format!("the state of the vTPM in {path} does not open under its key (swtpm: {code:#x}; {said})"),
                    "it was altered, or is another VM's: restore the directory from a backup",
                ))
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// The permanent state, decrypted.
    fn state(&mut self) -> Result<Zeroizing<Vec<u8>>> {
        self.try_state().map_err(|error| self.broken(&error))
    }

    fn try_state(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut content = Zeroizing::new(Vec::new());
        loop {
            let at = u32::try_from(content.len()).unwrap_or(u32::MAX);
            let code = self.call(GET_STATE, &[DECRYPTED, PERMANENT, at].map(u32::to_be_bytes).concat())?;
            let (_flags, total, length) = (self.number()?, self.number()? as usize, self.number()? as usize);
            let before = content.len();
            if code != 0
                || total > MAX_STATE
                || length > total.saturating_sub(before)
                || (length == 0 && before < total)
            {
                return Err(io::Error::other(format!("it does not give its state out ({code:#x})")));
            }
            content.resize(before + length, 0);
            self.control.read_exact(&mut content[before..])?;
            if content.len() == total {
                return Ok(content);
            }
        }
    }

    fn set_state(&mut self, content: &[u8]) -> Result<()> {
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let head = [0, PERMANENT, length].map(u32::to_be_bytes).concat();
        let body = Zeroizing::new([&head, content].concat());
        match self.call(SET_STATE, &body) {
            Ok(0) => Ok(()),
            Ok(code) => Err(self.broken(&io::Error::other(format!("it does not take its state in ({code:#x})")))),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// Powers it off. All is written then.
    fn end(mut self) -> Result<()> {
        match self.call(SHUTDOWN, &[]) {
            Ok(0) => {}
            Ok(code) => return Err(self.broken(&io::Error::other(format!("it does not end ({code:#x})")))),
            Err(error) => return Err(self.broken(&error)),
        }
        let ended = self.child.wait();
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.broken(&io::Error::other(status.to_string()))),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// Has a command carried out: its result, which is 0 where that went well.
    fn call(&mut self, command: u32, body: &[u8]) -> io::Result<u32> {
        let message = Zeroizing::new([&command.to_be_bytes()[..], body].concat());
        self.control.write_all(&message)?;
        self.number()
    }

    fn number(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.control.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn broken(&mut self, error: &io::Error) -> Fault {
        let _ = self.child.kill();
        failed(&error.to_string(), &mut self.child)
    }
}

/// Removes a state, if it is there.
pub(crate) fn remove(state: &Path) -> Result<()> {
    match fs::symlink_metadata(state) {
        Ok(metadata) if metadata.is_dir() => files::remove_tree(state),
        Ok(_) => Err(Fault::home_invalid(format!("{} is no directory, as a vTPM's state is", state.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Fault::io("look at", state, &error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn state(dir: &Path) -> Vec<u8> {
        fs::read(dir.join(STATE)).unwrap()
    }

    #[test]
    fn a_state_opens_under_its_key_and_is_put_under_another() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("tpm"), dir.path().join("tpm-2"));
        let (key, other) = (TpmKey::generate().unwrap(), TpmKey::generate().unwrap());
        make(&first, &key).unwrap();
        check(&first, &key).unwrap();
        let fault = check(&first, &other).unwrap_err();
        assert_eq!(fault.code, Code::HomeTampered);
        assert!(fault.why.contains("HMAC"), "{}", fault.why);

        rewrite((&first, &key), (&second, &other)).unwrap();
        check(&second, &other).unwrap();
        assert_eq!(check(&second, &key).unwrap_err().code, Code::HomeTampered);
        let open = |state: &Path, key: &TpmKey| {
            let mut session = Session::open(state, key).unwrap();
            session.init().unwrap();
            session.state().unwrap()
        };
        assert_eq!(open(&first, &key), open(&second, &other), "it is the same TPM");
        // Nothing of the state is plain in either file.
        let plain = open(&first, &key);
        for dir in [&first, &second] {
            let cipher = state(dir);
            assert!(!plain.chunks_exact(32).any(|piece| cipher.windows(32).any(|bytes| bytes == piece)));
        }

        let mut altered = state(&first);
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        fs::write(first.join(STATE), &altered).unwrap();
        assert_eq!(check(&first, &key).unwrap_err().code, Code::HomeTampered);
        fs::write(first.join(STATE), state(&second)).unwrap();
        assert_eq!(check(&first, &key).unwrap_err().code, Code::HomeTampered, "another VM's");
        fs::remove_file(first.join(STATE)).unwrap();
        assert_eq!(check(&first, &key).unwrap_err().code, Code::ImageMissing);
    }

    #[test]
    fn none_outlives_an_agent_that_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let (state, key) = (dir.path().join("tpm"), TpmKey::generate().unwrap());
        make(&state, &key).unwrap();
        let mut session = Session::open(&state, &key).unwrap();
        session.init().unwrap();
        // What the kernel does with the agent's end.
        session._data = UnixStream::pair().unwrap().0;
        session.control = UnixStream::pair().unwrap().0;
        let deadline = std::time::Instant::now() + ANSWER_WITHIN;
        while session.child.try_wait().unwrap().is_none() {
            assert!(std::time::Instant::now() < deadline, "swtpm is still there");
            std::thread::yield_now();
        }
        check(&state, &key).unwrap();
    }

    #[test]
    fn two_new_ones_are_two() {
        let dir = tempfile::tempdir().unwrap();
        let key = TpmKey::generate().unwrap();
        let plain = ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            make(&path, &key).unwrap();
            let mut session = Session::open(&path, &key).unwrap();
            session.init().unwrap();
            session.state().unwrap()
        });
        assert_ne!(plain[0], plain[1]);
    }
}
