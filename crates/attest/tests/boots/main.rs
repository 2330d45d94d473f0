//! Event logs, Secure Boot, boot chain and base images on recorded boots of QEMU with a real TPM emulator behind it:
//! see `tests/data/capture`.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod image;
mod log;
mod secure_boot;
