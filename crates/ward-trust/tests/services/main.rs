//! Both services over TLS, with real TPMs (swtpm), recorded boots and a real key server.

#![allow(clippy::unwrap_used)]

mod arbitrary;
mod attestation;
#[path = "../../../attest/tests/common/mod.rs"]
mod common;
mod configuration;
mod keys;
#[path = "../../../attest/tests/common/arbitrary.rs"]
mod likely;
#[path = "../../../kmip/tests/support/pki.rs"]
#[allow(dead_code, unreachable_pub)]
mod pki;
mod pykmip;
#[path = "../../../kmip/tests/support/pykmip.rs"]
#[allow(dead_code, unreachable_pub)]
mod pykmip_server;
mod scene;
mod tls;
#[path = "../../../attest/tests/real_tpm/tpm.rs"]
#[allow(dead_code)]
mod tpm;
