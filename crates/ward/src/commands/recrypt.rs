//! `ward recrypt`.

use clap::{Args, Subcommand};
use serde::Serialize;
use ward_controller::api::types::{RecryptionPlanVm, RecryptionRequest, RecryptionState, RecryptionView, RecryptionVm};
use ward_types::{Problem, ProviderName, TaskId};

use super::parse_days;
use crate::client::Api;
use crate::output::{Output, counting_bar, fields, table};

/// How often a run that is followed is looked at.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// New keys for many VMs.
#[derive(Subcommand)]
pub(crate) enum Recrypt {
    /// Show which VMs would get new keys, and begin nothing.
    Plan(Which),
    /// Give many VMs new KEKs, whether they run or not. It goes on by itself; this follows it.
    #[command(
        after_help = "Examples:\n  ward recrypt run --provider old-kms --to new-kms     move everything to another \
                            key server\n  ward recrypt run --provider kms --older-than 90d    replace old keys\n\nEach \
                            VM gets a new KEK, as with `ward vm recrypt`: its data are not written anew, and an old \
                            copy of a\ndisk's header (in a backup, say) still opens with the old KEK. Where that KEK \
                            may be known to others, take\n`ward vm recrypt --deep`."
    )]
    Run(Run),
    /// List runs, the newest first.
    Ls,
    /// Show a run: the report.
    Show {
        /// The run's ID.
        run: TaskId,
    },
    /// Begin no more VMs until the run is resumed.
    Pause {
        /// The run's ID.
        run: TaskId,
    },
    /// Go on with a run that was paused.
    Resume {
        /// The run's ID.
        run: TaskId,
    },
    /// Begin no more VMs; those that were begun are finished.
    Cancel {
        /// The run's ID.
        run: TaskId,
    },
}

/// Which keys.
#[derive(Args)]
pub(crate) struct Which {
    /// Only keys of this provider.
    #[arg(long, required_unless_present_any = ["older_than", "due"])]
    provider: Option<ProviderName>,
    /// The provider of the new keys; that of each old one unless named.
    #[arg(long)]
    to: Option<ProviderName>,
    /// Only keys that have been in use for so many days, such as 90d.
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    older_than: Option<u32>,
    /// Only keys that are older than their storage policy or their provider allows.
    #[arg(long)]
    due: bool,
}

/// `ward recrypt run`.
#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    which: Which,
    /// How many VMs to work on at a time.
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Don't wait until it is done.
    #[arg(long)]
    no_wait: bool,
}

impl Which {
    fn request(self, concurrency: Option<u32>) -> RecryptionRequest {
        let Self { provider, to, older_than, due } = self;
        RecryptionRequest { provider, to, older_than_days: older_than, due, concurrency }
    }
}

impl Recrypt {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        match self {
            Self::Plan(which) => {
                let plan: Vec<RecryptionPlanVm> = api.list_for("/recryptions/plan", &which.request(None)).await?;
                output.show(&plan, || describe_plan(&plan))
            }
            Self::Run(Run { which, concurrency, no_wait }) => {
                let mut view: RecryptionView = api.post("/recryptions", &which.request(concurrency)).await?;
                if !no_wait {
                    view = follow(&api, view).await?;
                }
                show(&api, &view, output).await
            }
            Self::Ls => {
                let views: Vec<RecryptionView> = api.list("/recryptions").await?;
                output.show(&views, || {
                    let row = |view: &RecryptionView| {
                        vec![
                            view.id.to_string(),
                            view.state.to_string(),
                            format!("{} of {}", view.done, view.total),
                            view.failed.to_string(),
                            view.user.to_string(),
                            format!("{:.0}", view.created),
                        ]
                    };
                    table(&["id", "state", "done", "failed", "user", "begun"], views.iter().map(row))
                })
            }
            Self::Show { run } => show(&api, &api.get(&format!("/recryptions/{run}")).await?, output).await,
            Self::Pause { run } => change(&api, run, "pause", output).await,
            Self::Resume { run } => change(&api, run, "resume", output).await,
            Self::Cancel { run } => change(&api, run, "cancel", output).await,
        }
    }
}

/// Shows how far a run is until it ends or is paused.
async fn follow(api: &Api, mut view: RecryptionView) -> Result<RecryptionView, Problem> {
    let bar = counting_bar(format!("recryption {}", view.id));
    while view.state == RecryptionState::Running {
        bar.set_length(view.total as u64);
        bar.set_position(view.done as u64);
        tokio::time::sleep(LOOK_EVERY).await;
        view = api.get(&format!("/recryptions/{}", view.id)).await?;
    }
    bar.finish_and_clear();
    Ok(view)
}

async fn change(api: &Api, run: TaskId, verb: &str, output: Output) -> Result<(), Problem> {
    show(api, &api.post(&format!("/recryptions/{run}/{verb}"), &()).await?, output).await
}

fn describe_plan(plan: &[RecryptionPlanVm]) -> String {
    if plan.is_empty() {
        return "no key is to be replaced".to_owned();
    }
    let rows = plan.iter().flat_map(|vm| {
        vm.components.iter().map(|part| {
            vec![
                vm.name.to_string(),
                part.component.to_string(),
                part.key.to_string(),
                format!("{:.0}", part.since),
                part.to.to_string(),
            ]
        })
    });
    table(&["vm", "component", "key", "in use since", "new key of"], rows)
}

/// A recryption with all its VMs.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    view: &'a RecryptionView,
    vms: Vec<RecryptionVm>,
}

async fn show(api: &Api, view: &RecryptionView, output: Output) -> Result<(), Problem> {
    // One of no VMs is nobody's.
    let vms = if view.total == 0 { Vec::new() } else { api.list(&format!("/recryptions/{}/vms", view.id)).await? };
    let report = Report { view, vms };
    output.show(&report, || {
        let head = fields(&[
            ("id", view.id.to_string()),
            ("state", view.state.to_string()),
            ("done", format!("{} of {} VMs", view.done, view.total)),
            ("failed", view.failed.to_string()),
            ("user", view.user.to_string()),
            ("begun", view.created.to_string()),
            ("ended", view.ended.map_or_else(String::new, |time| time.to_string())),
        ]);
        if report.vms.is_empty() {
            return head;
        }
        let rows = report.vms.iter().map(|vm| {
            let why = vm.problem.as_ref().map_or_else(String::new, |problem| problem.why.clone());
            vec![vm.name.to_string(), vm.state.to_string(), why]
        });
        format!("{head}\n{}", table(&["vm", "state", "why"], rows))
    })
}
