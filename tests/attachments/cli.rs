//! The command line: what is accepted, what is refused, in which words and with which status.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use support::home::{self, Home};

#[test]
fn wrong_usage_exits_with_2_and_attaches_nothing() {
    let home = Home::new();
    let plugin = home.script("x.py", "");
    let plugin = plugin.to_str().unwrap();
    for args in [
        &[][..],
        &["nosuchcommand"],
        &["attach"],
        &["attach", plugin, "--nosuchoption"],
        &["attach", plugin, "/dev/ublkb0", "/dev/ublkb1"],
        &["attach", plugin, "/dev/ublkb0", "size=1", "/dev/ublkb1"],
        &["attach", plugin, "1size=1"],
        &["attach", plugin, "/tmp/x", "1size=1"],
        &["attach", plugin, "--lanes", "0"],
        &["attach", plugin, "--lanes", "257"],
        &["attach", plugin, "nbd:", "--tls", "maybe"],
        &["attach", plugin, "nbd:", "--limit"],
        &["show"],
        &["detach"],
        &["detach", "x", "--all"],
        &["info", plugin, "/dev/ublkb0"],
        &["agent-process"],
        &["worker-process"],
    ] {
        let said = home.run(args);
        assert_eq!(said.code, 2, "{args:?}: {said:?}");
        assert_eq!(said.stdout, "", "{args:?}");
        let lines: Vec<_> = said.stderr.lines().collect();
        match args {
            [] => assert!(said.stderr.contains("Usage: pydisk"), "{said:?}"),
            [process] if process.ends_with("-process") => {
                assert!(lines[0].starts_with("pydisk: "), "{said:?}");
            }
            _ => {
                assert_eq!(lines.len(), 2, "{args:?}: {said:?}");
                assert!(lines[0].starts_with("pydisk: "), "{said:?}");
                assert!(lines[1].starts_with("hint: "), "{said:?}");
            }
        }
    }
    assert_eq!(home.attachments(), [""; 0]);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let home = Home::new();
    let help = home.run(["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for word in [
        "pydisk attach memory /dev/ublkb0 size=1G",
        "detach",
        "probe",
    ] {
        assert!(help.stdout.contains(word), "{word}: {}", help.stdout);
    }
    assert!(!help.stdout.contains("-process"), "{}", help.stdout);
    let version = home.run(["--version"]);
    assert_eq!(
        version.stdout,
        format!("pydisk {}\n", env!("CARGO_PKG_VERSION"))
    );
    let attach = home.run(["attach", "--help"]);
    assert!(
        attach.stdout.contains("<PLUGIN> [TARGET] [KEY=VALUE]..."),
        "{}",
        attach.stdout
    );
}

#[test]
fn a_plugin_that_is_not_there_is_refused() {
    let home = Home::new();
    home.run(["attach", "nosuch", "./disk"])
        .refused("plugin `nosuch`: there is no such file");
    home.run(["attach", "./nosuch.py", "./disk"])
        .refused("plugin `./nosuch.py`: No such file or directory");
    home.run(["attach", ".", "./disk"])
        .refused("plugin `.`: a Python file is needed");
    home.run(["info", "nosuch"]).refused("plugin `nosuch`: ");
    assert_eq!(home.attachments(), [""; 0]);
}

#[test]
fn names_of_plugins_are_looked_up_in_the_folders_that_are_set() {
    let home = Home::new();
    home.script("special.py", "def broken(:\n");
    let said = home
        .command(["attach", "special", "./disk"])
        .current_dir("/")
        .env("PYDISK_PLUGINS", home.path(""))
        .output()
        .unwrap();
    home::Said::of(&said).refused("SyntaxError");
    let said = home
        .command(["attach", "other", "./disk"])
        .current_dir("/")
        .env("PYDISK_PLUGINS", home.path(""))
        .output()
        .unwrap();
    home::Said::of(&said).refused("(special)");
}

#[test]
fn options_of_a_server_are_refused_elsewhere_and_when_they_make_no_sense() {
    let home = Home::new();
    let plugin = home.script("x.py", "");
    let plugin = plugin.to_str().unwrap();
    for (args, words) in [
        (
            &["./disk", "--tls", "required"][..],
            "--tls: it is for a server, and the target is `/",
        ),
        (
            &["./disk", "--limit", "payload=1M"],
            "--limit: it is for a server",
        ),
        (
            &["--tls-verify-peer"],
            "--tls-verify-peer: it is for a server, and no target is given",
        ),
        (
            &["nbd:", "--tls-certificates", "."],
            "--tls-certificates: TLS is off",
        ),
        (&["nbds:"], "--tls: the server needs a certificate"),
        (
            &["nbds:", "--tls", "off"],
            "--tls: the target begins with `nbds`",
        ),
        (
            &["nbd:", "--limit", "payload=1"],
            "hint: accepted are payload (bytes, 4k to 64M), option",
        ),
        (
            &["nbd+stdio:", "--run", "true"],
            "--run: the target `nbd+stdio:///` has its one client",
        ),
    ] {
        home.run(["attach", plugin].iter().chain(args))
            .refused(words);
    }
    assert_eq!(home.attachments(), [""; 0]);
}

#[test]
fn targets_that_nobody_serves_are_refused() {
    let home = Home::new();
    let plugin = home.script("x.py", "");
    let plugin = plugin.to_str().unwrap();
    for (target, words) in [
        (
            "/dev/sda",
            "target `/dev/sda`: no front end makes this device",
        ),
        ("/dev/ublkb", "`/dev/ublkb` takes a number"),
        ("/dev/loop-1", "`/dev/loop` takes a number"),
        ("nbd:localhost", "target `nbd:localhost`: `//` is missing"),
        (
            "nbd+tls://localhost",
            "`nbd+tls:` is no kind of NBD address",
        ),
        ("nbd+systemd:", "systemd has passed no socket"),
        ("", "a path is needed"),
    ] {
        home.run(["attach", plugin, target]).refused(words);
        home.run(["attach", plugin, "a=1", target, "b=2"])
            .refused(words);
    }
    assert_eq!(home.attachments(), [""; 0]);
}

#[test]
fn names_are_checked_before_anything_else() {
    let home = Home::new();
    let plugin = home.script("x.py", "");
    let plugin = plugin.to_str().unwrap();
    let long = "n".repeat(65);
    for name in ["", ".x", "-x", "a/b", "..", "a b", &long] {
        let option = format!("--name={name}");
        home.run(["attach", plugin, "./disk", &option])
            .refused("a name has 1 to 64 letters");
    }
    assert_eq!(home.attachments(), [""; 0]);
}

#[test]
fn a_plugin_that_is_refused_leaves_nothing() {
    let home = Home::new();
    let plugin = home.script("broken.py", "raise RuntimeError('no luck today')\n");
    for more in [&[][..], &["--foreground"], &["--run", "true"]] {
        let mut args = vec![
            "attach",
            plugin.to_str().unwrap(),
            "./disk",
            "password=verysecret",
        ];
        args.extend(more);
        let said = home.run(&args);
        said.refused("no luck today");
        assert!(!said.stderr.contains("verysecret"), "{said:?}");
        assert_eq!(home.attachments(), [""; 0], "{more:?}");
        assert!(!home.path("disk").exists());
    }
}

#[test]
fn a_worker_that_dies_while_it_loads_is_explained() {
    let home = Home::new();
    for (script, words) in [
        ("import os; os._exit(3)", "the worker exited with status 3"),
        (
            "import ctypes; ctypes.string_at(0)",
            "the worker was killed by SIGSEGV",
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            "the worker was killed by SIGKILL",
        ),
    ] {
        let plugin = home.script("dies.py", script);
        home.run(["attach", plugin.to_str().unwrap(), "./disk"])
            .refused(words);
        assert_eq!(home.attachments(), [""; 0]);
    }
}

#[test]
fn what_a_plugin_prints_never_reaches_standard_output() {
    let home = Home::new();
    let plugin = home.script(
        "chatty.py",
        "import os\nprint('by print')\nos.write(1, b'by write\\n')\nos.system('echo by a child')\n1/0\n",
    );
    let said = home.run(["attach", plugin.to_str().unwrap(), "./disk"]);
    said.refused_after_prints("ZeroDivisionError");
    for words in ["by print", "by write", "by a child"] {
        assert!(said.stderr.contains(words), "{said:?}");
    }
    let said = home.run(["info", plugin.to_str().unwrap()]);
    said.refused_after_prints("ZeroDivisionError");
}

#[test]
fn standard_input_of_a_plugin_is_empty() {
    let home = Home::new();
    let plugin = home.script(
        "reads.py",
        "import sys\nraise RuntimeError(repr(sys.stdin.read()))\n",
    );
    home.run(["attach", plugin.to_str().unwrap(), "./disk"])
        .refused("RuntimeError: ''");
}

#[test]
fn nothing_is_listed_shown_or_detached_where_there_is_nothing() {
    let home = Home::new();
    let list = home.run(["list"]);
    assert_eq!(list.code, 0);
    assert_eq!(
        list.stdout,
        "NAME  DEVICE  SIZE  PLUGIN  FRONT END  STATE\n"
    );
    assert_eq!(home.run(["list", "--json"]).stdout, "[]\n");
    home.run(["show", "x"])
        .refused("`x`: nothing of this name or device is attached");
    home.run(["detach", "x"])
        .refused("`x`: nothing of this name or device is attached");
    home.run(["detach", "/dev/ublkb7", "--force"])
        .refused("`/dev/ublkb7`: nothing");
    let all = home.run(["detach", "--all"]);
    assert_eq!((all.code, all.stderr.as_str()), (0, ""));
}

#[test]
fn probe_tells_of_each_front_end() {
    let home = Home::new();
    let said = home.run(["probe"]);
    assert_eq!(said.code, 0);
    for (line, name) in said
        .stdout
        .lines()
        .zip(["ublk", "nbd-kernel", "loop", "fuse"])
    {
        assert!(line.starts_with(name), "{said:?}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&home.run(["probe", "--json"]).stdout).unwrap();
    for name in ["ublk", "nbd-kernel", "loop", "fuse"] {
        let works = json[name]["works"].as_bool().unwrap();
        assert_eq!(json[name]["reason"].is_null(), works, "{json}");
    }
}

#[test]
fn info_shows_what_a_plugin_says_of_itself() {
    let home = Home::new();
    let plugin = home.script(
        "facts.py",
        "API_VERSION = 2\nprint('noise')\ndef open(r): return 1\ndef get_size(h): return 512\n\
         def pread(h, b, o, f): pass\ndef dump_plugin(): print('mine=1')\n\
         def thread_model(): return 3\ndef config(key, value): pass\n\
         def config_complete(): raise ValueError('something is missing')\n",
    );
    // With and without parameters, as they are given to nbdkit's --dump-plugin.
    for parameter in [None, Some("a=1")] {
        let said = home.run(
            ["info", plugin.to_str().unwrap()]
                .into_iter()
                .chain(parameter),
        );
        assert_eq!(said.code, 0, "{said:?}");
        for line in ["api_version=2\n", "thread_model=parallel\n", "mine=1\n"] {
            assert!(said.stdout.contains(line), "{said:?}");
        }
        assert!(!said.stdout.contains("noise"), "{said:?}");
    }
}

#[test]
fn info_shows_parameters_size_and_limits() {
    let home = Home::new();
    let memory = support::repository("plugins/memory.py");
    let memory = memory.to_str().unwrap();
    let known = home.run(["info", memory, "size=1M"]);
    let unknown = home.run(["info", memory]);
    for said in [&known, &unknown] {
        assert_eq!(said.code, 0, "{said:?}");
        for line in [
            "description=A disk in memory.\n",
            "parameter=size=SIZE how big the disk is, such as 512M or 1T (required)\n",
        ] {
            assert!(said.stdout.contains(line), "{said:?}");
        }
    }
    assert_eq!(known.stderr, "");
    for line in [
        "size=1048576\n",
        "block_size_minimum=1\n",
        "block_size_preferred=4096\n",
        "block_size_maximum=67108864\n",
    ] {
        assert!(known.stdout.contains(line), "{known:?}");
    }
    let why = "note: size and limits are not known: ";
    assert!(unknown.stderr.starts_with(why), "{unknown:?}");
    assert!(
        unknown.stderr.contains("size=SIZE is needed"),
        "{unknown:?}"
    );
    assert!(!unknown.stdout.contains("block_size"), "{unknown:?}");
}

#[test]
fn a_patience_that_is_no_number_is_refused() {
    let home = Home::new();
    for words in [&["list"][..], &["nbdkit", "--version"]] {
        let mut command = home.command(words);
        let said = command.env("PYDISK_PATIENCE", "often").output().unwrap();
        let words = "PYDISK_PATIENCE `often`: a whole number from 1 to 100 is needed";
        home::Said::of(&said).refused_after_prints(words);
    }
}

#[test]
fn a_script_that_others_may_write_to_is_warned_of() {
    if !rustix::process::geteuid().is_root() {
        support::say("skipped: needs root, who is warned");
        return;
    }
    let home = Home::new();
    let plugin = home.script(
        "open.py",
        "def open(r): return 1\ndef get_size(h): return 512\ndef pread(h, c, o): return bytes(c)\n",
    );
    let warned = |command| {
        let said = home.run([command, plugin.to_str().unwrap()]);
        assert_eq!(said.code, 0, "{said:?}");
        let warning = "every user may write to this file";
        let notes = said
            .stdout
            .lines()
            .filter(|line| line.starts_with("note: "));
        said.stderr.contains(warning) || notes.clone().any(|note| note.contains(warning))
    };
    let commands = ["info", "check"];
    assert_eq!(commands.map(warned), [false, false]);
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(commands.map(warned), [true, true]);
}

#[test]
fn cleanup_follows_only_where_after_fork_succeeded() {
    let home = Home::new();
    let text = "import sys\ndef open(r): 1/0\ndef get_size(h): return 512\n\
                def pread(h, c, o): pass\ndef cleanup(): print('cleaned up')\n";
    let opens = home.script("opens.py", text);
    let said = home.run(["attach", opens.to_str().unwrap(), "./disk"]);
    said.refused_after_prints("ZeroDivisionError");
    assert!(said.stderr.contains("cleaned up"), "{said:?}");
    let starts = home.script("starts.py", &format!("{text}def after_fork(): 1/0\n"));
    let said = home.run(["attach", starts.to_str().unwrap(), "./disk"]);
    said.refused_after_prints("after_fork: ZeroDivisionError");
    assert!(!said.stderr.contains("cleaned up"), "{said:?}");
}

#[test]
fn the_state_folder_is_ours_and_nobody_else_may_write_to_it() {
    let home = Home::new();
    assert_eq!(home.run(["list"]).code, 0);
    let state = home.path("state");
    assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o022, 0);
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    home.run(["list"]).refused("writable by nobody else");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_user_without_a_runtime_folder_is_told_so() {
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        support::say("skipped: needs root, to be somebody else");
        return;
    }
    let home = Home::new();
    // A copy, for the build may lie where nobody else may look.
    let program = home.path("pydisk");
    std::fs::copy(support::program(), &program).unwrap();
    std::fs::set_permissions(home.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = std::process::Command::new(program)
        .arg("list")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("PYDISK_STATE_DIR")
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    home::Said::of(&output).refused("XDG_RUNTIME_DIR is not set");
}

#[test]
fn a_python_of_another_version_is_refused() {
    let home = Home::new();
    let plugin = home.script("x.py", "");
    let environment = home.path("env");
    std::fs::create_dir_all(environment.join("bin")).unwrap();
    std::fs::write(environment.join("bin/python3"), "").unwrap();
    std::fs::write(environment.join("pyvenv.cfg"), "version = 3.1.0\n").unwrap();
    let plugin = plugin.to_str().unwrap();
    let option = environment.to_str().unwrap();
    home.run(["attach", plugin, "./disk", "--python", option])
        .refused("this is Python 3.1,");
    let active = home
        .command(["attach", plugin, "./disk"])
        .env("VIRTUAL_ENV", &environment)
        .output()
        .unwrap();
    home::Said::of(&active).refused("VIRTUAL_ENV");
    home.run(["info", plugin, "--python", "/no/such/python"])
        .refused("there is no Python");
    assert_eq!(home.attachments(), [""; 0]);
}

#[test]
fn an_environment_gives_the_plugin_its_packages() {
    let home = Home::new();
    let found = std::process::Command::new("python3")
        .args([
            "-c",
            "import sys; print(sys.version_info[0], sys.version_info[1], sep='.')",
        ])
        .output()
        .unwrap();
    let version = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    let environment = home.path(".venv");
    let packages = environment.join(format!("lib/python{version}/site-packages"));
    std::fs::create_dir_all(&packages).unwrap();
    std::fs::write(
        packages.join("only_there.py"),
        "WORD = 'found in the environment'\n",
    )
    .unwrap();
    std::fs::create_dir_all(environment.join("bin")).unwrap();
    let program = std::process::Command::new("python3")
        .args(["-c", "import sys; print(sys._base_executable)"])
        .output()
        .unwrap();
    let program = String::from_utf8(program.stdout).unwrap().trim().to_owned();
    std::os::unix::fs::symlink(&program, environment.join("bin/python3")).unwrap();
    let bin = std::path::Path::new(&program)
        .parent()
        .unwrap()
        .display()
        .to_string();
    let config =
        format!("home = {bin}\ninclude-system-site-packages = false\nversion = {version}.0\n");
    std::fs::write(environment.join("pyvenv.cfg"), config).unwrap();
    let plugin = home.script(
        "x.py",
        "import only_there\nraise RuntimeError(only_there.WORD)\n",
    );
    home.run(["attach", plugin.to_str().unwrap(), "./disk"])
        .refused("found in the environment");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::new();
    let script = format!(
        "{} list | true; echo \"${{PIPESTATUS[0]}}\"",
        support::program()
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .env("PYDISK_STATE_DIR", home.path("state"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn what_cannot_be_written_is_an_error_unless_the_reader_is_gone() {
    for args in [&["list"][..], &["list", "--json"], &["probe"]] {
        let home = Home::new();
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = home.command(args).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(stderr, "pydisk: standard output: No space left on device\n");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = home.command(args).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn a_relative_state_folder_is_refused() {
    let home = Home::new();
    let said = home
        .command(["list"])
        .env("PYDISK_STATE_DIR", "here")
        .output();
    home::Said::of(&said.unwrap()).refused("PYDISK_STATE_DIR `here`: an absolute path is needed");
}

#[test]
fn a_place_that_cannot_be_printed_is_said() {
    let home = Home::new();
    let plugin = home.script("x.py", "def open(readonly): pass\ndef get_size(h): return 512\ndef pread(h, n, at): return bytes(n)\n");
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut attach = home.command(["attach", plugin.to_str().unwrap(), "nbd+unix:"]);
    let said = attach.stdout(full).output().unwrap();
    assert!(!home::Said::of(&said).stderr.is_empty());
    assert_eq!(home.run(["detach", "x"]).code, 0);
}
