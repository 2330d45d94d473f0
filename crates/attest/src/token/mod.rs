//! What an attested host shows to whoever hands out keys: a signed token, good for a short time and for one TLS key.
//!
//! A JWT (RFC 7519) with the claims of an EAT attestation result (draft-ietf-rats-ear-04), whose trustworthiness vector
//! is that of AR4SI, and with the certificate it is bound to (`cnf` with `x5t#S256`: RFC 7800, RFC 8705 section 3.1).
//! It is signed with ECDSA on P-256 (`ES256`); nothing else is accepted.

mod claims;
mod issue;
mod key;
mod verify;

use std::time::Duration;

pub use issue::{IssueError, Issuer, VerifierId};
pub use key::{TokenKey, TokenPublicKey};
pub use verify::{TokenError, TokenVerifier, VerifiedToken};

/// The longest token that is read, in bytes.
pub const MAX_TOKEN_LEN: usize = 16 * 1024;

/// The longest time for which a token may be made.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How far the clocks of issuer and verifier may be apart.
pub const CLOCK_SKEW: Duration = Duration::from_secs(30);

const TYPE: &str = "JWT";
const ALGORITHM: &str = "ES256";
const EAR_PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
const AFFIRMING: &str = "affirming";
