//! The keys of Ward, one type each, so that none can be used for another.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::{hkdf, hmac};
use subtle::ConstantTimeEq;

use crate::{Locked, SecretError};

/// Length of a [`Kek`], in bytes.
pub const KEK_LEN: usize = 32;
/// Length of a [`Kdk`], in bytes.
pub const KDK_LEN: usize = 32;
/// Length of a [`Dek`], in bytes.
pub const DEK_LEN: usize = 64;
/// Length of a [`WrappingKey`], in bytes.
pub const WRAPPING_KEY_LEN: usize = 32;
/// Length of a [`HomeKey`], in bytes.
pub const HOME_KEY_LEN: usize = 32;
/// Length of a [`TpmKey`], in bytes.
pub const TPM_KEY_LEN: usize = 32;

macro_rules! key {
    ($(#[$meta:meta])* $name:ident, $length:expr) => {
        $(#[$meta])*
        pub struct $name(Locked<{ $length }>);

        impl $name {
            /// A new random key.
            ///
            /// # Errors
            /// [`SecretError::Random`], [`SecretError::Memory`].
            pub fn generate() -> Result<Self, SecretError> {
                Locked::random().map(Self)
            }

            /// Takes the key in and wipes `source`, also where it refuses.
            ///
            /// # Errors
            /// [`SecretError::Length`], [`SecretError::Memory`].
            pub fn take(source: &mut [u8]) -> Result<Self, SecretError> {
                Locked::take(source).map(Self)
            }

            /// The key's bytes. Don't copy them to memory that is not wiped.
            #[must_use]
            pub fn expose(&self) -> &[u8; $length] {
                self.0.expose()
            }

            /// Whether both are the same key, in constant time.
            #[must_use]
            pub fn same(&self, other: &Self) -> bool {
                self.expose().ct_eq(other.expose()).into()
            }
        }
    };
}

key! {
    /// A key-encryption key, AES-256. Opens LUKS2 keyslots and unwraps a [`HomeKey`]; never touches data.
    Kek, KEK_LEN
}
key! {
    /// A key-derivation key: a native provider's own key. KEKs are wrapped under keys that are derived from it.
    Kdk, KDK_LEN
}
key! {
    /// A data-encryption key of one disk, XTS-AES-256 (two AES-256 keys).
    Dek, DEK_LEN
}
key! {
    /// The key of a VM home: authenticates the home's description and seals what lies in it besides disks.
    HomeKey, HOME_KEY_LEN
}

key! {
    /// A key of a key provider, AES-256, under which its KEKs are wrapped; never touches disks or VM homes.
    WrappingKey, WRAPPING_KEY_LEN
}

key! {
    /// The key of a vTPM's state, AES-256.
    TpmKey, TPM_KEY_LEN
}

impl WrappingKey {
    /// Wraps a KEK.
    ///
    /// # Errors
    /// [`SecretError::Wrap`].
    pub fn wrap_kek(&self, kek: &Kek) -> Result<WrappedKey, SecretError> {
        wrap(self.expose(), kek.expose()).map(WrappedKey::of)
    }

    /// Opens a KEK that was wrapped under this key.
    ///
    /// # Errors
    /// [`SecretError::Unwrap`] where it was wrapped under another one or altered.
    pub fn unwrap_kek(&self, wrapped: &WrappedKey) -> Result<Kek, SecretError> {
        open_kek(self.expose(), wrapped.as_bytes())
    }
}

impl Dek {
    /// A `Dek` whose bytes `fill` writes in place, so that they exist nowhere else.
    ///
    /// # Errors
    /// What `fill` returns, or [`SecretError::Memory`] as an `E`.
    pub fn fill_with<E: From<SecretError>>(fill: impl FnOnce(&mut [u8; DEK_LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut locked = Locked::zeroed()?;
        fill(locked.expose_mut())?;
        Ok(Self(locked))
    }
}

impl HomeKey {
    /// A message authentication code (HMAC-SHA256) of `message` under a key derived from this one for `purpose` alone
    /// (HKDF-SHA256, RFC 5869, with the purpose as `info`).
    ///
    /// # Errors
    /// [`SecretError::Wrap`] where the library refuses, which it does not for valid lengths.
    pub fn authenticate(&self, purpose: &str, message: &[u8]) -> Result<[u8; 32], SecretError> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        let mut derived = Locked::<32>::zeroed()?;
        salt.extract(self.expose())
            .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(derived.expose_mut()))
            .map_err(|_| SecretError::Wrap)?;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, derived.expose()), message);
        tag.as_ref().try_into().map_err(|_| SecretError::Wrap)
    }

    /// Whether `code` is what [`HomeKey::authenticate`] gives, compared in constant time.
    #[must_use]
    pub fn verify(&self, purpose: &str, message: &[u8], code: &[u8]) -> bool {
        self.authenticate(purpose, message).is_ok_and(|expected| expected.ct_eq(code).into())
    }
}

/// A [`HomeKey`] or [`TpmKey`] wrapped under a [`Kek`], or a [`Kek`] under a [`WrappingKey`], by AES-KWP (NIST SP 800-38F,
/// RFC 5649). Ciphertext: not secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey(Vec<u8>);

impl WrappedKey {
    /// The ciphertext as it came from storage; whether it opens shows in unwrapping.
    #[must_use]
    pub fn from_bytes(ciphertext: Vec<u8>) -> Self {
        Self(ciphertext)
    }

    pub(crate) fn of(ciphertext: [u8; WRAPPED_LEN]) -> Self {
        Self(ciphertext.to_vec())
    }

    /// The ciphertext.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Kek {
    /// Wraps a home key.
    ///
    /// # Errors
    /// [`SecretError::Wrap`].
    pub fn wrap_home_key(&self, key: &HomeKey) -> Result<WrappedKey, SecretError> {
        wrap(self.expose(), key.expose()).map(WrappedKey::of)
    }

    /// Opens a home key that was wrapped under this KEK.
    ///
    /// # Errors
    /// [`SecretError::Unwrap`] where it was wrapped under another one or altered.
    pub fn unwrap_home_key(&self, wrapped: &WrappedKey) -> Result<HomeKey, SecretError> {
        let mut plain = unwrap(self.expose(), wrapped.as_bytes())?;
        HomeKey::take(&mut plain.expose_mut()[..HOME_KEY_LEN])
    }

    /// Wraps the key of a vTPM.
    ///
    /// # Errors
    /// [`SecretError::Wrap`].
    pub fn wrap_tpm_key(&self, key: &TpmKey) -> Result<WrappedKey, SecretError> {
        wrap(self.expose(), key.expose()).map(WrappedKey::of)
    }

    /// Opens the key of a vTPM that was wrapped under this KEK.
    ///
    /// # Errors
    /// [`SecretError::Unwrap`] where it was wrapped under another one or altered.
    pub fn unwrap_tpm_key(&self, wrapped: &WrappedKey) -> Result<TpmKey, SecretError> {
        let mut plain = unwrap(self.expose(), wrapped.as_bytes())?;
        TpmKey::take(&mut plain.expose_mut()[..TPM_KEY_LEN])
    }
}

/// Length of a key of 32 bytes that is wrapped: AES-KWP adds 8.
pub(crate) const WRAPPED_LEN: usize = 32 + 8;

/// AES-256-KWP of a key of 32 bytes.
pub(crate) fn wrap(under: &[u8; 32], key: &[u8; 32]) -> Result<[u8; WRAPPED_LEN], SecretError> {
    let mut ciphertext = [0; WRAPPED_LEN];
    let under = AesKek::new(&AES_256, under).map_err(|_| SecretError::Wrap)?;
    let length = under.wrap_with_padding(key, &mut ciphertext).map_err(|_| SecretError::Wrap)?.len();
    if length == WRAPPED_LEN { Ok(ciphertext) } else { Err(SecretError::Wrap) }
}

/// The key is the first 32 bytes. It is locked for its whole life; the library wants room for the padding block too.
pub(crate) fn unwrap(under: &[u8; 32], wrapped: &[u8]) -> Result<Locked<WRAPPED_LEN>, SecretError> {
    if wrapped.len() != WRAPPED_LEN {
        return Err(SecretError::Unwrap);
    }
    let under = AesKek::new(&AES_256, under).map_err(|_| SecretError::Unwrap)?;
    let mut plain = Locked::zeroed()?;
    let key = under.unwrap_with_padding(wrapped, plain.expose_mut()).map_err(|_| SecretError::Unwrap)?;
    if key.len() == 32 { Ok(plain) } else { Err(SecretError::Unwrap) }
}

pub(crate) fn open_kek(under: &[u8; 32], wrapped: &[u8]) -> Result<Kek, SecretError> {
    let mut plain = unwrap(under, wrapped)?;
    Kek::take(&mut plain.expose_mut()[..KEK_LEN])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_home_key_opens_only_under_its_kek() {
        let kek = Kek::generate().unwrap();
        let key = HomeKey::generate().unwrap();
        let wrapped = kek.wrap_home_key(&key).unwrap();
        assert!(kek.unwrap_home_key(&wrapped).unwrap().same(&key));
        assert_eq!(Kek::generate().unwrap().unwrap_home_key(&wrapped).err(), Some(SecretError::Unwrap));
    }

    #[test]
    fn any_altered_bit_is_refused() {
        let kek = Kek::generate().unwrap();
        let wrapped = kek.wrap_home_key(&HomeKey::generate().unwrap()).unwrap();
        for bit in 0..wrapped.as_bytes().len() * 8 {
            let mut altered = wrapped.as_bytes().to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            let altered = WrappedKey::from_bytes(altered);
            assert_eq!(kek.unwrap_home_key(&altered).err(), Some(SecretError::Unwrap), "bit {bit}");
        }
        for length in [0, 8, 39, 41, 48] {
            let altered = WrappedKey::from_bytes(vec![0; length]);
            assert_eq!(kek.unwrap_home_key(&altered).err(), Some(SecretError::Unwrap), "length {length}");
        }
    }

    #[test]
    fn a_kek_opens_only_under_its_wrapping_key() {
        let primary = WrappingKey::generate().unwrap();
        let kek = Kek::generate().unwrap();
        let wrapped = primary.wrap_kek(&kek).unwrap();
        assert!(primary.unwrap_kek(&wrapped).unwrap().same(&kek));
        assert_eq!(WrappingKey::generate().unwrap().unwrap_kek(&wrapped).err(), Some(SecretError::Unwrap));
        let mut altered = wrapped.as_bytes().to_vec();
        altered[39] ^= 1;
        assert_eq!(primary.unwrap_kek(&WrappedKey::from_bytes(altered)).err(), Some(SecretError::Unwrap));
    }

    #[test]
    fn a_code_holds_for_its_message_purpose_and_key_only() {
        let key = HomeKey::generate().unwrap();
        let code = key.authenticate("p", b"message").unwrap();
        assert!(key.verify("p", b"message", &code));
        assert!(!key.verify("q", b"message", &code));
        assert!(!key.verify("p", b"messagE", &code));
        assert!(!key.verify("p", b"message", &code[..31]));
        assert!(!HomeKey::generate().unwrap().verify("p", b"message", &code));
    }

    /// RFC 3394 section 4.6 has no padding; AES-KWP of 32 bytes this value came from OpenSSL's id-aes256-wrap-pad.
    #[test]
    fn wraps_as_rfc_5649_says() {
        let mut kek: Vec<u8> = (0u8..32).collect();
        let mut key: Vec<u8> = (0x40u8..0x60).collect();
        let kek = Kek::take(&mut kek).unwrap();
        let wrapped = kek.wrap_home_key(&HomeKey::take(&mut key).unwrap()).unwrap();
        assert_eq!(hex::encode(wrapped.as_bytes()), RFC_5649_VECTOR);
    }

    const RFC_5649_VECTOR: &str = "6d10efa7ee3023460945c8a9886e7101353d66337100c5ff2bcb08bf790e9e202eaa28c31d721d87";
}
