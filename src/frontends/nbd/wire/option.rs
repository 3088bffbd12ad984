//! What client and server say to each other in the negotiation.

use super::{GREETING, Handshake, LONGEST_STRING, OPTION_MAGIC, OPTION_REPLY_MAGIC, Reader};

/// The numbers of the options that are known.
pub(in super::super) mod number {
    pub(in super::super::super) const EXPORT_NAME: u32 = 1;
    pub(in super::super::super) const ABORT: u32 = 2;
    pub(in super::super::super) const LIST: u32 = 3;
    pub(in super::super::super) const STARTTLS: u32 = 5;
    pub(in super::super::super) const INFO: u32 = 6;
    pub(in super::super::super) const GO: u32 = 7;
    pub(in super::super::super) const STRUCTURED_REPLY: u32 = 8;
    pub(in super::super::super) const LIST_META_CONTEXT: u32 = 9;
    pub(in super::super::super) const SET_META_CONTEXT: u32 = 10;
    pub(in super::super::super) const EXTENDED_HEADERS: u32 = 11;
}

/// The kinds of a reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(in super::super) enum Kind {
    Ack = 1,
    Server = 2,
    Info = 3,
    MetaContext = 4,
    ErrUnsup = ERROR + 1,
    ErrPolicy = ERROR + 2,
    ErrInvalid = ERROR + 3,
    ErrPlatform = ERROR + 4,
    ErrTlsReqd = ERROR + 5,
    ErrUnknown = ERROR + 6,
    ErrTooBig = ERROR + 9,
    ErrExtHeaderReqd = ERROR + 10,
}

/// Set in the kinds that refuse an option.
const ERROR: u32 = 1 << 31;

/// The kinds of information about an export.
pub(in super::super) mod info {
    pub(in super::super::super) const EXPORT: u16 = 0;
    pub(in super::super::super) const NAME: u16 = 1;
    pub(in super::super::super) const DESCRIPTION: u16 = 2;
    pub(in super::super::super) const BLOCK_SIZE: u16 = 3;
}

/// What a server says first, when it offers these flags.
pub(in super::super) fn greeting(offered: Handshake) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&GREETING.to_be_bytes());
    bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes[16..].copy_from_slice(&offered.bits().to_be_bytes());
    bytes
}

/// What a client answers; none if it says something that was not offered.
pub(in super::super) fn client_flags(bytes: [u8; 4], offered: Handshake) -> Option<Handshake> {
    let bits = u16::try_from(u32::from_be_bytes(bytes)).ok()?;
    let flags = Handshake::from_bits(bits)?;
    offered.contains(flags).then_some(flags)
}

/// The head of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Head {
    pub(in super::super) number: u32,
    /// Bytes that follow.
    pub(in super::super) len: u32,
}

impl Head {
    /// Bytes of a head.
    pub(in super::super) const SIZE: usize = 16;

    /// None if the head does not begin as it must.
    pub(in super::super) fn decode(bytes: [u8; Self::SIZE]) -> Option<Self> {
        let mut reader = Reader::new(&bytes);
        (reader.u64()? == OPTION_MAGIC).then_some(())?;
        Some(Self {
            number: reader.u32()?,
            len: reader.u32()?,
        })
    }
}

/// The head of a reply to the option `number`, before `len` bytes.
pub(in super::super) fn reply(number: u32, kind: Kind, len: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    bytes[8..12].copy_from_slice(&number.to_be_bytes());
    bytes[12..16].copy_from_slice(&(kind as u32).to_be_bytes());
    bytes[16..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Why the data of an option cannot be understood, in words for the client.
pub(in super::super) type Malformed = &'static str;

/// The data of `INFO` and `GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Wanted<'a> {
    pub(in super::super) export: &'a str,
    infos: &'a [u8],
}

impl<'a> Wanted<'a> {
    pub(in super::super) fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(data);
        let export = string(&mut reader)?;
        let count = reader.u16().ok_or(TRUNCATED)?;
        let infos = reader.bytes(usize::from(count) * 2).ok_or(TRUNCATED)?;
        if !reader.is_empty() {
            return Err(TOO_LONG);
        }
        Ok(Self { export, infos })
    }

    /// Whether the client asked for information of this kind.
    pub(in super::super) fn asks_for(&self, info: u16) -> bool {
        let (infos, _none) = self.infos.as_chunks::<2>();
        infos.iter().any(|bytes| u16::from_be_bytes(*bytes) == info)
    }
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Queries<'a> {
    pub(in super::super) export: &'a str,
    pub(in super::super) queries: Vec<&'a str>,
}

impl<'a> Queries<'a> {
    pub(in super::super) fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(data);
        let export = string(&mut reader)?;
        let count = reader.u32().ok_or(TRUNCATED)?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(string(&mut reader)?);
        }
        if !reader.is_empty() {
            return Err(TOO_LONG);
        }
        Ok(Self { export, queries })
    }
}

const TRUNCATED: Malformed = "the option is shorter than it says";
const TOO_LONG: Malformed = "the option is longer than it says";

/// A string behind its 32-bit length.
fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let len = reader.u32().ok_or(TRUNCATED)?;
    let len = usize::try_from(len).map_err(|_too_large| TRUNCATED)?;
    text(reader.bytes(len).ok_or(TRUNCATED)?)
}

/// A string of the protocol.
pub(in super::super) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > LONGEST_STRING {
        return Err("a name of more than 4096 bytes");
    }
    let text = str::from_utf8(bytes).map_err(|_where| "a name that is not UTF-8")?;
    if text.contains('\0') {
        return Err("a name with a zero byte in it");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_len(text: &str) -> Vec<u8> {
        let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    }

    #[test]
    fn every_cut_of_an_option_is_malformed() {
        let mut go = with_len("disk");
        go.extend([0, 2, 0, 1, 0, 3]);
        let wanted = Wanted::decode(&go).unwrap();
        assert_eq!(wanted.export, "disk");
        assert!(wanted.asks_for(info::NAME) && wanted.asks_for(info::BLOCK_SIZE));
        assert!(!wanted.asks_for(info::DESCRIPTION));
        for cut in 0..go.len() {
            assert_eq!(Wanted::decode(&go[..cut]), Err(TRUNCATED), "{cut}");
        }
        go.push(0);
        assert_eq!(Wanted::decode(&go), Err(TOO_LONG));

        let mut meta = with_len("disk");
        meta.extend([0, 0, 0, 2]);
        meta.extend(with_len("base:"));
        meta.extend(with_len("x:y"));
        assert_eq!(Queries::decode(&meta).unwrap().queries, ["base:", "x:y"]);
        for cut in 0..meta.len() {
            assert_eq!(Queries::decode(&meta[..cut]), Err(TRUNCATED), "{cut}");
        }
        meta.push(0);
        assert_eq!(Queries::decode(&meta), Err(TOO_LONG));
    }

    #[test]
    fn a_refusal_has_the_number_of_the_document() {
        let numbers = [
            (Kind::ErrUnsup, 1),
            (Kind::ErrPolicy, 2),
            (Kind::ErrInvalid, 3),
            (Kind::ErrPlatform, 4),
            (Kind::ErrTlsReqd, 5),
            (Kind::ErrUnknown, 6),
            (Kind::ErrTooBig, 9),
            (Kind::ErrExtHeaderReqd, 10),
        ];
        for (kind, last) in numbers {
            let said = reply(number::LIST, kind, 0);
            assert_eq!(said[12..16], [0x80, 0, 0, last], "{kind:?}");
        }
    }

    #[test]
    fn names_are_short_text_without_zeroes() {
        assert_eq!(text(b"a/b"), Ok("a/b"));
        assert!(text(&[b'x'; LONGEST_STRING]).is_ok());
        assert!(text(&[b'x'; LONGEST_STRING + 1]).is_err());
        assert!(text(b"\xff").is_err());
        assert!(text(b"a\0").is_err());
    }

    #[test]
    fn flags_that_were_not_offered_are_refused() {
        assert_eq!(
            client_flags([0, 0, 0, 3], Handshake::all()),
            Some(Handshake::all())
        );
        assert_eq!(
            client_flags([0, 0, 0, 0], Handshake::all()),
            Some(Handshake::empty())
        );
        assert_eq!(client_flags([0, 0, 0, 4], Handshake::all()), None);
        assert_eq!(client_flags([0, 1, 0, 1], Handshake::all()), None);
        assert_eq!(client_flags([0, 0, 0, 3], Handshake::FIXED_NEWSTYLE), None);
    }

    #[test]
    fn the_greeting_offers_both_flags() {
        assert_eq!(&greeting(Handshake::all())[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting(Handshake::all())[16..], [0, 3]);
    }
}
