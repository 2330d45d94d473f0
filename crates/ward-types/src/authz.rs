//! Who may do what: privileges, the roles that bundle them, the objects and subjects that a permission joins.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use crate::text;
use crate::{ClusterId, DatastoreId, HostId, Name, ProviderName, RoleName, VmId};

macro_rules! privileges {
    ($(#[doc = $doc:literal] $variant:ident = $text:literal;)*) => {
        /// A right to do one kind of thing. The text form is stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Privilege {
            $(#[doc = $doc] #[serde(rename = $text)] $variant,)*
        }

        impl Privilege {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable text form.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it allows, for people.
            #[must_use]
            pub fn allows(self) -> &'static str {
                match self { $(Self::$variant => $doc.trim(),)* }
            }
        }
    };
}

privileges! {
    /// See the object and its tasks.
    Read = "read";
    /// Read the events of the object.
    EventRead = "event.read";
    /// Read the audit log.
    AuditRead = "audit.read";
    /// Cancel tasks.
    TaskCancel = "task.cancel";
    /// Make clusters.
    ClusterAdd = "cluster.add";
    /// Add datastores to a cluster.
    DatastoreAdd = "datastore.add";
    /// Add hosts to a cluster.
    HostAdd = "host.add";
    /// Make VMs on a datastore.
    VmCreate = "vm.create";
    /// Make VMs from files that hosts can read.
    VmImport = "vm.import";
    /// Make VMs from other VMs.
    VmClone = "vm.clone";
    /// Start and stop VMs.
    VmPower = "vm.power";
    /// Read the consoles of VMs.
    VmConsole = "vm.console";
    /// Change what VMs are: the storage policies that they are under, whether they are templates.
    VmConfigure = "vm.configure";
    /// Delete VMs.
    VmDelete = "vm.delete";
    /// Manage users, groups and sessions.
    UserManage = "user.manage";
    /// Manage permissions, and at the root roles.
    PermissionManage = "permission.manage";
    /// Read the contents of encrypted VMs: their consoles, their disks.
    CryptoAccess = "crypto.access";
    /// Attach encrypted disks.
    CryptoAddDisk = "crypto.add-disk";
    /// Clone encrypted VMs.
    CryptoClone = "crypto.clone";
    /// Decrypt VMs and disks.
    CryptoDecrypt = "crypto.decrypt";
    /// Encrypt VMs and disks.
    CryptoEncrypt = "crypto.encrypt";
    /// Make encrypted VMs and disks.
    CryptoEncryptNew = "crypto.encrypt-new";
    /// Manage storage policies, which say what is encrypted.
    CryptoManageEncryptionPolicy = "crypto.manage-encryption-policy";
    /// Manage key providers.
    CryptoManageKeyServers = "crypto.manage-key-servers";
    /// See key providers.
    CryptoReadKeyServers = "crypto.read-key-servers";
    /// Destroy keys at their key servers that nothing needs, and say for how long they are kept.
    CryptoDestroyKeys = "crypto.destroy-keys";
    /// Make, find and take into use keys of key servers, and change keys of providers.
    CryptoManageKeys = "crypto.manage-keys";
    /// Move encrypted VMs to other hosts.
    CryptoMigrate = "crypto.migrate";
    /// Give encrypted VMs and disks new keys.
    CryptoRecrypt = "crypto.recrypt";
    /// Let a host have keys.
    CryptoRegisterHost = "crypto.register-host";
    /// Register and unlock encrypted VMs.
    CryptoRegisterVm = "crypto.register-vm";
    /// See how hosts and services stand with trust authorities.
    TrustRead = "trust.read";
    /// Bring hosts the descriptions of trust authorities, and have hosts attested anew.
    TrustManage = "trust.manage";
}

impl Privilege {
    /// Whether it is a cryptographic one.
    #[must_use]
    pub fn is_crypto(self) -> bool {
        self.as_str().starts_with("crypto.")
    }

    /// Whether it belongs to the trust authority, which the controller's administrators stand apart from.
    #[must_use]
    pub fn is_trust(self) -> bool {
        self.as_str().starts_with("trust.")
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names nothing of the kind it should.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is no {what}; {hint}")]
pub struct NotOne {
    text: String,
    what: &'static str,
    hint: &'static str,
}

impl FromStr for Privilege {
    type Err = NotOne;

    fn from_str(text: &str) -> Result<Self, NotOne> {
        let found = Self::ALL.iter().find(|privilege| privilege.as_str() == text);
        found.copied().ok_or_else(|| NotOne {
            text: text.to_owned(),
            what: "privilege",
            hint: "`ward role privileges` lists them",
        })
    }
}

/// A set of privileges; a list in text.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(from = "Vec<Privilege>", into = "Vec<Privilege>")]
#[schema(value_type = Vec<Privilege>)]
pub struct PrivilegeSet(u64);

impl PrivilegeSet {
    /// No privilege.
    pub const NONE: Self = Self(0);

    const fn bit(privilege: Privilege) -> u64 {
        1 << privilege as u32
    }

    /// These privileges.
    #[must_use]
    pub const fn of(privileges: &[Privilege]) -> Self {
        let mut set = 0;
        let mut at = 0;
        while at < privileges.len() {
            set |= Self::bit(privileges[at]);
            at += 1;
        }
        Self(set)
    }

    /// Whether it is in.
    #[must_use]
    pub const fn contains(self, privilege: Privilege) -> bool {
        self.0 & Self::bit(privilege) != 0
    }

    /// All that are in one or the other.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All that are in this one and not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// All that are in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    // For serde, which asks by reference.
    pub(crate) const fn is_empty_ref(&self) -> bool {
        self.is_empty()
    }

    /// Each, in the order in which they are shown.
    pub fn iter(self) -> impl Iterator<Item = Privilege> {
        Privilege::ALL.iter().copied().filter(move |&privilege| self.contains(privilege))
    }

    /// Whether a cryptographic one is in it.
    #[must_use]
    pub fn has_crypto(self) -> bool {
        self.iter().any(Privilege::is_crypto)
    }
}

impl From<Vec<Privilege>> for PrivilegeSet {
    fn from(privileges: Vec<Privilege>) -> Self {
        Self::of(&privileges)
    }
}

impl From<PrivilegeSet> for Vec<Privilege> {
    fn from(set: PrivilegeSet) -> Self {
        set.iter().collect()
    }
}

impl FromIterator<Privilege> for PrivilegeSet {
    fn from_iter<I: IntoIterator<Item = Privilege>>(privileges: I) -> Self {
        privileges.into_iter().fold(Self::NONE, |set, privilege| set.union(Self::of(&[privilege])))
    }
}

impl fmt::Debug for PrivilegeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Privilege::as_str)).finish()
    }
}

impl fmt::Display for PrivilegeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().map(Privilege::as_str).collect::<Vec<_>>().join(", "))
    }
}

/// Where a role comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RoleKind {
    /// Part of Ward; it can't be changed.
    BuiltIn,
    /// Made by users.
    Custom,
}

/// A bundle of privileges under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Role {
    /// Its name.
    pub name: RoleName,
    /// Where it comes from.
    pub kind: RoleKind,
    /// What it allows.
    pub privileges: PrivilegeSet,
}

/// What an administrator without cryptography lacks besides the cryptographic privileges, since each would be a way
/// round: a host that is added is given keys, a file that is imported may hold one, so may whatever lies where a datastore
/// is added, and whoever manages users and permissions can be anybody.
const WAYS_ROUND: PrivilegeSet = PrivilegeSet::of(&[
    Privilege::HostAdd,
    Privilege::DatastoreAdd,
    Privilege::VmImport,
    Privilege::UserManage,
    Privilege::PermissionManage,
]);

/// The roles that are part of Ward: `administrator`, `no-crypto-administrator`, `read-only`, `trust-administrator`.
#[must_use]
pub fn builtin_roles() -> Vec<Role> {
    let all = || Privilege::ALL.iter().copied();
    let administrator: PrivilegeSet = all().filter(|privilege| !privilege.is_trust()).collect();
    let crypto: PrivilegeSet = all().filter(|privilege| privilege.is_crypto()).collect();
    let trust: PrivilegeSet = all().filter(|privilege| privilege.is_trust()).collect();
    let roles = [
        ("administrator", administrator),
        ("no-crypto-administrator", administrator.without(crypto).without(WAYS_ROUND)),
        ("read-only", PrivilegeSet::of(&[Privilege::Read, Privilege::EventRead])),
        ("trust-administrator", trust),
    ];
    let role = |(name, privileges): (&str, _)| {
        let name = RoleName::try_from(name.to_owned()).ok()?;
        Some(Role { name, kind: RoleKind::BuiltIn, privileges })
    };
    roles.into_iter().filter_map(role).collect()
}

macro_rules! objects {
    ($($(#[doc = $doc:literal])* $variant:ident($id:ty) = $text:literal;)*) => {
        /// The kinds of object that permissions are given on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum ObjectKind {
            /// The whole inventory.
            Root,
            $($(#[doc = $doc])* $variant,)*
        }

        impl ObjectKind {
            /// The stable text form.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { Self::Root => "root", $(Self::$variant => $text,)* }
            }
        }

        /// An object of the inventory, by what it keeps for its whole life. In text `KIND/ID`, or `root`.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum Object {
            /// The whole inventory.
            Root,
            $($(#[doc = $doc])* $variant($id),)*
        }

        impl Object {
            /// Its kind.
            #[must_use]
            pub const fn kind(&self) -> ObjectKind {
                match self { Self::Root => ObjectKind::Root, $(Self::$variant(_) => ObjectKind::$variant,)* }
            }
        }

        impl fmt::Display for Object {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::Root => f.pad("root"),
                    $(Self::$variant(id) => f.pad(&format!("{}/{id}", $text)),)*
                }
            }
        }

        impl FromStr for Object {
            type Err = NotOne;

            fn from_str(text: &str) -> Result<Self, NotOne> {
                let bad = || NotOne { text: text.to_owned(), what: "object", hint: "one is `root` or KIND/ID" };
                match text.split_once('/') {
                    None if text == "root" => Ok(Self::Root),
                    $(Some(($text, id)) => id.parse().map(Self::$variant).map_err(|_| bad()),)*
                    _ => Err(bad()),
                }
            }
        }
    };
}

objects! {
    /// A cluster, with all that is in it.
    Cluster(ClusterId) = "cluster";
    /// A datastore.
    Datastore(DatastoreId) = "datastore";
    /// A host.
    Host(HostId) = "host";
    /// A VM.
    Vm(VmId) = "vm";
    /// A key provider.
    Provider(ProviderName) = "provider";
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl TryFrom<String> for Object {
    type Error = NotOne;

    fn try_from(text: String) -> Result<Self, NotOne> {
        text.parse()
    }
}

impl From<Object> for String {
    fn from(object: Object) -> Self {
        object.to_string()
    }
}

/// Who is given a permission. In text `user/NAME` or `group/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// A user.
    User(Name),
    /// All members of a group.
    Group(Name),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.pad(&format!("user/{name}")),
            Self::Group(name) => f.pad(&format!("group/{name}")),
        }
    }
}

impl FromStr for Subject {
    type Err = NotOne;

    fn from_str(text: &str) -> Result<Self, NotOne> {
        let bad = || NotOne { text: text.to_owned(), what: "subject", hint: "one is user/NAME or group/NAME" };
        match text.split_once('/') {
            Some(("user", name)) => name.parse().map(Self::User).map_err(|_| bad()),
            Some(("group", name)) => name.parse().map(Self::Group).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = NotOne;

    fn try_from(text: String) -> Result<Self, NotOne> {
        text.parse()
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.to_string()
    }
}

impl PartialSchema for Privilege {
    fn schema() -> RefOr<Schema> {
        text::one_of(Self::ALL.iter().map(|it| it.as_str()), "A right to do one kind of thing.")
    }
}

impl ToSchema for Privilege {}

impl PartialSchema for Object {
    fn schema() -> RefOr<Schema> {
        text::matching("^(root|(cluster|datastore|host|vm|provider)/[^/]+)$", "An object: `root` or KIND/ID.")
    }
}

impl ToSchema for Object {}

impl PartialSchema for Subject {
    fn schema() -> RefOr<Schema> {
        text::matching(
            "^(user|group)/[A-Za-z0-9][A-Za-z0-9._-]{0,79}$",
            "Who has a permission: user/NAME or group/NAME.",
        )
    }
}

impl ToSchema for Subject {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn role(name: &str) -> PrivilegeSet {
        builtin_roles().into_iter().find(|role| role.name.as_str() == name).unwrap().privileges
    }

    #[test]
    fn privileges_fit_a_set_and_travel_as_their_text() {
        assert!(Privilege::ALL.len() <= 64);
        for &privilege in Privilege::ALL {
            assert_eq!(privilege.as_str().parse::<Privilege>().unwrap(), privilege);
            assert_eq!(serde_json::to_value(privilege).unwrap(), privilege.as_str());
            let set = PrivilegeSet::of(&[privilege]);
            assert_eq!(set.iter().collect::<Vec<_>>(), [privilege]);
            assert_eq!(serde_json::to_value(set).unwrap(), serde_json::json!([privilege.as_str()]));
        }
        assert!("crypto.everything".parse::<Privilege>().is_err());
    }

    #[test]
    fn the_cryptographic_privileges_are_there() {
        let crypto = Privilege::ALL.iter().filter_map(|privilege| privilege.as_str().strip_prefix("crypto."));
        let mut crypto: Vec<_> = crypto.collect();
        crypto.sort_unstable();
        let mut wanted = vec![
            "access",
            "add-disk",
            "clone",
            "decrypt",
            "destroy-keys",
            "encrypt",
            "encrypt-new",
            "manage-encryption-policy",
            "manage-key-servers",
            "read-key-servers",
            "manage-keys",
            "migrate",
            "recrypt",
            "register-host",
            "register-vm",
        ];
        wanted.sort_unstable();
        assert_eq!(crypto, wanted);
    }

    #[test]
    fn roles_are_what_they_are_called() {
        let (administrator, no_crypto) = (role("administrator"), role("no-crypto-administrator"));
        assert!(Privilege::ALL.iter().all(|&it| administrator.contains(it) != it.is_trust()));
        assert!(!no_crypto.has_crypto());
        assert_eq!(administrator.without(no_crypto).without(WAYS_ROUND).iter().find(|it| !it.is_crypto()), None);
        assert!(WAYS_ROUND.iter().all(|it| !no_crypto.contains(it)));
        assert_eq!(role("read-only").to_string(), "read, event.read");
        assert!(role("trust-administrator").iter().all(Privilege::is_trust));
        assert!(!role("trust-administrator").is_empty());
    }

    #[test]
    fn objects_and_subjects_are_read_as_they_are_written() {
        let objects = [Object::Root, Object::Vm(VmId::new()), Object::Provider("kms".parse().unwrap())];
        for object in objects {
            assert_eq!(object.to_string().parse::<Object>().unwrap(), object);
        }
        for bad in ["", "vm", "vm/", "vm/web-1", "root/1", "planet/1", "provider/a b"] {
            assert!(bad.parse::<Object>().is_err(), "{bad}");
        }
        for text in ["user/alice", "group/ops"] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        assert!("alice".parse::<Subject>().is_err());
    }
}
