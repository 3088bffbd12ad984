//! Every Python file that ships, attached as its first line says and used for what it is for.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::FallocateFlags;
use support::device::{Attached, Kind};
use support::repository;
use support::web::Web;

/// Uses a disk and fails the test if it is not what it should be.
type Check = fn(&File);

/// What is tried on each file. A file without an entry fails the test.
const FILES: [(&str, Check); 9] = [
    ("examples/async_http.py", has_numbers),
    ("examples/errors.py", keeps_what_is_written),
    ("examples/hello.py", says_hello),
    ("examples/pattern.py", counts),
    ("examples/ramdisk.py", keeps_what_is_written),
    ("examples/url.py", reads_as_letters),
    ("examples/v1.py", keeps_what_is_written),
    ("plugins/file.py", keeps_what_is_written),
    ("plugins/memory.py", keeps_what_is_written),
];

fn keeps_what_is_written(disk: &File) {
    let data: Vec<u8> = (1..=251).cycle().take(800_000).collect();
    disk.write_all_at(&data, 12345).unwrap();
    disk.sync_all().unwrap();
    let mut found = vec![0; data.len()];
    disk.read_exact_at(&mut found, 12345).unwrap();
    assert!(found == data);
    zeroed(disk, FallocateFlags::PUNCH_HOLE, 65536);
    zeroed(disk, FallocateFlags::ZERO_RANGE, 262_144);
    disk.read_exact_at(&mut found[..100], 12345).unwrap();
    assert_eq!(found[..100], data[..100]);
}

fn zeroed(disk: &File, how: FallocateFlags, at: u64) {
    rustix::fs::fallocate(disk, how | FallocateFlags::KEEP_SIZE, at, 65536).unwrap();
    let mut found = [1; 65536 + 2];
    disk.read_exact_at(&mut found, at - 1).unwrap();
    assert!(found[1..=65536].iter().all(|byte| *byte == 0));
    assert!(found[0] != 0 && found[65537] != 0, "too much was zeroed");
}

fn says_hello(disk: &File) {
    let mut found = [0; 18];
    disk.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"Hello from Python!");
}

fn reads_as_letters(disk: &File) {
    let mut found = vec![0; 1 << 20];
    disk.read_exact_at(&mut found, 12345).unwrap();
    assert!(found.iter().all(|byte| *byte == b'u'));
    disk.write_all_at(b"rubbish!", 4096).unwrap_err();
}

/// Many reads at the same time, of what the test's web server has.
fn has_numbers(disk: &File) {
    std::thread::scope(|scope| {
        for reader in 0..32 {
            scope.spawn(move || {
                for at in (0..WEB_BYTES).step_by(65536).skip(reader) {
                    let mut found = [0; 4096 + 8];
                    disk.read_exact_at(&mut found, at + 8).unwrap();
                    let last = u64::from_be_bytes(found[4096..].try_into().unwrap());
                    assert_eq!(last, at + 8 + 4096);
                }
            });
        }
    });
}

/// What the web server has: so many bytes, in which every 8 hold their own offset.
const WEB_BYTES: u64 = 1 << 20;

/// A web server that knows ranges, closes every tenth connection, and prints its port.
const WEB: &str = "
import http.server, re
data = b''.join(at.to_bytes(8, 'big') for at in range(0, 1 << 20, 8))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    count = 0
    def do_HEAD(self):
        self.answer(200, len(data))
    def do_GET(self):
        first, last = map(int, re.fullmatch(r'bytes=(\\d+)-(\\d+)', self.headers['Range']).groups())
        assert self.headers['If-Range'] == '\"v1\"' and self.path == '/disk.img'
        body = data[first:last + 1]
        self.answer(206, len(body))
        self.wfile.write(body)
        self.count += 1
        self.close_connection = self.count % 10 == 0
    def answer(self, status, length):
        self.send_response(status)
        self.send_header('Content-Length', str(length))
        self.send_header('ETag', '\"v1\"')
        self.end_headers()
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
";

/// A web server that ends with this.
struct Numbers(Child, String);

impl Numbers {
    fn start() -> Self {
        let mut server = Command::new("python3")
            .args(["-c", WEB])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        let stdout = server.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut port).unwrap();
        Self(server, format!("http://127.0.0.1:{}/disk.img", port.trim()))
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn counts(disk: &File) {
    let mut found = [0; 8];
    for at in [0, 8, 4096, (1 << 40) - 8] {
        disk.read_exact_at(&mut found, at).unwrap();
        assert_eq!(u64::from_be_bytes(found), at);
    }
    disk.write_all_at(&4096_u64.to_be_bytes(), 4096).unwrap();
    disk.write_all_at(b"rubbish!", 4096).unwrap_err();
}

/// The parameters in a file's first line, with the paths of this test.
fn parameters(file: &Path, backing: &Path, (web, numbers): (&Web, &Numbers)) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let first = text.lines().next().unwrap();
    let name = file.file_stem().unwrap().to_str().unwrap();
    assert!(first.starts_with("# pydisk attach "), "{first}");
    assert!(first.contains(name), "{first}");
    let words = first.split_whitespace().filter(|word| word.contains('='));
    words
        .map(|word| match word.split_once('=').unwrap() {
            ("file", _) => format!("file={}", backing.display()),
            ("url", _) if file.ends_with("async_http.py") => format!("url={}", numbers.1),
            ("url", _) => format!("url={}", web.url("letters")),
            _ => word.to_owned(),
        })
        .collect()
}

#[test]
fn each_file_does_what_its_first_line_says() {
    if !Kind::File.available() {
        return;
    }
    for folder in ["examples", "plugins"] {
        for entry in std::fs::read_dir(repository(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".py") {
                let name = format!("{folder}/{name}");
                assert!(
                    FILES.iter().any(|(file, _)| *file == name),
                    "{name} is not tried"
                );
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let backing = folder.path().join("backing");
    File::create(&backing).unwrap().set_len(8 << 20).unwrap();
    std::fs::write(folder.path().join("letters"), vec![b'u'; 4 << 20]).unwrap();
    let web = Web::serving(folder.path());
    let numbers = Numbers::start();
    for (name, check) in FILES {
        let file = repository(name);
        let parameters = parameters(&file, &backing, (&web, &numbers));
        let parameters: Vec<_> = parameters.iter().map(String::as_str).collect();
        let disk = Attached::new(Kind::File, &file, &parameters);
        let read_only = [
            "examples/hello.py",
            "examples/url.py",
            "examples/async_http.py",
        ];
        let writable = !read_only.contains(&name);
        let opened = OpenOptions::new()
            .read(true)
            .write(writable)
            .open(&disk.path)
            .unwrap();
        check(&opened);
        drop(opened);
        disk.detach();
    }
}

#[test]
fn the_file_plugin_keeps_holes() {
    if !Kind::File.available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let backing = folder.path().join("backing");
    File::create(&backing).unwrap().set_len(64 << 20).unwrap();
    let parameter = format!("file={}", backing.display());
    let disk = Attached::new(Kind::File, &repository("plugins/file.py"), &[&parameter]);
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&disk.path)
        .unwrap();
    let allocated = || std::fs::metadata(&backing).unwrap().blocks() * 512;
    assert_eq!(allocated(), 0);
    opened.write_all_at(&vec![7; 1 << 20], 8 << 20).unwrap();
    opened.sync_all().unwrap();
    assert!((1 << 20..2 << 20).contains(&allocated()), "{}", allocated());
    let data = rustix::fs::seek(&opened, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert_eq!(data, 8 << 20);
    let hole = rustix::fs::seek(&opened, rustix::fs::SeekFrom::Hole(data)).unwrap();
    assert_eq!(hole, 9 << 20);
    let all = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&opened, all, 8 << 20, 1 << 20).unwrap();
    assert_eq!(allocated(), 0);
    drop(opened);
    disk.detach();
}
