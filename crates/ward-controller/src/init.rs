//! The first start: who the controller is, its certificates, its first user. Every step is done once, whenever the
//! process was killed in between.

use std::ops::Deref;

use uuid::Uuid;
use ward_rpc::{Authority, Ca, Credentials, EkAuthority, PkiError, Role};
use ward_secret::{SealKey, Zeroizing};
use ward_types::{Name, Object};

use crate::store::permission::{self, SubjectId};
use crate::store::{Store, StoreError, cluster, setting, user};
use crate::{Config, Error, RootKeyWay, files, password, root};

/// The name of the file in the state directory with the first user's password.
pub const ADMIN_PASSWORD_FILE: &str = "admin-password";
/// The name of the file in the state directory with the certificate of the controller's CA.
pub const CA_FILE: &str = "ca.pem";

const ADMIN: &str = "admin";
const DEFAULT_CLUSTER: &str = "default";
/// The groups that there are from the start, with the role that each has on the root.
const FIRST_GROUPS: [(&str, &str); 2] =
    [("administrators", "administrator"), ("trust-administrators", "trust-administrator")];

/// Who the controller is.
pub(crate) struct Identity {
    pub(crate) id: Uuid,
    pub(crate) authority: Authority,
    /// Its CA for vTPMs.
    pub(crate) vtpm: EkAuthority,
    /// What it shows to users and hosts.
    pub(crate) credentials: Credentials,
}

/// Sets up what is not set up yet, and loads the rest.
pub(crate) async fn init(config: &Config, store: &Store) -> Result<(Identity, SealKey, RootKeyWay), Error> {
    let state_dir = &config.state_dir;
    let known = setting::get(&mut *store.read().await?, "authority-certificate").await?;
    // With something sealed already, a missing root key is a loss and not a first start.
    let (at, source, may_make) = (state_dir.clone(), config.root_key.clone(), known.is_none());
    // A TPM, or somebody at the terminal, takes its time.
    let loading = tokio::task::spawn_blocking(move || root::load(&at, &source, may_make));
    let (seal, way) = loading
        .await
        .map_err(|panic| Error::RootKeySource { from: state_dir.display().to_string(), why: panic.to_string() })??;
    let id = controller_id(store).await?;
    let kept = Kept { seal: &seal, store, root_key: root::file_of(state_dir).display().to_string() };
    let authority = kept.ca("authority", Authority::generate).await?;
    files::write_private(&state_dir.join(CA_FILE), authority.certificate().as_bytes())?;
    let vtpm = kept.ca("vtpm-authority", EkAuthority::generate).await?;
    let credentials = issue(config, id, &authority)?;
    default_cluster(store).await?;
    first_user(config, store).await?;
    Ok((Identity { id, authority, vtpm, credentials }, seal, way))
}

async fn controller_id(store: &Store) -> Result<Uuid, Error> {
    let mut tx = store.write().await?;
    if let Some(id) = setting::get(&mut tx, "controller-id").await? {
        // Another one would be a stranger to the hosts that know this one.
        let corrupt =
            |error: uuid::Error| StoreError::Corrupt { column: "controller-id".into(), why: error.to_string() };
        return Ok(Uuid::parse_str(&id).map_err(corrupt)?);
    }
    let id = Uuid::new_v4();
    setting::put(&mut tx, "controller-id", &id.to_string()).await?;
    tx.commit().await?;
    Ok(id)
}

/// Where CAs are kept.
struct Kept<'a> {
    seal: &'a SealKey,
    store: &'a Store,
    /// Where the root key is, for people to read.
    root_key: String,
}

impl Kept<'_> {
    /// The CA of that name, made at the first start.
    async fn ca<A>(&self, name: &str, generate: fn() -> Result<A, PkiError>) -> Result<A, Error>
    where
        A: From<Ca> + Deref<Target = Ca>,
    {
        let (key_name, certificate_name) = (format!("{name}-key"), format!("{name}-certificate"));
        let mut tx = self.store.write().await?;
        if let Some(certificate) = setting::get(&mut tx, &certificate_name).await? {
            let sealed = setting::get(&mut tx, &key_name).await?.unwrap_or_default();
            let wrong_key = |source| Error::RootKey { from: self.root_key.clone(), source };
            let key = root::open(self.seal, &key_name, &sealed).map_err(wrong_key)?;
            let key = std::str::from_utf8(&key).map_err(|_| wrong_key(ward_secret::SecretError::Unwrap))?;
            return Ok(Ca::load(Credentials::new(certificate, Zeroizing::new(key.to_owned()))).into());
        }
        let made = generate()?;
        let sealed = root::seal(self.seal, &key_name, made.credentials().expose_key().as_bytes())?;
        setting::put(&mut tx, &key_name, &sealed).await?;
        setting::put(&mut tx, &certificate_name, made.certificate()).await?;
        tx.commit().await?;
        Ok(made)
    }
}

/// The controller's certificate is made anew at each start: its names are those of now, its key was never stored.
fn issue(config: &Config, id: Uuid, authority: &Authority) -> Result<Credentials, Error> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    for address in [config.listen_api, config.listen_hosts] {
        if !address.ip().is_unspecified() {
            names.push(address.ip().to_string());
        }
    }
    names.extend(config.public_names.iter().cloned());
    names.sort();
    names.dedup();
    let leaf = authority.issue(Role::Controller(id), &names)?;
    // With the CA's certificate behind it, so that a user who knows that one's fingerprint can check it.
    let chain = format!("{}{}", leaf.certificate(), authority.certificate());
    Ok(Credentials::new(chain, Zeroizing::new(leaf.expose_key().to_owned())))
}

async fn default_cluster(store: &Store) -> Result<(), Error> {
    let mut tx = store.write().await?;
    if cluster::list(&mut tx).await?.is_empty()
        && let Ok(name) = DEFAULT_CLUSTER.parse()
    {
        cluster::add(&mut tx, &name).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn first_user(config: &Config, store: &Store) -> Result<(), Error> {
    let failed = |why: String| Error::FirstUser(why);
    if user::find(&mut *store.read().await?, ADMIN).await?.is_some() {
        // A controller from before there were permissions.
        return first_permissions(store).await;
    }
    let name: Name = ADMIN.parse().map_err(|error: ward_types::NameError| failed(error.to_string()))?;
    let password = match &config.admin_password_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.clone(), source })?;
            let text = Zeroizing::new(text);
            Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => {
            let password = password::random_secret()?;
            files::write_private(&config.state_dir.join(ADMIN_PASSWORD_FILE), format!("{}\n", *password).as_bytes())?;
            password
        }
    };
    if password.is_empty() {
        return Err(failed("its password is empty".to_owned()));
    }
    let hash = tokio::task::spawn_blocking(move || password::hash(&password))
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(failed)?;
    let mut tx = store.write().await?;
    user::add(&mut tx, &name, &hash).await?;
    tx.commit().await?;
    first_permissions(store).await
}

/// Makes the first user a member of two groups: those who administer the controller, and those who administer the trust
/// authority. Whoever wants the two apart takes it out of one. Done once, while nobody has any permission.
async fn first_permissions(store: &Store) -> Result<(), Error> {
    let failed = |error: ward_types::NameError| Error::FirstUser(error.to_string());
    let mut tx = store.write().await?;
    if !permission::list(&mut tx).await?.is_empty() {
        return Ok(());
    }
    let Some(admin) = user::find(&mut tx, ADMIN).await? else { return Ok(()) };
    for (group, role) in FIRST_GROUPS {
        let group = user::add_group(&mut tx, &group.parse().map_err(failed)?).await?;
        user::join(&mut tx, group, admin.id).await?;
        let role = role.parse().map_err(failed)?;
        permission::give(&mut tx, SubjectId::Group(group), &Object::Root, &role, true).await?;
    }
    tx.commit().await?;
    Ok(())
}
