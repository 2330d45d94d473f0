//! One conversion by a disk process, which may be killed and is started again.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ward_disk::{ConvertOrder, ConvertSide, DiskError, DiskErrorKind, DiskProcess, Order, Report};

use super::control::{Control, Stop};
use crate::fault::Fault;
use crate::isolate::Isolator;
use crate::volume::Unlocked;

/// How often a disk process may end without a word before it is no accident.
const ATTEMPTS: u32 = 3;

/// One end of a conversion.
pub(crate) enum End {
    Plain(ward_disk::ImageFormat),
    Encrypted(Unlocked),
}

/// What is to be converted. The target and the note of how far it is lie in one directory.
pub(crate) struct Conversion<'a> {
    pub(crate) source: &'a Path,
    pub(crate) target: &'a Path,
    pub(crate) size: u64,
    pub(crate) checkpoint: &'a Path,
}

/// Converts. `ends` opens source and target anew for each attempt, since a disk process takes its keys with it.
pub(crate) fn run(
    isolator: &Arc<Isolator>,
    conversion: &Conversion<'_>,
    control: &Control,
    mut ends: impl FnMut() -> Result<(End, End), Fault>,
    mut progress: impl FnMut(u64),
) -> Result<(), Stop> {
    let mut attempt = 1;
    loop {
        control.check()?;
        let home = conversion.target.parent().unwrap_or(Path::new("/"));
        let command = isolator.converter(conversion.source.to_owned(), home.to_owned())?;
        let error = match once(command, conversion, control, ends()?, &mut progress) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error.kind {
            // Who cancelled it is known here and not there.
            DiskErrorKind::Cancelled => control.check()?,
            DiskErrorKind::ProcessGone if attempt < ATTEMPTS => {
                tracing::warn!(%error, "a disk process was killed; it is started again");
                attempt += 1;
                continue;
            }
            _ => {}
        }
        return Err(Stop::Failed(error.into()));
    }
}

fn once(
    mut command: Command,
    conversion: &Conversion<'_>,
    control: &Control,
    (source, target): (End, End),
    progress: &mut impl FnMut(u64),
) -> Result<(), DiskError> {
    let mut deks = Vec::new();
    let mut side = |path: &Path, end: End| match end {
        End::Plain(format) => ConvertSide { path: path.to_owned(), format, dek: None },
        End::Encrypted(Unlocked { dek, format }) => {
            deks.push(dek);
            ConvertSide { path: path.to_owned(), format, dek: Some(deks.len() - 1) }
        }
    };
    let order = ConvertOrder {
        source: side(conversion.source, source),
        target: side(conversion.target, target),
        size: conversion.size,
        checkpoint: conversion.checkpoint.to_owned(),
    };
    command.arg("disk");
    let mut process = DiskProcess::spawn_command(command, &Order::Convert(order), deks)?;
    control.attach(process.commander()?);
    let outcome = loop {
        match process.recv() {
            Ok(Report::Done(_)) => break Ok(()),
            Ok(Report::Failed(error)) | Err(error) => break Err(error),
            Ok(Report::Progress { done, .. }) => progress(done),
            Ok(_) => {}
        }
    };
    control.detach();
    // It has said its last word or is gone; until it is, it holds the locks of the images.
    if outcome.is_err() {
        let _ = process.kill();
    }
    process.wait()?;
    outcome
}
