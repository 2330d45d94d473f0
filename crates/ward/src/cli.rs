//! What can be asked on the command line.

use clap::{Parser, Subcommand};

use crate::bench::Bench;
use crate::commands::{
    audit, cluster, completion, datastore, event, host, key, login, policy, provider, recrypt, role, session, task,
    trust, user, vm,
};
use crate::output::Output;
use crate::process::{controller, keyserver};
use crate::up;

/// VM encryption for KVM.
///
/// Ward encrypts virtual machines under keys from a key server (KMIP). `ward up` starts a whole system on this machine;
/// `ward login` connects to one that runs elsewhere.
#[derive(Parser)]
#[command(
    name = "ward",
    version,
    max_term_width = 120,
    after_help = "Try it:\n  ward up --detach\n  ward vm import web-1 --disk /images/web-1.qcow2\n  ward vm encrypt web-1\n  \
                  ward vm start web-1\n\nExit codes: 0 done, 1 failed otherwise, 2 asked wrongly, 3 not allowed, 4 not \
                  found, 5 refused as things\nstand, 6 a key or key server is at fault, 7 a host is at fault, 8 storage \
                  is at fault."
)]
pub(crate) struct Cli {
    /// Tables for people, or JSON for scripts.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The nouns, and the processes.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Virtual machines: import, start, encrypt, decrypt.
    #[command(subcommand)]
    Vm(vm::Vm),
    /// Hosts: those that the controller knows, and the agent that makes this machine one.
    #[command(subcommand)]
    Host(host::Host),
    /// Clusters of hosts.
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Datastores: directories that a cluster's hosts share.
    #[command(subcommand)]
    Datastore(datastore::Datastore),
    /// Key providers: where keys come from.
    #[command(subcommand)]
    Provider(provider::Provider),
    /// Keys: who needs them, who holds them, whether they can be had.
    #[command(subcommand)]
    Key(key::Key),
    /// Storage policies: which parts of VMs are encrypted, and with whose keys.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// New keys for many VMs at once: to replace old ones, or to move to another key server.
    #[command(subcommand)]
    Recrypt(recrypt::Recrypt),
    /// Tasks: long work, how far it is.
    #[command(subcommand)]
    Task(task::Task),
    /// Events: what happened.
    #[command(subcommand)]
    Event(event::Event),
    /// Users.
    #[command(subcommand)]
    User(user::User),
    /// Groups of users.
    #[command(subcommand)]
    Group(user::Group),
    /// Roles: bundles of privileges.
    #[command(subcommand)]
    Role(role::Role),
    /// Permissions: who has which role on what.
    #[command(subcommand)]
    Permission(role::Permission),
    /// The audit log: who was allowed or refused what.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Sessions: who is logged in.
    #[command(subcommand)]
    Session(session::Session),
    /// Change your own password.
    Password(user::Password),
    /// Connect to a controller and log in.
    Login(login::Login),
    /// Log out.
    Logout,
    /// Start a key server, a controller and hosts on this machine.
    Up(up::Up),
    /// The trust authority: keys for hosts that booted what they should, and for no others.
    Trust(trust::Trust),
    /// Run a controller.
    Controller(Box<controller::Controller>),
    /// Run a key server, or manage one.
    #[command(subcommand)]
    Keyserver(keyserver::Keyserver),
    /// Serve or convert disks; started by a host's agent only.
    #[command(hide = true)]
    Disk,
    /// Measure.
    #[command(subcommand)]
    Bench(Bench),
    /// Print a shell's completion script.
    Completion(completion::Completion),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_makes_sense() {
        super::Cli::command().debug_assert();
    }
}
