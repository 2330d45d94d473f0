//! Native key providers: the controller makes the provider's key (KDK), keeps it sealed, and gives it to the hosts; they
//! make the VMs' keys and wrap them under it. `docs/native-format.md` is the format.
//!
//! ```text
//! state     what a provider's hosts are to have, and how far that is: pure
//! give      the present state, pushed to a host
//! kdk       the key: made, sealed, unsealed
//! backup    a backup, written and read; pkcs12 is its container
//! remind    says each day which provider has no backup
//! ```

pub(crate) mod backup;
mod give;
mod kdk;
mod pkcs12;
pub(crate) mod remind;
mod state;

pub(crate) use give::{bring_up_to_date, check, give, give_all, needs_tpm};
pub(crate) use kdk::{backup_of, make_version, seal_version};
pub(crate) use remind::remind;
pub(crate) use state::{HostHolds, Standing, not_backed_up, standing, wanted};
