//! TPMT_PUBLIC: the public area of a key.

use std::fmt;

use super::reader::{Malformed, Problem, Reader, put_sized};
use super::signature::left_padded;
use super::{AlgId, EccCurve, Endian, Name};
use crate::hash::HashAlg;

/// Longest RSA modulus that is read: 4096 bits, MAX_RSA_KEY_BYTES of today's TPMs.
pub(super) const MAX_RSA_LEN: usize = 512;

/// TPMA_OBJECT. Section 8.3.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attributes(pub u32);

macro_rules! attributes {
    ($($name:ident = $bit:literal, $text:literal, $doc:literal;)*) => {
        impl Attributes {
            $(#[doc = concat!($text, ": ", $doc)] pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)*];
        }
    };
}

attributes! {
    FIXED_TPM = 1, "fixedTPM", "neither it nor a parent of it can be duplicated";
    ST_CLEAR = 2, "stClear", "gone after TPM2_Startup(CLEAR)";
    FIXED_PARENT = 4, "fixedParent", "its parent can't be changed";
    SENSITIVE_DATA_ORIGIN = 5, "sensitiveDataOrigin", "the TPM made its private part";
    USER_WITH_AUTH = 6, "userWithAuth", "the USER role may be had by password or HMAC";
    ADMIN_WITH_POLICY = 7, "adminWithPolicy", "the ADMIN role needs the policy";
    NO_DA = 10, "noDA", "no protection against dictionary attacks";
    ENCRYPTED_DUPLICATION = 11, "encryptedDuplication", "can only be duplicated encrypted";
    RESTRICTED = 16, "restricted", "works only on what the TPM itself made";
    DECRYPT = 17, "decrypt", "its private part may decrypt";
    SIGN = 18, "sign", "its private part may sign";
    X509_SIGN = 19, "x509sign", "may sign X.509 certificates only";
}

impl Attributes {
    /// Whether all of the other's bits are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Self::NAMES.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| *name).collect();
        write!(f, "{:#010x} ({})", self.0, names.join(" "))
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// TPMT_SYM_DEF_OBJECT: how a storage key protects its children. Section 11.1.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symmetric {
    /// The block cipher.
    pub algorithm: AlgId,
    /// Length of its key, in bits.
    pub key_bits: u16,
    /// Its mode.
    pub mode: AlgId,
}

/// TPMT_RSA_SCHEME or TPMT_ECC_SCHEME: to what scheme a key is bound. Sections 11.2.4.2 and 11.2.5.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The scheme.
    pub scheme: AlgId,
    /// Its hash algorithm; TPM_ALG_NULL for TPM_ALG_RSAES, which has none.
    pub hash: AlgId,
}

/// TPM_ALG_RSA: parameters and modulus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RsaKey {
    /// Length of the modulus, in bits.
    pub key_bits: u16,
    /// The public exponent; 0 stands for 65537.
    pub exponent: u32,
    /// unique.rsa: the modulus, big-endian, `key_bits` long.
    pub modulus: Vec<u8>,
}

impl RsaKey {
    /// The public exponent, big-endian, without leading zeros.
    pub fn exponent_bytes(&self) -> Vec<u8> {
        let exponent = if self.exponent == 0 { 65_537 } else { self.exponent };
        exponent.to_be_bytes().into_iter().skip_while(|&byte| byte == 0).collect()
    }
}

/// TPM_ALG_ECC: parameters and point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EccKey {
    /// The curve.
    pub curve: EccCurve,
    /// unique.ecc.x, big-endian.
    pub x: Vec<u8>,
    /// unique.ecc.y, big-endian.
    pub y: Vec<u8>,
}

impl EccKey {
    pub(crate) fn coordinate_len(&self) -> Option<usize> {
        self.curve.coordinate_len()
    }

    /// The point as SEC 1 writes it: 4, x, y.
    pub fn uncompressed_point(&self) -> Vec<u8> {
        let len = self.coordinate_len().expect("reading refuses other curves");
        let coordinate = |number: &[u8]| left_padded(number, len).expect("reading refuses longer ones");
        [&[4][..], &coordinate(&self.x), &coordinate(&self.y)].concat()
    }
}

/// TPMU_PUBLIC_PARMS and TPMU_PUBLIC_ID together: the algorithm decides both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyParameters {
    /// TPM_ALG_RSA
    Rsa(RsaKey),
    /// TPM_ALG_ECC
    Ecc(EccKey),
}

impl KeyParameters {
    /// What kind of key this is, for people: `RSA-2048`, `ECC TPM_ECC_NIST_P256`.
    pub fn describe(&self) -> String {
        match self {
            Self::Rsa(key) => format!("RSA-{}", key.key_bits),
            Self::Ecc(key) => format!("ECC {}", key.curve),
        }
    }
}

/// The public area of an RSA or ECC key: TPMT_PUBLIC. Section 12.2.4.
///
/// Other kinds of object are refused by the name of their type.
#[derive(Clone, PartialEq, Eq)]
pub struct Public {
    area: Box<[u8]>,
    /// nameAlg; never SHA-1.
    pub name_alg: HashAlg,
    /// objectAttributes
    pub attributes: Attributes,
    /// authPolicy: empty, or a digest by `name_alg`.
    pub auth_policy: Vec<u8>,
    /// parameters.symmetric; none for TPM_ALG_NULL.
    pub symmetric: Option<Symmetric>,
    /// parameters.scheme; none for TPM_ALG_NULL.
    pub scheme: Option<Scheme>,
    /// The rest of parameters, and unique.
    pub key: KeyParameters,
}

impl Public {
    /// Reads the bytes of a TPM2B_PUBLIC, section 12.2.5: a length, then a TPMT_PUBLIC.
    ///
    /// # Errors
    /// As [`Public::from_tpmt`].
    pub fn from_tpm2b(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("TPM2B_PUBLIC", Endian::Big, bytes);
        let area = reader.sized("size", 2048)?;
        reader.finish("publicArea")?;
        Self::from_tpmt(area)
    }

    /// Reads the bytes of a TPMT_PUBLIC.
    ///
    /// # Errors
    /// [`Malformed`] names the field.
    pub fn from_tpmt(area: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("TPMT_PUBLIC", Endian::Big, area);
        let kind = reader.alg("type")?;
        if kind != AlgId::RSA && kind != AlgId::ECC {
            return Err(reader.error("type", Problem::Algorithm(kind)));
        }
        let name_alg = reader.alg("nameAlg")?;
        let Some(name_alg) = HashAlg::from_id(name_alg).filter(|alg| alg.is_strong()) else {
            return Err(reader.error("nameAlg", Problem::Algorithm(name_alg)));
        };
        let attributes = Attributes(reader.u32("objectAttributes")?);
        let auth_policy = reader.sized("authPolicy", 64)?.to_vec();
        if !auth_policy.is_empty() && auth_policy.len() != name_alg.len() {
            return Err(reader.error("authPolicy", Problem::Expected("empty, or as long as nameAlg's digests")));
        }
        let symmetric = read_symmetric(&mut reader)?;
        let scheme = read_scheme(&mut reader, kind)?;
        let key = if kind == AlgId::RSA {
            KeyParameters::Rsa(read_rsa(&mut reader)?)
        } else {
            KeyParameters::Ecc(read_ecc(&mut reader)?)
        };
        reader.finish("unique")?;
        Ok(Self { area: area.into(), name_alg, attributes, auth_policy, symmetric, scheme, key })
    }

    /// Its Name.
    pub fn name(&self) -> Name {
        Name::of(self.name_alg, &self.area)
    }

    /// The bytes of the TPMT_PUBLIC, as they were read.
    pub fn as_tpmt(&self) -> &[u8] {
        &self.area
    }

    /// The bytes of the TPM2B_PUBLIC.
    pub fn to_tpm2b(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + self.area.len());
        put_sized(&mut out, &self.area);
        out
    }
}

impl fmt::Debug for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Public")
            .field("name", &self.name())
            .field("attributes", &self.attributes)
            .field("key", &self.key.describe())
            .finish_non_exhaustive()
    }
}

fn read_symmetric(reader: &mut Reader<'_>) -> Result<Option<Symmetric>, Malformed> {
    let algorithm = reader.alg("parameters.symmetric.algorithm")?;
    match algorithm {
        AlgId::NULL => Ok(None),
        AlgId::AES | AlgId::SM4 | AlgId::CAMELLIA => Ok(Some(Symmetric {
            algorithm,
            key_bits: reader.u16("parameters.symmetric.keyBits")?,
            mode: reader.alg("parameters.symmetric.mode")?,
        })),
        _ => Err(reader.error("parameters.symmetric.algorithm", Problem::Algorithm(algorithm))),
    }
}

fn read_scheme(reader: &mut Reader<'_>, kind: AlgId) -> Result<Option<Scheme>, Malformed> {
    const FIELD: &str = "parameters.scheme.scheme";
    let scheme = reader.alg(FIELD)?;
    let hash = match (kind, scheme) {
        (_, AlgId::NULL) => return Ok(None),
        (AlgId::RSA, AlgId::RSAES) => AlgId::NULL,
        (AlgId::RSA, AlgId::RSASSA | AlgId::RSAPSS | AlgId::OAEP) | (AlgId::ECC, AlgId::ECDSA | AlgId::ECDH) => {
            reader.alg("parameters.scheme.details.hashAlg")?
        }
        _ => return Err(reader.error(FIELD, Problem::Algorithm(scheme))),
    };
    Ok(Some(Scheme { scheme, hash }))
}

fn read_rsa(reader: &mut Reader<'_>) -> Result<RsaKey, Malformed> {
    let key_bits = reader.u16("parameters.keyBits")?;
    let exponent = reader.u32("parameters.exponent")?;
    if exponent != 0 && (exponent % 2 == 0 || exponent < 3) {
        return Err(reader.error("parameters.exponent", Problem::Value(exponent.to_string())));
    }
    let modulus = reader.sized("unique.rsa", MAX_RSA_LEN)?.to_vec();
    if modulus.len() * 8 != usize::from(key_bits) || modulus.first().is_none_or(|&byte| byte < 0x80) {
        return Err(reader.error("unique.rsa", Problem::Expected("a modulus of keyBits bits")));
    }
    Ok(RsaKey { key_bits, exponent, modulus })
}

fn read_ecc(reader: &mut Reader<'_>) -> Result<EccKey, Malformed> {
    let curve = EccCurve(reader.u16("parameters.curveID")?);
    let Some(len) = curve.coordinate_len() else {
        return Err(reader.error("parameters.curveID", Problem::Curve(curve)));
    };
    let kdf = reader.alg("parameters.kdf.scheme")?;
    if kdf != AlgId::NULL {
        return Err(reader.error("parameters.kdf.scheme", Problem::Algorithm(kdf)));
    }
    let x = reader.sized("unique.ecc.x", len)?.to_vec();
    let y = reader.sized("unique.ecc.y", len)?.to_vec();
    if x.is_empty() || y.is_empty() {
        return Err(reader.error("unique.ecc", Problem::Expected("a point")));
    }
    Ok(EccKey { curve, x, y })
}
