//! What a host answers to the controller.
//!
//! ```text
//! status   how it is
//! keys     keys that it makes, gets and forgets
//! crypto   its encryption mode and its dumps
//! job      work on a VM home
//! disk     disks of a VM that is there
//! home     VM homes as they are
//! vm       running VMs
//! ```

mod crypto;
mod disk;
mod home;
mod job;
mod keys;
mod status;
mod vm;

pub use crypto::*;
pub use disk::*;
pub use home::*;
pub use job::*;
pub use keys::*;
pub use status::*;
pub use vm::*;
