//! How far running tasks are: in memory, since it changes too often to be written down.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::timeout;
use ward_types::{Problem, Progress, TaskId, TaskInfo, TaskState};

use crate::store::{Store, task};

/// How far one running task is.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Grows with each change, over restarts of the controller too.
    pub(crate) revision: u64,
    pub(crate) step: String,
    pub(crate) progress: Progress,
}

/// All running tasks.
#[derive(Default)]
pub(crate) struct Board(Mutex<HashMap<TaskId, watch::Sender<Live>>>);

/// A revision that is above all given out before: microseconds since 1970, as long as nothing changes more often.
fn revision_now() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0)
}

impl Board {
    /// Puts a task on the board.
    pub(crate) fn add(&self, info: &TaskInfo) -> watch::Sender<Live> {
        let live = Live { revision: revision_now(), step: info.step.clone(), progress: info.progress };
        let sender = watch::Sender::new(live);
        self.lock().insert(info.id, sender.clone());
        sender
    }

    /// Takes it off.
    pub(crate) fn remove(&self, id: TaskId) {
        self.lock().remove(&id);
    }

    pub(crate) fn get(&self, id: TaskId) -> Option<watch::Sender<Live>> {
        self.lock().get(&id).cloned()
    }

    /// A task as it is now, with its revision.
    pub(crate) fn merged(&self, mut info: TaskInfo) -> (TaskInfo, u64) {
        match self.get(info.id).filter(|_| !info.state.is_final()) {
            Some(live) => {
                let live = live.borrow();
                info.step.clone_from(&live.step);
                info.progress = live.progress;
                if info.state == TaskState::Queued {
                    info.state = TaskState::Running;
                }
                (info, live.revision)
            }
            None => {
                let changed = info.ended.unwrap_or(info.created).as_microsecond();
                // An end is above every revision that the task had while it ran.
                (info, u64::try_from(changed).unwrap_or(0))
            }
        }
    }

    /// Waits until the task's revision is above `seen` or it has ended, at most so long, and tells how it is.
    pub(crate) async fn watch(
        &self,
        store: &Store,
        id: TaskId,
        seen: u64,
        wait: Duration,
    ) -> Result<Option<(TaskInfo, u64)>, Problem> {
        // No sender is kept here: that the last one goes is how the end is noticed.
        if let Some(mut live) = self.get(id).map(|live| live.subscribe()) {
            // That nothing happened, and that the task ended, are both answers.
            let _ = timeout(wait, live.wait_for(|live| live.revision > seen)).await;
        }
        let info = task::get(&mut *store.read().await?, id).await?;
        Ok(info.map(|info| self.merged(info)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, watch::Sender<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes what the board says of a task.
pub(crate) fn change(live: &watch::Sender<Live>, change: impl FnOnce(&mut Live)) {
    live.send_modify(|live| {
        change(live);
        live.revision = revision_now().max(live.revision + 1);
    });
}
