//! Whether a key may be an attestation key (AK): whether its TPM would have refused to sign a made-up quote with it.

use crate::hash::HashAlg;
use crate::tpm::{AlgId, Attributes, EccCurve, KeyParameters, Malformed, Name, Public};

/// Why a key may not be an attestation key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AkError {
    /// The public area could not be read.
    #[error("the AK's public area: {0}")]
    Malformed(#[from] Malformed),
    /// An attribute that must be set is not.
    #[error("the AK lacks the attribute {missing}; it has {attributes}")]
    AttributeMissing {
        /// The one that is missing.
        missing: &'static str,
        /// All that it has.
        attributes: Attributes,
    },
    /// An attribute is set that must not be.
    #[error("the AK has the attribute {forbidden}, which an AK may not have; it has {attributes}")]
    AttributeForbidden {
        /// The one it may not have.
        forbidden: &'static str,
        /// All that it has.
        attributes: Attributes,
    },
    /// It is too short.
    #[error("the AK is an RSA key of {bits} bits; at least {least} are needed")]
    TooShort {
        /// Length of its modulus in bits.
        bits: u16,
        /// The least that is accepted.
        least: u16,
    },
    /// It is not bound to a signature scheme that can be verified.
    #[error(
        "the AK is {key} with scheme {scheme} and hash {hash}; RSASSA or RSAPSS with SHA-256, SHA-384 or SHA-512 \
             is needed, or ECDSA on P-256 with SHA-256, on P-384 with SHA-384 or on P-521 with SHA-512"
    )]
    Scheme {
        /// What kind of key it is.
        key: String,
        /// Its scheme; TPM_ALG_NULL if it is bound to none.
        scheme: AlgId,
        /// The scheme's hash algorithm.
        hash: AlgId,
    },
}

/// A key whose attributes are those of an attestation key: proof that [`RestrictedAk::check`] accepted it.
///
/// TPM 2.0 Library part 1, section 27.2 (restricted keys), and part 2, section 8.3.
///
/// **What this does not prove:** that such a key exists in any TPM. Anybody can write such a public area; that it lives
/// in the TPM of a given EK is what [`crate::credential`] proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestrictedAk {
    public: Public,
    hash: HashAlg,
}

impl RestrictedAk {
    /// Shortest RSA key that is accepted, in bits.
    pub const MIN_RSA_BITS: u16 = 2048;

    /// Checks the key with these bytes of a TPM2B_PUBLIC.
    ///
    /// # Errors
    /// As [`RestrictedAk::check`], and [`AkError::Malformed`].
    pub fn from_tpm2b(bytes: &[u8]) -> Result<Self, AkError> {
        Self::check(Public::from_tpm2b(bytes)?)
    }

    /// Checks that the key is restricted to signing, was made by the TPM it lives in and can't leave it, and that its
    /// signatures can be verified and are strong enough.
    ///
    /// # Errors
    /// [`AkError`] names the attribute, the size or the scheme.
    pub fn check(public: Public) -> Result<Self, AkError> {
        let attributes = public.attributes;
        for (needed, missing) in [
            (Attributes::RESTRICTED, "restricted"),
            (Attributes::SIGN, "sign"),
            (Attributes::FIXED_TPM, "fixedTPM"),
            (Attributes::FIXED_PARENT, "fixedParent"),
            (Attributes::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        ] {
            if !attributes.has(needed) {
                return Err(AkError::AttributeMissing { missing, attributes });
            }
        }
        for (not_allowed, forbidden) in [
            (Attributes::DECRYPT, "decrypt"),
            (Attributes::ENCRYPTED_DUPLICATION, "encryptedDuplication"),
            (Attributes::X509_SIGN, "x509sign"),
        ] {
            if attributes.has(not_allowed) {
                return Err(AkError::AttributeForbidden { forbidden, attributes });
            }
        }
        if let KeyParameters::Rsa(key) = &public.key
            && key.key_bits < Self::MIN_RSA_BITS
        {
            return Err(AkError::TooShort { bits: key.key_bits, least: Self::MIN_RSA_BITS });
        }
        let hash = signing_hash(&public)?;
        Ok(Self { public, hash })
    }

    /// Its public area.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Its Name.
    pub fn name(&self) -> Name {
        self.public.name()
    }

    /// The hash algorithm of its signatures, which is also that of a quote's pcrDigest.
    pub fn hash(&self) -> HashAlg {
        self.hash
    }

    /// The scheme of its signatures.
    pub(crate) fn scheme(&self) -> AlgId {
        self.public.scheme.map_or(AlgId::NULL, |scheme| scheme.scheme)
    }
}

fn signing_hash(public: &Public) -> Result<HashAlg, AkError> {
    let (scheme, hash) = public.scheme.map_or((AlgId::NULL, AlgId::NULL), |scheme| (scheme.scheme, scheme.hash));
    let strong = HashAlg::from_id(hash).filter(|hash| hash.is_strong());
    let good = match (&public.key, scheme, strong) {
        (KeyParameters::Rsa(_), AlgId::RSASSA | AlgId::RSAPSS, hash) => hash,
        (KeyParameters::Ecc(key), AlgId::ECDSA, Some(hash)) => matches!(
            (key.curve, hash),
            (EccCurve::NIST_P256, HashAlg::Sha256)
                | (EccCurve::NIST_P384, HashAlg::Sha384)
                | (EccCurve::NIST_P521, HashAlg::Sha512)
        )
        .then_some(hash),
        _ => None,
    };
    good.ok_or_else(|| AkError::Scheme { key: public.key.describe(), scheme, hash })
}
