//! What hosts must be, and how the attestation service behaves.

use attest::hash::HashAlg;
use attest::image::BaseImage as Image;
use attest::label::Label;
use attest::tpm::PcrMask;
use clap::{Args, Subcommand};
use ward_trust::attestation::PolicySettings;
use ward_types::Problem;

use super::{At, problem};
use crate::output::{Output, fields, table};

/// What to do with attestation policies.
#[derive(Subcommand)]
pub(crate) enum Policy {
    /// Make a policy, or change one.
    Set {
        /// Its name.
        policy: Label,
        /// The PCRs that base images must vouch for.
        #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = Image::USUAL_PCRS)]
        pcrs: Vec<u8>,
        /// The bank that is quoted: sha256, sha384 or sha512.
        #[arg(long, default_value = "sha256", value_parser = bank)]
        bank: HashAlg,
        /// Attest hosts without Secure Boot too.
        #[arg(long)]
        without_secure_boot: bool,
        /// Attest hosts whose TPM has no certificate of a trusted CA too.
        #[arg(long)]
        bare_eks: bool,
    },
    /// List the policies.
    Ls,
    /// Remove a policy.
    Rm {
        /// Its name.
        policy: Label,
    },
}

fn bank(text: &str) -> Result<HashAlg, String> {
    let banks = [HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512];
    banks
        .into_iter()
        .find(|bank| bank.name() == text)
        .ok_or_else(|| format!("`{text}` is no bank that proves anything"))
}

impl Policy {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        match self {
            Self::Set { policy, pcrs, bank, without_secure_boot, bare_eks } => {
                let what = format!("cannot set attestation policy `{policy}`");
                let settings = PolicySettings {
                    bank,
                    required: PcrMask::of(pcrs),
                    secure_boot: !without_secure_boot,
                    ek_certificate: !bare_eks,
                    ..PolicySettings::default()
                };
                let set = at.open_attestation(&what).await?.set_policy(&policy, &settings).await;
                set.map_err(|error| problem(&what, &error))?;
                output.show(&settings, || format!("attestation policy {policy}: set"))
            }
            Self::Ls => {
                let what = "cannot list attestation policies";
                let policies =
                    at.open_attestation(what).await?.policies().await.map_err(|error| problem(what, &error))?;
                output.show(&policies, || {
                    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
                    let rows = policies.iter().map(|(name, settings)| {
                        vec![
                            name.to_string(),
                            settings.bank.to_string(),
                            settings.required.to_string(),
                            yes(settings.secure_boot),
                            yes(settings.ek_certificate),
                        ]
                    });
                    table(&["policy", "bank", "pcrs", "secure boot", "ek certificate"], rows)
                })
            }
            Self::Rm { policy } => {
                let what = format!("cannot remove attestation policy `{policy}`");
                at.open_attestation(&what)
                    .await?
                    .remove_policy(&policy)
                    .await
                    .map_err(|error| problem(&what, &error))?;
                output.note(&format!("attestation policy {policy}: removed"))
            }
        }
    }
}

/// `ward trust settings`.
#[derive(Args)]
pub(crate) struct ChangeSettings {
    /// How long a token is good for, in seconds.
    #[arg(long, value_name = "SECONDS")]
    token_seconds: Option<u64>,
    /// Whether an administrator must let in each host that enrols by its TPM's certificate.
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    admit_by_hand: Option<bool>,
    /// Whether endorsement keys that were imported by themselves are trusted.
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    bare_eks: Option<bool>,
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("say yes or no".to_owned()),
    }
}

impl ChangeSettings {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        let what = "cannot change the settings";
        let admin = at.open_attestation(what).await?;
        let mut settings = admin.settings().await.map_err(|error| problem(what, &error))?;
        settings.token_seconds = self.token_seconds.unwrap_or(settings.token_seconds);
        settings.admit_by_hand = self.admit_by_hand.unwrap_or(settings.admit_by_hand);
        settings.bare_eks = self.bare_eks.unwrap_or(settings.bare_eks);
        admin.set_settings(&settings).await.map_err(|error| problem(what, &error))?;
        output.show(&settings, || {
            let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
            fields(&[
                ("name", settings.name.to_string()),
                ("token seconds", settings.token_seconds.to_string()),
                ("admit by hand", yes(settings.admit_by_hand)),
                ("bare EKs", yes(settings.bare_eks)),
            ])
        })
    }
}
