//! The log of a server in the background, whose descriptors its plugin shares.

use support::client::{Client, available};
use support::home::Home;

#[test]
fn a_plugin_may_put_a_large_file_of_its_own_in_the_place_of_standard_error() {
    if !available() {
        return;
    }
    let home = Home::new();
    let own = home.path("own");
    // Above what the log may have.
    std::fs::write(&own, vec![b'x'; 5 << 20]).unwrap();
    let plugin = home.script(
        "disk.py",
        "import builtins, os\nAPI_VERSION = 2\nHERE = os.path.dirname(os.path.abspath(__file__))\n\
         def open(readonly):\n    with builtins.open(os.path.join(HERE, 'own'), 'ab') as f:\n        \
         os.dup2(f.fileno(), 2)\n\
         def get_size(h): return 1 << 20\n\
         def pread(h, buf, offset, flags): raise OSError(5, 'boom')\n",
    );
    let said = home.run(["attach", plugin.to_str().unwrap(), "nbd+unix:"]);
    assert_eq!(said.code, 0, "{said:?}");
    let mut client = Client::connected(said.stdout.trim());
    assert!(client.read().starts_with("error: "));
    drop(client);
    assert_eq!(home.run(["detach", "disk"]).code, 0);
    let found = std::fs::read(&own).unwrap();
    assert!(found.starts_with(&[b'x'; 5 << 20]), "{} bytes", found.len());
    // Where standard error goes, lines go.
    let text = String::from_utf8_lossy(&found[5 << 20..]).into_owned();
    assert!(text.contains("boom"), "{text}");
}

/// What is shown of names, parameters and refusals has one line each, and nothing that a terminal obeys.
#[test]
fn what_came_from_outside_is_shown_without_its_control_characters() {
    if !available() {
        return;
    }
    let home = Home::new();
    let plugin = home.script(
        "disk.py",
        "API_VERSION = 2\n\
         def config(key, value): pass\n\
         def open(readonly): return 1\n\
         def get_size(h): return 1 << 20\n\
         def pread(h, buf, offset, flags):\n    \
         raise ValueError('odd\\n2026-01-01T00:00:00.000Z pydisk: disk: error: forged\\x1b[2J')\n",
    );
    let plugin = plugin.to_str().unwrap();
    let said = home.run([
        "attach",
        plugin,
        "nbd+unix:",
        "label=\x1b[31m\nstate      gone",
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    let mut client = Client::new();
    assert_eq!(
        client.eval("h.set_export_name('\\x1b]0;t\\x07\\nagent      1')"),
        "None"
    );
    let socket = format!("{}/disk/nbd.sock", home.path("state").display());
    assert_eq!(client.eval(&format!("h.connect_unix({socket:?})")), "None");
    assert!(client.read().starts_with("error: "));

    let shown = home.run(["show", "disk"]).stdout;
    assert!(
        shown.contains("label=\\u{1b}[31m\\nstate      gone\n"),
        "{shown}"
    );
    assert!(
        shown.contains("(export `\\u{1b}]0;t\\u{7}\\nagent      1`)"),
        "{shown}"
    );
    let refused = home.run(["detach", "disk"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("\\u{7}\\nagent"), "{refused:?}");
    let unknown = home.run(["show", "\x1b[1mnothing"]);
    assert!(unknown.stderr.contains("\\u{1b}[1mnothing"), "{unknown:?}");
    let log = std::fs::read_to_string(home.state("disk").join("log")).unwrap();
    assert!(log.contains("forged\\u{1b}[2J"), "{log}");
    for text in [&shown, &refused.stderr, &unknown.stderr, &log] {
        assert!(!text.contains(['\x1b', '\x07']), "{text:?}");
    }
    // Every line that begins as pydisk's own is one.
    let own = log.lines().filter(|line| !line.starts_with(' '));
    assert_eq!(
        own.filter(|line| line.contains("forged")).count(),
        0,
        "{log}"
    );
    client.leave();
    assert_eq!(home.run(["detach", "disk"]).code, 0);
}
