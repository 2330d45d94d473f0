//! Processes that the test runs itself, in place of the supervisor, to have them killed at a step.

use std::fs::OpenOptions;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use super::{Access, System, eventually, free_port, text};

/// A process of a system, run by the test.
pub(crate) struct Own(Child);

impl Own {
    /// Waits until it has been killed by SIGKILL, as a crash point does.
    pub(crate) fn is_killed(&mut self) {
        let status = eventually("the process is killed", || self.0.try_wait().unwrap());
        assert_eq!(status.signal(), Some(9), "{status}");
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl System {
    /// Runs a process that the supervisor has stopped, with that in its environment, until it answers.
    pub(crate) fn own(&self, process: &str, environment: &[(&str, &str)]) -> Own {
        let mut command = self.among_the_others();
        let at = format!("127.0.0.1:{}", self.port_of(process));
        if process == "controller" {
            let hosts = format!("127.0.0.1:{}", self.port("/hosts_port"));
            command.args(["controller", "--listen-api", &at, "--listen-hosts", &hosts]);
        } else {
            command.args(["host", "run", "--listen", &at]);
        }
        command.envs(environment.iter().copied());
        let own = self.spawn(process, command);
        self.answers(process);
        own
    }

    /// One more key server with the keys of the embedded one, whose database it shares.
    pub(crate) fn another_key_server(&self) -> (Own, Access) {
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = self.among_the_others();
        command.args(["keyserver", "run", "--listen", &address]);
        let own = self.spawn("keyserver", command);
        eventually("the key server answers", || TcpStream::connect(&address).ok());
        (own, Access { address, ..self.access() })
    }

    fn spawn(&self, process: &str, mut command: Command) -> Own {
        let log = self.state().join(format!("logs/{process}.log"));
        let log = OpenOptions::new().append(true).open(log).unwrap();
        command.args(["--state", text(&self.state().join(process))]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Own(command.spawn().unwrap())
    }
}
