//! `ward completion`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use ward_types::Problem;

use crate::cli::Cli;
use crate::output::print_raw;

/// Print a shell's completion script.
#[derive(Args)]
#[command(after_help = "Example, for bash:\n  ward completion bash > /etc/bash_completion.d/ward")]
pub(crate) struct Completion {
    /// The shell.
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self) -> Result<(), Problem> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "ward", &mut script);
        print_raw(&String::from_utf8_lossy(&script))
    }
}
