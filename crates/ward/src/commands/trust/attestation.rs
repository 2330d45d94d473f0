//! What the trust administrators say of TPMs, hosts and base images.

use std::path::{Path, PathBuf};

use attest::appraisal::Report;
use attest::hash::HashAlg;
use attest::image::{BaseImage as Image, ImageId, Mode, Validity};
use attest::label::Label;
use attest::tpm::{Name, PcrMask};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use ward_trust::attestation::{Admin, HostInfo, PolicySettings};
use ward_types::{Code, Problem};

use super::{At, problem, read_bytes};
use crate::output::{Output, fields, table};

async fn open(at: &At, what: &str) -> Result<Admin, Problem> {
    Admin::open(&at.attestation()).await.map_err(|error| problem(what, &error))
}

/// What to do with TPM makers' CAs.
#[derive(Subcommand)]
pub(crate) enum TpmCa {
    /// Trust a CA: a root, or one that a trusted CA issued. PEM or DER.
    Import {
        /// The certificate.
        file: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// List the trusted CAs.
    Ls {
        #[command(flatten)]
        at: At,
    },
    /// Stop trusting a CA: hosts whose TPM it certified are attested no longer.
    Rm {
        /// SHA-256 of its certificate, as `ls` tells it.
        sha256: String,
        #[command(flatten)]
        at: At,
    },
}

impl TpmCa {
    pub(super) async fn run(self, output: Output) -> Result<(), Problem> {
        match self {
            Self::Import { file, at } => {
                let what = format!("cannot trust the CA in {}", file.display());
                let der = certificate(&what, &file)?;
                let info = open(&at, &what).await?.add_tpm_ca(&der).await.map_err(|error| problem(&what, &error))?;
                output.show(&info, || format!("trusted: {} ({})", info.subject, info.sha256))
            }
            Self::Ls { at } => {
                let what = "cannot list TPM CAs";
                let cas = open(&at, what).await?.tpm_cas().await.map_err(|error| problem(what, &error))?;
                output.show(&cas, || {
                    let rows = cas.iter().map(|ca| {
                        let kind = if ca.root { "root" } else { "intermediate" };
                        vec![ca.subject.clone(), kind.to_owned(), ca.not_after.to_string(), ca.sha256.clone()]
                    });
                    table(&["subject", "kind", "valid until", "sha256"], rows)
                })
            }
            Self::Rm { sha256, at } => {
                let what = format!("cannot stop trusting CA {sha256}");
                open(&at, &what).await?.remove_tpm_ca(&sha256).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("CA {sha256}: no longer trusted"))
            }
        }
    }
}

/// DER, whether the file is that or PEM.
fn certificate(what: &str, file: &Path) -> Result<Vec<u8>, Problem> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let bytes = read_bytes(what, file)?;
    if !bytes.starts_with(b"-----") {
        return Ok(bytes);
    }
    CertificateDer::from_pem_slice(&bytes).map(|der| der.to_vec()).map_err(|error| {
        let why = format!("{}: {error}", file.display());
        Problem::new(Code::RequestInvalid, what, why, "name a certificate in PEM or DER")
    })
}

/// What to do with bare endorsement keys.
#[derive(Subcommand)]
pub(crate) enum Ek {
    /// Trust an endorsement key by itself, and let its host in. The file holds its TPM2B_PUBLIC, as `tpm2_createek -u` or
    /// `ward trust ek export` writes it.
    Import {
        /// The file.
        file: PathBuf,
        /// What the host is to be called.
        #[arg(long)]
        name: Label,
        #[command(flatten)]
        at: At,
    },
    /// On a host: write the endorsement key of its TPM to a file, for `import`.
    Export {
        /// How to reach the TPM, such as `device:/dev/tpmrm0`.
        #[arg(long, value_name = "TCTI")]
        tpm: String,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// List the endorsement keys that are trusted by themselves.
    Ls {
        #[command(flatten)]
        at: At,
    },
    /// Stop trusting an endorsement key by itself.
    Rm {
        /// Its Name, as `ls` tells it.
        ek: String,
        #[command(flatten)]
        at: At,
    },
}

impl Ek {
    pub(super) async fn run(self, output: Output) -> Result<(), Problem> {
        match self {
            Self::Import { file, name, at } => {
                let what = format!("cannot trust the endorsement key in {}", file.display());
                let public = read_bytes(&what, &file)?;
                let ek = open(&at, &what).await?.import_ek(&public, &name).await;
                let ek = ek.map_err(|error| problem(&what, &error))?;
                output.show(&ek, || format!("trusted: {ek}, as host {name}"))
            }
            Self::Export { tpm, out } => {
                let what = "cannot export the endorsement key";
                let ek = ward_host::endorsement_key(&tpm)?;
                std::fs::write(&out, ek).map_err(|error| {
                    let why = format!("{}: {error}", out.display());
                    Problem::new(Code::StorageIo, what, why, "name a file that can be written")
                })?;
                output.note(&format!("endorsement key: written to {}", out.display()))
            }
            Self::Ls { at } => {
                let what = "cannot list endorsement keys";
                let eks = open(&at, what).await?.eks().await.map_err(|error| problem(what, &error))?;
                output
                    .show(&eks, || table(&["ek", "host"], eks.iter().map(|(ek, host)| vec![ek.clone(), host.clone()])))
            }
            Self::Rm { ek, at } => {
                let what = format!("cannot stop trusting endorsement key {ek}");
                let parsed = ek.parse::<Name>().map_err(|error| {
                    Problem::new(Code::RequestInvalid, &what, error.to_string(), "take it from `ward trust ek ls`")
                });
                let name = parsed?;
                open(&at, &what).await?.remove_ek(&name).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("endorsement key {ek}: no longer trusted"))
            }
        }
    }
}

/// What to do with base images.
#[derive(Subcommand)]
pub(crate) enum BaseImage {
    /// Make a base image of what a host last proved to have booted. That the host is good is for you to know.
    Capture {
        /// The host, as `ward trust host ls` tells it.
        host: Label,
        #[command(flatten)]
        image: NewImage,
        /// The PCRs that it is to cover.
        #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = Image::USUAL_PCRS)]
        pcrs: Vec<u8>,
        /// Also write it to a file, for `import` elsewhere.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        at: At,
    },
    /// Take a base image in from a file.
    Import {
        /// The file.
        file: PathBuf,
        /// Only compare hosts with it and tell what would be different.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        at: At,
    },
    /// List the base images.
    Ls {
        #[command(flatten)]
        at: At,
    },
    /// Remove a base image. Hosts that match no other one are attested no longer.
    Rm {
        /// Its name.
        image: Label,
        /// Its version.
        version: Label,
        #[command(flatten)]
        at: At,
    },
}

/// A base image's name, validity and mode.
#[derive(Args)]
pub(crate) struct NewImage {
    /// Its name.
    #[arg(long)]
    image: Label,
    /// Its version.
    #[arg(long)]
    version: Label,
    /// From when on it is in force; now, unless given.
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Until when it is in force; until it is removed, unless given.
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Only compare hosts with it and tell what would be different: `ward trust host show` says it.
    #[arg(long)]
    dry_run: bool,
}

impl BaseImage {
    pub(super) async fn run(self, output: Output) -> Result<(), Problem> {
        match self {
            Self::Capture { host, image, pcrs, out, at } => {
                let what = format!("cannot make a base image of host `{host}`");
                let NewImage { image, version, from, until, dry_run } = image;
                let validity = Validity { from: from.unwrap_or_else(Timestamp::now), until };
                let (id, mode) = (ImageId { name: image, version }, mode(dry_run));
                let captured =
                    open(&at, &what).await?.capture_image(&host, id, PcrMask::of(pcrs), validity, mode).await;
                let image = captured.map_err(|error| problem(&what, &error))?;
                if let Some(out) = out {
                    let json = serde_json::to_vec_pretty(&image).map_err(|error| Problem::internal(&what, error))?;
                    std::fs::write(&out, json).map_err(|error| {
                        let why = format!("{}: {error}", out.display());
                        Problem::new(Code::StorageIo, &what, why, "name a file that can be written")
                    })?;
                }
                output.show(&image, || format!("base image {}: made, of PCRs {}", image.id(), image.covers()))
            }
            Self::Import { file, dry_run, at } => {
                let what = format!("cannot import the base image in {}", file.display());
                let bytes = read_bytes(&what, &file)?;
                let image: Image = serde_json::from_slice(&bytes).map_err(|error| {
                    Problem::new(
                        Code::RequestInvalid,
                        &what,
                        error.to_string(),
                        "name a file that `capture` has written",
                    )
                })?;
                let image = if dry_run { image.with_mode(Mode::DryRun) } else { image };
                open(&at, &what).await?.import_image(&image).await.map_err(|error| problem(&what, &error))?;
                output.show(&image, || format!("base image {}: imported", image.id()))
            }
            Self::Ls { at } => {
                let what = "cannot list base images";
                let images = open(&at, what).await?.images().await.map_err(|error| problem(what, &error))?;
                output.show(&images, || {
                    let rows = images.iter().map(|image| {
                        let validity = image.validity();
                        vec![
                            image.id().to_string(),
                            match image.mode() {
                                Mode::Enforce => "enforce",
                                Mode::DryRun => "dry run",
                            }
                            .to_owned(),
                            image.covers().to_string(),
                            validity.from.to_string(),
                            validity.until.map_or_else(String::new, |until| until.to_string()),
                        ]
                    });
                    table(&["image", "mode", "pcrs", "from", "until"], rows)
                })
            }
            Self::Rm { image, version, at } => {
                let id = ImageId { name: image, version };
                let what = format!("cannot remove base image {id}");
                open(&at, &what).await?.remove_image(&id).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("base image {id}: removed"))
            }
        }
    }
}

const fn mode(dry_run: bool) -> Mode {
    if dry_run { Mode::DryRun } else { Mode::Enforce }
}

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
        #[command(flatten)]
        at: At,
    },
    /// List the policies.
    Ls {
        #[command(flatten)]
        at: At,
    },
    /// Remove a policy.
    Rm {
        /// Its name.
        policy: Label,
        #[command(flatten)]
        at: At,
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
    pub(super) async fn run(self, output: Output) -> Result<(), Problem> {
        match self {
            Self::Set { policy, pcrs, bank, without_secure_boot, bare_eks, at } => {
                let what = format!("cannot set attestation policy `{policy}`");
                let settings = PolicySettings {
                    bank,
                    required: PcrMask::of(pcrs),
                    secure_boot: !without_secure_boot,
                    ek_certificate: !bare_eks,
                    ..PolicySettings::default()
                };
                let set = open(&at, &what).await?.set_policy(&policy, &settings).await;
                set.map_err(|error| problem(&what, &error))?;
                output.show(&settings, || format!("attestation policy {policy}: set"))
            }
            Self::Ls { at } => {
                let what = "cannot list attestation policies";
                let policies = open(&at, what).await?.policies().await.map_err(|error| problem(what, &error))?;
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
            Self::Rm { policy, at } => {
                let what = format!("cannot remove attestation policy `{policy}`");
                open(&at, &what).await?.remove_policy(&policy).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("attestation policy {policy}: removed"))
            }
        }
    }
}

/// What to do with enrolled hosts.
#[derive(Subcommand)]
pub(crate) enum Host {
    /// List the hosts that have enrolled.
    Ls {
        #[command(flatten)]
        at: At,
    },
    /// Show the last verdict on a host: what was looked at, what was not, and how it compares with each base image.
    Show {
        /// The host.
        host: Label,
        #[command(flatten)]
        at: At,
    },
    /// Let a host in.
    Admit {
        /// The host.
        host: Label,
        #[command(flatten)]
        at: At,
    },
    /// Forget a host. It may enrol again.
    Rm {
        /// The host.
        host: Label,
        #[command(flatten)]
        at: At,
    },
}

impl Host {
    pub(super) async fn run(self, output: Output) -> Result<(), Problem> {
        match self {
            Self::Ls { at } => {
                let what = "cannot list hosts";
                let hosts = open(&at, what).await?.hosts().await.map_err(|error| problem(what, &error))?;
                output.show(&hosts, || {
                    let rows = hosts.iter().map(|host| {
                        let verdict = match &host.report {
                            None => "not asked for",
                            Some(report) if report.failures.is_empty() => "good",
                            Some(_) => "refused",
                        };
                        vec![
                            host.label.to_string(),
                            if host.admitted { "yes" } else { "no" }.to_owned(),
                            verdict.to_owned(),
                            host.attested.map_or_else(String::new, |at| at.to_string()),
                        ]
                    });
                    table(&["host", "let in", "last verdict", "attested"], rows)
                })
            }
            Self::Show { host, at } => {
                let what = format!("cannot show host `{host}`");
                let hosts = open(&at, &what).await?.hosts().await.map_err(|error| problem(&what, &error))?;
                let found = hosts.into_iter().find(|info| info.label == host).ok_or_else(|| {
                    let why = "no host of that name has enrolled";
                    Problem::new(Code::NotFound, &what, why, "`ward trust host ls` lists them")
                })?;
                output.show(&found, || describe(&found))
            }
            Self::Admit { host, at } => {
                let what = format!("cannot let host `{host}` in");
                open(&at, &what).await?.admit_host(&host).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("host {host}: let in"))
            }
            Self::Rm { host, at } => {
                let what = format!("cannot forget host `{host}`");
                open(&at, &what).await?.remove_host(&host).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("host {host}: forgotten"))
            }
        }
    }
}

fn describe(host: &HostInfo) -> String {
    let said = |say: &dyn Fn(&Report) -> Vec<String>| {
        host.report.as_ref().map_or_else(String::new, |report| say(report).join("\n"))
    };
    fields(&[
        ("host", host.label.to_string()),
        ("EK", host.ek.clone()),
        ("let in", if host.admitted { "yes" } else { "no" }.to_owned()),
        ("enrolled", host.enrolled.to_string()),
        ("attested", host.attested.map_or_else(|| "never".to_owned(), |at| at.to_string())),
        ("last asked", said(&|report| vec![report.at.to_string()])),
        ("refused", said(&|report| report.failures.iter().map(|it| format!("[{}] {}", it.code, it.message)).collect())),
        ("verified", said(&|report| report.verified.iter().map(ToString::to_string).collect())),
        ("not verified", said(&|report| report.not_verified.iter().map(ToString::to_string).collect())),
        ("base images", said(&|report| report.images.iter().map(ToString::to_string).collect())),
    ])
}

/// `ward trust settings`.
#[derive(Args)]
pub(crate) struct ChangeSettings {
    #[command(flatten)]
    at: At,
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
    pub(super) async fn run(self, output: Output) -> Result<(), Problem> {
        let what = "cannot change the settings";
        let admin = open(&self.at, what).await?;
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
