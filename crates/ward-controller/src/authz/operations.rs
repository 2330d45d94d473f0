//! All operations that take a privilege. One line each: the object that it is done on, its name in the audit log, what
//! follows "cannot" where it is refused, whether it reads, changes anything at once or begins a task, the privileges that it takes, and those that it
//! takes besides where the object is encrypted.

use ward_types::{Privilege, PrivilegeSet};

use super::target::{Fleet, KeyTarget, Place, Root, Target, TaskTarget};
use crate::store::cluster::{ClusterRow, DatastoreRow};
use crate::store::host::HostRow;
use crate::store::provider::ProviderRow;
use crate::store::vm::VmRow;

/// Something that takes a privilege.
pub(crate) trait Operation: Send + Sync + 'static {
    /// What it is done on.
    type On: Target;
    /// Its name in the audit log.
    const NAME: &'static str;
    /// What follows "cannot" where it is refused; the object follows, unless that is the root.
    const VERB: &'static str;
    /// Whether it changes anything. What does is always in the audit log.
    const CHANGES: bool;
    /// Whether it begins a task, whose ID the audit log then tells.
    const BEGINS: bool;
    /// The privileges that it takes.
    const NEEDS: PrivilegeSet;
    /// Those that it takes besides on an object that is encrypted.
    const NEEDS_IF_ENCRYPTED: PrivilegeSet;
}

/// A line of the table, for those who show it.
#[cfg(test)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) on: &'static str,
    pub(crate) needs: PrivilegeSet,
    pub(crate) if_encrypted: PrivilegeSet,
}

macro_rules! operations {
    ($($op:ident on $on:ty: $name:literal, $verb:literal, $changes:ident,
        [$($need:ident),*] $(if encrypted [$($more:ident),*])?;)*) => {
        $(
            #[doc = concat!("`", $name, "`")]
            pub(crate) struct $op;

            impl Operation for $op {
                type On = $on;
                const NAME: &'static str = $name;
                const VERB: &'static str = $verb;
                const CHANGES: bool = operations!(@ $changes);
                const BEGINS: bool = operations!(# $changes);
                const NEEDS: PrivilegeSet = PrivilegeSet::of(&[$(Privilege::$need),*]);
                const NEEDS_IF_ENCRYPTED: PrivilegeSet = PrivilegeSet::of(&[$($(Privilege::$more),*)?]);
            }
        )*

        /// The table.
        #[cfg(test)]
        pub(crate) const ALL: &[Line] = &[$(Line {
            name: $op::NAME,
            on: <$on as Target>::NOUN,
            needs: $op::NEEDS,
            if_encrypted: $op::NEEDS_IF_ENCRYPTED,
        },)*];
    };
    (@ reads) => { false };
    (@ changes) => { true };
    (@ begins) => { true };
    (# reads) => { false };
    (# changes) => { false };
    (# begins) => { true };
}

operations! {
    AddCluster on Root: "cluster.add", "add a cluster", changes, [ClusterAdd];
    AddDatastore on ClusterRow: "datastore.add", "add a datastore to", changes, [DatastoreAdd];
    RemoveDatastore on DatastoreRow: "datastore.remove", "remove", changes, [DatastoreAdd];
    ReadHost on HostRow: "host.read", "show", reads, [Read];
    RemoveHost on HostRow: "host.remove", "remove", changes, [HostAdd, CryptoRegisterHost];
    AddHost on ClusterRow: "host.add", "make an enrolment token for", changes, [HostAdd, CryptoRegisterHost];
    EnableHost on HostRow: "host.enable-encryption", "switch on the encryption mode of", changes, [CryptoRegisterHost];
    DisableHost on HostRow: "host.disable-encryption", "switch off the encryption mode of", changes, [CryptoRegisterHost];
    ChangeHostKey on HostRow: "host.change-key", "change the host key of", changes, [CryptoRegisterHost];
    SetHostPersistence on HostRow: "host.key-persistence", "set the key persistence of", changes, [CryptoRegisterHost];
    SetClusterPersistence on ClusterRow: "cluster.key-persistence", "set the key persistence of", changes,
        [CryptoRegisterHost];
    BundleHost on HostRow: "host.support-bundle", "make a support bundle of", changes, [CryptoAccess];
    DumpVm on VmRow: "vm.dump", "dump", changes, [VmConsole] if encrypted [CryptoAccess];
    ReadDumps on Place: "dump.read", "read dumps of VMs that were on", reads, [VmConsole, CryptoAccess];
    ReadProvider on ProviderRow: "provider.read", "show", reads, [CryptoReadKeyServers];
    AddProvider on Root: "provider.add", "add a key provider", changes, [CryptoManageKeyServers];
    SetDefaultProvider on ProviderRow: "provider.default", "make default", changes, [CryptoManageKeyServers];
    SetClusterDefault on ClusterRow: "cluster.provider", "set the default key provider of", changes,
        [CryptoManageKeyServers];
    ChangeServers on ProviderRow: "provider.servers", "change the key servers of", changes, [CryptoManageKeyServers];
    ChangeTrust on ProviderRow: "provider.trust", "change who trusts whom at", changes, [CryptoManageKeyServers];
    SetRotation on ProviderRow: "provider.rotation", "set the rotation of", changes, [CryptoManageKeys];
    RemoveProvider on ProviderRow: "provider.remove", "remove", changes, [CryptoManageKeyServers];
    ExportProvider on ProviderRow: "provider.export", "back up the key of", changes, [CryptoManageKeyServers];
    ChangeProviderKey on ProviderRow: "provider.change-key", "change the key of", changes, [CryptoManageKeys];
    ReadKey on KeyTarget: "key.read", "show", reads, [CryptoReadKeyServers];
    CheckKeys on Root: "key.check", "check the keys of the inventory", reads, [CryptoReadKeyServers];
    AdoptKey on KeyTarget: "key.adopt", "take into use", changes, [CryptoManageKeys];
    FetchKeys on Root: "key.fetch", "get the keys of the inventory", changes, [CryptoManageKeys];
    DestroyKey on KeyTarget: "key.destroy", "destroy", changes, [CryptoDestroyKeys];
    FindOrphans on ProviderRow: "key.orphans", "look for keys of failed tasks at", changes, [CryptoManageKeys];
    SetKeyGrace on Root: "key.grace", "set for how long unneeded keys are kept", changes, [CryptoDestroyKeys];
    AddTrustedProvider on Root: "provider.add-trusted", "add a trusted key provider", changes,
        [CryptoManageKeyServers, TrustManage];
    DescribeProvider on ProviderRow: "provider.describe", "import the description of", changes, [TrustManage];
    RemediateTrust on HostRow: "trust.remediate", "have the trust authority attest", changes, [TrustManage];
    ReadVm on VmRow: "vm.read", "show", reads, [Read];
    CreateVm on DatastoreRow: "vm.create", "make a VM on", begins, [VmCreate];
    CreateEncryptedVm on DatastoreRow: "vm.create-encrypted", "make an encrypted VM on", begins, [CryptoEncryptNew];
    CloneVm on VmRow: "vm.clone", "clone", begins, [VmClone] if encrypted [CryptoClone];
    ImportVm on DatastoreRow: "vm.import", "import a VM to", begins, [VmCreate, VmImport];
    StartVm on VmRow: "vm.start", "start", begins, [VmPower];
    StartElsewhere on VmRow: "vm.start-elsewhere", "start on another host", begins,
        [VmPower] if encrypted [CryptoMigrate];
    StopVm on VmRow: "vm.stop", "stop", begins, [VmPower];
    EncryptVm on VmRow: "vm.encrypt", "encrypt", begins, [CryptoEncrypt];
    DecryptVm on VmRow: "vm.decrypt", "decrypt", begins, [CryptoDecrypt];
    RecryptVm on VmRow: "vm.recrypt", "recrypt", begins, [CryptoRecrypt];
    SetVmPolicy on VmRow: "vm.set-policy", "set the storage policies of", begins, [VmConfigure];
    AddDisk on VmRow: "vm.disk-add", "give another disk to", begins, [VmConfigure];
    AddEncryptedDisk on VmRow: "vm.disk-add-encrypted", "give an encrypted disk to", begins, [CryptoAddDisk];
    EncryptNewDisk on VmRow: "vm.disk-encrypt-new", "encrypt a new disk of", begins, [CryptoEncryptNew];
    ImportDisk on VmRow: "vm.disk-import", "import a disk to", begins, [VmConfigure, VmImport];
    CopyDisk on VmRow: "vm.disk-copy", "copy a disk of", begins, [VmClone] if encrypted [CryptoClone];
    AttachDisk on VmRow: "vm.disk-attach", "attach a disk of", begins, [VmConfigure];
    DetachDisk on VmRow: "vm.disk-detach", "detach a disk of", begins, [VmConfigure];
    RemoveDisk on VmRow: "vm.disk-remove", "delete a disk of", begins, [VmConfigure, VmDelete];
    SetTemplate on VmRow: "vm.template", "set the template mark of", changes, [VmConfigure];
    AddTpm on VmRow: "vm.add-tpm", "give a vTPM to", begins, [VmConfigure, CryptoEncrypt];
    RemoveTpm on VmRow: "vm.remove-tpm", "remove the vTPM of", begins, [VmConfigure, CryptoDecrypt];
    CertifyTpm on VmRow: "vm.certify-tpm", "give certificates to the vTPM of", begins, [VmConfigure, CryptoEncrypt];
    RegisterVm on DatastoreRow: "vm.register", "register a VM from", changes, [VmCreate];
    RegisterEncryptedVm on DatastoreRow: "vm.register-encrypted", "register an encrypted VM from", changes,
        [CryptoRegisterVm];
    UnlockVm on VmRow: "vm.unlock", "unlock", changes, [CryptoRegisterVm];
    ReloadVm on VmRow: "vm.reload", "reload", changes, [VmConfigure] if encrypted [CryptoRegisterVm];
    UnregisterVm on VmRow: "vm.unregister", "unregister", changes, [VmDelete];
    RemoveVm on VmRow: "vm.remove", "delete", begins, [VmDelete];
    ReadConsole on VmRow: "vm.console", "read the console of", reads, [VmConsole] if encrypted [CryptoAccess];
    ReadTask on TaskTarget: "task.read", "show", reads, [Read];
    CancelTask on TaskTarget: "task.cancel", "cancel", changes, [TaskCancel];
    ReadRecryption on Fleet: "recryption.read", "show", reads, [Read];
    PlanRecryption on Fleet: "recryption.plan", "recrypt", reads, [CryptoRecrypt];
    BeginRecryption on Fleet: "recryption.begin", "recrypt", begins, [CryptoRecrypt];
    ChangeRecryption on Fleet: "recryption.change", "change", changes, [CryptoRecrypt];
    ChangePolicies on Root: "policy.change", "change storage policies", changes, [CryptoManageEncryptionPolicy];
    ReadUsers on Root: "user.read", "show users and groups", reads, [UserManage];
    ChangeUsers on Root: "user.change", "change users and groups", changes, [UserManage];
    ChangeRoles on Root: "role.change", "change roles", changes, [PermissionManage];
    ChangePermissions on Place: "permission.change", "change permissions on", changes, [PermissionManage];
    ReadAudit on Root: "audit.read", "read the audit log", reads, [AuditRead];
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;

    const BEGIN: &str = "<!-- begin privileges -->\n";
    const END: &str = "<!-- end privileges -->";

    fn table() -> String {
        let mut text = "| privilege | allows | takes part in |\n|---|---|---|\n".to_owned();
        for &privilege in Privilege::ALL {
            let part = |line: &Line| match (line.needs.contains(privilege), line.if_encrypted.contains(privilege)) {
                (true, _) => Some(format!("`{}`", line.name)),
                (_, true) => Some(format!("`{}` if encrypted", line.name)),
                _ => None,
            };
            let parts: Vec<_> = ALL.iter().filter_map(part).collect();
            let allows = privilege.allows().trim_end_matches('.');
            text.push_str(&format!("| `{privilege}` | {allows} | {} |\n", parts.join(", ")));
        }
        text
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = ALL.iter().map(|line| line.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|line| !line.needs.is_empty() && !line.on.is_empty()));
    }

    #[test]
    fn every_privilege_takes_part_in_something() {
        // Whose events are shown is asked of each object, and no operation.
        let used = |privilege| ALL.iter().any(|it| it.needs.union(it.if_encrypted).contains(privilege));
        let unused: Vec<_> = Privilege::ALL.iter().filter(|it| !used(**it)).collect();
        assert_eq!(unused, [&Privilege::EventRead, &Privilege::TrustRead]);
    }

    /// `UPDATE_TABLES=1` writes it anew.
    #[test]
    fn the_table_in_security_md_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../SECURITY.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (written, after) = rest.split_once(END).unwrap();
        if std::env::var_os("UPDATE_TABLES").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
            return;
        }
        assert_eq!(written, table(), "run the test with UPDATE_TABLES=1");
    }
}
