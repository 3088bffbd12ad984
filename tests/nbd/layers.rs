//! Layers of a served disk, by the real command.

use support::nbd::Server;
use support::nbd::raw::{Ask, Raw, cmd};

/// One callback at a time; it tells what it has written.
const PLUGIN: &str = "
import builtins
API_VERSION = 2
def thread_model(): return 1
def open(readonly): return 1
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): buf[:] = b'r' * len(buf)
def pwrite(h, buf, offset, flags):
    with builtins.open(__file__ + '.written', 'wb') as f: f.write(buf)
";

/// A write sleeps for as long as no test can take: others are served, and it is done when the disk is detached.
#[test]
fn what_sleeps_in_a_layer_holds_nobody_up_and_is_not_lost() {
    let layers = [
        "--layer",
        "delay:read=1ms",
        "--layer",
        "delay:write=4000000000",
    ];
    let server = Server::of_script(PLUGIN, &layers);
    let written = server.home.path("plugin.py.written");
    let mut writer = Raw::opened(server.socket(), "");
    let write = Ask::of(cmd::WRITE, 512, 4);
    writer.send(&write.compact());
    writer.send(b"data");
    let mut reader = Raw::opened(server.socket(), "");
    assert_eq!(reader.pread(0, 3), b"rrr");
    assert!(!written.exists(), "it did not sleep");
    let said = server.home.run(["detach", "--force", "disk"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(writer.simple_reply(write.cookie), 0);
    assert_eq!(std::fs::read(written).unwrap(), b"data");
}
