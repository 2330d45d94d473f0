//! The calls, by who answers them.

pub mod controller;
pub mod crypto;
pub mod disk;
pub mod host;
