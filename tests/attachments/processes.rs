//! Plugins that have worker processes of their own, by `multiprocessing`.

use support::nbd::{Server, clients, libnbd};

/// The first byte is computed in another process.
const POOL: &str = "
import math, multiprocessing, os
import nbdkit
API_VERSION = 2
def config(key, value): globals()[key] = value
def open(readonly): return None
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    assert os.path.isfile(__file__)
    with multiprocessing.get_context(how).Pool(1) as pool:
        buf[0] = int(pool.apply_async(math.sqrt, (1764,)).get(60))
";

/// The new process runs the file that `__main__` names, if it names one.
#[test]
fn a_callback_may_use_a_pool_of_processes_that_are_started_anew() {
    if !clients(&["libnbd"]) {
        return;
    }
    for how in ["spawn", "forkserver"] {
        let server = Server::of_script(POOL, &[&format!("how={how}")]);
        let code = "h.connect_uri(args[0]); print(h.pread(1, 0))";
        let said = libnbd(code, &[server.uri()]);
        assert_eq!(said, "bytearray(b'*')\n", "{how}: {}", server.log());
        server.detach();
    }
}
