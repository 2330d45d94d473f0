//! Trusted key providers, on whole systems: a trust authority, a key server, a controller and a host that are processes of
//! their own, with a TPM (swtpm) and the event log of a boot that was recorded.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod administrators;
mod authority;
#[path = "../../../attest/tests/common/mod.rs"]
mod common;
mod instances;
mod kills;
#[path = "../../../kmip/tests/support/pki.rs"]
#[allow(dead_code, unreachable_pub)]
mod pki;
mod placing;
#[path = "../../../kmip/tests/support/pykmip.rs"]
#[allow(dead_code, unreachable_pub)]
mod pykmip;
mod relay;
mod secrets;
mod story;
#[path = "../native/support.rs"]
#[allow(dead_code)]
mod support;
mod tap;
#[path = "../../../attest/tests/real_tpm/tpm.rs"]
#[allow(dead_code)]
mod tpm;
