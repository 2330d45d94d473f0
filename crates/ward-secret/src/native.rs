//! KEKs under a native provider's key: `docs/native-format.md`, version 1.

use aws_lc_rs::hkdf;

use crate::keys::{WRAPPED_LEN, open_kek, wrap};
use crate::{Kdk, Kek, Locked, SecretError};

/// Length of the salt that makes each derived key unique, in bytes.
pub const SALT_LEN: usize = 32;
/// Length of a wrapped [`Kek`], in bytes.
pub const WRAPPED_KEK_LEN: usize = WRAPPED_LEN;

/// What the derived key is for, and by which version of the format.
const PURPOSE: &[u8] = b"ward native KEK v1\0";

/// What a wrapped KEK is bound to: it opens only where all of it is the same again.
#[derive(Clone, Copy, Debug)]
pub struct KekContext<'a> {
    /// The provider's name, at most 65535 bytes.
    pub provider: &'a str,
    /// The KDK's ID.
    pub key_id: &'a [u8; 16],
    /// The KDK's version.
    pub version: u32,
    /// The VM's ID.
    pub vm: &'a [u8; 16],
}

impl KekContext<'_> {
    /// The `info` of HKDF. The one part whose length varies says its length, so no two contexts have the same.
    fn info(&self) -> Result<Vec<u8>, SecretError> {
        let length = u16::try_from(self.provider.len()).map_err(|_| SecretError::Wrap)?;
        let version = self.version.to_be_bytes();
        Ok([PURPOSE, &length.to_be_bytes(), self.provider.as_bytes(), self.key_id, &version, self.vm].concat())
    }
}

impl Kdk {
    /// Wraps a KEK: AES-256-KWP (RFC 5649) under HKDF-SHA256 (RFC 5869) of this key.
    ///
    /// # Errors
    /// [`SecretError::Wrap`], [`SecretError::Memory`].
    pub fn wrap_kek(
        &self,
        context: &KekContext<'_>,
        salt: &[u8; SALT_LEN],
        kek: &Kek,
    ) -> Result<[u8; WRAPPED_KEK_LEN], SecretError> {
        wrap(self.derive(context, salt)?.expose(), kek.expose())
    }

    /// A new random KEK, which exists nowhere but in what this gives: its salt, and it wrapped.
    ///
    /// # Errors
    /// [`SecretError::Random`], [`SecretError::Wrap`], [`SecretError::Memory`].
    pub fn wrap_new_kek(
        &self,
        context: &KekContext<'_>,
    ) -> Result<([u8; SALT_LEN], [u8; WRAPPED_KEK_LEN]), SecretError> {
        self.wrap_kek_anew(context, &Kek::generate()?)
    }

    /// Wraps a KEK with a new salt: gives both.
    ///
    /// # Errors
    /// [`SecretError::Random`], [`SecretError::Wrap`], [`SecretError::Memory`].
    pub fn wrap_kek_anew(
        &self,
        context: &KekContext<'_>,
        kek: &Kek,
    ) -> Result<([u8; SALT_LEN], [u8; WRAPPED_KEK_LEN]), SecretError> {
        let mut salt = [0; SALT_LEN];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| SecretError::Random)?;
        let wrapped = self.wrap_kek(context, &salt, kek)?;
        Ok((salt, wrapped))
    }

    /// Opens a KEK that was wrapped under this key in the same context.
    ///
    /// # Errors
    /// [`SecretError::Unwrap`] where anything of it is different, [`SecretError::Memory`].
    pub fn unwrap_kek(
        &self,
        context: &KekContext<'_>,
        salt: &[u8; SALT_LEN],
        wrapped: &[u8; WRAPPED_KEK_LEN],
    ) -> Result<Kek, SecretError> {
        open_kek(self.derive(context, salt)?.expose(), wrapped)
    }

    fn derive(&self, context: &KekContext<'_>, salt: &[u8; SALT_LEN]) -> Result<Locked<32>, SecretError> {
        let mut derived = Locked::<32>::zeroed()?;
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(self.expose())
            .expand(&[&context.info()?], hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(derived.expose_mut()))
            .map_err(|_| SecretError::Wrap)?;
        Ok(derived)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const CONTEXT: KekContext<'static> = KekContext { provider: "n1", key_id: &[1; 16], version: 1, vm: &[2; 16] };

    #[test]
    fn opens_only_in_its_context() {
        let (kdk, kek, salt) = (Kdk::generate().unwrap(), Kek::generate().unwrap(), [3; SALT_LEN]);
        let wrapped = kdk.wrap_kek(&CONTEXT, &salt, &kek).unwrap();
        assert!(kdk.unwrap_kek(&CONTEXT, &salt, &wrapped).unwrap().same(&kek));
        let others = [
            KekContext { provider: "n2", ..CONTEXT },
            KekContext { provider: "n", ..CONTEXT },
            KekContext { key_id: &[9; 16], ..CONTEXT },
            KekContext { version: 2, ..CONTEXT },
            KekContext { vm: &[9; 16], ..CONTEXT },
        ];
        for other in others {
            assert_eq!(kdk.unwrap_kek(&other, &salt, &wrapped).err(), Some(SecretError::Unwrap), "{other:?}");
        }
        assert_eq!(kdk.unwrap_kek(&CONTEXT, &[4; SALT_LEN], &wrapped).err(), Some(SecretError::Unwrap));
        let other = Kdk::generate().unwrap();
        assert_eq!(other.unwrap_kek(&CONTEXT, &salt, &wrapped).err(), Some(SecretError::Unwrap));
    }

    #[test]
    fn any_altered_bit_is_refused() {
        let (kdk, kek, salt) = (Kdk::generate().unwrap(), Kek::generate().unwrap(), [3; SALT_LEN]);
        let wrapped = kdk.wrap_kek(&CONTEXT, &salt, &kek).unwrap();
        for bit in 0..WRAPPED_KEK_LEN * 8 {
            let mut altered = wrapped;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(kdk.unwrap_kek(&CONTEXT, &salt, &altered).err(), Some(SecretError::Unwrap), "bit {bit}");
        }
    }

    /// The document's test vectors, which Python's `cryptography` and OpenSSL made.
    #[test]
    fn does_as_the_document_says() {
        let text = include_str!("../../../docs/native-format.vectors");
        let mut seen = 0;
        for vector in text.split("\n\n").filter(|vector| vector.contains("kdk = ")) {
            let field = |name: &str| {
                let prefix = format!("{name} = ");
                vector.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("no {name}"))
            };
            let bytes = |name: &str| hex::decode(field(name)).unwrap();
            let array = |name: &str| <[u8; 16]>::try_from(bytes(name)).unwrap();
            let (key_id, vm) = (array("key-id"), array("vm"));
            let context = KekContext {
                provider: field("provider"),
                key_id: &key_id,
                version: field("version").parse().unwrap(),
                vm: &vm,
            };
            assert_eq!(hex::encode(context.info().unwrap()), field("info"));
            let kdk = Kdk::take(&mut bytes("kdk")).unwrap();
            let kek = Kek::take(&mut bytes("kek")).unwrap();
            let salt = <[u8; SALT_LEN]>::try_from(bytes("salt")).unwrap();
            let wrapped = kdk.wrap_kek(&context, &salt, &kek).unwrap();
            assert_eq!(hex::encode(wrapped), field("wrapped"));
            assert!(kdk.unwrap_kek(&context, &salt, &wrapped).unwrap().same(&kek));
            seen += 1;
        }
        assert_eq!(seen, 3);
    }
}
