//! An NBD client that is not ours: libnbd, by its Python module, in a process that stays.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::skip;

/// The Python that distributions install the module for.
const PYTHON: &str = "/usr/bin/python3";

/// Evaluates each line that it reads, with `h` for the connection, and prints what comes out.
const SCRIPT: &str = "
import nbd, sys
h = nbd.NBD()
for line in sys.stdin:
    try: print(repr(eval(line)), flush=True)
    except Exception as error: print('error:', ' '.join(str(error).split()), flush=True)
";

/// Whether this host has libnbd. Says so if not, and fails if `PYDISK_REQUIRE` lists `nbd-clients`.
pub fn available() -> bool {
    let found = Command::new(PYTHON).args(["-c", "import nbd"]).output();
    if found.is_ok_and(|found| found.status.success()) {
        return true;
    }
    skip("nbd-clients", &format!("{PYTHON} has no module nbd"))
}

/// One connection.
pub struct Client(Child);

impl Client {
    /// A client that is not connected.
    pub fn new() -> Self {
        let child = Command::new(PYTHON)
            .args(["-u", "-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// A client that has the export of `uri` open.
    #[track_caller]
    pub fn connected(uri: &str) -> Self {
        let mut client = Self::new();
        assert_eq!(client.connect(uri), "None");
        client
    }

    pub fn connect(&mut self, uri: &str) -> String {
        self.eval(&format!("h.connect_uri({uri:?})"))
    }

    /// What an expression gives: its value as Python shows it, or `error: ` and why.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> String {
        self.start(expression);
        self.finish()
    }

    /// Begin to evaluate.
    #[track_caller]
    pub fn start(&mut self, expression: &str) {
        let stdin = self.0.stdin.as_mut().unwrap();
        writeln!(stdin, "{expression}").unwrap();
    }

    /// What [`Client::start`] came to.
    #[track_caller]
    pub fn finish(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.0.stdout.as_mut().unwrap();
        // One byte at a time, because nothing may be read ahead of the next answer.
        BufReader::with_capacity(1, stdout)
            .read_line(&mut line)
            .unwrap();
        line.trim_end().to_owned()
    }

    /// Read a few bytes.
    #[track_caller]
    pub fn read(&mut self) -> String {
        self.eval("bytes(h.pread(8, 0))")
    }

    /// The process that is the client.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Go away without a word.
    pub fn vanish(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Disconnect as one should.
    #[track_caller]
    pub fn leave(mut self) {
        assert_eq!(self.eval("h.shutdown()"), "None");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
