//! The processes of a VM: the disk process first, then QEMU, then the guest.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use ward_disk::client::Commander;
use ward_disk::{DiskErrorKind, DiskProcess, ExportOrder, Order, Report};
use ward_types::Code;

use super::command_line::{self, QMP, SERIAL};
use super::console::Console;
use super::prepare::Prepared;
use super::process::{Process, ProcessId};
use super::qemu::{Qemu, SANDBOX};
use super::qmp::{Event, Qmp, QmpError};
use super::run_dir::{DISK_LOG, Note, QEMU_LOG, RunDir};
use crate::fault::{Doing, Fault, Result};
use crate::isolate::{Cell, Isolated, Part};

/// How long QEMU may take until its sockets answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// How often its sockets are tried.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// How long a disk process may take to flush what a guest wrote that never came to run.
const DISK_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// A VM whose guest runs.
pub(crate) struct Launched {
    pub(crate) qemu: Process,
    pub(crate) disk: Option<Process>,
    pub(crate) tpm: Option<Process>,
    pub(crate) qmp: Qmp,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) serial: tokio::task::JoinHandle<()>,
}

/// Starts the processes, and the guest. Where that fails, none of them remains.
pub(crate) async fn launch(
    isolated: &Isolated,
    qemu: &Qemu,
    run_dir: &RunDir,
    prepared: Prepared,
    console: &Arc<Console>,
) -> Result<Launched> {
    let Prepared { mut note, config, ways, images, firmware, lock, order, deks, tpm, .. } = prepared;
    let given = Given {
        arguments: command_line::arguments(&config, qemu.accelerator, &ways, firmware.as_deref()),
        images,
        lock: lock.into_file()?,
    };
    run_dir.give(isolated.user())?;
    let tpm = match tpm {
        Some((state, key)) => {
            let (id, process) = super::tpm::start(isolated, run_dir, &state, key).await?;
            note.tpm = Some(id);
            run_dir.save(&note)?;
            Some(process)
        }
        None => None,
    };
    let launched = launch_with(isolated, qemu, run_dir, &mut note, given, (order, deks), console).await;
    match launched {
        Ok(launched) => Ok(Launched { tpm, ..launched }),
        Err(fault) => {
            if let Some(tpm) = tpm {
                tpm.kill();
                tpm.ended().await;
            }
            Err(fault)
        }
    }
}

/// What QEMU is given.
struct Given {
    arguments: Vec<OsString>,
    /// Images that it opens no more.
    images: Vec<File>,
    /// That of the home, which it holds.
    lock: File,
}

async fn launch_with(
    isolated: &Isolated,
    qemu: &Qemu,
    run_dir: &RunDir,
    note: &mut Note,
    given: Given,
    (order, deks): (ExportOrder, Vec<ward_secret::Dek>),
    console: &Arc<Console>,
) -> Result<Launched> {
    let disk = if order.disks.is_empty() && order.nbd.is_empty() {
        None
    } else {
        let disk = start_disk(isolated, run_dir, Order::Export(order), deks).await?;
        note.disk = Some(disk.id.clone());
        Some(disk)
    };
    let launched = start_qemu(isolated, qemu, run_dir, note, given, console).await;
    match launched {
        Ok((qemu, qmp, events, serial)) => {
            Ok(Launched { qemu, disk: disk.map(|disk| disk.process), tpm: None, qmp, events, serial })
        }
        Err(fault) => {
            if let Some(disk) = disk {
                disk.end().await;
            }
            Err(fault)
        }
    }
}

struct Disk {
    id: ProcessId,
    process: Process,
    commander: Commander,
}

impl Disk {
    /// Ends a disk process that no guest has used.
    async fn end(self) {
        let _ = self.commander.stop();
        if tokio::time::timeout(DISK_ENDS_WITHIN, self.process.ended()).await.is_err() {
            self.process.kill();
            self.process.ended().await;
        }
    }
}

async fn start_disk(isolated: &Isolated, run_dir: &RunDir, order: Order, deks: Vec<ward_secret::Dek>) -> Result<Disk> {
    let mut command = isolated.command(Cell {
        part: Part::Disk,
        program: isolated.exe(),
        sockets: Some(run_dir.path()),
        read: Vec::new(),
        write: Vec::new(),
        descriptors: Vec::new(),
    })?;
    command.arg("disk").current_dir(run_dir.path()).stderr(Stdio::from(run_dir.log(DISK_LOG)?));
    let starting = move || -> Result<DiskProcess> {
        let mut process = DiskProcess::spawn_command(command, &order, deks)?;
        let error = match process.recv() {
            Ok(Report::Ready) => return Ok(process),
            Ok(Report::Failed(error)) | Err(error) => error,
            Ok(other) => return Err(Fault::internal(format!("a disk process began with {other:?}"))),
        };
        let _ = process.kill();
        Err(error.into())
    };
    let process = tokio::task::spawn_blocking(starting).await.map_err(|panic| Fault::internal(panic.to_string()))?;
    let process = process.map_err(|fault| with_log(fault, run_dir, DISK_LOG))?;
    let commander = process.commander()?;
    let id = ProcessId::of(process.pid()).doing("look at a process", run_dir.path())?;
    let found = Process::find(&id).doing("watch a process", run_dir.path())?;
    attend(process);
    let found = found.ok_or_else(|| {
        let fault = Fault::new(Code::VmmFailed, "the disk process ended at once", "look for what killed it");
        with_log(fault, run_dir, DISK_LOG)
    })?;
    Ok(Disk { id, process: found, commander })
}

/// Hears a disk process to its end, in a thread of its own that nothing waits for: the process outlives the agent.
fn attend(mut process: DiskProcess) {
    let attend = move || {
        let pid = process.pid();
        loop {
            match process.recv() {
                Ok(Report::Done(summary)) => {
                    tracing::info!(pid, ?summary, "a disk process ended");
                    break;
                }
                Ok(Report::Failed(error)) => {
                    tracing::error!(pid, %error, "a disk process failed");
                    break;
                }
                Err(error) => {
                    if error.kind != DiskErrorKind::ProcessGone {
                        tracing::error!(pid, %error, "cannot hear a disk process");
                    }
                    break;
                }
                Ok(_) => {}
            }
        }
        let _ = process.wait();
    };
    if let Err(error) = std::thread::Builder::new().name("disk process".into()).spawn(attend) {
        tracing::error!(%error, "cannot attend to a disk process");
    }
}

type Started = (Process, Qmp, mpsc::Receiver<Event>, tokio::task::JoinHandle<()>);

async fn start_qemu(
    isolated: &Isolated,
    qemu: &Qemu,
    run_dir: &RunDir,
    note: &mut Note,
    Given { arguments, images, lock }: Given,
    console: &Arc<Console>,
) -> Result<Started> {
    run_dir.save(note)?;
    let log = run_dir.log(QEMU_LOG)?;
    let also_log = log.try_clone().doing("open", &run_dir.file(QEMU_LOG))?;
    // A group of its own: what ends the agent, or a Ctrl-C in its terminal, must not end its guests.
    let sandbox: &[&str] = if qemu.sandbox { &["-sandbox", SANDBOX] } else { &[] };
    let mut command = isolated.command(Cell {
        part: Part::Vmm,
        program: &qemu.program,
        sockets: Some(run_dir.path()),
        read: Vec::new(),
        write: Vec::new(),
        descriptors: images.into_iter().map(OwnedFd::from).collect(),
    })?;
    let spawned = command
        .args(sandbox)
        .args(arguments)
        .current_dir(run_dir.path())
        .stdin(Stdio::from(lock))
        .stdout(Stdio::from(log))
        .stderr(Stdio::from(also_log))
        .process_group(0)
        .spawn();
    // It holds what QEMU was given open.
    drop(command);
    let child = spawned.map_err(|error| {
        Fault::unfit(format!("{} does not start: {error}", qemu.program.display()), "check QEMU's installation")
    })?;
    let pid = child.id();
    let known = ProcessId::of(pid).and_then(|id| Ok((id.clone(), Process::find(&id)?)));
    wait_for(child);
    let (id, found) = known.doing("watch a process", run_dir.path())?;
    let process = found.ok_or_else(|| vmm_failed(run_dir, "QEMU ended at once"))?;
    note.qemu = Some(id);
    let begun = begin(run_dir, note, &process, console).await;
    match begun {
        Ok((qmp, events, serial)) => Ok((process, qmp, events, serial)),
        Err(fault) => {
            process.kill();
            process.ended().await;
            Err(fault)
        }
    }
}

/// Connects to a QEMU that holds its guest, and lets the guest go.
async fn begin(
    run_dir: &RunDir,
    note: &mut Note,
    process: &Process,
    console: &Arc<Console>,
) -> Result<(Qmp, mpsc::Receiver<Event>, tokio::task::JoinHandle<()>)> {
    run_dir.save(note)?;
    let connecting = async {
        let deadline = Instant::now() + CONNECT_WITHIN;
        loop {
            match connect_qmp(run_dir, process).await {
                Ok(connected) => return Ok(connected),
                Err(_) if Instant::now() < deadline => sleep(RETRY_EVERY).await,
                Err(error) => return Err(vmm_failed(run_dir, &error.to_string())),
            }
        }
    };
    let (qmp, events) = tokio::select! {
        connected = connecting => connected?,
        () = process.ended() => return Err(vmm_failed(run_dir, "QEMU ended before its guest began")),
    };
    let serial = connect_serial(run_dir, process, console).await?;
    // Before the guest runs: a guest that may have run is never thrown away.
    note.started = true;
    run_dir.save(note)?;
    qmp.cont().await.map_err(|error| vmm_failed(run_dir, &error.to_string()))?;
    Ok((qmp, events, serial))
}

/// Connects to QEMU's control socket.
pub(crate) async fn connect_qmp(
    run_dir: &RunDir,
    qemu: &Process,
) -> std::result::Result<(Qmp, mpsc::Receiver<Event>), QmpError> {
    Qmp::over(run_dir.connect(QMP, qemu).await.map_err(|_| QmpError::Gone)?).await
}

/// Reads the console from now on.
pub(crate) async fn connect_serial(
    run_dir: &RunDir,
    qemu: &Process,
    console: &Arc<Console>,
) -> Result<tokio::task::JoinHandle<()>> {
    let stream = run_dir.connect(SERIAL, qemu).await.doing("connect to", &run_dir.file(SERIAL))?;
    let console = Arc::clone(console);
    Ok(tokio::spawn(async move { console.fill(stream).await }))
}

/// Takes note of a child's end, so that the kernel can forget it.
pub(super) fn wait_for(mut child: Child) {
    let wait = move || {
        if let Ok(status) = child.wait() {
            tracing::debug!(%status, "a process ended");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("child".into()).spawn(wait) {
        tracing::error!(%error, "cannot wait for a process");
    }
}

fn vmm_failed(run_dir: &RunDir, why: &str) -> Fault {
    let fault = Fault::new(Code::VmmFailed, why, "see what it says; the VM's memory and disks may be the reason");
    with_log(fault, run_dir, QEMU_LOG)
}

pub(super) fn with_log(mut fault: Fault, run_dir: &RunDir, log: &str) -> Fault {
    let tail = run_dir.tail(log);
    if !tail.is_empty() {
        fault.why.push_str(&format!("; it said: {tail}"));
    }
    fault
}
