//! Following a task to its end.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ward_controller::api::types::{TaskView, WatchQuery};
use ward_types::{Problem, TaskState};

use super::{Api, WAIT_MS};
use crate::output::Output;

/// Shows how far a task is until it ends: to people; a script's standard error is for the problem alone. Interrupting this
/// does not interrupt the task.
///
/// # Errors
/// The task's own problem, where it fails.
pub(crate) async fn follow(api: &Api, task: TaskView, output: Output) -> Result<TaskView, Problem> {
    let mut shown = Shown::new(output);
    let mut task = task;
    loop {
        shown.update(&task);
        if task.info.state.is_final() {
            break;
        }
        let query = WatchQuery { seen: task.revision, wait_ms: WAIT_MS };
        task = match api.query(&format!("/tasks/{}", task.info.id), &query).await {
            Ok(task) => task,
            Err(mut problem) => {
                problem.what = format!("cannot follow task {}: {}", task.info.id, problem.what);
                problem.remedy = format!("it goes on; see `ward task watch {}`. {}", task.info.id, problem.remedy);
                return Err(problem);
            }
        };
    }
    shown.end();
    match &task.info.problem {
        Some(problem) if task.info.state == TaskState::Failed => Err(problem.clone()),
        _ => Ok(task),
    }
}

/// A bar on a terminal, lines elsewhere.
struct Shown {
    output: Output,
    bar: Option<ProgressBar>,
    line: String,
}

impl Shown {
    fn new(output: Output) -> Self {
        let bar =
            std::io::stderr().is_terminal().then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
        Self { output, bar, line: String::new() }
    }

    fn update(&mut self, task: &TaskView) {
        let info = &task.info;
        let progress = info.progress;
        if let Some(bar) = &self.bar {
            let template = if progress.total > 0 {
                "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"
            } else {
                "{spinner} {msg}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(format!("{} {}: {}", info.kind, info.vm_name, info.step));
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.tick();
            return;
        }
        // In steps of a quarter, so that a log stays readable.
        let quarter = (progress.done.saturating_mul(4)).checked_div(progress.total).map(|quarter| quarter * 25);
        let percent = quarter.map_or_else(String::new, |percent| format!(" {percent}%"));
        let line = format!("{} {}: {}{percent}", info.kind, info.vm_name, info.step);
        if line != self.line && !info.state.is_final() && self.output == Output::Table {
            eprintln!("{line}");
            self.line = line;
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
