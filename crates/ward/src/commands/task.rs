//! `ward task`.

use clap::Subcommand;
use ward_controller::api::types::{TaskQuery, TaskView};
use ward_types::{Problem, TaskId};

use crate::client::{Api, follow};
use crate::output::{Output, fields, table};

/// What to do with tasks.
#[derive(Subcommand)]
pub(crate) enum Task {
    /// List tasks, the newest first.
    Ls {
        /// Only those that have not ended.
        #[arg(long)]
        open: bool,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show a task.
    Show {
        /// The task's ID.
        task: TaskId,
    },
    /// Follow a task until it ends.
    Watch {
        /// The task's ID.
        task: TaskId,
    },
    /// Cancel a task; it undoes itself.
    Cancel {
        /// The task's ID.
        task: TaskId,
    },
}

impl Task {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        match self {
            Self::Ls { open, limit } => {
                let tasks: Vec<TaskView> = {
                    let page = limit.min(ward_controller::api::MAX_LIMIT);
                    let query = TaskQuery { open, limit: Some(page), after: None };
                    api.list_of("/tasks", &query, limit as usize).await?
                };
                output.show(&tasks, || {
                    let rows = tasks.iter().map(|task| {
                        let info = &task.info;
                        vec![
                            info.id.to_string(),
                            info.kind.to_string(),
                            info.vm_name.to_string(),
                            info.state.to_string(),
                            percent(task),
                            info.user.to_string(),
                            format!("{:.0}", info.created),
                        ]
                    });
                    table(&["id", "task", "vm", "state", "done", "user", "begun"], rows)
                })
            }
            Self::Show { task } => {
                let task: TaskView = api.get(&format!("/tasks/{task}")).await?;
                output.show(&task, || describe(&task))
            }
            Self::Watch { task } => {
                let task = follow(&api, api.get(&format!("/tasks/{task}")).await?, output).await?;
                output.show(&task, || describe(&task))
            }
            Self::Cancel { task } => {
                let () = api.post(&format!("/tasks/{task}/cancel"), &()).await?;
                output.note(&format!("task {task}: asked to end"))
            }
        }
    }
}

fn percent(task: &TaskView) -> String {
    let progress = task.info.progress;
    progress.done.saturating_mul(100).checked_div(progress.total).map_or_else(String::new, |done| format!("{done}%"))
}

fn describe(task: &TaskView) -> String {
    let info = &task.info;
    let problem = info.problem.as_ref();
    fields(&[
        ("id", info.id.to_string()),
        ("task", info.kind.to_string()),
        ("VM", info.vm_name.to_string()),
        ("state", info.state.to_string()),
        ("step", info.step.clone()),
        ("done", percent(task)),
        ("user", info.user.to_string()),
        ("begun", info.created.to_string()),
        ("ended", info.ended.map_or_else(String::new, |time| time.to_string())),
        ("error", problem.map_or_else(String::new, ToString::to_string)),
        ("next", problem.map_or_else(String::new, |problem| problem.remedy.clone())),
    ])
}
