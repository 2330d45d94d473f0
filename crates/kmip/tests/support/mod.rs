//! Certificates and peers for tests.
#![allow(dead_code, unreachable_pub)]

pub mod pki;
pub mod pykmip;
