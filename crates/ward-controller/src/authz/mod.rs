//! Who may do what.
//!
//! ```text
//! decide      what a user may on an object: a pure function
//! policy      whether a change of users, roles or permissions gives more than its author has: another
//! target      the objects that operations are done on, and where they stand in the inventory
//! operations  the table of all operations, with the privileges that each takes
//! check       the one place where it is decided; it gives the proof that operations ask for
//! ```
//!
//! An operation takes a [`Granted`] of its own kind in its signature. Only [`check`] makes one, and it holds the object
//! that was checked: so none can be done without its privilege, nor on another object than the one that was allowed.

mod check;
mod decide;
pub(crate) mod operations;
mod policy;
mod sight;
mod target;

pub(crate) use check::{Granted, Note, Recent, allows, grant, grant_if_allowed, grant_named, grant_to_schedule};
pub(crate) use decide::Grant;
pub(crate) use policy::{Excess, Given, Policy};
pub(crate) use sight::Sight;
pub(crate) use target::{Fleet, KeyTarget, Place, Root, Target, TaskTarget, named};
