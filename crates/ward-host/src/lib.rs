//! The host agent: it holds KEKs in memory, keeps VM homes, encrypts and decrypts disks, and runs VMs.
//!
//! ```text
//! agent      answers the controller's calls, and says hello to it
//!   keys     the key cache: a KeyRef becomes a KEK, or a reason why not
//!   vault    what of that outlives a restart, sealed to the TPM
//!   trusted  proving to trust authorities what was booted, and the keys that they give for it
//!   crypto   the host key by name, and whether keys outlive a restart
//!   dump     what dumps its memory here, encrypted under the host key
//!   local    what this machine's administrator can have done without the controller
//!   home     a VM's directory: its description, authenticated where the home is encrypted, and its lock
//!   jobs     work that takes long, survives a kill at any moment, and undoes itself where it fails
//!   vmm      QEMU and the disk process of each running VM, and its vTPM; all survive the agent
//!   isolate  each VM's processes apart: a user of its own, no network, its own files only
//!   vtpm     the state of a vTPM: made, tried, put under another key
//! ```
//!
//! What is to be done is worked out by pure functions (`home::codec`, `jobs::plan`, `vmm::command_line`, `keys`); small
//! shells around them do it.

#![forbid(unsafe_code)]

mod agent;
mod config;
mod crypto;
mod dump;
mod fault;
mod files;
mod firmware;
mod home;
mod identity;
mod isolate;
mod jobs;
mod keys;
mod local;
pub mod measure;
mod trusted;
mod vault;
mod vmm;
mod volume;
mod vtpm;

pub use agent::run;
pub use config::{Config, TpmConfig};
pub use dump::{OpenWith, core_pattern, open_dump, receive_dump};
pub use identity::{Enrolment, enrol};
pub use isolate::confine;
pub use local::start_home;
pub use trusted::endorsement_key;
