//! The attestation services whose tokens the key provider service accepts.

use std::path::{Path, PathBuf};

use attest::label::Label;
use attest::token::TokenPublicKey;
use clap::Subcommand;
use ward_types::{Code, Problem};

use super::{At, problem};
use crate::commands::read_file;
use crate::output::{Output, table};

/// What to do with the attestation services whose tokens are accepted.
#[derive(Subcommand)]
pub(crate) enum Issuer {
    /// Accept the tokens of a further instance of the attestation service.
    Add {
        /// The file with its token key, as `ward trust token-key` tells it there.
        key: PathBuf,
    },
    /// List the token keys that are accepted.
    Ls,
    /// Accept the tokens of an instance no longer.
    Rm {
        /// The ID of its token key, as `ls` tells it.
        key: String,
    },
}

impl Issuer {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        match self {
            Self::Add { key } => {
                let what = format!("cannot accept the tokens that are signed with the key in {}", key.display());
                let key = public_key(&what, &key, "token-key")?;
                let admin = at.open_key_provider(&what).await?;
                let settings = admin.settings().await.map_err(|error| problem(&what, &error))?;
                // The instances of an authority have one name, and their tokens are for those of the same name.
                let name: Label = settings.audience;
                admin.trust_issuer(&name, &key).await.map_err(|error| problem(&what, &error))?;
                output.show(&key, || format!("tokens of {name} by key {}: accepted", key.id()))
            }
            Self::Ls => {
                let what = "cannot list token keys";
                let issuers =
                    at.open_key_provider(what).await?.issuers().await.map_err(|error| problem(what, &error))?;
                output.show(&issuers, || {
                    table(&["name", "key"], issuers.iter().map(|(name, key)| vec![name.to_string(), key.id()]))
                })
            }
            Self::Rm { key } => {
                let what = format!("cannot refuse the tokens of key {key}");
                let admin = at.open_key_provider(&what).await?;
                admin.distrust_issuer(&key).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("token key {key}: no longer accepted"))
            }
        }
    }
}

/// `ward trust token-key`.
pub(super) async fn token_key(at: &At, output: Output) -> Result<(), Problem> {
    let what = "cannot tell the token key";
    let description = at.open_attestation(what).await?.description().await.map_err(|error| problem(what, &error))?;
    show_key(what, &description.token_key, output)
}

/// Prints a public key so that [`public_key`] reads it.
pub(super) fn show_key(what: &str, key: &TokenPublicKey, output: Output) -> Result<(), Problem> {
    let text = serde_json::to_value(key).map_err(|error| Problem::internal(what, error))?;
    output.show(&text, || text.as_str().unwrap_or_default().to_owned())
}

/// The public key in a file that `ward trust COMMAND` has printed.
pub(super) fn public_key(what: &str, path: &Path, command: &str) -> Result<TokenPublicKey, Problem> {
    let text = read_file(what, path)?;
    serde_json::from_value(text.trim().into()).map_err(|error| {
        let why = format!("{}: {error}", path.display());
        Problem::new(Code::RequestInvalid, what, why, format!("take it from `ward trust {command}`"))
    })
}
