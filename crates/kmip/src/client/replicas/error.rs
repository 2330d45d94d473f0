//! Why none of several servers gave an answer.

use std::sync::Arc;

use crate::client::ClientError;
use crate::client::roster::{Attempt, Verdict};
use crate::names::{Operation, ResultReason};

/// Why none of the servers gave an answer, or which of their answers stands.
#[derive(Debug)]
pub struct ReplicasError {
    operation: Operation,
    /// The one that decides first.
    failures: Vec<Arc<ClientError>>,
    in_doubt: bool,
}

impl ReplicasError {
    pub(super) fn new(operation: Operation, attempt: Attempt) -> Self {
        Self { operation, in_doubt: attempt.is_in_doubt(), failures: attempt.into_failures() }
    }

    /// What to go by: an answer that stands; else what may have been done by a server that failed; else a server that
    /// could not be asked; and only when every server says that it lacks the object, that.
    #[must_use]
    pub fn decisive(&self) -> Option<&ClientError> {
        self.failures.first().map(AsRef::as_ref)
    }

    /// Every server's failure, the decisive one first.
    pub fn failures(&self) -> impl Iterator<Item = &ClientError> {
        self.failures.iter().map(AsRef::as_ref)
    }

    /// What was asked.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The reason of the server whose answer stands, or of all when they lack the object.
    #[must_use]
    pub fn result_reason(&self) -> Option<ResultReason> {
        self.decisive()?.result_reason()
    }

    /// Whether every server answered, and none has the object.
    #[must_use]
    pub fn is_missing_everywhere(&self) -> bool {
        !self.failures.is_empty() && self.failures.iter().all(|error| Verdict::of(error) == Verdict::Lacks)
    }

    /// Whether what was asked for may have been done although no answer came (see
    /// [`ClientError::may_have_taken_effect`]).
    #[must_use]
    pub fn may_have_taken_effect(&self) -> bool {
        self.in_doubt
    }
}

impl std::fmt::Display for ReplicasError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.failures.as_slice() {
            [] => write!(f, "there is no server to ask for {}", self.operation),
            [only] => write!(f, "{only}"),
            several => {
                write!(f, "{} failed at {} servers", self.operation, several.len())?;
                several
                    .iter()
                    .enumerate()
                    .try_for_each(|(number, failure)| write!(f, "{} {failure}", if number == 0 { ":" } else { ";" }))
            }
        }
    }
}

impl std::error::Error for ReplicasError {}
