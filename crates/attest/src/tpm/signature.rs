//! TPMT_SIGNATURE, and the check of one under a key.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPssSaltLength, RsaPublicKeyComponents,
    UnparsedPublicKey,
};

use super::public::{EccKey, MAX_RSA_LEN, RsaKey};
use super::reader::{Malformed, Problem, Reader, put_sized};
use super::{AlgId, EccCurve, Endian};
use crate::hash::HashAlg;

/// Longest coordinate or scalar of a curve, in bytes.
const MAX_ECC_LEN: usize = 66;

/// A TPMT_SIGNATURE. Section 11.3.4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// TPMS_SIGNATURE_RSASSA: PKCS #1 v1.5
    RsaSsa {
        /// What was hashed with.
        hash: HashAlg,
        /// The signature.
        sig: Vec<u8>,
    },
    /// TPMS_SIGNATURE_RSAPSS
    RsaPss {
        /// What was hashed with.
        hash: HashAlg,
        /// The signature.
        sig: Vec<u8>,
    },
    /// TPMS_SIGNATURE_ECDSA
    Ecdsa {
        /// What was hashed with.
        hash: HashAlg,
        /// signatureR, big-endian.
        r: Vec<u8>,
        /// signatureS, big-endian.
        s: Vec<u8>,
    },
}

impl Signature {
    /// Reads the bytes of a TPMT_SIGNATURE.
    ///
    /// # Errors
    /// [`Malformed`] names the field; algorithms other than RSASSA, RSAPSS and ECDSA are refused by name.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("TPMT_SIGNATURE", Endian::Big, bytes);
        let scheme = reader.alg("sigAlg")?;
        if ![AlgId::RSASSA, AlgId::RSAPSS, AlgId::ECDSA].contains(&scheme) {
            return Err(reader.error("sigAlg", Problem::Algorithm(scheme)));
        }
        let hash = reader.alg("hash")?;
        let Some(hash) = HashAlg::from_id(hash) else {
            return Err(reader.error("hash", Problem::Algorithm(hash)));
        };
        let signature = match scheme {
            AlgId::ECDSA => Self::Ecdsa {
                hash,
                r: reader.sized("signatureR", MAX_ECC_LEN)?.to_vec(),
                s: reader.sized("signatureS", MAX_ECC_LEN)?.to_vec(),
            },
            AlgId::RSASSA => Self::RsaSsa { hash, sig: reader.sized("sig", MAX_RSA_LEN)?.to_vec() },
            _ => Self::RsaPss { hash, sig: reader.sized("sig", MAX_RSA_LEN)?.to_vec() },
        };
        reader.finish("signature")?;
        Ok(signature)
    }

    /// The bytes of the TPMT_SIGNATURE.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.scheme().0.to_be_bytes().to_vec();
        out.extend_from_slice(&self.hash().id().0.to_be_bytes());
        match self {
            Self::RsaSsa { sig, .. } | Self::RsaPss { sig, .. } => put_sized(&mut out, sig),
            Self::Ecdsa { r, s, .. } => {
                put_sized(&mut out, r);
                put_sized(&mut out, s);
            }
        }
        out
    }

    /// sigAlg.
    pub fn scheme(&self) -> AlgId {
        match self {
            Self::RsaSsa { .. } => AlgId::RSASSA,
            Self::RsaPss { .. } => AlgId::RSAPSS,
            Self::Ecdsa { .. } => AlgId::ECDSA,
        }
    }

    /// The hash algorithm.
    pub fn hash(&self) -> HashAlg {
        match self {
            Self::RsaSsa { hash, .. } | Self::RsaPss { hash, .. } | Self::Ecdsa { hash, .. } => *hash,
        }
    }

    /// Whether this is `key`'s signature of `message`.
    pub(crate) fn is_by_rsa(&self, key: &RsaKey, message: &[u8]) -> bool {
        let key = RsaPublicKeyComponents { n: &key.modulus, e: &key.exponent_bytes() };
        let (sig, allowed): (_, &[&RsaParameters]) = match self {
            Self::Ecdsa { .. } => return false,
            Self::RsaSsa { hash, sig } => match hash {
                HashAlg::Sha1 => return false,
                HashAlg::Sha256 => (sig, &[&RSA_PKCS1_2048_8192_SHA256]),
                HashAlg::Sha384 => (sig, &[&RSA_PKCS1_2048_8192_SHA384]),
                HashAlg::Sha512 => (sig, &[&RSA_PKCS1_2048_8192_SHA512]),
            },
            // Part 1, B.7: the salt is as long as the digest, or, in earlier TPMs, as long as there is room for.
            Self::RsaPss { hash, sig } => match hash {
                HashAlg::Sha1 => return false,
                HashAlg::Sha256 => (sig, &[&RSA_PSS_2048_8192_SHA256, &PSS_MAX_SHA256]),
                HashAlg::Sha384 => (sig, &[&RSA_PSS_2048_8192_SHA384, &PSS_MAX_SHA384]),
                HashAlg::Sha512 => (sig, &[&RSA_PSS_2048_8192_SHA512, &PSS_MAX_SHA512]),
            },
        };
        allowed.iter().any(|parameters| key.verify(parameters, message, sig).is_ok())
    }

    /// Whether this is `key`'s signature of `message`. The curve and the hash must be of one strength.
    pub(crate) fn is_by_ecc(&self, key: &EccKey, message: &[u8]) -> bool {
        let Self::Ecdsa { hash, r, s } = self else { return false };
        let algorithm: &'static EcdsaVerificationAlgorithm = match (key.curve, hash) {
            (EccCurve::NIST_P256, HashAlg::Sha256) => &ECDSA_P256_SHA256_FIXED,
            (EccCurve::NIST_P384, HashAlg::Sha384) => &ECDSA_P384_SHA384_FIXED,
            (EccCurve::NIST_P521, HashAlg::Sha512) => &ECDSA_P521_SHA512_FIXED,
            _ => return false,
        };
        let Some(fixed) = key.coordinate_len().and_then(|len| {
            let mut fixed = left_padded(r, len)?;
            fixed.extend(left_padded(s, len)?);
            Some(fixed)
        }) else {
            return false;
        };
        UnparsedPublicKey::new(algorithm, key.uncompressed_point()).verify(message, &fixed).is_ok()
    }
}

const PSS_MAX_SHA256: RsaParameters = RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);
const PSS_MAX_SHA384: RsaParameters = RSA_PSS_2048_8192_SHA384.with_pss_salt_length(RsaPssSaltLength::Max);
const PSS_MAX_SHA512: RsaParameters = RSA_PSS_2048_8192_SHA512.with_pss_salt_length(RsaPssSaltLength::Max);

/// `number`, big-endian, in exactly `len` bytes: TPMs may leave leading zeros out.
pub(super) fn left_padded(number: &[u8], len: usize) -> Option<Vec<u8>> {
    let missing = len.checked_sub(number.len())?;
    let mut padded = vec![0; missing];
    padded.extend_from_slice(number);
    Some(padded)
}
