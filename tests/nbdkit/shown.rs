//! What nbdkit's command line shows instead of serving: `--dump-plugin`, `--dump-config`, `--help`,
//! `--version`, beside what nbdkit itself shows.

use std::collections::BTreeMap;

use support::home::Said;
use support::nbdkit::Nbdkit;

fn facts(said: &Said) -> BTreeMap<String, String> {
    said.stdout
        .lines()
        .map(|line| line.split_once('=').unwrap_or((line, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_plugin_is_dumped_as_nbdkit_does() {
    let dumps: Vec<_> = Nbdkit::both()
        .iter()
        .map(|nbdkit| {
            let said = nbdkit.serve(&["--dump-plugin", "model=3", "x=1"]);
            assert_eq!(said.code, 0, "{said:?}");
            let bare = nbdkit.run(["python", "--dump-plugin"]);
            assert_eq!(bare.code, 0, "{bare:?}");
            assert_eq!(facts(&bare)["thread_model"], "serialize_all_requests");
            facts(&said)
        })
        .collect();
    let ours = &dumps[0];
    for (name, value) in [
        ("name", "python"),
        ("api_version", "2"),
        ("max_thread_model", "parallel"),
        ("thread_model", "parallel"),
        ("errno_is_preserved", "0"),
        ("has_pread", "1"),
        ("nbdkit_python_maximum_api_version", "2"),
        ("mine", "1"),
    ] {
        assert_eq!(ours.get(name).map(String::as_str), Some(value), "{name}");
    }
    // Of a C structure and of an interface for extension modules.
    let absent = ["struct_size", "python_pep_384_abi_version"];
    let different = ["path", "version", "python_version"];
    for (name, value) in dumps.get(1).into_iter().flatten() {
        if absent.contains(&name.as_str()) {
            continue;
        }
        let found = ours.get(name);
        assert!(found.is_some(), "{name}");
        assert!(
            found == Some(value) || different.contains(&name.as_str()),
            "{name}"
        );
    }
}

#[test]
fn a_dump_that_fails_is_a_message_and_status_1() {
    let nbdkit = Nbdkit::ours();
    for (text, what) in [
        (
            "def config(k, v): pass\ndef dump_plugin(): raise RuntimeError('not today')",
            "not today",
        ),
        (
            "def config(k, v): pass\ndef thread_model(): return 'x'",
            "thread_model",
        ),
        ("def config(k, v): raise ValueError(k)", "ValueError"),
        ("1 / 0", "ZeroDivisionError"),
    ] {
        let base =
            "def open(r): pass\ndef get_size(h): return 1\ndef pread(h, c, o): return b'x'\n";
        let path = nbdkit.home.script("bad.py", &format!("{base}{text}\n"));
        let said = nbdkit.run(["python", path.to_str().unwrap(), "--dump-plugin", "a=b"]);
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (1, ""),
            "{text}: {said:?}"
        );
        assert!(
            said.stderr.starts_with("nbdkit: error: "),
            "{text}: {said:?}"
        );
        assert!(said.stderr.contains(what), "{text}: {said:?}");
    }
}

#[test]
fn versions_and_help_are_shown_without_running_the_script() {
    for nbdkit in Nbdkit::both() {
        let path = nbdkit.home.script("loud.py", "print('loaded')\n");
        let path = path.to_str().unwrap();
        let version = nbdkit.run(["--version"]);
        assert_eq!(version.code, 0);
        let number = version.stdout.split_whitespace().nth(1).unwrap();
        assert!(version.stdout.starts_with("nbdkit 1."), "{version:?}");
        let with = nbdkit.run(["python", path, "-V"]);
        let lines: Vec<_> = with.stdout.lines().collect();
        assert_eq!((with.code, lines.len()), (0, 2), "{with:?}");
        assert_eq!(lines[1], format!("python {number}"));
        for words in [
            &["--help"][..],
            &["python", path, "--help"],
            &["--help", "python"],
        ] {
            let help = nbdkit.run(words);
            assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{help:?}");
            for option in [
                "--exit-with-parent",
                "--mask-handshake",
                "--tls-verify-peer",
                "--vsock",
            ] {
                assert!(help.stdout.contains(option), "{option}: {help:?}");
            }
            assert_eq!(
                help.stdout.contains("script=<FILENAME>"),
                words.len() > 1,
                "{help:?}"
            );
            assert!(!help.stdout.contains("loaded"), "{help:?}");
        }
        let config = facts(&nbdkit.run(["--dump-config"]));
        for name in [
            "name",
            "version_major",
            "tls",
            "exit_with_parent",
            "root_tls_certificates_dir",
        ] {
            let expected = match name {
                "name" => "nbdkit",
                "version_major" => "1",
                "root_tls_certificates_dir" => "/etc/pki/nbdkit",
                _ => "yes",
            };
            assert_eq!(config[name], expected, "{}", nbdkit.name());
        }
        assert_eq!(number, config["version"]);
    }
}

#[test]
fn the_names_of_options_are_listed() {
    let nbdkit = Nbdkit::ours();
    // Those of nbdkit 1.48, but for the ones that are refused.
    let names = "ipv4-only ipv6-only debug dump-config dump-plugin exit-with-parent export export-name \
        exportname foreground no-fork group help ip-addr ipaddr keepalive keep-alive log long-options \
        mask-handshake name new-style newstyle no-mc no-meta-contexts no-sr no-structured-replies \
        old-style oldstyle pid-file pidfile print-uri print-url port read-only readonly run \
        selinux-label short-options show-uri show-url single stdin swap threads timeout time-out tls \
        tls-certificates tls-verify-peer unix user verbose version vsock";
    let mut expected: Vec<_> = names
        .split_ascii_whitespace()
        .map(|name| format!("--{name}"))
        .collect();
    expected.sort();
    for (words, expected) in [
        (&["--long-options"][..], expected),
        (
            &["--short-options", "--filter=x"],
            "-4 -6 -D -e -f -g -i -n -o -p -P -r -s -t -u -U -v -V"
                .split(' ')
                .map(str::to_owned)
                .collect(),
        ),
    ] {
        let said = nbdkit.run(words);
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(said.stdout.lines().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_filter_that_is_not_there_is_found_out_as_scripts_do() {
    for nbdkit in Nbdkit::both() {
        for shown in ["--version", "--help", "--dump-plugin"] {
            for wrong in ["--filter=nosuch", "-Dx", "--log=x", "--threads=x"] {
                let said = nbdkit.run([shown, wrong, "python"]);
                assert_eq!(said.code, 1, "{} {shown} {wrong}: {said:?}", nbdkit.name());
            }
        }
    }
}
