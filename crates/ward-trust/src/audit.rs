//! The log of what hosts asked for: a row is on disk before the answer leaves.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use attest::binding::CertThumbprint;

use crate::Error;
use crate::home::Home;

/// Of those who have proven nothing, whom there may be any number of: rows that may be written at once, and how long it
/// takes until there may be one more.
const BURST: u32 = 100;
const ONE_MORE: Duration = Duration::from_secs(1);
/// Rows of theirs that are kept.
const KEPT: u32 = 10_000;

/// What a host asked for.
pub(crate) struct AuditRow<'a> {
    pub(crate) host: &'a str,
    /// Whether who asked has shown to be that host.
    pub(crate) proven: bool,
    pub(crate) certificate: CertThumbprint,
    pub(crate) operation: &'static str,
    pub(crate) object: &'a str,
    pub(crate) result: &'a str,
}

/// One thing that a host asked for, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, sqlx::FromRow)]
pub struct AuditEntry {
    /// Counts up. Gaps are where there were requests of those who had proven nothing, long ago.
    pub sequence: i64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The host, as the attestation service calls it; `?` if it is not known.
    pub host: String,
    /// Whether who asked had proven to be that host.
    pub proven: bool,
    /// The certificate of its TLS session.
    pub certificate: String,
    /// What it asked for.
    pub operation: String,
    /// Of what.
    pub object: String,
    /// `ok`, or why it was refused.
    pub result: String,
}

impl Home {
    /// Records a request. Of those who have proven nothing not every one is recorded where they come too fast, and only
    /// the last ones are kept.
    pub(crate) async fn audit(&self, row: AuditRow<'_>) -> Result<(), Error> {
        let mut result = row.result.to_owned();
        if !row.proven {
            match self.strangers.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
                None => return Ok(()),
                Some(0) => {}
                Some(more) => result = format!("{result} (and {more} more before, of no proven host, not recorded)"),
            }
        }
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "INSERT INTO audit (at_ms, host, proven, certificate, operation, object, result) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(jiff::Timestamp::now().as_millisecond())
        .bind(row.host)
        .bind(row.proven)
        .bind(row.certificate.to_string())
        .bind(row.operation)
        .bind(row.object)
        .bind(result)
        .execute(&mut *tx)
        .await?;
        if !row.proven {
            let query = "DELETE FROM audit WHERE NOT proven AND sequence <= \
                         (SELECT sequence FROM audit WHERE NOT proven ORDER BY sequence DESC LIMIT 1 OFFSET ?)";
            sqlx::query(query).bind(KEPT).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    pub(crate) async fn audit_tail(&self, n: u32) -> Result<Vec<AuditEntry>, Error> {
        let query = "SELECT * FROM (SELECT * FROM audit ORDER BY sequence DESC LIMIT ?) ORDER BY sequence";
        Ok(sqlx::query_as(query).bind(n).fetch_all(&self.pool).await?)
    }
}

/// How many rows may still be written of those who have proven nothing.
pub(crate) struct Strangers {
    left: u32,
    since: Instant,
    untold: u64,
}

impl Strangers {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, untold: 0 }
    }

    /// Takes one row, where there is one left: how many requests before had none.
    fn take(&mut self, now: Instant) -> Option<u64> {
        while self.left < BURST && now.duration_since(self.since) >= ONE_MORE {
            self.left += 1;
            self.since += ONE_MORE;
        }
        if self.left == BURST {
            self.since = now;
        }
        match self.left.checked_sub(1) {
            None => {
                self.untold += 1;
                None
            }
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.untold))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_fill_no_disk_and_what_was_not_recorded_is_counted() {
        let begun = Instant::now();
        let mut strangers = Strangers::new(begun);
        let at = |seconds| begun + Duration::from_secs(seconds);
        let told = |strangers: &mut Strangers, now, requests: u32| -> Vec<u64> {
            (0..requests).filter_map(|_| strangers.take(now)).collect()
        };
        assert_eq!(told(&mut strangers, at(0), BURST + 7), vec![0; 100]);
        assert_eq!(told(&mut strangers, at(1), 5), [7], "one a second, and what was left out");
        assert_eq!(told(&mut strangers, at(4), 5), [4, 0, 0]);
        assert_eq!(told(&mut strangers, at(10_000), BURST + 1).len(), 100, "no more than that is saved up");
    }
}
