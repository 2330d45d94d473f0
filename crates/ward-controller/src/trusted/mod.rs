//! Trusted key providers: a trust authority makes their KEKs, and hands them to hosts that it has attested. The controller
//! carries the signed description of the authority's services to the hosts, asks hosts to get keys, and looks whether
//! hosts and services are as they should be. It never sees a KEK, nor a token.
//!
//! ```text
//! description   reading what the trust administrators signed
//! tell          which hosts are told what; keys that hosts get by themselves
//! watch         whether the services answer
//! ```

mod description;
mod tell;
mod watch;

pub(crate) use description::{newer, open};
pub(crate) use tell::{bring_up_to_date, desired, makers, needed, note_import, note_verdicts, obtain};
pub(crate) use watch::{ServiceKind, ServiceState, Services as ServiceStates, watch};
