//! The calls, by who answers them.

pub mod controller;
pub mod host;
