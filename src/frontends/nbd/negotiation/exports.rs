//! The options that name exports: which ones there are, what they are like, and the choice of one.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use super::{Negotiation, Next};
use crate::disk::{Export, Limits};
use crate::frontends::log_failure;
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::negotiation::Agreed;
use crate::frontends::nbd::service::Seat;
use crate::frontends::nbd::transmission::flags;
use crate::frontends::nbd::wire::option::{Kind, Wanted, info, number, text};
use crate::frontends::nbd::wire::{Handshake, LONGEST_STRING, Transmission};

/// How often a client that waits for a disk is looked after.
const STEP: Duration = Duration::from_millis(50);

/// How long a client that has waited in vain may take to say what it does now.
const FAREWELL: Duration = Duration::from_secs(1);

/// Zeroes that follow an export for clients of old.
pub(super) const ZEROES: [u8; 124] = [0; 124];

/// An export with the seat of who has it open, which is free once the export is closed.
pub(super) struct Opened {
    pub(super) export: Box<dyn Export>,
    seat: Seat,
}

/// Why an export was not opened: what to answer.
pub(super) struct Closed {
    kind: Kind,
    pub(super) why: String,
}

impl Negotiation<'_> {
    pub(super) fn list(&mut self, data: &[u8]) -> Result<Next, End> {
        const OPTION: u32 = number::LIST;
        if !data.is_empty() {
            return self.malformed(OPTION, "this option has no data");
        }
        let listed = match self.ask(|guest, tls| guest.list(tls))? {
            Ok(listed) => listed,
            Err(error) => {
                log_failure("list of exports", error.errno, || {
                    format!("client {}: list of exports: {error}", self.client.number)
                });
                return self.refuse(OPTION, Kind::ErrPlatform, &error.to_string());
            }
        };
        for export in &listed {
            if export.name.len() > LONGEST_STRING {
                log::warn!("an export was not listed: its name has more than 4096 bytes");
                continue;
            }
            let len = u32::try_from(export.name.len()).expect("at most 4096");
            let description = cut_bytes(export.description.as_deref().unwrap_or_default());
            let parts = [&len.to_be_bytes(), export.name.as_bytes(), description];
            self.reply(OPTION, Kind::Server, &parts);
        }
        self.acknowledge(OPTION)
    }

    /// `INFO` and `GO`: tell of an export what the client wants to know, and with `GO` choose it.
    pub(super) fn look(&mut self, option: u32, data: &[u8]) -> Result<Next, End> {
        let wanted = match Wanted::decode(data) {
            Ok(wanted) => wanted,
            Err(why) => return self.malformed(option, why),
        };
        let opened = match self.open(wanted.export)? {
            Ok(opened) => opened,
            Err(Closed { kind, why }) => return self.refuse(option, kind, &why),
        };
        self.inform(option, &wanted, &*opened.export)?;
        if option == number::INFO {
            self.ask(|_, _| drop(opened))?;
            return self.acknowledge(option);
        }
        let agreed = self.agree(wanted.export, opened);
        self.acknowledge(option)?;
        Ok(Next::Transmission(agreed))
    }

    /// Choose an export in the way of old: there is no reply but the export, or the end.
    pub(super) fn export_name(&mut self, data: &[u8]) -> Result<Next, End> {
        let name = text(data).map_err(End::Broken)?;
        let opened = match self.open(name)? {
            Ok(opened) => opened,
            Err(Closed { why, .. }) => return Err(End::Refused(why)),
        };
        let size = opened.export.disk().limits().size.to_be_bytes();
        let flags = self.flags_of(&*opened.export).bits().to_be_bytes();
        let zeroes: &[u8] = match self.handshake.contains(Handshake::NO_ZEROES) {
            true => &[],
            false => &ZEROES,
        };
        let agreed = self.agree(name, opened);
        let parts = [&size[..], &flags, zeroes];
        self.link.write_all(&mut parts.map(IoSlice::new))?;
        Ok(Next::Transmission(agreed))
    }

    /// What the client is told that an export can do.
    pub(super) fn flags_of(&self, export: &dyn Export) -> Transmission {
        let mut flags = flags(export.disk().limits(), self.chosen.shape);
        if !self.service.dialect.several_connections {
            flags.remove(Transmission::CAN_MULTI_CONN);
        }
        flags
    }

    pub(super) fn open(&mut self, name: &str) -> Result<Result<Opened, Closed>, End> {
        let Some(seat) = self.service.seats.take() else {
            return Ok(Err(Closed {
                kind: Kind::ErrPolicy,
                why: format!(
                    "{} clients are served already, which is the limit",
                    self.service.bounds.clients
                ),
            }));
        };
        if !self.wait_for_admission()? {
            return Ok(Err(Closed {
                kind: Kind::ErrPolicy,
                why: "another client has it open, and this disk takes one at a time".into(),
            }));
        }
        match self.ask(|guest, tls| guest.open(name, tls))? {
            Ok(export) => Ok(Ok(Opened { export, seat })),
            Err(error) => {
                log_failure("open", error.errno, || {
                    format!("client {}: export `{name}`: {error}", self.client.number)
                });
                Ok(Err(Closed {
                    kind: Kind::ErrUnknown,
                    why: error.to_string(),
                }))
            }
        }
    }

    /// Wait until a disk that takes one client at a time is free, or the time to negotiate is over, or
    /// the client is gone; whether it is free. That the disk is taken is not the plugin's doing, so
    /// the time counts.
    fn wait_for_admission(&mut self) -> Result<bool, End> {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        if self.guest.admit(Duration::ZERO) {
            return Ok(true);
        }
        loop {
            let free = self.guest.admit(STEP.min(left(self.deadline)));
            if self.link.is_gone() {
                return Err(End::Vanished);
            }
            if free {
                return Ok(true);
            }
            if left(self.deadline).is_zero() {
                // Enough for the answer to be read, and for the end.
                self.deadline = Instant::now() + FAREWELL;
                self.link.set_deadline(Some(self.deadline))?;
                return Ok(false);
            }
        }
    }

    pub(super) fn agree(&self, asked_for: &str, opened: Opened) -> Agreed {
        let Opened { export, seat } = opened;
        self.standing.opened(export.name());
        let chosen_for = self.chosen.allocation_of.as_deref();
        Agreed {
            allocation: chosen_for == Some(asked_for),
            shape: self.chosen.shape,
            export,
            seat,
        }
    }

    /// Tell about an export what the client must know, and what it asked for.
    fn inform(&mut self, option: u32, wanted: &Wanted<'_>, export: &dyn Export) -> Result<(), End> {
        let limits = export.disk().limits();
        let flags = self.flags_of(export).bits().to_be_bytes();
        let size = limits.size.to_be_bytes();
        self.inform_of(option, info::EXPORT, &[&size, &flags]);
        if wanted.asks_for(info::NAME) {
            self.inform_of(option, info::NAME, &[cut_bytes(export.name())]);
        }
        if wanted.asks_for(info::DESCRIPTION) {
            match self.ask(|_, _| export.description())? {
                Ok(Some(text)) => self.inform_of(option, info::DESCRIPTION, &[cut_bytes(&text)]),
                Ok(None) => (),
                Err(error) => log::warn!("client {}: no description: {error}", self.client.number),
            }
        }
        if wanted.asks_for(info::BLOCK_SIZE) {
            let [minimum, preferred, maximum] =
                block_sizes(limits, self.service.bounds.payload).map(u32::to_be_bytes);
            self.inform_of(option, info::BLOCK_SIZE, &[&minimum, &preferred, &maximum]);
        }
        Ok(())
    }

    fn inform_of(&mut self, option: u32, what: u16, parts: &[&[u8]]) {
        let what = what.to_be_bytes();
        let mut all: Vec<&[u8]> = vec![&what];
        all.extend(parts);
        self.reply(option, Kind::Info, &all);
    }
}

/// As much of `text` as the protocol allows in a string.
fn cut_bytes(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(LONGEST_STRING)]
}

/// The block sizes of an export, none of which is more than the server takes at a time.
fn block_sizes(limits: &Limits, payload: u32) -> [u32; 3] {
    let block = limits.block;
    let minimum = block.minimum.max(1);
    let most = block.maximum.min(payload);
    let maximum = (most - most % minimum).max(minimum);
    let largest_power = 1 << maximum.ilog2();
    let preferred = block.preferred.min(largest_power).max(minimum);
    [minimum, preferred, maximum]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::BlockSizes;

    #[test]
    fn block_sizes_fit_into_what_the_server_takes() {
        let told = |minimum, preferred, maximum, payload| {
            let mut limits = Limits::read_only(1 << 20);
            limits.block = BlockSizes {
                minimum,
                preferred,
                maximum,
            };
            block_sizes(&limits, payload)
        };
        let payload = 32 << 20;
        assert_eq!(told(1, 4096, u32::MAX, payload), [1, 4096, payload]);
        assert_eq!(told(512, 4096, 65536, payload), [512, 4096, 65536]);
        assert_eq!(told(4096, 1 << 20, u32::MAX, 10_000), [4096, 8192, 8192]);
        assert_eq!(told(65536, 65536, u32::MAX, 4096), [65536; 3]);
    }
}
