//! TPM_ALG_ID and TPM_ECC_CURVE: what is not known keeps its number.

use std::fmt;

/// A TPM_ALG_ID. Section 6.3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AlgId(pub u16);

macro_rules! algorithms {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl AlgId {
            $(#[doc = concat!("TPM_ALG_", $text)] pub const $name: Self = Self($value);)*

            fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(concat!("TPM_ALG_", $text)),)*
                    _ => None,
                }
            }
        }
    };
}

algorithms! {
    RSA = 0x0001, "RSA";
    SHA1 = 0x0004, "SHA1";
    HMAC = 0x0005, "HMAC";
    AES = 0x0006, "AES";
    KEYEDHASH = 0x0008, "KEYEDHASH";
    XOR = 0x000a, "XOR";
    SHA256 = 0x000b, "SHA256";
    SHA384 = 0x000c, "SHA384";
    SHA512 = 0x000d, "SHA512";
    NULL = 0x0010, "NULL";
    SM3_256 = 0x0012, "SM3_256";
    SM4 = 0x0013, "SM4";
    RSASSA = 0x0014, "RSASSA";
    RSAES = 0x0015, "RSAES";
    RSAPSS = 0x0016, "RSAPSS";
    OAEP = 0x0017, "OAEP";
    ECDSA = 0x0018, "ECDSA";
    ECDH = 0x0019, "ECDH";
    ECDAA = 0x001a, "ECDAA";
    SM2 = 0x001b, "SM2";
    ECSCHNORR = 0x001c, "ECSCHNORR";
    MGF1 = 0x0007, "MGF1";
    ECC = 0x0023, "ECC";
    SYMCIPHER = 0x0025, "SYMCIPHER";
    CAMELLIA = 0x0026, "CAMELLIA";
    SHA3_256 = 0x0027, "SHA3_256";
    SHA3_384 = 0x0028, "SHA3_384";
    SHA3_512 = 0x0029, "SHA3_512";
    CTR = 0x0040, "CTR";
    OFB = 0x0041, "OFB";
    CBC = 0x0042, "CBC";
    CFB = 0x0043, "CFB";
    ECB = 0x0044, "ECB";
}

impl fmt::Display for AlgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

impl fmt::Debug for AlgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A TPM_ECC_CURVE. Section 6.4.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EccCurve(pub u16);

impl EccCurve {
    /// TPM_ECC_NIST_P256
    pub const NIST_P256: Self = Self(0x0003);
    /// TPM_ECC_NIST_P384
    pub const NIST_P384: Self = Self(0x0004);
    /// TPM_ECC_NIST_P521
    pub const NIST_P521: Self = Self(0x0005);

    /// Length of a coordinate in bytes, for the curves that are supported.
    pub const fn coordinate_len(self) -> Option<usize> {
        match self {
            Self::NIST_P256 => Some(32),
            Self::NIST_P384 => Some(48),
            Self::NIST_P521 => Some(66),
            _ => None,
        }
    }
}

impl fmt::Display for EccCurve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NIST_P256 => f.write_str("TPM_ECC_NIST_P256"),
            Self::NIST_P384 => f.write_str("TPM_ECC_NIST_P384"),
            Self::NIST_P521 => f.write_str("TPM_ECC_NIST_P521"),
            Self(other) => write!(f, "{other:#06x}"),
        }
    }
}

impl fmt::Debug for EccCurve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
