//! A web server for static files that knows ranges, on a port of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Serves a folder. Files in it named `plain-*` are served without ranges, and of `short-*` half of what
/// was promised is sent.
const SERVER: &str = r#"
import http.server, os, re, sys

class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *words): pass
    def do_GET(self):
        path = self.translate_path(self.path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked or not os.path.isfile(path) or "plain-" in path:
            return super().do_GET()
        size = os.path.getsize(path)
        first, last = int(asked[1]), min(int(asked[2]), size - 1)
        if first > last:
            return self.send_error(416)
        with open(path, "rb") as file:
            file.seek(first)
            data = file.read(last - first + 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if "short-" in path and len(data) > 1:
            self.close_connection = True
            data = data[:len(data) // 2]
        self.wfile.write(data)

os.chdir(sys.argv[1])
class Server(http.server.ThreadingHTTPServer):
    # A client that goes away is no news.
    def handle_error(self, request, address): pass

server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// Runs until it is dropped.
pub struct Web {
    process: Child,
    port: u16,
}

impl Web {
    pub fn serving(folder: &Path) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", SERVER])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        Self { process, port }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
