//! Whole attachments: the processes of a disk, how they start, end, and what they leave behind.
//!
//! On FUSE files, which most hosts have; other tests try the other front ends.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use support::home::{Home, Said, end, first_line, mounted, runs, signal, until};

/// A disk in memory that notes its end in a file beside it, and can be made to hang.
const RAM: &str = r#"
import io, os, time
import nbdkit

API_VERSION = 2
settings = {"size": "1M"}
place = os.path.dirname(os.path.abspath(__file__))

def note(word):
    with io.open(os.path.join(place, "notes"), "a") as notes:
        notes.write(word + "\n")

def hang(where):
    if settings.get("hang") == where:
        note("hangs in " + where)
        time.sleep(3600)

def config(key, value):
    if key not in ("size", "password", "hang"):
        raise ValueError("unknown key " + key)
    settings[key] = value

def open(readonly):
    global data
    data = bytearray(nbdkit.parse_size(settings["size"]))
    return 1

def get_size(h): return len(data)

def pread(h, buf, offset, flags):
    buf[:] = data[offset:offset + len(buf)]

def pwrite(h, buf, offset, flags):
    hang("pwrite")
    data[offset:offset + len(buf)] = buf

def flush(h, flags):
    hang("flush")
    note("flushed")

def close(h):
    hang("close")
    note("closed")

def cleanup(): note("cleaned up")
"#;

/// Whether disks can appear as files here; says so if not.
fn files_can_be_served() -> bool {
    if Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root() {
        return true;
    }
    support::say("skipped: FUSE files need /dev/fuse and, in these tests, root");
    false
}

/// A home with the plugin `ram.py` and nothing attached.
fn ram() -> Option<(Home, String)> {
    if !files_can_be_served() {
        return None;
    }
    let home = Home::new();
    let plugin = home.script("ram.py", RAM).display().to_string();
    Some((home, plugin))
}

/// A ublk device that is not there yet, if this host can make one; says so if not.
fn free_ublk() -> Option<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if !Path::new("/dev/ublk-control").exists() {
        support::say("skipped: ublk: no /dev/ublk-control");
        return None;
    }
    let number = 7000 + std::process::id() % 1000 + NEXT.fetch_add(1000, Ordering::Relaxed);
    Some(format!("/dev/ublkb{number}"))
}

fn notes(home: &Home) -> Vec<String> {
    let text = fs::read_to_string(home.path("notes")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A process that this one has started. Not every kernel lists them (`CONFIG_PROC_CHILDREN`).
fn child_of(parent: i32) -> Option<i32> {
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent_of_it = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
        (parent_of_it == parent.to_string()).then_some(pid)
    })
}

/// Nothing is left of any attachment of this home, and what was mounted is a path again.
#[track_caller]
fn nothing_is_left(home: &Home, disk: &str) {
    until("the folder is gone", || home.attachments().is_empty());
    assert!(!mounted(&home.path(disk)), "still mounted");
    assert!(!home.path(disk).exists(), "the file is left behind");
}

#[test]
fn a_disk_is_attached_used_shown_and_detached() {
    let Some((home, plugin)) = ram() else { return };
    let said = home.run([
        "attach",
        &plugin,
        "./disk",
        "size=3M",
        "password=verysecret",
    ]);
    let disk = home.path("disk");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.stdout, format!("{}\n", disk.display()));
    assert_eq!(said.stderr, "");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&disk)
        .unwrap();
    file.write_all_at(b"kept", 4096).unwrap();
    let mut found = [0; 4];
    file.read_exact_at(&mut found, 4096).unwrap();
    assert_eq!(&found, b"kept");
    drop(file);

    let list = home.run(["list"]).stdout;
    let row: Vec<_> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        row,
        [
            "ram",
            disk.to_str().unwrap(),
            "3M",
            "ram.py",
            "fuse",
            "attached"
        ]
    );
    assert_eq!(home.field("ram", "size"), 3 << 20);
    assert_eq!(home.field("ram", "plugin"), plugin);
    for args in [
        &["show", "ram"][..],
        &["show", "ram", "--json"],
        &["show", "./disk"],
    ] {
        let shown = home.run(args).stdout;
        assert!(
            shown.contains("***") && !shown.contains("verysecret"),
            "{shown}"
        );
    }
    let state = fs::read_to_string(home.state("ram").join("state.json")).unwrap();
    assert!(!state.contains("verysecret"), "{state}");
    for process in ["agent_pid", "worker_pid"] {
        let pid = home.pid("ram", process);
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(
                !String::from_utf8_lossy(&text).contains("verysecret"),
                "{file}"
            );
        }
    }

    let (agent, worker) = (home.pid("ram", "agent_pid"), home.pid("ram", "worker_pid"));
    let said = home.run(["detach", disk.to_str().unwrap()]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    nothing_is_left(&home, "disk");
    until("its processes have ended", || !runs(agent) && !runs(worker));
    let notes = notes(&home);
    assert_eq!(
        notes[notes.len() - 3..],
        ["flushed", "closed", "cleaned up"]
    );
}

#[test]
fn what_is_in_the_state_folder_is_private() {
    let Some((home, plugin)) = ram() else { return };
    assert_eq!(home.run(["attach", &plugin, "./disk"]).code, 0);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&home.state("ram")), 0o700);
    assert_eq!(mode(&home.state("ram").join("control")), 0o600);
    assert_eq!(mode(&home.state("ram").join("log")), 0o600);
}

#[test]
fn neither_process_keeps_what_the_caller_had_open() {
    let Some((home, plugin)) = ram() else { return };
    // A pipe that the disk's processes inherited would never come to its end.
    let script = format!(
        "{} attach {plugin} ./disk 9>&1 2>&1 | cat; echo ended",
        support::program()
    );
    let output = home.command(["list"]).output().unwrap();
    assert!(output.status.success());
    let output = std::process::Command::new("timeout")
        .args(["60", "sh", "-c", &script])
        .env("PYDISK_STATE_DIR", home.path("state"))
        .current_dir(home.path(""))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.ends_with("disk\nended\n"), "{text}");
}

#[test]
fn a_name_is_taken_once_and_otherwise_numbered() {
    let Some((home, plugin)) = ram() else { return };
    for disk in ["./one", "./two"] {
        assert_eq!(home.run(["attach", &plugin, disk]).code, 0);
    }
    assert_eq!(home.attachments(), ["ram", "ram-2"]);
    let said = home.run(["attach", &plugin, "./three", "--name", "ram-2"]);
    said.refused("name `ram-2`: there is such an attachment already");
    assert!(!home.path("three").exists());
    let write = |disk: &str, byte: u8| {
        let file = OpenOptions::new()
            .write(true)
            .open(home.path(disk))
            .unwrap();
        file.write_all_at(&[byte; 512], 0).unwrap();
    };
    write("one", 1);
    write("two", 2);
    assert_eq!(fs::read(home.path("one")).unwrap()[..512], [1; 512]);
    assert_eq!(fs::read(home.path("two")).unwrap()[..512], [2; 512]);
    assert_eq!(home.run(["detach", "--all"]).code, 0);
    nothing_is_left(&home, "one");
    nothing_is_left(&home, "two");
}

/// They take each other's names as soon as those are free, while the folder of the last one that had
/// the name is being removed, and while others look for folders that nobody looks after.
#[test]
fn attachments_that_come_and_go_at_once_leave_each_other_alone() {
    let Some((home, plugin)) = ram() else { return };
    fs::write(home.path("taken"), "data").unwrap();
    // Where everything takes ten times as long, once is enough.
    let (rounds, refusals) = if std::env::var_os("PYDISK_TEST_SCALE").is_some() {
        (1, 1)
    } else {
        (6, 3)
    };
    let come_and_go = |number: usize| {
        for _ in 0..rounds {
            for _ in 0..refusals {
                home.run(["attach", &plugin, "taken"])
                    .refused("there is a file of 4 bytes");
            }
            let target = home.path(&format!("disk{number}"));
            let said = home.run(["attach".as_ref(), plugin.as_ref(), target.as_os_str()]);
            assert_eq!(said.code, 0, "{said:?}");
            assert_eq!(fs::metadata(&target).unwrap().len(), 1 << 20);
            let said = home.run(["detach".as_ref(), target.as_os_str()]);
            assert_eq!(said.code, 0, "{said:?}");
            assert!(!target.exists());
        }
    };
    std::thread::scope(|scope| {
        for number in 0..6 {
            let come_and_go = &come_and_go;
            scope.spawn(move || come_and_go(number));
        }
    });
    assert_eq!(fs::read(home.path("taken")).unwrap(), b"data");
    assert_eq!(home.attachments(), Vec::<String>::new());
}

#[test]
fn detach_names_who_uses_the_disk_and_force_does_not_ask() {
    let Some((home, plugin)) = ram() else { return };
    assert_eq!(home.run(["attach", &plugin, "./disk"]).code, 0);
    let user = fs::File::open(home.path("disk")).unwrap();
    let said = home.run(["detach", "ram"]);
    said.refused(&format!("(pid {})", std::process::id()));
    assert!(said.stderr.contains("--force ram"), "{said:?}");
    assert_eq!(home.run(["detach", "--all"]).code, 1);
    assert_eq!(home.field("ram", "state"), "attached");
    assert_eq!(home.run(["detach", "ram", "--force"]).code, 0);
    nothing_is_left(&home, "disk");
    drop(user);
}

#[test]
fn a_signal_ends_a_foreground_disk_in_order() {
    for word in [Signal::TERM, Signal::INT, Signal::HUP] {
        let Some((home, plugin)) = ram() else { return };
        let mut child = home.start(["attach", &plugin, "./disk", "--foreground"]);
        assert_eq!(
            first_line(&mut child),
            home.path("disk").display().to_string()
        );
        fs::write(home.path("disk"), [1; 512]).unwrap();
        signal(i32::try_from(child.id()).unwrap(), word);
        assert_eq!(end(&mut child).code(), Some(0), "{word:?}");
        nothing_is_left(&home, "disk");
        assert_eq!(notes(&home).last().unwrap(), "cleaned up");
    }
}

#[test]
fn a_signal_to_the_agent_or_the_worker_ends_a_disk_in_order() {
    for process in ["agent_pid", "worker_pid"] {
        let Some((home, plugin)) = ram() else { return };
        assert_eq!(home.run(["attach", &plugin, "./disk"]).code, 0);
        signal(home.pid("ram", process), Signal::TERM);
        nothing_is_left(&home, "disk");
        assert_eq!(notes(&home).last().unwrap(), "cleaned up", "{process}");
    }
}

#[test]
fn an_interrupt_of_the_worker_is_for_the_agent_to_decide() {
    let Some((home, plugin)) = ram() else { return };
    assert_eq!(home.run(["attach", &plugin, "./disk"]).code, 0);
    for word in [Signal::INT, Signal::HUP] {
        signal(home.pid("ram", "worker_pid"), word);
    }
    assert_eq!(fs::read(home.path("disk")).unwrap().len(), 1 << 20);
    assert_eq!(home.run(["detach", "ram"]).code, 0);
}

#[test]
fn a_hung_plugin_does_not_keep_a_signalled_agent() {
    let Some((home, plugin)) = ram() else { return };
    for hang in ["pwrite", "flush"] {
        let said = home.run(["attach", &plugin, "./disk", &format!("hang={hang}")]);
        assert_eq!(said.code, 0, "{said:?}");
        let agent = home.pid("ram", "agent_pid");
        let worker = home.pid("ram", "worker_pid");
        let disk = home.path("disk");
        let user = std::thread::spawn(move || {
            let file = OpenOptions::new().write(true).open(disk).unwrap();
            file.write_all_at(&[1; 512], 0)
                .and_then(|()| file.sync_all())
        });
        until("the plugin hangs", || {
            notes(&home).contains(&format!("hangs in {hang}"))
        });
        signal(agent, Signal::TERM);
        until("the agent has ended", || !runs(agent));
        assert!(!runs(worker));
        assert!(
            user.join().unwrap().is_err(),
            "a request that hung was answered with success"
        );
        nothing_is_left(&home, "disk");
        home.run(["show", "ram"])
            .refused("it ended badly; its log is ");
    }
}

#[test]
fn a_hung_plugin_on_ublk_does_not_keep_a_signalled_agent() {
    let Some((home, plugin)) = ram() else { return };
    let Some(device) = free_ublk() else { return };
    let said = home.run(["attach", &plugin, &device, "hang=pwrite"]);
    assert_eq!(said.code, 0, "{said:?}");
    let (agent, worker) = (home.pid("ram", "agent_pid"), home.pid("ram", "worker_pid"));
    let disk = device.clone();
    let user = std::thread::spawn(move || {
        let file = OpenOptions::new().write(true).open(disk).unwrap();
        file.write_all_at(&[1; 4096], 0)
            .and_then(|()| file.sync_all())
    });
    until("the plugin hangs", || {
        notes(&home).contains(&"hangs in pwrite".to_owned())
    });
    signal(agent, Signal::TERM);
    until("both have ended", || !runs(agent) && !runs(worker));
    assert!(
        user.join().unwrap().is_err(),
        "a request that hung was answered with success"
    );
    until("the device is gone", || !Path::new(&device).exists());
    until("the folder is gone", || home.attachments().is_empty());
}

#[test]
fn force_ends_a_hung_plugin() {
    let Some((home, plugin)) = ram() else { return };
    assert_eq!(
        home.run(["attach", &plugin, "./disk", "hang=flush"]).code,
        0
    );
    let said = home.run(["detach", "ram", "--force"]);
    said.refused("what it had not stored is lost");
    nothing_is_left(&home, "disk");
}

#[test]
fn a_hung_plugin_that_nobody_could_write_to_loses_nothing() {
    let Some((home, plugin)) = ram() else { return };
    let said = home.run(["attach", &plugin, "./disk", "--read-only", "hang=close"]);
    assert_eq!(said.code, 0, "{said:?}");
    let said = home.run(["detach", "ram", "--force"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("was killed"), "{said:?}");
    nothing_is_left(&home, "disk");
}

#[test]
fn a_hung_plugin_without_an_agent_is_ended_and_that_is_said() {
    let Some((home, plugin)) = ram() else { return };
    let said = home.run(["attach", &plugin, "./disk", "hang=close"]);
    assert_eq!(said.code, 0, "{said:?}");
    let agent = home.pid("ram", "agent_pid");
    signal(agent, Signal::KILL);
    until("the agent has ended", || !runs(agent));
    let said = home.run(["detach", "ram", "--force"]);
    said.refused("what it had not stored is lost");
    nothing_is_left(&home, "disk");
}

/// Each waits in `close` for the other.
#[test]
fn independent_disks_are_detached_at_the_same_time() {
    let Some((home, _)) = ram() else { return };
    let text = RAM.replace(
        "    hang(\"close\")\n",
        "    note(\"closing\")\n    \
         while io.open(os.path.join(place, \"notes\")).read().count(\"closing\") < 2: time.sleep(0.05)\n",
    );
    let plugin = home.script("ram.py", &text).display().to_string();
    for name in ["one", "other"] {
        let target = format!("./disk-{name}");
        let said = home.run(["attach", &plugin, &target, "--name", name]);
        assert_eq!(said.code, 0, "{said:?}");
    }
    let said = home.run(["detach", "--all"]);
    let mut names: Vec<_> = said.stdout.lines().collect();
    names.sort_unstable();
    assert_eq!((said.code, names), (0, vec!["one", "other"]), "{said:?}");
    nothing_is_left(&home, "disk-one");
}

#[test]
fn a_detach_that_takes_long_says_what_it_waits_for() {
    let Some((home, plugin)) = ram() else { return };
    assert_eq!(
        home.run(["attach", &plugin, "./disk", "hang=flush"]).code,
        0
    );
    let mut waiting = home.start(["detach", "ram"]);
    let mut line = String::new();
    let words = waiting.stderr.take().unwrap();
    BufReader::new(words).read_line(&mut line).unwrap();
    assert!(line.contains("`pydisk detach --force ram`"), "{line}");
    assert_eq!(home.field("ram", "state"), "stopping");
    home.run(["detach", "ram", "--force"])
        .refused("what it had not stored is lost");
    end(&mut waiting);
    nothing_is_left(&home, "disk");
}

#[test]
fn run_has_the_disk_and_gives_its_status() {
    let Some((home, plugin)) = ram() else { return };
    for (command, status) in [
        (
            "test -f \"$device\" && test \"$name\" = ram && echo of the command",
            0,
        ),
        ("exit 7", 7),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ] {
        let said = home.run(["attach", &plugin, "./disk", "--run", command]);
        assert_eq!(said.code, status, "{command}: {said:?}");
        let printed = if status == 0 { "of the command\n" } else { "" };
        assert_eq!(said.stdout, printed, "{command}");
        nothing_is_left(&home, "disk");
    }
}

#[test]
fn run_reads_the_users_standard_input_where_the_user_is() {
    let Some((home, plugin)) = ram() else { return };
    home.script("input", "words\n");
    let said = home
        .command(["attach", &plugin, "./disk", "--run", "cat; basename $PWD"])
        .stdin(fs::File::open(home.path("input")).unwrap())
        .output()
        .unwrap();
    let place = home.path("").canonicalize().unwrap();
    let place = place.file_name().unwrap().to_str().unwrap();
    assert_eq!(Said::of(&said).stdout, format!("words\n{place}\n"));
}

#[test]
fn a_signal_to_run_ends_all_that_the_command_has_started() {
    let Some((home, plugin)) = ram() else { return };
    // A reader behind two shells that both wait for it.
    let command = "sh -c 'sleep 3600 < $device; true' & echo $!; wait; true";
    let mut running = home.start(["attach", &plugin, "./disk", "--run", command]);
    let inner: i32 = first_line(&mut running).parse().unwrap();
    until("the reader runs", || child_of(inner).is_some());
    let reader = child_of(inner).unwrap();
    signal(running.id().cast_signed(), Signal::TERM);
    assert_eq!(end(&mut running).code(), Some(128 + 15));
    for pid in [inner, reader] {
        until("it is told to end", || !runs(pid));
    }
    nothing_is_left(&home, "disk");
}

#[test]
fn run_lets_go_of_a_disk_that_is_still_in_use() {
    let Some((home, plugin)) = ram() else { return };
    // Opened before the shell ends, so that somebody has it by then, whatever its name is yet.
    let command = "exec 3< $device; sleep 600 > /dev/null 2>&1 & echo $!";
    let said = home.run(["attach", &plugin, "./disk", "--run", command]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("is open in "), "{said:?}");
    nothing_is_left(&home, "disk");
    signal(said.stdout.trim().parse().unwrap(), Signal::KILL);
}

#[test]
fn a_worker_without_agent_serves_on_and_is_detached() {
    let Some((home, plugin)) = ram() else { return };
    assert_eq!(home.run(["attach", &plugin, "./disk"]).code, 0);
    let (agent, worker) = (home.pid("ram", "agent_pid"), home.pid("ram", "worker_pid"));
    signal(agent, Signal::KILL);
    until("the agent has ended", || !runs(agent));
    assert_eq!(home.field("ram", "state"), "agent lost");
    fs::write(home.path("disk"), [7; 512]).unwrap();
    assert_eq!(fs::read(home.path("disk")).unwrap()[..512], [7; 512]);
    let user = fs::File::open(home.path("disk")).unwrap();
    home.run(["detach", "ram"])
        .refused(&format!("(pid {})", std::process::id()));
    drop(user);
    let said = home.run(["detach", "ram"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert!(!runs(worker));
    nothing_is_left(&home, "disk");
    assert_eq!(notes(&home).last().unwrap(), "cleaned up");
    let log = home.state(".failed").join("ram.log");
    assert!(!log.exists(), "nothing went wrong with the disk");
}

#[test]
fn an_agent_that_hangs_is_no_obstacle_to_force() {
    let Some((home, plugin)) = ram() else { return };
    assert_eq!(home.run(["attach", &plugin, "./disk"]).code, 0);
    let worker = home.pid("ram", "worker_pid");
    signal(home.pid("ram", "agent_pid"), Signal::STOP);
    let said = home.run(["detach", "ram", "--force"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!runs(worker));
    nothing_is_left(&home, "disk");
    assert_eq!(notes(&home).last().unwrap(), "cleaned up");
}

#[test]
fn an_attach_that_is_ended_before_the_disk_is_there_leaves_nothing() {
    let Some((home, _)) = ram() else { return };
    // A shell without job control starts what goes on beside it with SIGINT ignored, and so would be
    // what these tests start. What is handled here has its default there.
    let default = std::sync::Arc::new(true.into());
    signal_hook::flag::register_conditional_default(signal_hook::consts::SIGINT, default).unwrap();
    let plugin = home.script(
        "slow.py",
        "import os, time\n\
         open(os.path.join(os.path.dirname(__file__), 'loading'), 'w').write(str(os.getpid()))\n\
         time.sleep(3600)\n",
    );
    let plugin = plugin.to_str().unwrap();
    for word in [Signal::INT, Signal::TERM, Signal::KILL] {
        for more in [&[][..], &["--foreground"]] {
            if (word, more.len()) == (Signal::KILL, 1) {
                // This kills the agent itself, and a worker without agent is another test's.
                continue;
            }
            let loading = home.path("loading");
            drop(fs::remove_file(&loading));
            let mut args = vec!["attach", plugin, "./disk"];
            args.extend(more);
            let mut child = home.start(&args);
            let pid = || {
                fs::read_to_string(&loading)
                    .unwrap_or_default()
                    .parse::<i32>()
            };
            until("the plugin is loading", || pid().is_ok());
            let worker = pid().unwrap();
            assert_eq!(home.field("slow", "state"), "starting");
            home.run(["detach", "slow"])
                .refused("it is still being attached");
            signal(i32::try_from(child.id()).unwrap(), word);
            assert_ne!(end(&mut child).code(), Some(0));
            until("the worker has ended", || !runs(worker));
            nothing_is_left(&home, "disk");
        }
    }
}

#[test]
fn a_starting_attachment_can_be_detached_with_force() {
    let Some((home, _)) = ram() else { return };
    let plugin = home.script("slow.py", "import time\ntime.sleep(3600)\n");
    let mut child = home.start(["attach", plugin.to_str().unwrap(), "./disk"]);
    until("it is starting", || {
        home.run(["show", "slow"]).code == 0 && home.state("slow").join("control").exists()
    });
    assert_eq!(home.run(["detach", "slow", "--force"]).code, 0);
    assert_eq!(end(&mut child).code(), Some(1));
    nothing_is_left(&home, "disk");
}

#[test]
fn a_disk_that_is_unmounted_by_hand_is_detached() {
    let Some((home, plugin)) = ram() else { return };
    assert_eq!(home.run(["attach", &plugin, "./disk"]).code, 0);
    let status = std::process::Command::new("umount")
        .arg(home.path("disk"))
        .status()
        .unwrap();
    assert!(status.success());
    nothing_is_left(&home, "disk");
    assert_eq!(notes(&home).last().unwrap(), "cleaned up");
}

#[test]
fn what_a_plugin_prints_while_it_serves_goes_to_the_log() {
    let Some((home, _)) = ram() else { return };
    let plugin = home.script(
        "chatty.py",
        "API_VERSION = 2\ndef open(r): return 1\ndef get_size(h): return 4096\n\
         def pread(h, buf, offset, flags): print('in pread')\n",
    );
    let said = home.run(["attach", plugin.to_str().unwrap(), "./disk", "--verbose"]);
    assert_eq!(said.code, 0, "{said:?}");
    drop(fs::read(home.path("disk")).unwrap());
    let log = home.state("chatty").join("log");
    until("it is in the log", || {
        fs::read_to_string(&log).unwrap().contains("in pread")
    });
}

#[test]
fn an_empty_disk_is_refused() {
    let Some((home, plugin)) = ram() else { return };
    home.run(["attach", &plugin, "./disk", "size=0"])
        .refused("the disk has a size of 0 bytes");
    assert_eq!(home.run(["attach", &plugin, "./disk", "size=1"]).code, 0);
    assert_eq!(fs::read(home.path("disk")).unwrap().len(), 1);
}

#[test]
fn the_log_starts_anew_when_it_is_large() {
    let Some((home, _)) = ram() else { return };
    let plugin = home.script(
        "chatty.py",
        "API_VERSION = 2\ndef open(r): return 1\ndef get_size(h): return 4096\n\
         def pread(h, buf, offset, flags):\n    print('x' * (5 << 20))\n    raise OSError('now')\n",
    );
    let said = home.run(["attach", plugin.to_str().unwrap(), "./disk"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(fs::read(home.path("disk")).is_err());
    let log = home.state("chatty").join("log");
    until("it starts anew", || {
        fs::metadata(&log).unwrap().len() < 4 << 20
            && fs::read_to_string(&log)
                .unwrap()
                .contains("starts anew here")
    });
    until("the failure is in it", || {
        fs::read_to_string(&log).unwrap().contains("OSError: now")
    });
}

#[test]
fn what_a_plugin_prints_does_not_fill_the_place_of_the_log() {
    let Some((home, _)) = ram() else { return };
    // 256 MiB in four seconds or more.
    let plugin = home.script(
        "chatty.py",
        "import time\nAPI_VERSION = 2\ndef open(r): return 1\ndef get_size(h): return 8192\n\
         def pread(h, buf, offset, flags):\n    for _ in range(offset):\n        \
         print('x' * 65535)\n        time.sleep(0.001)\n",
    );
    let said = home.run(["attach", plugin.to_str().unwrap(), "./disk"]);
    assert_eq!(said.code, 0, "{said:?}");
    let log = home.state("chatty").join("log");
    let file = fs::File::open(home.path("disk")).unwrap();
    let reader = std::thread::spawn(move || file.read_exact_at(&mut [0; 4096], 4096));
    let mut most = 0;
    while !reader.is_finished() {
        most = most.max(fs::metadata(&log).unwrap().len());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    reader.join().unwrap().unwrap();
    assert!(most < 64 << 20, "the log had {most} bytes");
    assert!(most > 4 << 20, "nothing was printed: {most} bytes");
    assert_eq!(home.run(["detach", "chatty"]).code, 0);
}

#[test]
fn a_failed_last_flush_is_told() {
    let Some((home, _)) = ram() else { return };
    let plugin = home.script(
        "broken.py",
        "API_VERSION = 2\ndef open(r): return 1\ndef get_size(h): return 4096\n\
         def pread(h, buf, offset, flags): pass\ndef pwrite(h, buf, offset, flags): pass\n\
         def flush(h, flags): raise OSError('cable pulled')\n",
    );
    assert_eq!(
        home.run(["attach", plugin.to_str().unwrap(), "./disk"])
            .code,
        0
    );
    let said = home.run(["detach", "broken"]);
    said.refused("the last flush failed");
    assert!(said.stderr.contains("cable pulled"), "{said:?}");
    nothing_is_left(&home, "disk");
}

#[test]
fn a_target_that_cannot_be_reached_is_refused_in_one_sentence() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        support::say("skipped: needs root, to be somebody else");
        return;
    }
    let home = Home::new();
    let plugin = home.script("ram.py", RAM);
    // A copy, for the build may lie where nobody else may look.
    let program = home.path("pydisk");
    fs::copy(support::program(), &program).unwrap();
    fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(home.path("state")).unwrap();
    chown(home.path("state"), Some(65534), Some(65534)).unwrap();
    let notes = home.script("notes", "");
    chown(notes, Some(65534), Some(65534)).unwrap();
    let locked = home.path("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
    let output = std::process::Command::new(program)
        .args(["attach".as_ref(), plugin.as_os_str()])
        .arg(locked.join("disk"))
        .env("PYDISK_STATE_DIR", home.path("state"))
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let said = Said::of(&output);
    said.refused("creating the file: Permission denied");
    assert_eq!(said.stderr.matches("pydisk:").count(), 1, "{said:?}");
    assert!(home.attachments().is_empty());
}
