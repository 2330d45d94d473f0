//! What hosts are to have of native providers, and how far that is. Pure.

use ward_rpc::api::host::NativeStatus;
use ward_types::{ClusterId, Code, KdkRef, Name, Problem, ProviderName};

use crate::store::native::NativeRow;

/// What is known of a host.
pub(crate) struct HostHolds {
    pub(crate) name: Name,
    pub(crate) cluster: ClusterId,
    /// What it said last; none where it does not answer.
    pub(crate) native: Option<NativeStatus>,
}

/// How a provider stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its key has no backup: nothing may be encrypted.
    NotBackedUp,
    /// Hosts lack the key, each with the reason.
    Warning(Vec<(Name, String)>),
    /// All that are to have it have it.
    Active,
}

/// Why a provider encrypts nothing whose key is not backed up.
pub(crate) fn not_backed_up(what: String, provider: &ProviderName) -> Problem {
    Problem::new(
        Code::ProviderNotBackedUp,
        what,
        format!("the key of native provider `{provider}` is not backed up: were it lost, so would the VM be"),
        format!("back it up with `ward provider export {provider} --out FILE`, then try again"),
    )
}

/// The keys that a host of a cluster is to have, in order.
pub(crate) fn wanted(providers: &[NativeRow], cluster: ClusterId, tpm: bool) -> Vec<KdkRef> {
    let serving = providers.iter().filter(|row| row.serves(cluster) && (tpm || !row.tpm_required));
    let mut keys: Vec<_> = serving.flat_map(versions).collect();
    keys.sort();
    keys
}

fn versions(row: &NativeRow) -> impl Iterator<Item = KdkRef> {
    row.versions.iter().map(|version| KdkRef {
        provider: row.name.clone(),
        key_id: row.key_id,
        version: version.version,
    })
}

/// How a provider stands. A host that is not to have its key (no TPM) is not missing.
pub(crate) fn standing(row: &NativeRow, hosts: &[HostHolds]) -> Standing {
    if row.backed_up.is_none() {
        return Standing::NotBackedUp;
    }
    let missing: Vec<_> = hosts
        .iter()
        .filter(|host| row.serves(host.cluster))
        .filter_map(|host| {
            let why = match &host.native {
                None => "does not answer; it gets the key when it is back",
                Some(native) if row.tpm_required && !native.tpm => return None,
                Some(native) if versions(row).all(|key| native.keys.contains(&key)) => return None,
                Some(_) => "has not got the key yet",
            };
            Some((host.name.clone(), why.to_owned()))
        })
        .collect();
    if missing.is_empty() { Standing::Active } else { Standing::Warning(missing) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_types::KdkId;

    use super::*;
    use crate::store::native::VersionRow;

    fn row(name: &str, versions: &[u32]) -> NativeRow {
        let version = |&version| VersionRow { version, sealed_kdk: String::new(), created: 0 };
        NativeRow {
            name: name.parse().unwrap(),
            key_id: KdkId::from_uuid(uuid::Uuid::from_u128(7)),
            tpm_required: false,
            backed_up: Some(1),
            reminded: None,
            clusters: Vec::new(),
            versions: versions.iter().map(version).collect(),
        }
    }

    fn host(name: &str, cluster: ClusterId, keys: Option<Vec<KdkRef>>, tpm: bool) -> HostHolds {
        let native = keys.map(|keys| NativeStatus { keys, tpm, ..NativeStatus::default() });
        HostHolds { name: name.parse().unwrap(), cluster, native }
    }

    #[test]
    fn a_host_is_to_have_what_serves_its_cluster() {
        let (here, there) = (ClusterId::new(), ClusterId::new());
        let mut only_there = row("b", &[1]);
        only_there.clusters = vec![there];
        let mut tpm = row("c", &[3]);
        tpm.tpm_required = true;
        let rows = [tpm, only_there, row("a", &[1, 2])];
        let names = |cluster, tpm| -> Vec<_> {
            wanted(&rows, cluster, tpm).iter().map(|key| format!("{}{}", key.provider, key.version)).collect()
        };
        assert_eq!(names(here, false), ["a1", "a2"]);
        assert_eq!(names(there, false), ["a1", "a2", "b1"]);
        assert_eq!(names(there, true), ["a1", "a2", "b1", "c3"]);
    }

    #[test]
    fn it_stands_as_its_backup_and_its_hosts_do() {
        let cluster = ClusterId::new();
        let mut row = row("a", &[1, 2]);
        let all = wanted(std::slice::from_ref(&row), cluster, false);
        let has = |name, keys: &[KdkRef]| host(name, cluster, Some(keys.to_vec()), false);
        assert_eq!(standing(&row, &[]), Standing::Active);
        assert_eq!(standing(&row, &[has("h1", &all)]), Standing::Active);
        let Standing::Warning(missing) =
            standing(&row, &[has("h1", &all), has("h2", &all[..1]), host("h3", cluster, None, false)])
        else {
            panic!("not all hosts have it")
        };
        assert_eq!(missing.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["h2", "h3"]);
        row.tpm_required = true;
        assert_eq!(standing(&row, &[has("h1", &[])]), Standing::Active, "it is not to have it");
        row.backed_up = None;
        assert_eq!(standing(&row, &[has("h1", &all)]), Standing::NotBackedUp);
    }
}
