//! Base images: what hosts may have booted.

use std::path::PathBuf;

use attest::image::{BaseImage as Image, ImageId, Mode, Validity};
use attest::label::Label;
use attest::tpm::PcrMask;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use ward_types::{Code, Problem};

use super::{At, problem};
use crate::commands::{read_bytes, write_file};
use crate::output::{Output, table};

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
    },
    /// Take a base image in from a file; one of its name and version is replaced. It is in force, whether it was captured as
    /// a dry run or not, unless this is one.
    Import {
        /// The file.
        file: PathBuf,
        /// Only compare hosts with it and tell what would be different.
        #[arg(long)]
        dry_run: bool,
    },
    /// List the base images.
    Ls,
    /// Remove a base image. Hosts that match no other one are attested no longer.
    Rm {
        /// Its name.
        image: Label,
        /// Its version.
        version: Label,
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
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        match self {
            Self::Capture { host, image, pcrs, out } => {
                let what = format!("cannot make a base image of host `{host}`");
                let NewImage { image, version, from, until, dry_run } = image;
                let validity = Validity { from: from.unwrap_or_else(Timestamp::now), until };
                let (id, mode) = (ImageId { name: image, version }, mode(dry_run));
                let captured =
                    at.open_attestation(&what).await?.capture_image(&host, id, PcrMask::of(pcrs), validity, mode).await;
                let image = captured.map_err(|error| problem(&what, &error))?;
                if let Some(out) = out {
                    let json = serde_json::to_vec_pretty(&image).map_err(|error| Problem::internal(&what, error))?;
                    write_file(&what, &out, &json)?;
                }
                output.show(&image, || format!("base image {}: made, of PCRs {}", image.id(), image.covers()))
            }
            Self::Import { file, dry_run } => {
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
                let image = image.with_mode(mode(dry_run));
                at.open_attestation(&what).await?.import_image(&image).await.map_err(|error| problem(&what, &error))?;
                output.show(&image, || format!("base image {}: imported", image.id()))
            }
            Self::Ls => {
                let what = "cannot list base images";
                let images = at.open_attestation(what).await?.images().await.map_err(|error| problem(what, &error))?;
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
            Self::Rm { image, version } => {
                let id = ImageId { name: image, version };
                let what = format!("cannot remove base image {id}");
                at.open_attestation(&what).await?.remove_image(&id).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("base image {id}: removed"))
            }
        }
    }
}

const fn mode(dry_run: bool) -> Mode {
    if dry_run { Mode::DryRun } else { Mode::Enforce }
}
