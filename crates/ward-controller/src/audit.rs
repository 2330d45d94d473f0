//! Whether an audit log is whole: what a reader, who need not trust the controller, checks.
//!
//! Each entry holds the hash of the one before it. So an entry that was changed, removed, put in or put elsewhere shows
//! at once; and that the last ones were cut off, or all were written anew, shows against a [`Head`] that was noted
//! earlier and kept where the controller's database is not.

use std::fmt;
use std::str::FromStr;

use ward_types::{AuditEntry, AuditRecord};

use crate::store::audit::{BEGINNING, hash_of};

/// The end of a log as it was at some time: how many entries, and the hash of the last. In text `NUMBER:HASH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the last entry; 0 where there is none.
    pub number: u64,
    /// Its hash.
    pub hash: String,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.trim().split_once(':');
        let good = parts.and_then(|(number, hash)| {
            let hex = hash.len() == BEGINNING.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            Some(Self { number: number.parse().ok().filter(|_| hex)?, hash: hash.to_ascii_lowercase() })
        });
        good.ok_or_else(|| format!("`{text}` is no head of an audit log; one is NUMBER:HASH"))
    }
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The text is not the one that was hashed.
    #[error("entry {number} was changed: its hash is not that of its text")]
    Changed {
        /// The number that the entry should have.
        number: u64,
    },
    /// It makes no sense.
    #[error("entry {number} is no entry: {why}")]
    Senseless {
        /// The number that the entry should have.
        number: u64,
        /// Why not.
        why: String,
    },
    /// Another number stands where this one should.
    #[error("entry {number} is missing: entry {found} stands in its place")]
    Missing {
        /// The number that the entry should have.
        number: u64,
        /// The number that it has.
        found: u64,
    },
    /// It does not follow the one before it.
    #[error("entry {number} does not follow entry {}: that one, or this one, was put in its place", .number - 1)]
    Replaced {
        /// Its number.
        number: u64,
    },
    /// The log ends before the head.
    #[error("the log was cut off: it ends with entry {ends}, and there was an entry {number}")]
    Cut {
        /// The last number.
        ends: u64,
        /// The head's.
        number: u64,
    },
    /// The entry at the head is another one.
    #[error("the log was written anew: its entry {number} is not the one that was noted")]
    Rewritten {
        /// The head's number.
        number: u64,
    },
}

/// Checks a log, entry by entry from the first.
#[derive(Debug)]
pub struct Verifier {
    at: Head,
    noted: Option<Head>,
}

impl Verifier {
    /// One that also wants to meet `noted`, the head as it was at an earlier time.
    #[must_use]
    pub fn new(noted: Option<Head>) -> Self {
        Self { at: Head { number: 0, hash: BEGINNING.to_owned() }, noted }
    }

    /// Checks the next entry, and gives it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn next(&mut self, record: &AuditRecord) -> Result<AuditEntry, Broken> {
        let number = self.at.number + 1;
        if hash_of(&record.entry) != record.hash {
            return Err(Broken::Changed { number });
        }
        let entry: AuditEntry = serde_json::from_str(&record.entry)
            .map_err(|error| Broken::Senseless { number, why: error.to_string() })?;
        if entry.number != number {
            return Err(Broken::Missing { number, found: entry.number });
        }
        if entry.previous != self.at.hash {
            return Err(Broken::Replaced { number });
        }
        self.at = Head { number, hash: record.hash.clone() };
        match &self.noted {
            Some(noted) if noted.number == number && noted.hash != self.at.hash => Err(Broken::Rewritten { number }),
            _ => Ok(entry),
        }
    }

    /// Ends the check; gives the head, to be noted.
    ///
    /// # Errors
    /// Where the log ends before the head that was noted.
    pub fn finish(self) -> Result<Head, Broken> {
        match self.noted {
            Some(noted) if noted.number > self.at.number => {
                Err(Broken::Cut { ends: self.at.number, number: noted.number })
            }
            _ => Ok(self.at),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::LazyLock;

    use proptest::prelude::*;
    use ward_types::{AuditOutcome, Object, PrivilegeSet};

    use super::*;
    use crate::store::Store;
    use crate::store::audit::{Draft, after, record};

    static THREE: LazyLock<Vec<AuditRecord>> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(log(3))
    });

    async fn log(entries: usize) -> Vec<AuditRecord> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_file(&dir.path().join("db")).await.unwrap();
        for number in 0..entries {
            let mut tx = store.write().await.unwrap();
            let draft = Draft {
                user: "alice",
                operation: "vm.encrypt",
                outcome: AuditOutcome::Granted,
                object: Object::Root,
                object_name: "root".to_owned(),
                privileges: PrivilegeSet::NONE,
                keys: Vec::new(),
                task: None,
                detail: format!("entry {number}"),
            };
            record(&mut tx, draft).await.unwrap();
            tx.commit().await.unwrap();
        }
        let records = after(&mut store.read().await.unwrap(), 0, i64::MAX).await.unwrap();
        store.close().await;
        records
    }

    fn verify(log: &[AuditRecord], noted: Option<Head>) -> Result<Head, Broken> {
        let mut verifier = Verifier::new(noted);
        for record in log {
            verifier.next(record)?;
        }
        verifier.finish()
    }

    /// What somebody writes who knows how hashes are made.
    fn forged(record: &AuditRecord, change: impl FnOnce(&mut AuditEntry)) -> AuditRecord {
        let mut entry: AuditEntry = serde_json::from_str(&record.entry).unwrap();
        change(&mut entry);
        let entry = serde_json::to_string(&entry).unwrap();
        AuditRecord { hash: hash_of(&entry), entry }
    }

    #[tokio::test]
    async fn whatever_is_done_to_a_log_shows() {
        let whole = log(6).await;
        let head = verify(&whole, None).unwrap();
        assert_eq!(head.number, 6);
        assert_eq!(verify(&whole, Some(head.clone())), Ok(head.clone()));

        let mut changed = whole.clone();
        changed[2].entry = changed[2].entry.replace("alice", "mallo");
        assert_eq!(verify(&changed, None), Err(Broken::Changed { number: 3 }));

        let mut hashed_again = whole.clone();
        hashed_again[2] = forged(&whole[2], |entry| entry.user = "mallory".to_owned());
        assert_eq!(verify(&hashed_again, None), Err(Broken::Replaced { number: 4 }));

        let mut removed = whole.clone();
        removed.remove(2);
        assert_eq!(verify(&removed, None), Err(Broken::Missing { number: 3, found: 4 }));

        let mut numbered_again = removed.clone();
        for record in &mut numbered_again[2..] {
            *record = forged(record, |entry| entry.number -= 1);
        }
        assert_eq!(verify(&numbered_again, None), Err(Broken::Replaced { number: 3 }));

        let mut reordered = whole.clone();
        reordered.swap(1, 2);
        assert_eq!(verify(&reordered, None), Err(Broken::Missing { number: 2, found: 3 }));

        let first_gone = &whole[1..];
        assert_eq!(verify(first_gone, None), Err(Broken::Missing { number: 1, found: 2 }));

        // What no chain can tell by itself, a head tells.
        let cut = &whole[..4];
        assert!(verify(cut, None).is_ok());
        assert_eq!(verify(cut, Some(head.clone())), Err(Broken::Cut { ends: 4, number: 6 }));
        let mut last_forged = whole.clone();
        last_forged[5] = forged(&whole[5], |entry| entry.user = "mallory".to_owned());
        assert!(verify(&last_forged, None).is_ok());
        assert_eq!(verify(&last_forged, Some(head)), Err(Broken::Rewritten { number: 6 }));
    }

    #[tokio::test]
    async fn a_log_that_has_grown_still_has_its_old_head() {
        let whole = log(5).await;
        let early = verify(&whole[..3], None).unwrap();
        assert_eq!(early.to_string().parse::<Head>(), Ok(early.clone()));
        assert_eq!(verify(&whole, Some(early)).unwrap().number, 5);
    }

    proptest! {
        #[test]
        fn no_bit_can_be_changed(which in 0usize..3, at in 0usize..10_000, bit in 0u8..7) {
            let mut log = THREE.clone();
            let mut bytes = log[which].entry.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                log[which].entry = text;
                prop_assert_eq!(verify(&log, None), Err(Broken::Changed { number: which as u64 + 1 }));
            }
        }

        #[test]
        fn a_head_is_read_or_refused(text in "\\PC*") {
            if let Ok(head) = text.parse::<Head>() {
                prop_assert_eq!(head.to_string().parse::<Head>(), Ok(head));
            }
        }
    }
}
