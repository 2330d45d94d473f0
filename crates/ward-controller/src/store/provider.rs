//! Key providers: how their servers are reached, and which of them is the default one. Their private keys lie here sealed.

use std::time::Duration;

use kmip::certificate::Fingerprint;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{ClusterId, Name, Object, ProviderKind, ProviderName, ServerAddress};

use super::cells::{Cells, now, word};
use super::{Result, StoreError, permission, server_key};

#[derive(Clone, Debug)]
pub(crate) struct ProviderRow {
    pub(crate) name: ProviderName,
    pub(crate) kind: ProviderKind,
    pub(crate) is_default: bool,
    /// Nothing in it, where the provider has no servers by its kind.
    pub(crate) access: Access,
}

/// How a provider's servers are reached, by what they are known, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// In the order in which they are asked.
    pub(crate) servers: Vec<ServerRow>,
    /// How much of a request's time one server may take.
    pub(crate) timeout: Duration,
    /// The authorities whose certificates are good for servers that are known by no fingerprint, PEM.
    pub(crate) ca: Option<String>,
    pub(crate) identity: Option<SealedIdentity>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerRow {
    pub(crate) address: ServerAddress,
    /// The certificate that somebody has accepted for it.
    pub(crate) pinned: Option<Fingerprint>,
}

/// Who we are to a provider's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SealedIdentity {
    /// PEM.
    pub(crate) certificate: String,
    /// The private key: ciphertext under the controller's root key, base64.
    pub(crate) sealed_key: String,
}

/// An identity that has not worked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingRow {
    pub(crate) sealed_key: String,
    /// The request for a certificate, PEM, where one was made.
    pub(crate) request: Option<String>,
    /// PEM; none until it comes.
    pub(crate) certificate: Option<String>,
}

impl Access {
    /// How long a server may take unless said otherwise.
    pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
}

impl Default for Access {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Self::TIMEOUT, ca: None, identity: None }
    }
}

impl ProviderRow {
    /// One that has no servers yet, and is not the default one.
    pub(crate) fn new(name: ProviderName, kind: ProviderKind) -> Self {
        Self { name, kind, is_default: false, access: Access::default() }
    }
}

fn provider(row: &AnyRow) -> Result<ProviderRow> {
    let cells = Cells(row);
    let text = |column| cells.text(column).map(|text| Some(text).filter(|text| !text.is_empty()));
    let sealed_key = text("sealed_key")?;
    let identity = text("certificate")?.zip(sealed_key);
    Ok(ProviderRow {
        name: cells.parsed("name")?,
        kind: cells.word("kind")?,
        is_default: cells.flag("is_default")?,
        access: Access {
            servers: Vec::new(),
            timeout: Duration::from_millis(cells.number("timeout_ms")?),
            ca: text("ca")?,
            identity: identity.map(|(certificate, sealed_key)| SealedIdentity { certificate, sealed_key }),
        },
    })
}

fn server(row: &AnyRow) -> Result<(ProviderName, ServerRow)> {
    let cells = Cells(row);
    let (host, port) = (cells.text("host")?, cells.number("port")?);
    let corrupt = |error: ward_types::NoServer| StoreError::Corrupt { column: "host".into(), why: error.to_string() };
    let address = ServerAddress::new(&host, port).map_err(corrupt)?;
    Ok((cells.parsed("provider")?, ServerRow { address, pinned: cells.parsed_or_null("pinned")? }))
}

pub(crate) async fn add(db: &mut AnyConnection, row: &ProviderRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO provider (name, kind, ca, certificate, sealed_key, is_default, created, timeout_ms) \
         VALUES ($1, $2, '', '', '', $3, $4, 0)",
    )
    .bind(row.name.as_str())
    .bind(word(&row.kind)?)
    .bind(i64::from(row.is_default))
    .bind(now())
    .execute(&mut *db)
    .await?;
    set_access(db, &row.name, &row.access).await
}

/// Says anew how a provider's servers are reached.
pub(crate) async fn set_access(db: &mut AnyConnection, name: &ProviderName, access: &Access) -> Result<()> {
    let (certificate, sealed_key) =
        access.identity.as_ref().map_or(("", ""), |identity| (&identity.certificate, &identity.sealed_key));
    sqlx::query("UPDATE provider SET ca = $2, certificate = $3, sealed_key = $4, timeout_ms = $5 WHERE name = $1")
        .bind(name.as_str())
        .bind(access.ca.as_deref().unwrap_or_default())
        .bind(certificate)
        .bind(sealed_key)
        .bind(i64::try_from(access.timeout.as_millis()).unwrap_or(i64::MAX))
        .execute(&mut *db)
        .await?;
    sqlx::query("DELETE FROM key_server WHERE provider = $1").bind(name.as_str()).execute(&mut *db).await?;
    for (server, place) in access.servers.iter().zip(0_i64..) {
        sqlx::query("INSERT INTO key_server (provider, host, port, place, pinned) VALUES ($1, $2, $3, $4, $5)")
            .bind(name.as_str())
            .bind(server.address.host())
            .bind(i64::from(server.address.port()))
            .bind(place)
            .bind(server.pinned.map(|pinned| pinned.to_string()))
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<ProviderRow>> {
    let rows = sqlx::query("SELECT * FROM provider ORDER BY name").fetch_all(&mut *db).await?;
    let mut list = rows.iter().map(provider).collect::<Result<Vec<_>>>()?;
    let servers = sqlx::query("SELECT * FROM key_server ORDER BY provider, place").fetch_all(db).await?;
    for (name, server) in servers.iter().map(server).collect::<Result<Vec<_>>>()? {
        if let Some(row) = list.iter_mut().find(|row| row.name == name) {
            row.access.servers.push(server);
        }
    }
    Ok(list)
}

pub(crate) async fn get(db: &mut AnyConnection, name: &ProviderName) -> Result<Option<ProviderRow>> {
    let row =
        sqlx::query("SELECT * FROM provider WHERE name = $1").bind(name.as_str()).fetch_optional(&mut *db).await?;
    let Some(mut row) = row.as_ref().map(provider).transpose()? else { return Ok(None) };
    let servers = sqlx::query("SELECT * FROM key_server WHERE provider = $1 ORDER BY place")
        .bind(name.as_str())
        .fetch_all(db)
        .await?;
    row.access.servers = servers.iter().map(|row| Ok(server(row)?.1)).collect::<Result<_>>()?;
    Ok(Some(row))
}

/// Notes which attributes a provider's key servers do not take. Tells whether that was not known.
pub(crate) async fn note_refused(db: &mut AnyConnection, name: &ProviderName, attributes: &str) -> Result<bool> {
    let noted = sqlx::query("UPDATE provider SET attributes_refused = $2 WHERE name = $1 AND attributes_refused <> $2")
        .bind(name.as_str())
        .bind(attributes)
        .execute(db)
        .await?;
    Ok(noted.rows_affected() > 0)
}

/// Makes one provider the default one, and no other.
pub(crate) async fn set_default(db: &mut AnyConnection, name: &ProviderName) -> Result<()> {
    sqlx::query("UPDATE provider SET is_default = CASE WHEN name = $1 THEN 1 ELSE 0 END")
        .bind(name.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Says from where keys for a cluster's VMs come: from that provider, or else from the default one of all.
pub(crate) async fn set_default_of(
    db: &mut AnyConnection,
    cluster: ClusterId,
    name: Option<&ProviderName>,
) -> Result<()> {
    sqlx::query("DELETE FROM cluster_provider WHERE cluster_id = $1")
        .bind(cluster.to_string())
        .execute(&mut *db)
        .await?;
    if let Some(name) = name {
        sqlx::query("INSERT INTO cluster_provider (cluster_id, provider) VALUES ($1, $2)")
            .bind(cluster.to_string())
            .bind(name.as_str())
            .execute(db)
            .await?;
    }
    Ok(())
}

/// The provider that is a cluster's own default one.
pub(crate) async fn default_of(db: &mut AnyConnection, cluster: ClusterId) -> Result<Option<ProviderName>> {
    let row = sqlx::query("SELECT provider FROM cluster_provider WHERE cluster_id = $1")
        .bind(cluster.to_string())
        .fetch_optional(db)
        .await?;
    row.map(|row| Cells(&row).parsed("provider")).transpose()
}

/// Which clusters have a default provider of their own.
pub(crate) async fn defaults(db: &mut AnyConnection) -> Result<Vec<(ClusterId, Name, ProviderName)>> {
    let rows = sqlx::query(
        "SELECT cluster_provider.cluster_id, cluster_provider.provider, cluster.name FROM cluster_provider \
         JOIN cluster ON cluster.id = cluster_provider.cluster_id ORDER BY cluster.name",
    )
    .fetch_all(db)
    .await?;
    let read = |row| {
        let cells = Cells(row);
        Ok((cells.parsed("cluster_id")?, cells.parsed("name")?, cells.parsed("provider")?))
    };
    rows.iter().map(read).collect()
}

/// The identity of a provider that has not worked yet.
pub(crate) async fn pending(db: &mut AnyConnection, name: &ProviderName) -> Result<Option<PendingRow>> {
    let row = sqlx::query("SELECT * FROM provider_pending WHERE provider = $1")
        .bind(name.as_str())
        .fetch_optional(db)
        .await?;
    let read = |row: AnyRow| {
        let cells = Cells(&row);
        Ok(PendingRow {
            sealed_key: cells.text("sealed_key")?,
            request: cells.text_or_null("request")?,
            certificate: cells.text_or_null("certificate")?,
        })
    };
    row.map(read).transpose()
}

/// Keeps an identity until it has worked, in place of any that was kept before; or keeps none.
pub(crate) async fn set_pending(
    db: &mut AnyConnection,
    name: &ProviderName,
    pending: Option<&PendingRow>,
) -> Result<()> {
    sqlx::query("DELETE FROM provider_pending WHERE provider = $1").bind(name.as_str()).execute(&mut *db).await?;
    if let Some(pending) = pending {
        sqlx::query(
            "INSERT INTO provider_pending (provider, sealed_key, request, certificate, created) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(name.as_str())
        .bind(&pending.sealed_key)
        .bind(&pending.request)
        .bind(&pending.certificate)
        .bind(now())
        .execute(db)
        .await?;
    }
    Ok(())
}

/// What events have told last of a provider: of what, which state.
pub(crate) async fn told(db: &mut AnyConnection, name: &ProviderName) -> Result<Vec<(String, String)>> {
    let rows = sqlx::query("SELECT subject, state FROM provider_told WHERE provider = $1 ORDER BY subject")
        .bind(name.as_str())
        .fetch_all(db)
        .await?;
    rows.iter().map(|row| Ok((Cells(row).text("subject")?, Cells(row).text("state")?))).collect()
}

/// Writes down what events have told, all of it.
pub(crate) async fn set_told(db: &mut AnyConnection, name: &ProviderName, told: &[(String, String)]) -> Result<()> {
    sqlx::query("DELETE FROM provider_told WHERE provider = $1").bind(name.as_str()).execute(&mut *db).await?;
    for (subject, state) in told {
        sqlx::query("INSERT INTO provider_told (provider, subject, state) VALUES ($1, $2, $3)")
            .bind(name.as_str())
            .bind(subject)
            .bind(state)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Removes a provider, and what is written down of it.
pub(crate) async fn remove(db: &mut AnyConnection, name: &ProviderName) -> Result<()> {
    permission::forget(&mut *db, &Object::Provider(name.clone())).await?;
    sqlx::query("DELETE FROM provider WHERE name = $1").bind(name.as_str()).execute(&mut *db).await?;
    // Hosts whose host keys are of it get others.
    server_key::changed(db).await
}
