//! Encrypting and decrypting: the key first, then the host's work.

use ward_rpc::api::host::JobSpec;
use ward_types::{EventKind, HostId, KeyRef, Problem, VmConfig};

use super::super::job::{forget, run_job};
use super::super::run::{Run, Step};
use super::super::{KeyMark, Work};
use super::native;
use crate::keys::{self, KeyFault, Made};
use crate::plan::{EncryptPlan, KeyChoice};
use crate::store::vm;

pub(super) async fn encrypt(run: &mut Run) -> Step {
    let key = ready_key(run).await?;
    let Work::Encrypt { components, .. } = &run.work else { return Ok(()) };
    let spec = JobSpec::Crypt { plan: EncryptPlan::steps(components, &key) };
    // A home that is encrypted in part opens with the keys that it has.
    let mut needed = run.vm.config.as_ref().map_or_else(Vec::new, keys_of);
    if !needed.contains(&key) {
        needed.push(key.clone());
    }
    let done = run_job(run, &spec, &needed).await?;
    let config = done.config.ok_or_else(|| Problem::internal(run.what(), "the host tells of no VM"))?;
    let mut tx = run.controller.store.write().await?;
    vm::set_config(&mut tx, run.info.vm, &config).await?;
    run.notices(&mut tx, done.host, &done.notices).await?;
    let message = format!("VM `{}` encrypted under key {key}: {}", config.name, parts(&config));
    run.event(&mut tx, EventKind::VmEncrypted, Some(done.host), Some(&key), &message).await?;
    run.succeed(tx).await?;
    forget(run, done.host).await;
    Ok(())
}

pub(super) async fn decrypt(run: &mut Run) -> Step {
    let Work::Decrypt { plan, keys, .. } = &run.work else { return Ok(()) };
    let (spec, keys) = (JobSpec::Crypt { plan: plan.clone() }, keys.clone());
    let done = run_job(run, &spec, &keys).await?;
    let config = done.config.ok_or_else(|| Problem::internal(run.what(), "the host tells of no VM"))?;
    let mut tx = run.controller.store.write().await?;
    vm::set_config(&mut tx, run.info.vm, &config).await?;
    run.notices(&mut tx, done.host, &done.notices).await?;
    let message = format!("VM `{}` decrypted: {}", config.name, parts(&config));
    run.event(&mut tx, EventKind::VmDecrypted, Some(done.host), keys.first(), &message).await?;
    let unneeded = run.retire(&mut tx, keys).await?;
    run.succeed(tx).await?;
    run.drop_keys(unneeded).await;
    forget(run, done.host).await;
    Ok(())
}

fn keys_of(config: &VmConfig) -> Vec<KeyRef> {
    config.keys().into_iter().cloned().collect()
}

fn parts(config: &VmConfig) -> String {
    let disks: Vec<_> = config.disks.iter().map(|disk| disk.id.to_string()).collect();
    if disks.is_empty() { "home".to_owned() } else { format!("home, {}", disks.join(", ")) }
}

/// The key to encrypt under, at the key server and ready for use. Each step that the key server takes is written down
/// before or after it, so that none is taken twice for good.
async fn ready_key(run: &mut Run) -> Step<KeyRef> {
    let Work::Encrypt { key: choice, mark, .. } = &run.work else {
        return Err(Problem::internal(run.what(), "a task lost its kind").into());
    };
    let (choice, mark) = (choice.clone(), mark.clone());
    if let KeyMark::Ready { key } = mark {
        return Ok(key);
    }
    if let KeyChoice::New(provider) = &choice
        && let Some((key, host)) = native::new_key(run, &provider.clone()).await?
    {
        return made_on_host(run, key, host).await;
    }
    let what = run.what();
    let provider = match &choice {
        KeyChoice::New(provider) => provider.clone(),
        KeyChoice::Existing(key) => key.provider.clone(),
    };
    run.say(&format!("asks key provider {provider} for a key"));
    let client = match keys::connect(&run.controller, &what, &provider).await {
        Ok(client) => client,
        Err(problem) => return fault(run, KeyFault::new(&provider, None, problem)).await,
    };
    let made = match (choice, mark) {
        (KeyChoice::Existing(key), _) | (_, KeyMark::Made { key }) => Made { key, refused: Vec::new() },
        (KeyChoice::New(_), mark) => {
            let maybe_there = mark == KeyMark::Wanted;
            set_mark(run, KeyMark::Wanted, "task.key-wanted", "asks the key server for a new key").await?;
            let name = keys::name_of(run.info.id);
            let made = match keys::locate_or_make(&what, &client, &provider, &name, maybe_there).await {
                Ok(made) => made,
                Err(error) => return fault(run, error).await,
            };
            crash_point::reach("task.key-made-unknown");
            let mark = KeyMark::Made { key: made.key.clone() };
            set_mark(run, mark, "task.key-made", "makes the new key ready").await?;
            made
        }
    };
    if let Err(error) = keys::adopt(&what, &client, &made.key).await {
        return fault(run, error).await;
    }
    crash_point::reach("task.key-active");
    let key = made.key.clone();
    let subject = ward_types::EventSubject { key: Some(key.clone()), ..run.subject() };
    keys::make_ready(&run.controller, &subject, &client, made, (run.info.vm, &run.info.vm_name)).await?;
    let new = matches!(run.work, Work::Encrypt { key: KeyChoice::New(_), .. });
    if let Work::Encrypt { mark, .. } = &mut run.work {
        *mark = KeyMark::Ready { key: key.clone() };
    }
    let mut tx = run.controller.store.write().await?;
    crate::store::task::set_work(&mut tx, run.info.id, "key ready", &run.work).await?;
    if new {
        let message = format!("key {key} made and activated for VM `{}`", run.info.vm_name);
        run.event(&mut tx, EventKind::KeyCreated, None, Some(&key), &message).await?;
    }
    tx.commit().await?;
    crash_point::reach("task.key-ready");
    Ok(key)
}

/// Writes down the key that a host has made.
async fn made_on_host(run: &mut Run, key: KeyRef, host: HostId) -> Step<KeyRef> {
    if let Work::Encrypt { mark, .. } = &mut run.work {
        *mark = KeyMark::Ready { key: key.clone() };
    }
    let mut tx = run.controller.store.write().await?;
    crate::store::task::set_work(&mut tx, run.info.id, "key ready", &run.work).await?;
    let message = format!("key {key} made for VM `{}`", run.info.vm_name);
    run.event(&mut tx, EventKind::KeyCreated, Some(host), Some(&key), &message).await?;
    tx.commit().await?;
    crash_point::reach("task.key-ready");
    Ok(key)
}

async fn set_mark(run: &mut Run, new: KeyMark, point: &str, step: &str) -> Step {
    if let Work::Encrypt { mark, .. } = &mut run.work {
        *mark = new;
    }
    Ok(run.mark(point, step).await?)
}

async fn fault<T>(run: &Run, fault: KeyFault) -> Step<T> {
    Err(keys::report(&run.controller, &run.subject(), fault).await.into())
}
