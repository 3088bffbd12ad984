//! How servers, clients and plugins come and go.

use super::{BASE, Vector, client};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use support::home::{end, first_line, signal, until};
use support::nbd::raw::Raw;
use support::nbd::{Home, libnbd_command};

const LIFE: &str = "
def close(h): note('close')
def cleanup(): note('cleanup')
";

/// What the plugin in this folder noted.
fn calls(home: &Home) -> Vec<String> {
    let text = std::fs::read_to_string(home.path("calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn vector_30_a_signal_ends_a_server_with_a_client_that_does_nothing() {
    if !client() {
        return;
    }
    for model in ["SERIALIZE_ALL_REQUESTS", "PARALLEL"] {
        for kind in [Signal::TERM, Signal::INT] {
            let home = Home::new();
            let model = format!("def thread_model(): return nbdkit.THREAD_MODEL_{model}\n");
            let script = home.script("plugin.py", &(BASE.to_owned() + LIFE + &model));
            let mut agent = home.start(["attach", "-f", script.to_str().unwrap(), "nbd+unix:"]);
            let uri = first_line(&mut agent);
            let code = "
h.connect_uri(args[0])
h.pread(512, 0)
print('idle', flush=True)
sys.stdin.read()
";
            let mut idle = libnbd_command(code, &[&uri])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            assert_eq!(first_line(&mut idle), "idle");
            signal(agent.id().cast_signed(), kind);
            assert_eq!(end(&mut agent).code(), Some(0), "{model} {kind:?}");
            assert_eq!(calls(&home), ["close", "cleanup"], "{model} {kind:?}");
            drop(idle.stdin.take());
            end(&mut idle);
        }
    }
}

#[test]
fn vector_31_handles_are_closed_before_cleanup_however_the_end_comes() {
    if !client() {
        return;
    }
    // Detached with a client.
    let vector = Vector::new(&[LIFE]);
    let mut idle = Raw::opened(vector.0.socket(), "");
    assert_eq!(idle.pread(0, 1), [0]);
    let said = vector.0.home.run(["detach", "--force", "disk"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(vector.calls(), ["close", "cleanup"]);
    // Ended by the plugin itself, which answers first.
    let vector = Vector::new(&[
        LIFE,
        "def pread(h, buf, offset, flags): nbdkit.shutdown(); buf[:] = b'x' * len(buf)\n",
    ]);
    let mut idle = Raw::opened(vector.0.socket(), "");
    assert_eq!(idle.pread(0, 1), *b"x");
    until("it has ended", || vector.0.home.attachments().is_empty());
    assert_eq!(vector.calls(), ["close", "cleanup"]);
}

#[test]
fn vector_32_the_folder_of_the_script_is_not_searched_for_modules() {
    let home = Home::new();
    home.script("beside.py", "value = 1\n");
    let script = home.script("plugin.py", &(BASE.to_owned() + "import beside\n"));
    let words = ["info", script.to_str().unwrap()];
    home.run(words)
        .refused("ModuleNotFoundError: No module named 'beside'");
    let mut command = home.command(words);
    let folder = script.parent().unwrap();
    let told = command.env("PYTHONPATH", folder).output().unwrap();
    assert!(told.status.success(), "{told:?}");
}

#[test]
fn vector_37_a_peer_that_says_nothing_holds_up_nobody() {
    if !client() {
        return;
    }
    for model in ["SERIALIZE_ALL_REQUESTS", "SERIALIZE_REQUESTS", "PARALLEL"] {
        let vector = Vector::new(&[&format!(
            "def thread_model(): return nbdkit.THREAD_MODEL_{model}\n"
        )]);
        let code = "
connect()
for _ in sys.stdin: print(bytes(h.pread(2, 0)), flush=True)
";
        let mut first = libnbd_command(&(super::CLIENT.to_owned() + code), &[&vector.0.export("")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut asks = first.stdin.take().unwrap();
        let mut told = BufReader::new(first.stdout.take().unwrap());
        let mut line = String::new();
        writeln!(asks, "read").unwrap();
        told.read_line(&mut line).unwrap();
        // One that says nothing at all, and one that stops in the middle of a word.
        let mut silent = Raw::connect(vector.0.socket());
        silent.greeting();
        let mut halting = Raw::connect(vector.0.socket());
        halting.greet();
        halting.send(b"IHAVE");
        writeln!(asks, "read").unwrap();
        told.read_line(&mut line).unwrap();
        assert_eq!(line, "b'\\x00\\x00'\n".repeat(2), "{model}");
        assert_eq!(vector.client("connect()\nprint(h.get_size())"), "1048576\n");
        drop(asks);
        end(&mut first);
    }
}

#[test]
fn vector_39_a_list_of_exports_that_raises_midway_is_an_error() {
    if !client() {
        return;
    }
    let vector = Vector::new(&["
def list_exports(readonly, is_tls):
    yield 'first'
    raise RuntimeError('midway')
"]);
    let seen = vector.client(
        "
names = []
h.set_opt_mode(True)
connect()
print(told(h.opt_list, lambda name, description: names.append(name)) != 'ok', names)
h.opt_go()
print(h.get_size())
",
    );
    assert_eq!(seen, "True []\n1048576\n");
    vector.logged("list_exports: RuntimeError: midway");
}
