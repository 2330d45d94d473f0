//! A controller and its hosts, without a key server.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tempfile::TempDir;
use ward_controller::api::types::{HostState, HostView, NativeState, NativeView, ProviderView, TaskView, VmView};
use ward_types::{Code, Event, EventKind, Problem, TaskKind};

const PATIENCE: Duration = Duration::from_secs(90);
pub(crate) const MIB: usize = 1 << 20;

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Ports below those that the system hands out, so that no connection can have them while a process is started anew.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + u16::try_from(std::process::id() % 1000).unwrap() * 20;
    std::iter::repeat_with(|| start + NEXT.fetch_add(1, Ordering::Relaxed))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

pub(crate) fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = done() {
            return done;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes that no format makes by chance.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A controller, hosts, and a place for what a test makes.
pub(crate) struct System {
    dir: TempDir,
    api_port: u16,
    hosts_port: u16,
    controller: Option<Child>,
    hosts: Vec<Host>,
    /// What the controller and commands find in their environment besides.
    pub(crate) environment: Vec<(&'static str, String)>,
}

struct Host {
    port: u16,
    agent: Option<Child>,
}

impl Drop for System {
    fn drop(&mut self) {
        for child in self.hosts.iter_mut().map(|host| &mut host.agent).chain([&mut self.controller]) {
            if let Some(mut child) = child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        // What agents leave running on purpose.
        end_all_in(self.dir.path());
    }
}

/// The processes that work in a directory.
fn processes_in(directory: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let inside = processes
        .filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory)));
    inside.map(|process| process.file_name().into_string().unwrap()).collect()
}

/// Why a command was refused, told as JSON.
pub(crate) fn problem_in(args: &[&str], output: &Output) -> Problem {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "ward {args:?} was not refused");
    let start = said.find("{\n  \"code\"").unwrap_or_else(|| panic!("ward {args:?}: {said}"));
    let problem: Problem = serde_json::from_str(&said[start..]).unwrap();
    assert!(!problem.why.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
    problem
}

/// Ends every process that works in a directory, and waits for their ends.
fn end_all_in(directory: &Path) {
    eventually("the guests' ends", || {
        let pids = processes_in(directory);
        for pid in &pids {
            let _ = Command::new("kill").arg("-KILL").arg(pid).stderr(Stdio::null()).status();
        }
        pids.is_empty().then_some(())
    });
}

/// Whether a process has this key anywhere in its memory.
pub(crate) fn in_memory(pid: &str, key: &[u8]) -> bool {
    let mut keys = key_search::Keys::default();
    keys.add("it", key);
    !keys.finder().unwrap().in_process(pid.parse().unwrap()).unwrap().is_empty()
}

impl System {
    /// A controller with hosts that answer, and a datastore.
    pub(crate) fn start(hosts: usize) -> Self {
        Self::start_with(hosts, &[])
    }

    /// The same, with arguments for the controller.
    pub(crate) fn start_with(hosts: usize, arguments: &[&str]) -> Self {
        let mut system = Self {
            dir: TempDir::new().unwrap(),
            api_port: port(),
            hosts_port: port(),
            controller: None,
            hosts: Vec::new(),
            environment: Vec::new(),
        };
        fs::create_dir(system.path("store")).unwrap();
        system.start_controller(arguments);
        system.log_in();
        system.ward(&["datastore", "add", "default", text(&system.path("store"))]);
        for _ in 0..hosts {
            system.add_host("default");
        }
        system
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn controller_state(&self) -> PathBuf {
        self.path("controller")
    }

    pub(crate) fn host_state(&self, host: usize) -> PathBuf {
        self.path(&format!("h{host}"))
    }

    fn log(&self, name: &str) -> Stdio {
        let path = self.path(&format!("{name}.log"));
        Stdio::from(fs::OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    pub(crate) fn start_controller(&mut self, arguments: &[&str]) {
        let child = Command::new(env!("CARGO_BIN_EXE_ward"))
            .args(["controller", "--state", text(&self.controller_state())])
            .args(["--listen-api", &format!("127.0.0.1:{}", self.api_port)])
            .args(["--listen-hosts", &format!("127.0.0.1:{}", self.hosts_port)])
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stderr(self.log("controller"))
            .spawn()
            .unwrap();
        self.controller = Some(child);
    }

    fn log_in(&self) {
        let state = self.controller_state();
        let (ca, password) = (state.join("ca.pem"), state.join("admin-password"));
        let url = format!("https://127.0.0.1:{}", self.api_port);
        eventually("the controller answers", || {
            let args = ["login", &url, "--ca", text(&ca), "--password-file", text(&password)];
            self.command(&args).status.success().then_some(())
        });
    }

    /// Waits until a controller that can't start has ended; gives what it said last.
    pub(crate) fn controller_ends(&mut self) -> String {
        let mut controller = self.controller.take().unwrap();
        let status = eventually("the controller ends", || controller.try_wait().unwrap());
        assert!(!status.success());
        let log = fs::read_to_string(self.path("controller.log")).unwrap();
        log.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }

    /// Kills the controller, as a power cut would.
    pub(crate) fn kill_controller(&mut self) {
        let mut controller = self.controller.take().unwrap();
        controller.kill().unwrap();
        controller.wait().unwrap();
    }

    /// One more host, in a cluster.
    pub(crate) fn add_host(&mut self, cluster: &str) {
        let token = self.ward(&["host", "add", "--cluster", cluster]);
        let number = self.enrol_host(&token);
        self.start_agent(number, &[]);
        self.host_answers(number);
    }

    /// One more host, which joins by that token. Its agent is not started.
    pub(crate) fn enrol_host(&mut self, text_of_token: &str) -> usize {
        let number = self.hosts.len();
        self.hosts.push(Host { port: port(), agent: None });
        let token = self.path("token");
        fs::write(&token, text_of_token).unwrap();
        let address = format!("127.0.0.1:{}", self.hosts[number].port);
        let name = format!("h{number}");
        let state = self.host_state(number);
        self.ward(&[
            "host",
            "enrol",
            "--token-file",
            text(&token),
            "--address",
            &address,
            "--name",
            &name,
            "--state",
            text(&state),
        ]);
        number
    }

    pub(crate) fn start_agent(&mut self, host: usize, arguments: &[&str]) {
        let child = Command::new(env!("CARGO_BIN_EXE_ward"))
            .args(["host", "run", "--state", text(&self.host_state(host))])
            .args(["--listen", &format!("127.0.0.1:{}", self.hosts[host].port)])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(self.log(&format!("h{host}")))
            .spawn()
            .unwrap();
        self.hosts[host].agent = Some(child);
    }

    /// Kills an agent, as a power cut would.
    pub(crate) fn kill_agent(&mut self, host: usize) {
        let mut agent = self.hosts[host].agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub(crate) fn host_answers(&self, host: usize) {
        self.host_is(host, HostState::Connected);
    }

    pub(crate) fn host_is(&self, host: usize, state: HostState) {
        // The controller may have been started a moment ago.
        eventually("the host's state", || {
            let output = self.command(&["host", "show", &format!("h{host}"), "--output", "json"]);
            let view: HostView = output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())?;
            (view.state == state).then_some(())
        });
    }

    /// Kills the controller at each step of encrypting a VM under a provider: the task goes on, and `check` finds the VM, whose
    /// disk held that before, as it should be.
    pub(crate) fn killed_while_encrypting(&mut self, provider: &str, check: impl Fn(&Self, &VmView, &[u8])) {
        let log = self.path("points");
        self.plain_vm("v0");
        self.started_with("WARD_CRASH_LOG", text(&log));
        self.ward(&["vm", "encrypt", "v0", "--provider", provider]);
        let mut points: Vec<_> = fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect();
        points.retain(|point| point.starts_with("task."));
        points.sort();
        points.dedup();
        assert!(points.iter().any(|point| point.contains("key")) && points.len() >= 8, "{points:?}");
        for (n, point) in points.iter().enumerate() {
            let vm = format!("v{}", n + 1);
            let content = self.plain_vm(&vm);
            self.started_with("WARD_CRASH_AT", point);
            // It may be killed before it has answered.
            self.command(&["vm", "encrypt", &vm, "--provider", provider, "--no-wait"]);
            let mut controller = self.controller.take().unwrap();
            eventually(&format!("it is killed at {point}"), || controller.try_wait().unwrap());
            self.environment.clear();
            self.start_controller(&[]);
            self.host_answers(0);
            let tasks: Vec<TaskView> = self.json(&["task", "ls"]);
            let of_vm = |task: &&TaskView| task.info.vm_name.as_str() == vm && task.info.kind == TaskKind::VmEncrypt;
            let task = tasks.iter().find(of_vm).unwrap_or_else(|| panic!("{point}: {tasks:?}"));
            self.ward(&["task", "watch", &task.info.id.to_string()]);
            let view: VmView = self.json(&["vm", "show", &vm]);
            assert!(view.encrypted && view.keys.len() == 1, "{point}: {view:?}");
            check(self, &view, &content);
        }
    }

    /// Starts the controller anew, with that in its environment.
    fn started_with(&mut self, name: &'static str, value: &str) {
        self.kill_controller();
        self.environment = vec![(name, value.to_owned())];
        self.start_controller(&[]);
        self.host_answers(0);
    }

    fn command(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ward"))
            .args(args)
            .env("WARD_CONFIG", self.path("client.json"))
            .envs(self.environment.iter().cloned())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// A command that must succeed: what it prints.
    pub(crate) fn ward(&self, args: &[&str]) -> String {
        let output = self.command(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ward {args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn succeeds(&self, args: &[&str]) -> bool {
        self.command(args).status.success()
    }

    /// Ends the guests that an agent has left running, as a power cut would.
    pub(crate) fn end_guests(&self, host: usize) {
        end_all_in(&self.host_state(host).join("run"));
    }

    /// The ID of a host's agent.
    pub(crate) fn agent(&self, host: usize) -> String {
        self.hosts[host].agent.as_ref().unwrap().id().to_string()
    }

    /// The ID of the controller.
    #[allow(dead_code, reason = "not every test program that shares this file asks")]
    pub(crate) fn controller(&self) -> String {
        self.controller.as_ref().unwrap().id().to_string()
    }

    /// The ID of the one QEMU that runs on a host.
    pub(crate) fn qemu(&self, host: usize) -> String {
        let run = self.host_state(host).join("run");
        let inside = processes_in(&run).into_iter().filter(|pid| {
            fs::read_to_string(Path::new("/proc").join(pid).join("comm")).is_ok_and(|name| name.starts_with("qemu"))
        });
        let qemus: Vec<_> = inside.collect();
        assert_eq!(qemus.len(), 1, "{qemus:?}");
        qemus[0].clone()
    }

    /// A command that must succeed: its result.
    pub(crate) fn json<T: DeserializeOwned>(&self, args: &[&str]) -> T {
        let args = [args, &["--output", "json"]].concat();
        serde_json::from_str(&self.ward(&args)).unwrap()
    }

    /// A command that must be refused: why.
    pub(crate) fn refused(&self, code: Code, args: &[&str]) -> Problem {
        let problem = self.refused_any(args);
        assert_eq!(problem.code, code, "ward {args:?}: {problem:?}");
        problem
    }

    /// The same, for whatever reason.
    pub(crate) fn refused_any(&self, args: &[&str]) -> Problem {
        let args = [args, &["--output", "json"]].concat();
        problem_in(&args, &self.command(&args))
    }

    pub(crate) fn native(&self, name: &str) -> NativeView {
        self.json::<ProviderView>(&["provider", "show", name]).native.unwrap()
    }

    pub(crate) fn wait_for_state(&self, name: &str, state: NativeState) {
        eventually(&format!("provider {name} is {state}"), || (self.native(name).state == state).then_some(()));
    }

    /// A native provider that is backed up, under the password `secret`, and that all hosts have: its backup.
    pub(crate) fn backed_up(&self, name: &str) -> PathBuf {
        self.ward(&["provider", "add", "native", name]);
        let backup = self.back_up(name, &format!("{name}.p12"));
        self.wait_for_state(name, NativeState::Active);
        backup
    }

    pub(crate) fn back_up(&self, name: &str, file: &str) -> PathBuf {
        let path = self.path(file);
        self.ward(&["provider", "export", name, "--out", text(&path), "--password-file", text(&self.password())]);
        path
    }

    /// A file with the backups' password.
    pub(crate) fn password(&self) -> PathBuf {
        let path = self.path("password");
        fs::write(&path, "secret\n").unwrap();
        path
    }

    /// A VM with one disk, encrypted under a provider: its home, and the disk's content.
    pub(crate) fn encrypted_vm(&self, name: &str, provider: &str) -> (PathBuf, Vec<u8>) {
        let content = self.plain_vm(name);
        self.ward(&["vm", "encrypt", name, "--provider", provider]);
        let vm: VmView = self.json(&["vm", "show", name]);
        assert!(vm.encrypted);
        (vm.home, content)
    }

    pub(crate) fn plain_vm(&self, name: &str) -> Vec<u8> {
        let (image, content) = (self.path("image.raw"), noise(4 * MIB));
        fs::write(&image, &content).unwrap();
        self.ward(&["vm", "import", name, "--disk", text(&image), "--memory", "64"]);
        content
    }

    /// What a stranger with the backup and the document finds on a disk: its keys, and its content.
    pub(crate) fn opened(&self, backup: &Path, disk: &Path) -> (Keys, Vec<u8>) {
        let (plain, keys) = (self.path("plain"), self.path("keys"));
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/native/open_disk.py");
        let output = Command::new(python)
            .args([script, text(backup), text(&self.password()), text(disk), text(&plain), text(&keys)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = fs::read_to_string(keys).unwrap();
        let [kek, dek] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
        (Keys { kek: kek.to_owned(), dek: dek.to_owned() }, fs::read(plain).unwrap())
    }

    pub(crate) fn has_event(&self, kind: EventKind) -> bool {
        let events: Vec<Event> = self.json(&["event", "ls"]);
        events.iter().any(|event| event.kind == kind)
    }
}

/// The keys of a disk, in hexadecimal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) kek: String,
    pub(crate) dek: String,
}

/// The KDKs in a backup, by what OpenSSL shows of it.
pub(crate) fn keys_in(backup: &Path, password: &Path) -> Vec<Vec<u8>> {
    let pass = format!("file:{}", text(password));
    let shown =
        Command::new("openssl").args(["pkcs12", "-nodes", "-passin", &pass, "-in", text(backup)]).output().unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let value = |line: &str| -> Option<Vec<u8>> {
        line.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
    };
    shown.lines().filter_map(value).filter(|bytes| bytes.len() == 32).collect()
}

/// In which file below a directory this key is, if in any.
pub(crate) fn found_below(directory: &Path, key: &[u8]) -> Option<PathBuf> {
    let mut keys = key_search::Keys::default();
    keys.add("it", key);
    keys.finder().unwrap().in_files(directory).unwrap().into_iter().map(|(_, file)| file).next()
}
