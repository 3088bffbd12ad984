//! The NBD clients that people use, each with a disk that pydisk serves.
//!
//! They are run as their manuals show them; what they did is checked on the plugin's side or with
//! another client.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use support::home::{self, mounted};
use support::nbd::{
    Home, MIB, Server, allocated, assert_same, clients, file_server, json, libnbd, nbdinfo_map,
    program, run, sparse_image,
};
use support::skip;

#[test]
fn the_libnbd_module_uses_every_command() {
    if !clients(&["libnbd"]) {
        return;
    }
    let (server, _) = file_server(16 * MIB);
    libnbd(
        r#"
h.add_meta_context("base:allocation")
h.connect_uri(args[0])
assert h.get_size() == 16 << 20
assert h.get_protocol() == "newstyle-fixed", h.get_protocol()
assert h.get_structured_replies_negotiated()
assert h.can_meta_context("base:allocation")
assert not h.is_read_only() and h.can_multi_conn() and h.can_flush() and h.can_fua()
data = bytes(range(256)) * 4096
h.pwrite(data, 1 << 20)
h.pwrite(b"tail", (16 << 20) - 4, nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(len(data), 1 << 20) == data
assert h.pread(5, (16 << 20) - 5) == b"\0tail"
h.cache(1 << 20, 0)
h.zero(4096, (1 << 20) + 4096)
h.zero(4096, (1 << 20) + 8192, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(8192, (1 << 20) + 4096) == bytes(8192)
h.trim(1 << 20, 1 << 20)
found = []
def extents(context, offset, entries, error):
    found.extend(zip(entries[::2], entries[1::2]))
h.block_status(16 << 20, 0, extents)
assert found[0][1] == nbd.STATE_HOLE | nbd.STATE_ZERO, found
assert sum(length for length, _ in found) == 16 << 20, found
for call in (lambda: h.pread(512, 16 << 20), lambda: h.pwrite(b"x" * 512, (16 << 20) - 511)):
    h.set_strict_mode(0)
    try: call()
    except nbd.Error as error: assert error.errno in ("EINVAL", "ENOSPC"), error
    else: raise AssertionError("a request past the end succeeded")
assert h.pread(4, (16 << 20) - 4) == b"tail"
h.shutdown()
"#,
        &[&server.export("")],
    );
    server.detach();
}

/// The plugin answers the first request only when it has got the last one, which the client sends when
/// all between have been answered.
#[test]
fn libnbd_gets_replies_out_of_order_from_a_parallel_plugin() {
    if !clients(&["libnbd"]) {
        return;
    }
    let server = Server::of_script(
        "
import nbdkit, threading
API_VERSION = 2
last = threading.Event()
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def open(readonly): return 0
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    number = offset >> 12
    if number == 0: last.wait()
    if number == 9: last.set()
    buf[:] = bytes([number]) * len(buf)
",
        &[],
    );
    libnbd(
        r#"
h.connect_uri(args[0])
answered = set()
def ask(number):
    buf = nbd.Buffer(4096)
    def completed(error):
        assert error.value == 0 and buf.to_bytearray() == bytes([number]) * 4096
        answered.add(number)
        return 1
    h.aio_pread(buf, number << 12, completed)
def wait_for(count):
    while len(answered) < count:
        assert h.poll(60000) == 1, f"no reply comes after {answered}"
for number in range(9): ask(number)
wait_for(8)
assert 0 not in answered
ask(9)
wait_for(10)
h.shutdown()
"#,
        &[&server.export("")],
    );
    server.detach();
}

#[test]
fn nbdinfo_tells_what_the_disk_can() {
    if !clients(&["nbdinfo"]) {
        return;
    }
    let (server, backing) = file_server(64 * MIB);
    let file = OpenOptions::new().write(true).open(&backing).unwrap();
    file.write_all_at(&[7; 1 << 20], 16 * MIB).unwrap();
    let uri = server.uri();
    assert_eq!(run("nbdinfo", ["--size", uri]), "67108864\n");
    for ability in [
        "write",
        "flush",
        "fua",
        "trim",
        "zero",
        "cache",
        "df",
        "multi-conn",
    ] {
        run("nbdinfo", ["--can", ability, uri]);
    }
    support::nbd::fails("nbdinfo", ["--is", "read-only", uri]);
    let whole = json(&run("nbdinfo", ["--json", uri]));
    assert_eq!(whole["protocol"], "newstyle-fixed");
    assert_eq!(whole["TLS"], false);
    let export = &whole["exports"][0];
    assert_eq!(export["export-size"], 64 * MIB);
    assert_eq!(export["is_read_only"], false);
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    let listed = json(&run("nbdinfo", ["--list", "--json", uri]));
    assert_eq!(listed["exports"].as_array().unwrap().len(), 1);
    assert_eq!(listed["exports"][0]["export-size"], 64 * MIB);
    let expected = [(16, "hole,zero"), (1, "data"), (47, "hole,zero")];
    let expected = expected.map(|(mebibytes, what)| (mebibytes * MIB, what.to_owned()));
    assert_eq!(nbdinfo_map(uri), expected);
    server.detach();
}

#[test]
fn nbdcopy_keeps_data_and_holes_of_a_gibibyte() {
    if !clients(&["nbdcopy", "nbdinfo"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, copy) = (folder.path().join("image"), folder.path().join("copy"));
    sparse_image(&image, 1 << 30);
    let taken = allocated(&image);
    // Blocks that are only partly data, and what a file system needs besides.
    let enough = taken + 2 * MIB;

    let (server, backing) = file_server(1 << 30);
    run("nbdcopy", [image.to_str().unwrap(), server.uri()]);
    run("nbdcopy", [server.uri(), copy.to_str().unwrap()]);
    server.detach();
    for file in [&backing, &copy] {
        assert_same(&image, file);
        assert!(
            allocated(file) <= enough,
            "{} bytes of {taken}",
            allocated(file)
        );
    }
    fs::remove_file(&copy).unwrap();

    let server = Server::new("memory", &["size=1G"]);
    run(
        "nbdcopy",
        ["--flush", image.to_str().unwrap(), server.uri()],
    );
    let data: u64 = nbdinfo_map(server.uri())
        .iter()
        .filter(|(_, what)| what == "data")
        .map(|(length, _)| length)
        .sum();
    assert!(data <= enough, "{data} bytes of {taken}");
    run("nbdcopy", [server.uri(), copy.to_str().unwrap()]);
    server.detach();
    assert_same(&image, &copy);
    assert!(
        allocated(&copy) <= enough,
        "{} bytes of {taken}",
        allocated(&copy)
    );
}

#[test]
fn nbdcopy_copies_from_server_to_server() {
    if !clients(&["nbdcopy"]) {
        return;
    }
    let (from, backing) = file_server(32 * MIB);
    fs::remove_file(&backing).unwrap();
    drop(from);
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    sparse_image(&image, 32 * MIB);
    let from = Server::new("file", &[&format!("file={}", image.display())]);
    let (to, backing) = file_server(32 * MIB);
    run("nbdcopy", [from.uri(), to.uri()]);
    to.detach();
    from.detach();
    assert_same(&image, &backing);
}

/// `nbdfuse` in the foreground, until it is unmounted.
struct Fuse {
    folder: PathBuf,
    child: Child,
}

impl Fuse {
    fn mount(folder: PathBuf, uri: &str) -> Self {
        fs::create_dir(&folder).unwrap();
        let file = folder.join("disk");
        let words = [file.to_str().unwrap(), uri];
        let mut child = program("nbdfuse", words).spawn().unwrap();
        home::until("nbdfuse has mounted", || {
            assert_eq!(child.try_wait().unwrap(), None, "nbdfuse ended");
            file.exists()
        });
        Self { folder, child }
    }

    fn unmount(mut self) {
        run("fusermount3", ["-u", self.folder.to_str().unwrap()]);
        assert!(home::end(&mut self.child).success());
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if mounted(&self.folder) {
            let lazily = Command::new("umount").arg("-l").arg(&self.folder).status();
            drop(lazily);
        }
    }
}

#[test]
fn nbdfuse_makes_a_file_of_it() {
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        skip("fuse", "nbdfuse needs /dev/fuse and, in this test, root");
        return;
    }
    if !clients(&["nbdfuse", "fusermount3"]) {
        return;
    }
    let (server, backing) = file_server(4 * MIB);
    let folder = tempfile::tempdir().unwrap();
    let fuse = Fuse::mount(folder.path().join("mount"), server.uri());
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(fuse.folder.join("disk"))
        .unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4 * MIB);
    file.seek(SeekFrom::Start(MIB)).unwrap();
    file.write_all(&[0x6b; 100_000]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    fuse.unmount();
    server.detach();
    let mut seen = vec![0; 100_000];
    let file = File::open(&backing).unwrap();
    file.read_exact_at(&mut seen, MIB).unwrap();
    assert!(seen.iter().all(|&byte| byte == 0x6b));
}

/// It negotiates with `EXPORT_NAME` alone and takes the 124 zero bytes that follow.
#[test]
fn the_nbd_crate_reads_and_writes() {
    let server = Server::new("memory", &["size=1M"]);
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    let export = ::nbd::client::handshake(&mut stream, b"").unwrap();
    assert_eq!(export.size, MIB);
    let mut client = ::nbd::client::NbdClient::new(&mut stream, &export);
    client.seek(SeekFrom::Start(4096)).unwrap();
    client.write_all(&[0x77; 8192]).unwrap();
    client.flush().unwrap();
    client.seek(SeekFrom::Start(0)).unwrap();
    let mut bytes = vec![1; 16384];
    client.read_exact(&mut bytes).unwrap();
    let expected = [vec![0; 4096], vec![0x77; 8192], vec![0; 4096]].concat();
    assert!(bytes == expected);
    drop(stream);
    server.detach();
}

/// A kernel's `/dev/nbdN` by the user space program; in the virtual machine's guests.
#[test]
fn nbd_client_makes_a_block_device_of_it() {
    const DEVICE: &str = "/dev/nbd15";
    if !Path::new(DEVICE).exists() {
        support::say("skipped: nbd-client: this kernel has no /dev/nbd15");
        return;
    }
    if !clients(&["nbd-client", "mkfs.ext4"]) {
        return;
    }
    let (server, backing) = file_server(64 * MIB);
    let folder = tempfile::tempdir().unwrap();
    let socket = server.socket().to_str().unwrap();
    run(
        "nbd-client",
        ["-unix", socket, DEVICE, "-N", "", "-block-size", "512"],
    );
    run("mkfs.ext4", ["-q", DEVICE]);
    let at = folder.path().to_str().unwrap();
    run("mount", [DEVICE, at]);
    fs::write(folder.path().join("file"), vec![0x5a; 5 << 20]).unwrap();
    run("umount", [at]);
    run("nbd-client", ["-d", DEVICE]);
    server.detach();
    run("fsck.ext4", ["-fn", backing.to_str().unwrap()]);
    let seen = run("debugfs", ["-R", "stat /file", backing.to_str().unwrap()]);
    assert!(seen.contains("Size: 5242880"), "{seen}");
}

/// libnbd starts the server itself: on standard input and output, and as systemd would.
#[test]
fn libnbd_starts_the_server_on_its_own_sockets() {
    if !clients(&["libnbd"]) {
        return;
    }
    let home = Home::new();
    for (target, connect) in [
        ("nbd+stdio:", "connect_command"),
        ("nbd+systemd:", "connect_systemd_socket_activation"),
    ] {
        let code = format!(
            "os.environ['PYDISK_STATE_DIR'] = args.pop(0)\n\
             h.{connect}(args)\n\
             assert h.get_size() == 1 << 20\n\
             h.pwrite(b'hello', 512)\n\
             assert h.pread(5, 512) == b'hello'\n\
             h.shutdown()\n"
        );
        let state = home.path("state").display().to_string();
        let command = support::program();
        libnbd(
            &code,
            &[&state, command, "attach", "-f", "memory", target, "size=1M"],
        );
    }
    home::until("nothing is left", || home.attachments().is_empty());
}

#[test]
fn run_sets_the_uri_and_the_socket_for_its_command() {
    if !clients(&["nbdinfo"]) {
        return;
    }
    let home = Home::new();
    for target in ["nbd+unix:", "nbd+unix:///name", "nbd://localhost:0"] {
        let command = "nbdinfo --size \"$uri\"; echo \"${unixsocket:-none}\"; exit 7";
        let said = home.run(["attach", "memory", target, "size=1M", "--run", command]);
        assert_eq!(said.code, 7, "{said:?}");
        let lines: Vec<_> = said.stdout.lines().collect();
        assert_eq!(lines[0], "1048576", "{said:?}");
        assert_eq!(lines[1] == "none", target.starts_with("nbd:"), "{said:?}");
        home::until("nothing is left", || home.attachments().is_empty());
    }
}

#[test]
fn clients_come_over_tcp() {
    if !clients(&["libnbd", "nbdinfo"]) {
        return;
    }
    let home = Home::new();
    let said = home.run([
        "attach",
        "--name",
        "disk",
        "memory",
        "nbd://localhost:0",
        "size=1M",
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    let uri = said.stdout.trim_end();
    assert_eq!(run("nbdinfo", ["--size", uri]), "1048576\n");
    libnbd(
        "h.connect_uri(args[0])\n\
         h.pwrite(b'hello', 0)\n\
         assert h.pread(5, 0) == b'hello'\n\
         h.shutdown()\n",
        &[uri],
    );
    let said = home.run(["detach", "disk"]);
    assert_eq!(said.code, 0, "{said:?}");
}
