//! Whole flows on real parts: the `ward` binary as users and operators meet it, its processes, key servers, QEMU.
//!
//! ```text
//! story     an existing VM is encrypted, run, moved, decrypted; on Ward's key server and on PyKMIP's
//! keys      what can be wrong with a key, a key server, or a host that should get a key
//! servers   key servers beside one another, the trust in them, what they are told of a key
//! disks     disks that a VM gets and loses
//! storage   what can be wrong with images, disks and datastores
//! vms       a VM that is not in the state that was asked for
//! renewal   keys that are replaced, a VM that leaves the inventory and comes back
//! lost      what is left when a controller or a key is gone
//! firmware  UEFI variables and a vTPM
//! moves     a VM that moves between a key server and a native key provider
//! kills     the controller or an agent killed at any step
//! orders    the controller killed at any step of all that can be asked for one VM
//! random    random requests, each done whole or refused
//! access    users, roles, the audit log
//! host_mode the encryption mode of hosts, and their dumps
//! cli       exit codes, JSON, help, completion
//! ```
#![allow(clippy::unwrap_used)]

mod access;
mod cli;
mod disks;
mod firmware;
mod host_mode;
mod keys;
mod kills;
mod lost;
mod moves;
mod orders;
mod random;
mod renewal;
mod servers;
mod storage;
mod story;
mod support;
mod vms;
