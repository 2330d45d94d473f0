//! What storage policies come to.

use std::collections::BTreeMap;

use ward_types::{Code, Component, CryptoRequest, CryptoSpec, KeyWish, PolicyName, Problem, TaskKind, VmConfig};

use super::{VmFacts, cannot, idle, keys};
use crate::api::types::SetPolicy;
use crate::store::policy::PolicyRow;

/// What putting components under policies asks of them: what is plain under a policy that encrypts is encrypted, what is
/// encrypted under one that doesn't is decrypted, and all else stays (vSphere: the default matrix of crypto specs).
pub(crate) fn set_policy(
    vm: VmFacts<'_>,
    wanted: &SetPolicy,
    policies: &[PolicyRow],
) -> Result<(CryptoRequest, Vec<(Component, PolicyName)>), Problem> {
    set_policy_as(TaskKind::VmReconfigure, vm, wanted, policies)
}

/// The same as part of another task.
pub(super) fn set_policy_as(
    kind: TaskKind,
    vm: VmFacts<'_>,
    wanted: &SetPolicy,
    policies: &[PolicyRow],
) -> Result<(CryptoRequest, Vec<(Component, PolicyName)>), Problem> {
    let keys = keys(idle(kind, vm)?);
    let refuse = |code, why: String, remedy: &str| Problem::new(code, cannot(kind, vm.name), why, remedy);
    if let Some(disk) = wanted.disks.keys().find(|disk| !keys.contains_key(&Component::Disk(**disk))) {
        return Err(refuse(Code::NotFound, format!("it has no {disk}"), "`ward vm show` lists its disks"));
    }
    let (mut request, mut assigned) = (CryptoRequest::default(), Vec::new());
    for (component, key) in &keys {
        let name = match component {
            Component::Home => wanted.home.as_ref(),
            Component::Disk(disk) => wanted.disks.get(disk).or(wanted.all_disks.as_ref()),
        };
        let Some(name) = name else { continue };
        let Some(policy) = policies.iter().find(|policy| &policy.name == name) else {
            let why = format!("there is no storage policy `{name}`");
            return Err(refuse(Code::NotFound, why, "`ward policy ls` lists them"));
        };
        assigned.push((*component, name.clone()));
        let spec = match (policy.encrypts, key) {
            (true, None) => CryptoSpec::Encrypt(KeyWish { provider: policy.provider.clone(), key_id: None }),
            (false, Some(_)) => CryptoSpec::Decrypt,
            (true, Some(_)) | (false, None) => continue,
        };
        match component {
            Component::Home => request.home = spec,
            Component::Disk(disk) => {
                request.disks.insert(*disk, spec);
            }
        }
    }
    if assigned.is_empty() {
        let why = "no policy is given for anything of it".to_owned();
        return Err(refuse(Code::RequestInvalid, why, "give `--home`, `--disk` or `--all-disks`"));
    }
    Ok((request, assigned))
}

/// The components that are encrypted and stay so, and whose keys are replaced at another age once they are under `wanted`:
/// that replaces them, or keeps them from being replaced.
pub(crate) fn rotated_otherwise(
    config: &VmConfig,
    (was, wanted): (&BTreeMap<Component, PolicyName>, &[(Component, PolicyName)]),
    policies: &[PolicyRow],
) -> Vec<Component> {
    let keys = keys(config);
    let days = |name: &PolicyName| policies.iter().find(|policy| policy.name == *name)?.rotate_days;
    let encrypts = |name: &PolicyName| policies.iter().any(|policy| policy.name == *name && policy.encrypts);
    let differs = |(component, name): &&(Component, PolicyName)| {
        let is_encrypted = keys.get(component).is_some_and(Option::is_some);
        is_encrypted && encrypts(name) && days(name) != was.get(component).and_then(days)
    };
    wanted.iter().filter(differs).map(|(component, _)| *component).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_types::{DiskId, Name, Power};

    use super::super::crypt::tests::{key, vm};
    use super::*;

    fn policies() -> Vec<PolicyRow> {
        let policy = |name: &str, encrypts, provider: Option<&str>| PolicyRow {
            name: name.parse().unwrap(),
            encrypts,
            provider: provider.map(|name| name.parse().unwrap()),
            rotate_days: None,
            built_in: false,
        };
        vec![policy("open", false, None), policy("shut", true, None), policy("other", true, Some("b"))]
    }

    fn ask(home: Option<u8>, disks: &[Option<u8>], wanted: &SetPolicy) -> Result<CryptoRequest, Problem> {
        let (config, name): (_, Name) = (vm(home, disks), "vm".parse().unwrap());
        let facts = VmFacts {
            name: &name,
            config: Some(&config),
            power: Power::Off,
            host: None,
            busy: None,
            locked: None,
            template: false,
        };
        set_policy(facts, wanted, &policies()).map(|(request, _)| request)
    }

    #[test]
    fn a_policy_encrypts_what_is_plain_decrypts_what_is_not_and_leaves_the_rest() {
        let name = |name: &str| Some(name.parse::<PolicyName>().unwrap());
        let encrypt = |provider: Option<&str>| {
            CryptoSpec::Encrypt(KeyWish { provider: provider.map(|name| name.parse().unwrap()), key_id: None })
        };
        let all = |policy: &str| SetPolicy { home: name(policy), all_disks: name(policy), ..SetPolicy::default() };
        let request = ask(None, &[None, None], &all("other")).unwrap();
        assert_eq!(request.specs().filter(|(_, spec)| **spec == encrypt(Some("b"))).count(), 3);
        let request = ask(Some(1), &[None, Some(1)], &all("shut")).unwrap();
        assert_eq!(request.home, CryptoSpec::NoOp, "encrypted already, whatever the provider: {}", key(1));
        assert_eq!(request.disks, [(DiskId(0), encrypt(None))].into());
        let request = ask(Some(1), &[None, Some(1)], &all("open")).unwrap();
        assert_eq!(request.home, CryptoSpec::Decrypt);
        assert_eq!(request.disks, [(DiskId(1), CryptoSpec::Decrypt)].into());
        // One disk by itself goes before all disks.
        let one = SetPolicy {
            home: name("shut"),
            all_disks: name("shut"),
            disks: [(DiskId(1), name("open").unwrap())].into(),
        };
        let request = ask(None, &[None, None], &one).unwrap();
        assert_eq!(request.disks, [(DiskId(0), encrypt(None))].into());
    }

    #[test]
    fn another_age_of_keys_is_noticed_where_something_stays_encrypted() {
        let name = |name: &str| name.parse::<PolicyName>().unwrap();
        let mut policies = policies();
        policies[1].rotate_days = Some(1);
        let (home, disk) = (Component::Home, Component::Disk(DiskId(0)));
        for (was, wanted, expected) in [
            (None, "shut", vec![home]),
            (Some("other"), "shut", vec![home]),
            (Some("shut"), "other", vec![home]),
            (Some("shut"), "shut", vec![]),
            (None, "other", vec![]),
            (Some("shut"), "open", vec![]),
        ] {
            let was: BTreeMap<_, _> = was.map(|was| (home, name(was))).into_iter().collect();
            let wanted = [(home, name(wanted)), (disk, name(wanted))];
            let got = rotated_otherwise(&vm(Some(1), &[None]), (&was, &wanted), &policies);
            assert_eq!(got, expected, "{was:?} {wanted:?}");
        }
    }

    #[test]
    fn refusals() {
        let named = |name: &str| SetPolicy { home: Some(name.parse().unwrap()), ..SetPolicy::default() };
        assert_eq!(ask(None, &[], &named("none")).unwrap_err().code, Code::NotFound);
        assert_eq!(ask(None, &[], &SetPolicy::default()).unwrap_err().code, Code::RequestInvalid);
        let disk = SetPolicy { disks: [(DiskId(3), "shut".parse().unwrap())].into(), ..SetPolicy::default() };
        assert_eq!(ask(None, &[None], &disk).unwrap_err().code, Code::NotFound);
    }
}
