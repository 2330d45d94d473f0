//! What a user may on an object, as in vSphere: of the objects on the way from it up to the root the nearest counts on
//! which anything applies to the user; there a permission of the user's own counts before those of groups, and several
//! groups' are put together.

use ward_types::{Object, PrivilegeSet};

/// A permission that applies to a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) object: Object,
    /// Whether it is the user's own, and not a group's.
    pub(crate) own: bool,
    /// Whether it holds for what is below the object too.
    pub(crate) propagates: bool,
    pub(crate) privileges: PrivilegeSet,
}

/// What `grants` allow on the object at the start of `path`, which goes on up to the root.
pub(crate) fn privileges_on(grants: &[Grant], path: &[Object]) -> PrivilegeSet {
    from(grants, path, true)
}

/// What `grants` allow on anything below the object at the start of `path` that has no permissions of its own.
pub(crate) fn privileges_below(grants: &[Grant], path: &[Object]) -> PrivilegeSet {
    from(grants, path, false)
}

fn from(grants: &[Grant], path: &[Object], itself: bool) -> PrivilegeSet {
    for (distance, object) in path.iter().enumerate() {
        let applies = |grant: &&Grant| &grant.object == object && (grant.propagates || itself && distance == 0);
        let here: Vec<_> = grants.iter().filter(applies).collect();
        if here.is_empty() {
            continue;
        }
        let union = |own| {
            let counted = here.iter().filter(|grant| grant.own == own);
            counted.fold(PrivilegeSet::NONE, |set, grant| set.union(grant.privileges))
        };
        return union(here.iter().any(|grant| grant.own));
    }
    PrivilegeSet::NONE
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use ward_types::Privilege::{self, CryptoDecrypt, CryptoEncrypt, Read, VmPower};
    use ward_types::{ClusterId, VmId};

    use super::*;

    fn grant(object: &Object, own: bool, propagates: bool, privileges: &[Privilege]) -> Grant {
        Grant { object: object.clone(), own, propagates, privileges: PrivilegeSet::of(privileges) }
    }

    #[test]
    fn the_rules_by_table() {
        let vm = Object::Vm(VmId::new());
        let cluster = Object::Cluster(ClusterId::new());
        let path = [vm.clone(), cluster.clone(), Object::Root];
        let root = |own, propagates, privileges: &[_]| grant(&Object::Root, own, propagates, privileges);
        let on_cluster = |own, propagates, privileges: &[_]| grant(&cluster, own, propagates, privileges);
        let on_vm = |own, privileges: &[_]| grant(&vm, own, true, privileges);
        let other = grant(&Object::Vm(VmId::new()), true, true, &[CryptoDecrypt]);
        let table: &[(&str, Vec<Grant>, &[Privilege])] = &[
            ("nothing gives nothing", vec![], &[]),
            ("what is given on another object does not count", vec![other], &[]),
            ("it comes down from the root", vec![root(true, true, &[Read])], &[Read]),
            ("where it propagates", vec![root(true, false, &[Read])], &[]),
            ("one without propagation counts on the object itself", vec![grant(&vm, true, false, &[Read])], &[Read]),
            (
                "one that does not come down hides nothing",
                vec![root(true, true, &[Read]), on_cluster(true, false, &[VmPower])],
                &[Read],
            ),
            (
                "the nearer object wins, also with less",
                vec![root(true, true, &[Read, CryptoDecrypt]), on_cluster(true, true, &[Read])],
                &[Read],
            ),
            (
                "the nearer object wins, whoever is given it",
                vec![root(true, true, &[CryptoDecrypt]), on_vm(false, &[Read])],
                &[Read],
            ),
            ("a role without privileges shuts out", vec![root(true, true, &[Read]), on_cluster(true, true, &[])], &[]),
            (
                "groups are put together",
                vec![on_cluster(false, true, &[Read]), on_cluster(false, true, &[CryptoEncrypt])],
                &[Read, CryptoEncrypt],
            ),
            (
                "on one object the user's own wins over groups",
                vec![on_cluster(false, true, &[CryptoDecrypt]), on_cluster(true, true, &[Read])],
                &[Read],
            ),
        ];
        for (rule, grants, wanted) in table {
            assert_eq!(privileges_on(grants, &path), PrivilegeSet::of(wanted), "{rule}");
        }
    }

    #[test]
    fn below_an_object_only_what_propagates_counts() {
        let vm = Object::Vm(VmId::new());
        let grants = [grant(&vm, true, false, &[Read]), grant(&Object::Root, true, true, &[VmPower])];
        let path = [vm, Object::Root];
        assert_eq!(privileges_on(&grants, &path), PrivilegeSet::of(&[Read]));
        assert_eq!(privileges_below(&grants, &path), PrivilegeSet::of(&[VmPower]));
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_nothing_comes_from_nowhere(
            chosen in proptest::collection::vec((0usize..3, any::<bool>(), any::<bool>(), any::<[bool; 4]>()), 0..8),
        ) {
            let path = [Object::Vm(VmId::new()), Object::Cluster(ClusterId::new()), Object::Root];
            let all = [Read, VmPower, CryptoEncrypt, CryptoDecrypt];
            let mut grants: Vec<_> = chosen
                .into_iter()
                .map(|(at, own, propagates, bits)| {
                    let privileges: Vec<_> = all.into_iter().zip(bits).filter(|(_, on)| *on).map(|(it, _)| it).collect();
                    grant(&path[at], own, propagates, &privileges)
                })
                .collect();
            let have = privileges_on(&grants, &path);
            let given = grants.iter().fold(PrivilegeSet::NONE, |set, grant| set.union(grant.privileges));
            prop_assert!(have.without(given).is_empty());
            grants.reverse();
            prop_assert_eq!(privileges_on(&grants, &path), have);
        }
    }
}
