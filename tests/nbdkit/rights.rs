//! A plugin that `-u` has taken the rights from, and an agent that has kept them: it does for the
//! plugin what the command line said, and nothing more.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use support::home::Said;
use support::nbdkit::{self, Nbdkit};
use support::say;

/// A home that everybody may look into, if this is root.
fn ours() -> Option<Nbdkit> {
    if !rustix::process::geteuid().is_root() {
        say("skipped: -u takes root");
        return None;
    }
    let nbdkit = Nbdkit::ours();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(nbdkit.home.path(""), open).unwrap();
    Some(nbdkit)
}

/// Says `message` for its worker on every socket that it finds, before the worker itself does.
const FORGER: &str = "
import nbdkit, os, socket, time
API_VERSION = 2
def after_fork():
    for fd in range(40):
        try:
            s = socket.socket(fileno=os.dup(fd))
            s.getpeername()
            s.send(MESSAGE, socket.MSG_DONTWAIT)
        except OSError: pass
    time.sleep(PAUSE)
def open(readonly): return 1
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): buf[:] = bytes(len(buf))
";

fn forger(nbdkit: &Nbdkit, at: &str, pause: &str) -> String {
    let message = format!(
        "{{\"ready\": {{\"at\": {at}, \"front_end\": \"nbd\", \"size\": null, \
         \"read_only\": null, \"parallel\": false}}}}"
    );
    let text = FORGER
        .replace("MESSAGE", &format!("b'''{message}\\n''' * 2"))
        .replace("PAUSE", pause);
    let path = nbdkit.home.script("forger.py", &text);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_forged_place_is_not_believed() {
    let Some(nbdkit) = ours() else { return };
    let (socket, victim) = (nbdkit.home.path("socket"), nbdkit.home.path("victim"));
    let (socket, victim) = (socket.to_str().unwrap(), victim.to_str().unwrap());
    drop(std::os::unix::net::UnixListener::bind(victim).unwrap());
    let uri = format!("nbd+unix:///?socket={socket}");
    let forged = format!("nbd+unix:///?socket={victim}");
    for at in [
        format!("{{\"server\": {{\"uri\": \"{uri}\", \"unix_socket\": \"{victim}\"}}}}"),
        format!("{{\"server\": {{\"uri\": \"{forged}\", \"unix_socket\": \"{victim}\"}}}}"),
        "{\"server\": {\"uri\": \"nbd://forged\", \"unix_socket\": null}}".to_owned(),
        "{\"device\": \"/etc/passwd\"}".to_owned(),
    ] {
        let plugin = forger(&nbdkit, &at, "10");
        let words = ["-u", "nobody", "-U", socket, "python", &plugin];
        let said = nbdkit.run([&words[..], &["--run", "echo ran $uri"]].concat());
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{at}: {said:?}");
        let what = "which is not what it was asked for";
        assert!(said.stderr.contains(what), "{at}: {said:?}");
        assert!(std::path::Path::new(victim).exists(), "{at}");
        assert!(!std::path::Path::new(socket).exists(), "{at}");
        assert_eq!(nbdkit.home.attachments(), [""; 0], "{at}");
    }
}

#[test]
fn the_command_runs_once_however_often_the_plugin_says_that_it_is_ready() {
    let Some(nbdkit) = ours() else { return };
    let socket = nbdkit.home.path("socket");
    let socket = socket.to_str().unwrap();
    let uri = format!("nbd+unix:///?socket={socket}");
    let at = format!("{{\"server\": {{\"uri\": \"{uri}\", \"unix_socket\": \"{socket}\"}}}}");
    let plugin = forger(&nbdkit, &at, "0");
    let words = ["-u", "nobody", "-U", socket, "python", &plugin];
    let command = "echo ran; nbdinfo --size \"$uri\"";
    let said = nbdkit.run([&words[..], &["--run", command]].concat());
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (0, "ran\n1048576\n"),
        "{said:?}"
    );
    assert_eq!(nbdkit.home.attachments(), [""; 0]);
}

#[test]
fn a_plugin_that_fails_after_it_lost_its_rights_leaves_no_socket() {
    let Some(nbdkit) = ours() else { return };
    let text = format!(
        "{}\ndef after_fork(): raise RuntimeError('too late')\n",
        nbdkit::PLUGIN
    );
    let path = nbdkit.home.script("late.py", &text);
    for options in [&["-f"][..], &["--run", "exit 3"], &[]] {
        let words = ["-u", "nobody", "-U", "socket", "python"];
        let said = nbdkit.run([&words[..], &[path.to_str().unwrap()], options].concat());
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("too late"), "{said:?}");
        assert!(!nbdkit.home.path("socket").exists(), "{options:?}");
        assert_eq!(nbdkit.home.attachments(), [""; 0], "{options:?}");
    }
}

#[test]
fn pipes_are_served_although_they_are_somebody_elses() {
    let Some(nbdkit) = ours() else { return };
    let mut child = nbdkit
        .command(["-u", "nobody", "-s", "python", &nbdkit.plugin])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut hello = [0; 16];
    let mut stdout = child.stdout.take().unwrap();
    let came = stdout.read_exact(&mut hello);
    drop(child.stdin.take());
    let said = Said::of(&child.wait_with_output().unwrap());
    came.unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!(&hello, b"NBDMAGICIHAVEOPT");
    assert_eq!(said.code, 0, "{said:?}");
}

/// Leaves so little memory that there cannot be a thread for a client, who needs a large stack.
const SCARCE: &str = "
import builtins, resource
API_VERSION = 2
def config(key, value): globals()[key] = int(value)
def after_fork():
    with builtins.open('/proc/self/statm') as f: pages = int(f.read().split()[0])
    limit = pages * resource.getpagesize() + left * (1 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
def open(readonly): return 1
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): buf[:] = bytes(len(buf))
";

#[test]
fn who_cannot_serve_the_only_client_has_failed() {
    let nbdkit = Nbdkit::ours();
    let script = nbdkit.home.script("scarce.py", SCARCE);
    let mut why = Vec::new();
    // How much the other threads need is not for this test to know.
    for left in 9..15 {
        let (input, output) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let child = nbdkit
            .command(["-s", "python", script.to_str().unwrap()])
            .arg(format!("left={left}"))
            .stdin(input.0)
            .stdout(output.1)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Said::of(&child.wait_with_output().unwrap());
        assert_eq!(said.code, 1, "{left} MiB: {said:?}");
        why.push(said.stderr);
    }
    let reached = why
        .iter()
        .any(|why| why.contains("standard input and output: "));
    assert!(
        reached,
        "the client was never the one without a thread: {why:?}"
    );
}

/// Says `message` for its worker when a client opens the disk, and dies.
const DYING: &str = "
import nbdkit, os, socket
API_VERSION = 2
def open(readonly):
    for fd in range(40):
        try:
            s = socket.socket(fileno=os.dup(fd))
            if s.family == socket.AF_UNIX and not s.getpeername():
                s.send(b'MESSAGE\\n', socket.MSG_DONTWAIT)
        except OSError: pass
    os._exit(3)
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): buf[:] = bytes(len(buf))
";

#[test]
fn a_refusal_makes_no_sense_once_the_disk_could_be_used() {
    let nbdkit = Nbdkit::ours();
    let text = DYING.replace("MESSAGE", "{\"refused\": \"forged\"}");
    let path = nbdkit.home.script("dying.py", &text);
    let words = ["-U", "-", "python", path.to_str().unwrap()];
    let command = "nbdinfo --size \"$uri\"; sleep 3";
    let said = nbdkit.run([&words[..], &["--run", command]].concat());
    assert!(!said.stderr.contains("forged"), "{said:?}");
    assert!(said.stderr.contains("exited with status 3"), "{said:?}");
    assert_eq!(nbdkit.home.attachments(), [""; 0]);
}

#[test]
fn a_server_that_was_started_without_a_runtime_folder_is_found_from_where_there_is_one() {
    let Some(nbdkit) = ours() else { return };
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let (program, runtime) = (nbdkit.home.path("pydisk"), nbdkit.home.path("runtime"));
    // A copy, for the build may lie where nobody else may look.
    std::fs::copy(support::program(), &program).unwrap();
    open(&program, 0o755);
    open(&nbdkit.home.path(""), 0o777);
    std::fs::create_dir(&runtime).unwrap();
    std::os::unix::fs::chown(&runtime, Some(54324), Some(54324)).unwrap();
    let as_user = |program: &std::path::Path| {
        let mut command = Command::new(program);
        command
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("PYDISK_STATE_DIR")
            .env_remove("VIRTUAL_ENV")
            .current_dir(nbdkit.home.path(""))
            .uid(54324)
            .gid(54324);
        command
    };
    let python = as_user("python3".as_ref()).args(["-c", "pass"]).status();
    if !python.is_ok_and(|status| status.success()) {
        say("skipped: another user may not run this Python");
        return;
    }
    let run = |command: &mut Command| Said::of(&command.output().unwrap());
    let words = ["nbdkit", "-U", "socket", "python", &nbdkit.plugin];
    let said = run(as_user(&program).args(words));
    assert_eq!(said.code, 0, "{said:?}");
    let asked = |words: &[&str]| {
        let mut command = as_user(&program);
        run(command.args(words).env("XDG_RUNTIME_DIR", &runtime))
    };
    let listed = asked(&["list"]);
    assert!(listed.stdout.contains("disk"), "{listed:?}");
    let detached = asked(&["detach", "disk"]);
    assert_eq!(detached.code, 0, "{detached:?}");
    assert!(!nbdkit.home.path("socket").exists());
    asked(&["show", "disk"]).refused("nothing of this name or device is attached");
    std::fs::remove_dir_all("/tmp/pydisk-54324").unwrap();
}
