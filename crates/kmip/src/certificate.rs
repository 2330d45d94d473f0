//! What a certificate says, for humans and for checks.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// SHA-256 of a certificate (DER): what a human compares, and what a server can be known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// That of a certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref());
        Self(bytes)
    }
}

/// As `openssl x509 -fingerprint` writes it: two hexadecimal digits each, with colons between.
impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().enumerate().try_for_each(|(number, byte)| {
            let colon = if number == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")
        })
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A text that is no SHA-256 fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 fingerprint: 64 hexadecimal digits are expected, with or without colons")]
pub struct NoFingerprint;

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b':').collect();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NoFingerprint);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NoFingerprint)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

/// Bytes that are no X.509 certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate: {0}")]
pub struct NoCertificate(pub String);

/// What a certificate says. That it says so proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Whom it is made out to, as a distinguished name.
    pub subject: String,
    /// Who issued it, as a distinguished name.
    pub issuer: String,
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: i64,
    /// SHA-256 of all of it.
    pub fingerprint: Fingerprint,
    /// The host names and addresses it is made out to.
    pub names: Vec<String>,
    /// What it may be used for (extended key usage): `serverAuth`, `clientAuth`, `any`, object identifiers. Without any
    /// it's good for everything.
    pub purposes: Vec<String>,
    /// Whether it may issue others.
    pub is_ca: bool,
    /// Whether subject and issuer are the same.
    pub is_self_issued: bool,
}

/// A time in seconds since 1970, to be read.
pub(crate) fn for_people(seconds: i64) -> String {
    let time = x509_parser::time::ASN1Time::from_timestamp(seconds);
    time.map_or_else(|_| format!("{seconds} seconds since 1970"), |time| time.to_string())
}

impl CertificateInfo {
    /// Reads a certificate (DER).
    ///
    /// # Errors
    /// If it is none.
    pub fn from_der(der: &[u8]) -> Result<Self, NoCertificate> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| NoCertificate(error.to_string()))?;
        if !rest.is_empty() {
            return Err(NoCertificate("bytes follow it".into()));
        }
        Ok(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial_as_string(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            fingerprint: Fingerprint::of(der),
            names: names(&certificate),
            purposes: purposes(&certificate),
            is_ca: certificate.is_ca(),
            is_self_issued: certificate.subject() == certificate.issuer(),
        })
    }

    /// How many seconds are left; below zero once it has expired.
    #[must_use]
    pub fn seconds_left(&self, now: SystemTime) -> i64 {
        self.not_after.saturating_sub(seconds(now))
    }

    /// Whether it is valid by its dates.
    #[must_use]
    pub fn is_current(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&seconds(now))
    }

    /// When it expires; `None` if before 1970 or beyond all time.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(self.not_after).ok()?))
    }

    /// Whether it may be used for `purpose`, as in [`CertificateInfo::purposes`].
    #[must_use]
    pub fn is_for(&self, purpose: &str) -> bool {
        self.purposes.is_empty() || self.purposes.iter().any(|other| other == purpose || other == "any")
    }
}

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return vec![];
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d]).to_string()),
            bytes => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

fn purposes(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(usage)) = certificate.extended_key_usage() else {
        return vec![];
    };
    let usage = usage.value;
    [(usage.any, "any"), (usage.server_auth, "serverAuth"), (usage.client_auth, "clientAuth")]
        .into_iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| name.to_owned())
        .chain(usage.other.iter().map(ToString::to_string))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_a_certificate_says() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(["kms.example".to_owned(), "192.0.2.7".to_owned(), "::1".to_owned()])
                .unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "kms");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x0A, 0xFF]));
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 31);
        let certificate = params.self_signed(&key).unwrap();
        let info = CertificateInfo::from_der(certificate.der()).unwrap();
        assert!(info.subject.contains("CN=kms"), "{}", info.subject);
        assert!(info.is_self_issued && !info.is_ca);
        assert_eq!(info.serial.to_lowercase(), "0a:ff");
        assert_eq!(info.names, ["kms.example", "192.0.2.7", "::1"]);
        assert_eq!(info.purposes, ["serverAuth"]);
        assert!(info.is_for("serverAuth") && !info.is_for("clientAuth"));
        assert_eq!(info.not_after - info.not_before, 30 * 86_400);
        assert_eq!(info.fingerprint, Fingerprint::of(certificate.der()));

        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap());
        assert_eq!(info.seconds_left(at(info.not_after - 5)), 5);
        assert_eq!(info.seconds_left(at(info.not_after + 5)), -5);
        for (time, current) in
            [(info.not_before - 1, false), (info.not_before, true), (info.not_after, true), (info.not_after + 1, false)]
        {
            assert_eq!(info.is_current(at(time)), current);
        }
    }

    #[test]
    fn fingerprints_as_text() {
        let fingerprint = Fingerprint::of(b"a certificate");
        let text = fingerprint.to_string();
        assert_eq!(text.len(), 95);
        for form in [text.clone(), text.replace(':', ""), text.to_lowercase(), format!(" {text}\n")] {
            assert_eq!(form.parse(), Ok(fingerprint), "{form}");
        }
        for wrong in ["", "AA:BB", &text[1..], &format!("{text}:00"), &text.replace('A', "g").replace('0', "z")] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NoFingerprint), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_certificate() {
        assert!(CertificateInfo::from_der(b"").is_err());
        assert!(CertificateInfo::from_der(b"-----BEGIN CERTIFICATE-----").is_err());
    }
}
