//! Whether a change of users, groups, roles or permissions gives anybody more than its author has. One rule covers them
//! all: nobody may, anywhere, get a privilege through a change that its author does not have there.

use std::collections::{BTreeMap, BTreeSet};

use ward_types::{Name, Object, Privilege, PrivilegeSet, RoleName, Subject};

use super::decide::{Grant, privileges_below, privileges_on};

/// A permission, whosoever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) subject: Subject,
    pub(crate) object: Object,
    pub(crate) role: RoleName,
    pub(crate) propagates: bool,
}

/// Everything that decides who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) roles: BTreeMap<RoleName, PrivilegeSet>,
    /// All users, with whether they may log in.
    pub(crate) users: BTreeMap<Name, bool>,
    /// All groups, with their members.
    pub(crate) groups: BTreeMap<Name, BTreeSet<Name>>,
    pub(crate) given: Vec<Given>,
    /// The way up to the root of every object that has permissions.
    pub(crate) paths: BTreeMap<Object, Vec<Object>>,
}

/// What somebody would get that is not its author's to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) subject: Subject,
    pub(crate) object: Object,
    pub(crate) privileges: PrivilegeSet,
}

impl Policy {
    fn grants_of(&self, subject: &Subject) -> Vec<Grant> {
        let applies = |given: &&Given| match (&given.subject, subject) {
            (Subject::Group(group), Subject::User(user)) => {
                self.groups.get(group).is_some_and(|members| members.contains(user))
            }
            (given, subject) => given == subject,
        };
        let grant = |given: &Given| Grant {
            object: given.object.clone(),
            own: matches!(given.subject, Subject::User(_)),
            propagates: given.propagates,
            privileges: self.roles.get(&given.role).copied().unwrap_or_default(),
        };
        self.given.iter().filter(applies).map(grant).collect()
    }

    fn path<'a>(&'a self, object: &'a Object) -> Vec<Object> {
        // What is on the way to an object that is gone was the root, whatever else it was.
        self.paths.get(object).cloned().unwrap_or_else(|| vec![object.clone(), Object::Root])
    }

    fn subjects(&self) -> impl Iterator<Item = Subject> {
        // A group is judged by itself too: its next member must not get by membership what its role's author lacked.
        let groups = self.groups.keys().cloned().map(Subject::Group);
        self.users.keys().cloned().map(Subject::User).chain(groups)
    }

    /// Whether somebody who can log in may manage users and permissions at the root.
    pub(crate) fn has_administrator(&self) -> bool {
        let needed = PrivilegeSet::of(&[Privilege::UserManage, Privilege::PermissionManage]);
        self.users.iter().filter(|&(_, &enabled)| enabled).any(|(user, _)| {
            let grants = self.grants_of(&Subject::User(user.clone()));
            needed.without(privileges_on(&grants, &[Object::Root])).is_empty()
        })
    }

    /// What the change from this policy to `after` would give somebody that `author` does not have.
    pub(crate) fn excess(&self, after: &Self, author: &Name) -> Option<Excess> {
        let nobody = Vec::new();
        after.subjects().find_map(|subject| {
            let before =
                if self.subjects().any(|known| known == subject) { self.grants_of(&subject) } else { nobody.clone() };
            self.compare(after, author, &subject, &before, &after.grants_of(&subject))
        })
    }

    /// What `author` would get that it does not have by becoming `user`: knowing its password, say.
    pub(crate) fn excess_of(&self, user: &Name, author: &Name) -> Option<Excess> {
        let subject = Subject::User(user.clone());
        self.compare(self, author, &subject, &[], &self.grants_of(&subject))
    }

    fn compare(&self, after: &Self, author: &Name, subject: &Subject, had: &[Grant], gets: &[Grant]) -> Option<Excess> {
        let authors = self.grants_of(&Subject::User(author.clone()));
        // Privileges change along the tree only at objects with permissions: these, and something below each.
        let mut points: BTreeMap<&Object, Vec<Object>> = BTreeMap::new();
        for given in &after.given {
            points.insert(&given.object, after.path(&given.object));
        }
        for given in &self.given {
            points.entry(&given.object).or_insert_with(|| self.path(&given.object));
        }
        points.into_iter().find_map(|(object, path)| {
            [privileges_on, privileges_below].into_iter().find_map(|of| {
                let privileges = of(gets, &path).without(of(had, &path)).without(of(&authors, &path));
                let excess = || Excess { subject: subject.clone(), object: object.clone(), privileges };
                (!privileges.is_empty()).then(excess)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_types::{ClusterId, builtin_roles};

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn given(subject: &str, object: &Object, role: &str) -> Given {
        let (subject, role) = (subject.parse().unwrap(), role.parse().unwrap());
        Given { subject, object: object.clone(), role, propagates: true }
    }

    /// A root administrator, one of a cluster, one without cryptography who manages users all the same, and `user`.
    fn policy(cluster: &Object) -> Policy {
        let mut roles: BTreeMap<_, _> = builtin_roles().into_iter().map(|role| (role.name, role.privileges)).collect();
        let no_crypto = roles[&"no-crypto-administrator".parse().unwrap()];
        let manager = PrivilegeSet::of(&[Privilege::UserManage, Privilege::PermissionManage]);
        roles.insert("manager".parse().unwrap(), no_crypto.union(manager));
        Policy {
            roles,
            users: ["root", "local", "manager", "user"].map(|user| (name(user), true)).into(),
            groups: [(name("ops"), BTreeSet::new()), (name("crypto"), BTreeSet::new())].into(),
            given: vec![
                given("user/root", &Object::Root, "administrator"),
                given("user/local", cluster, "administrator"),
                given("user/manager", &Object::Root, "manager"),
                given("group/crypto", &Object::Root, "administrator"),
            ],
            paths: [(cluster.clone(), vec![cluster.clone(), Object::Root])].into(),
        }
    }

    fn change(policy: &Policy, change: impl FnOnce(&mut Policy)) -> Policy {
        let mut after = policy.clone();
        change(&mut after);
        after
    }

    #[test]
    fn nobody_gives_what_it_has_not() {
        let cluster = Object::Cluster(ClusterId::new());
        let before = policy(&cluster);
        type Change = Box<dyn Fn(&mut Policy)>;
        let give = |subject: &'static str, object: &Object, role: &'static str| {
            let object = object.clone();
            Box::new(move |policy: &mut Policy| policy.given.push(given(subject, &object, role))) as Change
        };
        let join = |user: &'static str, group: &'static str| {
            Box::new(move |policy: &mut Policy| {
                policy.groups.entry(name(group)).or_default().insert(name(user));
            }) as Change
        };
        let table: Vec<(&str, &str, Change, bool)> = vec![
            ("an administrator gives all", "root", give("user/user", &Object::Root, "administrator"), true),
            ("but not the trust authority", "root", give("user/user", &Object::Root, "trust-administrator"), false),
            ("a local one gives its own", "local", give("user/user", &cluster, "administrator"), true),
            ("and no more", "local", give("user/user", &Object::Root, "read-only"), false),
            ("without cryptography none is given", "manager", give("user/user", &cluster, "administrator"), false),
            ("nor to oneself", "manager", give("user/manager", &cluster, "administrator"), false),
            ("nor to an empty group", "manager", give("group/ops", &cluster, "administrator"), false),
            ("what one has is given", "manager", give("user/user", &cluster, "no-crypto-administrator"), true),
            ("nor by membership", "manager", join("user", "crypto"), false),
            ("which an administrator gives", "root", join("user", "crypto"), true),
            ("an empty group gives nothing", "manager", join("user", "ops"), true),
            (
                "nor by a role",
                "manager",
                Box::new(|policy| {
                    let all = policy.roles[&"administrator".parse().unwrap()];
                    policy.roles.insert("manager".parse().unwrap(), all);
                }),
                false,
            ),
        ];
        for (rule, author, make, allowed) in table {
            let after = change(&before, make);
            assert_eq!(before.excess(&after, &name(author)).is_none(), allowed, "{rule}");
        }
    }

    #[test]
    fn taking_away_what_shut_somebody_out_is_giving() {
        let cluster = Object::Cluster(ClusterId::new());
        let shut_out = change(&policy(&cluster), |policy| {
            policy.given.push(given("user/user", &Object::Root, "administrator"));
            policy.given.push(given("user/user", &cluster, "read-only"));
        });
        let after =
            change(&shut_out, |policy| policy.given.retain(|it| it != &given("user/user", &cluster, "read-only")));
        let excess = shut_out.excess(&after, &name("manager")).unwrap();
        assert_eq!((excess.subject, excess.object), (Subject::User(name("user")), cluster));
        assert!(excess.privileges.contains(Privilege::CryptoDecrypt));
        assert_eq!(shut_out.excess(&after, &name("root")), None);
    }

    #[test]
    fn nobody_becomes_somebody_with_more() {
        let policy = policy(&Object::Cluster(ClusterId::new()));
        assert!(policy.excess_of(&name("root"), &name("manager")).is_some());
        assert!(policy.excess_of(&name("local"), &name("manager")).is_some());
        assert!(policy.excess_of(&name("user"), &name("manager")).is_none());
        assert!(policy.excess_of(&name("manager"), &name("root")).is_none());
    }

    #[test]
    fn an_administrator_must_be_left() {
        let policy = policy(&Object::Cluster(ClusterId::new()));
        assert!(policy.has_administrator());
        let disabled = change(&policy, |policy| {
            policy.users.insert(name("root"), false);
            policy.users.insert(name("manager"), false);
        });
        assert!(!disabled.has_administrator());
    }
}
