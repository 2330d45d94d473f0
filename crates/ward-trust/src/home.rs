//! The state directory of a service: root key, TLS certificate, database.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use attest::binding::CertThumbprint;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sqlx::ConnectOptions;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use ward_secret::{SealKey, Sealed};
use zeroize::Zeroizing;

use crate::Error;

/// Names by which a service is always reached from its own machine.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What is sealed to tell whether a root key belongs to a database.
const CHECK: &[u8] = b"this is the root key";

/// A service's state directory, open.
pub(crate) struct Home {
    dir: PathBuf,
    root: SealKey,
    pub(crate) pool: SqlitePool,
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
        let failed = |source| Error::File { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let database = dir.join(kind.database);
        // A new root key would make what an existing database has sealed worthless: then its loss must be told.
        if !database.exists() && !dir.join("root.key").exists() {
            make_root_key(&dir.join("root.key"))?;
        }
        if !dir.join("tls.pem").exists() {
            make_certificate(dir, kind.name, server_names)?;
        }
        if !database.exists() {
            write_new(&database, &[], 0o600)?;
        }
        Self::open(dir, kind).await
    }

    /// Opens it, brings the schema up to date, and checks that the root key is the database's own.
    pub(crate) async fn open(dir: &Path, kind: &Kind) -> Result<Self, Error> {
        let database = dir.join(kind.database);
        if !database.exists() {
            return Err(Error::NotInitialized { path: dir.to_owned() });
        }
        let root = load_root_key(&dir.join("root.key"))?;
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
        let home = Self { dir: dir.to_owned(), root, pool };
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
        Error::RootKey { path: self.dir.join("root.key"), what }
    }

    /// The service's certificate, in PEM: what hosts know it by.
    pub(crate) fn certificate_pem(&self) -> Result<String, Error> {
        let pem = read(&self.dir.join("tls.pem"))?;
        String::from_utf8(pem).map_err(|_| Error::Certificate("tls.pem is no text".to_owned()))
    }

    /// Certificate and key for the TLS server.
    pub(crate) fn tls_identity(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem()?.as_bytes())
            .map_err(|_| Error::Certificate("there is none in tls.pem".to_owned()))?;
        let key = Zeroizing::new(read(&self.dir.join("tls.key"))?);
        // The parser's error could quote what it read.
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| Error::Certificate("there is no private key in tls.key".to_owned()))?;
        Ok((certificate, key))
    }

    pub(crate) async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let query = sqlx::query_scalar("SELECT value FROM meta WHERE name = ?").bind(name);
        Ok(query.fetch_optional(&self.pool).await?)
    }

    pub(crate) async fn set_meta(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name)
        .bind(value)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Counts the changes of the configuration.
    pub(crate) async fn generation(&self) -> Result<Vec<u8>, Error> {
        Ok(self.meta("generation").await?.unwrap_or_default())
    }

    /// The digest of the signed configuration that it goes by; empty where it has taken none in.
    pub(crate) async fn configuration(&self) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.meta("configuration").await?.unwrap_or_default()).into_owned())
    }

    /// To be called after each change of the configuration: running services then read it anew.
    pub(crate) async fn changed(&self) -> Result<(), Error> {
        self.set_meta("generation", uuid::Uuid::now_v7().as_bytes()).await
    }
}

/// What a host asked for.
pub(crate) struct AuditRow<'a> {
    pub(crate) host: &'a str,
    pub(crate) certificate: CertThumbprint,
    pub(crate) operation: &'static str,
    pub(crate) object: &'a str,
    pub(crate) result: &'a str,
}

/// One thing that a host asked for, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, sqlx::FromRow)]
pub struct AuditEntry {
    /// Counts up, without gaps.
    pub sequence: i64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The host, as the attestation service calls it; `?` if it is not known.
    pub host: String,
    /// The certificate of its TLS session.
    pub certificate: String,
    /// What it asked for.
    pub operation: String,
    /// Of what.
    pub object: String,
    /// `ok`, or why it was refused.
    pub result: String,
}

impl Home {
    pub(crate) async fn audit(&self, row: AuditRow<'_>) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO audit (at_ms, host, certificate, operation, object, result) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(jiff::Timestamp::now().as_millisecond())
        .bind(row.host)
        .bind(row.certificate.to_string())
        .bind(row.operation)
        .bind(row.object)
        .bind(row.result)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(crate) async fn audit_tail(&self, n: u32) -> Result<Vec<AuditEntry>, Error> {
        let query = "SELECT * FROM (SELECT * FROM audit ORDER BY sequence DESC LIMIT ?) ORDER BY sequence";
        Ok(sqlx::query_as(query).bind(n).fetch_all(&self.pool).await?)
    }
}

/// 32 random bytes in hexadecimal.
fn make_root_key(path: &Path) -> Result<(), Error> {
    let unusable = |what| Error::RootKey { path: path.to_owned(), what };
    let key = SealKey::generate().map_err(|_| unusable("none could be made"))?;
    let mut text = Zeroizing::new(vec![b'\n'; 65]);
    hex::encode_to_slice(key.expose(), &mut text[..64]).map_err(|_| unusable("it could not be written"))?;
    write_new(path, &text, 0o600)
}

fn load_root_key(path: &Path) -> Result<SealKey, Error> {
    let unusable = |what| Error::RootKey { path: path.to_owned(), what };
    let text = Zeroizing::new(read(path)?);
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim_ascii(), &mut *key).map_err(|_| unusable("64 hexadecimal digits are expected"))?;
    SealKey::take(&mut *key).map_err(|_| unusable("no memory could be locked for it"))
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
    // Left over from a crash between the two.
    let key_path = dir.join("tls.key");
    match fs::remove_file(&key_path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::File { path: key_path, source }),
        _ => {}
    }
    write_new(&key_path, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
    write_new(&dir.join("tls.pem"), certificate.pem().as_bytes(), 0o644)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Writes a new file, durably: after a crash it is there whole or not at all. One that is there already is an error.
pub(crate) fn write_new(path: &Path, contents: &[u8], mode: u32) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        // Unlike a rename, a link does not replace what is there.
        fs::hard_link(&temporary, path)?;
        fs::remove_file(&temporary)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}
