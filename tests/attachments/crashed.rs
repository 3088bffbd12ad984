//! A FUSE file whose worker has died: its path fails, and is told of, until somebody wants it to go.
//!
//! Were the path free, a program that opens it again and again would go on in an ordinary file there.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::home::{Home, Said, end, first_line, mounted, runs, signal, until};

/// A disk in memory at `disk`, named `ram`.
fn attached() -> Option<Home> {
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        support::skip("fuse", "these tests need /dev/fuse and root");
        return None;
    }
    let home = Home::new();
    attach(&home);
    Some(home)
}

#[track_caller]
fn attach(home: &Home) {
    let said = home.run(["attach", "memory", "./disk", "size=1M", "--name", "ram"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
}

/// Kill these processes of it.
fn kill(home: &Home, whose: &[&str]) {
    let pids: Vec<_> = whose.iter().map(|whose| home.pid("ram", whose)).collect();
    for pid in &pids {
        signal(*pid, Signal::KILL);
    }
    until("they have ended", || !pids.iter().any(|pid| runs(*pid)));
}

/// Write a block to the path, as one who makes the file if there is none.
fn dd(home: &Home, word: &str) -> Said {
    let target = format!("of={}", home.path("disk").display());
    let mut dd = Command::new("dd");
    let dd = dd.args(["if=/dev/zero", &target, "bs=4096", "count=1", word]);
    Said::of(&dd.output().unwrap())
}

/// Its path fails, whoever opens it, and `list` and `show` tell of it.
#[track_caller]
fn fails(home: &Home, cause: &str) {
    for word in [
        "conv=notrunc",
        "conv=nocreat",
        "oflag=append",
        "status=none",
    ] {
        let said = dd(home, word);
        assert!(said.code != 0, "{word}: {said:?}");
    }
    assert!(fs::metadata(home.path("disk")).is_err());
    let said = home.run(["list"]);
    assert!(
        said.code == 0 && said.stdout.contains("crashed"),
        "{said:?}"
    );
    let path = home.path("disk").display().to_string();
    for which in ["ram", "./disk", &path] {
        let said = home.run(["show", which]);
        assert!(said.stdout.contains("crashed\n"), "{said:?}");
        assert!(said.stdout.contains(&format!("{cause}\n")), "{said:?}");
    }
    assert_eq!(home.field("ram", "cause"), cause);
    assert!(dd(home, "status=none").code != 0, "it was taken away");
}

/// The path is free, and nothing tells of the attachment.
#[track_caller]
fn gone(home: &Home) {
    assert_eq!(home.attachments(), [""; 0]);
    assert!(!mounted(&home.path("disk")), "still mounted");
    assert!(!home.path("disk").exists(), "the file is left behind");
}

const KILLED: &str = "the worker was killed by SIGKILL";
const UNSEEN: &str = "its agent and its worker have died";

#[test]
fn the_file_of_a_dead_worker_fails_until_it_is_detached() {
    let Some(home) = attached() else { return };
    let agent = home.pid("ram", "agent_pid");
    kill(&home, &["worker_pid"]);
    until("its agent has ended", || !runs(agent));
    fails(&home, KILLED);
    // Whoever has it open cannot use it, and keeps nobody waiting.
    home.run(["detach", "./disk"])
        .refused(&format!("ram: {KILLED}; what it had not stored is lost"));
    gone(&home);
    home.run(["show", "ram"])
        .refused("it ended badly; its log is ");
    let log = fs::read_to_string(home.state(".failed").join("ram.log")).unwrap();
    assert!(log.contains(KILLED), "{log}");
}

#[test]
fn the_file_of_two_dead_processes_fails_until_it_is_detached() {
    for (detach, named) in [
        (&["detach", "--all"][..], "ram\n"),
        (&["detach", "ram", "--force"], ""),
    ] {
        let Some(home) = attached() else { return };
        kill(&home, &["agent_pid", "worker_pid"]);
        fails(&home, UNSEEN);
        let said = home.run(detach);
        assert_eq!((said.code, &*said.stdout), (1, named), "{said:?}");
        assert!(
            said.stderr.contains(&format!("ram: {UNSEEN}; ")),
            "{said:?}"
        );
        gone(&home);
    }
}

#[test]
fn the_next_attach_to_the_path_takes_it_over() {
    let Some(home) = attached() else { return };
    for whose in [&["worker_pid"][..], &["agent_pid", "worker_pid"]] {
        let agent = home.pid("ram", "agent_pid");
        kill(&home, whose);
        until("its agent has ended", || !runs(agent));
        attach(&home);
        assert_eq!(home.field("ram", "state"), "attached");
        assert_eq!(home.field("ram", "cause"), serde_json::Value::Null);
        assert_eq!(dd(&home, "conv=notrunc").code, 0);
    }
    assert_eq!(home.run(["detach", "ram"]).code, 0);
    assert_eq!(home.attachments(), [""; 0]);
}

#[test]
fn a_file_that_lay_at_the_path_is_there_again() {
    let Some(home) = attached() else { return };
    assert_eq!(home.run(["detach", "ram"]).code, 0);
    fs::write(home.path("disk"), "").unwrap();
    attach(&home);
    kill(&home, &["agent_pid", "worker_pid"]);
    fails(&home, UNSEEN);
    assert_eq!(home.run(["detach", "ram"]).code, 1);
    assert!(!mounted(&home.path("disk")));
    assert_eq!(fs::read(home.path("disk")).unwrap(), b"");
}

/// No attachment is told of for longer than something is left of it.
#[test]
fn a_file_that_was_unmounted_is_told_of_no_more() {
    let Some(home) = attached() else { return };
    let agent = home.pid("ram", "agent_pid");
    kill(&home, &["worker_pid"]);
    until("its agent has ended", || !runs(agent));
    fails(&home, KILLED);
    let unmounted = Command::new("umount").arg(home.path("disk")).status();
    assert!(unmounted.unwrap().success());
    assert_eq!(home.run(["list"]).code, 0);
    gone(&home);
}

#[test]
fn a_foreground_disk_fails_after_its_process_has_ended() {
    let Some(home) = attached() else { return };
    assert_eq!(home.run(["detach", "ram"]).code, 0);
    let args = ["attach", "memory", "./disk", "size=1M", "--name", "ram"];
    let mut foreground = home
        .command(args)
        .arg("-f")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    first_line(&mut foreground);
    kill(&home, &["worker_pid"]);
    assert_eq!(end(&mut foreground).code(), Some(1));
    fails(&home, KILLED);
    assert_eq!(home.run(["detach", "ram"]).code, 1);
    gone(&home);
}

/// The command sees errors as long as it runs; nobody else knows of the disk.
#[test]
fn the_disk_of_run_fails_until_the_command_has_ended() {
    let Some(home) = attached() else { return };
    assert_eq!(home.run(["detach", "ram"]).code, 0);
    let command = "echo started; read line; ! dd if=/dev/zero of=$device count=1 2> /dev/null";
    let args = ["attach", "memory", "./disk", "size=1M", "--name", "ram"];
    let mut running = home
        .command(args)
        .args(["--run", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut running), "started");
    kill(&home, &["worker_pid"]);
    until("it is told", || home.field("ram", "cause") == KILLED);
    fails(&home, KILLED);
    drop(running.stdin.take());
    assert_eq!(end(&mut running).code(), Some(1));
    gone(&home);
}

/// Whoever wants it to go while the command of `--run` still has it need not wait for that.
#[test]
fn the_crashed_disk_of_run_can_be_detached() {
    let Some(home) = attached() else { return };
    assert_eq!(home.run(["detach", "ram"]).code, 0);
    let args = ["attach", "memory", "./disk", "size=1M", "--name", "ram"];
    let mut running = home
        .command(args)
        .args(["--run", "echo started; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut running), "started");
    kill(&home, &["worker_pid"]);
    until("it is told", || home.field("ram", "cause") == KILLED);
    home.run(["detach", "ram"]).refused(KILLED);
    gone(&home);
    drop(running.stdin.take());
    end(&mut running);
}
