//! TLS: who may talk to a server that allows or requires it, with the clients that people use.

use std::fs;
use std::path::{Path, PathBuf};

use support::client::Client;
use support::home::until;
use support::nbd::raw::{OPTION_REPLY, Raw, contexts, export, opt, option, rep};
use support::nbd::{Home, Server, clients, fails, json, libnbd, run};

/// Reads as `T` for clients that encrypt and as `p` for others; its list says so, too.
const PLUGIN: &str = "
import nbdkit
API_VERSION = 2
store = bytearray(1 << 20)
def default_export(readonly, is_tls): return 'secret-' + ('tls' if is_tls else 'plain')
def list_exports(readonly, is_tls): return [default_export(readonly, is_tls)]
def open(readonly): return nbdkit.export_name()
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    buf[:] = store[offset:offset + len(buf)]
    if offset == 0: buf[:1] = b'T' if h == 'secret-tls' else b'p'
def pwrite(h, buf, offset, flags): store[offset:offset + len(buf)] = buf
";

/// How certificates for authorities, servers and clients look.
const OPENSSL: &str = "
[req]
distinguished_name = name
prompt = no
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = clientAuth
";

/// Folders with certificates, made for one test.
struct Keys {
    folder: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        let keys = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(keys.of("openssl"), OPENSSL).unwrap();
        for authority in ["ours", "theirs"] {
            fs::create_dir(keys.of(authority)).unwrap();
            keys.make(&keys.of(authority), "ca", "authority", None);
        }
        let ours = keys.of("ours");
        keys.holder("server", "ours", Some(("server", &ours)));
        keys.holder("client", "ours", Some(("client", &ours)));
        // Trusts the server, has nothing to show.
        keys.holder("anonymous", "ours", None);
        // Trusts the server, shows what somebody else has signed.
        let theirs = keys.of("theirs");
        keys.holder("stranger", "ours", Some(("client", &theirs)));
        // Does not trust the server.
        keys.holder("doubter", "theirs", Some(("client", &ours)));
        keys
    }

    fn of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.of(name).display().to_string()
    }

    /// A folder with the certificate of the authority that its holder trusts, and one of its own.
    fn holder(&self, name: &str, trusts: &str, own: Option<(&str, &Path)>) {
        let folder = self.of(name);
        fs::create_dir(&folder).unwrap();
        let authority = self.of(trusts).join("ca-cert.pem");
        fs::copy(authority, folder.join("ca-cert.pem")).unwrap();
        if let Some((kind, signed_by)) = own {
            self.make(&folder, kind, kind, Some(signed_by));
        }
    }

    fn make(&self, folder: &Path, file: &str, kind: &str, signed_by: Option<&Path>) {
        let config = self.text("openssl");
        let subject = format!("/CN=pydisk test {kind}");
        let path = |folder: &Path, end: &str| folder.join(end).display().to_string();
        let mut words: Vec<String> = ["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]
            .map(str::to_owned)
            .to_vec();
        words.extend(["-pkeyopt", "ec_paramgen_curve:prime256v1"].map(str::to_owned));
        words.extend(
            ["-config", &config, "-extensions", kind, "-subj", &subject].map(str::to_owned),
        );
        words.extend([
            "-keyout".to_owned(),
            path(folder, &format!("{file}-key.pem")),
        ]);
        words.extend(["-out".to_owned(), path(folder, &format!("{file}-cert.pem"))]);
        if let Some(authority) = signed_by {
            words.extend(["-CA".to_owned(), path(authority, "ca-cert.pem")]);
            words.extend(["-CAkey".to_owned(), path(authority, "ca-key.pem")]);
        }
        run("openssl", words);
    }

    /// A server that uses its folder.
    fn server(&self, mode: &str, more: &[&str]) -> Server {
        let folder = self.text("server");
        let mut args = vec!["--tls", mode, "--tls-certificates", &folder];
        args.extend(more);
        Server::of_script(PLUGIN, &args)
    }

    /// The URI for a client that has the folder of `holder`.
    fn uri(&self, server: &Server, holder: &str) -> String {
        let (socket, folder) = (server.socket().display(), self.text(holder));
        format!("nbds+unix:///?socket={socket}&tls-certificates={folder}")
    }

    /// The words for qemu-img: the credentials, and the image.
    fn qemu(&self, server: &Server, holder: &str) -> (String, String) {
        let folder = self.text(holder);
        let socket = server.socket().display();
        (
            format!("tls-creds-x509,id=tls,endpoint=client,dir={folder}"),
            format!(
                "driver=nbd,server.type=unix,server.path={socket},tls-creds=tls,tls-hostname=localhost"
            ),
        )
    }
}

/// The first byte that a client reads by libnbd.
#[track_caller]
fn first_byte(uri: &str) -> String {
    libnbd(
        "h.set_uri_allow_local_file(True)\nh.connect_uri(args[0])\nprint(h.pread(1, 0).decode(), end='')\nh.shutdown()\n",
        &[uri],
    )
}

#[test]
fn off_is_the_default_and_says_so() {
    let server = Server::of_script(PLUGIN, &[]);
    let mut client = server.raw();
    client.greet();
    let kind = client.answer(opt::STARTTLS, &[]);
    assert!(kind & 0x8000_0000 != 0, "{kind:x}");
    // It may go on without.
    client.go("");
    assert_eq!(client.pread(0, 1), b"p");
    drop(client);
    if clients(&["nbdinfo", "openssl"]) {
        let keys = Keys::new();
        fails("nbdinfo", [keys.uri(&server, "anonymous")]);
    }
    server.detach();
}

#[test]
fn allowed_serves_those_who_encrypt_and_those_who_do_not() {
    if !clients(&["libnbd", "nbdinfo", "openssl"]) {
        return;
    }
    let keys = Keys::new();
    let server = keys.server("allowed", &[]);
    assert_eq!(first_byte(&keys.uri(&server, "anonymous")), "T");
    assert_eq!(first_byte(&server.export("")), "p");
    for (uri, encrypted) in [
        (keys.uri(&server, "anonymous"), true),
        (server.export(""), false),
    ] {
        let info = json(&run("nbdinfo", ["--list", "--json", &uri]));
        assert_eq!(info["TLS"], encrypted);
        let name = if encrypted {
            "secret-tls"
        } else {
            "secret-plain"
        };
        assert_eq!(info["exports"][0]["export-name"], name);
    }
    server.detach();
}

#[test]
fn required_is_required() {
    if !clients(&["libnbd", "nbdinfo", "openssl"]) {
        return;
    }
    let keys = Keys::new();
    let server = keys.server("required", &[]);
    fails("nbdinfo", [server.export("")]);
    fails("nbdinfo", ["--list", &server.export("")]);
    assert_eq!(first_byte(&keys.uri(&server, "anonymous")), "T");
    // Who would rather not, but can, does.
    let code = "
h.set_tls(nbd.TLS_ALLOW)
h.set_tls_certificates(args[1])
h.connect_unix(args[0])
assert h.get_tls_negotiated() and h.pread(1, 0) == b'T'
h.shutdown()
";
    let socket = server.socket().to_str().unwrap();
    libnbd(code, &[socket, &keys.text("anonymous")]);
    assert!(
        server.uri().starts_with("nbds+unix:///"),
        "{}",
        server.uri()
    );
    let mut client = Client::new();
    client.eval("h.set_uri_allow_local_file(True)");
    assert_eq!(client.connect(&keys.uri(&server, "anonymous")), "None");
    assert_eq!(server.home.field("disk", "clients")[0]["tls"], true);
    client.leave();
    until("it has left", || {
        server
            .home
            .field("disk", "clients")
            .as_array()
            .unwrap()
            .is_empty()
    });
    server.detach();
}

#[test]
fn an_address_that_says_nbds_requires_tls_over_tcp() {
    if !clients(&["libnbd", "openssl"]) {
        return;
    }
    let keys = Keys::new();
    let home = Home::new();
    let script = home.script("plugin.py", PLUGIN).display().to_string();
    let folder = keys.text("server");
    let address = "nbds://localhost:0";
    let words = [
        "attach",
        "--name",
        "disk",
        "--tls-certificates",
        &folder,
        &script,
        address,
    ];
    let said = home.run(words);
    assert_eq!(said.code, 0, "{said:?}");
    let uri = said.stdout.trim_end();
    assert!(uri.starts_with("nbds://localhost:"), "{uri}");
    let slash = if uri.ends_with('/') { "" } else { "/" };
    let with_certificates = format!("{uri}{slash}?tls-certificates={}", keys.text("anonymous"));
    assert_eq!(first_byte(&with_certificates), "T");
    fails("nbdinfo", [uri.replace("nbds:", "nbd:")]);
    // Over TCP libnbd wants to know who the server is.
    let doubter = format!("{uri}{slash}?tls-certificates={}", keys.text("doubter"));
    fails("nbdinfo", [doubter]);
    // The name in the certificate is not this one.
    let code = "
h.set_tls(nbd.TLS_REQUIRE)
h.set_tls_certificates(args[1])
try: h.connect_tcp('127.0.0.2', args[0])
except nbd.Error as error: print(error)
else: raise AssertionError('connected')
";
    let port = uri.trim_end_matches('/').rsplit(':').next().unwrap();
    libnbd(code, &[port, &keys.text("anonymous")]);
    assert_eq!(home.run(["detach", "disk"]).code, 0);
}

#[test]
fn clients_have_to_show_a_certificate_when_that_is_asked() {
    if !clients(&["libnbd", "nbdinfo", "qemu-img", "openssl"]) {
        return;
    }
    let keys = Keys::new();
    for mode in ["required", "allowed"] {
        let server = keys.server(mode, &["--tls-verify-peer"]);
        assert_eq!(first_byte(&keys.uri(&server, "client")), "T");
        for holder in ["anonymous", "stranger"] {
            fails("nbdinfo", [keys.uri(&server, holder)]);
        }
        let (creds, image) = keys.qemu(&server, "client");
        run(
            "qemu-img",
            ["info", "--object", &creds, "--image-opts", &image],
        );
        for holder in ["anonymous", "stranger", "doubter"] {
            let (creds, image) = keys.qemu(&server, holder);
            fails(
                "qemu-img",
                ["info", "--object", &creds, "--image-opts", &image],
            );
        }
        // Those who failed did no harm.
        assert_eq!(first_byte(&keys.uri(&server, "client")), "T");
        server.detach();
    }
}

#[test]
fn nbdcopy_and_qemu_img_copy_through_tls() {
    if !clients(&["nbdcopy", "nbdinfo", "qemu-img", "openssl"]) {
        return;
    }
    let keys = Keys::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut bytes = vec![0; 1 << 20];
    fastrand::Rng::with_seed(5).fill(&mut bytes);
    bytes[0] = b'T';
    fs::write(path("image"), &bytes).unwrap();
    let same = |name: &str| assert!(fs::read(path(name)).unwrap() == bytes, "{name}");

    let server = keys.server("required", &["--tls-verify-peer"]);
    let uri = keys.uri(&server, "client");
    run("nbdcopy", [&path("image"), &uri]);
    run("nbdcopy", [&uri, &path("by-nbdcopy")]);
    same("by-nbdcopy");
    let (creds, image) = keys.qemu(&server, "client");
    let out = path("by-qemu");
    let words = [
        "convert",
        "--object",
        &creds,
        "--image-opts",
        &image,
        "-O",
        "raw",
        &out,
    ];
    run("qemu-img", words);
    same("by-qemu");
    server.detach();

    let server = keys.server("required", &[]);
    let (creds, image) = keys.qemu(&server, "anonymous");
    let from = path("image");
    let words = [
        "convert",
        "--object",
        &creds,
        "-n",
        "-f",
        "raw",
        "--target-image-opts",
        &from,
    ];
    run("qemu-img", [&words[..], &[&image]].concat());
    run("nbdcopy", [&keys.uri(&server, "anonymous"), &path("back")]);
    same("back");
    server.detach();
}

/// What a server says before STARTTLS that must not be known to everybody.
fn gives_away(said: &[u8]) -> bool {
    let contains = |what: &[u8]| said.windows(what.len()).any(|part| part == what);
    contains(b"secret") || contains(&(1_u64 << 20).to_be_bytes())
}

#[test]
fn nothing_is_told_before_tls_where_it_is_required() {
    if !clients(&["openssl"]) {
        return;
    }
    let keys = Keys::new();
    let server = keys.server("required", &[]);
    let mut client = server.raw();
    client.greet();
    let options = [
        (opt::LIST, vec![]),
        (opt::INFO, export(b"", &[])),
        (opt::INFO, export(b"secret-plain", &[1, 2, 3])),
        (opt::GO, export(b"", &[])),
        (opt::GO, b"nonsense".to_vec()),
        (opt::STRUCTURED_REPLY, vec![]),
        (opt::EXTENDED_HEADERS, vec![]),
        (opt::LIST_META_CONTEXT, contexts(b"", &[])),
        (opt::SET_META_CONTEXT, contexts(b"", &[b"base:allocation"])),
    ];
    for (number, data) in options {
        let replies = client.option(number, &data);
        let kinds: Vec<_> = replies.iter().map(|reply| reply.kind).collect();
        assert_eq!(kinds, [rep::ERR_TLS_REQD], "{number}");
        assert!(!gives_away(&replies[0].data), "{number}: {replies:?}");
    }
    // That has no reply but the export itself.
    client.send(&option(opt::EXPORT_NAME, b""));
    client.ended();
    // Nobody gets so far by asking at once, without waiting for answers.
    let mut client = server.raw();
    client.greet();
    client.send(&option(opt::LIST, &[]));
    client.send(&option(opt::GO, &export(b"", &[])));
    client.send(&option(opt::EXPORT_NAME, b""));
    assert!(!gives_away(&client.rest()));
    // Leaving is allowed.
    let mut client = server.raw();
    client.greet();
    assert_eq!(client.answer(opt::ABORT, &[]), rep::ACK);
    server.detach();
}

/// What is sent in the clear behind STARTTLS is taken for the first bytes of TLS, which it is not.
#[test]
fn words_smuggled_in_before_tls_are_not_interpreted() {
    if !clients(&["libnbd", "openssl"]) {
        return;
    }
    let keys = Keys::new();
    for mode in ["allowed", "required"] {
        let server = keys.server(mode, &[]);
        let smuggled: [Vec<u8>; 3] = [
            option(opt::LIST, &[]),
            option(opt::GO, &export(b"", &[])),
            [option(opt::EXPORT_NAME, b""), vec![0; 64]].concat(),
        ];
        for bytes in smuggled {
            let mut client: Raw = server.raw();
            client.greet();
            client.send(&[option(opt::STARTTLS, &[]), bytes].concat());
            let reply = client.option_reply();
            assert_eq!((reply.option, reply.kind), (opt::STARTTLS, rep::ACK));
            let said = client.rest();
            let magic = OPTION_REPLY.to_be_bytes();
            let answered = said.windows(8).any(|part| part == magic);
            assert!(!answered && !gives_away(&said), "{mode}: {said:?}");
        }
        assert_eq!(first_byte(&keys.uri(&server, "anonymous")), "T");
        server.detach();
    }
}

#[test]
fn a_tls_handshake_that_does_not_come_is_not_waited_for() {
    if !clients(&["openssl"]) {
        return;
    }
    let keys = Keys::new();
    let server = keys.server("required", &["--limit", "handshake=1"]);
    let mut silent = server.raw();
    silent.greet();
    assert_eq!(silent.answer(opt::STARTTLS, &[]), rep::ACK);
    silent.rest();
    server.detach();
}

#[test]
fn wrong_folders_are_refused_before_anything_listens() {
    if !clients(&["openssl"]) {
        return;
    }
    let keys = Keys::new();
    let home = Home::new();
    let script = home.script("plugin.py", PLUGIN).display().to_string();
    let socket = home.path("socket");
    let target = format!("nbd+unix:///?socket={}", socket.display());
    let client = keys.text("client");
    let cases: [(&[&str], &str); 4] = [
        (&["--tls", "required"], "--tls-certificates"),
        (
            &["--tls", "required", "--tls-certificates", "/nowhere"],
            "/nowhere",
        ),
        (
            &["--tls", "allowed", "--tls-certificates", &client],
            "server-cert.pem",
        ),
        (&["--tls-verify-peer"], "tls"),
    ];
    for (options, words) in cases {
        let said = home.run([&["attach"], options, &[&script, &target]].concat());
        assert!(said.code == 1 || said.code == 2, "{options:?}: {said:?}");
        assert!(said.stderr.contains(words), "{options:?}: {said:?}");
        assert!(!socket.exists() && home.attachments().is_empty());
    }
}
