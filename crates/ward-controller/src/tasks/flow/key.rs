//! The keys that a task takes: made or found at their key servers, and ready for use, before any host begins.

use ward_rpc::api::host::JobSpec;
use ward_types::{EventKind, EventSubject, HostId, KeyId, KeyRef, Problem};

use super::super::KeyMark;
use super::super::job::check_job;
use super::super::run::{Run, Step};
use super::{native, trusted};
use crate::keys::{self, KeyFault, Made, NotMade, Owner};
use crate::plan::KeyChoice;
use crate::store::{self, server_key};

/// The host's work for which keys are made, to be checked before any is.
pub(super) struct Rehearsal<'a> {
    /// The keys under which something is already that is worked on.
    pub(super) have: &'a [KeyRef],
    /// The work, with these keys; none where one is missing.
    pub(super) spec: &'a (dyn Fn(&[KeyRef]) -> Option<JobSpec> + Sync),
}

/// All keys that a task takes, ready for use.
pub(super) async fn ready_keys(run: &mut Run, rehearsal: Rehearsal<'_>) -> Step<Vec<KeyRef>> {
    rehearse(run, rehearsal).await?;
    let mut keys = Vec::new();
    for n in 0..run.work.keys().count() {
        keys.push(ready_key(run, n).await?);
    }
    Ok(keys)
}

/// Has a host check all that it would refuse for, before a key is made that nobody would need then, or one that is there is
/// activated and marked.
async fn rehearse(run: &mut Run, Rehearsal { have, spec }: Rehearsal<'_>) -> Step {
    let begun = run.work.keys().any(|(_, mark)| *mark != KeyMark::None);
    if begun || run.work.keys().next().is_none() {
        return Ok(());
    }
    let choices: Vec<_> = run.work.keys().map(|(choice, _)| choice.clone()).collect();
    let mut tpm = false;
    let mut keys = Vec::new();
    for (n, choice) in choices.iter().enumerate() {
        keys.push(match choice {
            KeyChoice::Existing(key) => key.clone(),
            KeyChoice::New(provider) => {
                let row = store::native::get(&mut *run.controller.store.read().await?, provider).await?;
                tpm |= row.is_some_and(|row| row.tpm_required);
                // Whatever it will be called.
                let id = KeyId::try_from(keys::name_of(run.info.id, n));
                KeyRef::standard(provider.clone(), id.map_err(|error| Problem::internal(run.what(), error))?)
            }
        });
    }
    let spec = spec(&keys).ok_or_else(|| Problem::internal(run.what(), "a key of the plan is missing"))?;
    check_job(run, &spec, have, tpm).await
}

/// One of them. Each step that the key server takes is written down before or after it, so that none is taken twice for
/// good.
async fn ready_key(run: &mut Run, n: usize) -> Step<KeyRef> {
    let Some((choice, mark)) = run.work.keys().nth(n).map(|(choice, mark)| (choice.clone(), mark.clone())) else {
        return Err(Problem::internal(run.what(), "a task lost its key").into());
    };
    let new = matches!(choice, KeyChoice::New(_));
    if let KeyMark::Ready { key } = mark {
        return Ok(key);
    }
    run.check_cancelled().await?;
    if let KeyChoice::New(provider) = &choice {
        let made = match native::new_key(run, provider).await? {
            None => trusted::new_key(run, provider).await?,
            made => made,
        };
        if let Some((key, host)) = made {
            return ready(run, n, key, Some(host), true).await;
        }
    }
    let what = run.what();
    let provider = choice.provider().clone();
    run.say(&format!("asks key provider {provider} for a key"));
    if let KeyChoice::Existing(key) = &choice {
        let asked = std::slice::from_ref(key);
        if server_key::being_destroyed(&mut *run.controller.store.read().await?, asked).await?.is_some() {
            return fault(run, KeyFault::new(&provider, Some(key), keys::going(&what, key))).await;
        }
    }
    let servers = match keys::connect(&run.controller, &what, &provider).await {
        Ok(servers) => servers,
        Err(problem) => return fault(run, KeyFault::new(&provider, None, problem)).await,
    };
    let made = match (choice, mark) {
        (KeyChoice::Existing(key), _) | (_, KeyMark::Made { key }) => Made::known(key),
        (KeyChoice::New(_), mark) => {
            let maybe_there = mark == KeyMark::Wanted;
            set_mark(run, n, KeyMark::Wanted, "task.key-wanted", "asks the key server for a new key").await?;
            let name = keys::name_of(run.info.id, n);
            let made = match keys::locate_or_make(&what, &servers, &provider, &name, maybe_there).await {
                Ok(made) => made,
                Err(NotMade { fault: error, maybe_there }) => {
                    if !maybe_there && let Some(mark) = run.work.mark_mut(n) {
                        *mark = KeyMark::None;
                    }
                    let problem = keys::report(&run.controller, &run.subject(), *error).await;
                    let subject = EventSubject { provider: Some(provider), ..run.subject() };
                    run.controller.record_problem(EventKind::KeyNotMade, &subject, &problem).await;
                    return Err(problem.into());
                }
            };
            crash_point::reach("task.key-made-unknown");
            let mark = KeyMark::Made { key: made.key.clone() };
            set_mark(run, n, mark, "task.key-made", "makes the new key ready").await?;
            made
        }
    };
    if let Err(error) = keys::adopt(&what, &servers, &made.key).await {
        return fault(run, error).await;
    }
    crash_point::reach("task.key-active");
    let key = made.key.clone();
    let subject = EventSubject { key: Some(key.clone()), ..run.subject() };
    keys::make_ready(&run.controller, &subject, &servers, made, &Owner::vm(run.info.vm, &run.info.vm_name)).await?;
    ready(run, n, key, None, new).await
}

/// Writes down that a key can be used; a new one was made at a key server, or by a host.
async fn ready(run: &mut Run, n: usize, key: KeyRef, host: Option<HostId>, new: bool) -> Step<KeyRef> {
    if let Some(mark) = run.work.mark_mut(n) {
        *mark = KeyMark::Ready { key: key.clone() };
    }
    let mut tx = run.controller.store.write().await?;
    store::task::set_work(&mut tx, run.info.id, "key ready", &run.work).await?;
    if new {
        if keys::id_at_server(&key).is_some() {
            server_key::made(&mut tx, &key).await?;
        }
        let made = if host.is_some() { "made" } else { "made and activated" };
        let message = format!("key {key} {made} for VM `{}`", run.info.vm_name);
        run.event(&mut tx, EventKind::KeyCreated, host, Some(&key), &message).await?;
    }
    tx.commit().await?;
    crash_point::reach("task.key-ready");
    Ok(key)
}

async fn set_mark(run: &mut Run, n: usize, new: KeyMark, point: &str, step: &str) -> Step {
    if let Some(mark) = run.work.mark_mut(n) {
        *mark = new;
    }
    Ok(run.mark(point, step).await?)
}

async fn fault<T>(run: &Run, fault: KeyFault) -> Step<T> {
    Err(keys::report(&run.controller, &run.subject(), fault).await.into())
}
