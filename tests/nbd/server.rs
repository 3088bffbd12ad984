//! A plugin attached as an NBD server by the real command, with libnbd for its clients.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use support::client::{Client, available};
use support::home::{Home, Said, end, first_line, runs, signal, until};
use support::nbd::raw::Raw;

/// A disk of 1 MiB for each client, with a log of its callbacks beside it.
const PLUGIN: &str = "
import builtins, os, time
import nbdkit
API_VERSION = 2
HERE = os.path.dirname(__file__)
def log(*what):
    with builtins.open(os.path.join(HERE, 'calls'), 'a') as f: f.write(' '.join(what) + '\\n')
def config(key, value): globals()[key] = value
def thread_model(): return int(globals().get('model', 1))
def open(readonly):
    log('open', repr(nbdkit.export_name()))
    return bytearray(1 << 20)
def get_size(h): return len(h)
def pread(h, buf, offset, flags):
    if nbdkit.export_name() == 'slow':
        log('hangs')
        time.sleep(3600)
    buf[:] = h[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): h[offset:offset + len(buf)] = buf
def flush(h, flags): log('flush')
def close(h):
    log('close', repr(nbdkit.export_name()))
    if nbdkit.export_name() == 'closes slowly': time.sleep(3600)
def cleanup(): log('cleanup')
";

struct Serving {
    home: Home,
    plugin: String,
}

impl Serving {
    fn new() -> Self {
        let home = Home::new();
        let plugin = home.script("disk.py", PLUGIN);
        let plugin = plugin.to_str().unwrap().to_owned();
        Self { home, plugin }
    }

    /// Attach to `target` and give the URI that was printed.
    #[track_caller]
    fn attach(&self, target: &str, more: &[&str]) -> String {
        let said = self.try_attach(target, more);
        assert_eq!(said.code, 0, "{said:?}");
        let uri = said.stdout.strip_suffix('\n').unwrap();
        assert!(!uri.contains('\n'), "{said:?}");
        uri.to_owned()
    }

    fn try_attach(&self, target: &str, more: &[&str]) -> Said {
        let mut args = vec!["attach", &self.plugin, target];
        args.extend(more);
        self.home.run(args)
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.home.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn clients(&self, name: &str) -> usize {
        let clients = self.home.field(name, "clients");
        clients.as_array().map_or(0, Vec::len)
    }
}

#[test]
fn a_server_is_attached_shown_and_detached() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let socket = serving.home.path("socket");
    let target = format!("nbd+unix:///name?socket={}", socket.display());
    let uri = serving.attach(&target, &["-r"]);
    assert_eq!(uri, target);
    assert_eq!(
        serving.calls(),
        [""; 0],
        "the plugin is opened for clients only"
    );
    for (field, value) in [
        ("uri", serde_json::json!(uri)),
        ("unix_socket", serde_json::json!(socket)),
        ("device", serde_json::Value::Null),
        ("size", serde_json::Value::Null),
        ("read_only", serde_json::json!(true)),
        ("parallel", serde_json::json!(false)),
        ("lanes", serde_json::json!(1)),
        ("front_end", serde_json::json!("nbd")),
        ("clients", serde_json::json!([])),
    ] {
        assert_eq!(serving.home.field("disk", field), value, "{field}");
    }
    let list = serving.home.run(["list"]).stdout;
    assert!(
        list.contains(&uri) && list.contains("attached, 0 clients"),
        "{list}"
    );

    let mut one = Client::connected(&uri);
    assert_eq!(
        one.eval("h.get_size(), h.is_read_only()"),
        "(1048576, True)"
    );
    let other = Client::connected(&target.replace("///name", "///other"));
    let clients = serving.home.field("disk", "clients");
    let clients = clients.as_array().unwrap().iter();
    let exports: Vec<_> = clients.map(|client| &client["export"]).collect();
    assert_eq!(exports, ["name", "other"]);
    let list = serving.home.run(["list"]).stdout;
    assert!(list.contains("attached, 2 clients"), "{list}");
    let show = serving.home.run(["show", &uri]).stdout;
    let user = rustix::process::geteuid();
    for (client, export) in [(&one, "name"), (&other, "other")] {
        let process = client.pid();
        let line = format!("process {process} of user {user} (export `{export}`), since ");
        assert!(show.contains(&line), "{show}");
    }
    one.leave();
    until("one has left", || {
        serving.calls().contains(&"close 'name'".to_owned())
    });
    other.vanish();
    until("both have left", || serving.clients("disk") == 0);
    // One that has opened nothing uses nothing.
    let mut idle = Raw::connect(&socket);
    idle.greeting();
    assert_eq!(serving.clients("disk"), 1);
    let detached = serving.home.run(["detach", &uri]);
    assert_eq!((detached.code, detached.stderr.as_str()), (0, ""));
    assert!(!socket.exists());
    assert_eq!(serving.home.attachments(), [""; 0]);
    assert_eq!(
        serving.calls(),
        [
            "open 'name'",
            "open 'other'",
            "close 'name'",
            "close 'other'",
            "cleanup"
        ]
    );
}

#[test]
fn a_free_port_is_found_and_a_taken_one_is_refused() {
    let serving = Serving::new();
    let uri = serving.attach("nbd://127.0.0.1:0/", &[]);
    let port = uri.strip_prefix("nbd://127.0.0.1:").unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0);
    serving
        .try_attach(&uri, &[])
        .refused(&format!("target `{uri}`: the attachment `disk` has it"));
    assert_eq!(serving.home.attachments(), ["disk"]);
    // Nothing is known there of what others serve.
    Serving::new()
        .try_attach(&uri, &[])
        .refused_after_prints("Address already in use");
    // The address may be written in another way.
    let other = format!("nbd://127.0.0.1:{port}/");
    assert_eq!(serving.home.run(["detach", &other]).code, 0);
}

#[test]
fn detach_is_refused_while_clients_are_connected_unless_forced() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let uri = serving.attach("nbd+unix:///x", &[]);
    let mut client = Client::connected(&uri);
    let refused = serving.home.run(["detach", "disk"]);
    refused.refused(&format!(
        "disk: {uri} is used by process {} of user",
        client.pid()
    ));
    assert!(
        refused
            .stderr
            .contains("(export `x`)\nhint: disconnect them"),
        "{refused:?}"
    );
    assert!(client.read().starts_with("b'"), "it is served as before");
    let forced = serving.home.run(["detach", "--force", "disk"]);
    assert_eq!((forced.code, forced.stderr.as_str()), (0, ""));
    assert!(
        client.read().starts_with("error: "),
        "the connection has ended"
    );
    assert_eq!(serving.calls(), ["open 'x'", "close 'x'", "cleanup"]);
}

#[test]
fn a_client_that_does_not_read_does_not_keep_a_server_from_its_end() {
    if !available() {
        return;
    }
    for (model, by_force) in [(1, false), (3, false), (2, true)] {
        let serving = Serving::new();
        let model = format!("model={model}");
        let args = ["attach", "-f", &serving.plugin, "nbd+unix:///deaf", &model];
        let mut agent = serving.home.start(args);
        let uri = first_line(&mut agent);
        let mut client = Client::connected(&uri);
        // libnbd sends at once what the socket takes, and reads when it is asked to.
        client.eval("[h.aio_pread(nbd.Buffer(1 << 20), 0) for _ in range(20)] and None");
        if by_force {
            assert_eq!(serving.home.run(["detach", "--force", "disk"]).code, 0);
        } else {
            signal(agent.id().cast_signed(), Signal::TERM);
        }
        assert_eq!(end(&mut agent).code(), Some(0), "{model}");
        assert_eq!(serving.calls(), ["open 'deaf'", "close 'deaf'", "cleanup"]);
    }
}

#[test]
fn a_signal_ends_a_server_whose_plugin_hangs() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let mut agent = serving.home.start([
        "attach",
        "-f",
        &serving.plugin,
        "nbd+unix:///slow",
        "model=3",
    ]);
    let uri = first_line(&mut agent);
    let mut client = Client::connected(&uri);
    client.start("h.pread(512, 0)");
    until("it hangs", || serving.calls() == ["open 'slow'", "hangs"]);
    signal(agent.id().cast_signed(), Signal::TERM);
    assert_eq!(end(&mut agent).code(), Some(1));
    assert!(client.finish().starts_with("error: "));
    assert_eq!(serving.home.attachments(), [""; 0]);
}

#[test]
fn a_worker_that_is_killed_leaves_nothing_behind() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let socket = serving.home.path("socket");
    let target = format!("nbd+unix:///?socket={}", socket.display());
    let uri = serving.attach(&target, &[]);
    let mut client = Client::connected(&uri);
    let agent = serving.home.pid("disk", "agent_pid");
    signal(serving.home.pid("disk", "worker_pid"), Signal::KILL);
    assert!(client.read().starts_with("error: "));
    until("the attachment is gone", || {
        serving.home.attachments().is_empty()
    });
    until("the agent has ended", || !runs(agent));
    assert!(!socket.exists());
    serving.attach(&target, &[]);
}

#[test]
fn a_worker_without_an_agent_goes_on_and_can_be_detached() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let uri = serving.attach("nbd+unix:", &[]);
    let mut client = Client::connected(&uri);
    let agent = serving.home.pid("disk", "agent_pid");
    let worker = serving.home.pid("disk", "worker_pid");
    signal(agent, Signal::KILL);
    until("the agent is gone", || !runs(agent));
    assert!(client.read().starts_with("b'"));
    assert_eq!(serving.clients("disk"), 1);
    serving
        .home
        .run(["detach", "disk"])
        .refused("is used by process");
    client.leave();
    until("it has left", || serving.clients("disk") == 0);
    assert_eq!(serving.home.run(["detach", &uri]).code, 0);
    assert!(!runs(worker));
    assert_eq!(serving.calls().last().unwrap(), "cleanup");
}

#[test]
fn run_tells_the_command_where_the_server_is() {
    let serving = Serving::new();
    let command =
        "echo \"$uri\" \"$unixsocket\" \"[$port]\" \"$exportname\" \"$name\" \"[$device]\"; exit 7";
    let said = serving.try_attach("nbd+unix:///a%20b", &["--run", command]);
    assert_eq!(said.code, 7, "{said:?}");
    let socket = serving.home.state("disk").join("nbd.sock");
    let socket = socket.display();
    assert_eq!(
        said.stdout,
        format!("nbd+unix:///a%20b?socket={socket} {socket} [] a b disk []\n")
    );
    let command = "test $uri = nbd://localhost:$port && test -z \"$unixsocket\"";
    assert_eq!(
        serving
            .try_attach("nbd://localhost:0", &["--run", command])
            .code,
        0
    );
}

#[test]
fn a_command_that_left_a_client_behind_ends_the_server_all_the_same() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let command = "/usr/bin/python3 -c 'import nbd, sys, time; h = nbd.NBD(); \
                   h.connect_uri(sys.argv[1]); open(\"ready\", \"w\"); time.sleep(3600)' \
                   $uri > /dev/null 2>&1 & while ! test -e ready; do sleep 0.1; done; echo $! > left";
    let said = serving.try_attach("nbd+unix:", &["--run", command]);
    assert_eq!(said.code, 0, "{said:?}");
    let left = std::fs::read_to_string(serving.home.path("left")).unwrap();
    signal(left.trim().parse().unwrap(), Signal::KILL);
    assert_eq!(serving.calls(), ["open ''", "close ''", "cleanup"]);
}

#[test]
fn one_client_on_standard_input_and_output() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let mut client = Client::new();
    let program = support::program();
    let state = serving.home.path("state");
    std::fs::create_dir_all(&state).unwrap();
    let connect = format!(
        "h.connect_command(['env', 'PYDISK_STATE_DIR={}', {program:?}, 'attach', {:?}, 'nbd+stdio:'])",
        state.display(),
        serving.plugin
    );
    assert_eq!(client.eval(&connect), "None");
    assert_eq!(client.eval("h.pwrite(b'hello', 0)"), "None");
    assert_eq!(client.eval("bytes(h.pread(5, 0))"), "b'hello'");
    let peer = serving.home.field("disk", "clients")[0]["peer"].to_string();
    assert!(peer.starts_with("\"process "), "{peer}");
    client.leave();
    until("it ends with its client", || {
        serving.home.attachments().is_empty()
    });
    assert_eq!(serving.calls(), ["open ''", "close ''", "cleanup"]);
    let said = serving
        .home
        .command(["attach", &serving.plugin, "nbd+stdio:"])
        .stdin(std::fs::File::open("/").unwrap())
        .output()
        .unwrap();
    Said::of(&said).refused_after_prints("standard input and output have to be");
}

#[test]
fn sockets_of_systemd_reach_the_worker() {
    if !available() {
        return;
    }
    for more in [", '-f'", ""] {
        let serving = Serving::new();
        let state = serving.home.path("state");
        std::fs::create_dir_all(&state).unwrap();
        let mut client = Client::new();
        // env(1) would have another process number than LISTEN_PID says.
        assert_eq!(
            client.eval(&format!(
                "__import__('os').environ.update(PYDISK_STATE_DIR={:?})",
                state.display().to_string()
            )),
            "None"
        );
        let connect = format!(
            "h.connect_systemd_socket_activation(['sh', '-c', 'exec \"$@\" >&2', 'sh', {:?}, 'attach', {:?}, 'nbd+systemd:'{more}])",
            support::program(),
            serving.plugin
        );
        assert_eq!(client.eval(&connect), "None");
        assert!(client.read().starts_with("b'"));
        // A socket that was passed is served before the agent has noted that.
        until("it is attached", || {
            serving.home.field("disk", "state") == "attached"
        });
        let socket = serving.home.field("disk", "unix_socket");
        // The socket is its caller's: it is not removed.
        assert!(socket.as_str().is_some(), "{socket}");
        client.leave();
        let detached = serving.home.run(["detach", "disk"]);
        assert_eq!(detached.code, 0, "{detached:?}");
        assert!(Path::new(socket.as_str().unwrap()).exists());
    }
}

#[test]
fn with_serialize_connections_a_client_waits_its_turn() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let uri = serving.attach("nbd+unix:///", &["model=0", "--limit", "handshake=3"]);
    let mut first = Client::connected(&uri);
    let mut second = Client::new();
    second.start(&format!("h.connect_uri({uri:?})"));
    until("both are there", || serving.clients("disk") == 2);
    // One that waits may go away, and whoever is served is not held up.
    let mut third = Client::new();
    third.start(&format!("h.connect_uri({uri:?})"));
    until("all are there", || serving.clients("disk") == 3);
    third.vanish();
    until("it has left", || serving.clients("disk") == 2);
    assert!(first.read().starts_with("b'"));
    assert_eq!(serving.calls(), ["open ''"]);
    first.leave();
    assert_eq!(second.finish(), "None");
    assert!(second.read().starts_with("b'"));
    assert_eq!(serving.calls(), ["open ''", "close ''", "open ''"]);
    // Nobody waits for longer than the negotiation may take.
    let late = Client::new().connect(&uri);
    assert!(late.contains("policy prevents"), "{late}");
    assert!(second.read().starts_with("b'"));
}

#[test]
fn a_signal_ends_a_server_with_a_client_that_waits() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let args = ["attach", "-f", &serving.plugin, "nbd+unix:", "model=0"];
    let mut agent = serving.home.start(args);
    let uri = first_line(&mut agent);
    let _first = Client::connected(&uri);
    let mut second = Client::new();
    second.start(&format!("h.connect_uri({uri:?})"));
    until("both are there", || serving.clients("disk") == 2);
    signal(agent.id().cast_signed(), Signal::TERM);
    assert_eq!(end(&mut agent).code(), Some(0));
    // It may get in for a moment, when the first one has gone and it has not been told yet.
    second.finish();
    assert!(second.read().starts_with("error: "));
    let calls = serving.calls();
    let count = |what: &str| calls.iter().filter(|call| *call == what).count();
    assert_eq!(count("open ''"), count("close ''"), "{calls:?}");
    assert_eq!(calls.last().unwrap(), "cleanup");
}

#[test]
fn limits_are_kept_politely() {
    if !available() {
        return;
    }
    let serving = Serving::new();
    let limits = ["--limit", "clients=1", "--limit", "payload=64k"];
    let uri = serving.attach("nbd+unix:", &limits);
    let mut first = Client::connected(&uri);
    let size = first.eval("h.get_block_size(nbd.SIZE_MAXIMUM)");
    assert_eq!(size, "65536");
    let second = Client::new().connect(&uri);
    assert!(second.contains("policy prevents"), "{second}");
    first.leave();
    until("it has left", || serving.clients("disk") == 0);
    Client::connected(&uri).leave();
}

#[test]
fn what_is_wrong_before_any_client_comes_refuses_the_attach() {
    let serving = Serving::new();
    let broken = |text: &str| serving.home.script("disk.py", &format!("{PLUGIN}{text}"));
    for (text, words) in [
        ("def get_ready(): 1 / 0", "get_ready: ZeroDivisionError"),
        ("def after_fork(): 1 / 0", "after_fork: ZeroDivisionError"),
        (
            "def list_exports(): pass",
            "calls it as `list_exports(readonly, is_tls)`",
        ),
        ("del pread", "`pread` is missing"),
    ] {
        broken(text);
        serving.try_attach("nbd+unix:", &[]).refused(words);
    }
    broken("def open(readonly): 1 / 0");
    // That is known only when a client comes, as in nbdkit.
    let uri = serving.attach("nbd+unix:", &[]);
    if available() {
        let said = Client::new().connect(&uri);
        assert!(said.contains("no export named"), "{said}");
        let log = std::fs::read_to_string(serving.home.state("disk").join("log")).unwrap();
        assert!(log.contains("open: ZeroDivisionError"), "{log}");
    }
    serving
        .try_attach("nbd+unix:///?socket=/no/such/folder/s", &[])
        .refused_after_prints("No such file or directory");
}

#[test]
fn a_user_without_rights_can_serve() {
    if !rustix::process::geteuid().is_root() || !available() {
        support::say("skipped: needs root, to become nobody");
        return;
    }
    let folder = tempfile::Builder::new()
        .prefix("pydisk")
        .tempdir_in("/tmp")
        .unwrap();
    let path = folder.path();
    let program = path.join("pydisk");
    std::fs::copy(support::program(), &program).unwrap();
    std::fs::write(path.join("disk.py"), PLUGIN).unwrap();
    std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    let python = std::env::var_os("PATH").unwrap_or_default();
    let said = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["attach", "disk.py", "nbd+unix:", "--run"])
        .arg("/usr/bin/nbdinfo --size $uri; stat -c %a $unixsocket")
        .env_clear()
        .env("PATH", python)
        .env("PYDISK_STATE_DIR", path.join("state"))
        .current_dir(path)
        .output()
        .unwrap();
    let said = Said::of(&said);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (0, "1048576\n600\n"),
        "{said:?}"
    );
}

#[test]
fn a_file_at_the_place_of_a_dead_server_is_kept() {
    let serving = Serving::new();
    let socket = serving.home.path("socket");
    serving.attach(&format!("nbd+unix:///?socket={}", socket.display()), &[]);
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    signal(serving.home.pid("disk", "worker_pid"), Signal::KILL);
    until("the folder stays", || serving.home.attachments().is_empty());
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

/// With the partitions of each the kernel has no such number, and many have no such driver.
#[test]
fn a_disk_whose_device_cannot_be_made_is_closed_before_cleanup() {
    let serving = Serving::new();
    for round in 1..=5 {
        let said = serving.try_attach("/dev/nbd1000000", &[]);
        assert_eq!(said.code, 1, "{said:?}");
        let calls = serving.calls();
        let last = calls.len().saturating_sub(2);
        assert_eq!(calls[last..], ["close ''", "cleanup"], "round {round}");
    }
}

#[test]
fn what_the_plugin_forked_does_not_keep_the_port() {
    if !available() {
        return;
    }
    let home = Home::new();
    let forking = "
import os, time
def open(readonly):
    child = os.fork()
    if child == 0:
        time.sleep(3600)
        os._exit(0)
    with __builtins__.open(os.path.join(os.path.dirname(__file__), 'child'), 'w') as f: f.write(str(child))
def get_size(h): return 512
def pread(h, count, offset): return bytearray(count)
";
    let plugin = home.script("forking.py", forking);
    let plugin = plugin.to_str().unwrap();
    let uri = home.run(["attach", plugin, "nbd://localhost:0"]).stdout;
    let uri = uri.trim_end();
    let client = Client::connected(uri);
    let detached = home.run(["detach", "--force", uri]);
    let again = home.run(["attach", plugin, uri]);
    let child = std::fs::read_to_string(home.path("child")).unwrap();
    signal(child.parse().unwrap(), Signal::KILL);
    assert_eq!((detached.code, again.code), (0, 0), "{again:?}");
    client.vanish();
    assert_eq!(home.run(["detach", "--force", uri]).code, 0);
}

#[test]
fn what_the_plugin_forked_keeps_neither_clients_nor_the_port_when_its_worker_is_killed() {
    if !available() {
        return;
    }
    for target in ["nbd://localhost:0", "nbd+unix:///?socket=@"] {
        let home = Home::new();
        let forking = "
import os, time
def open(readonly): return 0
def get_size(h): return 512
def pread(h, count, offset):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    with __builtins__.open(os.path.join(os.path.dirname(__file__), 'child'), 'w') as f: f.write(str(child))
    time.sleep(3600)
";
        let plugin = home.script("forking.py", forking);
        let plugin = plugin.to_str().unwrap();
        let target = target.replace('@', home.path("socket").to_str().unwrap());
        let uri = home.run(["attach", plugin, &target]).stdout;
        let uri = uri.trim_end();
        let mut client = Client::connected(uri);
        let mut idle = Client::connected(uri);
        client.start("h.pread(512, 0)");
        let child = || {
            let text = std::fs::read_to_string(home.path("child")).unwrap_or_default();
            text.parse::<i32>().ok()
        };
        until("it has forked", || child().is_some());
        for process in ["agent_pid", "worker_pid"] {
            signal(home.pid("forking", process), Signal::KILL);
        }
        // Until the child ends, if it has the sockets.
        let heard = client.finish();
        let closed = idle.eval("h.poll(60000), h.aio_is_ready()");
        let again = home.run(["attach", plugin, uri]);
        assert!(runs(child().unwrap()), "they had to wait for it");
        signal(child().unwrap(), Signal::KILL);
        assert!(heard.starts_with("error: "), "{heard}");
        assert!(
            closed.ends_with("False)") || closed.starts_with("error: "),
            "{closed}"
        );
        assert_eq!(again.code, 0, "{again:?}");
        assert_eq!(home.run(["detach", "--force", uri]).code, 0);
    }
}

#[test]
fn who_has_left_does_not_count_although_a_callback_hangs() {
    if !available() {
        return;
    }
    for (target, model) in [("nbd://localhost:0", 3), ("nbd+unix:", 1)] {
        let serving = Serving::new();
        let uri = serving.attach(target, &[&format!("model={model}")]);
        let export = |name: &str| match uri.split_once("?") {
            Some((start, socket)) => format!("{start}{name}?{socket}"),
            None => format!("{uri}/{name}"),
        };
        let mut reads = Client::connected(&export("slow"));
        let mut closes = Client::connected(&export("closes%20slowly"));
        serving.home.run(["detach", "disk"]).refused("is used by ");
        reads.start("h.pread(512, 0)");
        assert_eq!(serving.clients("disk"), 2);
        closes.start("h.shutdown()");
        reads.vanish();
        until("close is called", || {
            // Where callbacks take turns it waits for the read.
            model == 1
                || serving
                    .calls()
                    .contains(&"close 'closes slowly'".to_owned())
        });
        until("they are still there", || serving.clients("disk") == 0);
        assert_eq!(closes.finish(), "None");
        // A plain detach is not refused, but waits for the callbacks. Force kills who hangs in them, and says so.
        let said = serving.home.run(["detach", "--force", "disk"]);
        let killed = "the plugin did not stop in time and was killed";
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(killed), "{said:?}");
    }
}

#[test]
fn detach_asks_for_force_when_nobody_can_say_who_is_connected() {
    let serving = Serving::new();
    serving.attach("nbd+unix:", &[]);
    let worker = serving.home.pid("disk", "worker_pid");
    signal(worker, Signal::STOP);
    let said = serving.home.run(["detach", "disk"]);
    signal(worker, Signal::CONT);
    said.refused("who is connected cannot be found out");
    assert_eq!(serving.home.run(["detach", "disk"]).code, 0);
}

#[test]
fn two_clients_change_parts_of_one_block() {
    if !available() {
        return;
    }
    for model in [1, 2, 3] {
        let home = Home::new();
        let text = format!(
            "
import time
API_VERSION = 2
data = bytearray(8192)
def thread_model(): return {model}
def open(readonly): return 0
def get_size(h): return len(data)
def block_size(h): return (4096, 4096, 1 << 20)
def pread(h, buf, offset, flags):
    buf[:] = data[offset:offset + len(buf)]
    time.sleep(.3)
def pwrite(h, buf, offset, flags): data[offset:offset + len(buf)] = buf
"
        );
        let plugin = home.script("blocks.py", &text);
        let uri = home
            .run(["attach", plugin.to_str().unwrap(), "nbd+unix:"])
            .stdout;
        let uri = uri.trim_end();
        let (mut one, mut other) = (Client::connected(uri), Client::connected(uri));
        // Clients that do not keep to the block size that they were told.
        for client in [&mut one, &mut other] {
            client.eval("h.set_strict_mode(0)");
        }
        one.start("h.pwrite(b'A' * 512, 0)");
        other.start("h.pwrite(b'B' * 512, 512)");
        one.finish();
        other.finish();
        let found = one.eval("bytes(h.pread(1024, 0)) == b'A' * 512 + b'B' * 512");
        assert_eq!(found, "True", "thread model {model}");
        assert_eq!(home.run(["detach", "--force", uri]).code, 0);
    }
}
