//! A VM's serial console. What the guest prints is kept in memory only, since it may be secret, and only its end.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use ward_rpc::api::host::ConsoleText;
use ward_types::Power;

/// How much is kept.
const CAPACITY: usize = 64 << 10;

/// The last bytes of a stream.
#[derive(Default)]
struct Ring {
    bytes: VecDeque<u8>,
    /// How many there have been.
    end: u64,
}

impl Ring {
    fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(CAPACITY)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(CAPACITY);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// What there is from `offset` on. One beyond the end is of an earlier agent, which counted further: all there is.
    fn since(&self, offset: u64) -> Vec<u8> {
        let start = self.end - self.bytes.len() as u64;
        let offset = if offset > self.end { start } else { offset.max(start) };
        let skip = usize::try_from(offset - start).unwrap_or(self.bytes.len());
        self.bytes.iter().skip(skip).copied().collect()
    }
}

/// The text, and how many of the last bytes are the beginning of a character whose rest may still come.
fn decode(bytes: &[u8], more_may_come: bool) -> (String, usize) {
    let mut incomplete = 0;
    if more_may_come {
        for length in 1..=bytes.len().min(3) {
            let tail = &bytes[bytes.len() - length..];
            if let Err(error) = std::str::from_utf8(tail)
                && error.valid_up_to() == 0
                && error.error_len().is_none()
            {
                incomplete = length;
            }
        }
    }
    (String::from_utf8_lossy(&bytes[..bytes.len() - incomplete]).into_owned(), incomplete)
}

/// The console of one run of a VM. It stays readable when the VM has ended.
pub(crate) struct Console {
    ring: Mutex<Ring>,
    /// How far the text goes, and whether the VM runs.
    state: watch::Sender<(u64, Power)>,
}

impl Console {
    pub(crate) fn new() -> Self {
        Self { ring: Mutex::default(), state: watch::Sender::new((0, Power::On)) }
    }

    /// Takes in what the guest prints, until it is at its end.
    pub(crate) async fn fill(&self, mut serial: impl AsyncRead + Unpin) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = serial.read(&mut buffer).await {
            let mut ring = self.ring();
            ring.push(&buffer[..count]);
            let end = ring.end;
            drop(ring);
            self.state.send_modify(|state| state.0 = end);
        }
    }

    /// Says something that is not the guest's.
    pub(crate) fn say(&self, text: &str) {
        let mut ring = self.ring();
        ring.push(format!("\r\n[ward: {text}]\r\n").as_bytes());
        let end = ring.end;
        drop(ring);
        self.state.send_modify(|state| state.0 = end);
    }

    /// The VM has ended.
    pub(crate) fn power_off(&self) {
        self.state.send_modify(|state| state.1 = Power::Off);
    }

    /// What there is from `offset` on; waits for something.
    pub(crate) async fn read(&self, offset: u64, wait: Duration) -> ConsoleText {
        let deadline = tokio::time::Instant::now() + wait;
        let mut state = self.state.subscribe();
        let mut seen = offset;
        loop {
            let changed = state.wait_for(|(end, power)| *end != seen || *power == Power::Off);
            let in_time = tokio::time::timeout_at(deadline, changed).await.is_ok();
            let power = state.borrow().1;
            let (bytes, end) = {
                let ring = self.ring();
                (ring.since(offset), ring.end)
            };
            let (text, incomplete) = decode(&bytes, power == Power::On);
            if text.is_empty() && in_time && power == Power::On {
                seen = end;
                continue;
            }
            return ConsoleText { end: end - incomplete as u64, text, power };
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn waits_for_text_and_for_the_end() {
        let console = Arc::new(Console::new());
        let reader = tokio::spawn({
            let console = Arc::clone(&console);
            async move { console.read(0, LONG).await }
        });
        console.fill(&b"hello \xff\xe2\x82"[..]).await;
        let text = reader.await.unwrap();
        assert_eq!((text.text.as_str(), text.end, text.power), ("hello \u{fffd}", 7, Power::On));
        // The rest of the character is waited for, and the wait may be in vain.
        let nothing = console.read(7, Duration::from_millis(10)).await;
        assert_eq!((nothing.text.as_str(), nothing.end), ("", 7));
        console.fill(&b"\xac\n"[..]).await;
        assert_eq!(console.read(7, LONG).await.text, "\u{20ac}\n");
        console.fill(&b"\xe2"[..]).await;
        console.power_off();
        let end = console.read(11, LONG).await;
        assert_eq!((end.text.as_str(), end.end, end.power), ("\u{fffd}", 12, Power::Off));
        assert_eq!(console.read(12, LONG).await.text, "");
    }

    #[tokio::test]
    async fn an_offset_of_an_earlier_agent_is_told_what_there_is() {
        let console = Console::new();
        console.fill(&b"new"[..]).await;
        let text = console.read(5000, LONG).await;
        assert_eq!((text.text.as_str(), text.end), ("new", 3));
    }

    proptest! {
        #[test]
        fn the_ring_holds_the_end_of_what_came(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40_000), 0..6), back in 0usize..150_000,
        ) {
            let mut ring = Ring::default();
            let mut all = Vec::new();
            for piece in &pieces {
                ring.push(piece);
                all.extend_from_slice(piece);
            }
            prop_assert_eq!(ring.end, all.len() as u64);
            let offset = all.len().saturating_sub(back);
            let from = offset.max(all.len().saturating_sub(CAPACITY));
            prop_assert_eq!(ring.since(offset as u64), &all[from..]);
        }

        /// However a text is cut, reading it piece by piece gives the text.
        #[test]
        fn no_character_is_torn(text in "\\PC{0,40}", cut in 0usize..160) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let (first, incomplete) = decode(&bytes[..cut], true);
            let (second, _) = decode(&bytes[cut - incomplete..], false);
            prop_assert_eq!(first + &second, text);
        }
    }
}
