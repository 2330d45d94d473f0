//! PKCS#12 (RFC 7292), as much of it as a backup of keys needs: secret bags, one sealed with a password and one in the
//! open, under a MAC. Structures only; the cryptography is AWS-LC's.
//!
//! PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC, and HMAC-SHA256 over all: what `openssl pkcs12` reads and writes by
//! default.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::{digest, hmac, pbkdf2};
use ward_secret::Zeroizing;
use yasna::models::ObjectIdentifier;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, DERWriter, Tag};

/// How often a password is hashed, for the key and for the MAC.
const ITERATIONS: u32 = if cfg!(test) { 1000 } else { 600_000 };
/// A file that asks for more is refused: it would only keep the machine busy.
const MAX_ITERATIONS: u32 = 10_000_000;
const SALT_LEN: usize = 16;

const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];
const ENCRYPTED_DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 6];
const SECRET_BAG: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 5];
const FRIENDLY_NAME: &[u64] = &[1, 2, 840, 113_549, 1, 9, 20];
const PBES2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 13];
const PBKDF2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 12];
const HMAC_SHA256: &[u64] = &[1, 2, 840, 113_549, 2, 9];
const AES_256_CBC: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 1, 42];
const SHA256: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];

/// A secret with its name.
pub(crate) struct Bag {
    pub(crate) name: String,
    pub(crate) content: Zeroizing<Vec<u8>>,
}

/// Why a file does not open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// It is not what was written.
    Damaged,
    /// The password is another one.
    Password,
}

impl From<ASN1Error> for OpenError {
    fn from(_: ASN1Error) -> Self {
        Self::Damaged
    }
}

/// The cryptographic library refused.
#[derive(Debug, thiserror::Error)]
#[error("the cryptographic library refused")]
pub(crate) struct Refused;

/// Bags sealed with a password.
pub(crate) struct SealedBags(Vec<u8>);

impl SealedBags {
    /// Seals bags.
    pub(crate) fn seal(password: &str, bags: &[Bag]) -> Result<Self, Refused> {
        let salt: [u8; SALT_LEN] = random()?;
        let key = encryption_key(password, &salt, ITERATIONS)?;
        let key = UnboundCipherKey::new(&AES_256, &key[..]).map_err(|_| Refused)?;
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).map_err(|_| Refused)?;
        let mut content = Zeroizing::new(safe_contents(bags));
        let DecryptionContext::Iv128(iv) = key.encrypt(&mut *content).map_err(|_| Refused)? else {
            return Err(Refused);
        };
        let iv: &[u8; 16] = iv.as_ref();
        let der = yasna::construct_der(|writer| {
            writer.write_sequence(|info| {
                oid(info.next(), ENCRYPTED_DATA);
                info.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_sequence(|data| {
                        data.next().write_u32(0);
                        data.next().write_sequence(|encrypted| {
                            oid(encrypted.next(), DATA);
                            pbes2(encrypted.next(), &salt, iv);
                            encrypted.next().write_tagged_implicit(Tag::context(0), |writer| {
                                writer.write_bytes(&content);
                            });
                        });
                    });
                });
            });
        });
        Ok(Self(der))
    }

    /// SHA-256 of what was sealed, as it lies in the file.
    pub(crate) fn digest(&self) -> Vec<u8> {
        digest::digest(&digest::SHA256, &self.0).as_ref().to_vec()
    }

    /// Opens them. With another password what comes out is noise, and noise is no structure.
    fn open(&self, password: &str) -> Result<Vec<Bag>, OpenError> {
        let parsed = yasna::parse_der(&self.0, |reader| {
            reader.read_sequence(|info| {
                expect(info.next(), ENCRYPTED_DATA)?;
                info.next().read_tagged(Tag::context(0), |reader| {
                    reader.read_sequence(|data| {
                        data.next().read_u32()?;
                        data.next().read_sequence(|encrypted| {
                            expect(encrypted.next(), DATA)?;
                            let (salt, iterations, iv) = read_pbes2(encrypted.next())?;
                            let content =
                                encrypted.next().read_tagged_implicit(Tag::context(0), |reader| reader.read_bytes())?;
                            Ok((salt, iterations, iv, content))
                        })
                    })
                })
            })
        });
        let (salt, iterations, iv, content) = parsed?;
        let iv: [u8; 16] = iv.try_into().map_err(|_| OpenError::Damaged)?;
        let mut content = Zeroizing::new(content);
        let key = encryption_key(password, &salt, iterations).map_err(|Refused| OpenError::Damaged)?;
        let key = UnboundCipherKey::new(&AES_256, &key[..]).map_err(|_| OpenError::Damaged)?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| OpenError::Damaged)?;
        let plain =
            key.decrypt(&mut content, DecryptionContext::Iv128((&iv).into())).map_err(|_| OpenError::Password)?;
        read_safe_contents(plain).map_err(|_| OpenError::Password)
    }
}

/// A file that was read, and not yet opened: nothing of it may be believed.
pub(crate) struct Container {
    /// The bag in the open.
    pub(crate) open: Bag,
    pub(crate) sealed: SealedBags,
    /// What the MAC is over.
    safe: Vec<u8>,
    mac: Vec<u8>,
    mac_salt: Vec<u8>,
    mac_iterations: u32,
}

/// Writes a file: one bag in the open, the others sealed, and a MAC over all.
pub(crate) fn write(password: &str, open: Bag, sealed: &SealedBags) -> Result<Vec<u8>, Refused> {
    let safe = yasna::construct_der(|writer| {
        writer.write_sequence(|infos| {
            data(infos.next(), &safe_contents(std::slice::from_ref(&open)));
            infos.next().write_der(&sealed.0);
        });
    });
    let salt: [u8; SALT_LEN] = random()?;
    let tag = hmac::sign(&mac_key(password, &salt, ITERATIONS), &safe);
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|pfx| {
            pfx.next().write_u32(3);
            data(pfx.next(), &safe);
            pfx.next().write_sequence(|mac| {
                mac.next().write_sequence(|info| {
                    info.next().write_sequence(|algorithm| {
                        oid(algorithm.next(), SHA256);
                        algorithm.next().write_null();
                    });
                    info.next().write_bytes(tag.as_ref());
                });
                mac.next().write_bytes(&salt);
                mac.next().write_u32(ITERATIONS);
            });
        });
    }))
}

impl Container {
    /// Reads a file.
    pub(crate) fn read(file: &[u8]) -> Result<Self, OpenError> {
        let (safe, mac, mac_salt, mac_iterations) = yasna::parse_der(file, |reader| {
            reader.read_sequence(|pfx| {
                pfx.next().read_u32()?;
                let safe = read_data(pfx.next())?;
                pfx.next().read_sequence(|mac| {
                    let tag = mac.next().read_sequence(|info| {
                        info.next().read_sequence(|algorithm| {
                            expect(algorithm.next(), SHA256)?;
                            algorithm.next().read_null()
                        })?;
                        info.next().read_bytes()
                    })?;
                    Ok((safe, tag, mac.next().read_bytes()?, mac.next().read_u32()?))
                })
            })
        })?;
        let (open, sealed) = yasna::parse_der(&safe, |reader| {
            reader.read_sequence(|infos| Ok((read_data(infos.next())?, infos.next().read_der()?)))
        })?;
        let open = read_safe_contents(&open)?.pop().ok_or(OpenError::Damaged)?;
        if !(1..=MAX_ITERATIONS).contains(&mac_iterations) {
            return Err(OpenError::Damaged);
        }
        Ok(Self { open, sealed: SealedBags(sealed), safe, mac, mac_salt, mac_iterations })
    }

    /// Opens what is sealed, and makes sure that nothing of the file was altered.
    pub(crate) fn open(&self, password: &str) -> Result<Vec<Bag>, OpenError> {
        let bags = self.sealed.open(password)?;
        let key = mac_key(password, &self.mac_salt, self.mac_iterations);
        // The password is right, since the bags opened.
        hmac::verify(&key, &self.safe, &self.mac).map_err(|_| OpenError::Damaged)?;
        Ok(bags)
    }
}

fn oid(writer: DERWriter<'_>, components: &[u64]) {
    writer.write_oid(&ObjectIdentifier::from_slice(components));
}

fn expect(reader: BERReader<'_, '_>, components: &[u64]) -> ASN1Result<()> {
    if reader.read_oid()?.components()[..] == *components {
        Ok(())
    } else {
        Err(ASN1Error::new(ASN1ErrorKind::Invalid))
    }
}

/// `ContentInfo` of plain data.
fn data(writer: DERWriter<'_>, content: &[u8]) {
    writer.write_sequence(|info| {
        oid(info.next(), DATA);
        info.next().write_tagged(Tag::context(0), |writer| writer.write_bytes(content));
    });
}

fn read_data(reader: BERReader<'_, '_>) -> ASN1Result<Vec<u8>> {
    reader.read_sequence(|info| {
        expect(info.next(), DATA)?;
        info.next().read_tagged(Tag::context(0), |reader| reader.read_bytes())
    })
}

/// `SafeContents` of secret bags, each with a friendly name.
fn safe_contents(bags: &[Bag]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            for bag in bags {
                writer.next().write_sequence(|writer| {
                    oid(writer.next(), SECRET_BAG);
                    writer.next().write_tagged(Tag::context(0), |writer| {
                        writer.write_sequence(|secret| {
                            oid(secret.next(), DATA);
                            secret.next().write_tagged(Tag::context(0), |writer| writer.write_bytes(&bag.content));
                        });
                    });
                    writer.next().write_set(|attributes| {
                        attributes.next().write_sequence(|attribute| {
                            oid(attribute.next(), FRIENDLY_NAME);
                            attribute.next().write_set(|values| values.next().write_bmp_string(&bag.name));
                        });
                    });
                });
            }
        });
    })
}

fn read_safe_contents(der: &[u8]) -> ASN1Result<Vec<Bag>> {
    yasna::parse_der(der, |reader| {
        reader.collect_sequence_of(|reader| {
            reader.read_sequence(|bag| {
                expect(bag.next(), SECRET_BAG)?;
                let content = bag.next().read_tagged(Tag::context(0), |reader| {
                    reader.read_sequence(|secret| {
                        expect(secret.next(), DATA)?;
                        secret.next().read_tagged(Tag::context(0), |reader| reader.read_bytes())
                    })
                })?;
                let names = bag.next().collect_set_of(|reader| {
                    reader.read_sequence(|attribute| {
                        expect(attribute.next(), FRIENDLY_NAME)?;
                        attribute.next().collect_set_of(|reader| reader.read_bmp_string())
                    })
                })?;
                let name = names.into_iter().flatten().next().unwrap_or_default();
                Ok(Bag { name, content: Zeroizing::new(content) })
            })
        })
    })
}

/// `AlgorithmIdentifier` of PBES2 (RFC 8018).
fn pbes2(writer: DERWriter<'_>, salt: &[u8], iv: &[u8]) {
    writer.write_sequence(|algorithm| {
        oid(algorithm.next(), PBES2);
        algorithm.next().write_sequence(|parameters| {
            parameters.next().write_sequence(|kdf| {
                oid(kdf.next(), PBKDF2);
                kdf.next().write_sequence(|parameters| {
                    parameters.next().write_bytes(salt);
                    parameters.next().write_u32(ITERATIONS);
                    parameters.next().write_sequence(|prf| {
                        oid(prf.next(), HMAC_SHA256);
                        prf.next().write_null();
                    });
                });
            });
            parameters.next().write_sequence(|cipher| {
                oid(cipher.next(), AES_256_CBC);
                cipher.next().write_bytes(iv);
            });
        });
    });
}

fn read_pbes2(reader: BERReader<'_, '_>) -> ASN1Result<(Vec<u8>, u32, Vec<u8>)> {
    reader.read_sequence(|algorithm| {
        expect(algorithm.next(), PBES2)?;
        algorithm.next().read_sequence(|parameters| {
            let (salt, iterations) = parameters.next().read_sequence(|kdf| {
                expect(kdf.next(), PBKDF2)?;
                kdf.next().read_sequence(|parameters| {
                    let read = (parameters.next().read_bytes()?, parameters.next().read_u32()?);
                    parameters.next().read_sequence(|prf| {
                        expect(prf.next(), HMAC_SHA256)?;
                        prf.next().read_null()
                    })?;
                    Ok(read)
                })
            })?;
            let iv = parameters.next().read_sequence(|cipher| {
                expect(cipher.next(), AES_256_CBC)?;
                cipher.next().read_bytes()
            })?;
            Ok((salt, iterations, iv))
        })
    })
}

fn encryption_key(password: &str, salt: &[u8], iterations: u32) -> Result<Zeroizing<[u8; 32]>, Refused> {
    let iterations = NonZeroU32::new(iterations).filter(|n| n.get() <= MAX_ITERATIONS).ok_or(Refused)?;
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut key[..]);
    Ok(key)
}

/// The MAC's key: RFC 7292, appendix B.2, with SHA-256, whose first block is all that is needed of it.
fn mac_key(password: &str, salt: &[u8], iterations: u32) -> hmac::Key {
    const BLOCK: usize = 64;
    const MAC: u8 = 3;
    let password: Zeroizing<Vec<u8>> =
        Zeroizing::new(password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect());
    let filled = |bytes: &[u8]| -> Zeroizing<Vec<u8>> {
        Zeroizing::new(bytes.iter().copied().cycle().take(bytes.len().next_multiple_of(BLOCK)).collect())
    };
    let start = Zeroizing::new([&[MAC; BLOCK][..], &filled(salt), &filled(&password)].concat());
    let mut key = digest::digest(&digest::SHA256, &start);
    for _ in 1..iterations {
        key = digest::digest(&digest::SHA256, key.as_ref());
    }
    hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
}

fn random<const N: usize>() -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Refused)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn bag(name: &str, content: &[u8]) -> Bag {
        Bag { name: name.to_owned(), content: Zeroizing::new(content.to_vec()) }
    }

    fn file(password: &str) -> Vec<u8> {
        let sealed = SealedBags::seal(password, &[bag("v1", &[0xab; 32]), bag("v2", &[0xcd; 32])]).unwrap();
        write(password, bag("about", b"{}"), &sealed).unwrap()
    }

    fn open(file: &[u8], password: &str) -> Result<Vec<(String, Vec<u8>)>, OpenError> {
        let bags = Container::read(file)?.open(password)?;
        Ok(bags.into_iter().map(|bag| (bag.name, bag.content.to_vec())).collect())
    }

    #[test]
    fn opens_with_its_password_only() {
        for password in ["correct horse", "", "Zürich 🐴"] {
            let file = file(password);
            let bags = open(&file, password).unwrap();
            assert_eq!(bags, [("v1".to_owned(), vec![0xab; 32]), ("v2".to_owned(), vec![0xcd; 32])]);
            assert_eq!(open(&file, "another"), Err(OpenError::Password));
            assert_eq!(&Container::read(&file).unwrap().open.content[..], b"{}");
        }
    }

    #[test]
    fn what_was_cut_is_damaged() {
        let file = file("p");
        for length in 0..file.len() {
            assert!(matches!(Container::read(&file[..length]), Err(OpenError::Damaged)), "cut to {length}");
        }
    }

    #[test]
    fn openssl_reads_it() {
        for password in ["correct horse", ""] {
            let mut openssl = Command::new("openssl")
                .args(["pkcs12", "-info", "-nodes", "-passin", &format!("pass:{password}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            openssl.stdin.take().unwrap().write_all(&file(password)).unwrap();
            let output = openssl.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(said.contains(&"AB ".repeat(31)) && said.contains(&"CD ".repeat(31)), "{said}");
            assert!(said.contains("friendlyName: v2"), "{said}");
        }
    }
}
