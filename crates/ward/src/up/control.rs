//! The commands about a system that runs.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use ward_controller::api::types::{Stop, TaskView, VmView};
use ward_types::{Code, Power, Problem};

use super::layout::{Chosen, Layout};
use super::setup;
use crate::client::{Api, ClientConfig, follow};
use crate::output::{Output, fields, print_text};

/// How long everything may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a guest may take to shut down when everything ends.
const GUEST_S: u32 = 30;

#[derive(Serialize)]
struct Status {
    /// Whether everything answers.
    ready: bool,
    console: Option<String>,
    /// Each process, and its ID if it runs.
    processes: Vec<(String, Option<i32>)>,
}

pub(super) async fn status(layout: &Layout, output: Output) -> Result<(), Problem> {
    let chosen = layout.chosen()?;
    let processes = chosen.as_ref().map_or_else(Vec::new, Layout::processes);
    let status = Status {
        ready: supervisor(layout).is_some() && layout.ready().exists(),
        console: chosen.as_ref().map(Chosen::url),
        processes: processes
            .into_iter()
            .map(|process| {
                let pid = running(layout, &process).map(|pid| pid.as_raw_nonzero().get());
                (process, pid)
            })
            .collect(),
    };
    output.show(&status, || match &chosen {
        None => format!("nothing was ever started in {}; `ward up` starts it", layout.root.display()),
        Some(chosen) => describe(layout, chosen, &status),
    })
}

fn describe(layout: &Layout, chosen: &Chosen, status: &Status) -> String {
    let processes = status.processes.iter().map(|(name, pid)| match pid {
        Some(pid) => format!("{name} runs (process {pid})"),
        None => format!("{name} does not run"),
    });
    let password = layout.directory(super::layout::CONTROLLER).join(ward_controller::ADMIN_PASSWORD_FILE);
    fields(&[
        ("state", layout.root.display().to_string()),
        ("ready", if status.ready { "yes" } else { "no" }.to_owned()),
        ("processes", processes.collect::<Vec<_>>().join("\n")),
        ("console", format!("{}/  (user admin, password in {})", chosen.url(), password.display())),
        ("API", format!("{}/api/openapi.json", chosen.url())),
        ("datastore", layout.datastore().display().to_string()),
        ("logs", layout.root.join("logs").display().to_string()),
    ])
}

/// Says that everything answers, and what to do next.
pub(super) fn report(layout: &Layout, chosen: &Chosen) -> Result<(), Problem> {
    let mut hint = String::new();
    let own = ClientConfig::load().is_ok_and(|config| config.url == chosen.url());
    if !own {
        hint = format!("\n  export WARD_CONFIG={}", layout.client_config().display());
    }
    print_text(&format!(
        "Ward is up. Console: {}/\n\nNext:{hint}\n  ward vm import NAME --disk IMAGE\n  ward vm encrypt NAME\n  ward vm \
         start NAME --console\n  ward up status --state {state}\n  ward up stop --state {state}",
        chosen.url(),
        state = layout.root.display(),
    ))
}

/// Starts the supervisor in the background and waits until everything answers.
pub(super) async fn detach(layout: &Layout, output: Output) -> Result<(), Problem> {
    let what = "cannot start";
    if supervisor(layout).is_some() {
        let why = format!("it runs already in {}", layout.root.display());
        return Err(Problem::new(Code::Busy, what, why, "see `ward up status`; end it with `ward up stop`"));
    }
    layout.make()?;
    let log_path = layout.log("up");
    let failed = |error: std::io::Error| Problem::internal(what, error);
    let log = fs::File::create(&log_path).map_err(failed)?;
    let _ = fs::remove_file(layout.ready());
    // The same command without --detach.
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    while !layout.ready().exists() {
        if child.try_wait().map_err(failed)?.is_some() {
            let text = fs::read_to_string(&log_path).unwrap_or_default();
            eprint!("{text}");
            return Err(Problem::new(
                Code::Internal,
                what,
                last_line(&log_path),
                format!("see {}", log_path.display()),
            ));
        }
        if Instant::now() > deadline {
            let why = format!("not everything answers after {} seconds", PATIENCE.as_secs());
            return Err(Problem::new(Code::Internal, what, why, format!("see {}", log_path.display())));
        }
        sleep(Duration::from_millis(50)).await;
    }
    match layout.chosen()? {
        Some(chosen) if output == Output::Table => report(layout, &chosen),
        _ => status(layout, output).await,
    }
}

/// Stops the VMs, then all processes.
pub(super) async fn stop_all(layout: &Layout, output: Output) -> Result<(), Problem> {
    let Some(pid) = supervisor(layout) else {
        return output.note(&format!("nothing runs in {}", layout.root.display()));
    };
    if let Err(problem) = stop_vms(layout, output).await {
        eprintln!("warning: VMs may go on running: {problem}");
    }
    signal(pid, Signal::TERM)?;
    wait_gone(pid, "everything").await?;
    output.note("Ward is down")
}

async fn stop_vms(layout: &Layout, output: Output) -> Result<(), Problem> {
    let Some(chosen) = layout.chosen()? else { return Ok(()) };
    let api = Api::new(&setup::session(layout, &chosen).await?)?;
    let vms: Vec<VmView> = api.get("/vms").await?;
    for vm in vms.iter().filter(|vm| vm.power == Power::On) {
        let stop = Stop { force: false, wait_s: Some(GUEST_S) };
        let task: TaskView = api.post(&format!("/vms/{}/stop", vm.id), &stop).await?;
        follow(&api, task, output).await?;
    }
    Ok(())
}

pub(super) async fn stop_one(layout: &Layout, process: &str, output: Output) -> Result<(), Problem> {
    check(layout, process)?;
    let Some(pid) = running(layout, process) else {
        return output.note(&format!("{process} does not run"));
    };
    signal(pid, Signal::TERM)?;
    wait_gone(pid, process).await?;
    output.note(&format!("{process} has ended"))
}

pub(super) async fn start_one(layout: &Layout, process: &str, output: Output) -> Result<(), Problem> {
    check(layout, process)?;
    let Some(pid) = supervisor(layout) else {
        let what = format!("cannot start {process}");
        return Err(Problem::new(Code::NotFound, what, "nothing runs", "start everything with `ward up`"));
    };
    fs::write(layout.wanted(process), "")
        .map_err(|error| Problem::internal(format!("cannot ask for the start of {process}"), error))?;
    signal(pid, Signal::HUP)?;
    let deadline = Instant::now() + PATIENCE;
    while running(layout, process).is_none() {
        if Instant::now() > deadline {
            let why = "it does not start".to_owned();
            let remedy = format!("see {}", layout.log(process).display());
            return Err(Problem::new(Code::Internal, format!("cannot start {process}"), why, remedy));
        }
        sleep(Duration::from_millis(50)).await;
    }
    output.note(&format!("{process} runs"))
}

fn check(layout: &Layout, process: &str) -> Result<(), Problem> {
    let known = layout.chosen()?.as_ref().map_or_else(Vec::new, Layout::processes);
    if known.iter().any(|known| known == process) {
        return Ok(());
    }
    let why = format!("there are {}", known.join(", "));
    Err(Problem::new(Code::NotFound, format!("cannot find process `{process}`"), why, "name one of these"))
}

fn supervisor(layout: &Layout) -> Option<Pid> {
    running(layout, "up")
}

fn running(layout: &Layout, process: &str) -> Option<Pid> {
    let text = fs::read_to_string(layout.pid_file(process)).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    // One that has died with its file left behind may have given its ID to a stranger.
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let ours = command.windows(5).any(|window| window == b"ward\0") || command.starts_with(b"ward");
    (ours && test_kill_process(pid).is_ok()).then_some(pid)
}

fn signal(pid: Pid, signal: Signal) -> Result<(), Problem> {
    kill_process(pid, signal).map_err(|error| {
        let what = format!("cannot signal process {}", pid.as_raw_nonzero());
        Problem::new(Code::AuthDenied, what, error.to_string(), "do it as the user who started it")
    })
}

async fn wait_gone(pid: Pid, process: &str) -> Result<(), Problem> {
    let deadline = Instant::now() + PATIENCE;
    while is_alive(pid) {
        if Instant::now() > deadline {
            let what = format!("cannot end {process}");
            let why = format!("process {} still runs", pid.as_raw_nonzero());
            return Err(Problem::new(Code::Internal, what, why, "look into its log; then kill it"));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A zombie waits for its parent only.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The last line of a log.
pub(super) fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it left no word").trim().to_owned()
}
