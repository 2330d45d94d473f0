//! The VMs that run on this host.
//!
//! ```text
//! ward host ---- control, console ----> QEMU ---- vhost-user-blk ----> ward disk ----> LUKS2 and raw images
//!    |                                    +------ NBD ----------------> the same, for UEFI variables
//!    |                                    +------ plain qcow2 images
//!    |                                    +------ control, TPM --------> swtpm ------> the vTPM's state
//!    +---- order, keys (once) -------------------------------------------^
//! ```
//!
//! QEMU, the disk process and swtpm are in process groups of their own and go on without the agent. What the next agent needs to
//! find them again is in the VM's run directory. They are kept apart as [`crate::isolate`] says. While the agent is away, what guests print is lost: it is kept nowhere
//! but in memory.

mod command_line;
mod console;
mod dump;
mod launch;
mod prepare;
mod process;
mod qemu;
mod qmp;
mod run_dir;
mod tpm;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout};
use ward_rpc::api::host::{BrokenVm, ConsoleText, HomeRef, StartVm, Started, VmPart};
use ward_types::{Code, HostId, Isolation, Power, Problem, VmId};

use crate::fault::{Doing, Fault, Result};
use crate::files;
use crate::isolate::{Isolated, Isolator};
use crate::keys::SharedKeys;
pub(crate) use command_line::Accelerator;
use console::Console;
use launch::Launched;
use process::Process;
pub(crate) use qemu::Qemu;
use qmp::{Event, Qmp};
pub(crate) use run_dir::PROCESSES;
use run_dir::{Note, QEMU_LOG, RunDir, TPM_LOG};

/// How long to wait before the power button is pressed again, first and at most: a guest that just boots may not notice
/// the first time.
const PRESS_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// How long QEMU may take to end when it is told to.
const QUIT_WITHIN: Duration = Duration::from_secs(5);
/// How long the disk process may take to write what is in flight when QEMU has ended.
const FLUSH_WITHIN: Duration = Duration::from_secs(300);
/// How long the last of the console may take to arrive.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);
const TRIM_LOGS_EVERY: Duration = Duration::from_secs(1);
/// What a console shows when swtpm is gone: the guest goes on, and whatever it asks its TPM fails.
const TPM_GONE: &str = "the vTPM is gone; it comes back when the VM is stopped and started";

/// All of a start that comes before the VM's processes; what it opened is closed again.
pub(crate) fn prepare_only(
    host: HostId,
    keys: &SharedKeys,
    isolated: &Isolated,
    run_dir: &std::path::Path,
    vm: VmId,
    at: &HomeRef,
) -> Result<()> {
    let dir = RunDir::create(run_dir, vm)?;
    prepare::prepare(host, keys, isolated, &dir, &StartVm { vm, home: at.clone(), expected: None }).map(drop)
}

/// What running VMs needs of the agent.
pub(crate) struct Settings {
    pub(crate) host: HostId,
    /// What keeps VMs apart.
    pub(crate) isolator: Arc<Isolator>,
    pub(crate) run_dir: PathBuf,
    pub(crate) keys: SharedKeys,
    /// The QEMU, or why there is none.
    pub(crate) qemu: Result<Qemu>,
}

/// All VMs of this host.
pub(crate) struct Vms {
    settings: Settings,
    slots: Mutex<HashMap<VmId, Slot>>,
    /// Those of ended VMs too, until they are started again.
    consoles: Mutex<HashMap<VmId, Arc<Console>>>,
    /// What has died of VMs, until they are started again.
    broken: Mutex<BTreeSet<BrokenVm>>,
}

enum Slot {
    /// Being started, or being cleaned up after.
    Busy,
    Running(Arc<Running>),
}

struct Running {
    qemu: Process,
    /// None where QEMU didn't answer an agent that came later.
    qmp: Option<Qmp>,
    off: watch::Sender<bool>,
}

impl Running {
    async fn is_off(&self) {
        // The sender is in `self`, so the channel stays open.
        let _ = self.off.subscribe().wait_for(|off| *off).await;
    }
}

impl Vms {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self { settings, slots: Mutex::default(), consoles: Mutex::default(), broken: Mutex::default() })
    }

    pub(crate) fn qemu(&self) -> &Result<Qemu> {
        &self.settings.qemu
    }

    /// How they are kept apart.
    pub(crate) fn isolation(&self) -> &Isolation {
        self.settings.isolator.report()
    }

    /// The VMs that run.
    pub(crate) fn running(&self) -> Vec<VmId> {
        let slots = self.slots();
        slots.iter().filter(|(_, slot)| matches!(slot, Slot::Running(_))).map(|(vm, _)| *vm).collect()
    }

    /// What has died of VMs since they were started.
    pub(crate) fn broken(&self) -> Vec<BrokenVm> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Noted for the next agent, to which it is to be the same death, before it is told.
    fn died(&self, run_dir: &RunDir, vm: VmId, part: VmPart) {
        let broken = BrokenVm { vm, part, at: Timestamp::now() };
        let noted = run_dir.note().map_or(Ok(()), |mut note| {
            note.broken.insert(broken);
            run_dir.save(&note)
        });
        if let Err(fault) = noted {
            tracing::error!(%vm, why = fault.why, "cannot note what has died");
        }
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).insert(broken);
    }

    /// Whether that one does.
    pub(crate) fn power(&self, vm: VmId) -> Power {
        match self.slots().get(&vm) {
            Some(Slot::Running(_)) => Power::On,
            Some(Slot::Busy) | None => Power::Off,
        }
    }

    /// Starts a VM. One that runs here already is started already.
    pub(crate) async fn start(self: &Arc<Self>, call: StartVm) -> std::result::Result<Started, Problem> {
        let (vm, what) = (call.vm, format!("cannot start VM `{}`", call.home.directory));
        loop {
            let ending = match self.slots().entry(vm) {
                Entry::Vacant(entry) => {
                    entry.insert(Slot::Busy);
                    break;
                }
                Entry::Occupied(entry) => match entry.get() {
                    // Its guest has ended, and its disks are not yet at rest.
                    Slot::Running(running) if running.qemu.has_ended() => Arc::clone(running),
                    Slot::Running(_) => return Ok(Started { notices: Vec::new() }),
                    Slot::Busy => {
                        let fault = Fault::new(Code::Busy, "it is being started or stopped", "ask again in a moment");
                        return Err(fault.problem(what));
                    }
                },
            };
            if timeout(FLUSH_WITHIN, ending.is_off()).await.is_err() {
                return Err(still_writing().problem(what));
            }
        }
        // In a task of its own: it must come to its end even where the caller hangs up.
        let vms = Arc::clone(self);
        let starting = tokio::spawn(async move {
            let started = vms.start_in_slot(call).await;
            if started.is_err() {
                vms.slots().remove(&vm);
            }
            started
        });
        match starting.await {
            Ok(started) => started.map_err(|fault| fault.problem(what)),
            Err(panic) => Err(Problem::internal(what, panic)),
        }
    }

    async fn start_in_slot(self: &Arc<Self>, call: StartVm) -> Result<Started> {
        let qemu = self.settings.qemu.clone()?;
        let run_dir = RunDir::create(&self.settings.run_dir, call.vm)?;
        let started = self.start_in_dir(call, &qemu, &run_dir).await;
        if started.is_err()
            && let Err(fault) = run_dir.remove(self.settings.host)
        {
            tracing::error!(why = fault.why, "cannot tidy up");
        }
        started
    }

    async fn start_in_dir(self: &Arc<Self>, call: StartVm, qemu: &Qemu, run_dir: &RunDir) -> Result<Started> {
        let vm = call.vm;
        let isolated = Arc::new(self.settings.isolator.vm()?);
        let (host, keys, dir) = (self.settings.host, self.settings.keys.clone(), run_dir.clone());
        let apart = Arc::clone(&isolated);
        let preparing = move || prepare::prepare(host, &keys, &apart, &dir, &call);
        let mut prepared =
            tokio::task::spawn_blocking(preparing).await.map_err(|panic| Fault::internal(panic.to_string()))??;
        let notices = std::mem::take(&mut prepared.notices);
        let console = Arc::new(Console::new());
        let launched = launch::launch(&isolated, qemu, run_dir, prepared, &console).await?;
        tracing::info!(%vm, "a VM was started");
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).retain(|broken| broken.vm != vm);
        self.take_on(vm, run_dir.clone(), console, launched);
        Ok(Started { notices })
    }

    /// Takes a running VM into the list and watches it to its end.
    fn take_on(self: &Arc<Self>, vm: VmId, run_dir: RunDir, console: Arc<Console>, launched: Launched) {
        let Launched { qemu, disk, tpm, qmp, events, serial } = launched;
        let running = Arc::new(Running { qemu, qmp: Some(qmp), off: watch::Sender::new(false) });
        self.watch(Watched { vm, run_dir, console, running, disk, tpm, events: Some(events), serial: Some(serial) });
    }

    fn watch(self: &Arc<Self>, watched: Watched) {
        self.consoles().insert(watched.vm, Arc::clone(&watched.console));
        self.slots().insert(watched.vm, Slot::Running(Arc::clone(&watched.running)));
        let vms = Arc::clone(self);
        tokio::spawn(async move {
            let (vm, running) = (watched.vm, Arc::clone(&watched.running));
            watched.attend(&vms).await;
            vms.slots().remove(&vm);
            running.off.send_replace(true);
        });
    }

    /// Stops a VM, and comes back when it is off. One that doesn't run is stopped already.
    pub(crate) async fn stop(&self, vm: VmId, force: bool, wait: Duration) -> std::result::Result<(), Problem> {
        let what = format!("cannot stop VM {vm}");
        let running = match self.slots().get(&vm) {
            None => return Ok(()),
            Some(Slot::Running(running)) => Arc::clone(running),
            Some(Slot::Busy) => {
                let fault = Fault::new(Code::Busy, "it is just being started", "ask again in a moment");
                return Err(fault.problem(what));
            }
        };
        if !force {
            running.ask_to_end(wait).await;
        }
        running.pull_the_plug().await;
        timeout(FLUSH_WITHIN, running.is_off()).await.map_err(|_| still_writing().problem(what))
    }

    /// Reads the console of a VM that runs or ran here.
    pub(crate) async fn read_console(
        &self,
        vm: VmId,
        offset: u64,
        wait: Duration,
    ) -> std::result::Result<ConsoleText, Problem> {
        let console = self.consoles().get(&vm).cloned();
        match console {
            Some(console) => Ok(console.read(offset, wait).await),
            None => {
                let fault = Fault::new(
                    Code::VmNotRunning,
                    "it has not run on this host since the agent started",
                    "start it, or ask the host on which it runs",
                );
                Err(fault.problem(format!("cannot read the console of VM {vm}")))
            }
        }
    }

    /// Finds the VMs again that an earlier agent started, and tidies up after those that have ended meanwhile.
    pub(crate) async fn adopt(self: &Arc<Self>) -> Result<()> {
        files::make_private_dir(&self.settings.run_dir)?;
        for run_dir in RunDir::list(&self.settings.run_dir)? {
            let note = run_dir.note();
            let path = run_dir.path().to_owned();
            match self.adopt_one(run_dir, note).await {
                Ok(()) => {}
                Err(fault) => tracing::error!(why = fault.why, path = %path.display(), "cannot take a VM over"),
            }
        }
        Ok(())
    }

    async fn adopt_one(self: &Arc<Self>, run_dir: RunDir, note: Option<Note>) -> Result<()> {
        let find = |id: &Option<process::ProcessId>| match id {
            Some(id) => Process::find(id).doing("look for a process of", run_dir.path()),
            None => Ok(None),
        };
        let (qemu, disk, tpm) = match &note {
            Some(note) => (find(&note.qemu)?, find(&note.disk)?, find(&note.tpm)?),
            None => (None, None, None),
        };
        let started = note.filter(|note| note.started);
        match (started, qemu) {
            (Some(note), Some(qemu)) => {
                tracing::info!(vm = %note.vm, "a running VM is taken over");
                let console = Arc::new(Console::new());
                let (qmp, events) = match launch::connect_qmp(&run_dir, &qemu).await {
                    Ok((qmp, events)) => {
                        // Where the earlier agent was killed just before that.
                        if qmp.query_status().await.is_ok_and(|state| state.status == "prelaunch") {
                            let _ = qmp.cont().await;
                        }
                        (Some(qmp), Some(events))
                    }
                    Err(error) => {
                        tracing::error!(vm = %note.vm, %error, "a running VM can only be killed, not asked");
                        (None, None)
                    }
                };
                let serial = launch::connect_serial(&run_dir, &qemu, &console).await.ok();
                self.broken.lock().unwrap_or_else(PoisonError::into_inner).extend(&note.broken);
                let is_news = |part| !note.broken.iter().any(|broken| broken.part == part);
                if note.tpm.is_some() && tpm.is_none() {
                    console.say(TPM_GONE);
                    if is_news(VmPart::Tpm) {
                        self.died(&run_dir, note.vm, VmPart::Tpm);
                    }
                }
                if note.disk.is_some() && disk.is_none() {
                    tracing::error!(vm = %note.vm, "the disk process is gone, so the VM is stopped");
                    if is_news(VmPart::Disk) {
                        self.died(&run_dir, note.vm, VmPart::Disk);
                    }
                    qemu.kill();
                }
                let running = Arc::new(Running { qemu, qmp, off: watch::Sender::new(false) });
                self.watch(Watched { vm: note.vm, run_dir, console, running, disk, tpm, events, serial });
            }
            (Some(note), None) => {
                // The guest has ended; its disk process may still be writing.
                self.slots().insert(note.vm, Slot::Busy);
                let vms = Arc::clone(self);
                tokio::spawn(async move {
                    if let Some(tpm) = tpm {
                        tpm::end(&tpm).await;
                    }
                    if let Some(disk) = disk {
                        disk.ended().await;
                    }
                    if let Err(fault) = run_dir.remove(vms.settings.host) {
                        tracing::error!(vm = %note.vm, why = fault.why, "cannot tidy up");
                    }
                    vms.slots().remove(&note.vm);
                });
            }
            (None, qemu) => {
                // It never came to run a guest, so nothing is lost. Where one is that nobody can look into is told to root
                // only, so that those of the note are not left to that.
                let here = process::running_in(run_dir.path());
                let here = here.iter().filter_map(|id| Process::find(id).ok().flatten());
                for process in [qemu, disk, tpm].into_iter().flatten().chain(here) {
                    process.kill();
                    process.ended().await;
                }
                run_dir.remove(self.settings.host)?;
            }
        }
        Ok(())
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<VmId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn consoles(&self) -> MutexGuard<'_, HashMap<VmId, Arc<Console>>> {
        self.consoles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Presses the power button until the guest has ended or its time is up.
    async fn ask_to_end(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        let pressing = async {
            let mut pause = PRESS_AGAIN.0;
            loop {
                if let Some(qmp) = &self.qmp
                    && let Err(error) = qmp.system_powerdown().await
                {
                    tracing::debug!(%error, "cannot press the power button");
                }
                sleep(pause).await;
                pause = (pause * 2).min(PRESS_AGAIN.1);
            }
        };
        tokio::select! {
            () = self.qemu.ended() => {}
            () = pressing => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }

    async fn pull_the_plug(&self) {
        if let Some(qmp) = &self.qmp
            && qmp.quit().await.is_ok()
            && timeout(QUIT_WITHIN, self.qemu.ended()).await.is_ok()
        {
            return;
        }
        self.qemu.kill();
    }
}

fn still_writing() -> Fault {
    let why = "its disk process is still writing what the guest wrote";
    Fault::new(Code::StorageIo, why, "check the storage; the VM is off when that is done")
}

/// A running VM as its watcher sees it.
struct Watched {
    vm: VmId,
    run_dir: RunDir,
    console: Arc<Console>,
    running: Arc<Running>,
    disk: Option<Process>,
    tpm: Option<Process>,
    events: Option<mpsc::Receiver<Event>>,
    serial: Option<tokio::task::JoinHandle<()>>,
}

impl Watched {
    /// Waits until everything of the VM has ended, and tidies up.
    async fn attend(mut self, vms: &Vms) {
        let vm = self.vm;
        self.qemu_ended(vms).await;
        let said = self.run_dir.tail(QEMU_LOG);
        if !said.is_empty() {
            tracing::warn!(%vm, said, "QEMU said something");
        }
        if let Some(serial) = self.serial.take() {
            let _ = timeout(LAST_WORDS_WITHIN, serial).await;
        }
        if let Some(tpm) = &self.tpm {
            tpm::end(tpm).await;
        }
        // The VM is off when its disks are at rest.
        if let Some(disk) = &self.disk {
            disk.ended().await;
        }
        if let Err(fault) = self.run_dir.remove(vms.settings.host) {
            tracing::error!(%vm, why = fault.why, "cannot tidy up");
        }
        self.console.power_off();
        tracing::info!(%vm, "a VM ended");
    }

    async fn qemu_ended(&mut self, vms: &Vms) {
        let mut trim = interval(TRIM_LOGS_EVERY);
        let mut disk_is_there = self.disk.is_some();
        let mut tpm_is_there = self.tpm.is_some();
        loop {
            let tpm_ended = async {
                match &self.tpm {
                    Some(tpm) if tpm_is_there => tpm.ended().await,
                    _ => std::future::pending().await,
                }
            };
            let disk_ended = async {
                match &self.disk {
                    Some(disk) if disk_is_there => disk.ended().await,
                    _ => std::future::pending().await,
                }
            };
            let event = async {
                match &mut self.events {
                    Some(events) => events.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.running.qemu.ended() => return,
                () = disk_ended => {
                    disk_is_there = false;
                    // QEMU's own end and the disk process's come close together.
                    if timeout(LAST_WORDS_WITHIN, self.running.qemu.ended()).await.is_err() {
                        tracing::error!(vm = %self.vm, "the disk process is gone, so the VM is stopped");
                        vms.died(&self.run_dir, self.vm, VmPart::Disk);
                        self.running.qemu.kill();
                    }
                }
                () = tpm_ended => {
                    tpm_is_there = false;
                    if timeout(LAST_WORDS_WITHIN, self.running.qemu.ended()).await.is_err() {
                        let said = self.run_dir.tail(TPM_LOG);
                        tracing::error!(vm = %self.vm, said, "the vTPM is gone");
                        self.console.say(TPM_GONE);
                        vms.died(&self.run_dir, self.vm, VmPart::Tpm);
                    }
                }
                event = event => match event {
                    Some(event @ (Event::Shutdown { .. } | Event::GuestPanicked | Event::Reset)) => {
                        tracing::info!(vm = %self.vm, ?event, "a guest's event");
                    }
                    Some(Event::Other(event)) => tracing::debug!(vm = %self.vm, event, "a guest's event"),
                    None => self.events = None,
                },
                _ = trim.tick() => self.run_dir.trim_logs(),
            }
        }
    }
}
