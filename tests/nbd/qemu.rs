//! QEMU's programs as NBD clients: qemu-img and qemu-io, each with a disk that pydisk serves.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use support::nbd::{
    KIB, MIB, Server, allocated, assert_same, clients, file_server, json, nbdinfo_map, program,
    run, sparse_image,
};

#[test]
fn qemu_img_inspects_converts_and_compares() {
    if !clients(&["qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let image = path("image");
    sparse_image(Path::new(&image), 256 * MIB);
    let (server, backing) = file_server(256 * MIB);
    let uri = server.uri();

    let info = json(&run("qemu-img", ["info", "--output=json", uri]));
    assert_eq!(info["virtual-size"], 256 * MIB);
    assert_eq!(info["format"], "raw");
    run(
        "qemu-img",
        ["convert", "-n", "-f", "raw", "-O", "raw", &image, uri],
    );
    run(
        "qemu-img",
        ["compare", "-f", "raw", "-F", "raw", &image, uri],
    );
    run(
        "qemu-img",
        ["convert", "-f", "raw", "-O", "qcow2", uri, &path("qcow2")],
    );
    run("qemu-img", ["compare", "-F", "raw", &path("qcow2"), uri]);
    run(
        "qemu-img",
        ["convert", "-f", "raw", "-O", "raw", uri, &path("raw")],
    );
    let bench = [
        "bench", "-f", "raw", "-c", "500", "-d", "16", "-s", "4096", uri,
    ];
    run("qemu-img", bench);
    let writes = [
        "bench",
        "-f",
        "raw",
        "-w",
        "-d",
        "8",
        "--flush-interval=16",
        "-c",
        "100",
        uri,
    ];
    run("qemu-img", writes);

    // What it wrote begins at 0; a difference is found.
    let differ = program(
        "qemu-img",
        ["compare", "-f", "raw", "-F", "raw", &image, uri],
    )
    .stdout(Stdio::null())
    .status()
    .unwrap();
    assert_eq!(differ.code(), Some(1));
    server.detach();
    assert_same(Path::new(&path("raw")), Path::new(&image));
    let enough = allocated(Path::new(&image)) + 4 * MIB;
    assert!(allocated(&backing) <= enough, "{}", allocated(&backing));
}

/// Extents of all four kinds, 1 MiB each; what is not data reads as zeroes all the same.
const PATCHWORK: &str = "
import nbdkit
API_VERSION = 2
def open(readonly): return 0
def get_size(h): return 8 << 20
def pread(h, buf, offset, flags):
    for at in range(0, len(buf), 512):
        buf[at:at + 512] = bytes([0x5a if (offset + at >> 20) % 4 == 0 else 0]) * 512
def extents(h, count, offset, flags):
    end = offset + count
    while offset < end:
        part = offset >> 20
        length = (part + 1 << 20) - offset
        yield offset, length, part % 4
        offset += length
";

#[test]
fn qemu_img_map_shows_the_extents_of_the_plugin() {
    if !clients(&["qemu-img", "nbdinfo"]) {
        return;
    }
    let server = Server::of_script(PATCHWORK, &[]);
    let map = json(&run(
        "qemu-img",
        ["map", "-f", "raw", "--output=json", server.uri()],
    ));
    let seen: Vec<_> = map
        .as_array()
        .unwrap()
        .iter()
        .map(|extent| {
            let is = |field: &str| extent[field].as_bool().unwrap();
            let number = |field: &str| extent[field].as_u64().unwrap() / MIB;
            (number("start"), number("length"), is("data"), is("zero"))
        })
        .collect();
    // `data` is false for a hole, whatever it reads as.
    let kinds = [(true, false), (false, false), (true, true), (false, true)];
    let expected: Vec<_> = (0..8)
        .zip(kinds.into_iter().cycle())
        .map(|(part, (data, zero))| (part, 1, data, zero))
        .collect();
    assert_eq!(seen, expected);
    let kinds: Vec<_> = nbdinfo_map(server.uri());
    let expected = ["data", "hole", "zero", "hole,zero"].map(|kind| (MIB, kind.to_owned()));
    assert_eq!(kinds, [expected.clone(), expected].concat());
    server.detach();
}

#[test]
fn qemu_io_writes_zeroes_discards_and_reads_back() {
    if !clients(&["qemu-io"]) {
        return;
    }
    let (server, backing) = file_server(8 * MIB);
    let script = [
        "write -P 0x11 0 1M",
        "write -f -P 0x22 1M 64k",
        "write -z 64k 64k",
        "write -z -u 128k 64k",
        "discard 256k 64k",
        "flush",
        "read -P 0x11 0 64k",
        "read -P 0 64k 128k",
        "read -P 0 256k 64k",
        "read -P 0x11 320k 704k",
        "read -P 0x22 1M 64k",
        "aio_write -P 0x33 2M 1M",
        "aio_write -P 0x44 3M 1M",
        "aio_flush",
        "read -P 0x33 2M 1M",
        "read -P 0x44 3M 1M",
        "read -P 0x11 512 3000",
    ];
    let mut words = vec!["-f", "raw", "-d", "unmap", server.uri()];
    for line in script {
        words.extend(["-c", line]);
    }
    let said = run("qemu-io", &words);
    assert!(!said.contains("ailed"), "{said}");
    let wrong = support::nbd::fails(
        "qemu-io",
        ["-f", "raw", "-c", "read -P 0x55 0 512", server.uri()],
    );
    assert!(wrong.contains("Pattern verification failed"), "{wrong}");
    server.detach();
    let mut bytes = vec![0; 512];
    let file = File::open(&backing).unwrap();
    for (at, byte) in [(0, 0x11), (64 * KIB, 0), (MIB, 0x22), (2 * MIB, 0x33)] {
        file.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes.iter().all(|&seen| seen == byte), "{at}: {}", bytes[0]);
    }
}
