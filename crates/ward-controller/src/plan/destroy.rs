//! Whether a key may be destroyed at its key server.

use std::path::PathBuf;

use jiff::{Timestamp, ToSpan as _};
use ward_types::{Code, KeyRef, Name, Problem, TaskId};

/// What is known of a key that somebody wants to destroy.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyFacts {
    /// The VMs of the inventory that need it.
    pub(crate) vms: Vec<Name>,
    /// The hosts of which it is the host key, or that keep dumps which it opens.
    pub(crate) hosts: Vec<Name>,
    /// The tasks that need it.
    pub(crate) tasks: Vec<TaskId>,
    /// The homes and disks on datastores that need it, in the inventory or not.
    pub(crate) uses: Vec<PathBuf>,
    /// Whether this controller had it made.
    pub(crate) made: bool,
    /// Since when nothing needs it.
    pub(crate) unneeded: Option<Timestamp>,
}

/// Until when a key is kept that nothing has needed for some time.
pub(crate) fn kept_until(unneeded: Timestamp, days: u32) -> Timestamp {
    unneeded.checked_add((i64::from(days) * 24).hours()).unwrap_or(Timestamp::MAX)
}

/// Refuses to destroy a key that something needs, that is somebody else's, or whose time is not over.
pub(crate) fn destroy(key: &KeyRef, facts: &KeyFacts, days: u32, now: Timestamp) -> Result<(), Problem> {
    let refuse =
        |code, why: String, remedy: String| Err(Problem::new(code, format!("cannot destroy key {key}"), why, remedy));
    if !facts.vms.is_empty() {
        let names: Vec<_> = facts.vms.iter().map(|name| format!("`{name}`")).collect();
        let why = format!("VM {} needs it", names.join(", "));
        return refuse(Code::InUse, why, "give the VM another key first: `ward vm recrypt`".to_owned());
    }
    if let Some(host) = facts.hosts.first() {
        let names: Vec<_> = facts.hosts.iter().map(|name| format!("`{name}`")).collect();
        let why = format!("host {} needs it, as its host key or for its dumps", names.join(", "));
        let remedy = format!("give the host another host key first: `ward host encryption rekey {host}`");
        return refuse(Code::InUse, why, remedy);
    }
    if let Some(task) = facts.tasks.first() {
        let remedy = format!("wait for it with `ward task watch {task}`");
        return refuse(Code::InUse, format!("task {task} needs it"), remedy);
    }
    if let Some(path) = facts.uses.first() {
        let why = format!("{} needs it, though it is not in the inventory", path.display());
        let remedy =
            "register that VM (`ward vm register`), or attach that disk to one, and give it another key; or delete it";
        return refuse(Code::InUse, why, remedy.to_owned());
    }
    if !facts.made {
        let why = "this controller did not have it made, and can't know what else needs it".to_owned();
        let remedy = "destroy it at the key server itself, once you are sure that nothing needs it";
        return refuse(Code::KeyNotOurs, why, remedy.to_owned());
    }
    let Some(until) = facts.unneeded.map(|since| kept_until(since, days)) else {
        let remedy = "`ward key ls --unneeded` lists the keys that nothing needs".to_owned();
        return refuse(Code::InUse, "it is not known since when nothing needs it".to_owned(), remedy);
    };
    if now < until {
        let why = format!("it is kept until {until:.0}: {days} days from when nothing needed it any more");
        let remedy = "destroy it after that; `ward key grace` shows and sets for how long keys are kept";
        return refuse(Code::KeyKept, why, remedy.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_types::KeyId;

    use super::*;

    #[test]
    fn a_key_is_destroyed_only_when_nothing_needs_it_and_its_time_is_over() {
        let key = KeyRef::standard("kms".parse().unwrap(), KeyId::try_from("7".to_owned()).unwrap());
        let unneeded: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let now = |text: &str| text.parse::<Timestamp>().unwrap();
        let free = KeyFacts { made: true, unneeded: Some(unneeded), ..KeyFacts::default() };
        let (early, late) = (now("2026-01-30T23:59:59Z"), now("2026-01-31T00:00:00Z"));
        let code = |facts: &KeyFacts, days, now| destroy(&key, facts, days, now).err().map(|problem| problem.code);
        assert_eq!(code(&free, 30, late), None);
        assert_eq!(code(&free, 30, early), Some(Code::KeyKept));
        assert_eq!(code(&free, 29, early), None);
        assert_eq!(code(&free, 0, unneeded), None);
        let problem = destroy(&key, &free, 30, early).unwrap_err();
        assert!(problem.why.contains("2026-01-31T00:00:00Z"), "{problem}");

        let vm = KeyFacts { vms: vec!["web".parse().unwrap()], ..free.clone() };
        let host = KeyFacts { hosts: vec!["a".parse().unwrap()], ..free.clone() };
        let task = KeyFacts { tasks: vec![TaskId::new()], ..free.clone() };
        let home = KeyFacts { uses: vec!["/srv/old".into()], ..free.clone() };
        let needed = KeyFacts { unneeded: None, ..free.clone() };
        let others = KeyFacts { made: false, ..free };
        for (facts, wanted, named) in [
            (vm, Code::InUse, "`web`"),
            (host, Code::InUse, "`a`"),
            (task.clone(), Code::InUse, &*task.tasks[0].to_string()),
            (home, Code::InUse, "/srv/old"),
            (needed, Code::InUse, "known"),
            (others, Code::KeyNotOurs, "this controller"),
        ] {
            let problem = destroy(&key, &facts, 0, late).unwrap_err();
            assert_eq!(problem.code, wanted, "{problem}");
            assert!(problem.why.contains(named) && problem.what.contains("kms/7"), "{problem}");
        }
    }
}
