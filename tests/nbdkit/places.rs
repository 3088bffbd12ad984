//! Where a server of nbdkit's command line is found, and what clients find there. Where nbdkit is
//! installed it gets the same words, and the same has to come of them.

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::client::{Client, available};
use support::home::{Said, end, runs, signal, until};
use support::nbdkit::{Nbdkit, free_port, pid_in};
use support::say;

/// A libnbd client that starts the server itself, by one of its ways to do so.
fn started_by_client(nbdkit: &Nbdkit, how: &str, options: &[&str]) -> Client {
    let words: Vec<String> = [nbdkit.program().to_str().unwrap()]
        .iter()
        .chain(options)
        .map(|word| (*word).to_owned())
        .collect();
    let mut client = Client::new();
    let state = nbdkit.home.path("state");
    client.eval(&format!(
        "__import__('os').environ.update(PYDISK_STATE_DIR={state:?})"
    ));
    client.eval("__import__('os').environ.pop('PYTHONUNBUFFERED', None)");
    assert_eq!(
        client.eval(&format!("h.{how}({words:?})")),
        "None",
        "{}",
        nbdkit.name()
    );
    client
}

#[test]
fn it_listens_on_every_address_unless_it_is_told() {
    if !available() {
        return;
    }
    let v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !v6 {
        say("skipped: IPv6, which this host has not");
    }
    for nbdkit in Nbdkit::both() {
        for (options, v4_answers, v6_answers) in [
            (&[][..], true, true),
            (&["-4"], true, false),
            (&["-6"], false, true),
            (&["-6", "-4"], true, false),
            (&["-i", "127.0.0.1"], true, false),
            (&["-i", "::1"], false, true),
            (&["-i", "localhost", "-4"], true, false),
        ] {
            if !v6 && !v4_answers {
                continue;
            }
            std::fs::remove_file(nbdkit.home.path("ready")).unwrap_or_default();
            let port = free_port();
            let number = port.to_string();
            let args = [options, &["-p", &number, "python", &nbdkit.plugin]].concat();
            let mut child = nbdkit.start(&args);
            let who = nbdkit.name();
            let answers = |host: &str| TcpStream::connect((host, port)).is_ok();
            assert_eq!(answers("127.0.0.1"), v4_answers, "{who} {options:?}");
            assert_eq!(v6 && answers("::1"), v6 && v6_answers, "{who} {options:?}");
            signal(child.id().cast_signed(), Signal::TERM);
            end(&mut child);
        }
    }
}

#[test]
fn a_second_one_at_the_same_place_is_refused() {
    for nbdkit in Nbdkit::both() {
        let port = free_port().to_string();
        let mut first = nbdkit.start(&["-p", &port, "python", &nbdkit.plugin]);
        let second = nbdkit.serve(&["-p", &port]);
        assert_eq!(second.code, 1, "{second:?}");
        let said = "Address already in use";
        assert!(second.stderr.contains(said), "{second:?}");
        signal(first.id().cast_signed(), Signal::TERM);
        end(&mut first);
        let _ready = std::fs::remove_file(nbdkit.home.path("ready"));
        let mut first = nbdkit.start(&["-U", "socket", "python", &nbdkit.plugin]);
        let second = nbdkit.serve(&["-U", "socket"]);
        assert_eq!(second.code, 1, "{second:?}");
        signal(first.id().cast_signed(), Signal::TERM);
        end(&mut first);
    }
}

#[test]
fn a_socket_that_was_left_behind_gives_way() {
    let nbdkit = Nbdkit::ours();
    drop(std::os::unix::net::UnixListener::bind(nbdkit.home.path("socket")).unwrap());
    let said = nbdkit.serve(&["-U", "socket", "--run", "exit 3"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(!nbdkit.home.path("socket").exists());
    nbdkit.home.script("socket", "a file");
    let said = nbdkit.serve(&["-U", "socket", "--run", "exit 3"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr.contains("there is a file of this name already"),
        "{said:?}"
    );
}

#[test]
fn a_client_on_standard_input_and_output_is_served_and_then_it_ends() {
    if !available() {
        return;
    }
    for nbdkit in Nbdkit::both() {
        for model in ["model=1", "model=3"] {
            nbdkit.forget_calls();
            let options = ["-s", "python", &nbdkit.plugin, model];
            let mut client = started_by_client(&nbdkit, "connect_command", &options);
            assert_eq!(client.eval("h.pwrite(b'x' * 4096, 0)"), "None");
            assert_eq!(client.read(), "b'xxxxxxxx'");
            client.leave();
            until("it has ended", || {
                nbdkit.calls().contains(&"cleanup".to_owned())
            });
            let calls = nbdkit.calls();
            assert_eq!(
                (calls[0].as_str(), calls.last().unwrap().as_str()),
                ("open False ''", "cleanup")
            );
            // nbdkit leaves the handle open where one thread serves.
            assert!(
                !nbdkit.ours || calls[1..calls.len() - 1] == ["close"],
                "{calls:?}"
            );
        }
    }
}

#[test]
fn a_client_that_speaks_no_nbd_is_no_reason_to_fail() {
    for nbdkit in Nbdkit::both() {
        for input in ["", "GET / HTTP/1.1\r\n\r\n and more of that"] {
            let mut child = nbdkit
                .command(["-s", "python", &nbdkit.plugin])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
            drop(stdin);
            let mut hello = Vec::new();
            child
                .stdout
                .take()
                .unwrap()
                .read_to_end(&mut hello)
                .unwrap();
            assert!(hello.starts_with(b"NBDMAGICIHAVEOPT"), "{}", nbdkit.name());
            let said = Said::of(&child.wait_with_output().unwrap());
            assert_eq!(said.code, 0, "{} {input:?}: {said:?}", nbdkit.name());
        }
    }
}

/// What a client says that reads 16 bytes and leaves.
fn recorded() -> Vec<u8> {
    let mut said = 3u32.to_be_bytes().to_vec();
    said.extend(b"IHAVEOPT");
    said.extend([1u32, 0].map(u32::to_be_bytes).concat());
    for (command, length) in [(0u16, 16u32), (2, 0)] {
        said.extend(0x2560_9513_u32.to_be_bytes());
        said.extend([0, command].map(u16::to_be_bytes).concat());
        said.extend([77, 0].map(u64::to_be_bytes).concat());
        said.extend(length.to_be_bytes());
    }
    said
}

#[test]
fn a_recorded_conversation_comes_from_a_file_and_goes_to_one() {
    for nbdkit in Nbdkit::both() {
        std::fs::write(nbdkit.home.path("said"), recorded()).unwrap();
        let answered = |answer: &[u8], what: &str| {
            let who = nbdkit.name();
            assert_eq!(answer.len(), 60, "{who} {what}");
            assert!(answer.starts_with(b"NBDMAGICIHAVEOPT"), "{who} {what}");
            assert!(answer.ends_with(b"pydisk!.pydisk!."), "{who} {what}");
        };
        let from = || std::fs::File::open(nbdkit.home.path("said")).unwrap();
        let path = nbdkit.home.path("answer");
        let served = nbdkit
            .command(["-s", "python", &nbdkit.plugin])
            .stdin(from())
            .stdout(std::fs::File::create(&path).unwrap())
            .output()
            .unwrap();
        let said = Said::of(&served);
        assert_eq!(said.code, 0, "{} {said:?}", nbdkit.name());
        answered(&std::fs::read(&path).unwrap(), "to a file");
        let served = nbdkit
            .command(["-s", "python", &nbdkit.plugin])
            .stdin(from())
            .output()
            .unwrap();
        assert_eq!(served.status.code(), Some(0), "{served:?}");
        answered(&served.stdout, "to a pipe");
        // Nobody has said anything here.
        let said = nbdkit.serve(&["-s"]);
        assert_eq!((said.code, said.stdout.len()), (0, 18), "{said:?}");
    }
}

#[test]
fn a_client_at_a_socket_on_standard_input_is_known() {
    if !available() {
        return;
    }
    let nbdkit = Nbdkit::ours();
    let tell = "who=nbdkit.peer_pid(), nbdkit.peer_uid(), nbdkit.peer_gid(), nbdkit.peer_name()";
    let options = ["-s", "python", &nbdkit.plugin, tell];
    let mut client = started_by_client(&nbdkit, "connect_command", &options);
    let pid = client.eval("__import__('os').getpid()");
    client.leave();
    let me = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let expected = format!("who ({pid}, {me}, {group}, '')");
    assert!(nbdkit.calls().contains(&expected), "{:?}", nbdkit.calls());
}

#[test]
fn sockets_that_systemd_passes_are_served() {
    if !available() {
        return;
    }
    for nbdkit in Nbdkit::both() {
        let pid_file = nbdkit.home.path("pid");
        let options = [
            "python",
            &nbdkit.plugin,
            "-e",
            "x",
            "-P",
            pid_file.to_str().unwrap(),
        ];
        let how = "connect_systemd_socket_activation";
        let mut client = started_by_client(&nbdkit, how, &options);
        assert_eq!(client.read(), "b'pydisk!.'");
        // Clients of a socket that is open already need not wait for it.
        until("the pidfile is written", || pid_file.exists());
        let pid = pid_in(&pid_file);
        client.leave();
        if !nbdkit.ours {
            // nbdkit 1.32 did not call `close` in one run of nine, which waited for a minute.
            signal(pid, Signal::KILL);
            continue;
        }
        until("it is closed", || {
            nbdkit.calls().contains(&"close".to_owned())
        });
        signal(pid, Signal::TERM);
        until("it has ended", || !runs(pid));
        assert_eq!(nbdkit.calls(), ["open False ''", "close", "cleanup"]);
    }
}

#[test]
fn sockets_that_are_not_there_or_go_with_no_option_are_refused() {
    for nbdkit in Nbdkit::both() {
        let program = nbdkit.program().to_str().unwrap();
        for (variables, options, code) in [
            ("LISTEN_PID=$$ LISTEN_FDS=1", "", 1),
            ("LISTEN_PID=$$ LISTEN_FDS=x", "-U -", 1),
            ("LISTEN_PID=$$ LISTEN_FDS=0", "", 1),
            ("LISTEN_PID=$$ LISTEN_FDS=-1", "-U -", 1),
            ("LISTEN_PID=$$ LISTEN_FDS=1", "-U -", 1),
            ("LISTEN_PID=1 LISTEN_FDS=1", "-U - --run true", 0),
            ("LISTEN_PID=1", "-U - --run true", 0),
            ("LISTEN_FDS=1", "-U - --run true", 0),
        ] {
            if !nbdkit.ours
                && ["x", "-1"]
                    .iter()
                    .any(|end| variables.ends_with(&format!("={end}")))
            {
                // It says that this is no number, and goes on without.
                continue;
            }
            let line = format!(
                "export {variables}; exec {program} python {} {options}",
                nbdkit.plugin
            );
            let output = Command::new("bash")
                .args(["-c", &line])
                .env("PYDISK_STATE_DIR", nbdkit.home.path("state"))
                .env_remove("PYTHONUNBUFFERED")
                .env_remove("VIRTUAL_ENV")
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let said = Said::of(&output);
            assert_eq!(
                said.code,
                code,
                "{} {variables} {options}: {said:?}",
                nbdkit.name()
            );
        }
    }
}

#[test]
fn a_poorer_protocol_is_spoken_when_it_is_asked_for() {
    if !available() {
        return;
    }
    let whole = ("newstyle-fixed", "True", "True");
    for nbdkit in Nbdkit::both() {
        for (options, (protocol, structured, several)) in [
            (&[][..], whole),
            (&["-n"], whole),
            (&["--no-sr"], ("newstyle-fixed", "False", "True")),
            (&["--mask-handshake=0"], ("newstyle", "False", "True")),
            (&["--mask-handshake=1"], whole),
            (&["--mask-handshake=0xffff"], whole),
            (&["-o"], ("oldstyle", "False", "True")),
            (
                &["-o", "--no-sr", "--mask-handshake=0"],
                ("oldstyle", "False", "True"),
            ),
            (&["--no-mc"], ("newstyle-fixed", "True", "False")),
        ] {
            if !nbdkit.ours && options == ["--no-mc"] {
                // Of 1.38.
                continue;
            }
            let options = [options, &["-s", "python", &nbdkit.plugin, "model=3"]].concat();
            let mut client = started_by_client(&nbdkit, "connect_command", &options);
            let found = client.eval(
                "h.get_protocol(), h.get_structured_replies_negotiated(), h.can_multi_conn()",
            );
            let who = nbdkit.name();
            let expected = format!("('{protocol}', {structured}, {several})");
            assert_eq!(found, expected, "{who} {options:?}");
            assert_eq!(
                client.eval("h.pwrite(b'x' * 4096, 512)"),
                "None",
                "{who} {options:?}"
            );
            assert_eq!(
                client.eval("bytes(h.pread(9, 511))"),
                "b'.xxxxxxxx'",
                "{who} {options:?}"
            );
            client.leave();
        }
    }
}

#[test]
fn requests_of_one_client_run_in_so_many_threads() {
    if !available() {
        return;
    }
    // Each waits until so many are there; with fewer threads they never are.
    let text = "
import builtins, nbdkit, os, threading
API_VERSION = 2
def config(key, value): globals()[key] = threading.Barrier(int(value))
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def open(readonly): return threading.Lock()
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    if 'many' in globals(): many.wait(20)
    else:
        if not h.acquire(blocking=False): raise RuntimeError('not alone')
        threading.Event().wait(0.02)
        h.release()
    buf[:] = b'.' * len(buf)
";
    for nbdkit in Nbdkit::both() {
        let path = nbdkit.home.script("threads.py", text);
        let path = path.to_str().unwrap();
        for (options, requests) in [
            (&["-t", "5", "many=5"][..], 5),
            (&["many=16"], 16),
            (&["-t0", "many=16"], 16),
            (&["-t", "1"], 6),
        ] {
            let options = [&["-s", "python", path], options].concat();
            let mut client = started_by_client(&nbdkit, "connect_command", &options);
            client.eval("[bufs := [nbd.Buffer(512) for _ in range(99)]] and None");
            client.eval(&format!(
                "[c := [h.aio_pread(bufs[i], 0) for i in range({requests})]] and None"
            ));
            client.eval("[h.poll(-1) for _ in iter(lambda: h.aio_in_flight(), 0)] and None");
            let done = client.eval("[h.aio_command_completed(i) for i in c]");
            let expected = format!("[{}]", vec!["True"; requests].join(", "));
            assert_eq!(done, expected, "{} {options:?}", nbdkit.name());
        }
    }
}

/// A folder with what a TLS server needs, signed by itself.
fn certificates(nbdkit: &Nbdkit) -> std::path::PathBuf {
    let folder = nbdkit.home.path("pki");
    std::fs::create_dir(&folder).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout", "server-key.pem", "-out", "server-cert.pem"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::copy(folder.join("server-cert.pem"), folder.join("ca-cert.pem")).unwrap();
    folder
}

#[test]
fn clients_encrypt_as_they_are_told_to() {
    if !available() {
        return;
    }
    for nbdkit in Nbdkit::both() {
        let folder = certificates(&nbdkit);
        let option = format!("--tls-certificates={}", folder.display());
        let secure = "nbdinfo --size \"nbds://localhost:$port?tls-certificates=$tls_certificates\"";
        let open = "nbdinfo --size \"nbd://localhost:$port\"";
        for (mode, variable, encrypted, plain) in [
            (&["--tls=require"][..], "2", true, false),
            (&["--tls=on"], "1", true, true),
            (&[], "1", true, true),
            (&["--tls=off"], "", false, true),
        ] {
            let command = format!("echo [$tls]; {secure} || echo refused; {open} || echo refused");
            let port = free_port().to_string();
            let options = ["-i", "127.0.0.1", "-p", &port, &option, "--run", &command];
            let said = nbdkit.serve(&[mode, &options].concat());
            let size = |works| if works { "1048576" } else { "refused" };
            let expected = format!("[{variable}]\n{}\n{}\n", size(encrypted), size(plain));
            assert_eq!(
                said.stdout,
                expected,
                "{} {mode:?}: {said:?}",
                nbdkit.name()
            );
        }
        let verified = [
            "--tls=require",
            "--tls-verify-peer",
            &option,
            "-i",
            "127.0.0.1",
            "-p",
            &free_port().to_string(),
            "--run",
            &format!("{secure} || exit 9"),
        ]
        .map(str::to_owned);
        let said = nbdkit.serve(&verified.each_ref().map(String::as_str));
        assert_eq!(said.code, 9, "{}: {said:?}", nbdkit.name());
    }
}

#[test]
fn the_certificates_are_told_as_they_were_given() {
    let nbdkit = Nbdkit::ours();
    certificates(&nbdkit);
    let command = "echo \"${uri%%\\?*} ${uri##*/sock} $tls_certificates\"";
    for (mode, expected) in [
        ("--tls=off", "nbd+unix:// "),
        ("--tls=on", "nbd+unix:// "),
        ("--tls=require", "nbds+unix:// &tls-certificates=./pki"),
    ] {
        let folder = ["-U", "sock", "--tls-certificates", "./pki"];
        let said = nbdkit.serve(&[&[mode], &folder[..], &["--run", command]].concat());
        assert_eq!(
            said.stdout,
            format!("{expected} ./pki\n"),
            "{mode}: {said:?}"
        );
    }
}

#[test]
fn a_client_that_says_nothing_is_sent_away_when_its_time_is_over() {
    let nbdkit = Nbdkit::ours();
    for option in ["--timeout=200ms", "--timeout=0.2"] {
        let _ready = std::fs::remove_file(nbdkit.home.path("ready"));
        let port = free_port();
        let number = port.to_string();
        let mut child = nbdkit.start(&[
            "--keepalive",
            option,
            "-p",
            &number,
            "python",
            &nbdkit.plugin,
        ]);
        let mut silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut heard = Vec::new();
        // It ends by the server's doing, not by this test's.
        silent.read_to_end(&mut heard).unwrap();
        assert!(heard.starts_with(b"NBDMAGIC"));
        signal(child.id().cast_signed(), Signal::TERM);
        assert_eq!(end(&mut child).code(), Some(0));
    }
}

#[test]
fn vsock_is_served_where_there_is_one() {
    let nbdkit = Nbdkit::ours();
    let said = nbdkit.serve(&[
        "--vsock",
        "-p",
        "70123",
        "--run",
        "echo $uri [$port] [$unixsocket]",
    ]);
    if said.code == 1 && said.stderr.contains("vsock") {
        say(&format!("skipped: {}", said.stderr.trim()));
        return;
    }
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.stdout, "nbd+vsock://1:70123 [70123] []\n");
}
