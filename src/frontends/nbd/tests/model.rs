//! Random requests, many at a time, against a vector of bytes that knows what each must answer.

use std::collections::HashMap;

use fastrand::Rng;

use super::*;

const SIZE: u64 = 3 << 20;
/// Requests under way; they never touch each other, because a server may change their order.
const DEEP: usize = 24;
const ROUNDS: u32 = 250;

/// A request under way, and what is expected of it.
struct Under {
    command: u16,
    at: u64,
    len: u64,
    data: Option<Vec<u8>>,
    error: u32,
}

/// What the disk must hold, and what is under way.
struct Model {
    rng: Rng,
    bytes: Vec<u8>,
    under: HashMap<u64, Under>,
    shape: Shape,
    next: u64,
}

impl Model {
    fn len(&mut self) -> u64 {
        match self.rng.u8(..10) {
            0..4 => self.rng.u64(1..=4096),
            4..7 => self.rng.u64(1..16) * 512,
            7..9 => self.rng.u64(1..=200_000),
            _ => self.rng.u64(1..=1 << 20),
        }
    }

    /// A range that nothing under way touches.
    fn free(&mut self) -> Option<(u64, u64)> {
        let len = self.len();
        let at = self.rng.u64(..SIZE);
        let end = (at + len).min(SIZE);
        let free = self
            .under
            .values()
            .all(|other| end <= other.at || at >= other.at + other.len);
        free.then_some((at, end - at))
    }

    /// Send one request, if there is room for it.
    fn send(&mut self, caller: &mut Caller) {
        let Some((at, len)) = self.free() else {
            return;
        };
        let range = usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
        let mut command = *self
            .rng
            .choice(&[0, 0, 0, 1, 1, 1, 3, 4, 5, 6, 6, 7, 9])
            .unwrap();
        if self.shape == Shape::Simple && command == 7 {
            command = 0;
        }
        let mut under = Under {
            command,
            at,
            len,
            data: None,
            error: 0,
        };
        let mut asked = Asked::empty();
        asked.set(Asked::FUA, self.rng.u8(..4) == 0);
        let mut payload = Vec::new();
        match command {
            0 => {
                asked.set(Asked::DF, self.shape != Shape::Simple && self.rng.bool());
                under.data = Some(self.bytes[range].to_vec());
            }
            1 => {
                asked.set(Asked::PAYLOAD_LEN, self.shape == Shape::Extended);
                payload = std::iter::repeat_with(|| self.rng.u8(..))
                    .take(range.len())
                    .collect();
                self.bytes[range].copy_from_slice(&payload);
            }
            3 => (under.at, under.len) = (0, 0),
            // The disk of the test leaves zeroes where it trims whole pages, and data elsewhere.
            4 => {
                under.at = (at / 4096) * 4096;
                under.len = 4096;
                let clash = self
                    .under
                    .values()
                    .any(|other| under.at < other.at + other.len && under.at + 4096 > other.at);
                if clash {
                    return;
                }
                let from = usize::try_from(under.at).unwrap();
                self.bytes[from..from + 4096].fill(0);
            }
            6 => {
                asked.set(Asked::NO_HOLE, self.rng.bool());
                self.bytes[range].fill(0);
            }
            9 => under.error = 22,
            _ => (),
        }
        let cookie = self.next;
        self.next += 1;
        caller.ask(command, asked, under.at, under.len, cookie);
        caller.send(&payload);
        self.under.insert(cookie, under);
    }

    fn receive(&mut self, caller: &mut Caller) {
        let under = &self.under;
        let reads = |cookie: u64| match &under[&cookie] {
            Under {
                command: 0, len, ..
            } => usize::try_from(*len).unwrap(),
            _ => 0,
        };
        let (cookie, reply) = caller.reply(reads);
        let under = self
            .under
            .remove(&cookie)
            .expect("was asked, and answered once");
        assert_eq!(reply.error, under.error, "{cookie}");
        if let Some(data) = under.data {
            let told = reply.bytes(under.at, data.len());
            assert!(
                told == data,
                "{cookie}: a read at {}+{}",
                under.at,
                under.len
            );
        }
        if under.command != 7 {
            return;
        }
        // Holes are zeroes; what is under way lies elsewhere.
        let mut at = under.at;
        for (len, kind) in reply.extents {
            let end = (at + len).min(under.at + under.len);
            let range = usize::try_from(at).unwrap()..usize::try_from(end.max(at)).unwrap();
            if kind & 2 == 2 {
                assert!(self.bytes[range].iter().all(|byte| *byte == 0));
            }
            at += len;
        }
        assert!(at > under.at);
    }
}

fn agree(mut caller: Caller) {
    let mut model = Model {
        rng: crate::chance::random(),
        bytes: vec![0; usize::try_from(SIZE).unwrap()],
        under: HashMap::new(),
        shape: caller.shape,
        next: 0,
    };
    // What is sent and not received must fit into the socket, or both sides would wait.
    for _ in 0..ROUNDS {
        let mut waiting: u64 = model.under.values().map(|under| under.len).sum();
        while model.under.len() < DEEP && waiting < 100_000 && model.rng.u8(..8) > 0 {
            let before = model.under.len();
            model.send(&mut caller);
            if model.under.len() == before {
                break;
            }
            waiting = model.under.values().map(|under| under.len).sum();
        }
        while model.under.len() > model.rng.usize(..DEEP) || waiting >= 100_000 {
            model.receive(&mut caller);
            waiting = model.under.values().map(|under| under.len).sum();
            if model.under.is_empty() {
                break;
            }
        }
    }
    while !model.under.is_empty() {
        model.receive(&mut caller);
    }
    for at in (0..SIZE).step_by(1 << 20) {
        let reply = caller.call(0, Asked::empty(), at, b"", 1 << 20);
        let from = usize::try_from(at).unwrap();
        assert!(reply.bytes(at, 1 << 20) == model.bytes[from..from + (1 << 20)]);
    }
    caller.ask(2, Asked::empty(), 0, 0, 0);
    assert!(matches!(caller.end(), End::Disconnected));
}

#[test]
fn a_client_sees_what_a_vector_of_bytes_would_show() {
    for shape in [Shape::Simple, Shape::Structured, Shape::Extended] {
        for parallel in [false, true] {
            let service = Arc::new(service(memory(SIZE, parallel)));
            let caller = Caller::gone(&service, shape);
            agree(caller);
        }
    }
}

#[test]
fn the_kernel_s_client_sees_it_too() {
    for parallel in [false, true] {
        let disk = Arc::new(Plain(Check::new(memory(SIZE, parallel))));
        let caller = Caller::unnegotiated(disk);
        agree(caller);
    }
}
