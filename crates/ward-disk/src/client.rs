//! The side that gives an order: starts a disk process, hands it the keys, hears its reports.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Child, ExitStatus, Stdio};

use ward_secret::Dek;

use crate::error::{DiskError, DiskErrorKind, Doing, Result};
use crate::order::Order;
use crate::report::{Command, Report};
use crate::wire::{read_frame, send_files, write_frame};

/// A disk process that was started and given its order.
///
/// Dropping this closes the socket: an export goes on serving without it, a conversion gives up.
#[derive(Debug)]
pub struct DiskProcess {
    child: Child,
    stream: UnixStream,
}

/// Sends commands to a disk process while another thread waits in [`DiskProcess::recv`].
#[derive(Debug)]
pub struct Commander {
    stream: UnixStream,
}

impl DiskProcess {
    /// Starts `exe disk`, gives it the order and the keys that the order means, and drops the keys.
    ///
    /// # Errors
    /// [`DiskErrorKind::Protocol`] for an order that makes no sense or another number of keys than it means;
    /// [`DiskErrorKind::Spawn`] where the process doesn't start or dies before it has heard the order; what opening an
    /// image that is to be served says.
    pub fn spawn(exe: &Path, order: &Order, deks: Vec<Dek>) -> Result<Self> {
        let mut command = process::Command::new(exe);
        command.arg("disk");
        Self::spawn_command(command, order, deks)
    }

    /// As [`DiskProcess::spawn`], with a command of the caller's: arguments, environment, standard error.
    ///
    /// # Errors
    /// As [`DiskProcess::spawn`].
    pub fn spawn_command(mut command: process::Command, order: &Order, deks: Vec<Dek>) -> Result<Self> {
        order.validate()?;
        if deks.len() != order.dek_count() {
            let why = format!("it means {} keys and {} are given", order.dek_count(), deks.len());
            return Err(DiskError::new(DiskErrorKind::Protocol, "carry out the order", why));
        }
        let images = images(order)?;
        let failed =
            |source: std::io::Error| DiskError::new(DiskErrorKind::Spawn, "start the disk process", source.to_string());
        let (mut stream, theirs) = UnixStream::pair().map_err(failed)?;
        // A process group of its own: a signal to the agent's group (Ctrl-C in a terminal) must not end a guest's disk.
        let mut child = command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|source| failed(source).at_path(Path::new(command.get_program())))?;
        // `command` holds the other end until dropped; with it open, a process that dies would not show as an end.
        drop(command);
        let told = write_frame(&stream, order)
            .and_then(|()| send_files(&stream, &images))
            .and_then(|()| deks.iter().try_for_each(|dek| stream.write_all(dek.expose())))
            .map_err(failed);
        if let Err(error) = told {
            // It may hang half-told; nothing depends on it yet.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(Self { child, stream })
    }

    /// The next report; blocks.
    ///
    /// # Errors
    /// [`DiskErrorKind::ProcessGone`] where the process ended without a word (after [`Report::Done`] and
    /// [`Report::Failed`] nothing is to be expected), [`DiskErrorKind::Protocol`] where it is not understood.
    pub fn recv(&mut self) -> Result<Report> {
        let what = "hear the disk process";
        match read_frame(&self.stream) {
            Ok(Some(report)) => Ok(report),
            Ok(None) => Err(DiskError::new(DiskErrorKind::ProcessGone, what, "it ended without a report")),
            Err(source) => {
                let kind = match source.kind() {
                    std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => {
                        DiskErrorKind::ProcessGone
                    }
                    _ => DiskErrorKind::Protocol,
                };
                Err(DiskError::new(kind, what, source.to_string()))
            }
        }
    }

    /// The process's ID. It leads a process group of the same number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Something that sends commands while another thread waits for reports.
    ///
    /// # Errors
    /// [`DiskErrorKind::Io`] where no descriptor is left.
    pub fn commander(&self) -> Result<Commander> {
        let stream = self.stream.try_clone().map_err(|source| DiskError::io("command the disk process", &source))?;
        Ok(Commander { stream })
    }

    /// Asks a conversion to give up; it answers [`DiskErrorKind::Cancelled`].
    ///
    /// # Errors
    /// [`DiskErrorKind::ProcessGone`].
    pub fn cancel(&self) -> Result<()> {
        send(&self.stream, Command::Cancel)
    }

    /// Asks an export to finish what is in flight, flush and end; it answers [`Report::Done`].
    ///
    /// # Errors
    /// [`DiskErrorKind::ProcessGone`].
    pub fn stop(&self) -> Result<()> {
        send(&self.stream, Command::Stop)
    }

    /// Asks an export for its [`Report::Stats`].
    ///
    /// # Errors
    /// [`DiskErrorKind::ProcessGone`].
    pub fn ask_stats(&self) -> Result<()> {
        send(&self.stream, Command::Stats)
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// [`DiskErrorKind::Io`].
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().map_err(|source| DiskError::io("wait for the disk process", &source))
    }

    /// Kills the process, as a power cut would, and waits for its end.
    ///
    /// # Errors
    /// [`DiskErrorKind::Io`].
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().map_err(|source| DiskError::io("kill the disk process", &source))?;
        self.wait()
    }
}

impl Commander {
    /// As [`DiskProcess::cancel`].
    ///
    /// # Errors
    /// [`DiskErrorKind::ProcessGone`].
    pub fn cancel(&self) -> Result<()> {
        send(&self.stream, Command::Cancel)
    }

    /// As [`DiskProcess::stop`].
    ///
    /// # Errors
    /// [`DiskErrorKind::ProcessGone`].
    pub fn stop(&self) -> Result<()> {
        send(&self.stream, Command::Stop)
    }

    /// As [`DiskProcess::ask_stats`].
    ///
    /// # Errors
    /// [`DiskErrorKind::ProcessGone`].
    pub fn ask_stats(&self) -> Result<()> {
        send(&self.stream, Command::Stats)
    }
}

/// The images of an export, open: the process need not be able to open them.
fn images(order: &Order) -> Result<Vec<File>> {
    let Order::Export(order) = order else { return Ok(Vec::new()) };
    let open = |(path, read_only): (&Path, bool)| {
        // A link would be somebody's way to have another file served.
        let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let opened = OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path);
        opened.doing("open the image", path)
    };
    order.images().map(open).collect()
}

fn send(stream: &UnixStream, command: Command) -> Result<()> {
    write_frame(stream, &command)
        .map_err(|source| DiskError::new(DiskErrorKind::ProcessGone, "command the disk process", source.to_string()))
}
