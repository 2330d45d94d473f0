//! Which QEMU there is, and what it can do here. Found out once, when the agent starts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::command_line::{Accelerator, QMP};
use super::qmp::Qmp;
use crate::fault::Fault;
use crate::files;

/// How long QEMU may take to come up, and to show that a processor runs.
const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// How long a guest must have run to count as running.
const RUNS_FOR: Duration = Duration::from_millis(300);

/// A QEMU.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
    pub(crate) accelerator: Accelerator,
    /// Whether it can keep itself from system calls that it doesn't need.
    pub(crate) sandbox: bool,
}

/// What QEMU gives up: other processes, other users, other schedulers.
pub(crate) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

impl Qemu {
    /// Looks for QEMU and tries it.
    ///
    /// Whether guests run on the processor itself is not said by `/dev/kvm` alone: on some machines that are guests
    /// themselves it is there, and ordinary guest kernels hang under it. So the kernel's module for this processor must
    /// be there, and a machine must come up under it.
    pub(crate) async fn find(program: PathBuf, run_dir: &Path) -> Result<Self, Fault> {
        let version = version(&program).await?;
        let kvm = kvm_is_plausible() && kvm_works(&program, &run_dir.join(".probe")).await;
        let accelerator = if kvm { Accelerator::Kvm } else { Accelerator::Tcg };
        // A QEMU that was built without it doesn't know the option.
        let sandbox =
            ask(&program, &["-sandbox", SANDBOX, "-machine", "help"]).await.is_ok_and(|output| output.status.success());
        tracing::info!(%version, ?accelerator, sandbox, "QEMU is there");
        Ok(Self { program, version, accelerator, sandbox })
    }
}

async fn version(program: &Path) -> Result<String, Fault> {
    let missing = |why: String| {
        Fault::unfit(format!("{} {why}", program.display()), "install QEMU, or say where it is, and restart the agent")
    };
    let output = ask(program, &["--version"]).await.map_err(missing)?;
    parse_version(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| missing("does not say its version".into()))
}

async fn ask(program: &Path, arguments: &[&str]) -> Result<Output, String> {
    let mut command = tokio::process::Command::new(program);
    let run = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    timeout(PROBE_WITHIN, run)
        .await
        .map_err(|_| "does not answer".to_owned())?
        .map_err(|error| format!("does not run: {error}"))
}

fn parse_version(text: &str) -> Option<String> {
    let rest = text.split_once("version ")?.1;
    let version: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

fn kvm_is_plausible() -> bool {
    let module = if cfg!(target_arch = "x86_64") {
        ["kvm_intel", "kvm_amd"].iter().any(|module| Path::new("/sys/module").join(module).exists())
    } else {
        true
    };
    module && Path::new("/dev/kvm").exists()
}

async fn kvm_works(program: &Path, dir: &Path) -> bool {
    if files::remove_tree(dir).and_then(|()| files::make_private_dir(dir)).is_err() {
        return false;
    }
    let child = Command::new(program)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", "64M"])
        .args(["-machine", "q35", "-accel", "kvm", "-cpu", "host"])
        .args(["-qmp", &format!("unix:{QMP},server=on,wait=off")])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let works = timeout(PROBE_WITHIN, runs(&dir.join(QMP))).await.unwrap_or_default();
    let _ = child.kill();
    let _ = child.wait();
    let _ = files::remove_tree(dir);
    works
}

async fn runs(socket: &Path) -> bool {
    let deadline = Instant::now() + PROBE_WITHIN;
    let qmp = loop {
        match Qmp::connect(socket).await {
            Ok((qmp, _)) => break qmp,
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)).await,
            Err(_) => return false,
        }
    };
    if !qmp.query_kvm().await.unwrap_or_default() || qmp.cont().await.is_err() {
        return false;
    }
    sleep(RUNS_FOR).await;
    qmp.query_status().await.is_ok_and(|state| state.running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003-2025 Fabrice Bellard";
        assert_eq!(parse_version(debian).as_deref(), Some("10.0.2"));
        assert_eq!(parse_version("QEMU emulator version 7.2.22\n").as_deref(), Some("7.2.22"));
        assert_eq!(parse_version("version x"), None);
        assert_eq!(parse_version(""), None);
    }
}
