//! NBD's bytes, understood or refused: the fixed newstyle handshake and simple replies, as the protocol's own description
//! (`doc/proto.md`) has them. There is one export, without a name. Pure.

/// What the server says first: both magics, and that it knows the fixed newstyle and can leave out zeros.
pub(super) const GREETING: [u8; 18] = *b"NBDMAGICIHAVEOPT\x00\x03";

const FIXED_NEWSTYLE: u32 = 1;
const NO_ZEROES: u32 = 2;

const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// An export's name has at most 4096 bytes; what surrounds it is short.
const MAX_OPTION: u32 = 8192;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
const REP_ERR_INVALID: u32 = (1 << 31) + 3;
const REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

const HAS_FLAGS: u16 = 1;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_FUA: u16 = 1 << 3;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const COMMAND_FUA: u16 = 1;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

/// The most that one request reads or writes, as it is told to clients that ask.
pub(super) const MAX_LENGTH: u32 = 1 << 20;
/// The most that clients which don't ask may send.
const MAX_PAYLOAD: u32 = 32 << 20;
const PREFERRED_LENGTH: u32 = 4096;

/// The length of an option without its data.
pub(super) const OPTION_LEN: usize = 16;
/// The length of a request without its data.
pub(super) const REQUEST_LEN: usize = 28;

/// NBD's numbers of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errno {
    None = 0,
    NotPermitted = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
}

/// The client does what the protocol forbids, after which nothing that it sends can be made out: the connection ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// What is exported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    /// In bytes.
    pub(super) size: u64,
    pub(super) read_only: bool,
}

/// What comes of an option.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Negotiated {
    /// An answer; more options follow.
    Answer(Vec<u8>),
    /// An answer; requests follow.
    Go(Vec<u8>),
    /// A last answer.
    End(Vec<u8>),
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// By which the client knows the answer.
    pub(super) cookie: u64,
    pub(super) action: Action,
}

/// What a request asks for. What is to be read and written is there, and not too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Read {
        offset: u64,
        length: u32,
    },
    /// So many bytes follow the request.
    Write {
        offset: u64,
        length: u32,
        fua: bool,
    },
    Flush,
    Disconnect,
    /// It can't be done; so many bytes that follow it are to be passed over.
    Refuse {
        error: Errno,
        skip: u32,
    },
}

/// Reads the client's flags: whether zeros are left out.
pub(super) fn client_flags(bytes: [u8; 4]) -> Result<bool, Violation> {
    let flags = u32::from_be_bytes(bytes);
    if flags & FIXED_NEWSTYLE == 0 || flags & !(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(Violation("its flags are not those of the fixed newstyle"));
    }
    Ok(flags & NO_ZEROES != 0)
}

/// Reads an option without its data: its number, and how much data follows.
pub(super) fn option(bytes: &[u8; OPTION_LEN]) -> Result<(u32, usize), Violation> {
    let mut fields = Fields(bytes);
    if fields.take::<8>() != Some(OPTION_MAGIC) {
        return Err(Violation("an option does not begin as one"));
    }
    match (fields.u32(), fields.u32()) {
        (Some(option), Some(length @ 0..=MAX_OPTION)) => Ok((option, length as usize)),
        _ => Err(Violation("an option is too long")),
    }
}

/// Answers an option.
pub(super) fn negotiate(option: u32, data: &[u8], offer: Offer, no_zeroes: bool) -> Result<Negotiated, Violation> {
    let answer = |kind, data: &[u8]| Negotiated::Answer(reply(option, kind, data));
    Ok(match option {
        OPT_EXPORT_NAME if data.is_empty() => {
            let mut bytes = offer.bytes().to_vec();
            bytes.resize(bytes.len() + if no_zeroes { 0 } else { 124 }, 0);
            Negotiated::Go(bytes)
        }
        // There is no answer that would say so.
        OPT_EXPORT_NAME => return Err(Violation("it asks for an export that there is not")),
        OPT_ABORT => Negotiated::End(reply(option, REP_ACK, &[])),
        OPT_LIST if data.is_empty() => {
            let mut bytes = reply(option, REP_SERVER, &0u32.to_be_bytes());
            bytes.extend(reply(option, REP_ACK, &[]));
            Negotiated::Answer(bytes)
        }
        OPT_LIST => answer(REP_ERR_INVALID, &[]),
        OPT_INFO | OPT_GO => match wanted_export(data) {
            None => answer(REP_ERR_INVALID, &[]),
            Some(name) if !name.is_empty() => answer(REP_ERR_UNKNOWN, &[]),
            Some(_) => {
                let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                info.extend(offer.bytes());
                let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
                sizes.extend([1, PREFERRED_LENGTH, MAX_LENGTH].map(u32::to_be_bytes).concat());
                let replies = [(REP_INFO, info), (REP_INFO, sizes), (REP_ACK, Vec::new())];
                let bytes = replies.iter().flat_map(|(kind, data)| reply(option, *kind, data)).collect();
                if option == OPT_GO { Negotiated::Go(bytes) } else { Negotiated::Answer(bytes) }
            }
        },
        _ => answer(REP_ERR_UNSUP, &[]),
    })
}

/// The name in the data of `NBD_OPT_INFO` and `NBD_OPT_GO`; what is asked about it is told anyhow.
fn wanted_export(data: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(data);
    let length = fields.u32()?;
    let name = fields.slice(length as usize)?;
    let count = fields.u16()?;
    (fields.0.len() == usize::from(count) * 2).then_some(name)
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap_or_default().to_be_bytes());
    bytes.extend(data);
    bytes
}

impl Offer {
    fn bytes(self) -> [u8; 10] {
        let flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | if self.read_only { READ_ONLY } else { 0 };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.size.to_be_bytes());
        bytes[8..].copy_from_slice(&flags.to_be_bytes());
        bytes
    }
}

/// Reads a request without its data.
pub(super) fn request(bytes: &[u8; REQUEST_LEN], offer: Offer) -> Result<Request, Violation> {
    let mut fields = Fields(bytes);
    let read = (|| Some((fields.u32()?, fields.u16()?, fields.u16()?, fields.u64()?, fields.u64()?, fields.u32()?)))();
    let Some((REQUEST_MAGIC, flags, command, cookie, offset, length)) = read else {
        return Err(Violation("a request does not begin as one"));
    };
    if command == WRITE && length > MAX_PAYLOAD {
        return Err(Violation("it writes more than any client may at a time"));
    }
    let skip = if command == WRITE { length } else { 0 };
    let refuse = |error| Action::Refuse { error, skip };
    let is_there = offset.checked_add(length.into()).is_some_and(|end| end <= offer.size);
    let fits = (1..=MAX_LENGTH).contains(&length);
    let action = match (command, flags) {
        (READ, 0) if fits && is_there => Action::Read { offset, length },
        (WRITE, 0 | COMMAND_FUA) if offer.read_only => refuse(Errno::NotPermitted),
        (WRITE, 0 | COMMAND_FUA) if fits && is_there => Action::Write { offset, length, fua: flags == COMMAND_FUA },
        (WRITE, 0 | COMMAND_FUA) if fits => refuse(Errno::NoSpace),
        (FLUSH, 0) if offset == 0 && length == 0 => Action::Flush,
        (DISCONNECT, _) => Action::Disconnect,
        _ => refuse(Errno::Invalid),
    };
    Ok(Request { cookie, action })
}

/// An answer to a request, without data.
pub(super) fn answer(cookie: u64, error: Errno) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&(error as u32).to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (slice, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(slice)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const OFFER: Offer = Offer { size: 10_000, read_only: false };

    fn bytes(flags: u16, command: u16, offset: u64, length: u32) -> [u8; REQUEST_LEN] {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(7u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.try_into().unwrap()
    }

    fn go(name: &[u8], infos: &[u16]) -> Vec<u8> {
        let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
        data.extend(name);
        data.extend(u16::try_from(infos.len()).unwrap().to_be_bytes());
        data.extend(infos.iter().flat_map(|info| info.to_be_bytes()));
        data
    }

    #[test]
    fn requests_by_table() {
        let refuse = |error, skip| Action::Refuse { error, skip };
        for (flags, command, offset, length, expected) in [
            (0, READ, 0, 10_000, Action::Read { offset: 0, length: 10_000 }),
            (0, READ, 9_999, 1, Action::Read { offset: 9_999, length: 1 }),
            (0, READ, 9_999, 2, refuse(Errno::Invalid, 0)),
            (0, READ, 0, 0, refuse(Errno::Invalid, 0)),
            (COMMAND_FUA, READ, 0, 1, refuse(Errno::Invalid, 0)),
            (0, READ, u64::MAX, 1, refuse(Errno::Invalid, 0)),
            (0, WRITE, 1, 512, Action::Write { offset: 1, length: 512, fua: false }),
            (COMMAND_FUA, WRITE, 1, 512, Action::Write { offset: 1, length: 512, fua: true }),
            (0, WRITE, 9_999, 2, refuse(Errno::NoSpace, 2)),
            (0, WRITE, u64::MAX, 2, refuse(Errno::NoSpace, 2)),
            (0, WRITE, 0, MAX_LENGTH + 1, refuse(Errno::Invalid, MAX_LENGTH + 1)),
            (2, WRITE, 0, 512, refuse(Errno::Invalid, 512)),
            (0, FLUSH, 0, 0, Action::Flush),
            (0, FLUSH, 0, 1, refuse(Errno::Invalid, 0)),
            (0, DISCONNECT, 0, 0, Action::Disconnect),
            (0, 4, 0, 512, refuse(Errno::Invalid, 0)),
            (0, 6, 0, 512, refuse(Errno::Invalid, 0)),
        ] {
            let parsed = request(&bytes(flags, command, offset, length), OFFER).unwrap();
            assert_eq!(parsed, Request { cookie: 7, action: expected }, "{flags} {command} {offset} {length}");
        }
        assert!(request(&bytes(0, WRITE, 0, MAX_PAYLOAD + 1), OFFER).is_err());
        let read_only = Offer { read_only: true, ..OFFER };
        let parsed = request(&bytes(0, WRITE, 0, 512), read_only).unwrap();
        assert_eq!(parsed.action, refuse(Errno::NotPermitted, 512));
        let mut bad = bytes(0, READ, 0, 1);
        bad[0] ^= 1;
        assert!(request(&bad, OFFER).is_err());
    }

    #[test]
    fn options_by_table() {
        let kind = |answer: &[u8]| u32::from_be_bytes(answer[12..16].try_into().unwrap());
        for (option, data, expected) in [
            (OPT_INFO, go(b"", &[3]), REP_INFO),
            (OPT_INFO, go(b"other", &[]), REP_ERR_UNKNOWN),
            (OPT_GO, go(b"other", &[]), REP_ERR_UNKNOWN),
            (OPT_GO, go(b"", &[3])[..7].to_vec(), REP_ERR_INVALID),
            (OPT_GO, [go(b"", &[]), vec![0]].concat(), REP_ERR_INVALID),
            (OPT_GO, vec![0xff; 10], REP_ERR_INVALID),
            (OPT_LIST, vec![1], REP_ERR_INVALID),
            (OPT_LIST, vec![], REP_SERVER),
            (5, vec![], REP_ERR_UNSUP),
            (8, vec![], REP_ERR_UNSUP),
        ] {
            match negotiate(option, &data, OFFER, true).unwrap() {
                Negotiated::Answer(answer) => assert_eq!(kind(&answer), expected, "{option} {data:?}"),
                other => panic!("{option} {data:?}: {other:?}"),
            }
        }
        assert!(matches!(negotiate(OPT_GO, &go(b"", &[]), OFFER, true), Ok(Negotiated::Go(_))));
        assert!(matches!(negotiate(OPT_ABORT, &[], OFFER, true), Ok(Negotiated::End(_))));
        for (no_zeroes, length) in [(true, 10), (false, 134)] {
            match negotiate(OPT_EXPORT_NAME, &[], OFFER, no_zeroes) {
                Ok(Negotiated::Go(answer)) => assert_eq!(answer.len(), length),
                other => panic!("{other:?}"),
            }
        }
        assert!(negotiate(OPT_EXPORT_NAME, b"x", OFFER, true).is_err());
    }

    proptest! {
        #[test]
        fn any_request_at_all(bytes: [u8; REQUEST_LEN], magic: bool, size: u64, read_only: bool) {
            let mut bytes = bytes;
            if magic {
                bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
                // Commands and flags that mean something, more often than not.
                bytes[4] = 0;
                bytes[5] &= 3;
                bytes[6] = 0;
                bytes[7] &= 7;
            }
            if let Ok(Request { action, .. }) = request(&bytes, Offer { size, read_only }) {
                match action {
                    Action::Read { offset, length } | Action::Write { offset, length, .. } => {
                        prop_assert!(offset + u64::from(length) <= size && (1..=MAX_LENGTH).contains(&length));
                        let reads = matches!(action, Action::Read { .. });
                        prop_assert!(!read_only || reads);
                    }
                    Action::Refuse { skip, .. } => prop_assert!(skip <= MAX_PAYLOAD),
                    Action::Flush | Action::Disconnect => {}
                }
            }
        }

        #[test]
        fn any_option_at_all(number in 0u32..12, data: Vec<u8>, header: [u8; OPTION_LEN], flags: [u8; 4]) {
            let _ = negotiate(number, &data, OFFER, true);
            if let Ok((_, length)) = option(&header) {
                prop_assert!(length <= MAX_OPTION as usize);
            }
            let _ = client_flags(flags);
        }
    }
}
