//! The forms in which a key could lie in a file.

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ward_secret::{Zeroize as _, Zeroizing};

/// Byte strings to look for, each with the key and the form that it is.
#[derive(Default)]
pub(crate) struct Patterns {
    bytes: Vec<Zeroizing<Vec<u8>>>,
    names: Vec<String>,
}

impl Patterns {
    /// Adds all forms of a key: raw, hexadecimal, base64. Longer keys are looked for by each 32 bytes of them, so that a
    /// half of an XTS key is found too.
    pub(crate) fn add(&mut self, name: &str, key: &[u8]) {
        for part in key.chunks(32) {
            self.push(name, "raw", part.to_vec());
            self.push(name, "hexadecimal", hex::encode(part).into_bytes());
            self.push(name, "hexadecimal", hex::encode_upper(part).into_bytes());
            // In base64 a key looks different for each of the three places where it may begin within a group.
            for offset in 0..3 {
                let mut shifted = Zeroizing::new(vec![0; offset]);
                shifted.extend_from_slice(part);
                for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                    let text = Zeroizing::new(engine.encode(&shifted));
                    // The first and last characters also depend on the neighbours.
                    let inner = &text.as_bytes()[if offset == 0 { 0 } else { 4 }..text.len() - 2];
                    self.push(name, "base64", inner.to_vec());
                }
            }
        }
    }

    fn push(&mut self, name: &str, form: &str, mut bytes: Vec<u8>) {
        if self.bytes.iter().any(|known| **known == bytes) {
            bytes.zeroize();
            return;
        }
        self.names.push(format!("{name} ({form})"));
        self.bytes.push(Zeroizing::new(bytes));
    }

    /// What finds any of them.
    pub(crate) fn searcher(&self) -> Result<AhoCorasick, aho_corasick::BuildError> {
        AhoCorasick::new(self.bytes.iter().map(|bytes| bytes.as_slice()))
    }

    /// How many byte strings there are.
    pub(crate) fn forms(&self) -> usize {
        self.bytes.len()
    }

    /// What a pattern is.
    pub(crate) fn name(&self, pattern: usize) -> &str {
        self.names.get(pattern).map_or("?", String::as_str)
    }
}
