//! TPM 2.0 attestation, the verifier's half, as pure functions: no TPM, no network, no clock.
//!
//! The road from a machine's word to a token, each step a type that only the check before it can build:
//!
//! ```text
//! EK ── ek ──► TrustedEk ┐
//! AK ── ak ──► RestrictedAk ┴─ credential ──► ResidentAk ┐
//!                          QuoteEvidence, QuoteRequest ──┴─ quote ──► VerifiedQuote ┐
//!                                                         the event log ──────────── ┴─ log ──► VerifiedLog
//!                                                     base images, policy ── appraisal ──► Attested ── token ──► JWT
//! JWT, certificate of the TLS session ── token ──► VerifiedToken
//! ```
//!
//! Each type says what it does *not* prove, and so does each [appraisal](appraisal::Report).

#![forbid(unsafe_code)]

pub mod ak;
pub mod appraisal;
pub mod binding;
pub mod boot;
pub mod credential;
pub mod ek;
pub mod hash;
pub mod image;
pub mod label;
pub mod log;
pub mod quote;
pub mod secure_boot;
mod text;
pub mod token;
pub mod tpm;
