//! The objects that operations are done on, and where they stand in the inventory:
//!
//! ```text
//! root ─┬─ cluster ─┬─ host
//!       │           ├─ datastore
//!       │           └─ VM
//!       └─ key provider
//! ```

use sqlx::AnyConnection;
use ward_types::{KeyId, KeyRef, Object, Privilege, Problem, ProviderKind, TaskId, TaskInfo};

use crate::api::edge::not_found;
use crate::controller::Controller;
use crate::store::cluster::{self, ClusterRow, DatastoreRow};
use crate::store::host::{self, HostRow};
use crate::store::provider::{self, ProviderRow};
use crate::store::vm::{self, VmRow};
use crate::store::{self, needed, recryption, task, vm_left};

/// Something that operations are done on.
pub(crate) trait Target: Send + Sync + Sized + 'static {
    /// What it is called in paths of the API and on the command line.
    const NOUN: &'static str;
    /// Who lacks this does not learn whether the object exists.
    const SEEN_BY: Privilege = Privilege::Read;

    /// The one with that name or ID.
    fn find(db: &mut AnyConnection, key: &str) -> impl Future<Output = store::Result<Option<Self>>> + Send;

    /// The object that permissions are given on.
    fn object(&self) -> Object;

    /// The object, what it is in, and so on up to the root.
    fn path(&self) -> Vec<Object>;

    /// The paths of all that it is made of: an operation takes its privileges on each.
    fn paths(&self) -> Vec<Vec<Object>> {
        vec![self.path()]
    }

    /// Whether everybody knows that it is there.
    fn is_known(&self) -> bool {
        self.object() == Object::Root
    }

    /// Its name.
    fn name(&self) -> String;

    /// "VM `web-1`".
    fn label(&self) -> String {
        format!("{} `{}`", Self::NOUN, self.name())
    }

    /// The keys that it needs.
    fn keys(&self) -> Vec<KeyRef> {
        Vec::new()
    }
}

/// The target with that name or ID.
pub(crate) async fn named<T: Target>(controller: &Controller, key: &str) -> Result<T, Problem> {
    T::find(&mut *controller.store.read().await?, key).await?.ok_or_else(|| not_found(T::NOUN, key))
}

/// The whole inventory.
pub(crate) struct Root;

impl Target for Root {
    const NOUN: &'static str = "root";

    async fn find(_: &mut AnyConnection, _: &str) -> store::Result<Option<Self>> {
        Ok(Some(Self))
    }

    fn object(&self) -> Object {
        Object::Root
    }

    fn path(&self) -> Vec<Object> {
        vec![Object::Root]
    }

    fn name(&self) -> String {
        "root".to_owned()
    }

    fn label(&self) -> String {
        "the whole inventory".to_owned()
    }
}

impl Target for ClusterRow {
    const NOUN: &'static str = "cluster";

    async fn find(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        cluster::find(db, key).await
    }

    fn object(&self) -> Object {
        Object::Cluster(self.id)
    }

    fn path(&self) -> Vec<Object> {
        vec![self.object(), Object::Root]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Target for DatastoreRow {
    const NOUN: &'static str = "datastore";

    async fn find(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        let rows = cluster::datastores(db).await?;
        Ok(rows.into_iter().find(|row| row.name.as_str() == key || row.id.to_string() == key))
    }

    fn object(&self) -> Object {
        Object::Datastore(self.id)
    }

    fn path(&self) -> Vec<Object> {
        vec![self.object(), Object::Cluster(self.cluster), Object::Root]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Target for HostRow {
    const NOUN: &'static str = "host";

    async fn find(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        host::find(db, key).await
    }

    fn object(&self) -> Object {
        Object::Host(self.id)
    }

    fn path(&self) -> Vec<Object> {
        vec![self.object(), Object::Cluster(self.cluster), Object::Root]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Target for VmRow {
    const NOUN: &'static str = "vm";

    async fn find(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        vm::find(db, key).await
    }

    fn object(&self) -> Object {
        Object::Vm(self.id)
    }

    fn path(&self) -> Vec<Object> {
        vec![self.object(), Object::Cluster(self.cluster), Object::Root]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }

    fn label(&self) -> String {
        format!("VM `{}`", self.name)
    }

    fn keys(&self) -> Vec<KeyRef> {
        self.config.as_ref().map_or_else(Vec::new, |config| config.keys().into_iter().cloned().collect())
    }
}

impl Target for ProviderRow {
    const NOUN: &'static str = "provider";
    const SEEN_BY: Privilege = Privilege::CryptoReadKeyServers;

    async fn find(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        match key.parse() {
            Ok(name) => provider::get(db, &name).await,
            Err(_) => Ok(None),
        }
    }

    fn object(&self) -> Object {
        Object::Provider(self.name.clone())
    }

    fn path(&self) -> Vec<Object> {
        vec![self.object(), Object::Root]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }

    fn label(&self) -> String {
        format!("key provider `{}`", self.name)
    }
}

/// A key, by `PROVIDER/ID`: of a provider, which may be gone.
pub(crate) struct KeyTarget {
    pub(crate) key: KeyRef,
}

impl Target for KeyTarget {
    const NOUN: &'static str = "key";
    const SEEN_BY: Privilege = Privilege::CryptoReadKeyServers;

    async fn find(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        // What something needs, whatever its kind is; else what lies at a key server.
        if let Some(key) = needed::all(db).await?.into_iter().find(|known| known.to_string() == key) {
            return Ok(Some(Self { key }));
        }
        let Some((provider, id)) = key.split_once('/') else { return Ok(None) };
        let (Ok(provider), Ok(id)) = (provider.parse(), KeyId::try_from(id.to_owned())) else { return Ok(None) };
        Ok(provider::get(db, &provider)
            .await?
            .filter(|row| row.kind == ProviderKind::Standard)
            .map(|row| Self { key: KeyRef::standard(row.name, id) }))
    }

    fn object(&self) -> Object {
        Object::Provider(self.key.provider.clone())
    }

    fn path(&self) -> Vec<Object> {
        vec![self.object(), Object::Root]
    }

    fn name(&self) -> String {
        self.key.to_string()
    }

    fn keys(&self) -> Vec<KeyRef> {
        vec![self.key.clone()]
    }
}

/// Any object of the inventory, as a permission names it.
pub(crate) struct Place {
    object: Object,
    path: Vec<Object>,
    name: String,
}

impl Place {
    async fn of<T: Target>(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        let found = T::find(db, key).await?;
        Ok(found.map(|it| Self { object: it.object(), path: it.path(), name: it.name() }))
    }

    /// A VM that was taken out of the inventory: the permissions on it stay, and can be taken away.
    async fn left(db: &mut AnyConnection, id: &str) -> store::Result<Option<Self>> {
        let Ok(id) = id.parse() else { return Ok(None) };
        Ok(vm_left::get(db, id).await?.map(|left| Self {
            object: Object::Vm(id),
            path: vec![Object::Vm(id), Object::Cluster(left.cluster), Object::Root],
            name: id.to_string(),
        }))
    }

    /// The object as people write it: `root`, or KIND/NAME.
    pub(crate) fn text(&self) -> String {
        match self.object {
            Object::Root => "root".to_owned(),
            _ => format!("{}/{}", self.object.kind(), self.name),
        }
    }
}

impl Target for Place {
    const NOUN: &'static str = "object";

    /// By `root`, KIND/NAME or KIND/ID.
    async fn find(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        match key.split_once('/') {
            None if key == Root::NOUN => Self::of::<Root>(db, key).await,
            Some((ClusterRow::NOUN, key)) => Self::of::<ClusterRow>(db, key).await,
            Some((DatastoreRow::NOUN, key)) => Self::of::<DatastoreRow>(db, key).await,
            Some((HostRow::NOUN, key)) => Self::of::<HostRow>(db, key).await,
            Some((VmRow::NOUN, key)) => match Self::of::<VmRow>(&mut *db, key).await? {
                Some(place) => Ok(Some(place)),
                None => Self::left(db, key).await,
            },
            Some((ProviderRow::NOUN, key)) => Self::of::<ProviderRow>(db, key).await,
            _ => Ok(None),
        }
    }

    fn object(&self) -> Object {
        self.object.clone()
    }

    fn path(&self) -> Vec<Object> {
        self.path.clone()
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn label(&self) -> String {
        format!("`{}`", self.text())
    }
}

/// A task: it belongs to its VM, and to the whole inventory once that is gone.
pub(crate) struct TaskTarget {
    pub(crate) info: TaskInfo,
    vm: Option<VmRow>,
}

impl TaskTarget {
    pub(crate) fn new(info: TaskInfo, vm: Option<VmRow>) -> Self {
        Self { info, vm }
    }
}

impl Target for TaskTarget {
    const NOUN: &'static str = "task";

    async fn find(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        let Ok(id) = key.parse() else { return Ok(None) };
        let Some(info) = task::get(db, id).await? else { return Ok(None) };
        let vm = vm::get(db, info.vm).await?;
        Ok(Some(Self { info, vm }))
    }

    fn object(&self) -> Object {
        self.vm.as_ref().map_or(Object::Root, VmRow::object)
    }

    fn path(&self) -> Vec<Object> {
        self.vm.as_ref().map_or_else(|| Root.path(), VmRow::path)
    }

    fn is_known(&self) -> bool {
        false
    }

    fn name(&self) -> String {
        self.info.id.to_string()
    }
}

/// VMs of which many get new keys: what a recryption is about, or would be. Whoever does something with it needs the
/// privilege on every one of them; where none is left, on the whole inventory.
pub(crate) struct Fleet {
    recryption: Option<TaskId>,
    vms: Vec<VmRow>,
    /// Where there could be VMs, where there is none.
    cluster: Option<ClusterRow>,
}

impl Fleet {
    /// The VMs of a recryption that may be begun.
    pub(crate) const fn new(vms: Vec<VmRow>) -> Self {
        Self { recryption: None, vms, cluster: None }
    }

    /// No VM, in a cluster that the caller may do it in.
    pub(crate) const fn nothing_in(cluster: ClusterRow) -> Self {
        Self { recryption: None, vms: Vec::new(), cluster: Some(cluster) }
    }

    /// The recryption, where it was begun.
    pub(crate) const fn recryption(&self) -> Option<TaskId> {
        self.recryption
    }

    /// What is left of the VMs of one that was begun.
    pub(crate) async fn of(db: &mut AnyConnection, id: TaskId) -> store::Result<Self> {
        Ok(Self { recryption: Some(id), vms: recryption::rows(db, id).await?, cluster: None })
    }
}

impl Target for Fleet {
    const NOUN: &'static str = "recryption";

    async fn find(db: &mut AnyConnection, key: &str) -> store::Result<Option<Self>> {
        let Ok(id) = key.parse() else { return Ok(None) };
        match recryption::get(db, id).await? {
            Some(_) => Self::of(db, id).await.map(Some),
            None => Ok(None),
        }
    }

    fn object(&self) -> Object {
        match (self.vms.as_slice(), &self.cluster) {
            ([vm], _) => vm.object(),
            (_, Some(cluster)) => cluster.object(),
            _ => Object::Root,
        }
    }

    fn path(&self) -> Vec<Object> {
        Root.path()
    }

    fn paths(&self) -> Vec<Vec<Object>> {
        match (self.vms.as_slice(), &self.cluster) {
            ([], Some(cluster)) => vec![cluster.path()],
            ([], None) => vec![Root.path()],
            (vms, _) => vms.iter().map(VmRow::path).collect(),
        }
    }

    fn is_known(&self) -> bool {
        self.recryption.is_none()
    }

    fn name(&self) -> String {
        const MOST: usize = 5;
        if let Some(id) = self.recryption {
            return id.to_string();
        }
        let names: Vec<_> = self.vms.iter().take(MOST).map(|vm| vm.name.as_str()).collect();
        match (names.as_slice(), self.vms.len() - names.len()) {
            ([], _) => Root.name(),
            (names, 0) => names.join(", "),
            (names, more) => format!("{} and {more} others", names.join(", ")),
        }
    }

    fn label(&self) -> String {
        match (self.recryption, self.vms.as_slice()) {
            (Some(id), _) => format!("recryption `{id}`"),
            (None, []) => Root.label(),
            (None, [vm]) => vm.label(),
            (None, _) => format!("the VMs {}", self.name()),
        }
    }

    fn keys(&self) -> Vec<KeyRef> {
        let mut keys: Vec<_> = self.vms.iter().flat_map(VmRow::keys).collect();
        keys.sort();
        keys.dedup();
        keys
    }
}
