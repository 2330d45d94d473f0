//! `ward provider`, where it is about native ones.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use ward_controller::api::types::{
    AddNative, ExportNative, ImportNative, KeepNative, NativeBackup, NativeVersion, NativeView, ProviderView, Restored,
};
use ward_secret::Zeroizing;
use ward_types::{Code, Name, Problem, ProviderName};

use super::read_file;
use crate::client::Api;
use crate::output::{Output, fields};

/// `ward provider add native`.
#[derive(Args)]
pub(crate) struct AddArguments {
    /// The provider's name, which is its identity.
    name: ProviderName,
    /// Give the key to hosts with a TPM 2.0 only.
    #[arg(long)]
    tpm_required: bool,
    /// A cluster that it is to serve; give it once for each. All, unless given.
    #[arg(long = "cluster", value_name = "NAME")]
    clusters: Vec<Name>,
    /// Make it the default provider; the first one is anyway.
    #[arg(long)]
    default: bool,
}

/// What to do with native providers.
#[derive(Subcommand)]
pub(crate) enum Native {
    /// Back a native provider up: its key, in a PKCS#12 file under a password.
    #[command(after_help = "Whoever has the file and its password can open every VM that was encrypted under the \
                            provider. `openssl pkcs12` reads it; docs/native-format.md says the rest.")]
    Export {
        /// The provider's name.
        name: ProviderName,
        /// The file to write; it must not exist.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        password: Password,
    },
    /// Restore a native provider from a backup, under the same name and key ID.
    Import {
        /// The provider's name, which is that of the backup.
        name: ProviderName,
        /// The backup.
        #[arg(long = "in", value_name = "FILE")]
        file: PathBuf,
        /// Only look what is in it, and what restoring it would do.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        password: Password,
    },
    /// Give a native provider a new version of its key. Back it up then; recrypt the VMs; delete the old version.
    UpdateKey {
        /// The provider's name.
        name: ProviderName,
    },
    /// Delete an old version of a native provider's key everywhere. Refused while a VM needs it.
    DeleteKey {
        /// The provider's name.
        name: ProviderName,
        /// The version.
        version: u32,
    },
}

/// Where the password of a backup comes from: asked for, unless said otherwise.
#[derive(Args)]
pub(crate) struct Password {
    /// A file with the password of the backup.
    #[arg(long, value_name = "FILE", conflicts_with = "empty_password")]
    password_file: Option<PathBuf>,
    /// No password: whoever has the file has the key.
    #[arg(long)]
    empty_password: bool,
}

pub(crate) async fn add(api: &Api, arguments: AddArguments) -> Result<ProviderView, Problem> {
    let AddArguments { name, tpm_required, clusters, default } = arguments;
    let provider: ProviderView =
        api.post("/native-providers", &AddNative { name, tpm_required, clusters, default }).await?;
    let name = &provider.name;
    eprintln!("it encrypts nothing before it is backed up: `ward provider export {name} --out {name}.p12`");
    Ok(provider)
}

impl Native {
    pub(crate) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        match self {
            Self::Export { name, out, password } => {
                let what = format!("cannot back up key provider `{name}`");
                let password = password.read(&what, true)?;
                // Before the key leaves the controller.
                let file = create(&what, &out)?;
                let exported = export(api, &what, &name, &password, file, &out).await;
                if exported.is_err() {
                    let _ = std::fs::remove_file(&out);
                }
                let provider = exported?;
                output.show(&provider, || {
                    format!(
                        "key provider {name}: backed up to {}; keep it, and its password, apart from the controller",
                        out.display()
                    )
                })
            }
            Self::Import { name, file, dry_run, password } => {
                let what = format!("cannot restore key provider `{name}`");
                let bytes = std::fs::read(&file).map_err(|error| {
                    let why = format!("{}: {error}", file.display());
                    Problem::new(Code::RequestInvalid, &what, why, "name a file that is there and can be read")
                })?;
                let password = password.read(&what, false)?.to_string();
                let body = ImportNative { name, file: STANDARD.encode(bytes), password, dry_run };
                let restored: Restored = api.post("/native-providers/import", &body).await?;
                output.show(&restored, || describe_restored(&restored))
            }
            Self::UpdateKey { name } => {
                let provider: ProviderView = api.post(&format!("/native-providers/{name}/update-key"), &()).await?;
                output.show(&provider, || {
                    format!(
                        "key provider {name}: its key has a new version; nothing is encrypted before it is backed up \
                         again: `ward provider export {name} --out FILE`"
                    )
                })
            }
            Self::DeleteKey { name, version } => {
                let provider: ProviderView =
                    api.delete(&format!("/native-providers/{name}/versions/{version}")).await?;
                output.show(&provider, || format!("key provider {name}: version {version} of its key deleted"))
            }
        }
    }
}

async fn export(
    api: &Api,
    what: &str,
    name: &ProviderName,
    password: &Zeroizing<String>,
    mut file: std::fs::File,
    out: &Path,
) -> Result<ProviderView, Problem> {
    let body = ExportNative { password: password.to_string(), allow_empty: password.is_empty() };
    let backup: NativeBackup = api.post(&format!("/native-providers/{name}/export"), &body).await?;
    let bytes = STANDARD.decode(&backup.file).map_err(|error| Problem::internal(what, error))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(|error| {
        Problem::new(Code::StorageIo, what, format!("{}: {error}", out.display()), "choose another place for the file")
    })?;
    api.post(&format!("/native-providers/{name}/keep"), &KeepNative { version: backup.version }).await
}

pub(super) fn create(what: &str, path: &Path) -> Result<std::fs::File, Problem> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let why = format!("{}: {error}", path.display());
        Problem::new(Code::RequestInvalid, what, why, "name a file that does not exist, in a directory that does")
    })
}

impl Password {
    /// The password; asked for twice where a backup is to be made with it.
    pub(super) fn read(&self, what: &str, twice: bool) -> Result<Zeroizing<String>, Problem> {
        let refuse = |why: &str, remedy: &str| Problem::new(Code::RequestInvalid, what, why, remedy);
        let give = "give a password with `--password-file`, or say `--empty-password` if the file is to have none";
        if self.empty_password {
            return Ok(Zeroizing::new(String::new()));
        }
        let password = match &self.password_file {
            Some(path) => {
                let text = Zeroizing::new(read_file(what, path)?);
                Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            None if !std::io::stdin().is_terminal() => {
                return Err(refuse("there is nobody to ask for a password", give));
            }
            None => {
                let ask = |prompt: &str| {
                    let asked = rpassword::prompt_password(prompt).map(Zeroizing::new);
                    asked.map_err(|error| Problem::internal(what, error))
                };
                let password = ask("password of the file: ")?;
                if twice && *ask("the same again: ")? != *password {
                    return Err(refuse("the two passwords differ", "try again"));
                }
                password
            }
        };
        if password.is_empty() { Err(refuse("the password is empty", give)) } else { Ok(password) }
    }
}

pub(super) fn describe_state(native: &NativeView) -> String {
    let missing = native.missing.iter().map(|missing| format!("\nhost {} {}", missing.host, missing.why));
    std::iter::once(native.state.to_string()).chain(missing).collect()
}

pub(super) fn describe_versions(native: &NativeView) -> String {
    let line = |version: &NativeVersion| {
        let NativeVersion { version, created, vms, hosts } = version;
        format!("{version} (made {created}, needed by {vms} VMs and {hosts} hosts)")
    };
    native.versions.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) fn describe_clusters(native: &NativeView) -> String {
    if native.clusters.is_empty() {
        return "all".to_owned();
    }
    native.clusters.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn describe_restored(restored: &Restored) -> String {
    let list = |versions: &[u32]| versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    fields(&[
        ("provider", restored.provider.to_string()),
        ("key ID", restored.key_id.to_string()),
        ("backed up", restored.exported.clone()),
        ("versions", list(&restored.versions)),
        (if restored.dry_run { "would restore" } else { "restored" }, list(&restored.added)),
        ("TPM required", if restored.tpm_required { "yes" } else { "no" }.to_owned()),
    ])
}
