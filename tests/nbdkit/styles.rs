//! Plugins in the styles in which people write them for nbdkit, used by the clients that people use.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use support::nbd::{Home, MIB, Server, assert_same, clients, fails, libnbd, run, sparse_image};
use support::web::Web;

fn file_of(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(path).to_str().unwrap().to_owned()
}

/// A server of one of the scripts beside this file.
fn style(home: Home, name: &str, args: &[&str]) -> Server {
    Server::in_home(
        home,
        &file_of(&format!("tests/nbdkit/styles/{name}.py")),
        args,
    )
}

fn parameter(key: &str, path: &Path) -> String {
    format!("{key}={}", path.display())
}

/// Copy an image into a disk of its size and out again.
fn there_and_back(server: &Server, image: &Path) {
    run("nbdcopy", [image.to_str().unwrap(), server.uri()]);
    let back = server.home.path("back");
    run("nbdcopy", [server.uri(), back.to_str().unwrap()]);
    assert_same(image, &back);
    run(
        "qemu-img",
        [
            "compare",
            "-f",
            "raw",
            image.to_str().unwrap(),
            server.uri(),
        ],
    );
}

fn image(home: &Home, size: u64) -> PathBuf {
    let path = home.path("image");
    sparse_image(&path, size);
    path
}

#[test]
fn a_ramdisk() {
    if !clients(&["nbdcopy", "qemu-img", "qemu-io", "libnbd"]) {
        return;
    }
    let home = Home::new();
    let image = image(&home, 16 * MIB);
    let server = style(home, "ramdisk", &["size=16M"]);
    there_and_back(&server, &image);
    // Zeroes that may not be trimmed are declined, and written.
    run(
        "qemu-io",
        [
            "-f",
            "raw",
            "-c",
            "write -P 9 0 1M",
            "-c",
            "write -z 4k 64k",
            "-c",
            "write -zu 128k 64k",
            "-c",
            "read -P 0 4k 64k",
            "-c",
            "read -P 0 128k 64k",
            "-c",
            "read -P 9 68k 60k",
            "-c",
            "flush",
            server.uri(),
        ],
    );
    server.detach();
}

#[test]
fn a_file_in_version_1() {
    if !clients(&["nbdcopy", "qemu-img"]) {
        return;
    }
    let home = Home::new();
    let image = image(&home, 16 * MIB);
    let backing = home.path("backing");
    File::create(&backing).unwrap().set_len(16 * MIB).unwrap();
    let server = style(home, "file", &[&parameter("file", &backing)]);
    there_and_back(&server, &image);
    assert_same(&image, &backing);
    server.detach();
}

#[test]
fn a_disk_that_fails_now_and_then() {
    if !clients(&["libnbd"]) {
        return;
    }
    let server = style(Home::new(), "error", &[]);
    let told = libnbd(
        "
h.connect_uri(args[0])
seen = set()
def insist(call, *words):
    for _ in range(100):
        try: return call(*words)
        except nbd.Error as error: seen.add(error.errno)
    raise AssertionError('it never works')
for n in range(256):
    insist(h.pwrite, bytes([n]) * 4096, n * 4096)
for n in range(256):
    assert insist(h.pread, 4096, n * 4096) == bytes([n]) * 4096, n
print(*sorted(seen))
",
        &[server.uri()],
    );
    assert_eq!(told, "EINVAL EIO ENOMEM ENOSPC EPERM ESHUTDOWN\n");
    server.detach();
}

#[test]
fn a_url() {
    if !clients(&["nbdcopy", "nbdinfo", "qemu-img", "libnbd"]) {
        return;
    }
    let home = Home::new();
    let folder = home.path("web");
    fs::create_dir(&folder).unwrap();
    for name in ["image", "plain-image", "short-image"] {
        sparse_image(&folder.join(name), 8 * MIB);
    }
    let web = Web::serving(&folder);
    let url = |name: &str| format!("url={}", web.url(name));
    let server = Server::in_home(home, &file_of("examples/url.py"), &[&url("image")]);
    let back = server.home.path("back");
    run("nbdcopy", [server.uri(), back.to_str().unwrap()]);
    assert_same(&folder.join("image"), &back);
    let told = run("nbdinfo", ["--is", "read-only", server.uri()]);
    assert_eq!(told, "");
    // The file changes: what is read would be of two files.
    File::options()
        .write(true)
        .open(folder.join("image"))
        .unwrap()
        .set_len(4 * MIB)
        .unwrap();
    let read = "h.connect_uri(args[0])\ntry: h.pread(512, 0)\nexcept nbd.Error as error: print(error.errno)";
    let stale = "h.connect_uri(args[0])\nprint(h.get_size())\nos.truncate(args[1], 1 << 20)\ntry: h.pread(512, 0)\n\
                 except nbd.Error as error: print(error.errno)";
    let image = folder.join("image");
    assert_eq!(
        libnbd(stale, &[server.uri(), image.to_str().unwrap()]),
        "4194304\nEIO\n"
    );
    assert!(
        server
            .log()
            .contains("had 4194304 bytes, and now has 1048576")
    );
    server.detach();

    for (name, words) in [
        ("plain-image", "does not send ranges of bytes"),
        ("missing", "HTTP Error 404"),
    ] {
        let server = Server::new(&file_of("examples/url.py"), &[&url(name)]);
        fails("nbdinfo", [server.uri()]);
        assert!(server.log().contains(words), "{}", server.log());
        server.detach();
    }
    let server = Server::new(&file_of("examples/url.py"), &[&url("short-image")]);
    assert_eq!(libnbd(read, &[server.uri()]), "EIO\n");
    assert!(server.log().contains("the answer ends after 256 bytes"));
    server.detach();
}

#[test]
fn callbacks_that_are_methods_of_the_handle() {
    if !clients(&["libnbd", "nbdinfo"]) {
        return;
    }
    let server = style(Home::new(), "bound", &[]);
    let listed = run("nbdinfo", ["--list", "--json", server.uri()]);
    for words in ["\"one\"", "\"two\"", "the second"] {
        assert!(listed.contains(words), "{listed}");
    }
    let code = "
h.set_full_info(True)
h.connect_uri(args[0])
print(h.get_export_description())
g = nbd.NBD()
g.connect_uri(args[1])
h.pwrite(b'first', 0)
g.pwrite(b'other', 0)
h.flush()
print(bytes(h.pread(5, 0)), bytes(g.pread(5, 0)), h.can_fua(), h.is_read_only(), h.get_size())
";
    let told = libnbd(code, &[&server.export("one"), &server.export("two")]);
    assert_eq!(told, "export 'one'\nb'first' b'other' False False 65536\n");
    server.detach();
}

#[test]
fn a_file_object_by_builtins_open() {
    if !clients(&["nbdcopy", "qemu-img"]) {
        return;
    }
    let home = Home::new();
    let image = image(&home, 8 * MIB);
    let backing = home.path("backing");
    File::create(&backing).unwrap().set_len(8 * MIB).unwrap();
    let server = style(home, "builtin", &[&parameter("file", &backing)]);
    there_and_back(&server, &image);
    assert_same(&image, &backing);
    server.detach();
}

#[test]
fn callbacks_that_are_bound_anew() {
    if !clients(&["libnbd"]) {
        return;
    }
    let server = style(Home::new(), "rebinding", &[]);
    let code = "
h.connect_uri(args[0])
def word(call, *words):
    try: return call(*words) or 'done'
    except nbd.Error as error: return error.errno
for _ in range(4):
    print(bytes(h.pread(8, 0)).decode(), word(h.pwrite, b'x' * 512, 0))
    h.flush()
g = nbd.NBD()
g.connect_uri(args[0])
print(g.is_read_only())
";
    let told = libnbd(code, &[server.uri()]);
    let expected = "00000000 EIO\n00000001 done\n00000002 done\n00000003 EIO\nFalse\n";
    assert_eq!(told, expected);
    server.detach();
}

#[test]
fn threads_that_after_fork_starts() {
    if !clients(&["libnbd"]) {
        return;
    }
    let home = Home::new();
    let report = home.path("report");
    let server = style(home, "background", &[&parameter("report", &report)]);
    let code = "
h.connect_uri(args[0])
for n in range(64): h.pwrite(b'x' * 4096, n * 8192)
h.flush()
assert bytes(h.pread(64 * 8192, 0)) == (b'x' * 4096 + bytes(4096)) * 64
for n in range(10): h.pwrite(b'x' * 4096, n * 8192 + 4096)
";
    libnbd(code, &[server.uri()]);
    server.detach();
    // What was queued at the end was stored by `cleanup`.
    assert_eq!(fs::read_to_string(&report).unwrap(), "74 303104");
}
