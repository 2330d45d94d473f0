//! The side that carries out an order: what `ward disk` runs.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{MlockAllFlags, mlockall};
use ward_secret::Dek;

use crate::error::{DiskError, DiskErrorKind, Result};
use crate::order::Order;
use crate::report::{Command, Report, Summary};
use crate::wire::{read_frame, receive_files, write_frame};
use crate::{calls, convert, export};

/// Hears one order on the socket that is standard input, carries it out, and returns what the process should exit with.
///
/// The first thing it does is to keep the process out of core dumps and debuggers, and from system calls that it never
/// needs; nothing should run before it.
#[must_use]
pub fn main_loop() -> std::process::ExitCode {
    let run = || -> Result<Summary> {
        let failed = |source: io::Error| DiskError::io("set up the disk process", &source);
        ward_secret::harden_process().map_err(failed)?;
        calls::forbid()?;
        let socket = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        let stream = UnixStream::from(socket);
        let reports = Reports(Arc::new(Mutex::new(stream.try_clone().map_err(failed)?)));
        let outcome = hear(&stream).and_then(|heard| carry_out(heard, stream, reports.clone()));
        reports.say(&match &outcome {
            Ok(summary) => Report::Done(*summary),
            Err(error) => Report::Failed(error.clone()),
        });
        outcome
    };
    match run() {
        Ok(_) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the disk process failed");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Where reports go. That nobody hears them any more is no failure.
#[derive(Clone)]
pub(crate) struct Reports(Arc<Mutex<UnixStream>>);

impl Reports {
    pub(crate) fn say(&self, report: &Report) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = write_frame(&*stream, report);
    }
}

/// What it was told and given.
struct Heard {
    order: Order,
    images: Vec<File>,
    deks: Vec<Dek>,
}

fn hear(stream: &UnixStream) -> Result<Heard> {
    let failed = |source: io::Error| DiskError::new(DiskErrorKind::Protocol, "hear the order", source.to_string());
    let order: Order =
        read_frame(stream).map_err(failed)?.ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
    order.validate()?;
    let count = if let Order::Export(order) = &order { order.images().count() } else { 0 };
    let images = receive_files(stream, count).map_err(failed)?;
    let deks = (0..order.dek_count())
        .map(|_| {
            Dek::fill_with(|bytes| {
                let mut stream = stream;
                stream.read_exact(bytes).map_err(|source| HearError(failed(source)))
            })
            .map_err(|HearError(error)| error)
        })
        .collect::<Result<_>>()?;
    Ok(Heard { order, images, deks })
}

struct HearError(DiskError);

impl From<ward_secret::SecretError> for HearError {
    fn from(source: ward_secret::SecretError) -> Self {
        Self(DiskError::new(DiskErrorKind::Cipher, "take the key in", source.to_string()))
    }
}

fn carry_out(heard: Heard, commands: UnixStream, reports: Reports) -> Result<Summary> {
    let Heard { order, images, deks } = heard;
    match order {
        Order::Export(order) => {
            let export = export::Export::open(&order, images, deks)?;
            calls::forbid_new_rings()?;
            // Where the expanded keys are by now; what comes later is the guest's memory, which is not ours to lock.
            keep_from_swap(MlockAllFlags::CURRENT);
            let handle = export.handle();
            let told = reports.clone();
            heed(commands, move |command| match command {
                Some(Command::Stop | Command::Cancel) => handle.stop(),
                Some(Command::Stats) => told.say(&Report::Stats(handle.stats())),
                // The agent may go and come back; the guest's disk stays.
                None => {}
            })?;
            reports.say(&Report::Ready);
            export.serve().map(|stats| Summary { stats, ..Summary::default() })
        }
        Order::Convert(order) => {
            keep_from_swap(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE);
            let cancelled = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&cancelled);
            heed(commands, move |command| match command {
                Some(Command::Stop | Command::Cancel) | None => flag.store(true, Ordering::Relaxed),
                Some(Command::Stats) => {}
            })?;
            convert::run(&order, deks, &cancelled, &mut |report| reports.say(&report))
        }
    }
}

/// Locks pages that are used, as far as the process may lock any.
fn keep_from_swap(which: MlockAllFlags) {
    if let Err(error) = mlockall(which | MlockAllFlags::ONFAULT) {
        tracing::warn!(%error, "the memory of this process may be swapped, with expanded keys in it");
    }
}

/// Starts a thread that hands on each command, and `None` at the stream's end.
fn heed(stream: UnixStream, mut act: impl FnMut(Option<Command>) + Send + 'static) -> Result<()> {
    let run = move || {
        loop {
            match read_frame(&stream) {
                Ok(Some(command)) => act(Some(command)),
                Ok(None) | Err(_) => return act(None),
            }
        }
    };
    std::thread::Builder::new()
        .name("commands".into())
        .spawn(run)
        .map(drop)
        .map_err(|source| DiskError::io("start a thread", &source))
}
