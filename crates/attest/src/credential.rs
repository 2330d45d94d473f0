//! Whether an attestation key lives in the TPM of a trusted endorsement key: TPM2_MakeCredential on this side,
//! TPM2_ActivateCredential on the TPM's.
//!
//! TPM 2.0 Library part 1, section 24 (credential protection), and annexes B.10 and C.6 (secret exchange with RSA and
//! ECC keys). The TPM gives the secret back only if it holds the EK's private part and, at once, an object with the
//! AK's Name.

use aws_lc_rs::agreement::{self, EphemeralPrivateKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::kdf::{
    KbkdfCtrHmacAlgorithmId, SskdfDigestAlgorithmId, get_kbkdf_ctr_hmac_algorithm, get_sskdf_digest_algorithm,
    kbkdf_ctr_hmac, sskdf_digest,
};
use aws_lc_rs::rand::{SystemRandom, fill};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepPublicEncryptingKey,
    PublicEncryptingKey,
};
use aws_lc_rs::signature::RsaPublicKeyComponents;
use aws_lc_rs::{error::Unspecified, hmac};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::ak::{AkError, RestrictedAk};
use crate::ek::{EkProof, TrustedEk};
use crate::hash::HashAlg;
use crate::tpm::{EccCurve, EccKey, KeyParameters, Name, RsaKey};

/// Length of the secret in a credential, in bytes: fits the nameAlg of every EK.
const SECRET_LEN: usize = 32;

/// A credential could not be made, or what came back is not its secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The library refused the EK.
    #[error("no credential can be made for the EK with the Name {ek}: {step} failed")]
    Key {
        /// The EK's Name.
        ek: Name,
        /// What failed.
        step: &'static str,
    },
    /// There is no randomness.
    #[error("the system's random number generator failed")]
    Random,
    /// The secret that came back is not the one in the credential.
    #[error(
        "the credential was not activated: the secret that came back is not the one made for the AK {ak} in the TPM \
             of the EK {ek}; ask for a new challenge"
    )]
    WrongSecret {
        /// The AK's Name.
        ak: Name,
        /// The EK's Name.
        ek: Name,
    },
    /// A record does not hold an attestation key.
    #[error("the record of an attestation key: {0}")]
    Record(#[from] AkError),
}

/// The two things that TPM2_ActivateCredential takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialBlob {
    /// credentialBlob: a TPM2B_ID_OBJECT, with its length.
    #[serde(with = "crate::text::base64")]
    pub id_object: Vec<u8>,
    /// secret: a TPM2B_ENCRYPTED_SECRET, with its length.
    #[serde(with = "crate::text::base64")]
    pub encrypted_secret: Vec<u8>,
}

/// What a host was asked to prove. It can be answered once: [`Challenge::confirm`] uses it up, whatever comes.
///
/// How long an answer may take is the caller's to say.
pub struct Challenge {
    ek: TrustedEk,
    ak: RestrictedAk,
    secret: Zeroizing<[u8; SECRET_LEN]>,
}

impl Challenge {
    /// TPM2_MakeCredential: a fresh secret that only the TPM with this EK can read, and only beside this AK.
    ///
    /// # Errors
    /// [`CredentialError::Key`] for an EK with which no secret can be shared (a point that is not on its curve, say),
    /// and [`CredentialError::Random`].
    pub fn new(ek: TrustedEk, ak: RestrictedAk) -> Result<(Self, CredentialBlob), CredentialError> {
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        fill(secret.as_mut_slice()).map_err(|_| CredentialError::Random)?;
        let hash = ek.public().name_alg;
        let (seed, encrypted_secret) = match &ek.public().key {
            KeyParameters::Rsa(key) => share_by_rsa(hash, key),
            KeyParameters::Ecc(key) => share_by_ecc(hash, key),
        }
        .map_err(|step| CredentialError::Key { ek: ek.name(), step })?;
        let id_object = wrap(hash, ek.symmetric_key_bits(), &seed, &ak.name(), secret.as_slice())
            .map_err(|_| CredentialError::Key { ek: ek.name(), step: "wrapping the secret" })?;
        Ok((Self { ek, ak, secret }, CredentialBlob { id_object, encrypted_secret }))
    }

    /// The attestation key asked about.
    pub fn ak(&self) -> &RestrictedAk {
        &self.ak
    }

    /// The endorsement key asked about.
    pub fn ek(&self) -> &TrustedEk {
        &self.ek
    }

    /// Compares what TPM2_ActivateCredential gave with the secret, in constant time.
    ///
    /// # Errors
    /// [`CredentialError::WrongSecret`]
    pub fn confirm(self, secret: &[u8], now: Timestamp) -> Result<ResidentAk, CredentialError> {
        if self.secret.as_slice().ct_eq(secret).into() {
            let ek = self.ek.name();
            Ok(ResidentAk { ak: self.ak, ek, ek_proof: self.ek.proof().clone(), proven_at: now })
        } else {
            Err(CredentialError::WrongSecret { ak: self.ak.name(), ek: self.ek.name() })
        }
    }
}

/// An attestation key that lives in the TPM of a trusted EK: proof that it activated a credential.
///
/// **What this does not prove:** which machine the TPM is in. That is for whoever enrols it to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidentAk {
    ak: RestrictedAk,
    ek: Name,
    ek_proof: EkProof,
    proven_at: Timestamp,
}

impl ResidentAk {
    /// The key.
    pub fn ak(&self) -> &RestrictedAk {
        &self.ak
    }

    /// Its Name.
    pub fn name(&self) -> Name {
        self.ak.name()
    }

    /// The Name of the EK of its TPM.
    pub fn ek(&self) -> &Name {
        &self.ek
    }

    /// Why that EK was trusted when the proof was made. Look at it again when the trusted CAs change.
    pub fn ek_proof(&self) -> &EkProof {
        &self.ek_proof
    }

    /// When the proof was made.
    pub fn proven_at(&self) -> Timestamp {
        self.proven_at
    }

    /// What to keep, so that a host need not prove this at every attestation.
    pub fn record(&self) -> AkRecord {
        AkRecord {
            ak: self.ak.public().to_tpm2b(),
            ek: self.ek.clone(),
            ek_proof: self.ek_proof.clone(),
            proven_at: self.proven_at,
        }
    }

    /// The proof again, from the caller's own record of it.
    ///
    /// This believes the record: it must come from where only the caller writes. The key's attributes are checked anew.
    ///
    /// # Errors
    /// [`CredentialError::Record`]
    pub fn from_own_record(record: AkRecord) -> Result<Self, CredentialError> {
        let ak = RestrictedAk::from_tpm2b(&record.ak)?;
        Ok(Self { ak, ek: record.ek, ek_proof: record.ek_proof, proven_at: record.proven_at })
    }
}

/// A [`ResidentAk`] at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AkRecord {
    /// The AK's TPM2B_PUBLIC.
    #[serde(with = "crate::text::base64")]
    pub ak: Vec<u8>,
    /// The EK's Name.
    pub ek: Name,
    /// Why the EK was trusted.
    pub ek_proof: EkProof,
    /// When it was proven.
    pub proven_at: Timestamp,
}

type Shared = (Zeroizing<Vec<u8>>, Vec<u8>);

/// Part 1, B.10.4: the seed is random, and encrypted with OAEP.
fn share_by_rsa(hash: HashAlg, key: &RsaKey) -> Result<Shared, &'static str> {
    let mut seed = Zeroizing::new(vec![0; hash.len()]);
    fill(&mut seed).map_err(|_| "the random number generator")?;
    let components = RsaPublicKeyComponents { n: &key.modulus, e: &key.exponent_bytes() };
    let public: PublicEncryptingKey = components.try_into().map_err(|_: Unspecified| "taking in the RSA key")?;
    let public = OaepPublicEncryptingKey::new(public).map_err(|_| "taking in the RSA key")?;
    let oaep = match hash {
        HashAlg::Sha256 => &OAEP_SHA256_MGF1SHA256,
        HashAlg::Sha384 => &OAEP_SHA384_MGF1SHA384,
        HashAlg::Sha512 => &OAEP_SHA512_MGF1SHA512,
        HashAlg::Sha1 => return Err("RSA-OAEP with SHA-1"),
    };
    let mut out = vec![0; public.ciphertext_size()];
    let encrypted = public.encrypt(oaep, &seed, &mut out, Some(b"IDENTITY\0")).map_err(|_| "RSA-OAEP")?;
    Ok((seed, sized(encrypted)))
}

/// Part 1, C.6.4: the seed comes from ECDH with a key of the moment.
fn share_by_ecc(hash: HashAlg, key: &EccKey) -> Result<Shared, &'static str> {
    let algorithm = match key.curve {
        EccCurve::NIST_P256 => &agreement::ECDH_P256,
        EccCurve::NIST_P384 => &agreement::ECDH_P384,
        EccCurve::NIST_P521 => &agreement::ECDH_P521,
        _ => return Err("ECDH on that curve"),
    };
    let ours = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new()).map_err(|_| "making an ECC key")?;
    let our_point = ours.compute_public_key().map_err(|_| "making an ECC key")?;
    let their_point = key.uncompressed_point();
    let len = (their_point.len() - 1) / 2;
    let (our_x, our_y) = our_point.as_ref().get(1..).and_then(|xy| xy.split_at_checked(len)).ok_or("an ECC point")?;
    let their_x = &their_point[1..=len];
    let peer = agreement::UnparsedPublicKey::new(algorithm, &their_point);
    let seed = agreement::agree_ephemeral(ours, peer, "ECDH", |z| kdfe(hash, z, our_x, their_x).map_err(|_| "KDFe"))?;
    Ok((seed, sized(&[sized(our_x), sized(our_y)].concat())))
}

/// Part 1, 24.4 and 24.5: the secret is encrypted, then authenticated together with the AK's Name.
fn wrap(hash: HashAlg, key_bits: u16, seed: &[u8], ak: &Name, secret: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let symmetric_key = kdfa(hash, seed, b"STORAGE\0", ak.as_bytes(), key_bits)?;
    let cipher = if key_bits == 256 { &AES_256 } else { &AES_128 };
    let key = EncryptingKey::cfb128(UnboundCipherKey::new(cipher, &symmetric_key)?)?;
    // An IV of zeros is what the TPM uses: the key is fresh with every seed.
    let iv = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    let mut identity = sized(secret);
    key.less_safe_encrypt(&mut identity, iv)?;

    let hmac_alg = match hash {
        HashAlg::Sha256 => hmac::HMAC_SHA256,
        HashAlg::Sha384 => hmac::HMAC_SHA384,
        HashAlg::Sha512 => hmac::HMAC_SHA512,
        HashAlg::Sha1 => return Err(Unspecified),
    };
    let hmac_bits = u16::try_from(hash.len() * 8).map_err(|_| Unspecified)?;
    let hmac_key = kdfa(hash, seed, b"INTEGRITY\0", &[], hmac_bits)?;
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac_alg, &hmac_key));
    context.update(&identity);
    context.update(ak.as_bytes());
    let mut id_object = sized(context.sign().as_ref());
    id_object.extend_from_slice(&identity);
    Ok(sized(&id_object))
}

/// KDFa, part 1, 11.4.10.2: SP800-108 in counter mode over label, contextU and the number of bits.
fn kdfa(hash: HashAlg, key: &[u8], label: &[u8], context: &[u8], bits: u16) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    let algorithm = get_kbkdf_ctr_hmac_algorithm(match hash {
        HashAlg::Sha256 => KbkdfCtrHmacAlgorithmId::Sha256,
        HashAlg::Sha384 => KbkdfCtrHmacAlgorithmId::Sha384,
        HashAlg::Sha512 => KbkdfCtrHmacAlgorithmId::Sha512,
        HashAlg::Sha1 => return Err(Unspecified),
    })
    .ok_or(Unspecified)?;
    let mut out = Zeroizing::new(vec![0; usize::from(bits) / 8]);
    kbkdf_ctr_hmac(algorithm, key, &[label, context, &u32::from(bits).to_be_bytes()].concat(), &mut out)?;
    Ok(out)
}

/// KDFe, part 1, 11.4.10.3: SP800-56C, one step, over the label and both x coordinates.
fn kdfe(hash: HashAlg, z: &[u8], our_x: &[u8], their_x: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    let algorithm = get_sskdf_digest_algorithm(match hash {
        HashAlg::Sha256 => SskdfDigestAlgorithmId::Sha256,
        HashAlg::Sha384 => SskdfDigestAlgorithmId::Sha384,
        HashAlg::Sha512 => SskdfDigestAlgorithmId::Sha512,
        HashAlg::Sha1 => return Err(Unspecified),
    })
    .ok_or(Unspecified)?;
    let mut out = Zeroizing::new(vec![0; hash.len()]);
    sskdf_digest(algorithm, z, &[b"IDENTITY\0", our_x, their_x].concat(), &mut out)?;
    Ok(out)
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + bytes.len());
    crate::tpm::put_sized(&mut out, bytes);
    out
}
