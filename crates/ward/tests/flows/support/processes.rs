//! Ending what a test has started.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// Kills all processes that name the directory on their command line or work in it: those of the system, and the VMs
/// that are made to outlive it.
pub(super) fn end_all_in(directory: &Path) {
    eventually("everything ends", || {
        let pids = processes_in(directory);
        for pid in &pids {
            // It may have ended meanwhile.
            let _ = kill_process(*pid, Signal::KILL);
        }
        pids.is_empty().then_some(())
    });
}

pub(super) fn processes_in(directory: &Path) -> Vec<Pid> {
    let name = directory.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let works_there = fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
        if works_there || command.windows(name.len()).any(|window| window == name) {
            found.push(pid);
        }
    }
    found
}
