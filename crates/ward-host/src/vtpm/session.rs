//! A swtpm that serves no VM: its control channel (`swtpm_ioctls(3)`), and the TPM behind it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use ward_disk::send_descriptors;
use ward_secret::{TpmKey, Zeroizing};
use ward_types::Code;

use super::{check_installed, failed, said, spawn};
use crate::fault::{Doing, Fault, Result};
use crate::isolate::{Isolated, Lent};

/// How long swtpm may take for one command. To find the primes of a key takes it seconds where the machine is busy.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// No state is longer.
const MAX_STATE: usize = 4 << 20;
/// No answer of a TPM is longer.
const MAX_ANSWER: usize = 4096;

/// The commands of its control channel, and what they take. All numbers are big-endian.
const INIT: u32 = 2;
const SHUTDOWN: u32 = 3;
const GET_STATE: u32 = 12;
const SET_STATE: u32 = 13;
const SET_DATA_FD: u32 = 16;
const PERMANENT: u32 = 1;
const DECRYPTED: u32 = 1;

/// A swtpm that serves no VM.
pub(super) struct Session {
    pub(super) child: Child,
    pub(super) control: UnixStream,
    /// On which a guest would ask. It ends with this, so that none is left with its state's lock where the agent is killed.
    pub(super) data: UnixStream,
    state: PathBuf,
    /// What its user has of the state. Taken back when the process has ended: it is dropped last.
    lent: Option<Lent>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    /// It reads what a VM's swtpm wrote, so that it is kept apart as that one is.
    pub(super) fn open(isolated: &Isolated, state: &Path, key: &TpmKey) -> Result<Self> {
        check_installed()?;
        let pair = || -> Result<_> {
            let (ours, its) = UnixStream::pair().doing("make a socket for", state)?;
            ours.set_read_timeout(Some(ANSWER_WITHIN)).doing("set up a socket for", state)?;
            Ok((ours, its))
        };
        let ((control, its_control), (data, its_data)) = (pair()?, pair()?);
        let lent = Some(isolated.lend(state)?);
        let child = spawn(isolated, state, None, key, "type=unixio,clientfd=1", |command| {
            command.current_dir("/").stdout(Stdio::from(OwnedFd::from(its_control))).stderr(Stdio::piped());
        })?;
        let mut session = Self { child, control, data, state: state.to_owned(), lent };
        session.give_data(&its_data).map_err(|error| session.broken(&error))?;
        Ok(session)
    }

    fn give_data(&mut self, its: &UnixStream) -> io::Result<()> {
        send_descriptors(&self.control, &SET_DATA_FD.to_be_bytes(), &[its.as_fd()])?;
        match self.number()? {
            0 => Ok(()),
            code => Err(io::Error::other(format!("it takes no connection ({code:#x})"))),
        }
    }

    /// Powers the TPM on: its state is read, or made where there is none.
    pub(super) fn init(&mut self) -> Result<()> {
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
    pub(super) fn state(&mut self) -> Result<Zeroizing<Vec<u8>>> {
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

    pub(super) fn set_state(&mut self, content: &[u8]) -> Result<()> {
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
    pub(super) fn end(mut self) -> Result<()> {
        match self.call(SHUTDOWN, &[]) {
            Ok(0) => {}
            Ok(code) => return Err(self.broken(&io::Error::other(format!("it does not end ({code:#x})")))),
            Err(error) => return Err(self.broken(&error)),
        }
        let ended = self.child.wait();
        match ended {
            Ok(status) if status.success() => self.lent.take().map_or(Ok(()), Lent::end),
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

    /// Has the TPM carry out a command (TPM 2.0 Library, part 1, section 18): what its answer has behind the head.
    pub(super) fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.data.write_all(command)?;
        let mut head = [0; 6];
        self.data.read_exact(&mut head)?;
        let [_, _, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(10..=MAX_ANSWER).contains(&length) {
            return Err(io::Error::other(format!("its TPM gives an answer of {length} bytes")));
        }
        let mut answer = vec![0; length - head.len()];
        self.data.read_exact(&mut answer)?;
        Ok(answer)
    }

    fn number(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.control.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(super) fn broken(&mut self, error: &io::Error) -> Fault {
        let _ = self.child.kill();
        failed(&error.to_string(), &mut self.child)
    }
}
