//! Passwords and secrets that people and hosts show: hashed before they are kept.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ward_secret::Zeroizing;

/// The hash of a password (argon2id, PHC string). Takes long, on purpose: not for an async thread.
pub(crate) fn hash(password: &str) -> Result<String, String> {
    Ok(Argon2::default().hash_password(password.as_bytes()).map_err(|error| error.to_string())?.to_string())
}

/// Whether it is the password. Takes long, on purpose.
pub(crate) fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// A random secret of 256 bits, as text.
pub(crate) fn random_secret() -> Result<Zeroizing<String>, ward_secret::SecretError> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    aws_lc_rs::rand::fill(&mut bytes[..]).map_err(|_| ward_secret::SecretError::Random)?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes[..])))
}

/// What is kept of a random secret. It has 256 bits of its own, so a plain hash (SHA-256) is enough.
pub(crate) fn digest_secret(secret: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_the_password_verifies() {
        let kept = hash("correct horse").unwrap();
        assert!(kept.starts_with("$argon2id$"), "{kept}");
        assert!(verify("correct horse", &kept));
        assert!(!verify("correct horsE", &kept));
        assert!(!verify("", &kept));
        assert!(!verify("correct horse", "no hash"));
    }

    #[test]
    fn secrets_differ_and_are_not_kept() {
        let (one, two) = (random_secret().unwrap(), random_secret().unwrap());
        assert_ne!(*one, *two);
        assert_eq!(one.len(), 43);
        assert!(!digest_secret(&one).contains(&*one));
    }
}
