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
