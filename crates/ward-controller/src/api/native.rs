//! Native key providers: made, backed up, restored, their keys updated.

use axum::extract::{Json, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ward_secret::Zeroizing;
use ward_types::{
    ClusterId, Code, EventKind, EventSubject, HostId, KdkId, KdkRef, KeyRef, Name, Problem, ProviderKind, ProviderName,
};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, not_found};
use super::providers::exists;
use super::types::{
    AddNative, ExportNative, ImportNative, KeepNative, MissingHost, NativeBackup, NativeState, NativeVersion,
    NativeView, ProviderView, Restored,
};
use crate::authz::operations::{AddProvider, ChangeProviderKey, ExportProvider, RemoveProvider};
use crate::authz::{Granted, Note, Root, grant, grant_named};
use crate::controller::{Controller, Shared};
use crate::native::backup::Backup;
use crate::native::{self, HostHolds, Standing};
use crate::store::cells::now;
use crate::store::native::{self as store, NativeRow};
use crate::store::needed::{self, KeyOwner};
use crate::store::provider::{self, ProviderRow};
use crate::store::{Tx, cluster, event, task};
use crate::tasks::may::MayEnable;
use crate::tasks::submit::cluster_named;

/// What is particular to a native provider; none where it is of another kind.
pub(super) async fn view(
    controller: &Controller,
    name: &ProviderName,
    users: &[(KeyOwner, KeyRef)],
) -> Result<Option<NativeView>, Problem> {
    let mut db = controller.store.read().await?;
    let Some(row) = store::get(&mut db, name).await? else { return Ok(None) };
    let clusters = cluster::list(&mut db).await?;
    drop(db);
    let hosts: Vec<HostHolds> = controller
        .links
        .all()
        .iter()
        .filter(|link| link.crypto().takes_native_keys())
        .map(|link| link.holds())
        .collect();
    let (state, missing) = match native::standing(&row, &hosts) {
        Standing::NotBackedUp => (NativeState::NotBackedUp, Vec::new()),
        Standing::Warning(missing) => (NativeState::Warning, missing),
        Standing::Active => (NativeState::Active, Vec::new()),
    };
    let time = |micros| Timestamp::from_microsecond(micros).unwrap_or_default();
    let versions = row.versions.iter().map(|version| NativeVersion {
        version: version.version,
        created: time(version.created),
        vms: {
            let owners = needing(users, row.key_id, version.version);
            owners.into_iter().filter(|owner| matches!(owner, KeyOwner::Vm(_))).count()
        },
        hosts: {
            let owners = needing(users, row.key_id, version.version);
            owners.into_iter().filter(|owner| matches!(owner, KeyOwner::Host(_))).count()
        },
    });
    Ok(Some(NativeView {
        key_id: row.key_id,
        versions: versions.collect(),
        state,
        missing: missing.into_iter().map(|(host, why)| MissingHost { host, why }).collect(),
        backed_up: row.backed_up.map(time),
        tpm_required: row.tpm_required,
        clusters: clusters.into_iter().filter(|it| row.clusters.contains(&it.id)).map(|it| it.name).collect(),
        sealed_under: controller.root_key.to_string(),
    }))
}

/// The VMs and hosts that need a version of a key, each once. One under another key of the same provider's name needs none
/// of it.
fn needing(users: &[(KeyOwner, KeyRef)], key_id: KdkId, version: u32) -> Vec<&KeyOwner> {
    under(users, |kdk| (kdk.key_id, kdk.version) == (key_id, version))
}

fn under(users: &[(KeyOwner, KeyRef)], is: impl Fn(&KdkRef) -> bool) -> Vec<&KeyOwner> {
    let mut names: Vec<_> = users.iter().filter(|(_, key)| key.kdk().is_some_and(|kdk| is(&kdk))).collect();
    names.sort_by_key(|(vm, _)| vm);
    names.dedup_by_key(|(vm, _)| vm);
    names.into_iter().map(|(vm, _)| vm).collect()
}

fn about(user: &Name, name: &ProviderName) -> EventSubject {
    EventSubject { provider: Some(name.clone()), user: Some(user.clone()), ..EventSubject::default() }
}

async fn load_native(db: &mut sqlx::AnyConnection, what: &str, row: &ProviderRow) -> Result<NativeRow, Problem> {
    store::get(db, &row.name).await?.ok_or_else(|| {
        let why = format!("key provider `{}` is a {} one", row.name, row.kind);
        Problem::new(Code::RequestInvalid, what, why, "name a native provider; `ward provider ls` tells the kinds")
    })
}

async fn show(controller: &Controller, name: &ProviderName) -> ApiResult<Json<ProviderView>> {
    let row = provider::get(&mut *controller.store.read().await?, name).await?;
    let row = row.ok_or_else(|| not_found("provider", name.as_str()))?;
    Ok(Json(super::providers::view(controller, &row).await?))
}

/// Writes a native provider's rows, and what is to be told of it.
async fn put(
    tx: &mut Tx,
    what: &str,
    row: &NativeRow,
    default: bool,
    subject: &EventSubject,
    (kind, message): (EventKind, &str),
    enable: &[HostId],
) -> Result<(), Problem> {
    let first = provider::list(tx).await?.is_empty();
    let is_default = default || first;
    let provider = ProviderRow { is_default, ..ProviderRow::new(row.name.clone(), ProviderKind::Native) };
    match provider::add(tx, &provider).await {
        Err(error) if error.is_conflict() => return Err(exists(what.to_owned())),
        added => added?,
    }
    store::add(tx, row).await?;
    crate::hosts::prepare_served(tx, row, enable, subject).await?;
    event::record(tx, kind, subject, message).await?;
    if provider.is_default {
        provider::set_default(tx, &row.name).await?;
        let message = format!("key provider `{}` is the default one", row.name);
        event::record(tx, EventKind::ProviderDefault, subject, &message).await?;
    }
    Ok(())
}

/// Makes a native key provider: its key is made, and given to the hosts. It encrypts nothing before it is backed up.
#[utoipa::path(post, path = "/native-providers", tag = "provider", request_body = AddNative,
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddNative>,
) -> ApiResult<Json<ProviderView>> {
    let what = format!("cannot add key provider `{}`", new.name);
    let note = format!("add native key provider `{}`", new.name);
    let granted: Granted<AddProvider> = grant(&controller, &caller, Root, note.into()).await?;
    let mut clusters: Vec<ClusterId> = Vec::new();
    for name in &new.clusters {
        clusters.push(cluster_named(&controller, &what, Some(name.as_str())).await?.id);
    }
    clusters.sort();
    clusters.dedup();
    let key_id = KdkId::new();
    let version = native::make_version(&controller.seal, &new.name, key_id, 1)
        .map_err(|error| Problem::internal(&what, error))?;
    let row = NativeRow {
        name: new.name,
        key_id,
        tpm_required: new.tpm_required,
        backed_up: None,
        // The first reminder is in a day: who makes it is told at once.
        reminded: Some(now()),
        clusters,
        versions: vec![version],
    };
    let subject = about(granted.user(), &row.name);
    let enable = MayEnable::ask_in(&controller, &caller, |cluster| row.serves(cluster)).await?.hosts();
    let mut tx = controller.store.write().await?;
    let message =
        format!("native key provider `{}` added, with key {key_id}; it encrypts once it is backed up", row.name);
    put(&mut tx, &what, &row, new.default, &subject, (EventKind::ProviderAdded, &message), &enable).await?;
    tx.commit().await?;
    native::give_all(&controller, &subject, &format!("key of native provider `{}`", row.name)).await;
    show(&controller, &row.name).await
}

/// Makes a backup of a native provider's key, with all its versions. It counts once somebody says that it is kept.
#[utoipa::path(post, path = "/native-providers/{provider}/export", tag = "provider", request_body = ExportNative,
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = NativeBackup), (status = "4XX", body = Problem)))]
pub(super) async fn export(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(how): Body<ExportNative>,
) -> ApiResult<Json<NativeBackup>> {
    let granted: Granted<ExportProvider> = grant_named(&controller, &caller, keys.first(), Note::default()).await?;
    let name = granted.on().name.clone();
    let password = Zeroizing::new(how.password);
    let open = password.is_empty() && how.allow_empty;
    let what = format!("cannot back up key provider `{name}`");
    if password.is_empty() && !open {
        let remedy = "give a password; or say that an empty one is meant, if the file is to protect nothing";
        return Err(Problem::new(Code::RequestInvalid, what, "the password is empty", remedy).into());
    }
    let row = load_native(&mut *controller.store.read().await?, &what, granted.on()).await?;
    let backup = native::backup_of(&controller.seal, &row)?;
    let writing = move || backup.write(&password, Timestamp::now().to_string());
    let file = tokio::task::spawn_blocking(writing).await.map_err(|panic| Problem::internal(what, panic))??;
    // Before it leaves.
    let under = if open { "with no password" } else { "under a password" };
    let message = format!("the key of native provider `{name}` (up to version {}) was exported {under}", row.current());
    let mut tx = controller.store.write().await?;
    event::record(&mut tx, EventKind::ProviderExported, &about(granted.user(), &row.name), &message).await?;
    tx.commit().await?;
    Ok(Json(NativeBackup { file: STANDARD.encode(file), version: row.current() }))
}

/// Says that a backup of a native provider's key is kept: from now on it may encrypt.
#[utoipa::path(post, path = "/native-providers/{provider}/keep", tag = "provider", request_body = KeepNative,
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn keep(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(kept): Body<KeepNative>,
) -> ApiResult<Json<ProviderView>> {
    let note = format!("a backup up to version {} is kept", kept.version).into();
    let granted: Granted<ExportProvider> = grant_named(&controller, &caller, keys.first(), note).await?;
    let name = granted.on().name.clone();
    let what = format!("cannot take note of the backup of key provider `{name}`");
    let mut tx = controller.store.write().await?;
    let row = load_native(&mut tx, &what, granted.on()).await?;
    if row.current() != kept.version {
        let why = format!("it holds the key up to version {}, and there is a later one", kept.version);
        let remedy = format!("back it up again with `ward provider export {name} --out FILE`");
        return Err(Problem::new(Code::BackupOther, what, why, remedy).into());
    }
    store::set_backed_up(&mut tx, &row.name, Some(now())).await?;
    let message = format!("the key of native provider `{name}` (up to version {}) was backed up", kept.version);
    event::record(&mut tx, EventKind::ProviderBackedUp, &about(granted.user(), &row.name), &message).await?;
    tx.commit().await?;
    show(&controller, &row.name).await
}

/// Restores a native provider from a backup, or versions of its key that the controller no longer has.
#[utoipa::path(post, path = "/native-providers/import", tag = "provider", request_body = ImportNative,
    responses((status = 200, body = Restored), (status = "4XX", body = Problem)))]
pub(super) async fn import(
    State(controller): State<Shared>,
    caller: Caller,
    Body(asked): Body<ImportNative>,
) -> ApiResult<Json<Restored>> {
    let ImportNative { name, file, password, dry_run } = asked;
    let password = Zeroizing::new(password);
    let what = format!("cannot restore key provider `{name}`");
    let note = format!("restore native key provider `{name}`");
    let granted: Granted<AddProvider> = grant(&controller, &caller, Root, note.into()).await?;
    let file = STANDARD.decode(&file).map_err(|error| {
        Problem::new(Code::RequestInvalid, what.clone(), format!("the file is no base64: {error}"), "encode it")
    })?;
    let (reading, wanted) = (what.clone(), name.clone());
    let read = tokio::task::spawn_blocking(move || Backup::read(&reading, &file, &password, &wanted));
    let (backup, about_it) = read.await.map_err(|panic| Problem::internal(&what, panic))??;

    let is_new = store::get(&mut *controller.store.read().await?, &name).await?.is_none();
    let enable = match is_new && !dry_run {
        true => MayEnable::ask_in(&controller, &caller, |_| true).await?,
        false => MayEnable::nothing(),
    };
    let enable = enable.hosts();
    let mut tx = controller.store.write().await?;
    let there = store::get(&mut tx, &name).await?;
    if there.is_none() && provider::get(&mut tx, &name).await?.is_some() {
        return Err(exists(what).into());
    }
    let added = match &there {
        None => about_it.versions.clone(),
        Some(row) => lacking(&what, &controller, row, &backup)?,
    };
    let restored = Restored {
        provider: name.clone(),
        key_id: backup.key_id,
        versions: about_it.versions,
        added: added.clone(),
        tpm_required: backup.tpm_required,
        exported: about_it.created,
        dry_run,
    };
    if dry_run {
        return Ok(Json(restored));
    }
    let mut versions = Vec::new();
    for (version, kdk) in backup.versions.iter().filter(|(version, _)| added.contains(version)) {
        let sealed = native::seal_version(&controller.seal, &name, backup.key_id, *version, kdk);
        versions.push(sealed.map_err(|error| Problem::internal(&what, error))?);
    }
    let subject = about(granted.user(), &name);
    let numbers = added.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let message = format!("native key provider `{name}` restored, with key {}, version {numbers}", backup.key_id);
    if let Some(row) = &there {
        for version in &versions {
            store::add_version(&mut tx, &name, version).await?;
        }
        let has = |version: u32| backup.versions.iter().any(|(number, _)| *number == version);
        if row.versions.iter().all(|version| has(version.version)) {
            store::set_backed_up(&mut tx, &name, Some(now())).await?;
        }
        event::record(&mut tx, EventKind::ProviderRestored, &subject, &message).await?;
    } else {
        let row = NativeRow {
            name: name.clone(),
            key_id: backup.key_id,
            tpm_required: backup.tpm_required,
            // What it was restored from is its backup.
            backed_up: Some(now()),
            reminded: None,
            clusters: Vec::new(),
            versions,
        };
        put(&mut tx, &what, &row, false, &subject, (EventKind::ProviderRestored, &message), &enable).await?;
    }
    tx.commit().await?;
    native::give_all(&controller, &subject, &format!("key of native provider `{name}`, restored")).await;
    Ok(Json(restored))
}

/// The versions in a backup that a provider which is there lacks; refused where it is another's or brings nothing.
fn lacking(what: &str, controller: &Controller, row: &NativeRow, backup: &Backup) -> Result<Vec<u32>, Problem> {
    let name = &row.name;
    if row.key_id != backup.key_id {
        return Err(Problem::new(
            Code::BackupOther,
            what,
            format!(
                "the backup holds the key {}, and the provider `{name}` that is there has {}",
                backup.key_id, row.key_id
            ),
            format!("take the backup of this provider; or remove `{name}` first, if no VM needs it"),
        ));
    }
    let there = native::backup_of(&controller.seal, row)?;
    let mut lacking = Vec::new();
    for (version, kdk) in &backup.versions {
        match there.versions.iter().find(|(number, _)| number == version) {
            None => lacking.push(*version),
            Some((_, known)) if known.same(kdk) => {}
            Some(_) => {
                let why = format!("version {version} of the key in the backup is not the one that is there");
                return Err(Problem::new(Code::BackupOther, what, why, "take another backup of this provider"));
            }
        }
    }
    if !lacking.is_empty() {
        return Ok(lacking);
    }
    let last = backup.versions.last().map_or(0, |(version, _)| *version);
    Err(if last < row.current() {
        Problem::new(
            Code::BackupOther,
            what,
            format!(
                "the backup is older: it holds the key up to version {last}, and version {} is there",
                row.current()
            ),
            format!("make a new one with `ward provider export {name} --out FILE`"),
        )
    } else {
        Problem::new(Code::Exists, what, "all that the backup holds is there already", "nothing is to be done")
    })
}

/// Gives a native provider a new version of its key. Old versions stay until they are deleted; before the new one is
/// backed up, nothing is encrypted.
#[utoipa::path(post, path = "/native-providers/{provider}/update-key", tag = "provider",
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn update_key(
    State(controller): State<Shared>,
    granted: Granted<ChangeProviderKey>,
) -> ApiResult<Json<ProviderView>> {
    let name = granted.on().name.clone();
    let what = format!("cannot update the key of key provider `{name}`");
    let mut tx = controller.store.write().await?;
    let row = load_native(&mut tx, &what, granted.on()).await?;
    let next = row.current().checked_add(1).ok_or_else(|| Problem::internal(&what, "there are no more versions"))?;
    let version = native::make_version(&controller.seal, &row.name, row.key_id, next)
        .map_err(|error| Problem::internal(&what, error))?;
    store::add_version(&mut tx, &row.name, &version).await?;
    store::set_backed_up(&mut tx, &row.name, None).await?;
    let subject = about(granted.user(), &row.name);
    let message = format!(
        "the key of native provider `{name}` has version {next} now, which is not backed up after the update: nothing is \
         encrypted until `ward provider export {name} --out FILE`"
    );
    event::record(&mut tx, EventKind::ProviderKeyUpdated, &subject, &message).await?;
    store::set_reminded(&mut tx, &row.name, now()).await?;
    tx.commit().await?;
    native::give_all(&controller, &subject, &format!("version {next} of the key of native provider `{name}`")).await;
    show(&controller, &row.name).await
}

/// Deletes an old version of a native provider's key everywhere. Refused while a VM needs it.
#[utoipa::path(delete, path = "/native-providers/{provider}/versions/{version}", tag = "provider",
    params(("provider" = String, Path, description = "name"), ("version" = u32, Path, description = "number")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn delete_version(
    State(controller): State<Shared>,
    granted: Granted<ChangeProviderKey>,
    keys: Keys,
) -> ApiResult<Json<ProviderView>> {
    let name = granted.on().name.clone();
    let version: u32 = keys.last().parse().map_err(|_| not_found("version", keys.last()))?;
    let what = format!("cannot delete version {version} of the key of key provider `{name}`");
    let mut tx = controller.store.write().await?;
    let row = load_native(&mut tx, &what, granted.on()).await?;
    if !row.versions.iter().any(|known| known.version == version) {
        let remedy = format!("`ward provider show {name}` lists them");
        return Err(Problem::new(Code::NotFound, what, "there is no such version", remedy).into());
    }
    if version == row.current() {
        let remedy = format!("make a new one first with `ward provider update-key {name}`");
        return Err(Problem::new(Code::InUse, what, "new keys are made under it", remedy).into());
    }
    let users = needed::of_provider(&mut tx, &row.name).await?;
    refuse_needed(&what, &name, &needing(&users, row.key_id, version), &format!("ward recrypt run --provider {name}"))?;
    refuse_open_tasks(&mut tx, &what, &row.name).await?;
    store::remove_version(&mut tx, &row.name, version).await?;
    let subject = about(granted.user(), &row.name);
    let message = format!("version {version} of the key of native provider `{name}` deleted; no VM needed it");
    event::record(&mut tx, EventKind::ProviderKeyDeleted, &subject, &message).await?;
    tx.commit().await?;
    native::give_all(&controller, &subject, &format!("version {version} of the key of `{name}`, deleted")).await;
    show(&controller, &row.name).await
}

/// Refuses while VMs or hosts need it: names them, and the commands that move them all.
fn refuse_needed(what: &str, provider: &ProviderName, needing: &[&KeyOwner], moves: &str) -> Result<(), Problem> {
    let (mut vms, mut hosts) = (Vec::new(), Vec::new());
    for owner in needing {
        match owner {
            KeyOwner::Vm(name) => vms.push(format!("`{name}`")),
            KeyOwner::Host(name) => hosts.push(name.to_string()),
        }
    }
    let (mut why, mut remedy) = (Vec::new(), Vec::new());
    if !vms.is_empty() {
        let count = if vms.len() == 1 { "1 VM needs".to_owned() } else { format!("{} VMs need", vms.len()) };
        why.push(format!("{count} it: {}", vms.join(", ")));
        remedy.push(format!("move VMs with `{moves}` (one by one: `ward vm recrypt VM`), or decrypt them"));
    }
    if !hosts.is_empty() {
        let count = if hosts.len() == 1 { "1 host needs".to_owned() } else { format!("{} hosts need", hosts.len()) };
        let named = hosts.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        why.push(format!("{count} it as host key or for dumps: {named}"));
        remedy.push(format!(
            "give hosts new host keys: `ward host encryption rekey {}`, or switch their encryption modes off",
            hosts.join(" ")
        ));
    }
    if why.is_empty() {
        return Ok(());
    }
    let remedy = format!("{}; then try again. `ward provider show {provider}` counts them", remedy.join("; "));
    Err(Problem::new(Code::InUse, what, why.join("; "), remedy))
}

/// A task that encrypts may have a key under it already that no VM has yet.
async fn refuse_open_tasks(tx: &mut Tx, what: &str, name: &ProviderName) -> Result<(), Problem> {
    let open = task::open(tx).await?;
    let Some(task) = open.iter().find(|task| task.work.providers().any(|used| used == name)) else { return Ok(()) };
    let why = format!("task {} ({} of VM `{}`) makes a key of it", task.info.id, task.info.kind, task.info.vm_name);
    Err(Problem::new(Code::Busy, what, why, format!("wait for it with `ward task watch {}`", task.info.id)))
}

/// Removes a native provider: its key is deleted everywhere.
pub(super) async fn remove(
    controller: &Controller,
    granted: &Granted<RemoveProvider>,
    force: Option<&str>,
) -> ApiResult<Json<()>> {
    let name = &granted.on().name;
    let what = format!("cannot remove key provider `{name}`");
    let mut tx = controller.store.write().await?;
    let native = store::get(&mut tx, name).await?;
    let users = needed::of_provider(&mut tx, name).await?;
    let needing = under(&users, |kdk| native.as_ref().is_none_or(|row| row.key_id == kdk.key_id));
    let needed = refuse_needed(&what, name, &needing, &format!("ward recrypt run --provider {name} --to OTHER"));
    let forced = match (needed, force) {
        (Ok(()), _) => false,
        (Err(_), Some(again)) if again == name.as_str() => true,
        (Err(problem), None) => return Err(problem.into()),
        (Err(_), Some(again)) => {
            let why = format!("VMs or hosts need it, and `{again}` is not its name");
            let remedy = format!("say its name, `{name}`, to remove it although they need it");
            return Err(Problem::new(Code::RequestInvalid, what, why, remedy).into());
        }
    };
    refuse_open_tasks(&mut tx, &what, name).await?;
    store::remove(&mut tx, name).await?;
    provider::remove(&mut tx, name).await?;
    let subject = about(granted.user(), name);
    if let (true, Some(native)) = (forced, native) {
        store::note_removed(&mut tx, name, native.key_id).await?;
        let message = format!(
            "native key provider `{name}` removed although {} VMs or hosts need it; only its backup brings them back",
            needing.len()
        );
        event::record(&mut tx, EventKind::ProviderRemovedInUse, &subject, &message).await?;
    } else {
        let message = format!("native key provider `{name}` removed; its key is deleted everywhere but in backups");
        event::record(&mut tx, EventKind::ProviderRemoved, &subject, &message).await?;
    }
    tx.commit().await?;
    native::give_all(controller, &subject, &format!("key of native provider `{name}`, deleted")).await;
    Ok(Json(()))
}
