//! Which VMs are in the inventory, and as what.

use clap::Args;
use ward_controller::api::types::{Register, SetTemplate, VmView};
use ward_types::{Name, Problem};

use super::describe;
use crate::client::Api;
use crate::output::{Output, print_text};

/// `ward vm register`.
#[derive(Args)]
pub(crate) struct RegisterVm {
    /// The datastore where its home lies.
    datastore: String,
    /// The home's directory in the datastore.
    directory: Name,
}

/// `ward vm template`.
#[derive(Args)]
pub(crate) struct TemplateVm {
    /// The VM's name or ID.
    vm: String,
    /// Make it a VM again, which can be started.
    #[arg(long)]
    off: bool,
}

impl RegisterVm {
    pub(super) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let path = format!("/datastores/{}/register", self.datastore);
        let vm: VmView = api.post(&path, &Register { directory: self.directory }).await?;
        show(&vm, "registered", output)
    }
}

impl TemplateVm {
    pub(super) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let vm: VmView = api.post(&format!("/vms/{}/template", self.vm), &SetTemplate { template: !self.off }).await?;
        output.show(&vm, || describe(&vm))
    }
}

pub(super) async fn unregister(api: &Api, vm: &str, output: Output) -> Result<(), Problem> {
    let () = api.post(&format!("/vms/{vm}/unregister"), &()).await?;
    match output {
        Output::Table => print_text(&format!("VM {vm}: unregistered; `ward vm register` takes it in again")),
        Output::Json => output.show(&(), String::new),
    }
}

pub(super) async fn unlock(api: &Api, vm: &str, output: Output) -> Result<(), Problem> {
    let vm: VmView = api.post(&format!("/vms/{vm}/unlock"), &()).await?;
    show(&vm, "unlocked", output)
}

pub(super) async fn reload(api: &Api, vm: &str, output: Output) -> Result<(), Problem> {
    let vm: VmView = api.post(&format!("/vms/{vm}/reload"), &()).await?;
    show(&vm, "reloaded", output)
}

fn show(vm: &VmView, done: &str, output: Output) -> Result<(), Problem> {
    output.show(vm, || match &vm.locked {
        None => format!("VM {}: {done}", vm.name),
        Some(problem) => {
            format!(
                "VM {}: {done}, and locked: {}\n{}; then `ward vm unlock {0}`",
                vm.name, problem.why, problem.remedy
            )
        }
    })
}
