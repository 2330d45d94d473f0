//! A whole system for one test: started, asked by the command line, ended with the test, whatever becomes of it.

mod disks;
mod own;
mod processes;
mod server;

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use key_search::Report;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use ward_controller::api::types::{HostState, HostView, TaskView, VmView};
use ward_types::{Code, Event, EventKind, KeyRef, Problem, TaskState};

pub(crate) use disks::{MIB, boot_disk, contents, cryptsetup_opens, decipher, disk, noise, qcow2};
pub(crate) use server::{Access, Pki, PyKmip};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a system consists of.
pub(crate) struct Parts {
    pub(crate) hosts: u16,
    /// The key server, where it is not Ward's own.
    pub(crate) key_server: Option<PyKmip>,
    /// The size of the datastore, where it is a file system of its own.
    pub(crate) datastore: Option<u64>,
}

/// A key server, a controller and hosts, each a process of its own.
pub(crate) struct System {
    dir: TempDir,
    small_datastore: bool,
    /// The key server, where it is not Ward's own.
    pykmip: Option<PyKmip>,
}

/// Makes of each body a test with Ward's key server, and one with `PyKMIP`'s.
macro_rules! at_both_servers {
    ($($name:ident($hosts:literal))*) => {
        mod at_wards_server {
            $(#[test]
            fn $name() {
                super::$name($crate::support::System::start($hosts));
            })*
        }
        mod at_pykmips_server {
            $(#[test]
            fn $name() {
                super::$name($crate::support::System::with_pykmip($hosts));
            })*
        }
    };
}
pub(crate) use at_both_servers;

impl Drop for System {
    fn drop(&mut self) {
        processes::end_all_in(self.dir.path());
    }
}

impl System {
    pub(crate) fn start(hosts: u16) -> Self {
        Self::of(Parts { hosts, key_server: None, datastore: None })
    }

    /// The same with PyKMIP's key server.
    pub(crate) fn with_pykmip(hosts: u16) -> Self {
        Self::of(Parts { hosts, key_server: Some(PyKmip::start()), datastore: None })
    }

    pub(crate) fn of(parts: Parts) -> Self {
        let dir = TempDir::new().unwrap();
        let system = Self { dir, small_datastore: parts.datastore.is_some(), pykmip: parts.key_server };
        system.choose_ports(parts.hosts);
        let mut command = match parts.datastore {
            None => Command::new(ward()),
            Some(size) => system.in_own_file_systems(size),
        };
        command.args(["up", "--detach", "--hosts", &parts.hosts.to_string(), "--state", text(&system.state())]);
        command.args(system.with_key_server());
        let output = system.finish(command);
        assert!(output.status.success(), "{}{}", lossy(&output.stdout), lossy(&output.stderr));
        system
    }

    /// What the first start is told of a key server that is not Ward's own.
    pub(crate) fn with_key_server(&self) -> Vec<String> {
        let Some(server) = &self.pykmip else { return Vec::new() };
        let Access { address, ca, cert, key } = server.access();
        let words = ["--with-key-server", &address, "--ca", text(&ca), "--cert", text(&cert), "--key", text(&key)];
        words.map(str::to_owned).to_vec()
    }

    /// Where everything of the system lies.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// A file of the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of the state, as the system's processes see it: they may have file systems of their own.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        if !self.small_datastore {
            return path.to_owned();
        }
        Path::new("/proc").join(self.pid("up")).join("root").join(path.strip_prefix("/").unwrap())
    }

    pub(crate) fn datastore(&self) -> PathBuf {
        self.seen(&self.state().join("datastore"))
    }

    /// The ID of a process.
    pub(crate) fn pid(&self, process: &str) -> String {
        fs::read_to_string(self.state().join(format!("run/{process}.pid"))).unwrap().trim().to_owned()
    }

    fn choose_ports(&self, hosts: u16) {
        let port = free_port;
        let chosen = serde_json::json!({
            "keyserver_port": self.pykmip.is_none().then(port),
            "api_port": port(),
            "hosts_port": port(),
            "agent_ports": (0..hosts).map(|_| port()).collect::<Vec<_>>(),
        });
        fs::create_dir(self.state()).unwrap();
        fs::write(self.state().join("up.json"), chosen.to_string()).unwrap();
    }

    /// Where a process answers.
    fn port_of(&self, process: &str) -> u16 {
        let pointer = match process {
            "keyserver" => "/keyserver_port".to_owned(),
            "controller" => "/api_port".to_owned(),
            host => format!("/agent_ports/{}", host.strip_prefix("host-").unwrap().parse::<usize>().unwrap() - 1),
        };
        self.port(&pointer)
    }

    fn port(&self, pointer: &str) -> u16 {
        let chosen = fs::read(self.state().join("up.json")).unwrap();
        let chosen: serde_json::Value = serde_json::from_slice(&chosen).unwrap();
        chosen.pointer(pointer).unwrap().as_u64().unwrap().try_into().unwrap()
    }

    /// Begins a command in which the datastore is a small file system that goes with its last process. Whoever may not
    /// mount may do so in a user namespace.
    fn in_own_file_systems(&self, size: u64) -> Command {
        let datastore = self.state().join("datastore");
        fs::create_dir(&datastore).unwrap();
        let mut command = Command::new("unshare");
        command.args(if is_root() { &["--mount"][..] } else { &["--mount", "--user", "--map-root-user"] });
        let script = format!("mount -t tmpfs -o size={size} none '{}' && exec \"$@\"", text(&datastore));
        command.args(["sh", "-c", &script, "sh"]).arg(ward());
        command
    }

    /// Begins the command of a process that sees the file systems which the others see.
    fn among_the_others(&self) -> Command {
        if !self.small_datastore {
            return Command::new(ward());
        }
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid("up"), "--mount"]);
        command.args(if is_root() { &[][..] } else { &["--user", "--preserve-credentials"] }).arg(ward());
        command
    }

    /// Runs a command to its end, or fails.
    fn finish(&self, command: Command) -> Output {
        let mut within = Command::new("timeout");
        within.args(["--kill-after=5", &PATIENCE.as_secs().to_string()]).arg(command.get_program());
        within.args(command.get_args()).env("WARD_CONFIG", self.path("client.json")).stdin(Stdio::null());
        within.output().unwrap()
    }

    /// Asks, as a user does.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(ward());
        command.args(["--output", "json"]).args(arguments);
        self.finish(command)
    }

    /// Begins to ask, and doesn't wait for the answer.
    pub(crate) fn ask_meanwhile(&self, arguments: &[&str]) -> std::process::Child {
        let mut command = Command::new(ward());
        command.args(["--output", "json"]).args(arguments).env("WARD_CONFIG", self.path("client.json"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Asks what must go well.
    pub(crate) fn get<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let Output { status, stdout, stderr } = self.ask(arguments);
        assert!(status.success(), "ward {arguments:?}: {}{}", lossy(&stderr), self.logs());
        serde_json::from_slice(&stdout)
            .unwrap_or_else(|error| panic!("ward {arguments:?}: {error}: {}", lossy(&stdout)))
    }

    /// Has something done, to its end.
    pub(crate) fn done(&self, arguments: &[&str]) {
        let task: TaskView = self.get(arguments);
        assert_eq!(task.info.state, TaskState::Succeeded, "ward {arguments:?}: {task:?}");
    }

    /// Asks what must be refused with that code, and with the exit code that belongs to it.
    pub(crate) fn refused(&self, arguments: &[&str], code: Code) -> Problem {
        let Output { status, stdout, stderr } = self.ask(arguments);
        assert!(!status.success(), "ward {arguments:?}: {}", lossy(&stdout));
        let problem = problem_of(&status, &stderr);
        assert_eq!(problem.code, code, "ward {arguments:?}: {problem:?}{}", self.logs());
        problem
    }

    /// An operator stops a process.
    pub(crate) fn stop(&self, process: &str) {
        if let ("keyserver", Some(server)) = (process, &self.pykmip) {
            return server.script("stop");
        }
        let () = self.get(&["up", "stop", process, "--state", text(&self.state())]);
    }

    /// An operator starts it again; it answers when this returns.
    pub(crate) fn restart(&self, process: &str) {
        if let ("keyserver", Some(server)) = (process, &self.pykmip) {
            return server.script("start");
        }
        let () = self.get(&["up", "start", process, "--state", text(&self.state())]);
        self.answers(process);
    }

    /// Waits until a process answers; a host also to the controller, and all hosts where it is the controller.
    fn answers(&self, process: &str) {
        let port = self.port_of(process);
        eventually(&format!("{process} answers"), || TcpStream::connect(("127.0.0.1", port)).ok());
        match process {
            "controller" => self.hosts_answer(),
            host if host.starts_with("host-") => self.connected(|name| name == host),
            _ => {}
        }
    }

    /// Makes a VM of images.
    pub(crate) fn import(&self, vm: &str, disks: &[&Path]) {
        let disks = disks.iter().flat_map(|disk| ["--disk", text(disk)]);
        self.done(&["vm", "import", vm, "--memory", "64"].into_iter().chain(disks).collect::<Vec<_>>());
    }

    pub(crate) fn vm(&self, vm: &str) -> VmView {
        self.get(&["vm", "show", vm])
    }

    /// The ID of the only key that a VM needs.
    pub(crate) fn key_id(&self, vm: &str) -> String {
        let keys = self.vm(vm).keys;
        let [key] = &keys[..] else { panic!("{vm} needs {keys:?}") };
        let ward_types::KeyLocator::Standard { key_id } = &key.key else { panic!("{key} is at no key server") };
        key_id.to_string()
    }

    /// A file of a VM's home.
    pub(crate) fn file(&self, vm: &str, file: &str) -> PathBuf {
        self.datastore().join(vm).join(file)
    }

    /// The names in a VM's home.
    pub(crate) fn files(&self, vm: &str) -> BTreeSet<String> {
        let mut names = self.names(vm);
        names.retain(|name| !name.starts_with(".lock"));
        names
    }

    /// The names in a directory of the datastore; `.` is the datastore itself, whose mark is left out.
    pub(crate) fn names(&self, directory: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.datastore().join(directory)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != ".ward-datastore").collect()
    }

    pub(crate) fn host(&self, host: &str) -> HostView {
        self.get(&["host", "show", host])
    }

    /// Waits until a host says that it has these keys and no others.
    pub(crate) fn has_keys(&self, host: &str, keys: &[KeyRef]) {
        eventually(&format!("{host} has {keys:?}, besides its host key"), || {
            let mut host = self.host(host);
            host.keys.retain(|key| host.host_key.as_ref() != Some(key));
            (host.keys == keys).then_some(())
        });
    }

    /// Waits until all hosts answer the controller.
    pub(crate) fn hosts_answer(&self) {
        self.connected(|_| true);
    }

    /// Waits until the hosts of those names answer the controller.
    fn connected(&self, named: impl Fn(&str) -> bool) {
        eventually("hosts answer the controller", || {
            let output = self.ask(&["host", "ls"]);
            let hosts: Vec<HostView> = serde_json::from_slice(&output.stdout).ok()?;
            let mut named = hosts.iter().filter(|host| named(host.name.as_str()));
            named.all(|host| host.state == HostState::Connected).then_some(())
        });
    }

    /// All events, the oldest first.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.get(&["event", "ls", "--after", "0", "--limit", "1000"])
    }

    /// The events of a kind, of which there must be some.
    pub(crate) fn events_of(&self, kind: EventKind) -> Vec<Event> {
        let events = self.events();
        let found: Vec<_> = events.iter().filter(|event| event.kind == kind).cloned().collect();
        assert!(!found.is_empty(), "no {kind} among {events:#?}");
        found
    }

    /// The first event of a kind, as soon as there is one.
    pub(crate) fn event(&self, kind: EventKind) -> Event {
        eventually(&format!("an event {kind}"), || self.events().into_iter().find(|event| event.kind == kind))
    }

    /// Where all lies that the key server has: its keys, its authority, its certificate.
    pub(crate) fn key_server(&self) -> PathBuf {
        self.pykmip.as_ref().map_or_else(|| self.state().join("keyserver"), |server| server.path("."))
    }

    /// What it says of a key that was destroyed: PyKMIP's forgets it.
    pub(crate) fn destroyed(&self) -> Code {
        if self.pykmip.is_some() { Code::KeyMissing } else { Code::KeyNotUsable }
    }

    /// The way to the key server that the controller has too.
    pub(crate) fn access(&self) -> Access {
        if let Some(server) = &self.pykmip {
            return server.access();
        }
        let out = self.path("access");
        if !out.exists() {
            let state = self.state().join("keyserver");
            let arguments =
                ["keyserver", "issue-client", "ward-controller", "--state", text(&state), "--out", text(&out)];
            assert!(self.ask(&arguments).status.success());
        }
        let address = format!("127.0.0.1:{}", self.port_of("keyserver"));
        Access::new(address, out.join("ca.pem"), out.join("client.pem"), out.join("client.key"))
    }

    /// Searches everything that the system has written for the key of a VM, and for that of its disk.
    pub(crate) fn no_key_lies_about(&self, access: &Access, key_id: &str, disk: &Path) -> Report {
        let report = access.search(key_id, disk, &self.state());
        assert!(report.findings.is_empty() && report.keys == 2, "{report:?}");
        report
    }

    /// How many processes of the system there are.
    pub(crate) fn processes(&self) -> usize {
        processes::processes_in(self.dir.path()).len()
    }

    /// The ends of all logs, for what a failed test says.
    fn logs(&self) -> String {
        let mut said = String::new();
        for entry in fs::read_dir(self.state().join("logs")).into_iter().flatten().flatten() {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(12).collect();
            said.push_str(&format!("\n--- {}", entry.path().display()));
            tail.iter().rev().for_each(|line| said.push_str(&format!("\n{line}")));
        }
        said
    }
}

/// The problem that a command ended with: alone on its standard error, and told by its exit code too.
pub(crate) fn problem_of(status: &ExitStatus, stderr: &[u8]) -> Problem {
    let problem: Problem =
        serde_json::from_slice(stderr).unwrap_or_else(|error| panic!("{error}: {status}: {}", lossy(stderr)));
    assert_eq!(status.code(), Some(problem.code.exit_code().into()), "{problem:?}");
    for part in [&problem.what, &problem.why, &problem.remedy] {
        assert!(!part.is_empty(), "{problem:?}");
    }
    problem
}

/// A port below those that the system hands out, so that no connection of another test can have it while a process is
/// started anew.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + u16::try_from(std::process::id() % 1000).unwrap() * 20;
    std::iter::repeat_with(|| start + NEXT.fetch_add(1, Ordering::Relaxed))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn ward() -> &'static str {
    env!("CARGO_BIN_EXE_ward")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// A tool that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", lossy(&output.stderr));
    output
}

/// Asks again and again until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        // Not too eagerly: what is waited for needs the processor too.
        std::thread::sleep(Duration::from_millis(10));
    }
}
