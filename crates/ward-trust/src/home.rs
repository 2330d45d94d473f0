//! The state directory of a service: root key, TLS certificate, database.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, Transaction};
use tokio::sync::Mutex;
use ward_rpc::Answer;
use ward_secret::{SealKey, Sealed, SecretError};
use whole_file::Readers;
use zeroize::Zeroizing;

use crate::Error;
use crate::api::{Applied, HowItIs};
use crate::audit::Strangers;
use crate::serve::internal;

/// Names by which a service is always reached from its own machine.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const ROOT_KEY: &str = "root.key";

/// Names in the table `meta`.
const GENERATION: &str = "generation";
const CONFIGURATION: &str = "configuration";
const CONFIGURATION_SERIAL: &str = "configuration_serial";
/// Empty as long as what the service goes by is what was signed.
const CHANGED: &str = "changed";

/// What is sealed to tell whether a root key belongs to a database.
const CHECK: &[u8] = b"this is the root key";

/// A service's state directory, open.
pub(crate) struct Home {
    dir: PathBuf,
    root: SealKey,
    pub(crate) pool: SqlitePool,
    pub(crate) strangers: std::sync::Mutex<Strangers>,
}

/// How the services differ.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) database: &'static str,
    pub(crate) migrator: &'static Migrator,
}

impl Home {
    /// Sets up what is missing. What is there stays as it is.
    pub(crate) async fn init(dir: &Path, kind: &Kind, server_names: &[String]) -> Result<Self, Error> {
        whole_file::private_directory(dir)?;
        let database = dir.join(kind.database);
        let root_key = dir.join(ROOT_KEY);
        // A new root key would make what an existing database has sealed worthless: then its loss must be told.
        if !database.exists() && !root_key.exists() {
            let text = SealKey::generate().and_then(|key| key.to_text());
            let text = text.map_err(|_| Error::RootKey { path: root_key.clone(), what: "none could be made" })?;
            whole_file::write_new(&root_key, &text, Readers::Owner)?;
        }
        if !dir.join("tls.pem").exists() {
            make_certificate(dir, kind.name, server_names)?;
        }
        if !database.exists() {
            whole_file::write_new(&database, &[], Readers::Owner)?;
        }
        Self::open(dir, kind).await
    }

    /// Opens it, brings the schema up to date, and checks that the root key is the database's own.
    pub(crate) async fn open(dir: &Path, kind: &Kind) -> Result<Self, Error> {
        let database = dir.join(kind.database);
        if !database.exists() {
            return Err(Error::NotInitialized { path: dir.to_owned() });
        }
        let root_key = dir.join(ROOT_KEY);
        let text = Zeroizing::new(whole_file::read(&root_key)?);
        let root = SealKey::from_text(&text).map_err(|error| {
            let what = match error {
                SecretError::Memory(_) => "no memory could be locked for it",
                _ => "64 hexadecimal digits are expected",
            };
            Error::RootKey { path: root_key, what }
        })?;
        let options = SqliteConnectOptions::new()
            .filename(database)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is on disk before it returns.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .pragma("secure_delete", "ON")
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        kind.migrator.run(&pool).await?;
        let strangers = std::sync::Mutex::new(Strangers::new(Instant::now()));
        let home = Self { dir: dir.to_owned(), root, pool, strangers };
        home.check_root_key().await?;
        Ok(home)
    }

    async fn check_root_key(&self) -> Result<(), Error> {
        sqlx::query("INSERT INTO meta (name, value) VALUES ('check', ?), ('generation', X'30') ON CONFLICT DO NOTHING")
            .bind(self.seal("check", CHECK)?)
            .execute(&self.pool)
            .await?;
        let sealed: Vec<u8> =
            sqlx::query_scalar("SELECT value FROM meta WHERE name = 'check'").fetch_one(&self.pool).await?;
        self.unseal("check", sealed).map(drop)
    }

    pub(crate) fn seal(&self, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        let sealed = self.root.seal(&format!("ward-trust/1/{purpose}"), secret);
        sealed.map(|sealed| sealed.as_bytes().to_vec()).map_err(|_| self.root_key("it can't seal"))
    }

    pub(crate) fn unseal(&self, purpose: &str, sealed: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.root
            .open(&format!("ward-trust/1/{purpose}"), &Sealed::from_bytes(sealed))
            .map_err(|_| self.root_key("it is not the key that this database was sealed under, or a row was altered"))
    }

    fn root_key(&self, what: &'static str) -> Error {
        Error::RootKey { path: self.dir.join(ROOT_KEY), what }
    }

    /// The service's certificate, in PEM: what hosts know it by.
    pub(crate) fn certificate_pem(&self) -> Result<String, Error> {
        let pem = whole_file::read(&self.dir.join("tls.pem"))?;
        String::from_utf8(pem).map_err(|_| Error::Certificate("tls.pem is no text".to_owned()))
    }

    /// Certificate and key for the TLS server.
    pub(crate) fn tls_identity(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem()?.as_bytes())
            .map_err(|_| Error::Certificate("there is none in tls.pem".to_owned()))?;
        let key = Zeroizing::new(whole_file::read(&self.dir.join("tls.key"))?);
        // The parser's error could quote what it read.
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| Error::Certificate("there is no private key in tls.key".to_owned()))?;
        Ok((certificate, key))
    }

    pub(crate) async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let query = sqlx::query_scalar("SELECT value FROM meta WHERE name = ?").bind(name);
        Ok(query.fetch_optional(&self.pool).await?)
    }

    /// Counts the changes of what the service goes by.
    async fn generation(&self) -> Result<Vec<u8>, Error> {
        Ok(self.meta(GENERATION).await?.unwrap_or_default())
    }

    /// The last signed configuration that was made or taken in here; no older one takes its place.
    pub(crate) async fn signed(&self) -> Result<Option<Applied>, Error> {
        let (digest, serial) = (self.meta(CONFIGURATION).await?, self.number(CONFIGURATION_SERIAL).await?);
        let digest = digest.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(digest.zip(serial).map(|(digest, serial)| Applied { digest, serial }))
    }

    /// The signed configuration that the service goes by; none where it has none, or was changed since.
    async fn configuration(&self) -> Result<Option<Applied>, Error> {
        let changed = self.meta(CHANGED).await?.is_none_or(|changed| !changed.is_empty());
        Ok(self.signed().await?.filter(|_| !changed))
    }

    /// Says that the service is there, and by which configuration it goes. No secret.
    pub(crate) async fn health(&self) -> Answer<HowItIs> {
        let configuration = self.configuration().await;
        let configuration = configuration.map_err(|error| internal("the service can't say how it is", &error))?;
        Ok(HowItIs { version: env!("CARGO_PKG_VERSION").to_owned(), configuration })
    }

    /// A number in the table `meta`.
    pub(crate) async fn number(&self, name: &str) -> Result<Option<i64>, Error> {
        let bytes = self.meta(name).await?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes))
    }

    /// Begins a change. Others wait for it to end, and nothing of it is done before it is committed.
    pub(crate) async fn change(&self) -> Result<Change, Error> {
        Ok(Change(self.pool.begin_with("BEGIN IMMEDIATE").await?))
    }
}

/// A change of what a service keeps: with the mark by which a running service notices it, whole or not at all.
pub(crate) struct Change(Transaction<'static, Sqlite>);

impl Change {
    /// Of something that is in a signed configuration: the service goes by none then, until it is signed.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        put(&mut self, CHANGED, b"changed").await?;
        self.commit_unshared().await
    }

    /// Of something that is in no signed configuration.
    pub(crate) async fn commit_unshared(mut self) -> Result<(), Error> {
        put(&mut self, GENERATION, uuid::Uuid::now_v7().as_bytes()).await?;
        Ok(self.0.commit().await?)
    }

    /// The service goes by that signed configuration now.
    pub(crate) async fn commit_signed(mut self, applied: &Applied) -> Result<(), Error> {
        put(&mut self, CONFIGURATION_SERIAL, &applied.serial.to_be_bytes()).await?;
        put(&mut self, CONFIGURATION, applied.digest.as_bytes()).await?;
        put(&mut self, CHANGED, b"").await?;
        self.commit_unshared().await
    }

    /// Of something by its name: an error, and no change, if there were no rows of that.
    pub(crate) async fn commit_found(self, rows: u64, what: &'static str, name: &str) -> Result<(), Error> {
        if rows == 0 {
            return Err(Error::NotFound { what, name: name.to_owned() });
        }
        self.commit().await
    }
}

impl Deref for Change {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

/// The serial of what is signed next: the time, and more than the last one's whatever the clock says.
pub(crate) fn next_serial(last: Option<i64>) -> i64 {
    let now = jiff::Timestamp::now().as_millisecond();
    last.map_or(now, |last| now.max(last.saturating_add(1)))
}

/// Sets a value in the table `meta`.
pub(crate) async fn put(db: &mut SqliteConnection, name: &str, value: &[u8]) -> Result<(), Error> {
    let query = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    sqlx::query(query).bind(name).bind(value).execute(db).await?;
    Ok(())
}

/// What a service reads from its state directory.
pub(crate) trait Load: Sized {
    fn load(home: &Home) -> impl Future<Output = Result<Self, Error>> + Send;
}

/// What was read, until it was changed.
pub(crate) struct Current<T>(Mutex<(Vec<u8>, Arc<T>)>);

impl<T: Load> Current<T> {
    pub(crate) async fn of(home: &Home) -> Result<Self, Error> {
        Ok(Self(Mutex::new((home.generation().await?, Arc::new(T::load(home).await?)))))
    }

    pub(crate) async fn get(&self, home: &Home) -> Result<Arc<T>, Error> {
        let generation = home.generation().await?;
        let mut current = self.0.lock().await;
        if current.0 != generation {
            *current = (generation, Arc::new(T::load(home).await?));
        }
        Ok(Arc::clone(&current.1))
    }
}

/// A certificate that the service signs itself: hosts know it by nothing else.
fn make_certificate(dir: &Path, name: &str, server_names: &[String]) -> Result<(), Error> {
    let unusable = |error: rcgen::Error| Error::Certificate(error.to_string());
    let mut names: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
    names.extend(server_names.iter().filter(|name| !LOCAL_NAMES.contains(&name.as_str())).cloned());
    let mut params = CertificateParams::new(names).map_err(unusable)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Ward {name} service"));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    let key = KeyPair::generate().map_err(unusable)?;
    let certificate = params.self_signed(&key).map_err(unusable)?;
    let key_path = dir.join("tls.key");
    // Left over from a crash between the two.
    whole_file::remove(&key_path)?;
    whole_file::write_new(&key_path, Zeroizing::new(key.serialize_pem()).as_bytes(), Readers::Owner)?;
    Ok(whole_file::write_new(&dir.join("tls.pem"), certificate.pem().as_bytes(), Readers::Everyone)?)
}
