//! Bad input: one clear sentence, exit status 1, nothing attached and nothing left behind.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use support::device::{Attached, Kind, pydisk, run};
use support::{on_each, repository};

const GOOD: &str = "
API_VERSION = 2
def open(readonly): return 1
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): buf[:] = bytes(len(buf))
";

/// Attach must fail with a sentence that contains `words`, and leave nothing.
#[track_caller]
fn refused(script: &str, target: Option<&str>, params: &[&str], words: &str) {
    let (folder, path) = support::script(script);
    refused_file(&path, &folder.path().join("disk"), target, params, words);
}

#[track_caller]
fn refused_file(plugin: &Path, file: &Path, target: Option<&str>, params: &[&str], words: &str) {
    let target = target.unwrap_or(file.to_str().unwrap());
    let mut args = vec!["attach", plugin.to_str().unwrap(), target];
    args.extend(params);
    let output = pydisk(&args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty());
    let sentence = stderr
        .lines()
        .find(|line| line.starts_with("pydisk: ") && !line.contains(": warning: "))
        .unwrap_or_default();
    assert!(sentence.contains(words), "`{words}` is not in: {stderr}");
    assert!(!file.exists(), "{} was left behind", file.display());
    // Other tests may have disks of a shipped plugin, but not there.
    let left = listed(|entry| entry["target"] == target);
    assert_eq!(left.len(), 0, "{args:?}: {left:?}");
}

/// The names of those attachments.
fn listed(which: impl Fn(&serde_json::Value) -> bool) -> Vec<String> {
    let output = pydisk(["list", "--json"]);
    assert!(output.status.success());
    let list: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    list.iter()
        .filter(|entry| which(entry))
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The names of this plugin's disks.
fn disks_of(plugin: &Path) -> Vec<String> {
    listed(|entry| entry["plugin"] == plugin.to_str().unwrap())
}

/// What makes no disk of a plugin that loads; `tests/python/host.rs` has what is wrong with a script, and
/// `nasty.rs` and `cli.rs` what ends its process.
#[test]
fn bad_plugins_are_refused() {
    if !Kind::File.available() {
        return;
    }
    for (addition, params, words) in [
        ("def broken(:", &[][..], "SyntaxError"),
        ("def get_size(h): return -1", &[], "get_size: returned `-1`"),
        (
            "def open(readonly): raise OSError(2, 'gone')",
            &[],
            "open: FileNotFoundError",
        ),
        ("", &["size=1"], "takes no parameters"),
    ] {
        refused(&format!("{GOOD}{addition}"), None, params, words);
    }
}

fn a_target_in_use_is_refused_and_left_alone(kind: Kind) {
    let (_folder, plugin) = support::script(GOOD);
    let disk = Attached::new(kind, &plugin, &[]);
    let link = disk.folder.path().join("link");
    std::os::unix::fs::symlink(disk.path.parent().unwrap(), &link).unwrap();
    let by_link = link.join(disk.path.file_name().unwrap());
    let name = disks_of(&plugin).remove(0);
    let mut attach = vec!["attach", plugin.to_str().unwrap(), disk.device()];
    for more in [&[][..], &["--run", "true"]] {
        let output = pydisk([&attach, more].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let sentence = format!("`{}`: the attachment `{name}` has it\n", disk.device());
        assert!(stderr.contains(&sentence), "{stderr}");
        assert!(
            stderr.contains(&format!("`pydisk detach {name}`")),
            "{stderr}"
        );
    }
    if kind == Kind::File {
        attach[2] = by_link.to_str().unwrap();
        let output = pydisk(&attach);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(&format!("attachment `{name}`")), "{stderr}");
        // Another state folder, as a container may have, and the same name there: the mount tells whose it is.
        let elsewhere = tempfile::tempdir().unwrap();
        let mut command = Command::new(support::program());
        let output = command
            .args(&attach)
            .args(["--name", &name])
            .env("PYDISK_STATE_DIR", elsewhere.path());
        let stderr = String::from_utf8(output.output().unwrap().stderr).unwrap();
        assert!(
            stderr.contains(&format!("hint: `pydisk detach {}`", disk.device())),
            "{stderr}"
        );
        assert!(!stderr.contains("fusermount"), "{stderr}");
    }
    assert_eq!(disks_of(&plugin), [name]);
    let file = File::open(&disk.path).unwrap();
    file.read_exact_at(&mut [0; 512], 0).unwrap();
    drop(file);
    disk.detach();
}

on_each!(a_target_in_use_is_refused_and_left_alone);

#[test]
fn an_unknown_parameter_of_a_shipped_plugin_is_refused() {
    if !Kind::File.available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk");
    for plugin in ["plugins/memory.py", "examples/ramdisk.py"] {
        refused_file(
            &repository(plugin),
            &file,
            None,
            &["size=1M", "colour=blue"],
            "colour",
        );
        refused_file(&repository(plugin), &file, None, &["size=wrong"], "size");
    }
}

#[test]
fn a_wrong_parameter_of_what_ships_is_one_sentence() {
    if !Kind::File.available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk");
    let nowhere = "url=http://127.0.0.1:1/disk.img";
    for (plugin, params, words) in [
        ("plugins/memory.py", &[][..], "size=SIZE is needed"),
        (
            "plugins/memory.py",
            &["size=wrong"],
            "size `wrong`: not a number",
        ),
        ("plugins/memory.py", &["size=0"], "at least one byte"),
        (
            "plugins/memory.py",
            &["size=8E"],
            "larger than 9223372036854775807",
        ),
        ("plugins/file.py", &["size=1G"], "only file=PATH is known"),
        ("plugins/file.py", &["file=/no/such"], "'/no/such'"),
        (
            "plugins/file.py",
            &["file=/dev/null"],
            "neither a regular file",
        ),
        (
            "examples/ramdisk.py",
            &["colour=blue"],
            "only size=SIZE is known",
        ),
        (
            "examples/errors.py",
            &["pread=EWRONG"],
            "'EWRONG' is not the name",
        ),
        ("examples/errors.py", &["rate=often"], "'often'"),
        ("examples/errors.py", &["seed=x"], "'x'"),
        (
            "examples/pattern.py",
            &["verify=maybe"],
            "on or off is accepted",
        ),
        (
            "examples/v1.py",
            &["colour=blue"],
            "only size=SIZE is known",
        ),
        ("examples/url.py", &["url=ftp://x/y"], "url=URL is needed"),
        (
            "examples/url.py",
            &["timeout=soon", nowhere],
            "timeout `soon`",
        ),
        ("examples/url.py", &[nowhere], "127.0.0.1:1/disk.img: "),
        ("examples/async_http.py", &["connections=x"], "'x'"),
        ("examples/async_http.py", &["url=ftp://x/"], "url=ftp://x/"),
        (
            "examples/async_http.py",
            &[nowhere],
            "127.0.0.1:1/disk.img: ",
        ),
    ] {
        let plugin = repository(plugin);
        let mut args = vec!["attach", plugin.to_str().unwrap(), file.to_str().unwrap()];
        args.extend(params);
        let output = pydisk(&args);
        let said = support::home::complaints(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

const NOBODY: u32 = 65534;

/// As somebody with no rights but to the state folder `state`, if there is one.
fn as_nobody(args: &[&str], state: Option<&Path>) -> Output {
    let folder = tempfile::tempdir().unwrap();
    // A copy, for the build may lie where nobody else may look.
    let program = folder.path().join("pydisk");
    std::fs::copy(support::program(), &program).unwrap();
    run("chmod", ["755".as_ref(), folder.path().as_os_str()]);
    let mut command = Command::new(program);
    match state {
        Some(state) => command.env("PYDISK_STATE_DIR", state),
        None => command.env_remove("PYDISK_STATE_DIR"),
    };
    command
        .args(args)
        .env("XDG_RUNTIME_DIR", "/nowhere")
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap()
}

#[test]
fn missing_rights_are_said() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (folder, plugin) = support::script(GOOD);
    run(
        "chmod",
        ["-R".as_ref(), "a+rX".as_ref(), folder.path().as_os_str()],
    );
    let refused = |target: &str, state: Option<&Path>, words: &str| {
        let output = as_nobody(&["attach", plugin.to_str().unwrap(), target], state);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("pydisk: "), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert!(output.stdout.is_empty());
    };
    refused("/dev/loop99", None, "state folder `/nowhere/pydisk`");
    let state = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(state.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    // Where nobody may not look.
    let closed = tempfile::tempdir().unwrap();
    run("chmod", ["700".as_ref(), closed.path().as_os_str()]);
    let file = closed.path().join("disk");
    let file = file.to_str().unwrap();
    for (target, words) in [
        ("/dev/ublkb99", "/dev/ublk"),
        ("/dev/nbd99", "nbd"),
        ("/dev/loop99", "Permission denied"),
        (file, "Permission denied"),
    ] {
        refused(target, Some(state.path()), words);
        let left: Vec<_> = std::fs::read_dir(state.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != ".lock")
            .collect();
        assert!(left.is_empty(), "{target}: {left:?} is left behind");
    }
}

#[test]
fn a_kernel_without_ublk_is_said() {
    if Path::new("/dev/ublk-control").exists() || !rustix::process::geteuid().is_root() {
        return;
    }
    refused(GOOD, Some("/dev/ublkb0"), &[], "ublk");
}

#[test]
fn a_kernel_without_an_nbd_client_is_said() {
    if !rustix::process::geteuid().is_root() || Path::new("/sys/module/nbd").exists() {
        return;
    }
    refused(GOOD, Some("/dev/nbd0"), &[], "the kernel module `nbd`");
}

#[test]
fn a_size_that_is_no_multiple_of_512_is_rounded_down_with_a_warning() {
    if !Kind::Loop.available() {
        return;
    }
    let script = GOOD.to_owned() + "def get_size(h): return 1000001";
    let (_folder, plugin) = support::script(&script);
    let output = pydisk(["attach", plugin.to_str().unwrap(), "/dev/loop77"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.matches("1000001").count(), 1, "{stderr}");
    let size = run("blockdev", ["--getsize64", "/dev/loop77"]);
    run(support::program(), ["detach", "/dev/loop77"]);
    assert_eq!(size.trim(), "999936");
}

#[test]
fn a_read_only_disk_cannot_be_written_or_mounted_for_writing() {
    for kind in Kind::ALL {
        if !kind.available() {
            continue;
        }
        let disk = Attached::with_script(kind, GOOD, &[]);
        let page = vec![1_u8; 4096];
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(&disk.path)
            .and_then(|file| {
                file.write_all_at(&page, 0)?;
                file.sync_all()
            });
        assert!(written.is_err(), "{}", kind.word());
        if kind != Kind::File {
            assert_eq!(run("blockdev", ["--getro", disk.device()]).trim(), "1");
            let at = tempfile::tempdir().unwrap();
            let output = Command::new("mount")
                .args(["-t", "ext4", "-o", "rw", disk.device()])
                .arg(at.path())
                .output()
                .unwrap();
            assert!(!output.status.success());
        }
        disk.detach();
    }
}
