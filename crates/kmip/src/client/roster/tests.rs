#![allow(clippy::unwrap_used)]

use std::io;

use proptest::prelude::*;

use super::*;
use crate::client::TlsFault;

const PATIENCE: Duration = Duration::from_secs(5);
const BACK_OFF: BackOff = BackOff { first: Duration::from_secs(1), most: Duration::from_secs(8) };

fn unreachable() -> Arc<ClientError> {
    Arc::new(ClientError::Unreachable { address: "kms:5696".into(), source: io::ErrorKind::ConnectionRefused.into() })
}

fn server(operation: Operation, reason: ResultReason) -> ClientError {
    ClientError::Server { address: "kms:5696".into(), operation, reason, message: String::new() }
}

fn interrupted(operation: Operation) -> ClientError {
    let source = io::ErrorKind::UnexpectedEof.into();
    ClientError::Interrupted { address: "kms:5696".into(), operation, source }
}

/// The servers in the order in which one request that fails everywhere asks them.
fn order(roster: &mut Roster, now: Instant) -> Vec<usize> {
    let mut attempt = Attempt::default();
    std::iter::from_fn(|| roster.next(&mut attempt, now, PATIENCE)).collect()
}

fn timeout(during: Phase) -> ClientError {
    ClientError::Timeout { address: "kms:5696".into(), during, after: PATIENCE }
}

#[test]
fn what_a_failure_means() {
    use Operation as O;
    use ResultReason as R;
    use Verdict as V;
    let unexpected = |operation| ClientError::UnexpectedAnswer {
        address: "kms:5696".into(),
        operation,
        what: "an answer to Locate".into(),
    };
    let tls = ClientError::Tls { address: "kms:5696".into(), fault: TlsFault::NotTls };
    for (error, verdict) in [
        (server(O::GET, R::ITEM_NOT_FOUND), V::Lacks),
        (server(O::GET, R::PERMISSION_DENIED), V::Stands),
        (server(O::CREATE, R::INVALID_FIELD), V::Stands),
        (server(O::GET, R::GENERAL_FAILURE), V::Unable),
        (server(O::GET, R::CRYPTOGRAPHIC_FAILURE), V::Unable),
        (server(O::DECRYPT, R::CRYPTOGRAPHIC_FAILURE), V::Stands),
        (server(O::GET, R::AUTHENTICATION_NOT_SUCCESSFUL), V::Failed),
        (interrupted(O::GET), V::Failed),
        (interrupted(O::CREATE), V::Doubtful),
        (unexpected(O::GET), V::Failed),
        (unexpected(O::CREATE), V::Doubtful),
        (timeout(Phase::Connecting), V::Failed),
        (timeout(Phase::Request(O::GET)), V::Failed),
        (timeout(Phase::Request(O::CREATE)), V::Doubtful),
        (timeout(Phase::Waiting(O::CREATE)), V::Unable),
        (tls, V::Failed),
    ] {
        assert_eq!(Verdict::of(&error), verdict, "{error}");
    }
}

#[test]
fn a_failing_server_is_asked_last_and_comes_back() {
    let start = Instant::now();
    let mut roster = Roster::new(3, BACK_OFF);
    assert_eq!(order(&mut roster, start), [0, 1, 2]);
    assert!(roster.failed(0, Verdict::Failed, &unreachable(), start));
    assert_eq!(order(&mut roster, start), [1, 2, 0]);
    // Back in its place when its time is over; but only for the one request that tries it.
    let later = start + PATIENCE + BACK_OFF.first;
    assert_eq!(order(&mut roster, later), [0, 1, 2]);
    assert_eq!(order(&mut roster, later), [1, 2, 0]);
    // If that request never said how it went, the next one tries.
    assert_eq!(order(&mut roster, later + PATIENCE), [0, 1, 2]);
    roster.succeeded(0, later, Duration::from_millis(3));
    assert_eq!(order(&mut roster, later), [0, 1, 2]);
    assert_eq!(order(&mut roster, later), [0, 1, 2]);
}

#[test]
fn the_back_off_doubles_to_its_limit_and_starts_anew_after_success() {
    let mut now = Instant::now();
    let mut roster = Roster::new(2, BACK_OFF);
    for expected in [1, 2, 4, 8, 8] {
        roster.failed(0, Verdict::Failed, &unreachable(), now);
        // Others that were under way: one failure.
        roster.failed(0, Verdict::Failed, &unreachable(), now);
        let until = roster.standing(0).aside_until.unwrap();
        assert_eq!(until - now, Duration::from_secs(expected));
        now = until;
    }
    roster.succeeded(0, now, Duration::ZERO);
    roster.failed(0, Verdict::Doubtful, &unreachable(), now);
    assert_eq!(roster.standing(0).aside_until.unwrap() - now, BACK_OFF.first);
    assert_eq!(BACK_OFF.after(u32::MAX), BACK_OFF.most);
}

#[test]
fn with_every_server_set_aside_the_soonest_to_return_is_first() {
    let now = Instant::now();
    let mut roster = Roster::new(3, BACK_OFF);
    for (place, ago) in [(0, 0), (1, 300), (2, 600)] {
        roster.failed(place, Verdict::Failed, &unreachable(), now - Duration::from_millis(ago));
    }
    assert_eq!(order(&mut roster, now), [2, 1, 0]);
}

#[test]
fn an_answer_is_no_failure_of_the_server() {
    let now = Instant::now();
    let mut roster = Roster::new(2, BACK_OFF);
    let refused = Arc::new(server(Operation::GET, ResultReason::ITEM_NOT_FOUND));
    for verdict in [Verdict::Lacks, Verdict::Stands, Verdict::Unable] {
        assert!(!roster.failed(0, verdict, &refused, now));
        assert_eq!(order(&mut roster, now), [0, 1], "{verdict:?}");
    }
}

#[test]
fn missing_is_said_only_when_every_server_says_so() {
    let missing = || Arc::new(server(Operation::GET, ResultReason::ITEM_NOT_FOUND));
    let mut attempt = Attempt::default();
    attempt.note(Verdict::Lacks, missing());
    attempt.note(Verdict::Failed, unreachable());
    attempt.note(Verdict::Lacks, missing());
    let failures = attempt.into_failures();
    assert!(matches!(*failures[0], ClientError::Unreachable { .. }));
    assert_eq!(failures.len(), 3);
}

proptest! {
    /// Whatever happened before: a request asks every server, each once.
    #[test]
    fn every_server_is_asked_once(
        servers in 1_usize..6,
        events in prop::collection::vec((0_usize..6, 0_u64..20_000, 0_u8..3), 0..60),
    ) {
        let mut roster = Roster::new(servers, BACK_OFF);
        let mut now = Instant::now();
        for (place, milliseconds, event) in events {
            now += Duration::from_millis(milliseconds);
            match event {
                0 => roster.succeeded(place, now, Duration::ZERO),
                1 => drop(roster.failed(place, Verdict::Failed, &unreachable(), now)),
                _ => drop(roster.next(&mut Attempt::default(), now, PATIENCE)),
            }
            let mut asked = order(&mut roster, now);
            asked.sort_unstable();
            prop_assert_eq!(asked, (0..servers).collect::<Vec<_>>());
        }
    }
}
