//! A controller that can be stopped and started again.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use http::Method;
use serde_json::{Value, json};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Executor as _};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ward_controller::api::types::{DatastoreView, HostToken, HostView, ProviderView, Session};
use ward_controller::{ADMIN_PASSWORD_FILE, CA_FILE, Config, Error, Server};
use ward_types::EventKind;

use super::{Api, Host, KeyServer, Storage, in_time};

/// A controller.
pub struct Ward {
    pub api: Api,
    pub config: Config,
    pub hosts_address: SocketAddr,
    /// Where all homes lie.
    pub storage: Storage,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    _directory: TempDir,
}

/// A controller that was stopped.
pub struct Stopped {
    pub config: Config,
    directory: TempDir,
    storage: Storage,
}

fn local(directory: &TempDir, database: Option<String>) -> Config {
    let mut config = Config::new(directory.path().join("state"));
    config.listen_api.set_port(0);
    config.listen_hosts.set_port(0);
    config.database = database;
    config
}

impl Ward {
    /// A new controller on SQLite.
    pub async fn start() -> Self {
        Self::start_on(None).await
    }

    /// A new controller on a database.
    pub async fn start_on(database: Option<String>) -> Self {
        let directory = TempDir::new().unwrap();
        let config = local(&directory, database);
        Stopped { config, directory, storage: Storage::default() }.start().await.unwrap()
    }

    /// A new controller with a provider `kms` at a key server, a datastore, these hosts, and a plain VM `web`.
    pub async fn with_hosts(names: &[&str]) -> (Self, KeyServer, Vec<Host>) {
        let ward = Self::start().await;
        let server = KeyServer::start().await;
        ward.provider("kms", &server).await;
        ward.datastore().await;
        let mut hosts = Vec::new();
        for name in names {
            hosts.push(ward.host(name).await);
        }
        ward.vm("web").await;
        (ward, server, hosts)
    }

    /// Ends it in good order.
    pub async fn stop(self) -> Stopped {
        self.shutdown.cancel();
        in_time("the controller's end", self.serving).await.unwrap();
        Stopped { config: self.config, directory: self._directory, storage: self.storage }
    }

    pub fn state(&self, file: &str) -> PathBuf {
        self.config.state_dir.join(file)
    }

    /// Changes the database behind the controller's back.
    pub async fn sql(&self, statement: &str) {
        sql(&self.config, statement).await;
    }

    /// A token with which a host can join.
    pub async fn token(&self) -> String {
        self.api.post::<HostToken>("/hosts", json!({})).await.unwrap().token
    }

    /// A host that has joined and answers.
    pub async fn host(&self, name: &str) -> Host {
        let host = Host::join(&self.token().await, name, self.storage.clone()).await.unwrap();
        self.api.host_event(EventKind::HostConnected, host.id, 1).await;
        host
    }

    /// Switches on the encryption modes of hosts. Their host keys come from a key server of their own, so that those of VMs
    /// have nothing to do with them; it is there as long as the answer.
    pub async fn safe(&self, hosts: impl IntoIterator<Item = &str>) -> KeyServer {
        let providers: Vec<ProviderView> = self.api.get("/providers").await.unwrap();
        let server = KeyServer::start().await;
        self.provider("host-keys", &server).await;
        let default = |name: String| async move {
            self.api.post::<ProviderView>(&format!("/providers/{name}/default"), json!({})).await.unwrap()
        };
        default("host-keys".to_owned()).await;
        for host in hosts {
            self.api.put::<HostView>(&format!("/hosts/{host}/encryption"), json!({ "on": true })).await.unwrap();
        }
        if let Some(before) = providers.iter().find(|provider| provider.default) {
            default(before.name.to_string()).await;
        }
        server
    }

    /// Adds a key server as a provider.
    pub async fn provider(&self, name: &str, server: &KeyServer) -> ProviderView {
        self.api.post("/providers", server.provider(name)).await.unwrap()
    }

    pub async fn datastore(&self) {
        self.api.post::<DatastoreView>("/datastores", json!({ "name": "d", "directory": "/srv/d" })).await.unwrap();
    }

    /// A user with a role of these privileges on some objects.
    pub async fn user(&self, name: &str, privileges: &[&str], on: &[&str]) -> Api {
        let password = "a long enough passphrase";
        self.api.post::<Value>("/users", json!({ "name": name, "password": password })).await.unwrap();
        let role = json!({ "name": name, "privileges": privileges });
        self.api.post::<Value>("/roles", role).await.unwrap();
        for object in on {
            let permission = json!({ "subject": format!("user/{name}"), "object": object, "role": name });
            self.api.post::<Value>("/permissions", permission).await.unwrap();
        }
        let session: Session = self.api.post("/session", json!({ "user": name, "password": password })).await.unwrap();
        self.api.with_token(&session.token)
    }

    /// Makes a VM with one disk.
    pub async fn vm(&self, name: &str) {
        let disk = json!({ "source": "blank", "size": 1 << 20, "format": "raw" });
        self.api.done(Method::POST, "/vms", Some(json!({ "name": name, "disks": [disk] }))).await;
    }
}

impl Stopped {
    pub async fn start(self) -> Result<Ward, (Error, Self)> {
        let Self { config, directory, storage } = self;
        let shutdown = CancellationToken::new();
        let server = match Server::start(config.clone(), shutdown.clone()).await {
            Ok(server) => server,
            Err(error) => return Err((error, Self { config, directory, storage })),
        };
        let (address, hosts_address) = (server.api_address(), server.hosts_address());
        let mut config = config;
        // Hosts must find it again after a restart.
        config.listen_hosts = hosts_address;
        let serving = tokio::spawn(server.serve());
        let read = |file| fs::read_to_string(config.state_dir.join(file)).unwrap();
        let (ca, password) = (read(CA_FILE), read(ADMIN_PASSWORD_FILE));
        let api = Api::log_in(format!("https://{address}"), &ca, "admin", password.trim()).await;
        Ok(Ward { api, config, hosts_address, storage, shutdown, serving, _directory: directory })
    }

    /// Starts it, which must be refused.
    pub async fn refused(self) -> (Error, Self) {
        match self.start().await {
            Ok(_) => panic!("the controller started"),
            Err(refused) => refused,
        }
    }

    pub async fn sql(&self, statement: &str) {
        sql(&self.config, statement).await;
    }
}

async fn sql(config: &Config, statement: &str) {
    sqlx::any::install_default_drivers();
    let file = format!("sqlite://{}", config.state_dir.join("controller.db").display());
    let mut connection = AnyConnection::connect(config.database.as_deref().unwrap_or(&file)).await.unwrap();
    connection.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
    connection.close().await.unwrap();
}

impl std::fmt::Debug for Ward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ward")
    }
}

impl std::fmt::Debug for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stopped")
    }
}
