//! The states of a key and the ways between them (KMIP 1.4 section 3.22).

use kmip::attribute::{AttributeValue, RevocationReason};
use kmip::names::{ResultReason, RevocationReasonCode, State};

use super::Refusal;
use super::rules::check_dates;

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

    /// Sets a date that says what is to happen, while that is still to come.
    pub(crate) fn set_date(&mut self, date: SettableDate, now: i64) -> Result<(), Refusal> {
        let (slot, name, settable) = match date {
            SettableDate::Activation(_) => {
                (&mut self.dates.activation, "Activation Date", self.state == State::PRE_ACTIVE)
            }
            SettableDate::ProcessStart(_) => {
                (&mut self.dates.process_start, "Process Start Date", is_ahead(self.state))
            }
            SettableDate::ProtectStop(_) => (&mut self.dates.protect_stop, "Protect Stop Date", is_ahead(self.state)),
            SettableDate::Deactivation(_) => (&mut self.dates.deactivation, "Deactivation Date", is_ahead(self.state)),
        };
        if !settable {
            let message = format!("the {name} of an object in state {} cannot be set any more", self.state);
            return Err(Refusal::new(ResultReason::WRONG_KEY_LIFECYCLE_STATE, message));
        }
        *slot = Some(date.seconds());
        check_dates(&self.dates)?;
        self.pass_time(now);
        self.dates.last_change = now;
        Ok(())
    }

    /// Whether the key may protect data now (KMIP 1.4 sections 3.22 and 3.26).
    pub(crate) fn may_protect(&self, now: i64) -> Result<(), Refusal> {
        if self.state != State::ACTIVE {
            return Err(unfit(format!("a key in state {} encrypts nothing: only an Active one does", self.state)));
        }
        match self.dates.protect_stop {
            Some(stop) if stop <= now => {
                Err(unfit("the key's Protect Stop Date has passed: it encrypts no more".into()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the key may process data that is protected already (KMIP 1.4 sections 3.22 and 3.25).
    pub(crate) fn may_process(&self, now: i64) -> Result<(), Refusal> {
        if !matches!(self.state, State::ACTIVE | State::DEACTIVATED | State::COMPROMISED) {
            return Err(unfit(format!("a key in state {} decrypts nothing", self.state)));
        }
        match self.dates.process_start {
            Some(start) if now < start => Err(unfit("the key's Process Start Date is yet to come".into())),
            _ => Ok(()),
        }
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

/// A date that a client may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettableDate {
    Activation(i64),
    ProcessStart(i64),
    ProtectStop(i64),
    Deactivation(i64),
}

impl SettableDate {
    pub(crate) fn of(value: &AttributeValue) -> Option<Self> {
        Some(match value {
            AttributeValue::ActivationDate(date) => Self::Activation(*date),
            AttributeValue::ProcessStartDate(date) => Self::ProcessStart(*date),
            AttributeValue::ProtectStopDate(date) => Self::ProtectStop(*date),
            AttributeValue::DeactivationDate(date) => Self::Deactivation(*date),
            _ => return None,
        })
    }

    fn seconds(self) -> i64 {
        match self {
            Self::Activation(date) | Self::ProcessStart(date) | Self::ProtectStop(date) | Self::Deactivation(date) => {
                date
            }
        }
    }
}

/// Whether the key's use has not ended yet.
fn is_ahead(state: State) -> bool {
    matches!(state, State::PRE_ACTIVE | State::ACTIVE)
}

fn unfit(message: String) -> Refusal {
    Refusal::new(ResultReason::WRONG_KEY_LIFECYCLE_STATE, message)
}

fn refused(state: State, event: Event) -> Refusal {
    let (reason, what) = match event {
        Event::Activate => (ResultReason::WRONG_KEY_LIFECYCLE_STATE, "activated: only a Pre-Active one can"),
        Event::Deactivate => (ResultReason::ILLEGAL_OPERATION, "revoked: only an Active one can, unless compromised"),
        Event::Compromise => (ResultReason::ILLEGAL_OPERATION, "revoked as compromised: it is already"),
        Event::Destroy if state == State::ACTIVE => {
            (ResultReason::WRONG_KEY_LIFECYCLE_STATE, "destroyed: it has to be revoked first")
        }
        Event::Destroy => (ResultReason::OBJECT_DESTROYED, "destroyed: it is already"),
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

    /// Rows are states, columns encrypt and decrypt.
    #[test]
    fn what_a_key_may_do_in_which_state() {
        for (state, protects, processes) in [
            (State::PRE_ACTIVE, false, false),
            (State::ACTIVE, true, true),
            (State::DEACTIVATED, false, true),
            (State::COMPROMISED, false, true),
            (State::DESTROYED, false, false),
            (State::DESTROYED_COMPROMISED, false, false),
        ] {
            assert_eq!(at(state).may_protect(7).is_ok(), protects, "{state}");
            assert_eq!(at(state).may_process(7).is_ok(), processes, "{state}");
        }
        let mut active = at(State::ACTIVE);
        active.dates.protect_stop = Some(10);
        active.dates.process_start = Some(5);
        assert!(active.may_protect(9).is_ok() && active.may_protect(10).is_err());
        assert!(active.may_process(4).is_err() && active.may_process(5).is_ok());
    }

    #[test]
    fn dates_are_set_while_they_are_to_come() {
        use SettableDate as D;
        let dates = [D::Activation(50), D::ProcessStart(60), D::ProtectStop(70), D::Deactivation(80)];
        for (state, settable) in [
            (State::PRE_ACTIVE, [true; 4]),
            (State::ACTIVE, [false, true, true, true]),
            (State::DEACTIVATED, [false; 4]),
            (State::COMPROMISED, [false; 4]),
            (State::DESTROYED, [false; 4]),
        ] {
            for (date, settable) in dates.into_iter().zip(settable) {
                assert_eq!(at(state).set_date(date, 7).is_ok(), settable, "{state} {date:?}");
            }
        }
        let mut lifecycle = at(State::PRE_ACTIVE);
        lifecycle.set_date(D::Activation(7), 7).unwrap();
        assert_eq!(lifecycle.state, State::ACTIVE);
        assert!(lifecycle.set_date(D::Deactivation(6), 7).is_err());
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
