//! A server that nbdkit's command line started, badly treated: killed, without rights, with things in
//! its way, with plugins that hang. It ends within a bound, and nothing is left behind.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::client::{Client, available};
use support::home::{self, Said, end, runs, signal, until};
use support::nbdkit::{self, Nbdkit, pid_in, unix_uri};
use support::say;

#[test]
fn kill_of_the_process_in_the_pidfile_ends_the_server_with_close_and_cleanup() {
    if !available() {
        return;
    }
    let nbdkit = Nbdkit::ours();
    let said = nbdkit.serve(&["-U", "socket", "-P", "pid"]);
    assert_eq!(said.code, 0, "{said:?}");
    let socket = nbdkit.home.path("socket");
    let mut client = Client::connected(&unix_uri(&socket));
    client.read();
    let agent = nbdkit.home.pid("disk", "agent_pid");
    assert_eq!(pid_in(&nbdkit.home.path("pid")), agent);
    let worker = nbdkit.home.pid("disk", "worker_pid");
    signal(agent, Signal::KILL);
    until("both have ended", || !runs(agent) && !runs(worker));
    assert_eq!(nbdkit.calls(), ["open False ''", "close", "cleanup"]);
    // Whoever looks next removes what a killed agent could not.
    assert_eq!(nbdkit.home.run(["list"]).code, 0);
    assert_eq!(nbdkit.home.attachments(), [""; 0]);
    assert!(!socket.exists());
    // The place is free.
    let again = nbdkit.serve(&["-U", "socket", "--run", "exit 3"]);
    assert_eq!(again.code, 3, "{again:?}");
}

#[test]
fn a_plugin_that_hangs_is_ended_by_a_second_signal() {
    if !available() {
        return;
    }
    let nbdkit = Nbdkit::ours();
    let hanging = nbdkit::PLUGIN.replace(
        "def pread(h, buf, offset, flags):",
        "def pread(h, buf, offset, flags):\n    log('hangs')\n    import time; time.sleep(3600)\n   ",
    );
    let path = nbdkit.home.script("hanging.py", &hanging);
    let mut child = nbdkit.start(&["-U", "socket", "python", path.to_str().unwrap()]);
    let mut client = Client::connected(&unix_uri(&nbdkit.home.path("socket")));
    client.start("h.pread(512, 0)");
    until("it hangs", || nbdkit.calls().contains(&"hangs".to_owned()));
    let worker = nbdkit.home.pid("hanging", "worker_pid");
    let pid = child.id().cast_signed();
    signal(pid, Signal::TERM);
    until("it is noticed", || {
        nbdkit.home.field("hanging", "state") != "attached"
    });
    signal(pid, Signal::INT);
    assert_eq!(end(&mut child).code(), Some(1));
    assert!(!runs(worker));
    assert!(client.finish().starts_with("error: "));
    assert_eq!(nbdkit.home.attachments(), [""; 0]);
}

#[test]
fn a_plugin_that_fails_late_is_a_message_and_leaves_no_pidfile_and_no_socket() {
    let nbdkit = Nbdkit::ours();
    for (callback, what) in [
        (
            "def config_complete(): raise ValueError('no good')",
            "no good",
        ),
        (
            "def get_ready(): raise ValueError('not ready')",
            "not ready",
        ),
        ("def after_fork(): raise ValueError('too late')", "too late"),
        ("def after_fork(): os._exit(5)", "exited with status 5"),
        (
            "def after_fork(): os.kill(os.getpid(), 9)",
            "was killed by SIGKILL",
        ),
    ] {
        let path = nbdkit
            .home
            .script("late.py", &format!("{}\n{callback}\n", nbdkit::PLUGIN));
        for options in [&[][..], &["-f"], &["--run", "exit 3"]] {
            let words = [
                &[
                    "-U",
                    "socket",
                    "-P",
                    "pid",
                    "python",
                    path.to_str().unwrap(),
                ],
                options,
            ];
            let said = nbdkit.run(words.concat());
            assert_eq!(
                (said.code, said.stdout.as_str()),
                (1, ""),
                "{callback}: {said:?}"
            );
            assert!(said.stderr.contains(what), "{callback}: {said:?}");
            assert!(!nbdkit.home.path("pid").exists(), "{callback}");
            assert!(!nbdkit.home.path("socket").exists(), "{callback}");
            assert_eq!(nbdkit.home.attachments(), [""; 0], "{callback}");
        }
    }
}

#[test]
fn files_that_cannot_be_written_are_refused_and_nothing_is_served() {
    let nbdkit = Nbdkit::ours();
    for (options, what) in [
        (&["-P", "no/such/folder/pid"][..], "pidfile `"),
        (&["-P", "."], "pidfile `"),
        (&["--log=/no/such/folder/log"], "log `/no/such/folder/log`"),
        (&["-U", "no/such/folder/socket"], "no/such/folder"),
    ] {
        for background in [true, false] {
            let mut words = vec!["-U", "socket"];
            words.extend(options);
            if !background {
                words.extend(["--run", "exit 3"]);
            }
            let said = nbdkit.serve(&words);
            assert_eq!(
                (said.code, said.stdout.as_str()),
                (1, ""),
                "{words:?}: {said:?}"
            );
            assert!(said.stderr.contains(what), "{words:?}: {said:?}");
            assert!(!nbdkit.home.path("socket").exists(), "{words:?}");
            assert_eq!(nbdkit.home.attachments(), [""; 0]);
        }
    }
}

#[test]
fn a_command_that_does_not_end_is_ended_with_the_server() {
    let nbdkit = Nbdkit::ours();
    let mut child = nbdkit
        .command([
            "-U",
            "socket",
            "python",
            &nbdkit.plugin,
            "--run",
            "echo started; exec sleep 3600",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(home::first_line(&mut child), "started");
    signal(child.id().cast_signed(), Signal::TERM);
    assert_eq!(end(&mut child).code(), Some(143));
    assert_eq!(nbdkit.calls(), ["cleanup"]);
    assert!(!nbdkit.home.path("socket").exists());
}

#[test]
fn standard_input_that_is_no_connection_is_refused() {
    let nbdkit = Nbdkit::ours();
    let mut folder = nbdkit.command(["-s", "python", &nbdkit.plugin]);
    folder.stdin(std::fs::File::open("/").unwrap());
    let said = Said::of(&folder.output().unwrap());
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
    let what = "one socket, or two pipes or files";
    assert!(said.stderr.contains(what), "{said:?}");
    let script = nbdkit.run(["-s", "python", "/dev/stdin"]);
    assert_eq!(script.code, 1, "{script:?}");
    assert!(script.stderr.contains("the script cannot be"), "{script:?}");
}

#[test]
fn somebody_without_rights_or_a_runtime_folder_is_served_as_well() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: needs root, to be somebody else");
        return;
    }
    let nbdkit = Nbdkit::ours();
    // Copies, for the build may lie where nobody else may look.
    let program = nbdkit.home.path("bin");
    std::fs::create_dir(&program).unwrap();
    let program = program.join("nbdkit");
    std::fs::copy(support::program(), &program).unwrap();
    Command::new("chmod")
        .args(["-R", "a+rwX"])
        .arg(nbdkit.home.path(""))
        .status()
        .unwrap();
    let home = nbdkit.home.path("");
    let run = |runtime: &str, words: &[&str]| {
        let output = Command::new(&program)
            .args(words)
            .env("XDG_RUNTIME_DIR", runtime)
            .env_remove("PYDISK_STATE_DIR")
            .env_remove("VIRTUAL_ENV")
            .env_remove("PYTHONUNBUFFERED")
            .current_dir(&home)
            .stdin(Stdio::null())
            .uid(54323)
            .gid(54323)
            .output()
            .unwrap();
        Said::of(&output)
    };
    let python = Command::new("python3")
        .args(["-c", "pass"])
        .uid(54323)
        .gid(54323)
        .status()
        .is_ok_and(|status| status.success());
    if !python {
        say("skipped: another user may not run this Python");
        return;
    }
    // Without one, and with that of somebody else, as su leaves it.
    for runtime in ["", "/root"] {
        let command = "echo $unixsocket; exit 3";
        let said = run(
            runtime,
            &["-U", "-", "python", &nbdkit.plugin, "--run", command],
        );
        let socket = "/tmp/pydisk-54323/disk/nbd.sock\n";
        assert_eq!((said.code, said.stdout.as_str()), (3, socket), "{said:?}");
    }
    let low = run(
        "",
        &[
            "-p",
            "81",
            "-i",
            "127.0.0.1",
            "python",
            &nbdkit.plugin,
            "-u",
            "0",
            "--run",
            "true",
        ],
    );
    assert_eq!(low.code, 1, "{low:?}");
    std::fs::remove_dir_all("/tmp/pydisk-54323").unwrap();
    // Somebody else's folder, or a link, is not taken.
    std::os::unix::fs::symlink("/tmp", "/tmp/pydisk-54323").unwrap();
    let link = run(
        "",
        &["-U", "-", "python", &nbdkit.plugin, "--run", "exit 3"],
    );
    std::fs::remove_file("/tmp/pydisk-54323").unwrap();
    assert_eq!(link.code, 1, "{link:?}");
    assert!(link.stderr.contains("it must belong to you"), "{link:?}");
}

#[test]
fn a_plugin_that_hangs_before_it_serves_is_ended_by_a_signal() {
    let nbdkit = Nbdkit::ours();
    for text in [
        format!(
            "{}\ndef after_fork(): log('hangs'); import time; time.sleep(3600)\n",
            nbdkit::PLUGIN
        ),
        format!(
            "{}\nlog('hangs'); import time; time.sleep(3600)\n",
            nbdkit::PLUGIN
        ),
    ] {
        nbdkit.forget_calls();
        let path = nbdkit.home.script("hanging.py", &text);
        let mut child = nbdkit
            .command(["-f", "-U", "socket", "-P", "pid", "python"])
            .arg(path)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("it hangs", || nbdkit.calls() == ["hangs"]);
        signal(child.id().cast_signed(), Signal::TERM);
        assert_eq!(end(&mut child).code(), Some(1));
        assert_eq!(nbdkit.home.attachments(), [""; 0]);
        assert!(!nbdkit.home.path("socket").exists());
        assert!(!nbdkit.home.path("pid").exists());
    }
}

#[test]
fn a_socket_is_removed_that_its_user_may_not_remove() {
    if !available() || !rustix::process::geteuid().is_root() {
        say("skipped: -u takes root");
        return;
    }
    let nbdkit = Nbdkit::ours();
    Command::new("chmod")
        .args(["a+rx"])
        .arg(nbdkit.home.path(""))
        .status()
        .unwrap();
    for socket in ["socket", "-"] {
        let size = "nbdinfo --size \"$uri\" && echo $unixsocket";
        // What the plugin logs it may not write.
        let text = nbdkit::PLUGIN.replace(
            "def log(*what):",
            "def log(*what): return\ndef unused(*what):",
        );
        let path = nbdkit.home.script("silent.py", &text);
        let said = nbdkit.run([
            "-u",
            "12345",
            "-g",
            "12345",
            "-U",
            socket,
            "python",
            path.to_str().unwrap(),
            "--run",
            size,
        ]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
        let (size, socket) = said.stdout.trim().split_once('\n').unwrap();
        assert_eq!(size, "1048576");
        assert!(!std::path::Path::new(socket).exists(), "{socket}");
        assert_eq!(nbdkit.home.attachments(), [""; 0]);
    }
}

#[test]
fn memory_that_may_not_be_locked_is_a_message() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: needs root, to have less than that");
        return;
    }
    let nbdkit = Nbdkit::ours();
    let program = nbdkit.program().to_str().unwrap();
    let line = format!(
        "ulimit -l 64; exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock -- \
         {program} --swap -U - python {} --run 'exit 3'",
        nbdkit.plugin
    );
    let output = Command::new("bash")
        .args(["-c", &line])
        .env("PYDISK_STATE_DIR", nbdkit.home.path("state"))
        .env_remove("VIRTUAL_ENV")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = Said::of(&output);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr.contains("--swap: memory cannot be locked"),
        "{said:?}"
    );
    assert_eq!(nbdkit.home.attachments(), [""; 0]);
}

#[test]
fn messages_stay_out_of_a_connection_that_is_standard_error_too() {
    if !available() {
        return;
    }
    // As inetd starts it. The plugin fails, and that is said somewhere.
    let nbdkit = Nbdkit::ours();
    let text = nbdkit::PLUGIN.replace(
        "def pread(h, buf, offset, flags):",
        "import sys\nprint('hello', file=sys.stderr)\ndef pread(h, buf, offset, flags):\n    raise OSError('told')\n   ",
    );
    let path = nbdkit.home.script("failing.py", &text);
    let script = "
import nbd, os, socket, subprocess, sys
ours, theirs = socket.socketpair()
server = subprocess.Popen(sys.argv[1:], stdin=theirs, stdout=theirs, stderr=theirs)
theirs.close()
h = nbd.NBD()
h.connect_socket(os.dup(ours.fileno()))
for _ in range(3):
    try: h.pread(512, 0)
    except nbd.Error as error: print(error.errno)
print(h.get_size())
h.shutdown()
ours.close()
print(server.wait())
";
    let command = nbdkit.command([""; 0]);
    let output = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .fold(
            &mut Command::new("/usr/bin/python3"),
            |command, (name, value)| command.env(name, value),
        )
        .args(["-c", script])
        .arg(nbdkit.program())
        .args(["-s", "python"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = Said::of(&output);
    assert_eq!(said.stdout, "EIO\nEIO\nEIO\n1048576\n0\n", "{said:?}");
}

#[test]
fn a_plugin_that_hangs_does_not_outlive_a_kill_for_ever() {
    if !available() {
        return;
    }
    let nbdkit = Nbdkit::ours();
    let hanging = format!(
        "{}\ndef close(h): import time; time.sleep(3600)\n",
        nbdkit::PLUGIN
    );
    let path = nbdkit.home.script("hanging.py", &hanging);
    let mut child = nbdkit.start(&["-U", "socket", "python", path.to_str().unwrap()]);
    let socket = nbdkit.home.path("socket");
    let mut client = Client::connected(&unix_uri(&socket));
    client.read();
    let worker = nbdkit.home.pid("hanging", "worker_pid");
    child.kill().unwrap();
    child.wait().unwrap();
    // The place is free at once, whatever the plugin does.
    until("it listens no more", || {
        std::os::unix::net::UnixStream::connect(&socket).is_err()
    });
    assert!(runs(worker));
    home::until_within(std::time::Duration::from_secs(120), "it has ended", || {
        !runs(worker)
    });
}
