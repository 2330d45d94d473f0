//! TPMS_ATTEST, of the kind that a quote is.

use super::reader::{Malformed, Problem, Reader};
use super::{Endian, PcrSelection};

/// TPM_GENERATED_VALUE, section 6.2: a restricted key signs nothing from outside that starts with it.
const TPM_GENERATED_VALUE: [u8; 4] = *b"\xffTCG";

/// TPM_ST_ATTEST_QUOTE, section 6.9.
const TPM_ST_ATTEST_QUOTE: u16 = 0x8018;

/// Longest Name: a TPM_ALG_ID and the longest digest.
const MAX_NAME: usize = 2 + 64;

/// TPM2B_DATA: as long as a TPMT_HA.
const MAX_DATA: usize = 2 + 64;

/// TPMS_CLOCK_INFO. Section 10.11.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockInfo {
    /// Time in milliseconds during which the TPM was powered, since its owner was last cleared.
    pub clock: u64,
    /// Number of TPM resets (boots) since its owner was last cleared.
    pub reset_count: u32,
    /// Number of resumes and restarts since the last reset.
    pub restart_count: u32,
    /// Whether no higher value of `clock` was ever reported.
    pub safe: bool,
}

/// TPMS_QUOTE_INFO. Section 10.12.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteInfo {
    /// pcrSelect: what was quoted.
    pub pcr_select: Vec<PcrSelection>,
    /// pcrDigest: the digest of the selected PCRs' values, by the hash of the signing scheme.
    pub pcr_digest: Vec<u8>,
}

/// A TPMS_ATTEST whose type is TPM_ST_ATTEST_QUOTE. Section 10.12.12.
///
/// To have been read says nothing: only the signature makes it the TPM's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// qualifiedSigner: the Qualified Name of the signing key.
    pub qualified_signer: Vec<u8>,
    /// extraData: the nonce.
    pub extra_data: Vec<u8>,
    /// clockInfo. For a key outside the endorsement and platform hierarchies the TPM obfuscates the counters.
    pub clock_info: ClockInfo,
    /// firmwareVersion, as the vendor numbers it, and obfuscated likewise.
    pub firmware_version: u64,
    /// attested.quote
    pub quote: QuoteInfo,
}

impl Quoted {
    /// Reads the bytes of a TPMS_ATTEST.
    ///
    /// # Errors
    /// [`Malformed`] names the field: other magics, other types of attestation, bytes left over.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("TPMS_ATTEST", Endian::Big, bytes);
        if reader.array("magic")? != TPM_GENERATED_VALUE {
            return Err(reader.error("magic", Problem::Expected("TPM_GENERATED_VALUE: no TPM made this")));
        }
        let kind = reader.u16("type")?;
        if kind != TPM_ST_ATTEST_QUOTE {
            return Err(reader.error("type", Problem::Expected("TPM_ST_ATTEST_QUOTE")));
        }
        let qualified_signer = reader.sized("qualifiedSigner", MAX_NAME)?.to_vec();
        let extra_data = reader.sized("extraData", MAX_DATA)?.to_vec();
        let clock_info = ClockInfo {
            clock: reader.u64("clockInfo.clock")?,
            reset_count: reader.u32("clockInfo.resetCount")?,
            restart_count: reader.u32("clockInfo.restartCount")?,
            safe: match reader.u8("clockInfo.safe")? {
                0 => false,
                1 => true,
                other => return Err(reader.error("clockInfo.safe", Problem::Value(other.to_string()))),
            },
        };
        let firmware_version = reader.u64("firmwareVersion")?;
        let pcr_select = PcrSelection::read_list(&mut reader)?;
        let pcr_digest = reader.sized("pcrDigest", 64)?.to_vec();
        reader.finish("attested")?;
        let quote = QuoteInfo { pcr_select, pcr_digest };
        Ok(Self { qualified_signer, extra_data, clock_info, firmware_version, quote })
    }

    /// The one bank and its PCRs, if the quote is of one bank only.
    pub(crate) fn single_selection(&self) -> Option<PcrSelection> {
        match self.quote.pcr_select.as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }
}
