//! The format without any other software: round trips, damage, crashes, hostile headers.

#![allow(clippy::unwrap_used)]

mod arbitrary;
mod changes;
mod crash;
mod damage;
mod hostile;
mod image;
mod memory;
