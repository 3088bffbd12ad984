//! What takes long is told of while it lasts, and Ctrl-C says what comes of it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};

use rustix::process::Signal;
use support::device::Kind;
use support::home::{Home, end, first_line, signal, until};

/// A disk that waits in one place, named by `wait`, until there is a file `go` beside the script.
const WAITS: &str = r#"
import io, os, time
API_VERSION = 2
place = os.path.dirname(os.path.abspath(__file__))
def wait(where):
    if where == WHERE:
        while not os.path.exists(place + "/go"): time.sleep(0.02)
def open(readonly): wait("open")
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): wait("pread")
def pwrite(h, buf, offset, flags): pass
def flush(h, flags): wait("flush")
wait("load")
"#;

/// A plugin that waits there.
fn waiting(home: &Home, place: &str) -> String {
    // Who runs the tests may ignore Ctrl-C, and so would what they start. What is handled here has its default there.
    let default = std::sync::Arc::new(true.into());
    signal_hook::flag::register_conditional_default(signal_hook::consts::SIGINT, default).unwrap();
    let text = WAITS.replace("API_VERSION", &format!("WHERE = '{place}'\nAPI_VERSION"));
    home.script("slow.py", &text).display().to_string()
}

fn go(home: &Home) {
    fs::write(home.path("go"), "").unwrap();
}

fn words(child: &mut Child) -> BufReader<ChildStderr> {
    BufReader::new(child.stderr.take().unwrap())
}

/// The next line that begins like this. On a slow machine there may be other ones about progress before it.
#[track_caller]
fn told(words: &mut BufReader<ChildStderr>, wanted: &str) -> String {
    let mut line = String::new();
    while !line.starts_with(wanted) {
        line.clear();
        assert!(words.read_line(&mut line).unwrap() > 0, "nothing is told");
    }
    assert!(!line.contains(['\r', '\x1b']), "{line:?}");
    line
}

fn rest(mut words: BufReader<ChildStderr>) -> String {
    let mut text = String::new();
    words.read_to_string(&mut text).unwrap();
    text
}

fn interrupt(child: &Child) {
    signal(child.id().cast_signed(), Signal::INT);
}

#[track_caller]
fn is_interrupted(mut child: Child) {
    let status = end(&mut child);
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()), "{status}");
}

/// Where a start can wait, what is told of it, and where the disk then appears.
const STARTS: [(&str, &str, Kind); 3] = [
    ("load", "the script to be loaded", Kind::File),
    ("open", "`open`", Kind::File),
    ("pread", "the first read", Kind::Loop),
];

/// Each start that this host has, with the target.
fn each_start(work: impl Fn(&Home, &str, &str, &str)) {
    for (place, what, kind) in STARTS {
        if kind.available() {
            let home = Home::new();
            let target = kind.fresh_target(&home.path(""));
            let plugin = waiting(&home, place);
            work(
                &home,
                &plugin,
                &target,
                &format!("pydisk: slow: waiting for {what} for "),
            );
        }
    }
}

#[test]
fn a_start_that_takes_long_tells_what_it_waits_for() {
    each_start(|home, plugin, target, line| {
        for foreground in [false, true] {
            let mut args = vec!["attach", plugin, target];
            args.extend(foreground.then_some("--foreground"));
            let mut attach = home.start(args);
            let mut words = words(&mut attach);
            let said = told(&mut words, line);
            assert!(said.ends_with(" s; Ctrl-C gives up\n"), "{said}");
            go(home);
            assert_eq!(first_line(&mut attach), target);
            assert_eq!(home.run(["detach", "slow"]).code, 0);
            end(&mut attach);
            fs::remove_file(home.path("go")).unwrap();
        }
    });
}

#[test]
fn a_start_that_is_interrupted_says_so_and_leaves_nothing() {
    each_start(|home, plugin, target, line| {
        let mut attach = home.start(["attach", plugin, target]);
        let mut words = words(&mut attach);
        told(&mut words, line);
        interrupt(&attach);
        let said = rest(words);
        let what = line
            .strip_suffix(" for ")
            .unwrap()
            .replace(": waiting", ": interrupted, waiting");
        assert!(
            said.contains(&format!("{what}: the disk is given up\n")),
            "{said}"
        );
        is_interrupted(attach);
        until("nothing is left", || home.attachments().is_empty());

        let mut attach = home.start(["attach", plugin, target, "--foreground"]);
        let mut words = self::words(&mut attach);
        told(&mut words, line);
        interrupt(&attach);
        assert_eq!(end(&mut attach).code(), Some(1));
        let said = rest(words);
        assert!(said.contains("stopped by SIGINT"), "{said}");
        let outcome = said.contains("is not waited for: nothing is attached")
            || said.contains("the plugin has 3 s to flush and close");
        assert!(outcome, "{said}");
        until("nothing is left", || home.attachments().is_empty());
    });
}

#[test]
fn an_end_that_takes_long_tells_what_it_waits_for_and_goes_on_without_the_user() {
    if !Kind::File.available() {
        return;
    }
    let home = Home::new();
    let plugin = waiting(&home, "flush");
    assert_eq!(home.run(["attach", &plugin, "./disk"]).code, 0);
    for _ in 0..2 {
        let mut detach = home.start(["detach", "slow"]);
        let mut words = words(&mut detach);
        let line = "pydisk: slow: waiting for the last `flush` for ";
        let said = told(&mut words, line);
        assert!(
            said.ends_with(" s; `pydisk detach --force slow` does not wait\n"),
            "{said}"
        );
        interrupt(&detach);
        let said = rest(words);
        let told = "slow: interrupted; it goes on ending, and waits for the last `flush`; ";
        assert!(said.contains(told), "{said}");
        is_interrupted(detach);
    }
    assert_eq!(home.field("slow", "state"), "stopping");
    go(&home);
    until("nothing is left", || home.attachments().is_empty());
    assert!(!Path::new(&home.path("disk")).exists());
}

#[test]
fn an_end_in_the_foreground_tells_it_too() {
    if !Kind::File.available() {
        return;
    }
    let home = Home::new();
    let plugin = waiting(&home, "flush");
    let mut attach = home.start(["attach", &plugin, "./disk", "--foreground"]);
    let mut words = words(&mut attach);
    first_line(&mut attach);
    let mut detach = home.start(["detach", "slow"]);
    told(
        &mut words,
        "pydisk: slow: waiting for the last `flush` for ",
    );
    interrupt(&attach);
    let said = rest(words);
    assert!(
        said.contains("the plugin has 3 s to flush and close"),
        "{said}"
    );
    assert_eq!(end(&mut attach).code(), Some(1));
    end(&mut detach);
}

#[test]
fn info_and_check_tell_what_they_wait_for() {
    for (command, place, what, last) in [
        ("info", "load", "the plugin", "slow.py: interrupted\n"),
        (
            "check",
            "load",
            "the script to be loaded",
            "interrupted, waiting for the script",
        ),
        (
            "check",
            "open",
            "`open`",
            "interrupted, waiting for `open`: the rest was not tried\n",
        ),
        (
            "check",
            "pread",
            "`pread` of ",
            ": the rest was not tried\n",
        ),
    ] {
        let home = Home::new();
        let plugin = waiting(&home, place);
        let mut child = home.command([command, &plugin]);
        child.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.process_group(0).spawn().unwrap();
        let mut words = words(&mut child);
        let line = format!("pydisk: {plugin}: waiting for {what}");
        let said = told(&mut words, &line);
        assert!(said.ends_with(" s; Ctrl-C gives up\n"), "{said}");
        // As a terminal does, which sends it to all of them.
        let group = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process_group(group, Signal::INT).unwrap();
        let said = rest(words);
        assert!(said.contains(last), "{said}");
        is_interrupted(child);
    }
}
