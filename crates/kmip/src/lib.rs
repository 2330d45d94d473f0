//! KMIP, the Key Management Interoperability Protocol: codec, typed messages, client and server.
//!
//! - [`ttlv`] turns bytes into items and back;
//! - [`names`] are the protocol's numbers, [`attribute`] and [`object`] its model of what a server keeps, whatever the
//!   version;
//! - [`operation`] and [`message`] are what client and server say to each other, by version;
//! - [`client`] and [`server`] do the input and output: nothing else here does.
//!
//! Versions 1.0 to 1.4, 2.0 and 2.1 are spoken. Section numbers are those of the KMIP 1.4 specification unless another is
//! named.

pub mod attribute;
pub mod certificate;
pub mod client;
mod fields;
mod framing;
pub mod message;
pub mod names;
pub mod object;
pub mod operation;
mod secret;
pub mod server;
pub mod ttlv;
mod version;

pub use secret::SecretBytes;
pub use version::ProtocolVersion;
