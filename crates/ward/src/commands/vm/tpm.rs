//! `ward vm tpm`.

use clap::{Args, Subcommand};
use ward_controller::api::types::{AddTpm, VmView};
use ward_types::{Problem, VirtualTpm};

use super::crypto::Key;
use super::{OnVm, ask, confirm, finish};
use crate::client::Api;
use crate::output::Output;

/// What to do with vTPMs.
#[derive(Subcommand)]
pub(crate) enum Tpm {
    /// Give a VM a TPM 2.0. The VM must have UEFI and be off.
    #[command(
        after_help = "The TPM's state lies in the VM home, encrypted under a key of its own, which lies there wrapped under \
                            the home's key.\nSo the home is encrypted too where it is plain: under a new key of the default \
                            provider unless another is named.\nThe disks stay as they are."
    )]
    Add(Add),
    /// Take a VM's TPM away, with all that its guest keeps in it: a guest whose disk opens by the TPM does not boot any more.
    /// The VM must be off; its home stays encrypted.
    Rm(Rm),
    /// Show whether a VM has a TPM, and where its state lies.
    Show {
        /// The VM's name or ID.
        vm: String,
    },
}

/// `ward vm tpm add`.
#[derive(Args)]
pub(crate) struct Add {
    #[command(flatten)]
    on: OnVm,
    #[command(flatten)]
    key: Key,
}

/// `ward vm tpm rm`.
#[derive(Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    on: OnVm,
    /// Remove it without asking.
    #[arg(long)]
    yes: bool,
}

impl Tpm {
    pub(super) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        match self {
            Self::Add(Add { on, key: Key { provider, key_id } }) => {
                ask(api, on, "tpm", &AddTpm { provider, key_id }, output).await
            }
            Self::Rm(Rm { on, yes }) => {
                let vm = &on.vm;
                if !yes {
                    let question = format!("Remove the vTPM of VM `{vm}` with all that its guest keeps in it?");
                    confirm(vm, &question, &format!("did not remove the vTPM of VM `{vm}`"))?;
                }
                let task = api.delete(&format!("/vms/{vm}/tpm")).await?;
                finish(api, task, on.no_wait, output).await
            }
            Self::Show { vm } => {
                let view: VmView = api.get(&format!("/vms/{vm}")).await?;
                let tpm = view.config.and_then(|config| config.tpm);
                output.show(&tpm, || tpm.as_ref().map_or_else(|| "no vTPM".to_owned(), describe))
            }
        }
    }
}

pub(super) fn describe(tpm: &VirtualTpm) -> String {
    format!("TPM 2.0, state encrypted in {}", tpm.state)
}
