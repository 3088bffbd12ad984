//! The first phase of a conversation: the client asks for options until it has chosen an export.
//!
//! Nothing is read that was not asked for: what follows a request to encrypt is not ours to read.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use super::ending::End;
use super::link::Link;
use super::service::{Seat, Service, Standing};
use super::tls::Tls;
use super::wire::option::{Head, Kind, Malformed, client_flags, greeting, number, reply};
use super::wire::{Handshake, LONGEST_STRING, Shape};
use crate::disk::{Client, Export, Guest};

mod contexts;
mod exports;
mod oldstyle;

/// Options in one negotiation; who asks for more is disconnected.
const MOST_OPTIONS: u32 = 1000;

/// What a negotiation ended with.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) export: Box<dyn Export>,
    pub(super) seat: Seat,
    pub(super) shape: Shape,
    /// The client may ask for `base:allocation`.
    pub(super) allocation: bool,
}

/// A negotiation under way.
#[derive(Debug)]
struct Negotiation<'a> {
    service: &'a Service,
    link: &'a mut Link,
    guest: Box<dyn Guest>,
    client: &'a Client,
    standing: &'a Standing,
    /// The plugin's own time moves it.
    deadline: Instant,
    handshake: Handshake,
    tls: bool,
    chosen: Chosen,
    /// The data of the option that is being answered.
    data: Vec<u8>,
    /// Its replies.
    replies: Vec<u8>,
}

/// What the client chose so far; forgotten when the connection becomes encrypted.
#[derive(Debug)]
struct Chosen {
    shape: Shape,
    /// The export for which `base:allocation` was chosen.
    allocation_of: Option<String>,
}

impl Chosen {
    const NOTHING: Self = Self {
        shape: Shape::Simple,
        allocation_of: None,
    };
}

/// What follows an option.
#[derive(Debug)]
enum Next {
    /// Another option.
    Option,
    /// The transmission phase.
    Transmission(Agreed),
}

/// Negotiate until an export is chosen. The guest comes back, because it lives as long as its client.
pub(super) fn negotiate(
    service: &Service,
    link: &mut Link,
    guest: Box<dyn Guest>,
    client: &Arc<Client>,
    standing: &Standing,
    deadline: Instant,
) -> Result<(Agreed, Box<dyn Guest>), End> {
    link.set_deadline(Some(deadline))?;
    let mut negotiation = Negotiation {
        service,
        link,
        guest,
        client,
        standing,
        deadline,
        handshake: Handshake::empty(),
        tls: false,
        chosen: Chosen::NOTHING,
        data: Vec::new(),
        replies: Vec::new(),
    };
    if service.dialect.oldstyle {
        let agreed = negotiation.tell_oldstyle()?;
        return Ok((agreed, negotiation.guest));
    }
    negotiation.greet()?;
    for _ in 0..MOST_OPTIONS {
        if let Next::Transmission(agreed) = negotiation.option()? {
            return Ok((agreed, negotiation.guest));
        }
    }
    Err(End::Broken("more options than a client can need"))
}

impl Negotiation<'_> {
    /// Say what this server speaks, and hear what of it the client does.
    fn greet(&mut self) -> Result<(), End> {
        let offered = Handshake::from_bits_truncate(self.service.dialect.handshake);
        self.link
            .write_all(&mut [IoSlice::new(&greeting(offered))])?;
        let mut answer = [0; 4];
        self.link.read_exact(&mut answer)?;
        self.handshake =
            client_flags(answer, offered).ok_or(End::Broken("a flag that was not offered"))?;
        Ok(())
    }

    /// Read one option and answer it.
    fn option(&mut self) -> Result<Next, End> {
        let mut head = [0; Head::SIZE];
        self.link.read_exact(&mut head)?;
        let head = Head::decode(head).ok_or(End::Broken("an option does not begin as it must"))?;
        if !self.read_data(head)? {
            if head.number == number::EXPORT_NAME {
                return Err(End::Broken("an export name of more than 4096 bytes"));
            }
            return self.refuse(head.number, Kind::ErrTooBig, "the option is too long");
        }
        let data = std::mem::take(&mut self.data);
        let next = self.answer(head.number, &data);
        self.data = data;
        next
    }

    /// Read the data of an option; false if there was more than anybody wants.
    fn read_data(&mut self, head: Head) -> Result<bool, End> {
        if head.len > self.service.bounds.option {
            self.skip(head.len)?;
            return Ok(false);
        }
        let len = usize::try_from(head.len).expect("a length of 32 bits fits");
        self.data.resize(len, 0);
        self.link.read_exact(&mut self.data)?;
        Ok(true)
    }

    /// Read so many bytes and drop them.
    fn skip(&mut self, len: u32) -> Result<(), End> {
        if len > self.service.bounds.payload {
            return Err(End::Broken("an option that is far too long to be skipped"));
        }
        self.data.resize(LONGEST_STRING, 0);
        let mut left = usize::try_from(len).expect("a length of 32 bits fits");
        while left > 0 {
            let now = left.min(self.data.len());
            self.link.read_exact(&mut self.data[..now])?;
            left -= now;
        }
        Ok(())
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Result<Next, End> {
        let hidden = !self.tls && matches!(self.service.tls, Tls::Required(_));
        if hidden && !matches!(option, number::STARTTLS | number::ABORT) {
            if option == number::EXPORT_NAME {
                return Err(End::Broken("an export was asked for without TLS"));
            }
            return self.refuse(option, Kind::ErrTlsReqd, "TLS is required here");
        }
        if !self.speaks(option) {
            return self.refuse(option, Kind::ErrUnsup, "this server does not offer it");
        }
        match option {
            number::EXPORT_NAME => self.export_name(data),
            number::ABORT => self.abort(),
            number::LIST => self.list(data),
            number::STARTTLS => self.start_tls(data),
            number::INFO | number::GO => self.look(option, data),
            number::STRUCTURED_REPLY => self.structured_reply(data),
            number::EXTENDED_HEADERS => self.extended_headers(data),
            number::LIST_META_CONTEXT => self.list_meta_context(data),
            number::SET_META_CONTEXT => self.set_meta_context(data),
            _ => self.refuse(option, Kind::ErrUnsup, "an unknown option"),
        }
    }

    /// Whether the option belongs to what this server was told to speak.
    fn speaks(&self, option: u32) -> bool {
        let dialect = &self.service.dialect;
        let offered = Handshake::from_bits_truncate(dialect.handshake);
        match option {
            number::EXPORT_NAME => true,
            _ if !offered.contains(Handshake::FIXED_NEWSTYLE) => false,
            number::STRUCTURED_REPLY | number::EXTENDED_HEADERS => dialect.structured,
            _ => true,
        }
    }

    fn abort(&mut self) -> Result<Next, End> {
        self.acknowledge(number::ABORT)?;
        Err(End::Disconnected)
    }

    fn structured_reply(&mut self, data: &[u8]) -> Result<Next, End> {
        const OPTION: u32 = number::STRUCTURED_REPLY;
        if !data.is_empty() {
            return self.malformed(OPTION, "this option has no data");
        }
        match self.chosen.shape {
            Shape::Simple => self.chosen.shape = Shape::Structured,
            Shape::Structured => return self.malformed(OPTION, "was chosen before"),
            Shape::Extended => {
                return self.refuse(
                    OPTION,
                    Kind::ErrExtHeaderReqd,
                    "extended headers were chosen",
                );
            }
        }
        self.acknowledge(OPTION)
    }

    fn extended_headers(&mut self, data: &[u8]) -> Result<Next, End> {
        const OPTION: u32 = number::EXTENDED_HEADERS;
        if !data.is_empty() {
            return self.malformed(OPTION, "this option has no data");
        }
        if self.chosen.shape == Shape::Extended {
            return self.malformed(OPTION, "was chosen before");
        }
        self.chosen.shape = Shape::Extended;
        self.acknowledge(OPTION)
    }

    fn start_tls(&mut self, data: &[u8]) -> Result<Next, End> {
        const OPTION: u32 = number::STARTTLS;
        if !data.is_empty() {
            return self.malformed(OPTION, "this option has no data");
        }
        if self.tls {
            return self.malformed(OPTION, "the connection is encrypted already");
        }
        let service = self.service;
        let (Tls::Allowed(identity) | Tls::Required(identity)) = &service.tls else {
            return self.refuse(OPTION, Kind::ErrPolicy, "this server has no TLS");
        };
        let next = self.acknowledge(OPTION)?;
        self.link.start_tls(identity)?;
        self.tls = true;
        if let Some(certificate) = self.link.certificate() {
            self.client.set_certificate(certificate);
        }
        self.standing.encrypted();
        // Who spoke in clear text may have been somebody else.
        self.chosen = Chosen::NOTHING;
        Ok(next)
    }

    /// Ask the plugin something; its time is not the client's.
    fn ask<T>(&mut self, question: impl FnOnce(&mut dyn Guest, bool) -> T) -> Result<T, End> {
        let start = Instant::now();
        let answer = question(&mut *self.guest, self.tls);
        self.deadline += start.elapsed();
        self.link.set_deadline(Some(self.deadline))?;
        Ok(answer)
    }

    /// Add a reply that is not the last one.
    fn reply(&mut self, option: u32, kind: Kind, parts: &[&[u8]]) {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let len = u32::try_from(len).expect("a few strings");
        self.replies.extend(reply(option, kind, len));
        for part in parts {
            self.replies.extend(*part);
        }
    }

    /// Send all replies.
    fn send(&mut self) -> Result<(), End> {
        self.link.write_all(&mut [IoSlice::new(&self.replies)])?;
        self.replies.clear();
        Ok(())
    }

    fn acknowledge(&mut self, option: u32) -> Result<Next, End> {
        self.reply(option, Kind::Ack, &[]);
        self.send()?;
        Ok(Next::Option)
    }

    /// Refuse an option; `why` is for people.
    fn refuse(&mut self, option: u32, kind: Kind, why: &str) -> Result<Next, End> {
        self.replies.clear();
        self.reply(option, kind, &[cut(why).as_bytes()]);
        self.send()?;
        Ok(Next::Option)
    }

    fn malformed(&mut self, option: u32, why: Malformed) -> Result<Next, End> {
        self.refuse(option, Kind::ErrInvalid, why)
    }
}

/// As much of the first line of `text` as the protocol allows.
fn cut(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    &line[..line.floor_char_boundary(LONGEST_STRING)]
}
