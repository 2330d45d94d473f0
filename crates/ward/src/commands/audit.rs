//! `ward audit`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use ward_controller::api::types::{AuditCount, AuditQuery};
use ward_controller::audit::{Broken, Head, Verifier};
use ward_types::{AuditEntry, AuditOutcome, AuditRecord, Code, Problem};

use crate::client::{Api, ClientConfig};
use crate::output::{Output, print_text, table};

/// What to do with the audit log.
#[derive(Subcommand)]
pub(crate) enum Audit {
    /// List entries: who was allowed or refused what, on what, under which keys, and what came of it.
    #[command(after_help = "Examples:\n  ward audit ls --refused\n  ward audit ls --user alice --operation vm.decrypt")]
    Ls {
        /// Only those after this number.
        #[arg(long, default_value_t = 0)]
        after: i64,
        /// Only the last so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Only those of this user.
        #[arg(long)]
        user: Option<String>,
        /// Only those of this operation, such as `vm.encrypt`.
        #[arg(long)]
        operation: Option<String>,
        /// Only refusals.
        #[arg(long)]
        refused: bool,
    },
    /// Check that no entry was changed, removed or moved, and print the log's head.
    #[command(
        after_help = "Whoever can write to the controller's database can cut off the log's end, or write it anew. \
                            That shows only against\na head that was noted before and kept elsewhere. This client \
                            remembers the one that it met last; others:\n  ward audit \
                            verify --head 1234:9f86d0...\n  ward audit verify --since audit.jsonl     # the head of an \
                            earlier export\n  ward audit verify --file audit.jsonl      # an export by itself"
    )]
    Verify {
        /// A head that was noted before, NUMBER:HASH.
        #[arg(long)]
        head: Option<Head>,
        /// An earlier export, whose head the log must still have.
        #[arg(long, value_name = "FILE", conflicts_with = "head")]
        since: Option<PathBuf>,
        /// Check this export, instead of the controller's log.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Write the log to a file: an entry a line, the head last. It is checked on the way.
    #[command(after_help = "Example, each night:\n  ward audit export audit-$(date +%F).jsonl")]
    Export {
        /// The file; it is replaced.
        file: PathBuf,
    },
}

/// The last line of an export.
#[derive(Serialize, Deserialize)]
struct Last {
    head: String,
}

impl Audit {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        match self {
            Self::Ls { after, limit, user, operation, refused } => {
                let wanted = |entry: &AuditEntry| {
                    user.as_ref().is_none_or(|user| &entry.user == user)
                        && operation.as_ref().is_none_or(|operation| &entry.operation == operation)
                        && (!refused || entry.outcome == AuditOutcome::Refused)
                };
                let mut entries: Vec<AuditEntry> = Vec::new();
                each(&Api::open()?, after, |record| {
                    let entry = serde_json::from_str(&record.entry).map_err(|error| {
                        let what = "cannot read the audit log";
                        let why = format!("an entry makes no sense: {error}");
                        Problem::new(Code::Internal, what, why, "see what is wrong with it: `ward audit verify`")
                    })?;
                    if wanted(&entry) {
                        entries.push(entry);
                    }
                    if entries.len() > limit.saturating_mul(2) {
                        entries.drain(..entries.len() - limit);
                    }
                    Ok(())
                })
                .await?;
                entries.drain(..entries.len().saturating_sub(limit));
                output.show(&entries, || {
                    table(&["no", "time", "user", "operation", "outcome", "on", "particulars"], entries.iter().map(row))
                })
            }
            Self::Verify { head, since, file } => {
                let noted = match since {
                    Some(path) => Some(read_export(&path, None)?),
                    None => head,
                };
                let head = match file {
                    Some(path) => read_export(&path, noted)?,
                    None => verify(noted).await?,
                };
                output.show(&Last { head: head.to_string() }, || {
                    format!("the audit log is whole: {} entries\nhead: {head}", head.number)
                })
            }
            Self::Export { file } => {
                let failed = |error: std::io::Error| unwritten(&file, &error);
                let new = file.with_extension("new");
                let mut out = BufWriter::new(File::create(&new).map_err(failed)?);
                let mut verifier = Verifier::new(None);
                each(&Api::open()?, 0, |record| {
                    verifier.next(record).map_err(broken)?;
                    write_line(&mut out, record).map_err(failed)
                })
                .await?;
                let head = verifier.finish().map_err(broken)?;
                write_line(&mut out, &Last { head: head.to_string() }).map_err(failed)?;
                let out = out.into_inner().map_err(|error| failed(error.into_error()))?;
                out.sync_all().map_err(failed)?;
                std::fs::rename(&new, &file).map_err(failed)?;
                match output {
                    Output::Table => print_text(&format!("{}: {} entries, head {head}", file.display(), head.number)),
                    Output::Json => output.show(&Last { head: head.to_string() }, String::new),
                }
            }
        }
    }
}

/// Checks the controller's log, against a head that was noted: the one that is given, or else the one that this user's
/// client met last. Notes the head as it is now.
async fn verify(noted: Option<Head>) -> Result<Head, Problem> {
    let mut config = ClientConfig::load()?;
    let met = config.audit_head.as_deref().and_then(|head| head.parse().ok());
    let api = Api::new(&config)?;
    // Before the entries: what comes meanwhile is more.
    let AuditCount { entries } = api.get("/audit/count").await?;
    let mut verifier = Verifier::new(noted.or(met));
    each(&api, 0, |record| verifier.next(record).map(drop).map_err(broken)).await?;
    let head = verifier.finish().map_err(broken)?;
    if let Ok(number) = u64::try_from(entries)
        && head.number < number
    {
        return Err(broken(Broken::Cut { ends: head.number, number }));
    }
    config.audit_head = Some(head.to_string());
    config.save()?;
    Ok(head)
}

/// Hands over every entry after number `after`, in order.
async fn each(api: &Api, after: i64, mut take: impl FnMut(&AuditRecord) -> Result<(), Problem>) -> Result<(), Problem> {
    let query = AuditQuery { after: Some(after), limit: Some(ward_controller::api::MAX_LIMIT) };
    let mut page = api.page::<AuditRecord>("/audit", &query).await?;
    loop {
        page.items.iter().try_for_each(&mut take)?;
        page = match page.next {
            Some(next) => api.next_page(&next).await?,
            None => return Ok(()),
        };
    }
}

/// Checks an export; gives its head.
fn read_export(path: &Path, noted: Option<Head>) -> Result<Head, Problem> {
    let bad = |why: String| {
        let what = format!("cannot read the export {}", path.display());
        Problem::new(Code::RequestInvalid, what, why, "name a file that `ward audit export` wrote")
    };
    let file = File::open(path).map_err(|error| bad(error.to_string()))?;
    let mut verifier = Verifier::new(noted);
    let mut last = None;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| bad(error.to_string()))?;
        match serde_json::from_str::<AuditRecord>(&line) {
            Ok(record) if last.is_none() => drop(verifier.next(&record).map_err(broken)?),
            Ok(_) => return Err(bad("there are entries after its head".to_owned())),
            Err(_) => {
                let line: Last = serde_json::from_str(&line).map_err(|error| bad(error.to_string()))?;
                last = Some(line.head.parse::<Head>().map_err(bad)?);
            }
        }
    }
    let head = verifier.finish().map_err(broken)?;
    match last {
        None => Err(bad("its last line, the head, is missing".to_owned())),
        Some(last) if last != head => Err(broken(Broken::Cut { ends: head.number, number: last.number })),
        Some(head) => Ok(head),
    }
}

fn write_line(out: &mut impl std::io::Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

fn unwritten(path: &Path, error: &std::io::Error) -> Problem {
    let what = "cannot export the audit log";
    Problem::new(Code::StorageIo, what, format!("{}: {error}", path.display()), "name a file that can be written")
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn broken(broken: Broken) -> Problem {
    Problem::new(
        Code::AuditBroken,
        "the audit log is not whole",
        broken.to_string(),
        "compare it with an earlier export; somebody has written to the controller's database",
    )
}

fn row(entry: &AuditEntry) -> Vec<String> {
    let on = match entry.object.kind() {
        ward_types::ObjectKind::Root => "root".to_owned(),
        kind => format!("{kind}/{}", entry.object_name),
    };
    let keys = entry.keys.iter().map(|key| format!("key {key}"));
    let detail = Some(entry.detail.clone()).filter(|detail| !detail.is_empty());
    vec![
        entry.number.to_string(),
        format!("{:.0}", entry.time),
        entry.user.clone(),
        entry.operation.clone(),
        entry.outcome.to_string(),
        on,
        detail.into_iter().chain(keys).collect::<Vec<_>>().join("; "),
    ]
}
