//! The few commands of a TPM that making one takes: TPM 2.0 Library, part 3. All numbers are big-endian.

use std::io;

use ward_types::Code;

use super::session::Session;
use crate::fault::{Fault, Result};

/// Handles of part 2, section 7: who allows a command. None of them has a password in a TPM that is new.
pub(super) const ENDORSEMENT: u32 = 0x4000_000B;
const PLATFORM: u32 = 0x4000_000C;

/// Without a session, and with one.
const BARE: u16 = 0x8001;
const WITH_SESSION: u16 = 0x8002;
/// TPM_RS_PW with an empty password.
const NO_PASSWORD: [u8; 9] = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];
/// TPM_RC_BAD_AUTH and TPM_RC_AUTH_FAIL, of the first session.
const WRONG_PASSWORD: [u32; 2] = [0x9A2, 0x98E];
/// TPM_SU_CLEAR
const CLEAR: [u8; 2] = [0, 0];
/// TPM_ALG_SHA256
const SHA256: u16 = 0x000B;
/// TPM_CAP_TPM_PROPERTIES
const PROPERTIES: u32 = 6;
/// As much as every TPM takes at a time.
const CHUNK: usize = 512;
/// TPM_RC_HANDLE of the first handle: there is no such index.
const NO_INDEX: u32 = 0x18B;

/// Attributes of an NV index with a certificate, TCG EK Credential Profile, section 2.2.1.2: the platform alone writes it,
/// all may read it. TPMA_NV_PPWRITE, _WRITEDEFINE, _PPREAD, _OWNERREAD, _AUTHREAD, _NO_DA, _PLATFORMCREATE.
const CERTIFICATE: u32 = 1 | 1 << 13 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 25 | 1 << 30;

/// What a command shows of who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    None,
    EmptyPassword,
}

impl Session {
    /// TPM2_Startup
    pub(super) fn startup(&mut self) -> Result<()> {
        self.ask("TPM2_Startup", 0x144, &[], Auth::None, &CLEAR).map(drop)
    }

    /// TPM2_Shutdown: without it the TPM would take the next start for one after a loss of power.
    pub(super) fn shutdown(&mut self) -> Result<()> {
        self.ask("TPM2_Shutdown", 0x145, &[], Auth::None, &CLEAR).map(drop)
    }

    /// TPM2_GetCapability, of one number.
    pub(super) fn property(&mut self, property: u32) -> Result<u32> {
        let parameters = [PROPERTIES, property, 1].map(u32::to_be_bytes).concat();
        let answer = self.ask("TPM2_GetCapability", 0x17A, &[], Auth::None, &parameters)?;
        // moreData, capability, count, property, value
        match answer.get(9..17).map(|pair| pair.split_at(4)) {
            Some((name, value)) if name == property.to_be_bytes() => Ok(number(value)),
            _ => Err(self.senseless("TPM2_GetCapability")),
        }
    }

    /// TPM2_CreatePrimary, then TPM2_FlushContext: the key's TPM2B_PUBLIC.
    pub(super) fn primary(&mut self, hierarchy: u32, template: &[u8]) -> Result<Vec<u8>> {
        const NAME: &str = "TPM2_CreatePrimary";
        // inSensitive: no password, no data. Then inPublic; no outsideInfo, no creationPCR.
        let parameters = [&[0, 4, 0, 0, 0, 0], &*sized(template), &[0; 6]].concat();
        let answer = self.ask(NAME, 0x131, &[hierarchy], Auth::EmptyPassword, &parameters)?;
        let key = answer.get(..4).map(number).ok_or_else(|| self.senseless(NAME))?;
        self.ask("TPM2_FlushContext", 0x165, &[], Auth::None, &key.to_be_bytes())?;
        // Behind the handle the length of the parameters, whose first is outPublic.
        let public = answer.get(8..).and_then(|rest| {
            let length = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
            rest.get(..2 + length)
        });
        public.map(<[u8]>::to_vec).ok_or_else(|| self.senseless(NAME))
    }

    /// Puts a certificate into an NV index of its own, in the place of the one that is there.
    pub(super) fn put_certificate(&mut self, index: u32, certificate: &[u8]) -> Result<()> {
        match self.try_ask(0x169, &[index], Auth::None, &[]) {
            Err(error) => return Err(self.broken(&error)),
            Ok(Err(NO_INDEX)) => {}
            Ok(Err(code)) => return Err(self.refused("TPM2_NV_ReadPublic", code)),
            Ok(Ok(_)) => {
                drop(self.ask("TPM2_NV_UndefineSpace", 0x122, &[PLATFORM, index], Auth::EmptyPassword, &[])?)
            }
        }
        let length = u16::try_from(certificate.len()).unwrap_or(u16::MAX);
        let public = [&index.to_be_bytes()[..], &SHA256.to_be_bytes(), &CERTIFICATE.to_be_bytes(), &[0, 0]].concat();
        let public = [public, length.to_be_bytes().to_vec()].concat();
        self.ask(
            "TPM2_NV_DefineSpace",
            0x12A,
            &[PLATFORM],
            Auth::EmptyPassword,
            &[&[0, 0], &*sized(&public)].concat(),
        )?;
        for (number, chunk) in certificate.chunks(CHUNK).enumerate() {
            let offset = u16::try_from(number * CHUNK).unwrap_or(u16::MAX);
            let parameters = [&*sized(chunk), &offset.to_be_bytes()].concat();
            self.ask("TPM2_NV_Write", 0x137, &[PLATFORM, index], Auth::EmptyPassword, &parameters)?;
        }
        self.ask("TPM2_NV_WriteLock", 0x138, &[PLATFORM, index], Auth::EmptyPassword, &[]).map(drop)
    }

    /// What an NV index holds: TPM2_NV_ReadPublic, TPM2_NV_Read.
    #[cfg(test)]
    pub(super) fn nv(&mut self, index: u32) -> Vec<u8> {
        let public = self.ask("TPM2_NV_ReadPublic", 0x169, &[index], Auth::None, &[]).unwrap_or_default();
        // Behind the length of the whole: index, nameAlg, attributes, authPolicy (empty), dataSize.
        let length = public.get(14..16).map_or(0, number);
        let mut content = Vec::new();
        while content.len() < length as usize {
            let take = (length as usize - content.len()).min(CHUNK);
            let parameters =
                [take, content.len()].map(|size| u16::try_from(size).unwrap_or(u16::MAX).to_be_bytes()).concat();
            let answer = self.ask("TPM2_NV_Read", 0x14E, &[index, index], Auth::EmptyPassword, &parameters);
            content.extend_from_slice(&answer.unwrap_or_default()[6..6 + take]);
        }
        content
    }

    /// TPM2_HierarchyChangeAuth, as a guest may.
    #[cfg(test)]
    pub(super) fn give_password(&mut self, password: &[u8]) -> Result<()> {
        let parameters = sized(password);
        self.ask("TPM2_HierarchyChangeAuth", 0x129, &[ENDORSEMENT], Auth::EmptyPassword, &parameters).map(drop)
    }

    fn ask(&mut self, name: &str, code: u32, handles: &[u32], auth: Auth, parameters: &[u8]) -> Result<Vec<u8>> {
        match self.try_ask(code, handles, auth, parameters) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(code)) => Err(self.refused(name, code)),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// The answer behind its code; or the code, where it is none of success.
    fn try_ask(
        &mut self,
        code: u32,
        handles: &[u32],
        auth: Auth,
        parameters: &[u8],
    ) -> io::Result<std::result::Result<Vec<u8>, u32>> {
        let mut body: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        if auth == Auth::EmptyPassword {
            body.extend(9u32.to_be_bytes());
            body.extend(NO_PASSWORD);
        }
        body.extend(parameters);
        let tag = if auth == Auth::EmptyPassword { WITH_SESSION } else { BARE };
        let length = u32::try_from(10 + body.len()).unwrap_or(u32::MAX);
        let command = [&tag.to_be_bytes()[..], &length.to_be_bytes(), &code.to_be_bytes(), &*body].concat();
        let answer = self.transmit(&command)?;
        let (code, rest) = answer.split_at(4);
        Ok(match number(code) {
            0 => Ok(rest.to_vec()),
            code => Err(code),
        })
    }

    fn refused(&mut self, name: &str, code: u32) -> Fault {
        if WRONG_PASSWORD.contains(&code) {
            let why = "the guest has given its TPM's endorsement hierarchy a password, without which its endorsement keys \
                       can't be made again";
            let remedy =
                "take the password away in the guest (`tpm2_changeauth -c endorsement`), stop the VM and ask again";
            return Fault::new(Code::RequestInvalid, why, remedy);
        }
        self.broken(&io::Error::other(format!("its TPM refuses {name} ({code:#x})")))
    }

    fn senseless(&mut self, name: &str) -> Fault {
        self.broken(&io::Error::other(format!("its TPM gives an answer to {name} that makes no sense")))
    }
}

/// A TPM2B.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes(), bytes].concat()
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
