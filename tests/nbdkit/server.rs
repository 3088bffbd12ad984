//! A server that nbdkit's command line starts: where it listens, what it tells whoever started it, how
//! it ends. Where nbdkit is installed it gets the same words, and the same has to come of them.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use support::client::{Client, available};
use support::home::{self, Said, end, runs, signal, until};
use support::nbdkit::{self, Nbdkit, free_port, pid_in, unix_uri};
use support::say;

#[test]
fn it_goes_to_the_background_and_its_pidfile_ends_it() {
    if !available() {
        return;
    }
    for nbdkit in Nbdkit::both() {
        let (socket, pid_file) = (nbdkit.home.path("socket"), nbdkit.home.path("pid"));
        std::fs::write(&pid_file, "what was there before").unwrap();
        // Names of files are those of the folder where it is called.
        let said = nbdkit.serve(&["-U", "socket", "-P", "pid", "tell=os.getcwd()"]);
        assert_eq!(
            (said.code, said.stdout.as_str(), said.stderr.as_str()),
            (0, "", "")
        );
        if !nbdkit.ours {
            // It returns before that is written.
            until("the pidfile is written", || {
                std::fs::read_to_string(&pid_file)
                    .is_ok_and(|text| text.trim().parse::<i32>().is_ok())
            });
        }
        let pid = pid_in(&pid_file);
        let mut client = Client::connected(&unix_uri(&socket));
        assert_eq!(client.read(), "b'pydisk!.'");
        client.leave();
        until(
            &format!("{}: it is closed: {:?}", nbdkit.name(), nbdkit.calls()),
            || nbdkit.calls().contains(&"close".to_owned()),
        );
        signal(pid, Signal::TERM);
        until("it has ended", || !runs(pid));
        let expected = ["after_fork /", "open False ''", "close", "cleanup"];
        assert_eq!(nbdkit.calls(), expected, "{}", nbdkit.name());
        assert_eq!(pid_in(&pid_file), pid, "the pidfile stays");
    }
}

#[test]
fn each_signal_ends_it_with_close_and_cleanup_whatever_clients_do() {
    if !available() {
        return;
    }
    for kind in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let nbdkit = Nbdkit::ours();
        for background in [false, true] {
            nbdkit.forget_calls();
            let socket = nbdkit.home.path("socket");
            let args = ["-U", "socket", "python", &nbdkit.plugin];
            let mut child = (!background).then(|| nbdkit.start(&args));
            if background {
                let said = nbdkit.serve(&["-U", "socket", "-P", "ready"]);
                assert_eq!(said.code, 0, "{said:?}");
            }
            let mut client = Client::connected(&unix_uri(&socket));
            client.read();
            let pid = pid_in(&nbdkit.home.path("ready"));
            signal(pid, kind);
            match &mut child {
                Some(child) => assert_eq!(end(child).code(), Some(0), "{kind:?}"),
                None => until("it has ended", || !runs(pid)),
            }
            let expected = ["open False ''", "close", "cleanup"];
            assert_eq!(nbdkit.calls(), expected, "{kind:?} {background}");
            assert!(client.read().starts_with("error: "));
            until("it is gone", || nbdkit.home.attachments().is_empty());
            assert!(!socket.exists());
        }
    }
}

#[test]
fn nobody_has_to_be_connected_for_a_signal_to_end_it() {
    for nbdkit in Nbdkit::both() {
        for kind in [Signal::TERM, Signal::INT, Signal::QUIT] {
            nbdkit.forget_calls();
            std::fs::remove_file(nbdkit.home.path("socket")).unwrap_or_default();
            std::fs::remove_file(nbdkit.home.path("ready")).unwrap_or_default();
            let mut child = nbdkit.start(&["-U", "socket", "python", &nbdkit.plugin]);
            signal(child.id().cast_signed(), kind);
            assert_eq!(
                end(&mut child).code(),
                Some(0),
                "{} {kind:?}",
                nbdkit.name()
            );
            assert_eq!(nbdkit.calls(), ["cleanup"]);
        }
    }
}

#[test]
fn two_servers_of_one_script_have_names_of_their_own() {
    let nbdkit = Nbdkit::ours();
    for socket in ["one", "two"] {
        let said = nbdkit.serve(&["-U", socket]);
        assert_eq!(said.code, 0, "{said:?}");
    }
    assert_eq!(nbdkit.home.attachments(), ["disk", "disk-2"]);
    let list = nbdkit.home.run(["list"]).stdout;
    assert!(list.contains("socket=") && list.contains("/two"), "{list}");
    assert_eq!(nbdkit.home.run(["detach", "disk"]).code, 0);
    assert_eq!(nbdkit.home.attachments(), ["disk-2"]);
    until("it has ended", || nbdkit.calls() == ["cleanup"]);
}

#[test]
fn it_ends_with_whoever_started_it() {
    for nbdkit in Nbdkit::both() {
        let program = nbdkit.program().to_str().unwrap();
        let line = format!(
            "{program} --exit-with-parent -U socket -P ready python {} & \
             while ! test -s ready; do sleep 0.05; done; echo started; read forever",
            nbdkit.plugin
        );
        let mut parent = Command::new("bash")
            .args(["-c", &line])
            .env("PYDISK_STATE_DIR", nbdkit.home.path("state"))
            .env_remove("PYTHONUNBUFFERED")
            .env_remove("VIRTUAL_ENV")
            .current_dir(nbdkit.home.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(home::first_line(&mut parent), "started");
        let pid = pid_in(&nbdkit.home.path("ready"));
        assert!(runs(pid));
        parent.kill().unwrap();
        parent.wait().unwrap();
        until("it has ended", || !runs(pid));
        assert_eq!(nbdkit.calls(), ["cleanup"], "{}", nbdkit.name());
    }
}

#[test]
fn it_becomes_another_user_once_it_listens() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: -u and -g take root");
        return;
    }
    for nbdkit in Nbdkit::both() {
        // Everybody may write the log of the callbacks.
        Command::new("chmod")
            .args(["-R", "a+rwX"])
            .arg(nbdkit.home.path(""))
            .status()
            .unwrap();
        let told = "tell=os.getuid(), os.geteuid(), os.getgid(), os.getgroups()";
        for (options, ids) in [
            (
                &["-u", "12345", "-g", "54321"][..],
                "(12345, 12345, 54321, [54321])",
            ),
            (
                &["-u", "nobody", "-g", "nogroup"],
                "(65534, 65534, 65534, [65534])",
            ),
            (&["--group=54321"], "(0, 0, 54321, [54321])"),
        ] {
            nbdkit.forget_calls();
            nbdkit.home.script("calls", "");
            Command::new("chmod")
                .arg("a+w")
                .arg(nbdkit.home.path("calls"))
                .status()
                .unwrap();
            // A port that only root may take.
            let size = "nbdinfo --size \"$uri\"";
            let said = nbdkit.serve(
                &[
                    options,
                    &["-i", "127.0.0.1", "-p", "711", told, "--run", size],
                ]
                .concat(),
            );
            assert_eq!(
                (said.code, said.stdout.as_str()),
                (0, "1048576\n"),
                "{said:?}"
            );
            let call = format!("after_fork {ids}");
            assert_eq!(nbdkit.calls()[0], call, "{} {options:?}", nbdkit.name());
            if nbdkit.ours {
                assert_eq!(nbdkit.calls().last().unwrap(), "cleanup");
            }
        }
    }
}

#[test]
fn who_may_not_become_another_user_is_told() {
    let nbdkit = Nbdkit::ours();
    let program = nbdkit.program().to_str().unwrap().to_owned();
    if !rustix::process::geteuid().is_root() {
        let said = nbdkit.serve(&["-u", "0", "-U", "-", "--run", "true"]);
        assert_eq!(said.code, 1);
        return;
    }
    let setpriv = Command::new("setpriv")
        .args([
            "--bounding-set=-setuid,-setgid",
            "--inh-caps=-setuid,-setgid",
            "--",
        ])
        .args([
            &program,
            "-u",
            "12345",
            "-U",
            "-",
            "--run",
            "true",
            "python",
            &nbdkit.plugin,
        ])
        .env("PYDISK_STATE_DIR", nbdkit.home.path("state"))
        .output()
        .unwrap();
    let said = Said::of(&setpriv);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr
            .contains("-u: this process may not become user 12345"),
        "{said:?}"
    );
    assert_eq!(nbdkit.home.attachments(), [""; 0]);
}

#[test]
fn messages_go_where_they_are_to_go() {
    if !available() {
        return;
    }
    let nbdkit = Nbdkit::ours();
    let text = nbdkit::PLUGIN.replace(
        "def pread(h, buf, offset, flags):",
        "def pread(h, buf, offset, flags):\n    raise OSError('told')\n   ",
    );
    let path = nbdkit.home.script("failing.py", &text);
    let path = path.to_str().unwrap();
    let file = nbdkit.home.path("messages");
    let to_file = format!("--log={}", file.display());
    for (option, on_stderr) in [
        ("--log=stderr", true),
        ("--log=default", true),
        ("--log=null", false),
        (to_file.as_str(), false),
    ] {
        let said = nbdkit.run([
            "-U",
            "-",
            "python",
            path,
            option,
            "--run",
            "nbdcopy \"$uri\" null: 2>/dev/null; true",
        ]);
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(
            said.stderr.contains("told"),
            on_stderr,
            "{option}: {said:?}"
        );
        assert!(!said.stderr.contains("info:"), "{option}: {said:?}");
    }
    assert!(std::fs::read_to_string(&file).unwrap().contains("told"));
    // In the background they go to the attachment's log as well as to the system's.
    let said = nbdkit.run(["-U", "socket", "python", path]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let mut client = Client::connected(&unix_uri(&nbdkit.home.path("socket")));
    assert!(client.read().starts_with("error: "));
    let log = nbdkit.home.state("failing").join("log");
    until("it is logged", || {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("told")
    });
}

/// A stand-in for the system's log, on a machine that has none.
struct SystemLog(UnixDatagram);

impl SystemLog {
    const PATH: &str = "/dev/log";

    /// None where there is one already, or where none can be made.
    fn new() -> Option<Self> {
        let socket = UnixDatagram::bind(Self::PATH).ok()?;
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Some(Self(socket))
    }
}

impl Drop for SystemLog {
    fn drop(&mut self) {
        std::fs::remove_file(Self::PATH).unwrap();
    }
}

#[test]
fn the_systems_log_is_told_what_goes_wrong_in_the_background() {
    let Some(log) = SystemLog::new().filter(|_| available()) else {
        say("skipped: needs libnbd and a machine on which a test may make /dev/log");
        return;
    };
    let nbdkit = Nbdkit::ours();
    let text = nbdkit::PLUGIN.replace(
        "def pread(h, buf, offset, flags):",
        "def pread(h, buf, offset, flags):\n    raise OSError('for the log')\n   ",
    );
    let path = nbdkit.home.script("telling.py", &text);
    let said = nbdkit.run(["-U", "socket", "python", path.to_str().unwrap()]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let mut client = Client::connected(&unix_uri(&nbdkit.home.path("socket")));
    assert!(client.read().starts_with("error: "));
    let worker = nbdkit.home.pid("telling", "worker_pid");
    let expected = format!("<27>pydisk[{worker}]: telling: error: read at 0+8: ");
    let mut buffer = [0; 4096];
    // Others may have something to say as well.
    loop {
        let len = log.0.recv(&mut buffer).unwrap();
        if String::from_utf8_lossy(&buffer[..len]).starts_with(&expected) {
            break;
        }
    }
}

#[test]
fn its_uri_is_printed_on_demand() {
    let nbdkit = Nbdkit::ours();
    let printed = |uri: &str, quoted: &str| {
        format!(
            "{uri}\nShell-quoted URI: {quoted}\n\
             Command to query the NBD endpoint:\n  nbdinfo {quoted}\n"
        )
    };
    let said = nbdkit.serve(&["-U", "socket", "--print-uri"]);
    assert_eq!(said.code, 0, "{said:?}");
    let socket = nbdkit.home.path("socket");
    let uri = format!("nbd+unix://?socket={}", socket.display());
    assert_eq!(said.stdout, printed(&uri, &format!("\"{uri}\"")));
    let port = free_port().to_string();
    let said = nbdkit.serve(&["-p", &port, "--print-uri", "--run", "echo $uri", "-e", "x"]);
    let uri = format!("nbd://localhost:{port}/x");
    let expected = format!("{}{uri}\n", printed(&uri, &uri));
    assert_eq!(said.stdout, expected, "{said:?}");
}

#[test]
fn a_thread_that_is_kept_in_memory_takes_no_more_than_it_touches() {
    let nbdkit = Nbdkit::ours();
    let text = format!(
        "{}\nimport threading\ndef after_fork():\n    \
         for _ in range(64): threading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        nbdkit::PLUGIN
    );
    let path = nbdkit.home.script("disk.py", &text);
    let path = path.to_str().unwrap();
    let mut child = nbdkit.start(&["--swap", "-U", "socket", "python", path]);
    let pid = nbdkit.home.pid("disk", "worker_pid");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.unwrap().trim().trim_end_matches(" kB");
    // 64 stacks of 8 MiB are four times as much.
    assert!(kib.parse::<u64>().unwrap() < 128 << 10, "{kib} KiB");
    signal(child.id().cast_signed(), Signal::TERM);
    assert_eq!(end(&mut child).code(), Some(0));
}

#[test]
fn its_memory_stays_in_memory() {
    for nbdkit in Nbdkit::both() {
        let program = nbdkit.program().to_str().unwrap().to_owned();
        let mut child = nbdkit.start(&["--swap", "-U", "socket", "python", &nbdkit.plugin]);
        let pid = match nbdkit.ours {
            true => nbdkit.home.pid("disk", "worker_pid"),
            false => child.id().cast_signed(),
        };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let locked = status
            .lines()
            .find(|line| line.starts_with("VmLck:"))
            .unwrap();
        assert!(!locked.contains(" 0 kB"), "{program}: {locked}");
        signal(child.id().cast_signed(), Signal::TERM);
        assert_eq!(end(&mut child).code(), Some(0));
    }
}
