//! Native key providers, on whole systems: a controller and hosts that are processes of their own, real LUKS2 disks, QEMU,
//! and OpenSSL, cryptsetup and Python as strangers.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod clones;
mod clusters;
#[path = "../../../attest/tests/common/mod.rs"]
mod common;
mod daily;
mod databases;
mod faults;
mod hosts;
mod machine;
mod operations;
#[allow(unreachable_pub)]
#[path = "../../../ward-controller/tests/postgres/cluster.rs"]
mod postgres;
mod restore;
mod root;
mod story;
mod support;
#[path = "../../../attest/tests/real_tpm/tpm.rs"]
#[allow(dead_code)]
mod tpm;
