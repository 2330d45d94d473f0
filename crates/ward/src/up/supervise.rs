//! The supervisor: starts the processes, starts those again that die, ends all of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use ward_types::{Code, Problem};

use super::layout::{CONTROLLER, Chosen, KEYSERVER, Layout};
use super::{Start, control, setup};
use crate::process::shutdown;

/// How long a process may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(20);
/// How long to wait before a process that has died is started again; twice as long each time.
const BACK_OFF: Duration = Duration::from_millis(500);
const MAX_BACK_OFF: Duration = Duration::from_secs(30);
/// A process that has run for so long starts with a fresh back-off.
const STEADY: Duration = Duration::from_secs(60);

/// Starts everything and stays until it is asked to end.
pub(super) async fn run(layout: &Layout, start: &Start) -> Result<(), Problem> {
    layout.make()?;
    let _lock = lock(layout)?;
    let chosen = layout.choose(start.with_key_server.is_none(), start.hosts)?;
    let _ = fs::remove_file(layout.ready());
    let stop = shutdown()?;
    let mut again = signal(SignalKind::hangup()).map_err(|error| Problem::internal("cannot start", error))?;
    write_pid(layout, "up", std::process::id())?;

    let mut all = Supervisor::new(layout, &chosen)?;
    let started = all.bring_up(&chosen, start, &stop).await;
    if started.is_ok() {
        control::report(layout, &chosen)?;
        let ready = fs::write(layout.ready(), "");
        ready.map_err(|error| Problem::internal("cannot say that all is ready", error))?;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = again.recv() => all.start_wanted()?,
            }
        }
    }
    let _ = fs::remove_file(layout.ready());
    all.end().await;
    let _ = fs::remove_file(layout.pid_file("up"));
    started
}

fn lock(layout: &Layout) -> Result<File, Problem> {
    let what = "cannot start";
    let file = File::create(layout.lock()).map_err(|error| Problem::internal(what, error))?;
    file.try_lock().map(|()| file).map_err(|_| {
        let why = format!("it runs already in {}", layout.root.display());
        let remedy = "see `ward up status`; end it with `ward up stop`, or choose another directory with --state";
        Problem::new(Code::Busy, what, why, remedy)
    })
}

fn write_pid(layout: &Layout, process: &str, pid: u32) -> Result<(), Problem> {
    fs::write(layout.pid_file(process), pid.to_string())
        .map_err(|error| Problem::internal(format!("cannot note that {process} runs"), error))
}

struct Supervisor<'a> {
    layout: &'a Layout,
    commands: BTreeMap<String, Vec<String>>,
    running: BTreeMap<String, Watched>,
    /// The first process that died before everything was up.
    died: Arc<Mutex<Option<String>>>,
    starting: Arc<AtomicBool>,
}

/// A process that is looked after by a task of its own.
struct Watched {
    end: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl<'a> Supervisor<'a> {
    fn new(layout: &'a Layout, chosen: &Chosen) -> Result<Self, Problem> {
        let commands = Layout::processes(chosen)
            .into_iter()
            .map(|process| command_of(layout, chosen, &process).map(|command| (process, command)))
            .collect::<Result<_, _>>()?;
        let starting = Arc::new(AtomicBool::new(true));
        Ok(Self { layout, commands, running: BTreeMap::new(), died: Arc::default(), starting })
    }

    /// Starts everything in its order, and sets up what is not set up.
    async fn bring_up(&mut self, chosen: &Chosen, start: &Start, stop: &CancellationToken) -> Result<(), Problem> {
        let died = Arc::clone(&self.died);
        let (layout, stop) = (self.layout, stop.clone());
        let alive = move || match died.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            _ if stop.is_cancelled() => {
                Err(Problem::new(Code::Cancelled, "did not start", "it was asked to end", "start it again"))
            }
            None => Ok(()),
            Some(process) => {
                let log = layout.log(process);
                let why = format!("{process} ended: {}", control::last_line(&log));
                Err(Problem::new(Code::Internal, "cannot start", why, format!("see {}", log.display())))
            }
        };
        if chosen.keyserver_port.is_some() {
            setup::key_server(self.layout).await?;
            self.start(KEYSERVER)?;
        }
        self.start(CONTROLLER)?;
        let api = setup::login(self.layout, chosen, &alive).await?;
        setup::inventory(self.layout, chosen, start, &api).await?;
        setup::enrol(self.layout, chosen, &api).await?;
        let hosts: Vec<_> = self.commands.keys().filter(|name| name.starts_with("host-")).cloned().collect();
        for host in &hosts {
            self.start(host)?;
        }
        setup::hosts_answer(&api, &hosts, &alive).await?;
        self.starting.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Starts the processes that were asked for and do not run; others that were stopped stay so.
    fn start_wanted(&mut self) -> Result<(), Problem> {
        let stopped = |name: &&String| self.running.get(*name).is_none_or(|watched| watched.task.is_finished());
        let wanted = |name: &&String| fs::remove_file(self.layout.wanted(name)).is_ok();
        let names: Vec<_> = self.commands.keys().filter(wanted).filter(stopped).cloned().collect();
        names.iter().try_for_each(|process| self.start(process))
    }

    fn start(&mut self, process: &str) -> Result<(), Problem> {
        let Some(arguments) = self.commands.get(process) else {
            return Err(Problem::internal(format!("cannot start {process}"), "there is no such process"));
        };
        let keeper = Keeper {
            process: process.to_owned(),
            arguments: arguments.clone(),
            pid_file: self.layout.pid_file(process),
            log: self.layout.log(process),
            end: CancellationToken::new(),
        };
        let child = keeper.spawn()?;
        let end = keeper.end.clone();
        let (died, starting) = (Arc::clone(&self.died), Arc::clone(&self.starting));
        let task = tokio::spawn(async move {
            keeper
                .keep(child, |name| {
                    // While everything starts, a process that dies is an error and not an accident.
                    if starting.load(Ordering::Relaxed) {
                        died.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(name.to_owned());
                    }
                })
                .await;
        });
        self.running.insert(process.to_owned(), Watched { end, task });
        Ok(())
    }

    /// Ends all, hosts before the controller before the key server.
    async fn end(&mut self) {
        let order = |name: &str| if name == KEYSERVER { 2 } else { u8::from(name == CONTROLLER) };
        for step in 0..=2 {
            let mut ending = Vec::new();
            for (_, watched) in self.running.iter_mut().filter(|(name, _)| order(name) == step) {
                watched.end.cancel();
                ending.push(&mut watched.task);
            }
            for task in ending {
                let _ = task.await;
            }
        }
    }
}

fn command_of(layout: &Layout, chosen: &Chosen, process: &str) -> Result<Vec<String>, Problem> {
    let state = layout.directory(process).display().to_string();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let local = |port: u16| format!("127.0.0.1:{port}");
    Ok(match process {
        KEYSERVER => {
            let listen = local(chosen.keyserver_port.unwrap_or_default());
            words(&["keyserver", "run", "--state", &state, "--listen", &listen])
        }
        CONTROLLER => {
            let (api, hosts) = (local(chosen.api_port), local(chosen.hosts_port));
            words(&["controller", "--state", &state, "--listen-api", &api, "--listen-hosts", &hosts])
        }
        host => {
            let number = host.strip_prefix("host-").and_then(|number| number.parse::<usize>().ok());
            let port = number.and_then(|number| chosen.agent_ports.get(number.checked_sub(1)?));
            let port = port.ok_or_else(|| Problem::internal("cannot start", format!("there is no {host}")))?;
            words(&["host", "run", "--state", &state, "--listen", &local(*port)])
        }
    })
}

/// Looks after one process.
struct Keeper {
    process: String,
    arguments: Vec<String>,
    pid_file: std::path::PathBuf,
    log: std::path::PathBuf,
    end: CancellationToken,
}

impl Keeper {
    fn spawn(&self) -> Result<Child, Problem> {
        let what = format!("cannot start {}", self.process);
        let failed = |error| Problem::internal(what.clone(), error);
        let exe = std::env::current_exe().map_err(failed)?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(failed)?;
        let mut command = std::process::Command::new(exe);
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        // Out of reach of a terminal's Ctrl-C: the supervisor ends them in their order.
        command.process_group(0);
        let child = Command::from(command).spawn().map_err(failed)?;
        if let Some(pid) = child.id() {
            fs::write(&self.pid_file, pid.to_string()).map_err(failed)?;
        }
        Ok(child)
    }

    /// Stays until the process has ended well, or was asked to end.
    async fn keep(self, mut child: Child, died: impl Fn(&str)) {
        let mut back_off = BACK_OFF;
        loop {
            let begun = Instant::now();
            let status = tokio::select! {
                status = child.wait() => status,
                () = self.end.cancelled() => {
                    terminate(&mut child).await;
                    break;
                }
            };
            let _ = fs::remove_file(&self.pid_file);
            match status {
                Ok(status) if status.success() => break,
                Ok(status) => self.note(&died, status),
                Err(error) => tracing::error!(process = self.process, %error, "cannot wait for a process"),
            }
            if begun.elapsed() > STEADY {
                back_off = BACK_OFF;
            }
            tokio::select! {
                () = sleep(back_off) => {}
                () = self.end.cancelled() => break,
            }
            back_off = (back_off * 2).min(MAX_BACK_OFF);
            child = match self.spawn() {
                Ok(child) => child,
                Err(problem) => {
                    tracing::error!(%problem, "giving up");
                    break;
                }
            };
        }
        let _ = fs::remove_file(&self.pid_file);
    }

    fn note(&self, died: &impl Fn(&str), status: ExitStatus) {
        tracing::warn!(process = self.process, %status, "a process has died; it is started again");
        died(&self.process);
    }
}

async fn terminate(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw) {
        // Not yet waited for, so the ID is still its own.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
