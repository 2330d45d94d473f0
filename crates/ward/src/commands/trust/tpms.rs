//! TPMs that are trusted: by their makers' CAs, or one by one.

use std::path::{Path, PathBuf};

use attest::label::Label;
use attest::tpm::Name;
use clap::Subcommand;
use ward_types::{Code, Problem};

use super::{At, problem};
use crate::commands::{read_bytes, write_file};
use crate::output::{Output, table};

/// What to do with TPM makers' CAs.
#[derive(Subcommand)]
pub(crate) enum TpmCa {
    /// Trust a CA: a root, or one that a trusted CA issued. PEM or DER.
    Import {
        /// The certificate.
        file: PathBuf,
    },
    /// List the trusted CAs.
    Ls,
    /// Stop trusting a CA: hosts whose TPM it certified are attested no longer.
    Rm {
        /// SHA-256 of its certificate, as `ls` tells it.
        sha256: String,
    },
}

impl TpmCa {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        match self {
            Self::Import { file } => {
                let what = format!("cannot trust the CA in {}", file.display());
                let der = certificate(&what, &file)?;
                let info =
                    at.open_attestation(&what).await?.add_tpm_ca(&der).await.map_err(|error| problem(&what, &error))?;
                output.show(&info, || format!("trusted: {} ({})", info.subject, info.sha256))
            }
            Self::Ls => {
                let what = "cannot list TPM CAs";
                let cas = at.open_attestation(what).await?.tpm_cas().await.map_err(|error| problem(what, &error))?;
                output.show(&cas, || {
                    let rows = cas.iter().map(|ca| {
                        let kind = if ca.root { "root" } else { "intermediate" };
                        vec![ca.subject.clone(), kind.to_owned(), ca.not_after.to_string(), ca.sha256.clone()]
                    });
                    table(&["subject", "kind", "valid until", "sha256"], rows)
                })
            }
            Self::Rm { sha256 } => {
                let what = format!("cannot stop trusting CA {sha256}");
                at.open_attestation(&what)
                    .await?
                    .remove_tpm_ca(&sha256)
                    .await
                    .map_err(|error| problem(&what, &error))?;
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
    Ls,
    /// Stop trusting an endorsement key by itself.
    Rm {
        /// Its Name, as `ls` tells it.
        ek: Name,
    },
}

impl Ek {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        match self {
            Self::Import { file, name } => {
                let what = format!("cannot trust the endorsement key in {}", file.display());
                let public = read_bytes(&what, &file)?;
                let ek = at.open_attestation(&what).await?.import_ek(&public, &name).await;
                let ek = ek.map_err(|error| problem(&what, &error))?;
                output.show(&ek, || format!("trusted: {ek}, as host {name}"))
            }
            Self::Export { tpm, out } => {
                let what = "cannot export the endorsement key";
                let ek = ward_host::endorsement_key(&tpm)?;
                write_file(what, &out, &ek)?;
                output.note(&format!("endorsement key: written to {}", out.display()))
            }
            Self::Ls => {
                let what = "cannot list endorsement keys";
                let eks = at.open_attestation(what).await?.eks().await.map_err(|error| problem(what, &error))?;
                output
                    .show(&eks, || table(&["ek", "host"], eks.iter().map(|(ek, host)| vec![ek.clone(), host.clone()])))
            }
            Self::Rm { ek } => {
                let what = format!("cannot stop trusting endorsement key {ek}");
                at.open_attestation(&what).await?.remove_ek(&ek).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("endorsement key {ek}: no longer trusted"))
            }
        }
    }
}
