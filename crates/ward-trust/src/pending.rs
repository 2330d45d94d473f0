//! Questions that were asked and may be answered once: by whom they were asked of, and not for long.

use std::collections::HashMap;
use std::time::Duration;

use attest::binding::CertThumbprint;
use jiff::Timestamp;
use uuid::Uuid;

/// Open questions. A peer has one at a time: asking again forgets the one before.
pub(crate) struct Pending<T> {
    lifetime: Duration,
    /// Questions that are open at one time, at most.
    capacity: usize,
    open: HashMap<CertThumbprint, Question<T>>,
}

struct Question<T> {
    id: Uuid,
    asked: Timestamp,
    content: T,
}

impl<T> Pending<T> {
    pub(crate) fn new(lifetime: Duration, capacity: usize) -> Self {
        Self { lifetime, capacity, open: HashMap::new() }
    }

    /// Asks a peer; `None` if too many questions are open.
    pub(crate) fn ask(&mut self, peer: CertThumbprint, content: T, now: Timestamp) -> Option<Uuid> {
        if self.open.len() >= self.capacity && !self.open.contains_key(&peer) {
            let lifetime = self.lifetime;
            self.open.retain(|_, question| is_fresh(question.asked, lifetime, now));
            if self.open.len() >= self.capacity {
                return None;
            }
        }
        let id = Uuid::new_v4();
        self.open.insert(peer, Question { id, asked: now, content });
        Some(id)
    }

    /// Takes a question that a peer answers. Whatever the answer is, there is no second one.
    pub(crate) fn take(&mut self, peer: CertThumbprint, id: Uuid, now: Timestamp) -> Option<T> {
        if self.open.get(&peer)?.id != id {
            return None;
        }
        let question = self.open.remove(&peer)?;
        is_fresh(question.asked, self.lifetime, now).then_some(question.content)
    }
}

fn is_fresh(asked: Timestamp, lifetime: Duration, now: Timestamp) -> bool {
    asked <= now && now.duration_since(asked).unsigned_abs() <= lifetime
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::ToSpan;

    use super::*;

    const CAPACITY: usize = 100;

    fn peer(number: usize) -> CertThumbprint {
        CertThumbprint::of(&number.to_le_bytes())
    }

    #[test]
    fn a_question_is_answered_once_by_whom_it_was_asked_of_and_in_time() {
        let mut pending = Pending::new(Duration::from_secs(60), CAPACITY);
        let now = Timestamp::UNIX_EPOCH + 1.hour();
        let id = pending.ask(peer(1), "question", now).unwrap();
        assert_eq!(pending.take(peer(2), id, now), None);
        assert_eq!(pending.take(peer(1), Uuid::new_v4(), now), None);
        assert_eq!(pending.take(peer(1), id, now), Some("question"));
        assert_eq!(pending.take(peer(1), id, now), None, "a second answer");

        let id = pending.ask(peer(1), "question", now).unwrap();
        assert_eq!(pending.take(peer(1), id, now + 61.seconds()), None);
        assert_eq!(pending.take(peer(1), id, now), None, "late once is late for good");
        let id = pending.ask(peer(1), "question", now).unwrap();
        assert_eq!(pending.take(peer(1), id, now - 1.second()), None);

        let first = pending.ask(peer(1), "first", now).unwrap();
        let second = pending.ask(peer(1), "second", now).unwrap();
        assert_eq!(pending.take(peer(1), first, now), None);
        assert_eq!(pending.take(peer(1), second, now), Some("second"));
    }

    #[test]
    fn too_many_questions_are_not_asked() {
        let mut pending = Pending::new(Duration::from_secs(60), CAPACITY);
        let now = Timestamp::UNIX_EPOCH + 1.hour();
        for number in 0..CAPACITY {
            pending.ask(peer(number), (), now).unwrap();
        }
        assert_eq!(pending.ask(peer(CAPACITY), (), now), None);
        assert!(pending.ask(peer(0), (), now).is_some(), "who asks again takes no more room");
        assert!(pending.ask(peer(CAPACITY), (), now + 61.seconds()).is_some(), "old ones make room");
    }
}
