//! What the `nbdkit` module does to an attachment and to its clients, by the real command: the end
//! that a plugin asks for, clients that are sent away, passwords that are passed along.

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::client::{Client, available};
use support::home::{Home, until};

/// A disk of 1 MiB that does what the export's name says when byte 512 is read.
const PLUGIN: &str = "
import builtins, os, time
import nbdkit
API_VERSION = 2
def log(*what):
    with builtins.open(__file__ + '.log', 'a') as f: f.write(' '.join(map(str, what)) + '\\n')
def config(key, value):
    if key == 'password': log(nbdkit.read_password(value))
    else: globals()[key] = value
def open(readonly):
    return nbdkit.export_name() or globals().get('what', '')
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    if offset == 512:
        if h == 'shutdown': nbdkit.shutdown()
        if h == 'leave': nbdkit.disconnect(False)
        if h == 'away': nbdkit.disconnect(True); time.sleep(0.2)
        if h == 'sleep': log('sleeps'); nbdkit.nanosleep(3600, 0); log('woke up')
        if h == 'who': log(nbdkit.peer_pid(), nbdkit.peer_uid(), nbdkit.peer_gid(), nbdkit.is_tls())
        if h == 'dn': log(nbdkit.peer_tls_dn(), nbdkit.peer_tls_issuer_dn(), nbdkit.is_tls())
    buf[:] = b'x' * len(buf)
def close(h): log('close')
def cleanup(): log('cleanup')
";

fn log(home: &Home) -> String {
    std::fs::read_to_string(home.path("disk.py.log")).unwrap_or_default()
}

fn attach(home: &Home, words: &[&str]) -> String {
    let plugin = home.script("disk.py", PLUGIN);
    let mut args = vec!["attach", plugin.to_str().unwrap()];
    args.extend(words);
    let said = home.run(args);
    assert_eq!(said.code, 0, "{said:?}");
    said.stdout.trim_end().to_owned()
}

/// A client of a server that was attached for it.
fn served(home: &Home, export: &str) -> Client {
    let uri = attach(home, &[&format!("nbd+unix:///{export}")]);
    Client::connected(&uri)
}

#[test]
fn a_plugin_ends_its_own_server() {
    if !available() {
        return;
    }
    let home = Home::new();
    let mut client = served(&home, "shutdown");
    assert_eq!(
        client.eval("bytes(h.pread(2, 512))"),
        "b'xx'",
        "it is answered"
    );
    until("it is gone", || home.attachments().is_empty());
    assert!(client.read().starts_with("error: "));
    assert_eq!(log(&home), "close\ncleanup\n");
}

#[test]
fn a_plugin_ends_its_own_file() {
    if !std::path::Path::new("/dev/fuse").exists() {
        support::say("skipped: no /dev/fuse");
        return;
    }
    let home = Home::new();
    let path = home.path("disk.img");
    attach(&home, &[path.to_str().unwrap(), "what=shutdown"]);
    // Through the page cache, which reads more than is asked for, but from the start of a page.
    let program = format!(
        "import os, mmap; fd = os.open({path:?}, os.O_RDONLY | os.O_DIRECT); \
         m = mmap.mmap(-1, 512); print(os.preadv(fd, [m], 512))"
    );
    let read = std::process::Command::new("python3")
        .args(["-c", &program])
        .output()
        .unwrap();
    assert!(read.status.success(), "{read:?}");
    until("it is gone", || home.attachments().is_empty());
    assert_eq!(log(&home), "close\ncleanup\n");
}

#[test]
fn a_client_that_shall_leave_is_answered_first() {
    if !available() {
        return;
    }
    let home = Home::new();
    let mut client = served(&home, "leave");
    assert_eq!(client.eval("bytes(h.pread(2, 0))"), "b'xx'");
    assert_eq!(client.eval("bytes(h.pread(2, 512))"), "b'xx'");
    let refused = client.eval("h.pread(2, 0)");
    assert!(refused.contains("ESHUTDOWN"), "{refused}");
    client.leave();
    let list = home.run(["list"]).stdout;
    assert!(
        list.contains("attached, 0 clients"),
        "others may come: {list}"
    );
    assert_eq!(home.run(["detach", "--all"]).code, 0);
}

#[test]
fn a_client_that_is_thrown_out_gets_no_answer() {
    if !available() {
        return;
    }
    let home = Home::new();
    let mut client = served(&home, "away");
    assert_eq!(client.eval("bytes(h.pread(2, 0))"), "b'xx'");
    let refused = client.eval("h.pread(2, 512)");
    assert!(refused.starts_with("error: "), "{refused}");
    until("it is closed", || log(&home).contains("close"));
    assert_eq!(home.run(["detach", "--all"]).code, 0);
}

#[test]
fn a_sleep_does_not_hold_up_the_end() {
    if !available() {
        return;
    }
    let home = Home::new();
    let mut client = served(&home, "sleep");
    client.start("h.pread(2, 512)");
    until("it sleeps", || log(&home).contains("sleeps"));
    let start = Instant::now();
    assert_eq!(home.run(["detach", "--force", "disk"]).code, 0);
    let log = log(&home);
    assert!(log.contains("woke up\nclose\ncleanup\n"), "{log}");
    // Not a matter of speed: without it the worker would be killed, or the sleep end in an hour.
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_plugin_knows_the_process_of_its_client() {
    if !available() {
        return;
    }
    let home = Home::new();
    let mut client = served(&home, "who");
    assert_eq!(client.eval("bytes(h.pread(2, 512))"), "b'xx'");
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let (user, group) = (user.as_raw(), group.as_raw());
    assert_eq!(
        log(&home),
        format!("{} {user} {group} False\n", client.pid())
    );
    client.leave();
    assert_eq!(home.run(["detach", "--all"]).code, 0);
}

#[test]
fn a_plugin_knows_the_certificate_of_its_client() {
    if !available() {
        return;
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let home = Home::new();
    let options = ["--tls-certificates", folder, "--tls-verify-peer"];
    let uri = attach(&home, &[&["nbds://localhost:0/dn"], &options[..]].concat());
    let mut client = Client::new();
    let trusts = format!("h.set_tls_certificates({folder:?})");
    assert_eq!(client.eval(&trusts), "None");
    assert_eq!(client.connect(&uri), "None");
    assert_eq!(client.eval("bytes(h.pread(2, 512))"), "b'xx'");
    assert_eq!(log(&home), "CN=alice CN=pydisk tests True\n");
    client.leave();
    assert_eq!(home.run(["detach", "--all"]).code, 0);
}

#[test]
fn a_password_comes_by_a_descriptor_of_the_shell() {
    let home = Home::new();
    let plugin = home.script("disk.py", PLUGIN);
    std::fs::write(home.path("secret"), "s3cret\nmore\n").unwrap();
    let line = format!(
        "exec {} attach {} nbd+unix:/// password=-7 7<{}",
        support::program(),
        plugin.display(),
        home.path("secret").display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &line])
        .envs(
            home.command(["list"])
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(log(&home), "b's3cret'\n");
    assert_eq!(home.run(["detach", "--all"]).code, 0);
    // What nobody passed may be one of pydisk's own.
    let said = home.run([
        "attach",
        plugin.to_str().unwrap(),
        "nbd+unix:///",
        "password=-3",
    ]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr
            .contains("descriptor 3 was not passed to pydisk"),
        "{said:?}"
    );
}

#[test]
fn a_password_is_asked_for_at_the_terminal_and_not_shown() {
    let home = Home::new();
    let plugin = home.script("disk.py", PLUGIN);
    // A terminal of its own for the command, with somebody at it who answers.
    let program = "
import os, pty, sys
child, terminal = pty.fork()
if child == 0: os.execv(sys.argv[1], sys.argv[1:])
shown = b''
while b'password: ' not in shown: shown += os.read(terminal, 1000)
os.write(terminal, b's3cret\\n')
try:
    while piece := os.read(terminal, 1000): shown += piece
except OSError: pass
print(shown, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
";
    let output = std::process::Command::new("python3")
        .args(["-c", program, support::program(), "attach"])
        .arg(&plugin)
        .args(["nbd+unix:///", "password=-"])
        .envs(
            home.command(["list"])
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        shown.contains("password: ") && shown.trim_end().ends_with(" 0"),
        "{output:?}"
    );
    assert!(!shown.contains("s3cret"), "{shown}");
    assert_eq!(log(&home), "b's3cret'\n");
    assert_eq!(home.run(["detach", "--all"]).code, 0);
}
