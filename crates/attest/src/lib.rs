//! TPM 2.0 attestation, the verifier's half, as pure functions.

#![forbid(unsafe_code)]

pub mod ak;
pub mod binding;
pub mod boot;
pub mod credential;
pub mod ek;
pub mod hash;
pub mod log;
pub mod quote;
pub mod secure_boot;
mod text;
pub mod tpm;
