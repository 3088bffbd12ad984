//! The forty questions on which hosts of nbdkit's Python plugins differ, one test each: the script of the
//! base, a few lines added, a client's calls, and what has to come of it. The number is in the name.
//!
//! Where nbdkit 1.32.5 itself loses data, crashes or says nothing, the better behaviour is the one that
//! is asked for here, and `docs/nbdkit.md` lists it. `devices` asks again through block devices where the
//! question has a meaning there.

mod capabilities;
mod errors;
mod extents;
mod lives;
mod sizes;
mod zeroes;

use support::nbd::{self, Home, Said, Server, libnbd};
use support::vectors::{BASE, FLUSH, PWRITE};

const ZERO: &str = "
def zero(h, count, offset, flags):
    note('zero', count, offset, flags)
    disk[offset:offset + count] = bytes(count)
";

/// What the client's lines may use. `h` asks also for what the server does not offer.
const CLIENT: &str = r#"
FUA, NO_HOLE, FAST = nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO
h.set_strict_mode(0)
h.add_meta_context("base:allocation")

def told(act, *words):
    """How the server answers: ok, or the errno."""
    try:
        act(*words)
    except nbd.Error as error:
        return error.errno or "failed"
    return "ok"

def connect():
    h.connect_uri(args[0])

def promises():
    asked = dict(read_only=h.is_read_only, flush=h.can_flush, fua=h.can_fua, trim=h.can_trim,
                 zero=h.can_zero, fast_zero=h.can_fast_zero, cache=h.can_cache,
                 multi_conn=h.can_multi_conn)
    return " ".join(name for name, ask in asked.items() if ask())

def status(count=65536):
    found = []
    def extents(context, offset, entries, error):
        found.extend(entries)
    h.block_status(count, 0, extents)
    print(*found)
"#;

/// A plugin that is served, and the place where it notes its calls.
struct Vector(Server);

impl Vector {
    /// Serve the base with these parts added.
    #[track_caller]
    fn new(parts: &[&str]) -> Self {
        Self(Server::of_script(&(BASE.to_owned() + &parts.concat()), &[]))
    }

    /// What a client prints that does this.
    #[track_caller]
    fn client(&self, code: &str) -> String {
        libnbd(&(CLIENT.to_owned() + code), &[&self.0.export("")])
    }

    /// What was noted since the last question.
    fn calls(&self) -> Vec<String> {
        let path = self.0.home.path("calls");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The log says this.
    #[track_caller]
    fn logged(&self, words: &str) {
        let log = self.0.log();
        assert!(log.contains(words), "`{words}` is not in: {log}");
    }
}

/// What the command says to the base with these lines added.
fn attach(parts: &[&str]) -> Said {
    let home = Home::new();
    let script = home.script("plugin.py", &(BASE.to_owned() + &parts.concat()));
    let socket = format!("nbd+unix:///?socket={}", home.path("socket").display());
    home.run(["attach", script.to_str().unwrap(), &socket])
}

/// Whether there is a client to ask with.
fn client() -> bool {
    nbd::clients(&["libnbd"])
}
