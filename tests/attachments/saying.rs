//! How the command is told things and how it says them: to people, to programs, and quietly.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::device::Kind;
use support::home::{Home, Said, end, signal, until};
use support::on_each;

const DISK: &str = "API_VERSION = 2
data = bytearray(1 << 20)
def config(key, value): pass
def open(readonly): return 1
def get_size(h): return len(data)
def pread(h, buf, offset, flags): buf[:] = data[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): data[offset:offset + len(buf)] = buf
";

fn parsed(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn attach_and_detach_tell_programs_what_became_of_each() {
    let home = Home::new();
    let plugin = home.script("disk.py", DISK);
    let attached = home.run([
        "attach".as_ref(),
        plugin.as_os_str(),
        "a=1".as_ref(),
        "nbd+unix:".as_ref(),
        "--json".as_ref(),
    ]);
    assert_eq!(
        (attached.code, attached.stderr.as_str()),
        (0, ""),
        "{attached:?}"
    );
    let (attached, shown) = (
        parsed(&attached),
        parsed(&home.run(["show", "disk", "--json"])),
    );
    assert_eq!(keys(&attached), keys(&shown));
    for key in ["name", "uri", "state", "parameters", "agent_pid", "plugin"] {
        assert_eq!(attached[key], shown[key], "{key}");
        assert!(!attached[key].is_null(), "{key}");
    }
    let gone = home.run(["detach", "disk", "nosuch", "--json"]);
    assert_eq!(gone.code, 1, "{gone:?}");
    assert!(
        gone.stderr
            .starts_with("pydisk: `nosuch`: nothing of this name"),
        "{gone:?}"
    );
    let expected = json!([{
        "name": "disk", "device": null, "uri": attached["uri"], "detached": true, "stored": true,
        "refusals": [],
    }]);
    assert_eq!(parsed(&gone), expected);
    assert_eq!(parsed(&home.run(["detach", "--all", "--json"])), json!([]));
}

#[test]
fn in_the_foreground_a_program_is_told_as_well() {
    let home = Home::new();
    let plugin = home.script("disk.py", DISK);
    let mut child = home.start([
        "attach",
        plugin.to_str().unwrap(),
        "nbd+unix:",
        "--json",
        "-f",
    ]);
    until("it is attached", || {
        let list = parsed(&home.run(["list", "--json"]));
        list[0]["state"] == "attached"
    });
    assert_eq!(home.run(["detach", "disk"]).code, 0);
    assert!(end(&mut child).success());
    let said = Said::of(&child.wait_with_output().unwrap());
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(told["state"], "attached", "{said:?}");
    assert!(told["uri"].as_str().unwrap().starts_with("nbd+unix:"));
    home.run(["attach", plugin.to_str().unwrap(), "nbd+stdio:", "--json"])
        .refused(
            "--json: the target `nbd+stdio:///` has its one client on standard input and output",
        );
}

#[test]
fn info_and_check_tell_programs_what_they_tell_people() {
    let home = Home::new();
    let text = format!(
        "{DISK}def dump_plugin(): print('mine=\\x1b[31m\\u202e\\npath=elsewhere')\n\
         def can_trim(h): return 1\n"
    );
    let plugin = home.script("disk.py", &text);
    let plugin = plugin.to_str().unwrap();
    let info = home.run(["info", plugin, "--json"]);
    assert_eq!(info.code, 0, "{info:?}");
    assert!(info.stdout.contains("\\u001b[31m\\u202e"), "{info:?}");
    let info = parsed(&info);
    assert_eq!(info["path"], plugin);
    assert_eq!(info["mine"], "\u{1b}[31m\u{202e}");
    assert_eq!(info["async_callbacks"], json!([]));
    assert_eq!(info["callbacks"][0], "config");
    let shown = home.run(["info", plugin]).stdout;
    assert!(shown.contains("mine=\\u{1b}[31m\\u{202e}\n"), "{shown}");

    let checked = home.run(["check", plugin, "--json", "--steps", "5", "--seed", "7"]);
    assert_eq!(
        (checked.code, checked.stderr.as_str()),
        (1, ""),
        "{checked:?}"
    );
    let report = parsed(&checked);
    for (key, value) in [
        ("fine", json!(false)),
        ("complete", json!(true)),
        ("written", json!(false)),
        ("seed", json!(7)),
        ("plugin", json!(plugin)),
    ] {
        assert_eq!(report[key], value, "{key}");
    }
    assert!(report["calls"]["pread"].as_u64().unwrap() > 0, "{report}");
    let problems = report["problems"].as_array().unwrap();
    let found = problems.iter().find(|it| it["callback"] == "can_trim");
    assert_eq!(found.unwrap()["line"], 9, "{report}");
    let broken = home.script("broken.py", "1/0\n");
    let refused = home.run(["check", broken.to_str().unwrap(), "--json"]);
    refused.refused("ZeroDivisionError");
}

#[test]
fn quietly_nothing_is_said_but_errors() {
    let home = Home::new();
    // Its capability is an odd one, of which a warning is said.
    let plugin = home.script("disk.py", &format!("{DISK}def can_trim(h): return 1\n"));
    let plugin = plugin.to_str().unwrap();
    let nothing = |said: &Said| {
        assert_eq!(
            (said.code, said.stdout.as_str(), said.stderr.as_str()),
            (0, "", "")
        );
    };
    let loud = home.run(["attach", plugin, "nbd+unix:", "--name=loud"]);
    assert!(loud.stderr.contains(": warning: "), "{loud:?}");
    nothing(&home.run(["attach", plugin, "nbd+unix:", "-q", "--name=disk"]));
    let names = home.run(["detach", "--all"]);
    let mut lines: Vec<_> = names.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!((names.code, lines), (0, vec!["disk", "loud"]));
    nothing(&home.run(["attach", plugin, "nbd+unix:", "--quiet", "--run", "true"]));
    nothing(&home.run(["attach", plugin, "nbd+unix:", "-q"]));
    nothing(&home.run(["detach", "--all", "-q"]));
    home.run(["detach", "-q", "disk"])
        .refused("nothing of this name");
    home.run(["attach", plugin, "/dev/sda", "-q"])
        .refused("no front end makes this device");
    let checked = home.run(["check", plugin, "-q", "--steps", "5"]);
    assert_eq!(checked.code, 1);
    let lines: Vec<_> = checked.stdout.lines().collect();
    assert!(!lines.is_empty(), "{checked:?}");
    assert!(
        lines.iter().all(|line| line.contains("can_trim")),
        "{checked:?}"
    );
    let fine = home.script("fine.py", DISK);
    nothing(&home.run(["check", fine.to_str().unwrap(), "-q", "--steps", "5"]));
}

/// All that is said is of use, and nothing of it a warning.
fn a_clean_end_is_no_reason_for_a_warning(kind: Kind) {
    for by_signal in [true, false] {
        let home = Home::new();
        let plugin = home.script("disk.py", DISK);
        let target = kind.fresh_target(&home.path(""));
        let mut child = home.start(["attach", plugin.to_str().unwrap(), &target, "-v", "-f"]);
        until("it is attached", || {
            let list = parsed(&home.run(["list", "--json"]));
            list[0]["state"] == "attached"
        });
        if by_signal {
            signal(home.pid("disk", "agent_pid"), Signal::TERM);
        } else {
            assert_eq!(home.run(["detach", "disk"]).code, 0);
        }
        assert!(end(&mut child).success());
        let said = Said::of(&child.wait_with_output().unwrap());
        assert!(said.stderr.contains("attached as"), "{said:?}");
        for word in [": warning: ", ": error: ", "capability", "ount"] {
            assert!(!said.stderr.contains(word), "{said:?}");
        }
        assert!(said.stderr.lines().count() < 12, "{said:?}");
    }
}

on_each!(a_clean_end_is_no_reason_for_a_warning);

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

#[test]
fn an_argument_that_is_no_text_is_named() {
    let home = Home::new();
    let odd = OsStr::from_bytes(b"caf\xe9\n.py");
    for args in [
        &["attach".as_ref(), odd][..],
        &["show".as_ref(), odd],
        &[
            "attach".as_ref(),
            "--python".as_ref(),
            odd,
            "memory".as_ref(),
        ],
    ] {
        let said = home.run(args);
        assert_eq!(said.code, 2, "{said:?}");
        let sentence = "pydisk: argument `caf\\xe9\\n.py`: it is not UTF-8\nhint: ";
        assert!(said.stderr.starts_with(sentence), "{said:?}");
    }
}

#[test]
fn in_a_folder_that_is_no_text_a_plugin_is_looked_at_and_not_attached() {
    let home = Home::new();
    let folder = home.path("").join(OsStr::from_bytes(b"caf\xe9"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("disk.py"), DISK).unwrap();
    let run = |args: &[&str]| {
        let output = home.command(args).current_dir(&folder).output();
        Said::of(&output.unwrap())
    };
    let info = run(&["info", "disk.py"]);
    assert_eq!((info.code, info.stderr.as_str()), (0, ""), "{info:?}");
    assert_eq!(run(&["check", "disk.py", "--steps", "5"]).code, 0);
    run(&["attach", "disk.py", "nbd+unix:"]).refused("caf\\xe9/disk.py`: the path is not UTF-8");
    let plugin = home.script("disk.py", DISK);
    run(&["attach", plugin.to_str().unwrap(), "./img"])
        .refused("caf\\xe9/img`: the path is not UTF-8");
    let list = home.run(["list"]);
    assert_eq!((list.code, list.stdout.lines().count()), (0, 1), "{list:?}");
}

#[test]
fn a_state_that_cannot_be_read_is_said_and_keeps_nobody_waiting() {
    let home = Home::new();
    let plugin = home.script("disk.py", DISK);
    let plugin = plugin.to_str().unwrap();
    for name in ["odd", "other"] {
        let said = home.run(["attach", plugin, "nbd+unix:", "--name", name]);
        assert_eq!(said.code, 0, "{said:?}");
    }
    let state = home.state("odd").join("state.json");
    let kept = std::fs::read(&state).unwrap();
    let spoil: [(&str, &dyn Fn()); 3] = [
        ("it is no ordinary file", &|| {
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mkfifoat(rustix::fs::CWD, &state, mode).unwrap();
        }),
        ("it is no ordinary file", &|| {
            std::fs::create_dir(&state).unwrap()
        }),
        ("expected ident", &|| {
            std::fs::write(&state, "nonsense").unwrap()
        }),
    ];
    for (why, spoil) in spoil {
        if state.is_dir() {
            std::fs::remove_dir(&state).unwrap();
        } else {
            std::fs::remove_file(&state).unwrap();
        }
        spoil();
        let list = home.run(["list"]);
        assert_eq!(list.code, 0, "{list:?}");
        assert_eq!(list.stderr.lines().count(), 1, "{list:?}");
        let begin = "pydisk: odd: what is known of it cannot be read: `";
        assert!(list.stderr.starts_with(begin), "{list:?}");
        assert!(list.stderr.contains(why), "{list:?}");
        let rows: Vec<_> = list.stdout.lines().collect();
        assert!(rows[1].starts_with("odd ") && rows[1].ends_with("unreadable"));
        assert!(rows[2].starts_with("other ") && rows[2].contains("attached"));
        assert_eq!(home.run(["show", "other"]).code, 0);
    }
    assert_eq!(home.run(["detach", "other"]).code, 0);
    std::fs::write(&state, kept).unwrap();
    assert_eq!(home.run(["detach", "odd"]).code, 0);
}

#[test]
fn a_key_that_everybody_may_read_is_warned_of() {
    let home = Home::new();
    let plugin = home.script("disk.py", DISK);
    let folder = home.path("tls");
    std::fs::create_dir(&folder).unwrap();
    let set = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    set(&home.path(""), 0o755);
    for name in ["server-cert.pem", "server-key.pem"] {
        let from = support::repository("tests/certificates").join(name);
        std::fs::copy(from, folder.join(name)).unwrap();
    }
    for (mode, warned) in [(0o644, 1), (0o600, 0)] {
        set(&folder.join("server-key.pem"), mode);
        let said = home.run([
            "attach",
            plugin.to_str().unwrap(),
            "nbds+unix:",
            "--tls-certificates",
            folder.to_str().unwrap(),
            "--run",
            "true",
        ]);
        assert_eq!(said.code, 0, "{said:?}");
        let words = "every user of this machine may read the key";
        assert_eq!(said.stderr.matches(words).count(), warned, "{said:?}");
    }
}
