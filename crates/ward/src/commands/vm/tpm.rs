//! `ward vm tpm`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ward_controller::api::types::{AddTpm, CertificateView, CertifyTpm, EkKind, TpmCa, TpmView, VmView};
use ward_types::{Code, FileName, Problem};

use super::crypto::Key;
use super::{OnVm, ask, confirm, finish};
use crate::client::Api;
use crate::commands::{done, read_file};
use crate::output::{Output, fields, print_raw};

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
    /// Show whether a VM has a TPM, where its state lies, and the certificates of its endorsement keys.
    Show {
        /// The VM's name or ID.
        vm: String,
    },
    /// Write requests for other certificates of a TPM's endorsement keys, PKCS#10: to files, or else both to the terminal.
    #[command(
        after_help = "An endorsement key signs nothing, so that the requests are without a signature (RFC 5272, appendix C.1), \
                            and a CA that\ninsists on one refuses them. Such a one can be given the public key by itself:\n  openssl \
                            req -in ek.csr -noout -pubkey -out ek.pub\n  openssl x509 -new -force_pubkey ek.pub ..."
    )]
    Csr {
        /// The VM's name or ID.
        vm: String,
        /// The file for the request for the RSA key.
        #[arg(long)]
        rsa: Option<PathBuf>,
        /// The file for the request for the ECC key.
        #[arg(long)]
        ecc: Option<PathBuf>,
    },
    /// Give a TPM other certificates of its endorsement keys, which another CA made, or new ones of the controller's own CA.
    /// The VM must be off.
    Cert(Cert),
    /// What verifies TPMs: the CA that certifies them.
    #[command(subcommand)]
    Ca(Ca),
}

/// `ward vm tpm ca`.
#[derive(Subcommand)]
pub(crate) enum Ca {
    /// Show the certificate of the controller's CA for vTPMs, or write it to a file.
    Show {
        /// The file to write it to, PEM.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

/// `ward vm tpm cert`.
#[derive(Args)]
#[group(id = "certificates", required = true, multiple = true)]
pub(crate) struct Cert {
    #[command(flatten)]
    on: OnVm,
    /// A file with the certificate of the RSA key, PEM.
    #[arg(long, group = "certificates")]
    rsa: Option<PathBuf>,
    /// A file with the certificate of the ECC key, PEM.
    #[arg(long, group = "certificates")]
    ecc: Option<PathBuf>,
    /// New certificates of the controller's own CA.
    #[arg(long, group = "certificates", conflicts_with_all = ["rsa", "ecc"])]
    own: bool,
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
                if view.config.is_none_or(|config| config.tpm.is_none()) {
                    return output.show(&None::<TpmView>, || "no vTPM".to_owned());
                }
                let tpm: TpmView = api.get(&format!("/vms/{vm}/tpm")).await?;
                output.show(&tpm, || describe_keys(&tpm))
            }
            Self::Csr { vm, rsa, ecc } => {
                let tpm: TpmView = api.get(&format!("/vms/{vm}/tpm")).await?;
                if tpm.keys.is_empty() {
                    let what = format!("cannot make requests for the vTPM of VM `{vm}`");
                    let why = "it was made before vTPMs had certificates, so that its keys are not known";
                    let remedy = format!("give it the controller's own first: `ward vm tpm cert {vm} --own`");
                    return Err(Problem::new(Code::RequestInvalid, what, why, remedy));
                }
                let print_all = rsa.is_none() && ecc.is_none();
                for key in &tpm.keys {
                    let out = match key.key {
                        EkKind::Rsa => &rsa,
                        EkKind::Ecc => &ecc,
                    };
                    match out {
                        Some(path) => write(output, path, &key.csr, &format!("{} of VM {vm}", name(key.key)))?,
                        None if print_all => print_raw(&key.csr)?,
                        None => {}
                    }
                }
                Ok(())
            }
            Self::Cert(Cert { on, rsa, ecc, own }) => {
                let what = format!("cannot give the vTPM of VM `{}` certificates", on.vm);
                let read = |path: Option<PathBuf>| path.map(|path| read_file(&what, &path)).transpose();
                let body = CertifyTpm { rsa: read(rsa)?, ecc: read(ecc)?, own };
                let task = api.put(&format!("/vms/{}/tpm/certificates", on.vm), &body).await?;
                finish(api, task, on.no_wait, output).await
            }
            Self::Ca(Ca::Show { out }) => {
                let ca: TpmCa = api.get("/tpm/ca").await?;
                match out {
                    Some(path) => write(output, &path, &ca.pem, "CA for vTPMs"),
                    None => output.show(&ca, || format!("{}\n{}", describe_certificate(&ca.certificate), ca.pem)),
                }
            }
        }
    }
}

fn write(output: Output, path: &Path, text: &str, name: &str) -> Result<(), Problem> {
    fs::write(path, text).map_err(|error| {
        let what = format!("cannot write to {}", path.display());
        Problem::new(Code::RequestInvalid, what, error.to_string(), "name a file that you may write")
    })?;
    done(output, &format!("{name}: written to {}", path.display()))
}

const fn name(key: EkKind) -> &'static str {
    match key {
        EkKind::Rsa => "EK RSA-2048",
        EkKind::Ecc => "EK ECC P-256",
    }
}

fn describe_keys(tpm: &TpmView) -> String {
    let mut lines = vec![describe(&tpm.state)];
    if tpm.keys.is_empty() {
        lines.push("no certificates: `ward vm tpm cert --own` gives it some".to_owned());
    }
    for key in &tpm.keys {
        lines.push(format!("\n{}\n{}", name(key.key), describe_certificate(&key.certificate)));
    }
    lines.join("\n")
}

fn describe_certificate(it: &CertificateView) -> String {
    fields(&[
        ("made out to", it.subject.clone()),
        ("by", it.issuer.clone()),
        ("serial", it.serial.clone()),
        ("valid", format!("{} to {} ({} days left)", it.not_before, it.not_after, it.days_left)),
        ("SHA-256", it.fingerprint.clone()),
    ])
}

pub(super) fn describe(state: &FileName) -> String {
    format!("TPM 2.0, state encrypted in {state}")
}
