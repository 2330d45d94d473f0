//! `ward key`.

use clap::Subcommand;
use serde::Serialize;
use ward_controller::api::MAX_LIMIT;
use ward_controller::api::types::{CheckKeys, KeyCheck, KeyGrace, KeyQuery, KeyUser, KeyView, OrphanView};
use ward_types::{Code, Problem, ProviderName};

use super::done;
use crate::client::Api;
use crate::output::{Output, counting_bar, fields, table};

/// What to do with keys.
#[derive(Subcommand)]
pub(crate) enum Key {
    /// List the keys that the inventory needs, or needed: whether each is still at its key server, who needs and holds it.
    Ls {
        /// Those of one key provider.
        #[arg(long)]
        provider: Option<ProviderName>,
        /// Those only that nothing needs any more.
        #[arg(long)]
        unneeded: bool,
        /// Without asking key servers.
        #[arg(long)]
        offline: bool,
    },
    /// Show a key: its state at the key server, the VMs, disks and tasks that need it, the hosts that hold it.
    Show {
        /// The key, PROVIDER/ID.
        key: String,
    },
    /// Make sure that every key that the inventory needs can be had, before a reboot does.
    #[command(
        after_help = "Exit code 6 says that a key can't be had; each such key is an event as well.\n\nThe key servers \
                            are asked for the keys' states. With --fetch the controller gets each key, as it would for a \
                            host, and forgets it at once."
    )]
    Check {
        /// Get each key, in the place of asking for its state.
        #[arg(long)]
        fetch: bool,
    },
    /// Look at a key server for keys that were made for tasks, or as host keys, and came to nothing. They are then among the
    /// keys that nothing needs.
    Orphans {
        /// The key provider.
        provider: ProviderName,
    },
    /// Destroy keys at their key servers, for good. Only keys that nothing has needed for some time (`ward key grace`).
    #[command(
        after_help = "Example:\n  ward key ls --unneeded\n  ward key destroy kms/42\n\nBackups that are encrypted under \
                            a destroyed key can't be opened any more."
    )]
    Destroy {
        /// The keys, PROVIDER/ID.
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Show or set for how long keys that nothing needs are kept from being destroyed.
    Grace {
        /// So many days, such as 30d; with 0d they can be destroyed at once.
        #[arg(value_name = "DAYS", value_parser = days)]
        days: Option<u32>,
    },
}

/// What a check of all keys came to.
#[derive(Serialize)]
struct Checked {
    checked: usize,
    faults: Vec<KeyView>,
}

impl Key {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        match self {
            Self::Ls { provider, unneeded, offline } => {
                let provider = provider.map(|name| name.to_string());
                let query = KeyQuery { provider, unneeded, offline, limit: Some(MAX_LIMIT), after: None };
                let keys: Vec<KeyView> = api.list_of("/keys", &query, usize::MAX).await?;
                output.show(&keys, || list(&keys))
            }
            Self::Show { key } => {
                let key: KeyView = api.get(&path(&key)).await?;
                output.show(&key, || describe(&key))
            }
            Self::Check { fetch } => check(&api, fetch, output).await,
            Self::Orphans { provider } => {
                let orphans: Vec<OrphanView> =
                    api.post(&format!("/providers/{provider}/orphans?limit=1000"), &()).await?;
                output.show(&orphans, || {
                    let rows = orphans.iter().map(|orphan| {
                        let whose = match (orphan.ours, &orphan.kept_until) {
                            (true, Some(until)) => format!("ours, kept until {until:.0}"),
                            (true, None) => "ours".to_owned(),
                            (false, _) => "another controller's?".to_owned(),
                        };
                        vec![orphan.name.clone(), orphan.label.clone(), whose]
                    });
                    table(&["key", "name at the key server", "whose"], rows)
                })
            }
            Self::Destroy { keys } => {
                for key in &keys {
                    let () = api.delete(&path(key)).await?;
                    if output == Output::Table {
                        done(output, &format!("key {key}: destroyed"))?;
                    }
                }
                if output == Output::Json { output.show(&keys, String::new) } else { Ok(()) }
            }
            Self::Grace { days } => {
                let grace: KeyGrace = match days {
                    Some(days) => api.put("/keys/grace", &KeyGrace { days }).await?,
                    None => api.get("/keys/grace").await?,
                };
                output.show(&grace, || format!("keys that nothing needs are kept for {} days", grace.days))
            }
        }
    }
}

/// Looks for all keys, some at a time, and tells how far it is.
async fn check(api: &Api, fetch: bool, output: Output) -> Result<(), Problem> {
    let bar = counting_bar("keys".to_owned());
    let mut all = Checked { checked: 0, faults: Vec::new() };
    let mut after = None;
    loop {
        let asked = CheckKeys { fetch, after: after.take(), limit: None };
        let mut part: KeyCheck = api.post("/keys/check", &asked).await?;
        all.checked += part.checked;
        all.faults.append(&mut part.faults);
        bar.set_length(part.total as u64);
        bar.set_position(all.checked as u64);
        after = part.next;
        if after.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    output.show(&all, || {
        let lost = all.faults.len();
        let verdict = format!("{} keys looked for, {lost} of them can't be had", all.checked);
        if lost == 0 { verdict } else { format!("{}\n\n{verdict}", list(&all.faults)) }
    })?;
    let Some(first) = all.faults.first() else { return Ok(()) };
    let problem = first.problem.clone();
    Err(Problem::new(
        problem.as_ref().map_or(Code::KeyMissing, |problem| problem.code),
        format!("{} of {} keys can't be had", all.faults.len(), all.checked),
        problem.as_ref().map_or_else(|| first.name.clone(), |problem| problem.why.clone()),
        problem.map_or_else(String::new, |problem| problem.remedy),
    ))
}

/// Where the API has a key.
fn path(key: &str) -> String {
    let mut path = "/keys/".to_owned();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            byte => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

fn days(text: &str) -> Result<u32, String> {
    let days = text.strip_suffix('d').unwrap_or(text).parse();
    days.map_err(|_| format!("`{text}` is no number of days; give one such as 30d"))
}

fn user(user: &KeyUser) -> String {
    let home = user.home.then(|| "home".to_owned());
    let parts: Vec<_> = home.into_iter().chain(user.disks.iter().map(ToString::to_string)).collect();
    format!("{} ({})", user.vm, parts.join(", "))
}

fn state(key: &KeyView) -> String {
    match key.state {
        Some(state) => format!("{}, {state}", key.standing),
        None => key.standing.to_string(),
    }
}

fn list(keys: &[KeyView]) -> String {
    let rows = keys.iter().map(|key| {
        let needed = match &key.unneeded_since {
            Some(since) => format!("nothing, since {since:.0}"),
            None => {
                let tasks = key.tasks.iter().map(|task| format!("task {task}"));
                let hosts = key.host_key_of.iter().map(|host| format!("host {host}"));
                key.vms.iter().map(user).chain(hosts).chain(tasks).collect::<Vec<_>>().join("; ")
            }
        };
        vec![key.name.clone(), state(key), needed, key.hosts.len().to_string()]
    });
    table(&["key", "at its provider", "needed by", "hosts"], rows)
}

fn describe(key: &KeyView) -> String {
    let lines = |items: Vec<String>| items.join("\n");
    let problem = key.problem.as_ref().map_or_else(String::new, |it| format!("{}\n{}", it.why, it.remedy));
    fields(&[
        ("key", key.name.clone()),
        ("provider", key.key.provider.to_string()),
        ("at its provider", state(key)),
        ("problem", problem),
        ("made by", if key.made { "this controller" } else { "somebody else" }.to_owned()),
        ("VMs", lines(key.vms.iter().map(user).collect())),
        ("host key of", lines(key.host_key_of.iter().map(ToString::to_string).collect())),
        ("tasks", lines(key.tasks.iter().map(ToString::to_string).collect())),
        ("hosts", lines(key.hosts.iter().map(ToString::to_string).collect())),
        ("unneeded since", key.unneeded_since.map_or_else(String::new, |time| format!("{time:.0}"))),
        ("kept until", key.kept_until.map_or_else(String::new, |time| format!("{time:.0}"))),
    ])
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn any_key_has_a_path_of_its_own() {
        assert_eq!(path("kms/42"), "/keys/kms%2F42");
        assert_eq!(path("kms/a/b?c d"), "/keys/kms%2Fa%2Fb%3Fc%20d");
    }
}
