//! The states of a key and the ways between them (KMIP 1.4 section 3.22).

use kmip::attribute::RevocationReason;
use kmip::names::{ResultReason, RevocationReasonCode, State};

use super::Refusal;

/// What can happen to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Activate,
    /// Revoked for any reason but compromise.
    Deactivate,
    Compromise,
    Destroy,
}

impl Event {
    #[cfg(test)]
    const ALL: [Self; 4] = [Self::Activate, Self::Deactivate, Self::Compromise, Self::Destroy];

    fn of_revocation(code: RevocationReasonCode) -> Self {
        match code {
            RevocationReasonCode::KEY_COMPROMISE | RevocationReasonCode::CA_COMPROMISE => Self::Compromise,
            _ => Self::Deactivate,
        }
    }
}

/// Every way there is: from, by, to. What is not listed is refused.
const WAYS: [(State, Event, State); 9] = [
    (State::PRE_ACTIVE, Event::Activate, State::ACTIVE),
    (State::PRE_ACTIVE, Event::Compromise, State::COMPROMISED),
    (State::PRE_ACTIVE, Event::Destroy, State::DESTROYED),
    (State::ACTIVE, Event::Deactivate, State::DEACTIVATED),
    (State::ACTIVE, Event::Compromise, State::COMPROMISED),
    (State::DEACTIVATED, Event::Compromise, State::COMPROMISED),
    (State::DEACTIVATED, Event::Destroy, State::DESTROYED),
    (State::COMPROMISED, Event::Destroy, State::DESTROYED_COMPROMISED),
    (State::DESTROYED, Event::Compromise, State::DESTROYED_COMPROMISED),
];

/// When what happened, or shall happen; seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dates {
    pub(crate) initial: i64,
    pub(crate) last_change: i64,
    pub(crate) activation: Option<i64>,
    pub(crate) process_start: Option<i64>,
    pub(crate) protect_stop: Option<i64>,
    pub(crate) deactivation: Option<i64>,
    pub(crate) destroy: Option<i64>,
    pub(crate) compromise_occurrence: Option<i64>,
    pub(crate) compromise: Option<i64>,
}

/// Where a key stands, and how it came there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lifecycle {
    pub(crate) state: State,
    pub(crate) dates: Dates,
    pub(crate) revocation_reason: Option<RevocationReason>,
}

impl Lifecycle {
    /// A new key. Dates in the future wait; those that have passed act at once.
    pub(crate) fn new(now: i64, dates: Dates) -> Self {
        let mut lifecycle = Self {
            state: State::PRE_ACTIVE,
            dates: Dates { initial: now, last_change: now, ..dates },
            revocation_reason: None,
        };
        lifecycle.pass_time(now);
        lifecycle
    }

    /// Lets the dates that have come do what they say. Whether anything changed.
    pub(crate) fn pass_time(&mut self, now: i64) -> bool {
        let before = self.state;
        if self.state == State::PRE_ACTIVE && self.dates.activation.is_some_and(|date| date <= now) {
            self.state = State::ACTIVE;
        }
        if self.state == State::ACTIVE && self.dates.deactivation.is_some_and(|date| date <= now) {
            self.state = State::DEACTIVATED;
        }
        self.state != before
    }

    pub(crate) fn is_destroyed(&self) -> bool {
        matches!(self.state, State::DESTROYED | State::DESTROYED_COMPROMISED)
    }

    pub(crate) fn activate(&mut self, now: i64) -> Result<(), Refusal> {
        self.go(Event::Activate)?;
        self.dates.activation = Some(now);
        self.dates.last_change = now;
        Ok(())
    }

    pub(crate) fn revoke(
        &mut self,
        now: i64,
        reason: RevocationReason,
        compromise_occurrence: Option<i64>,
    ) -> Result<(), Refusal> {
        let event = Event::of_revocation(reason.code);
        self.go(event)?;
        match event {
            Event::Compromise => {
                self.dates.compromise = Some(now);
                self.dates.compromise_occurrence = compromise_occurrence.or(self.dates.compromise_occurrence);
            }
            _ => self.dates.deactivation = Some(now),
        }
        self.revocation_reason = Some(reason);
        self.dates.last_change = now;
        Ok(())
    }

    pub(crate) fn destroy(&mut self, now: i64) -> Result<(), Refusal> {
        self.go(Event::Destroy)?;
        self.dates.destroy = Some(now);
        self.dates.last_change = now;
        Ok(())
    }

    fn go(&mut self, event: Event) -> Result<(), Refusal> {
        let way = WAYS.iter().find(|(from, by, _)| (*from, *by) == (self.state, event));
        self.state = way.map(|(_, _, to)| *to).ok_or_else(|| refused(self.state, event))?;
        Ok(())
    }
}

fn refused(state: State, event: Event) -> Refusal {
    let (reason, what) = match event {
        Event::Activate => (ResultReason::PERMISSION_DENIED, "activated: only a Pre-Active one can"),
        Event::Deactivate => (ResultReason::ILLEGAL_OPERATION, "revoked: only an Active one can, unless compromised"),
        Event::Compromise => (ResultReason::ILLEGAL_OPERATION, "revoked as compromised: it is already"),
        Event::Destroy if state == State::ACTIVE => {
            (ResultReason::PERMISSION_DENIED, "destroyed: it has to be revoked first")
        }
        Event::Destroy => (ResultReason::ITEM_NOT_FOUND, "destroyed: it is already"),
    };
    Refusal::new(reason, format!("an object in state {state} cannot be {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(state: State) -> Lifecycle {
        Lifecycle { state, dates: Dates::default(), revocation_reason: None }
    }

    fn reason(code: RevocationReasonCode) -> RevocationReason {
        RevocationReason { code, message: None }
    }

    fn happen(lifecycle: &mut Lifecycle, event: Event) -> Result<(), Refusal> {
        match event {
            Event::Activate => lifecycle.activate(7),
            Event::Deactivate => lifecycle.revoke(7, reason(RevocationReasonCode::CESSATION_OF_OPERATION), None),
            Event::Compromise => lifecycle.revoke(7, reason(RevocationReasonCode::KEY_COMPROMISE), Some(3)),
            Event::Destroy => lifecycle.destroy(7),
        }
    }

    /// Every state and event, written out: rows are states, columns activate, deactivate, compromise, destroy.
    #[test]
    fn every_state_and_event() {
        use State as S;
        let table = [
            (S::PRE_ACTIVE, [Some(S::ACTIVE), None, Some(S::COMPROMISED), Some(S::DESTROYED)]),
            (S::ACTIVE, [None, Some(S::DEACTIVATED), Some(S::COMPROMISED), None]),
            (S::DEACTIVATED, [None, None, Some(S::COMPROMISED), Some(S::DESTROYED)]),
            (S::COMPROMISED, [None, None, None, Some(S::DESTROYED_COMPROMISED)]),
            (S::DESTROYED, [None, None, Some(S::DESTROYED_COMPROMISED), None]),
            (S::DESTROYED_COMPROMISED, [None, None, None, None]),
        ];
        assert_eq!(table.map(|(state, _)| state).as_slice(), State::NAMED);
        for (state, outcomes) in table {
            for (event, outcome) in Event::ALL.into_iter().zip(outcomes) {
                let mut lifecycle = at(state);
                let happened = happen(&mut lifecycle, event);
                assert_eq!(happened.is_ok(), outcome.is_some(), "{state} {event:?}");
                // A refusal changes nothing.
                let expected = outcome.unwrap_or(state);
                assert_eq!(lifecycle.state, expected, "{state} {event:?}");
                if happened.is_err() {
                    assert_eq!(lifecycle, at(state));
                }
            }
        }
    }

    #[test]
    fn a_destroyed_key_never_comes_back() {
        for (_, _, to) in WAYS.iter().filter(|(from, _, _)| at(*from).is_destroyed()) {
            assert!(at(*to).is_destroyed());
        }
    }

    #[test]
    fn dates_that_have_come_act() {
        let new = |activation, deactivation| {
            Lifecycle::new(100, Dates { activation, deactivation, ..Dates::default() }).state
        };
        assert_eq!(new(None, None), State::PRE_ACTIVE);
        assert_eq!(new(Some(100), None), State::ACTIVE);
        assert_eq!(new(Some(101), None), State::PRE_ACTIVE);
        assert_eq!(new(Some(50), Some(100)), State::DEACTIVATED);
        assert_eq!(new(None, Some(50)), State::PRE_ACTIVE);

        let mut waiting = Lifecycle::new(100, Dates { activation: Some(200), ..Dates::default() });
        assert!(!waiting.pass_time(199));
        assert!(waiting.pass_time(200));
        assert_eq!(waiting.state, State::ACTIVE);
    }

    #[test]
    fn the_dates_are_kept() {
        let mut lifecycle = at(State::ACTIVE);
        happen(&mut lifecycle, Event::Compromise).unwrap();
        assert_eq!(lifecycle.dates.compromise, Some(7));
        assert_eq!(lifecycle.dates.compromise_occurrence, Some(3));
        assert_eq!(lifecycle.revocation_reason, Some(reason(RevocationReasonCode::KEY_COMPROMISE)));
        lifecycle.destroy(9).unwrap();
        assert_eq!(lifecycle.dates.destroy, Some(9));
    }
}
