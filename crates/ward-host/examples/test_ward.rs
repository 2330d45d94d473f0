//! Plays the `ward` binary in this crate's tests: `disk` is the disk process, `confine` what VMs' processes are started by,
//! `host STATE_DIR LISTEN` the agent, with the TPM that `WARD_TEST_TPM` names. Built with crash points.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use ward_host::{Config, TpmConfig};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "confine") {
        return ward_host::confine(arguments);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["disk"] => ward_disk::process::main_loop(),
        ["host", state_dir, listen] => host(state_dir.into(), listen),
        _ => {
            eprintln!("usage: test_ward disk | host STATE_DIR LISTEN");
            ExitCode::from(2)
        }
    }
}

#[tokio::main]
async fn host(state_dir: PathBuf, listen: &str) -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let (Ok(listen), Ok(exe)) = (listen.parse(), std::env::current_exe()) else { return ExitCode::from(2) };
    let shutdown = CancellationToken::new();
    if let Ok(mut terminate) = signal(SignalKind::terminate()) {
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            terminate.recv().await;
            shutdown.cancel();
        });
    }
    let mut config = Config::new(state_dir, listen, exe);
    config.tpm = std::env::var("WARD_TEST_TPM").ok().map(|tcti| TpmConfig {
        tcti,
        pcrs: vec![7],
        event_log: Default::default(),
    });
    match ward_host::run(config, shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
