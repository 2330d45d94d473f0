//! The disk process and its engine: cipher on a LUKS2 payload, offline conversion, exports (vhost-user-blk, NBD).
//!
//! One small process serves one VM's disks, or converts one disk. It is told what to do by an [`order::Order`] on the
//! socket that is its standard input, gets the data-encryption keys over the same socket straight into locked memory,
//! and answers with [`report::Report`]s. It knows nothing of key-encryption keys, of LUKS2 headers or of a network:
//! whoever orders has opened the header and says where the payload begins.
//!
//! - [`client`]: the side that gives the order;
//! - [`process`]: the side that carries it out;
//! - [`image`]: what kind of image a file is, and whether it is whole;
//! - [`lock`]: who may use an image.

#![deny(unsafe_code)]

pub mod client;
pub mod error;
pub mod image;
pub mod lock;
pub mod order;
pub mod process;
pub mod report;

mod buffer;
mod calls;
mod cipher;
mod convert;
mod export;
mod wire;

pub use calls::forbid_to_any;
pub use client::DiskProcess;
pub use error::{DiskError, DiskErrorKind};
pub use order::{ConvertOrder, ConvertSide, ExportDisk, ExportOrder, ImageFormat, NbdDisk, Order, SectorSize};
pub use report::{Command, Report, Stats, Summary};
pub use wire::send_descriptors;
