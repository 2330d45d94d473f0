//! The `ward` command: the client, and every process of the system.
//!
//! ```text
//! cli        what can be asked
//! commands   the client's nouns and verbs
//! client     how the controller is reached, and tasks are followed
//! output     tables for people, JSON for scripts
//! process    controller, host, key server, disk process
//! up         all of them on one machine, for trying and for small sites
//! bench      measurements that a user can repeat
//! ```

#![forbid(unsafe_code)]

mod bench;
mod cli;
mod client;
mod commands;
mod output;
mod process;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

/// Keys pass through buffers of libraries; none of them may lie in freed memory.
#[global_allocator]
static HEAP: ward_secret::WipingAllocator = ward_secret::WipingAllocator;

fn main() -> ExitCode {
    // Before anything else runs in it: see `ward_host::confine`.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "confine") {
        return ward_host::confine(arguments);
    }
    let Cli { output, command } = Cli::parse();
    // Before anything else runs in it: see `ward_disk::process`.
    if matches!(command, Command::Disk) {
        return ward_disk::process::main_loop();
    }
    match commands::run(command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            output.problem(&problem);
            ExitCode::from(problem.code.exit_code())
        }
    }
}
