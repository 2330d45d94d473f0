//! Both services over TLS, with real TPMs (swtpm), recorded boots and a real key server.

#![allow(clippy::unwrap_used)]

mod attestation;
#[path = "../../../attest/tests/common/mod.rs"]
mod common;
mod configuration;
mod keys;
mod scene;
mod tls;
#[path = "../../../attest/tests/real_tpm/tpm.rs"]
#[allow(dead_code)]
mod tpm;
