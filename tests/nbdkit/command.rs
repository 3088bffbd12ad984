//! nbdkit's command line: what is accepted, refused and shown, and with which exit status. Where
//! nbdkit is installed the same words go to it, and what comes of them has to be the same.

use std::io::Write;
use std::process::Stdio;

use support::client::available;
use support::home::{Home, Said};
use support::nbdkit::{self, Nbdkit, free_port};

#[test]
fn both_names_lead_to_the_same() {
    let home = Home::new();
    let disk = home.script("disk.py", nbdkit::PLUGIN);
    let disk = disk.to_str().unwrap();
    let said = home.run([
        "nbdkit",
        "python",
        disk,
        "--run",
        "echo $name $exportname; exit 3",
        "-e",
        "x",
    ]);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (3, "disk x\n"),
        "{said:?}"
    );
    let help = home.run(["nbdkit", "--help"]);
    assert!(help.stdout.contains("--mask-handshake <MASK>"), "{help:?}");
    let refused = home.run(["nbdkit"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused
            .stderr
            .starts_with("nbdkit: error: no plugins given"),
        "{refused:?}"
    );
    let general = home.run(["--help"]).stdout;
    assert!(general.contains("nbdkit"), "{general}");
    // A copy is no link: it is called by this name for its own processes as well.
    let copy = home.path("copy");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(support::program(), copy.join("nbdkit")).unwrap();
    let output = std::process::Command::new(copy.join("nbdkit"))
        .args(["-U", "-", "python", disk, "--run", "exit 4"])
        .env("PYDISK_STATE_DIR", home.path("state"))
        .env_remove("VIRTUAL_ENV")
        .output()
        .unwrap();
    let said = Said::of(&output);
    assert_eq!(said.code, 4, "{said:?}");
}

/// Words, and a part of what is said when they are refused by either.
#[test]
fn what_makes_no_sense_has_status_1() {
    for nbdkit in Nbdkit::both() {
        let plugin = nbdkit.plugin.clone();
        for (words, what) in [
            ("", "no plugins given on the command line"),
            ("--nosuch", "--nosuch"),
            ("-Q", "Q"),
            ("-p", ""),
            ("--run", "--run"),
            ("--foreground=x", "--foreground"),
            ("--dump-plugin", "--dump-plugin"),
            ("nosuch", "nosuch"),
            ("--filter=nosuch python D", "nosuch"),
            (
                "python D bare",
                "expecting key=value on the command line but got: bare",
            ),
            (
                "python D 1=x",
                "expecting key=value on the command line but got: 1=x",
            ),
            ("python D -x=1", ""),
            ("python /no/such.py", "/no/such.py"),
            ("-p abc python D", "abc"),
            ("-t x python D", ""),
            ("-t x python D --threads=4", ""),
            ("--tls=bad --tls=off python D", "bad"),
            ("--log=foo --log=stderr python D", "--log"),
            (
                "--mask-handshake=x --mask-handshake=0 python D",
                "mask-handshake",
            ),
            ("--tls=foo python D", "foo"),
            ("--log=foo python D", "--log"),
            ("-D foo python D", "-D"),
            ("-D python.x=y python D", "-D"),
            ("--mask-handshake=foo python D", "mask-handshake"),
            ("-p 1 -U x python D", "-p"),
            ("-p 1 -s python D", "-s"),
            ("-U x -s python D", "-s"),
            ("--vsock -U x python D", "--vsock"),
            ("-s --run true python D", "--run"),
            ("-s --dump-plugin python D", "--dump-plugin"),
            ("--selinux-label=nonsense -U - --run true python D", ""),
            (
                "-i no.such.host.invalid -p 0 python D",
                "no.such.host.invalid",
            ),
            ("-U no/such/folder python D", ""),
            ("-U  python D", ""),
            ("-o --tls=require python D", ""),
        ] {
            // A word that is empty stands for itself.
            let args: Vec<_> = words
                .split(' ')
                .filter(|_| !words.is_empty())
                .map(|word| if word == "D" { &plugin } else { word })
                .collect();
            let said = nbdkit.run(&args);
            let who = nbdkit.name();
            assert_eq!(said.code, 1, "{who} {words}: {said:?}");
            assert!(said.stderr.contains(what), "{who} {words}: {said:?}");
            if nbdkit.ours {
                assert_eq!(said.stdout, "", "{words}");
                assert!(said.stderr.starts_with("nbdkit: "), "{words}: {said:?}");
            }
        }
        assert_eq!(nbdkit.home.attachments(), [""; 0]);
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let nbdkit = Nbdkit::ours();
    for (words, what) in [
        (
            &["--filter=cow"][..],
            "--filter `cow`: pydisk has no filters yet",
        ),
        (&["--filter", "log", "--filter=cow"], "--filter `log`"),
        (
            &["--tls-psk=/keys"],
            "--tls-psk: pre-shared keys are not supported",
        ),
        (
            &["--tls-priority=NORMAL"],
            "--tls-priority: which ciphers TLS may use cannot be chosen",
        ),
        (&["@./nosuch"], "@./nosuch: No such file or directory"),
        (
            &["@nosuch"],
            "expecting key=value on the command line but got: @nosuch",
        ),
        (&["--tls=on"], "--tls: the server needs a certificate"),
        (&["-t", "257"], "-t `257`: a number from 1 to 256"),
        (&["--timeout", "0"], "--timeout `0`"),
        (&["--timeout", "soon"], "--timeout `soon`"),
        (&["-u", "no such user"], "-u `no such user`"),
        (&["-g", "no such group"], "-g `no such group`"),
        (&["-p", "70000"], "-p `70000`"),
        (&["-U", "-", "--selinux-label", "x"], "SELinux label `x`"),
        (&["script=x"], "No such file or directory"),
    ] {
        let said = match words[0].starts_with("script=") {
            true => nbdkit.run([&["python"], words].concat()),
            false => nbdkit.serve(words),
        };
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (1, ""),
            "{words:?}: {said:?}"
        );
        assert!(said.stderr.contains(what), "{words:?}: {said:?}");
    }
    for (words, what) in [
        (&["a=b"][..], "the first parameter must be script="),
        (&[], "the first parameter must be script="),
    ] {
        let said = nbdkit.run([&["python"], words].concat());
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(what), "{said:?}");
    }
    let compiled = nbdkit.run(["/usr/lib64/nbdkit/plugins/nbdkit-curl-plugin.so"]);
    assert!(
        compiled.stderr.contains("this is a compiled plugin"),
        "{compiled:?}"
    );
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let nbdkit = Nbdkit::ours();
    for (words, what) in [
        (
            &["-D", "python.x=1"][..],
            "warning: debug flag -D python.x=1 was not used",
        ),
        (&["-4", "-U", "-"], "warning: -4 and -6 are for TCP"),
        (&["-U", "-", "-i", "localhost"], "warning: -i is for TCP"),
        (
            &["--tls=off", "--tls-verify-peer"],
            "warning: --tls-certificates and --tls-verify-peer",
        ),
        (
            &["--tls-verify-peer"],
            "warning: --tls-certificates and --tls-verify-peer",
        ),
    ] {
        let said = nbdkit.serve(&[words, &["--run", "exit 5"]].concat());
        assert_eq!(said.code, 5, "{words:?}: {said:?}");
        assert!(said.stderr.contains(what), "{words:?}: {said:?}");
    }
}

#[test]
fn a_server_goes_by_its_name() {
    let nbdkit = Nbdkit::ours();
    let tell = "tell=repr(nbdkit.name())";
    for (words, name, listed) in [
        (&["--name", "my disk.1"][..], "'my disk.1'", "my_disk.1"),
        (&["--name="], "''", "disk"),
        (&[], "None", "disk"),
    ] {
        nbdkit.forget_calls();
        let command = ["-U", "-", tell, "--run", "echo \"$name\""];
        let said = nbdkit.serve(&[&command[..], words].concat());
        assert_eq!(
            (said.code, said.stdout),
            (0, format!("{listed}\n")),
            "{words:?}"
        );
        assert_eq!(nbdkit.calls()[0], format!("after_fork {name}"), "{words:?}");
    }
    for (name, head) in [
        ("one", "nbdkit[one]: error: "),
        ("a\nb", "nbdkit[a\\nb]: error: "),
    ] {
        let said = nbdkit.run(["--name", name, "python", "/nosuch.py"]);
        assert!(said.stderr.starts_with(head), "{said:?}");
    }
}

#[test]
fn parameters_stand_in_a_file() {
    let nbdkit = Nbdkit::ours();
    std::fs::create_dir(nbdkit.home.path("more")).unwrap();
    let script = format!("{}\n# the rest\n\n@more/rest\n", nbdkit.plugin);
    nbdkit.home.script("words", &script);
    nbdkit
        .home
        .script("more/rest", "tell=model, last\nmodel=3\n");
    let said = nbdkit.run(["-U", "-", "python", "@./words", "last=1", "--run", "exit 5"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert_eq!(nbdkit.calls()[0], "after_fork ('3', '1')");
}

#[test]
fn what_helps_to_find_a_fault_is_shown_at_the_start() {
    let nbdkit = Nbdkit::ours();
    let version = nbdkit.run(["--version"]).stdout;
    let words = ["-U", "-", "python", &nbdkit.plugin, "--run", "true"];
    let start = |more: &[&str]| {
        let mut command = nbdkit.command([&words[..], more].concat());
        command
            .env("PYDISK_TEST_SHOWN", "a\nb")
            .stdin(std::process::Stdio::null());
        Said::of(&command.output().unwrap()).stderr
    };
    let environment = "nbdkit: debug: PYDISK_TEST_SHOWN=a\\nb\n";
    let said = start(&[
        "-v",
        "-D",
        "nbdkit.environ=1",
        "-D",
        "nbdkit.backend.datapath=0",
    ]);
    assert!(
        said.starts_with(&format!("nbdkit: debug: {version}")),
        "{said}"
    );
    assert!(
        said.contains(environment) && !said.contains("was not used"),
        "{said}"
    );
    for quiet in [
        &["-v"][..],
        &["-v", "-D", "nbdkit.environ=0"],
        &["-D", "nbdkit.environ=1"],
    ] {
        let said = start(quiet);
        assert!(!said.contains("PYDISK_TEST_SHOWN"), "{quiet:?}: {said}");
    }
}

#[test]
fn the_status_is_that_of_the_command() {
    for nbdkit in Nbdkit::both() {
        for (command, code) in [
            ("exit 0", 0),
            ("exit 7", 7),
            ("kill -9 $$", 137),
            ("no-such-command", 127),
        ] {
            let said = nbdkit.serve(&["-U", "-", "--run", command]);
            assert_eq!(said.code, code, "{} {command}: {said:?}", nbdkit.name());
        }
        assert_eq!(
            nbdkit
                .calls()
                .iter()
                .filter(|call| *call == "cleanup")
                .count(),
            4
        );
    }
}

#[test]
fn options_stand_anywhere_clustered_and_abbreviated() {
    for nbdkit in Nbdkit::both() {
        let plugin = &nbdkit.plugin;
        for words in [
            &["-rU", "-", "python", plugin, "--run", "exit 9"][..],
            &["python", "-r", plugin, "-U-", "--run=exit 9"],
            &[
                "python",
                plugin,
                "--read-only",
                "--unix=-",
                "--run",
                "exit 9",
            ],
            &[
                "python",
                &format!("script={plugin}"),
                "--readonl",
                "--unix",
                "-",
                "--run",
                "exit 9",
            ],
            &["-U", "-", "--run", "exit 9", "-v", "--", "python", plugin],
            &[
                "-4", "-6", "-n", "-U", "/nowhere", "-U", "-", "--run", "exit 9", "python", plugin,
            ],
        ] {
            let said = nbdkit.run(words);
            assert_eq!(said.code, 9, "{} {words:?}: {said:?}", nbdkit.name());
        }
    }
}

#[test]
fn the_command_is_told_where_the_server_is() {
    if !available() {
        return;
    }
    let command = "echo \"[$port] $exportname [$tls]\"; test \"$uri\" = \"$nbd\" && \
                   nbdinfo --size \"$uri\" && test -z \"$unixsocket\" -o -S \"$unixsocket\"";
    for nbdkit in Nbdkit::both() {
        let unix = nbdkit.serve(&["-U", "-", "-e", "a b", "--run", command]);
        assert_eq!(
            (unix.code, unix.stdout.as_str()),
            (0, "[] a b []\n1048576\n"),
            "{unix:?}"
        );
        let port = free_port().to_string();
        let tcp = nbdkit.serve(&["-p", &port, "--run", command]);
        let expected = format!("[{port}]  []\n1048576\n");
        assert_eq!((tcp.code, tcp.stdout), (0, expected), "{}", tcp.stderr);
        let opened: Vec<_> = nbdkit
            .calls()
            .into_iter()
            .filter(|call| call.starts_with("open"))
            .collect();
        assert!(
            opened.iter().any(|call| call == "open False 'a b'"),
            "{opened:?}"
        );
    }
    // Newer ones listen where nobody else looks unless they are told; so does pydisk.
    let nbdkit = Nbdkit::ours();
    let private = nbdkit.serve(&[
        "--run",
        "test -S $unixsocket && test -z \"$port\" && echo $unixsocket",
    ]);
    assert_eq!(private.code, 0, "{private:?}");
    let socket = private.stdout.trim();
    assert!(
        !socket.is_empty() && !std::path::Path::new(socket).exists(),
        "{private:?}"
    );
}

#[test]
fn the_plugin_finds_the_surroundings_that_nbdkit_gives_it() {
    for nbdkit in Nbdkit::both() {
        let home = nbdkit.home.path("").canonicalize().unwrap();
        let told = "tell=os.getcwd(), oct(os.umask(0o22))";
        let said = nbdkit.serve(&["-U", "-", told, "--run", "umask; pwd"]);
        let expected = format!("0022\n{}\n", home.display());
        assert_eq!((said.code, said.stdout), (0, expected), "{}", said.stderr);
        let call = format!("after_fork ('{}', '0o22')", home.display());
        assert_eq!(nbdkit.calls()[0], call, "{}", nbdkit.name());
    }
}

#[test]
fn read_only_is_told_to_plugin_and_client() {
    if !available() {
        return;
    }
    let command = "nbdinfo --json \"$uri\" | grep -c '\"is_read_only\": true'";
    for nbdkit in Nbdkit::both() {
        for (options, count, call) in [
            (&["-r"][..], "1\n", "open True ''"),
            (&[], "0\n", "open False ''"),
        ] {
            nbdkit.forget_calls();
            let said = nbdkit.serve(&[options, &["-U", "-", "--run", command]].concat());
            assert_eq!(
                said.stdout,
                count,
                "{} {options:?}: {said:?}",
                nbdkit.name()
            );
            assert!(
                nbdkit.calls().iter().any(|found| found == call),
                "{:?}",
                nbdkit.calls()
            );
        }
    }
}

#[test]
fn a_script_can_be_a_program_of_its_own() {
    for nbdkit in Nbdkit::both() {
        let program = nbdkit.program().display().to_string();
        let text = format!("#!{program} python\n{}", nbdkit::PLUGIN);
        let path = nbdkit.executable("own", &text);
        let command = nbdkit.command([""; 0]);
        let output = std::process::Command::new(path)
            .args(["-U", "-", "x=1", "--run", "exit 6"])
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env_remove("PYTHONUNBUFFERED")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = Said::of(&output);
        assert_eq!(said.code, 6, "{}: {said:?}", nbdkit.name());
    }
}

#[test]
fn a_script_can_come_through_a_pipe() {
    if !available() {
        return;
    }
    for nbdkit in Nbdkit::both() {
        let mut child = nbdkit
            .command([
                "-U",
                "-",
                "python",
                "/dev/stdin",
                "--run",
                "nbdinfo --size \"$uri\" && test \"${name:-script}\" = script",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text =
            nbdkit::PLUGIN.replace("os.path.dirname(os.path.abspath(__file__))", "'/nowhere'");
        let text = text.replace(
            "def log(*what):",
            "def log(*what): pass\ndef unused(*what):",
        );
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let said = Said::of(&child.wait_with_output().unwrap());
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (0, "1048576\n"),
            "{}: {said:?}",
            nbdkit.name()
        );
    }
}

#[test]
fn plugins_that_ship_go_by_their_names() {
    if !available() {
        return;
    }
    let nbdkit = Nbdkit::ours();
    let size = "nbdinfo --size \"$uri\"";
    let memory = nbdkit.run(["memory", "64M", "--run", size]);
    assert_eq!(
        (memory.code, memory.stdout.as_str()),
        (0, "67108864\n"),
        "{memory:?}"
    );
    // More than a process can map, up to the largest that there is.
    let code = "
import nbd, sys
h = nbd.NBD(); h.add_meta_context('base:allocation'); h.connect_uri(sys.argv[1])
size = h.get_size(); at = size - 200000
h.pwrite(b'x' * 150000, at)
h.zero(1000, at + 65000, nbd.CMD_FLAG_NO_HOLE)
h.trim(131072, at + 1)
found = []
h.block_status(200000, at, lambda m, o, e, err: found.extend(e))
print(size, h.pread(1, at), h.pread(131072, at + 1) == bytes(131072), h.pread(2, at + 131073),
      h.pread(1, size - 1), found[1::2], h.pread(4096, 0) == bytes(4096))
";
    nbdkit.home.script("client.py", code);
    let command = "/usr/bin/python3 client.py \"$uri\"";
    let largest = nbdkit.run(["memory", "9223372036854775807", "--run", command]);
    let expected = "9223372036854775807 bytearray(b'x') True bytearray(b'xx') bytearray(b'\\x00') \
                    [0, 3, 0] True\n";
    assert_eq!(
        (largest.code, largest.stdout.as_str()),
        (0, expected),
        "{largest:?}"
    );
    nbdkit.home.script("image", &"x".repeat(4096));
    let file = nbdkit.run(["file", "image", "--run", size]);
    assert_eq!((file.code, file.stdout.as_str()), (0, "4096\n"), "{file:?}");
    let path = nbdkit.run([nbdkit.plugin.as_str(), "x=1", "--run", size]);
    assert_eq!(
        (path.code, path.stdout.as_str()),
        (0, "1048576\n"),
        "{path:?}"
    );
    let bare = nbdkit.run([nbdkit.plugin.as_str(), "x"]);
    assert!(bare.stderr.contains("but got: x"), "{bare:?}");
    let dump = nbdkit.run(["memory", "--dump-plugin"]).stdout;
    for line in ["name=memory\n", "magic_config_key=size\n"] {
        assert!(dump.contains(line), "{dump}");
    }
}
