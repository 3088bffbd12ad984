//! How the command is told things and how it says them: to people, to programs, and quietly.

use std::io::Write;
use std::process::Stdio;

use support::home::{Home, Said};

const DISK: &str = "API_VERSION = 2
data = bytearray(1 << 20)
def config(key, value): pass
def open(readonly): return 1
def get_size(h): return len(data)
def pread(h, buf, offset, flags): buf[:] = data[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): data[offset:offset + len(buf)] = buf
";

#[test]
fn a_script_from_a_pipe_is_kept_for_its_processes() {
    let home = Home::new();
    let piped = |args: &[&str]| {
        let mut child = home
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Whoever refuses does not read.
        stdin.write_all(DISK.as_bytes()).unwrap_or_default();
        drop(stdin);
        Said::of(&child.wait_with_output().unwrap())
    };
    let attached = piped(&["attach", "/dev/stdin", "nbd+unix:"]);
    assert_eq!(
        (attached.code, attached.stderr.as_str()),
        (0, ""),
        "{attached:?}"
    );
    let kept = home.field("script", "plugin");
    assert_eq!(
        std::fs::read_to_string(kept.as_str().unwrap()).unwrap(),
        DISK
    );
    let named = piped(&["attach", "/dev/fd/0", "nbd+unix:", "--name=mine"]);
    assert_eq!(named.code, 0, "{named:?}");
    let info = piped(&["info", "/dev/stdin"]);
    assert!(info.stdout.contains("api_version=2\n"), "{info:?}");
    let checked = piped(&["check", "/dev/stdin", "--steps", "5"]);
    assert!(
        checked.stdout.ends_with("nothing wrong was found\n"),
        "{checked:?}"
    );
    piped(&["bench", "/dev/stdin"]).refused("it is started several times, so a file is needed");
    piped(&["attach", "/dev/stdin", "nbd+stdio:"])
        .refused("is on standard input, so a file is needed");
    assert_eq!(home.attachments(), ["mine", "script"]);
}
