//! Commands to the driver by generic netlink: netlink(7), and the kernel's
//! Documentation/userspace-api/netlink/intro.rst.
//!
//! The kernel carries a command out inside the call that sends it, and answers before that returns.

use std::os::fd::OwnedFd;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla, NlasIterator,
    Parseable, ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{MODULE, module_is_loaded};
use crate::device_error::{DeviceError, Driver};
use crate::elsewhere::{Word, errno_there};
use crate::probe;

// https://git.kernel.org/torvalds/c/v6.12:include/uapi/linux/nbd-netlink.h
pub(super) const CONNECT: u8 = 1;
pub(super) const DISCONNECT: u8 = 2;
const NAME: &str = "nbd";
const VERSION: u8 = 1;
const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const CLIENT_FLAGS: u16 = 6;
const SOCKETS: u16 = 7;
const BACKEND_IDENTIFIER: u16 = 10;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;
const DESTROY_ON_DISCONNECT: u64 = 1;

/// One thing that a command says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Say<'a> {
    Index(u32),
    SizeBytes(u64),
    BlockSizeBytes(u64),
    /// Seconds until a request that was not answered ends the device.
    Timeout(u64),
    ServerFlags(u64),
    /// The device goes when it is disconnected and nobody has it open.
    DestroyOnDisconnect,
    Sockets(&'a [OwnedFd]),
    Identity(&'a str),
}

impl Say<'_> {
    fn attribute(self) -> DefaultNla {
        let number = |kind, value: u64| DefaultNla::new(kind, value.to_ne_bytes().to_vec());
        match self {
            Self::Index(index) => DefaultNla::new(INDEX, index.to_ne_bytes().to_vec()),
            Self::SizeBytes(bytes) => number(SIZE_BYTES, bytes),
            Self::BlockSizeBytes(bytes) => number(BLOCK_SIZE_BYTES, bytes),
            Self::Timeout(seconds) => number(TIMEOUT, seconds),
            Self::ServerFlags(flags) => number(SERVER_FLAGS, flags),
            Self::DestroyOnDisconnect => number(CLIENT_FLAGS, DESTROY_ON_DISCONNECT),
            Self::Sockets(sockets) => nested(SOCKETS, sockets.iter().map(socket)),
            Self::Identity(word) => {
                let mut bytes = word.as_bytes().to_vec();
                bytes.push(0);
                DefaultNla::new(BACKEND_IDENTIFIER, bytes)
            }
        }
    }
}

fn socket(socket: &OwnedFd) -> DefaultNla {
    use std::os::fd::AsRawFd;

    let number = socket.as_raw_fd().to_ne_bytes().to_vec();
    nested(SOCK_ITEM, [DefaultNla::new(SOCK_FD, number)])
}

fn nested(kind: u16, inside: impl IntoIterator<Item = DefaultNla>) -> DefaultNla {
    let inside: Vec<_> = inside.into_iter().collect();
    let mut bytes = vec![0; inside.as_slice().buffer_len()];
    inside.as_slice().emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// What stands in an attribute `INDEX`.
fn index_in(attribute: &DefaultNla) -> Option<u32> {
    let mut bytes = [0; 4];
    (attribute.value_len() == bytes.len()).then(|| {
        attribute.emit_value(&mut bytes);
        u32::from_ne_bytes(bytes)
    })
}

/// A command to the driver, or its answer to one.
#[derive(Debug)]
struct Message {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        NAME
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for Message {
    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }

    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(bytes)
            .map(|attribute| DefaultNla::parse(&attribute?))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            command: header.cmd,
            attributes,
        })
    }
}

/// The driver as netlink knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    id: u16,
}

impl Family {
    /// Ask for the driver's number; where there is none, try to load its module first.
    pub(super) fn find_or_load() -> Result<Self, DeviceError> {
        match Self::find() {
            Err(DeviceError::NoDriver(_)) if probe::load(NAME, MODULE.as_ref()) => Self::find(),
            other => other,
        }
    }

    pub(super) fn find() -> Result<Self, DeviceError> {
        let ask = GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(NAME.to_owned())],
        };
        let answers = exchange(&encoded(GenlMessage::from_payload(ask)));
        let answers: Vec<GenlMessage<GenlCtrl>> = answers.map_err(|errno| match errno {
            Errno::NOENT if module_is_loaded() => DeviceError::OtherNamespace,
            Errno::NOENT | Errno::PROTONOSUPPORT => DeviceError::NoDriver(Driver::Nbd),
            errno => DeviceError::failed("generic netlink")(errno),
        })?;
        let id = answers
            .iter()
            .flat_map(|answer| &answer.payload.nlas)
            .find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(Self { id: *id }),
                _ => None,
            });
        id.ok_or(DeviceError::Failed {
            what: "generic netlink",
            errno: Errno::PROTO,
        })
    }

    /// Connect sockets as a device; gives its number as the driver says it.
    ///
    /// # Errors
    /// What the driver says: `EPERM`, `EBUSY`, `EINVAL` mostly.
    pub(super) fn connect(self, says: &[Say<'_>]) -> Result<u32, Errno> {
        let answers: Vec<GenlMessage<Message>> = exchange(&self.command(CONNECT, says))?;
        let index = answers
            .iter()
            .flat_map(|answer| &answer.payload.attributes)
            .find(|attribute| attribute.kind() == INDEX)
            .and_then(index_in);
        index.ok_or(Errno::PROTO)
    }

    /// A command as it is sent.
    pub(super) fn command(self, command: u8, says: &[Say<'_>]) -> Vec<u8> {
        let message = Message {
            command,
            attributes: says.iter().map(|say| say.attribute()).collect(),
        };
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(self.id);
        encoded(message)
    }
}

fn encoded<M>(message: M) -> Vec<u8>
where
    M: NetlinkSerializable,
    NetlinkPayload<M>: From<M>,
{
    let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::from(message));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Send a command and collect what comes before its acknowledgement.
fn exchange<M: NetlinkDeserializable>(command: &[u8]) -> Result<Vec<M>, Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::GENERIC),
    )?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::io::retry_on_intr(|| {
        rustix::net::sendto(&socket, command, SendFlags::empty(), &kernel)
    })?;
    let mut answers = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let (len, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&socket, &mut buffer, RecvFlags::empty())
        })?;
        let mut rest = &buffer[..len];
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(|error| {
                log::debug!("generic netlink: {error}");
                Errno::PROTO
            })?;
            let padded =
                usize::try_from(message.header.length).map_or(len, |len| len.div_ceil(4) * 4);
            rest = rest.get(padded..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Error(error) => {
                    return match error.code {
                        None => Ok(answers),
                        Some(code) => Err(Errno::from_raw_os_error(-code.get())),
                    };
                }
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
        }
    }
}

/// Send `command` and wait for its acknowledgement, for [`crate::elsewhere`].
pub(super) fn send_there(command: &[u8]) -> Word {
    // SAFETY: no memory is involved.
    let socket = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_GENERIC,
        )
    };
    if socket < 0 {
        return [0, errno_there(), 0];
    }
    // SAFETY: the command's own bytes; a netlink socket that has no address sends to the kernel.
    if unsafe { libc::send(socket, command.as_ptr().cast(), command.len(), 0) } < 0 {
        return [1, errno_there(), 0];
    }
    // An acknowledgement: its header of 16 bytes, then the errno, negated, then what it answers.
    let mut answer = [0_u8; 4096];
    // SAFETY: the buffer's own length.
    let len = unsafe { libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0) };
    if len < 20 {
        return [2, errno_there(), 0];
    }
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    [2, u64::from(code.unsigned_abs()), 0]
}
