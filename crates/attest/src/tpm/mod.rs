//! The TPM 2.0 structures of which evidence is made, read strictly: what is cut short, has bytes left over, or holds a
//! value that TPM 2.0 doesn't allow there is refused with the name of the structure and the field.
//!
//! Section numbers are those of the *Trusted Platform Module Library, part 2: Structures*.

mod alg;
mod attest;
mod name;
mod pcr;
mod public;
mod reader;
mod signature;

pub use alg::{AlgId, EccCurve};
pub use attest::{ClockInfo, QuoteInfo, Quoted};
pub use name::Name;
pub use pcr::{MAX_PCR, PcrMask, PcrSelection};
pub use public::{Attributes, EccKey, KeyParameters, Public, RsaKey, Scheme, Symmetric};
pub use reader::Malformed;
pub use signature::Signature;

pub(crate) use reader::{Endian, Problem, Reader, put_sized};
