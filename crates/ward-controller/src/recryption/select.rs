//! Which components of which VMs get new keys: pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use ward_types::{Component, CryptoRequest, CryptoSpec, KeyRef, KeyWish, Name, PolicyName, ProviderName, VmId};

use crate::api::types::{RecryptionPlanComponent, RecryptionPlanVm, RecryptionRequest};

const HOURS_OF_A_DAY: i64 = 24;

/// What is known of all VMs and their keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) vms: Vec<FleetVm>,
    /// Since when each key has been in use.
    pub(crate) ages: BTreeMap<KeyRef, Timestamp>,
    /// After how many days keys are replaced, by provider.
    pub(crate) rotations: BTreeMap<ProviderName, u32>,
    /// The same by storage policy, which goes before the provider.
    pub(crate) policies: BTreeMap<PolicyName, u32>,
}

/// One VM.
#[derive(Clone, Debug)]
pub(crate) struct FleetVm {
    pub(crate) id: VmId,
    pub(crate) name: Name,
    /// Its components that are encrypted.
    pub(crate) components: Vec<FleetComponent>,
}

/// One of its components.
#[derive(Clone, Debug)]
pub(crate) struct FleetComponent {
    pub(crate) component: Component,
    pub(crate) key: KeyRef,
    /// The storage policy under which somebody put it.
    pub(crate) policy: Option<PolicyName>,
}

impl Fleet {
    /// What a request means. `asked` is when it was asked: keys that are newer than that are never meant, so that asking
    /// again in the course of the work gives what is left of it.
    pub(crate) fn select(&self, request: &RecryptionRequest, asked: Timestamp) -> Vec<RecryptionPlanVm> {
        let of_vm = |vm: &FleetVm| {
            let components = vm.components.iter().filter_map(|component| self.wanted(component, request, asked));
            let components: Vec<_> = components.collect();
            let plan = RecryptionPlanVm { vm: vm.id, name: vm.name.clone(), components };
            (!plan.components.is_empty()).then_some(plan)
        };
        self.vms.iter().filter_map(of_vm).collect()
    }

    fn wanted(
        &self,
        FleetComponent { component, key, policy }: &FleetComponent,
        request: &RecryptionRequest,
        asked: Timestamp,
    ) -> Option<RecryptionPlanComponent> {
        let since = self.ages.get(key).copied().unwrap_or(Timestamp::UNIX_EPOCH);
        let to = request.to.as_ref().unwrap_or(&key.provider);
        let is_old = |days: u32| is_older(since, days, asked);
        let allowed = policy.as_ref().and_then(|policy| self.policies.get(policy));
        let allowed = allowed.or_else(|| self.rotations.get(&key.provider));
        let wanted = since <= asked
            && request.provider.as_ref().is_none_or(|provider| *provider == key.provider)
            // Who moves from one provider to another is done with what is there.
            && request.to.as_ref().is_none_or(|to| request.provider.as_ref() == Some(to) || *to != key.provider)
            && request.older_than_days.is_none_or(is_old)
            && (!request.due || allowed.is_some_and(|days| is_old(*days)));
        wanted.then(|| RecryptionPlanComponent { component: *component, key: key.clone(), since, to: to.clone() })
    }
}

fn is_older(since: Timestamp, days: u32, now: Timestamp) -> bool {
    now.duration_since(since) >= SignedDuration::from_hours(i64::from(days) * HOURS_OF_A_DAY)
}

/// What that asks of the VM.
pub(crate) fn request_of(vm: &RecryptionPlanVm) -> CryptoRequest {
    let mut request = CryptoRequest::default();
    for component in &vm.components {
        let wish = KeyWish { provider: Some(component.to.clone()), key_id: None };
        match component.component {
            Component::Home => request.home = CryptoSpec::ShallowRecrypt(wish),
            Component::Disk(disk) => {
                request.disks.insert(disk, CryptoSpec::ShallowRecrypt(wish));
            }
        }
    }
    request
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_types::{DiskId, KeyId};

    use super::*;

    fn key(provider: &str, id: u8) -> KeyRef {
        KeyRef::standard(provider.parse().unwrap(), KeyId::try_from(id.to_string()).unwrap())
    }

    fn days_ago(days: i64) -> Timestamp {
        now() - SignedDuration::from_hours(days * 24)
    }

    fn now() -> Timestamp {
        "2030-01-01T00:00:00Z".parse().unwrap()
    }

    /// `old` has its home under a/1 (100 days) and a disk under b/2 (10 days); `new` all under a/3 (10 days).
    fn fleet() -> Fleet {
        let component = |component, key, policy: Option<&str>| FleetComponent {
            component,
            key,
            policy: policy.map(|name| name.parse().unwrap()),
        };
        let disk = Component::Disk(DiskId(0));
        let vm = |name: &str, components| FleetVm { id: VmId::new(), name: name.parse().unwrap(), components };
        Fleet {
            vms: vec![
                vm(
                    "old",
                    vec![component(Component::Home, key("a", 1), None), component(disk, key("b", 2), Some("weekly"))],
                ),
                vm("new", vec![component(Component::Home, key("a", 3), None), component(disk, key("a", 3), None)]),
                vm("plain", vec![]),
            ],
            ages: [(key("a", 1), days_ago(100)), (key("b", 2), days_ago(10)), (key("a", 3), days_ago(10))].into(),
            ..Fleet::default()
        }
    }

    fn selected(fleet: &Fleet, request: &RecryptionRequest) -> Vec<String> {
        let vms = fleet.select(request, now());
        let parts = |vm: &RecryptionPlanVm| {
            let parts = vm.components.iter().map(|part| format!("{} {} -> {}", vm.name, part.key, part.to));
            parts.collect::<Vec<_>>()
        };
        vms.iter().flat_map(parts).collect()
    }

    #[test]
    fn what_a_request_means() {
        let provider = |name: &str| Some(name.parse::<ProviderName>().unwrap());
        let all = RecryptionRequest::default();
        for (request, expected) in [
            (all.clone(), vec!["old a/1 -> a", "old b/2 -> b", "new a/3 -> a", "new a/3 -> a"]),
            (RecryptionRequest { provider: provider("b"), ..all.clone() }, vec!["old b/2 -> b"]),
            (
                RecryptionRequest { provider: provider("a"), to: provider("b"), ..all.clone() },
                vec!["old a/1 -> b", "new a/3 -> b", "new a/3 -> b"],
            ),
            (RecryptionRequest { to: provider("a"), ..all.clone() }, vec!["old b/2 -> a"]),
            (RecryptionRequest { provider: provider("b"), to: provider("b"), ..all.clone() }, vec!["old b/2 -> b"]),
            (RecryptionRequest { older_than_days: Some(90), ..all.clone() }, vec!["old a/1 -> a"]),
            (RecryptionRequest { older_than_days: Some(100), ..all.clone() }, vec!["old a/1 -> a"]),
            (RecryptionRequest { older_than_days: Some(101), ..all.clone() }, vec![]),
            (RecryptionRequest { provider: provider("none"), ..all.clone() }, vec![]),
            (RecryptionRequest { due: true, ..all }, vec![]),
        ] {
            assert_eq!(selected(&fleet(), &request), expected, "{request:?}");
        }
    }

    #[test]
    fn what_is_due_says_the_policy_or_else_the_provider() {
        let due = RecryptionRequest { due: true, ..RecryptionRequest::default() };
        let mut fleet = fleet();
        fleet.rotations = [("a".parse().unwrap(), 90), ("b".parse().unwrap(), 5)].into();
        assert_eq!(selected(&fleet, &due), ["old a/1 -> a", "old b/2 -> b"]);
        fleet.policies = [("weekly".parse().unwrap(), 11)].into();
        assert_eq!(selected(&fleet, &due), ["old a/1 -> a"]);
        fleet.policies = [("weekly".parse().unwrap(), 7)].into();
        fleet.rotations.clear();
        assert_eq!(selected(&fleet, &due), ["old b/2 -> b"]);
    }

    #[test]
    fn what_is_done_is_not_meant_any_more() {
        let mut fleet = fleet();
        let all = RecryptionRequest::default();
        for component in &mut fleet.vms[0].components {
            component.key = key("a", 9);
        }
        fleet.ages.insert(key("a", 9), now() + SignedDuration::from_secs(1));
        assert_eq!(selected(&fleet, &all), ["new a/3 -> a", "new a/3 -> a"]);
    }

    #[test]
    fn a_vm_is_asked_for_the_components_that_are_meant_and_no_others() {
        let to = Some("c".parse().unwrap());
        let request = RecryptionRequest { provider: Some("b".parse().unwrap()), to, ..RecryptionRequest::default() };
        let request = request_of(&fleet().select(&request, now())[0]);
        assert_eq!(request.home, CryptoSpec::NoOp);
        let wish = KeyWish { provider: Some("c".parse().unwrap()), key_id: None };
        assert_eq!(request.disks, [(DiskId(0), CryptoSpec::ShallowRecrypt(wish))].into());
    }
}
