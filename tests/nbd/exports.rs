//! Exports: which there are, what each client sees of its own, and how long an opened one lives.

use std::fs;

use support::home::until;
use support::nbd::raw::{Ask, Raw, cmd, export, opt, rep};
use support::nbd::{Home, Server, clients, fails, json, libnbd, run};

/// Three exports, each full of its name; notes what is called in the file that `log=` names.
const NAMED: &str = "
import builtins, nbdkit
API_VERSION = 2
def config(key, value):
    assert key == 'log'
    global log
    log = builtins.open(value, 'a', buffering=1)
def say(*words): print(*words, file=log)
def preconnect(readonly): say('preconnect', readonly)
def list_exports(readonly, is_tls):
    say('list_exports', readonly, is_tls)
    return [('first', 'what the list says'), 'second', b'third']
def default_export(readonly, is_tls):
    say('default_export', readonly, is_tls)
    return 'second'
def open(readonly):
    name = nbdkit.export_name()
    say('open', name)
    if name not in ('first', 'second', 'third'): raise ValueError('there is no ' + name)
    return name
def export_description(h):
    say('export_description', h)
    return 'the one called ' + h
def get_size(h): return 4096 * len(h)
def pread(h, buf, offset, flags): buf[:] = (h.encode() * len(buf))[:len(buf)]
def pwrite(h, buf, offset, flags): pass
def close(h): say('close', h)
def cleanup(): say('cleanup')
";

/// A server that notes its calls.
struct Noting {
    server: Server,
    log: std::path::PathBuf,
}

impl Noting {
    fn new(script: &str) -> Self {
        let home = Home::new();
        let log = home.path("calls");
        let script = home.script("plugin.py", script);
        let parameter = format!("log={}", log.display());
        let server = Server::in_home(home, script.to_str().unwrap(), &[&parameter]);
        Self { server, log }
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|&seen| seen == call).count()
    }

    /// Forget what was called so far.
    fn forget(&self) {
        fs::write(&self.log, "").unwrap();
    }
}

#[test]
fn nbdinfo_lists_what_the_plugin_lists() {
    if !clients(&["nbdinfo"]) {
        return;
    }
    let noting = Noting::new(NAMED);
    let server = &noting.server;
    let list = json(&run("nbdinfo", ["--list", "--json", &server.export("")]));
    let exports = list["exports"].as_array().unwrap();
    let of = |field: &str| -> Vec<_> { exports.iter().map(|one| one[field].clone()).collect() };
    assert_eq!(of("export-name"), ["first", "second", "third"]);
    assert_eq!(of("export-size"), [4096 * 5, 4096 * 6, 4096 * 5]);
    // What the list said of it, or else what it says itself once it is open.
    assert_eq!(exports[0]["description"], "what the list says");
    assert_eq!(noting.count("list_exports False False"), 1);
    server.detach();
}

#[test]
fn the_default_export_is_the_one_that_the_plugin_names() {
    if !clients(&["libnbd"]) {
        return;
    }
    let noting = Noting::new(NAMED);
    let seen = libnbd(
        r#"
h.set_full_info(True)
h.connect_uri(args[0])
print(h.get_size(), h.get_canonical_export_name(), h.get_export_description(), sep="|")
print(h.pread(12, 0).decode())
h.shutdown()
"#,
        &[&noting.server.export("")],
    );
    assert_eq!(seen, "24576|second|the one called second\nsecondsecond\n");
    until("it is closed", || noting.count("close second") == 1);
    assert_eq!(
        noting.calls(),
        [
            "preconnect False",
            "default_export False False",
            "open second",
            "export_description second",
            "close second",
        ]
    );
    noting.server.detach();
}

#[test]
fn several_clients_see_their_own_export() {
    if !clients(&["libnbd"]) {
        return;
    }
    let noting = Noting::new(NAMED);
    // In turns, so that each is asked while the others are open.
    libnbd(
        r#"
names = ["first", "second", "third", "first", ""]
handles = []
for name in names:
    client = nbd.NBD()
    client.set_export_name(name)
    client.connect_unix(args[0])
    handles.append(client)
for turn in range(20):
    for name, client in zip(names, handles):
        name = (name or "second").encode()
        assert client.get_size() == 4096 * len(name)
        assert client.pread(len(name) * 3, 0) == name * 3, (turn, name)
for client in handles: client.shutdown()
"#,
        &[noting.server.socket().to_str().unwrap()],
    );
    until("all are closed", || {
        let closes = |name| noting.count(&format!("close {name}"));
        (closes("first"), closes("second"), closes("third")) == (2, 2, 1)
    });
    noting.server.detach();
}

#[test]
fn an_export_that_is_not_there_is_refused_and_the_next_is_tried() {
    let noting = Noting::new(NAMED);
    let mut client = noting.server.raw();
    client.greet();
    let refused = client.option(opt::GO, &export(b"nothing", &[]));
    let reply = refused.last().unwrap();
    assert!(reply.is_error(), "{reply:?}");
    assert_eq!(client.go("third").size, 4096 * 5);
    assert_eq!(client.pread(0, 5), b"third");
    drop(client);
    until("it is closed", || noting.count("close third") == 1);
    assert_eq!(
        noting.calls(),
        [
            "preconnect False",
            "open nothing",
            "open third",
            "close third"
        ]
    );
    noting.server.detach();
    if clients(&["nbdinfo"]) {
        let noting = Noting::new(NAMED);
        fails("nbdinfo", [noting.server.export("nothing")]);
        noting.server.detach();
    }
}

#[test]
fn info_opens_and_closes_before_go_opens_again() {
    let noting = Noting::new(NAMED);
    let mut client = noting.server.raw();
    client.greet();
    assert_eq!(client.answer(opt::INFO, &export(b"first", &[])), rep::ACK);
    assert_eq!(client.answer(opt::INFO, &export(b"third", &[])), rep::ACK);
    client.go("first");
    drop(client);
    until("it is closed", || noting.count("close first") == 2);
    let expected = "preconnect False,open first,close first,open third,close third,\
                    open first,close first";
    assert_eq!(noting.calls().join(","), expected);
    noting.server.detach();
}

#[test]
fn abort_is_acknowledged_and_nothing_was_opened() {
    let noting = Noting::new(NAMED);
    let mut client = noting.server.raw();
    client.greet();
    assert_eq!(client.answer(opt::ABORT, &[]), rep::ACK);
    client.ended();
    assert_eq!(noting.calls(), ["preconnect False"]);
    noting.server.detach();
}

#[test]
fn a_client_that_preconnect_does_not_want_is_disconnected() {
    let script = NAMED.replace(
        "say('preconnect', readonly)",
        "raise ValueError('nobody is wanted')",
    );
    let noting = Noting::new(&script);
    noting.server.raw().ended();
    assert!(noting.server.log().contains("nobody is wanted"));
    noting.server.detach();
}

/// However a client goes, its handle is closed, once; then the next one is served.
#[test]
fn a_handle_is_closed_once_however_its_client_goes() {
    let noting = Noting::new(NAMED);
    let socket = noting.server.socket();
    type Leave = fn(Raw);
    let ways: [(&str, Leave); 6] = [
        ("disconnects properly", |mut client| {
            client.send(&Ask::of(cmd::DISC, 0, 0).compact());
            client.ended();
        }),
        ("closes its socket", drop),
        ("closes its half", |mut client| {
            client.half_close();
            client.ended();
        }),
        ("leaves within a request", |mut client| {
            client.send(&Ask::of(cmd::WRITE, 0, 4096).compact());
            client.send(&[0; 1000]);
        }),
        ("leaves before the reply", |mut client| {
            client.send(&Ask::of(cmd::READ, 0, 20480).compact());
        }),
        ("sends nonsense", |mut client| {
            client.send(&[0xff; 28]);
            client.rest();
        }),
    ];
    for (way, leave) in ways {
        noting.forget();
        leave(Raw::opened(socket, "first"));
        until(way, || noting.count("close first") > 0);
        let mut next = Raw::opened(socket, "second");
        assert_eq!(next.pread(0, 6), b"second");
        drop(next);
        until("the next one is closed", || {
            noting.count("close second") > 0
        });
        let closes = (noting.count("close first"), noting.count("close second"));
        assert_eq!(closes, (1, 1), "{way}: {:?}", noting.calls());
    }
    noting.server.detach();
}

#[test]
fn detach_by_force_closes_what_each_client_has_open_and_cleans_up_last() {
    let noting = Noting::new(NAMED);
    let server = &noting.server;
    let mut first = Raw::opened(server.socket(), "first");
    let _idle = server.raw();
    let _second = Raw::opened(server.socket(), "second");
    first.pread(0, 512);
    let said = server.home.run(["detach", "--force", "disk"]);
    assert_eq!(said.code, 0, "{said:?}");
    let calls = noting.calls();
    for call in ["close first", "close second", "cleanup"] {
        assert_eq!(noting.count(call), 1, "{call}: {calls:?}");
    }
    assert_eq!(calls.last().unwrap(), "cleanup");
}
