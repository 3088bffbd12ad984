//! Clients that are too many, too slow or too silent: none of them holds up another, and the server holds
//! no more than before when they are gone.

use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::home::until;
use support::nbd::attacked::{Attacked, SIZE, conversation};
use support::nbd::raw::{Ask, Raw, cmd, opt, option};
use support::nbd::{Held, MIB, Server};

#[test]
fn a_thousand_idle_connections_hold_nobody_up() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let attacked = Attacked::new(&[]);
    let mut worker = attacked.opened();
    let socket = attacked.server.socket();
    let idle: Vec<_> = (0..1000)
        .map(|_| UnixStream::connect(socket).unwrap())
        .collect();
    attacked.serves_the_next();
    assert_eq!(worker.pread(4096, 1), [1]);
    drop(idle);
    assert_eq!(worker.pread(4096, 1), [1]);
    drop(worker);
    // A thousand threads had a stack each, of which the allocator may keep something.
    attacked.is_as_before(64 * MIB);
}

#[test]
fn a_client_that_says_nothing_is_disconnected_after_a_while() {
    let attacked = Attacked::new(&["--limit", "handshake=1"]);
    let mut silent = attacked.raw();
    silent.greeting();
    let mut dawdling = attacked.greeted();
    dawdling.send(&option(opt::LIST, &[])[..9]);
    let mut patient = attacked.opened();
    silent.ended();
    dawdling.rest();
    // Who has finished in time stays as long as it likes.
    assert_eq!(patient.pread(4096, 1), [1]);
    drop(patient);
    attacked.is_as_before(2 * MIB);
}

#[test]
fn a_slow_client_is_served_and_holds_nobody_up() {
    let attacked = Attacked::new(&[]);
    let mut slow = attacked.raw();
    for byte in conversation() {
        slow.send(&[byte]);
        attacked.serves_the_next();
    }
    assert!(slow.rest().ends_with(&[1; 8]));
    attacked.is_as_before(4 * MIB);
}

#[test]
fn a_client_that_never_reads_holds_nobody_up() {
    never_reads(&Attacked::new(&[]));
    never_reads(&Attacked::parallel());
}

fn never_reads(attacked: &Attacked) {
    let mut deaf = attacked.opened();
    deaf.stream.set_nonblocking(true).unwrap();
    let request = Ask::of(cmd::READ, 0, SIZE).compact();
    // Until the server takes no more; its replies wait in a socket that nobody reads.
    let asked = (0..100_000)
        .take_while(|_| std::io::Write::write_all(&mut deaf.stream, &request).is_ok())
        .count();
    assert!(asked > 0);
    for _ in 0..50 {
        attacked.serves_the_next();
    }
    let now = Held::by(attacked.worker);
    let grown = now.resident.saturating_sub(attacked.before.resident);
    assert!(grown < 64 * MIB, "{asked} requests took {grown} bytes");
    drop(deaf);
    // Buffers of one client at most, whether or not the allocator has given them back.
    attacked.is_as_before(64 * MIB);
}

/// Fails what another thread calls than the one that opened the disk.
const HOMELY: &str = "
import nbdkit, threading
API_VERSION = 2
def open(readonly): return threading.get_ident()
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    if threading.get_ident() != h:
        raise RuntimeError('another thread')
    buf[:] = bytes([7]) * len(buf)
";

#[test]
fn large_requests_are_served_by_the_thread_that_opened_the_disk_and_leave_no_other_one() {
    let server = Server::of_script(HOMELY, &[]);
    let opened = || Raw::opened(server.socket(), "");
    let mut clients: Vec<Raw> = (0..8).map(|_| opened()).collect();
    let before = Held::by(server.worker()).threads;
    let request = Ask::of(cmd::READ, 0, SIZE / 4).compact();
    for client in &mut clients {
        for _ in 0..8 {
            client.send(&request);
        }
        for _ in 0..8 {
            let head = client.read_vec(16);
            assert_eq!(head[4..8], [0; 4], "an error");
            let data = client.read_vec(usize::try_from(SIZE / 4).unwrap());
            assert!(data.iter().all(|byte| *byte == 7));
        }
    }
    until("each client has one thread again", || {
        Held::by(server.worker()).threads <= before
    });
    assert_eq!(clients[0].pread(4096, 1), [7]);
}

#[test]
fn clients_that_are_quiet_hold_no_memory_for_large_requests() {
    const LEN: u32 = 4 << 20;
    // It makes no large objects itself, of which the allocator would keep some.
    let script = HOMELY
        .replace("1 << 20", "1 << 26")
        .replace("bytes([7]) * len(buf)", "sevens[:len(buf)]");
    let script = format!("{script}sevens = memoryview(bytes([7]) * (4 << 20))\n");
    let server = Server::of_script(&script, &[]);
    let mut clients: Vec<Raw> = (0..10).map(|_| Raw::opened(server.socket(), "")).collect();
    assert_eq!(clients[0].pread(4096, 1), [7]);
    let before = Held::by(server.worker()).resident;
    for client in &mut clients {
        let asks: Vec<_> = (0..4)
            .flat_map(|number| Ask::of(cmd::READ, number * u64::from(LEN), LEN.into()).compact())
            .collect();
        client.send(&asks);
        for _ in 0..4 {
            assert_eq!(client.read_vec(16)[4..8], [0; 4], "an error");
            let data = client.read_vec(usize::try_from(LEN).unwrap());
            assert!(data.iter().all(|byte| *byte == 7));
        }
    }
    until("what they held is given back", || {
        Held::by(server.worker()).resident < before + 16 * MIB
    });
    for client in &mut clients {
        assert_eq!(client.pread(4096, 1), [7]);
    }
}
