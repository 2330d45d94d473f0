//! A native provider's key: made, sealed under the root key, unsealed for as long as it is wanted.

use ward_secret::{Kdk, SealKey, SecretError};
use ward_types::{Code, KdkId, Problem, ProviderName};

use super::backup::Backup;
use crate::root;
use crate::store::cells::now;
use crate::store::native::{NativeRow, VersionRow};

/// For what a version of a key is sealed.
fn purpose(name: &ProviderName, key_id: KdkId, version: u32) -> String {
    format!("native-kdk/{name}/{key_id}/{version}")
}

/// A new version of a provider's key.
pub(crate) fn make_version(
    seal: &SealKey,
    name: &ProviderName,
    key_id: KdkId,
    version: u32,
) -> Result<VersionRow, SecretError> {
    seal_version(seal, name, key_id, version, &Kdk::generate()?)
}

/// A version that exists, sealed.
pub(crate) fn seal_version(
    seal: &SealKey,
    name: &ProviderName,
    key_id: KdkId,
    version: u32,
    kdk: &Kdk,
) -> Result<VersionRow, SecretError> {
    let sealed_kdk = root::seal(seal, &purpose(name, key_id, version), kdk.expose())?;
    Ok(VersionRow { version, sealed_kdk, created: now() })
}

/// A version's key.
pub(super) fn unseal(seal: &SealKey, row: &NativeRow, version: &VersionRow) -> Result<Kdk, Problem> {
    let number = version.version;
    let opened = root::open(seal, &purpose(&row.name, row.key_id, number), &version.sealed_kdk)
        .and_then(|mut bytes| Kdk::take(&mut bytes));
    opened.map_err(|error| {
        Problem::new(
            Code::KeyNotUsable,
            format!("cannot use the key of native provider `{}`", row.name),
            format!("version {number} of it can't be unsealed: {error}"),
            format!(
                "remove the provider with `ward provider rm {} --force` and restore its backup with `ward provider import`",
                row.name
            ),
        )
    })
}

/// A provider with all versions of its key, in the open.
pub(crate) fn backup_of(seal: &SealKey, row: &NativeRow) -> Result<Backup, Problem> {
    let versions = row.versions.iter().map(|version| Ok((version.version, unseal(seal, row, version)?)));
    Ok(Backup {
        provider: row.name.clone(),
        key_id: row.key_id,
        tpm_required: row.tpm_required,
        versions: versions.collect::<Result<_, Problem>>()?,
    })
}
