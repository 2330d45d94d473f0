//! Everything that takes a TPM, on a real one: swtpm, with the certificates that its own CA makes, driven by
//! tpm2-tools.

#![allow(clippy::unwrap_used)]

mod appraisal;
mod arbitrary;
#[path = "../common/mod.rs"]
mod common;
mod credential;
mod ek;
#[path = "../common/arbitrary.rs"]
mod likely;
mod quote;
mod token;
// Other crates drive TPMs with it too.
#[allow(dead_code)]
mod tpm;
