//! The API, asked as each kind of user: without hosts, on a database of its own.

#![allow(clippy::unwrap_used)]

mod access;
mod accounts;
mod operations;
mod recryptions;
mod reminders;
mod requests;

use std::path::Path;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, Method, Request, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use ward_types::{
    AuditEntry, ClusterId, DatastoreId, DiskConfig, DiskCrypto, DiskId, HostId, KeyId, KeyRef, Name, Object,
    PlainFormat, Power, ProviderKind, TaskId, TaskKind, VmConfig, VmId,
};

use super::auth::COOKIE_NAME;
use super::types::{RecryptionRequest, RecryptionState, RecryptionVm, RecryptionVmState};
use crate::audit::Verifier;
use crate::controller::Shared;
use crate::store::host::HostRow;
use crate::store::permission::SubjectId;
use crate::store::policy::PolicyRow;
use crate::store::provider::{ProviderRow, SealedIdentity, ServerRow};
use crate::store::recryption::RecryptionRow;
use crate::store::vm::VmRow;
use crate::store::{audit, cluster, host, permission, policy, provider, recryption, task, user, vm};
use crate::tasks::Work;
use crate::{Config, Server, keys, password, root};

pub(super) const ADMIN_PASSWORD: &str = "correct horse battery";
/// In microseconds.
const YEAR_2100: i64 = 4_102_444_800_000_000;

/// A controller, and everything that a request may be about.
pub(super) struct House {
    pub(super) dir: TempDir,
    pub(super) controller: Shared,
    router: Router,
    _server: Server,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    #[track_caller]
    pub(super) fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }

    #[track_caller]
    pub(super) fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["status"], status);
        problem
    }
}

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl House {
    /// One with `admin` and no one else.
    pub(super) async fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    /// The controller whose state lies in a directory.
    pub(super) async fn open(dir: TempDir) -> Self {
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, ADMIN_PASSWORD).unwrap();
        let mut config = Config::new(dir.path().to_owned());
        config.listen_api.set_port(0);
        config.listen_hosts.set_port(0);
        config.admin_password_file = Some(password_file);
        let server = Server::start(config, CancellationToken::new()).await.unwrap();
        let controller = server.controller();
        let router = super::router(controller.clone());
        Self { dir, controller, router, _server: server }
    }

    /// Ends it; its state can be copied then.
    pub(super) async fn close(self) -> TempDir {
        self.controller.store.close().await;
        self.dir
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub(super) async fn get(&self, token: &str, path: &str) -> Answer {
        self.ask(Method::GET, &format!("/api/v1{path}"), Some(token), &[], None).await
    }

    pub(super) async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, &format!("/api/v1{path}"), Some(token), &[], Some(body)).await
    }

    pub(super) async fn delete(&self, token: &str, path: &str) -> Answer {
        self.ask(Method::DELETE, &format!("/api/v1{path}"), Some(token), &[], None).await
    }

    /// The console's page.
    pub(super) async fn console(&self, token: &str) -> String {
        self.ask(Method::GET, "/", None, &[(COOKIE.as_str(), &format!("{COOKIE_NAME}={token}"))], None).await.text
    }

    pub(super) async fn log_in(&self, user: &str, password: &str) -> Answer {
        let body = json!({ "user": user, "password": password });
        self.ask(Method::POST, "/api/v1/session", None, &[], Some(body)).await
    }

    /// A session of a user, without its password.
    pub(super) async fn session_of(&self, user: &str) -> String {
        let token = password::random_secret().unwrap();
        let mut tx = self.controller.store.write().await.unwrap();
        let row = user::find(&mut tx, user).await.unwrap().unwrap();
        user::add_session(&mut tx, row.id, &password::digest_secret(&token), YEAR_2100).await.unwrap();
        tx.commit().await.unwrap();
        token.to_string()
    }

    /// A user whose password is nothing that could be typed.
    pub(super) async fn add_user(&self, user: &str, roles: &[(&Object, &str)]) {
        let mut tx = self.controller.store.write().await.unwrap();
        let id = user::add(&mut tx, &name(user), "none").await.unwrap();
        for (object, role) in roles {
            let role = role.parse().unwrap();
            permission::give(&mut tx, SubjectId::User(id), object, &role, true).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    /// A cluster with a datastore and a host, named after it.
    pub(super) async fn add_cluster(&self, named: &str) -> (ClusterId, DatastoreId, HostId) {
        let mut tx = self.controller.store.write().await.unwrap();
        let cluster = match cluster::find(&mut tx, named).await.unwrap() {
            Some(row) => row.id,
            None => cluster::add(&mut tx, &name(named)).await.unwrap(),
        };
        let of = |noun: &str| name(&format!("{named}-{noun}"));
        let datastore = cluster::add_datastore(&mut tx, cluster, &of("store"), "/datastore").await.unwrap();
        let id = HostId::new();
        let row = HostRow { id, cluster, name: of("host"), address: "127.0.0.1:1".to_owned() };
        host::add(&mut tx, &row).await.unwrap();
        tx.commit().await.unwrap();
        (cluster, datastore, id)
    }

    pub(super) async fn add_vm(
        &self,
        named: &str,
        (cluster, datastore, host): (ClusterId, DatastoreId, HostId),
        power: Power,
        key: Option<&KeyRef>,
    ) -> VmId {
        let id = VmId::new();
        let config: VmConfig = serde_json::from_value(json!({
            "version": 1, "id": id, "name": named, "cpus": 1, "memory_mib": 512, "boot": { "from": "disk" },
            "home": match key {
                None => json!({ "state": "plain" }),
                Some(key) => json!({ "state": "encrypted", "key": key, "wrapped_key": "d3JhcHBlZA" }),
            },
        }))
        .unwrap();
        let directory = name(named);
        let row = VmRow {
            id,
            name: name(named),
            cluster,
            datastore,
            directory,
            config: None,
            host: None,
            power,
            locked: None,
            template: false,
        };
        let mut tx = self.controller.store.write().await.unwrap();
        vm::add(&mut tx, &row).await.unwrap();
        vm::set_config(&mut tx, id, &config).await.unwrap();
        vm::set_power(&mut tx, id, power, Some(host)).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(super) async fn host(&self, named: &str) -> HostRow {
        host::find(&mut self.controller.store.read().await.unwrap(), named).await.unwrap().unwrap()
    }

    /// Gives a VM a plain disk.
    pub(super) async fn add_disk(&self, id: VmId) {
        let mut tx = self.controller.store.write().await.unwrap();
        let mut config = vm::get(&mut tx, id).await.unwrap().unwrap().config.unwrap();
        config.disks.push(DiskConfig {
            id: DiskId(0),
            file: "disk-0.raw".parse().unwrap(),
            size: 4096,
            plain_format: PlainFormat::Raw,
            crypto: DiskCrypto::Plain,
            attached: true,
        });
        vm::set_config(&mut tx, id, &config).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// A provider whose key server is nowhere.
    pub(super) async fn add_provider(&self, named: &str) {
        let provider_name = named.parse().unwrap();
        let sealed_key = root::seal(&self.controller.seal, &keys::seal_purpose(&provider_name), b"no key").unwrap();
        let mut row = ProviderRow::new(provider_name, ProviderKind::Standard);
        row.is_default = true;
        row.access.servers = vec![ServerRow { address: "127.0.0.1:1".parse().unwrap(), pinned: None }];
        row.access.identity = Some(SealedIdentity { certificate: "no certificate".to_owned(), sealed_key });
        let mut tx = self.controller.store.write().await.unwrap();
        provider::add(&mut tx, &row).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// A task on a VM that has ended.
    pub(super) async fn add_task(&self, vm: (VmId, &Name)) -> TaskId {
        let work = Work::Stop { host: HostId::new(), force: true, wait_ms: 0 };
        let mut tx = self.controller.store.write().await.unwrap();
        let row = task::add(&mut tx, (TaskId::new(), TaskKind::VmStop), vm, &name("admin"), &work).await.unwrap();
        task::end(&mut tx, row.info.id, row.info.progress, None).await.unwrap();
        tx.commit().await.unwrap();
        row.info.id
    }

    /// A recryption of a VM that was paused, and a storage policy of the name `own`.
    pub(super) async fn add_recryption(&self, vm: VmId, vm_name: &Name) -> String {
        let row = RecryptionRow {
            id: TaskId::new(),
            user: name("admin"),
            request: RecryptionRequest::default(),
            state: RecryptionState::Paused,
            created: Timestamp::now(),
            ended: None,
        };
        let item =
            RecryptionVm { vm, name: vm_name.clone(), state: RecryptionVmState::Pending, task: None, problem: None };
        let own = PolicyRow {
            name: "own".parse().unwrap(),
            encrypts: true,
            provider: None,
            rotate_days: None,
            built_in: false,
        };
        let mut tx = self.controller.store.write().await.unwrap();
        recryption::add(&mut tx, &row, &[item]).await.unwrap();
        policy::add(&mut tx, &own).await.unwrap();
        tx.commit().await.unwrap();
        row.id.to_string()
    }

    /// The audit log, which is whole.
    pub(super) async fn audit(&self) -> Vec<AuditEntry> {
        let records = audit::after(&mut self.controller.store.read().await.unwrap(), 0, i64::MAX).await.unwrap();
        let mut verifier = Verifier::new(None);
        let entries = records.iter().map(|record| verifier.next(record).unwrap()).collect();
        verifier.finish().unwrap();
        entries
    }
}

pub(super) fn key(id: &str) -> KeyRef {
    KeyRef::standard("kms".parse().unwrap(), KeyId::try_from(id.to_owned()).unwrap())
}

pub(super) fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
    }
    to
}
