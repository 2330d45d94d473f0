//! Encrypting and decrypting with a key that stays here: AES in the modes that the request or the key names.

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::iv::FixedLength;
use kmip::names::{BlockCipherMode, CryptographicAlgorithm, PaddingMethod, ResultReason};
use kmip::operation::CryptographicParameters;
use zeroize::Zeroizing;

use super::Refusal;

const BLOCK: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;
/// A shorter tag is too easily forged (NIST SP 800-38D appendix C).
const SHORTEST_TAG: usize = 12;

/// How a key is used: parameters that were understood and are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Algorithm {
    mode: Mode,
    /// Whether the server chooses the IV.
    random_iv: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Ecb { padded: bool },
    Cbc { padded: bool },
    Ctr,
    Gcm { tag: usize },
}

/// What encrypting gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) data: Vec<u8>,
    /// If the server chose it.
    pub(crate) iv: Option<Vec<u8>>,
    pub(crate) tag: Option<Vec<u8>>,
}

impl Algorithm {
    /// `asked` are the request's parameters, `own` those of the key, which count where the request has none.
    pub(crate) fn new(
        algorithm: CryptographicAlgorithm,
        asked: Option<&CryptographicParameters>,
        own: Option<&CryptographicParameters>,
    ) -> Result<Self, Refusal> {
        if algorithm != CryptographicAlgorithm::AES {
            return Err(unsupported(format!("keys for {algorithm} do not encrypt")));
        }
        let Some(parameters) = asked.or(own) else {
            return Err(bad("neither the request nor the key says in which mode to encrypt"));
        };
        if parameters.cryptographic_algorithm.is_some_and(|asked| asked != algorithm) {
            return Err(bad("the key is for another algorithm"));
        }
        let padded = match parameters.padding_method {
            None | Some(PaddingMethod::NONE) => false,
            Some(PaddingMethod::PKCS5) => true,
            Some(other) => return Err(unsupported(format!("the padding method {other} is not done here"))),
        };
        let mode = match parameters.block_cipher_mode {
            Some(BlockCipherMode::ECB) => Mode::Ecb { padded },
            Some(BlockCipherMode::CBC) => Mode::Cbc { padded },
            Some(BlockCipherMode::CTR) => Mode::Ctr,
            Some(BlockCipherMode::GCM) => Mode::Gcm { tag: tag_length(parameters.tag_length)? },
            Some(other) => return Err(unsupported(format!("the mode {other} is not done here"))),
            None => return Err(bad("the parameters name no mode")),
        };
        let iv_bits = parameters.iv_length.map(usize::try_from).transpose();
        if iv_bits.map_err(|_| bad("the IV's length is negative"))?.is_some_and(|bits| bits != mode.iv_length() * 8) {
            return Err(unsupported("the IV's length is not the mode's".into()));
        }
        Ok(Self { mode, random_iv: parameters.random_iv == Some(true) })
    }

    /// Encrypts. In a mode that has an IV, one that isn't given is chosen here where the parameters allow it, and in GCM,
    /// where a repeated one gives the key's secrets away, in any case.
    pub(crate) fn encrypt(
        self,
        key: &[u8],
        plaintext: &[u8],
        given_iv: Option<&[u8]>,
        additional_data: Option<&[u8]>,
    ) -> Result<Sealed, Refusal> {
        let chosen = match given_iv {
            Some(_) => None,
            None if self.mode.iv_length() == 0 => None,
            None if self.random_iv || matches!(self.mode, Mode::Gcm { .. }) => {
                let mut iv = vec![0; self.mode.iv_length()];
                aws_lc_rs::rand::fill(&mut iv).map_err(|_| failed("the random number generator failed"))?;
                Some(iv)
            }
            None => return Err(missing_iv()),
        };
        let iv = given_iv.or(chosen.as_deref()).unwrap_or_default();
        self.mode.check(iv, additional_data)?;
        let mut data = Zeroizing::new(plaintext.to_vec());
        let mut tag = None;
        match self.mode {
            Mode::Ecb { padded } | Mode::Cbc { padded } => {
                if padded {
                    pad(&mut data);
                } else if !data.len().is_multiple_of(BLOCK) {
                    return Err(bad("without padding, the data must be whole blocks"));
                }
                block(self.mode, key, iv, &mut data)?;
            }
            Mode::Ctr => block(self.mode, key, iv, &mut data)?,
            Mode::Gcm { tag: length } => {
                let full = gcm(key)?.seal_in_place_separate_tag(nonce(iv)?, aad(additional_data), &mut data);
                let full = full.map_err(|_| failed("the data could not be encrypted"))?;
                tag = full.as_ref().get(..length).map(<[u8]>::to_vec);
            }
        }
        Ok(Sealed { data: std::mem::take(&mut *data), iv: chosen, tag })
    }

    /// Decrypts.
    pub(crate) fn decrypt(
        self,
        key: &[u8],
        ciphertext: &[u8],
        iv: Option<&[u8]>,
        additional_data: Option<&[u8]>,
        tag: Option<&[u8]>,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let iv = match iv {
            Some(iv) => iv,
            None if self.mode.iv_length() == 0 => &[],
            None => return Err(missing_iv()),
        };
        self.mode.check(iv, additional_data)?;
        let mut data = Zeroizing::new(ciphertext.to_vec());
        match self.mode {
            Mode::Ecb { padded } | Mode::Cbc { padded } => {
                if !data.len().is_multiple_of(BLOCK) {
                    return Err(bad("the data are not whole blocks"));
                }
                let context = match self.mode {
                    Mode::Cbc { .. } => DecryptionContext::Iv128(fixed(iv)?),
                    _ => DecryptionContext::None,
                };
                let key = match self.mode {
                    Mode::Cbc { .. } => DecryptingKey::cbc(cipher_key(key)?),
                    _ => DecryptingKey::ecb(cipher_key(key)?),
                };
                key.and_then(|key| key.decrypt(&mut data, context).map(drop)).map_err(|_| not_decrypted())?;
                if padded {
                    unpad(&mut data)?;
                }
            }
            // The same in both directions.
            Mode::Ctr => block(self.mode, key, iv, &mut data)?,
            Mode::Gcm { tag: length } => {
                let tag = tag.ok_or_else(|| bad("the authentication tag is missing"))?;
                if tag.len() != length {
                    return Err(bad("the authentication tag is not as long as the parameters say"));
                }
                open(key, iv, additional_data, tag, &mut data)?;
            }
        }
        Ok(data)
    }
}

impl Mode {
    /// In bytes.
    fn iv_length(self) -> usize {
        match self {
            Self::Ecb { .. } => 0,
            Self::Cbc { .. } | Self::Ctr => BLOCK,
            Self::Gcm { .. } => NONCE,
        }
    }

    fn check(self, iv: &[u8], additional_data: Option<&[u8]>) -> Result<(), Refusal> {
        if iv.len() != self.iv_length() {
            return Err(bad(&format!("the IV has to be {} bytes long in this mode", self.iv_length())));
        }
        if additional_data.is_some() && !matches!(self, Self::Gcm { .. }) {
            return Err(bad("there is nothing to authenticate additional data with in this mode"));
        }
        Ok(())
    }
}

/// In bytes, as it is in the messages.
fn tag_length(asked: Option<i32>) -> Result<usize, Refusal> {
    match asked.map(usize::try_from) {
        None => Ok(TAG),
        Some(Ok(length)) if (SHORTEST_TAG..=TAG).contains(&length) => Ok(length),
        _ => Err(unsupported(format!("a tag has from {SHORTEST_TAG} to {TAG} bytes"))),
    }
}

/// Opens in place. The library takes whole tags only, so a shortened one is compared with the start of that which belongs
/// to the plaintext.
fn open(
    key: &[u8],
    iv: &[u8],
    additional_data: Option<&[u8]>,
    tag: &[u8],
    data: &mut Zeroizing<Vec<u8>>,
) -> Result<(), Refusal> {
    // The counter of the first block (NIST SP 800-38D section 7.1).
    let counter = [iv, &[0, 0, 0, 2]].concat();
    block(Mode::Ctr, key, &counter, data)?;
    let mut again = data.clone();
    let full = gcm(key)?.seal_in_place_separate_tag(nonce(iv)?, aad(additional_data), &mut again);
    let full = full.map_err(|_| not_decrypted())?;
    let start = full.as_ref().get(..tag.len()).ok_or_else(not_decrypted)?;
    verify_slices_are_equal(start, tag).map_err(|_| not_decrypted())
}

/// Encrypts in place in a mode without authentication.
fn block(mode: Mode, key: &[u8], iv: &[u8], data: &mut [u8]) -> Result<(), Refusal> {
    let key = cipher_key(key)?;
    let (key, context) = match mode {
        Mode::Ecb { .. } => (EncryptingKey::ecb(key), EncryptionContext::None),
        Mode::Cbc { .. } => (EncryptingKey::cbc(key), EncryptionContext::Iv128(fixed(iv)?)),
        Mode::Ctr | Mode::Gcm { .. } => (EncryptingKey::ctr(key), EncryptionContext::Iv128(fixed(iv)?)),
    };
    key.and_then(|key| key.less_safe_encrypt(data, context).map(drop))
        .map_err(|_| failed("the data could not be encrypted"))
}

fn cipher_key(key: &[u8]) -> Result<UnboundCipherKey, Refusal> {
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    UnboundCipherKey::new(algorithm, key).map_err(|_| failed("the key cannot be used"))
}

fn gcm(key: &[u8]) -> Result<LessSafeKey, Refusal> {
    let algorithm = match key.len() {
        16 => &AES_128_GCM,
        24 => &AES_192_GCM,
        _ => &AES_256_GCM,
    };
    UnboundKey::new(algorithm, key).map(LessSafeKey::new).map_err(|_| failed("the key cannot be used"))
}

fn nonce(iv: &[u8]) -> Result<Nonce, Refusal> {
    Nonce::try_assume_unique_for_key(iv).map_err(|_| bad("the nonce has to be 12 bytes long"))
}

fn aad(additional_data: Option<&[u8]>) -> Aad<&[u8]> {
    Aad::from(additional_data.unwrap_or_default())
}

fn fixed(iv: &[u8]) -> Result<FixedLength<BLOCK>, Refusal> {
    FixedLength::try_from(iv).map_err(|_| bad("the IV has to be a block long"))
}

/// PKCS #7, which KMIP calls PKCS5.
fn pad(data: &mut Zeroizing<Vec<u8>>) {
    let padding = BLOCK - data.len() % BLOCK;
    let mut padded = Zeroizing::new(Vec::with_capacity(data.len() + padding));
    padded.extend_from_slice(data);
    padded.resize(data.len() + padding, u8::try_from(padding).unwrap_or_default());
    *data = padded;
}

fn unpad(data: &mut Zeroizing<Vec<u8>>) -> Result<(), Refusal> {
    let padding = usize::from(*data.last().ok_or_else(not_decrypted)?);
    let start = data.len().checked_sub(padding).ok_or_else(not_decrypted)?;
    let good = (1..=BLOCK).contains(&padding)
        && data.get(start..).is_some_and(|bytes| bytes.iter().all(|byte| usize::from(*byte) == padding));
    if !good {
        return Err(not_decrypted());
    }
    data.truncate(start);
    Ok(())
}

fn bad(message: &str) -> Refusal {
    Refusal::new(ResultReason::BAD_CRYPTOGRAPHIC_PARAMETERS, message)
}

fn unsupported(message: String) -> Refusal {
    Refusal::new(ResultReason::UNSUPPORTED_CRYPTOGRAPHIC_PARAMETERS, message)
}

/// With the reason that the test cases of every version have, though KMIP 2 has one that says more.
fn missing_iv() -> Refusal {
    Refusal::new(ResultReason::INVALID_MESSAGE, "the mode needs an IV, and none is given")
}

/// Why is not told: it would help who guesses.
fn not_decrypted() -> Refusal {
    failed("the data could not be decrypted: they or the parameters are not those they were encrypted with")
}

fn failed(message: &str) -> Refusal {
    Refusal::new(ResultReason::CRYPTOGRAPHIC_FAILURE, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn parameters(mode: BlockCipherMode, padding: Option<PaddingMethod>) -> CryptographicParameters {
        CryptographicParameters {
            block_cipher_mode: Some(mode),
            padding_method: padding,
            ..CryptographicParameters::default()
        }
    }

    fn aes(parameters: &CryptographicParameters) -> Result<Algorithm, Refusal> {
        Algorithm::new(CryptographicAlgorithm::AES, Some(parameters), None)
    }

    fn hex(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    /// NIST SP 800-38A sections F.1.5, F.2.5 and F.5.5; the first block of each.
    #[test]
    fn published_blocks() {
        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let plain = hex("6bc1bee22e409f96e93d7e117393172a");
        for (mode, iv, cipher) in [
            (BlockCipherMode::ECB, None, "f3eed1bdb5d2a03c064b5a7e3db181f8"),
            (BlockCipherMode::CBC, Some("000102030405060708090a0b0c0d0e0f"), "f58c4c04d6e5f1ba779eabfb5f7bfbd6"),
            (BlockCipherMode::CTR, Some("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"), "601ec313775789a5b7a7f504bbf3d228"),
        ] {
            let algorithm = aes(&parameters(mode, None)).unwrap();
            let iv = iv.map(hex);
            let sealed = algorithm.encrypt(&key, &plain, iv.as_deref(), None).unwrap();
            assert_eq!(sealed, Sealed { data: hex(cipher), iv: None, tag: None }, "{mode}");
            let opened = algorithm.decrypt(&key, &sealed.data, iv.as_deref(), None, None).unwrap();
            assert_eq!(*opened, plain, "{mode}");
        }
    }

    /// The GCM specification's test case 16 (McGrew and Viega, appendix B).
    #[test]
    fn a_published_gcm_case() {
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let iv = hex("cafebabefacedbaddecaf888");
        let additional = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39");
        let algorithm = aes(&parameters(BlockCipherMode::GCM, None)).unwrap();
        let sealed = algorithm.encrypt(&key, &plain, Some(&iv), Some(&additional)).unwrap();
        assert_eq!(hex::encode(&sealed.data[..16]), "522dc1f099567d07f47f37a32a84427d");
        assert_eq!(sealed.tag.as_deref().map(hex::encode).as_deref(), Some("76fc6ece0f4e1768cddf8853bb2d551b"));
        for (length, good) in [(16, true), (12, true), (11, false), (17, false), (-1, false)] {
            let parameters =
                CryptographicParameters { tag_length: Some(length), ..parameters(BlockCipherMode::GCM, None) };
            let Ok(algorithm) = aes(&parameters) else {
                assert!(!good, "{length}");
                continue;
            };
            assert!(good, "{length}");
            let tag = &sealed.tag.as_ref().unwrap()[..usize::try_from(length).unwrap()];
            let open = |tag: &[u8], additional: &[u8]| {
                algorithm.decrypt(&key, &sealed.data, Some(&iv), Some(additional), Some(tag))
            };
            assert_eq!(*open(tag, &additional).unwrap(), plain);
            let mut forged = tag.to_vec();
            forged[0] ^= 1;
            assert_eq!(open(&forged, &additional).unwrap_err().reason, ResultReason::CRYPTOGRAPHIC_FAILURE);
            assert!(open(tag, &additional[1..]).is_err());
            assert!(open(&tag[1..], &additional).is_err());
        }
    }

    #[test]
    fn an_iv_is_chosen_where_that_is_allowed() {
        let cbc = aes(&parameters(BlockCipherMode::CBC, None)).unwrap();
        let none = cbc.encrypt(&[1; 32], &[2; 16], None, None).unwrap_err();
        assert_eq!(none.reason, ResultReason::INVALID_MESSAGE);
        let random = CryptographicParameters { random_iv: Some(true), ..parameters(BlockCipherMode::CBC, None) };
        let random = aes(&random).unwrap();
        let (first, second) = (
            random.encrypt(&[1; 32], &[2; 16], None, None).unwrap(),
            random.encrypt(&[1; 32], &[2; 16], None, None).unwrap(),
        );
        assert_ne!(first.iv, second.iv);
        assert_eq!(*random.decrypt(&[1; 32], &first.data, first.iv.as_deref(), None, None).unwrap(), [2; 16]);
        let gcm = aes(&parameters(BlockCipherMode::GCM, None)).unwrap();
        assert_eq!(gcm.encrypt(&[1; 32], b"", None, None).unwrap().iv.unwrap().len(), NONCE);
    }

    #[test]
    fn what_is_not_done_here() {
        let refused = |parameters: &CryptographicParameters| aes(parameters).unwrap_err().reason;
        let unsupported = ResultReason::UNSUPPORTED_CRYPTOGRAPHIC_PARAMETERS;
        assert_eq!(refused(&parameters(BlockCipherMode::XTS, None)), unsupported);
        assert_eq!(refused(&parameters(BlockCipherMode::CBC, Some(PaddingMethod::ZEROS))), unsupported);
        assert_eq!(refused(&CryptographicParameters::default()), ResultReason::BAD_CRYPTOGRAPHIC_PARAMETERS);
        let mac = Algorithm::new(CryptographicAlgorithm::HMAC_SHA256, None, None).unwrap_err();
        assert_eq!(mac.reason, unsupported);
        let odd = aes(&parameters(BlockCipherMode::ECB, None)).unwrap().encrypt(&[1; 16], &[0; 15], None, None);
        assert_eq!(odd.unwrap_err().reason, ResultReason::BAD_CRYPTOGRAPHIC_PARAMETERS);
        let additional =
            aes(&parameters(BlockCipherMode::ECB, None)).unwrap().encrypt(&[1; 16], &[0; 16], None, Some(b"a"));
        assert!(additional.is_err());
    }

    proptest! {
        #[test]
        fn what_is_encrypted_is_decrypted(
            mode in prop::sample::select(vec![BlockCipherMode::CBC, BlockCipherMode::ECB]),
            length in prop::sample::select(vec![16_usize, 24, 32]),
            plain in prop::collection::vec(any::<u8>(), 0..100),
            iv: [u8; 16],
        ) {
            let algorithm = aes(&parameters(mode, Some(PaddingMethod::PKCS5))).unwrap();
            let key = vec![7; length];
            let iv = (mode == BlockCipherMode::CBC).then_some(iv.as_slice());
            let sealed = algorithm.encrypt(&key, &plain, iv, None).unwrap();
            prop_assert!(sealed.data.len() > plain.len() && sealed.data.len().is_multiple_of(BLOCK));
            prop_assert_eq!(&*algorithm.decrypt(&key, &sealed.data, iv, None, None).unwrap(), &plain);
        }

        /// Whatever comes: an answer, and no panic.
        #[test]
        fn any_ciphertext(data in prop::collection::vec(any::<u8>(), 0..70), iv in prop::collection::vec(any::<u8>(), 0..20)) {
            for mode in [BlockCipherMode::ECB, BlockCipherMode::CBC, BlockCipherMode::CTR, BlockCipherMode::GCM] {
                for padding in [None, Some(PaddingMethod::PKCS5)] {
                    let algorithm = aes(&parameters(mode, padding)).unwrap();
                    let _ = algorithm.decrypt(&[1; 32], &data, Some(&iv), None, Some(&[0; 16]));
                }
            }
        }
    }
}
