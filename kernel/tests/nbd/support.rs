//! What the tests share: a disk in memory behind NBD's transmission phase, as small as it can be.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use pydisk_kernel::nbd::{self, Device, Params};

pub(crate) const SIZE: u64 = 8 << 20;

/// Whether NBD devices can be made here; says why not, or fails where `PYDISK_REQUIRE` names nbd.
pub(crate) fn available() -> bool {
    let Err(why) = nbd::available() else {
        return true;
    };
    let required = std::env::var("PYDISK_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == "nbd"), "{why}");
    skip(&why.to_string())
}

/// Say why a test does not run; false, for it to return on.
#[expect(
    clippy::explicit_write,
    reason = "what the print macros write in a test that passes is captured"
)]
pub(crate) fn skip(why: &str) -> bool {
    writeln!(io::stderr(), "skipped: {why}").unwrap();
    false
}

/// A number that no other test uses, in no other process either.
pub(crate) fn fresh_index() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1000 + std::process::id() % 1000 * 20 + NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn params() -> Params {
    Params {
        size_bytes: SIZE,
        block_bytes: 512,
        max_io_bytes: 1 << 20,
        max_discard_bytes: 1 << 20,
        read_only: false,
        rotational: false,
        flush: true,
        fua: true,
        trim: true,
        write_zeroes: true,
        timeout: Duration::from_secs(600),
        identity: format!("test-{}", std::process::id()),
    }
}

/// What the kernel said: type with flags, offset, length.
pub(crate) type Said = (u32, u64, u32);

/// A disk in memory.
#[derive(Default)]
pub(crate) struct Disk {
    bytes: Mutex<Vec<u8>>,
    said: Mutex<Vec<Said>>,
    /// Held by a test to keep requests waiting.
    pub(crate) gate: Mutex<()>,
}

const READ: u32 = 0;
const WRITE: u32 = 1;
pub(crate) const DISC: u32 = 2;

impl Disk {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(vec![0; usize::try_from(SIZE).unwrap()]),
            ..Self::default()
        })
    }

    /// Give the disk a partition of 1 MiB, in the table of the PC's BIOS.
    pub(crate) fn partition(&self) {
        let mut bytes = self.bytes.lock().unwrap();
        bytes[446 + 4] = 0x83;
        bytes[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
        bytes[446 + 12..446 + 16].copy_from_slice(&2048_u32.to_le_bytes());
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    }

    /// What the kernel said since the last call, without reads.
    pub(crate) fn said(&self) -> Vec<Said> {
        let mut said = std::mem::take(&mut *self.said.lock().unwrap());
        said.retain(|(kind, ..)| *kind != READ);
        said
    }

    /// Serve one socket until its other end says goodbye or is gone.
    fn serve(&self, mut socket: UnixStream) -> io::Result<()> {
        let mut request = [0; 28];
        loop {
            socket.read_exact(&mut request)?;
            let word = |at: usize| u32::from_be_bytes(request[at..at + 4].try_into().unwrap());
            assert_eq!(word(0), 0x2560_9513);
            let (kind, at) = (word(4), u64::from(word(16)) << 32 | u64::from(word(20)));
            let len = word(24);
            let mut data = vec![0; usize::try_from(len).unwrap()];
            if kind & 0xffff == WRITE {
                socket.read_exact(&mut data)?;
            }
            self.said.lock().unwrap().push((kind, at, len));
            if kind == DISC {
                return Ok(());
            }
            drop(self.gate.lock().unwrap());
            let start = usize::try_from(at).unwrap();
            let range = start..start + data.len();
            let mut bytes = self.bytes.lock().unwrap();
            match kind & 0xffff {
                READ => data.copy_from_slice(&bytes[range]),
                WRITE => bytes[range].copy_from_slice(&data),
                _ => {}
            }
            drop(bytes);
            let mut reply = [0; 16];
            reply[..4].copy_from_slice(&0x6744_6698_u32.to_be_bytes());
            reply[8..].copy_from_slice(&request[8..16]);
            socket.write_all(&reply)?;
            if kind == READ {
                socket.write_all(&data)?;
            }
        }
    }

    /// So many sockets, and threads that serve their other ends.
    pub(crate) fn sockets(self: &Arc<Self>, count: usize) -> Vec<OwnedFd> {
        let pairs = (0..count).map(|_| UnixStream::pair().unwrap());
        pairs
            .map(|(ours, theirs)| {
                let disk = Arc::clone(self);
                thread::spawn(move || disk.serve(ours));
                theirs.into()
            })
            .collect()
    }

    /// A device that can be used.
    pub(crate) fn attach(self: &Arc<Self>, index: Option<u32>, sockets: usize) -> Device {
        let device = Device::connect(index, &self.sockets(sockets), &params()).unwrap();
        device.wait_until_usable(Duration::from_secs(60)).unwrap();
        device
    }
}
