//! Random bytes, from AWS-LC.

use crate::error::Error;

pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| Error::Crypto("make random bytes"))
}

pub(crate) fn salt() -> Result<Vec<u8>, Error> {
    let mut salt = vec![0; 32];
    fill(&mut salt)?;
    Ok(salt)
}
