//! Where an NBD server listens: what the user wrote, parsed, and the URI that clients use.
//!
//! The forms are those of the NBD URI specification, and two of our own for sockets that are open
//! already. <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md>

use std::ffi::OsString;
use std::fmt;
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, percent_encode,
    utf8_percent_encode,
};
use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::refusal::words;

/// The port that clients use when a URI names none.
pub const DEFAULT_PORT: u16 = 10809;

/// No export name is longer, in bytes; the protocol's own advice.
const NAME_MAX: usize = 4096;

/// Where an NBD server listens, and the export that its URI names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Where.
    pub place: Place,
    /// The export that the server's URI names; empty for the default one.
    pub export: String,
    /// Whether the URI says that TLS must be used (`nbds:`).
    pub tls: bool,
}

/// Where an NBD server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A TCP port; 0 for a free one.
    Tcp {
        /// A name or an address, IPv6 without brackets; none for the loopback addresses.
        host: Option<String>,
        /// The port.
        port: u16,
    },
    /// A TCP port on every address of this machine; 0 for a free one. No URI says this.
    Everywhere {
        /// The port.
        port: u16,
    },
    /// A Unix socket; none for one in the attachment's folder.
    Unix(Option<PathBuf>),
    /// A vsock port on every context identifier of this machine; 0 for a free one.
    Vsock(u32),
    /// One client on standard input and output.
    Stdio,
    /// The sockets that systemd passed to this process.
    Activation,
}

impl FromStr for Address {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        parse(text).map_err(|what| {
            Refusal::about(format_args!("target `{text}`"), what).hint(
                "use nbd://HOST[:PORT][/EXPORT], nbd+unix:///[EXPORT]?socket=PATH, \
                 nbd+vsock://[:PORT][/EXPORT], nbd+stdio: or nbd+systemd: (nbds... requires TLS)",
            )
        })
    }
}

fn parse(text: &str) -> Result<Address, String> {
    let (scheme, rest) = text
        .split_once(':')
        .ok_or("an NBD address begins with `nbd:`")?;
    let (family, transport) = scheme.split_once('+').unwrap_or((scheme, "tcp"));
    let tls = match family {
        "nbd" => false,
        "nbds" => true,
        _ => return Err(format!("`{scheme}:` is no kind of NBD address")),
    };
    if rest.contains('#') {
        return Err("an NBD address has no part behind `#`".into());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let parts = Parts::split(rest)?;
    let socket = socket_of(query)?;
    if socket.is_some() && transport != "unix" {
        return Err("`socket=` belongs to `nbd+unix:`".into());
    }
    let place = match transport {
        "tcp" => tcp(parts.authority)?,
        "unix" => {
            parts.no_authority(scheme)?;
            Place::Unix(socket)
        }
        "vsock" => vsock(parts.authority)?,
        "stdio" => {
            parts.no_authority(scheme)?;
            Place::Stdio
        }
        "systemd" => {
            parts.no_authority(scheme)?;
            Place::Activation
        }
        _ => return Err(format!("`{scheme}:` is no kind of NBD address")),
    };
    Ok(Address {
        place,
        export: export_of(parts.path)?,
        tls,
    })
}

/// What stands between the scheme and the query.
struct Parts<'a> {
    /// Between `//` and the next slash.
    authority: &'a str,
    /// The rest, with its slash.
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn split(rest: &'a str) -> Result<Self, String> {
        let Some(rest) = rest.strip_prefix("//") else {
            if rest.is_empty() || rest.starts_with('/') {
                return Ok(Self {
                    authority: "",
                    path: rest,
                });
            }
            return Err(format!("`//` is missing before `{rest}`"));
        };
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        Ok(Self { authority, path })
    }

    fn no_authority(&self, scheme: &str) -> Result<(), String> {
        if self.authority.is_empty() {
            return Ok(());
        }
        Err(format!(
            "`{scheme}:` names no host: `{}` is one slash short",
            self.authority
        ))
    }
}

fn tcp(authority: &str) -> Result<Place, String> {
    if authority.contains('@') {
        return Err("a server has no user name".into());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("`]` is missing")?;
            // A zone, as in fe80::1%eth0, may follow the address.
            let host = text_of(host)?;
            let address = host.split('%').next().unwrap_or_default();
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(format!("`{host}` is no IPv6 address"));
            }
            (host, port)
        }
        None => {
            let colon = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(colon);
            if port.rfind(':').is_some_and(|at| at > 0) {
                return Err("an IPv6 address stands in brackets".into());
            }
            let host = text_of(host)?;
            if host.contains(':') {
                return Err(format!(
                    "`{host}` is no name: an IPv6 address stands in brackets"
                ));
            }
            (host, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some("") => DEFAULT_PORT,
        None if port.is_empty() => DEFAULT_PORT,
        Some(digits) => number(digits).ok_or_else(|| {
            format!("`{digits}` is no port: a number from 0 to 65535 is, 0 for a free one")
        })?,
        None => return Err(format!("`{port}` behind the address is no port")),
    };
    let host = Some(host).filter(|host| !host.is_empty() && host != "localhost");
    Ok(Place::Tcp { host, port })
}

fn vsock(authority: &str) -> Result<Place, String> {
    let (context, port) = authority.split_once(':').unwrap_or((authority, ""));
    // A server cannot choose whose numbers it listens on; the two that mean "this machine" may stand.
    if !["", "1", "4294967295"].contains(&context) {
        return Err(format!(
            "a server listens on every context identifier of its machine, not on `{context}` only"
        ));
    }
    if port.is_empty() {
        return Ok(Place::Vsock(DEFAULT_PORT.into()));
    }
    // The last number is "any port" to the kernel, which 0 is to us.
    let port = number(port).filter(|port: &u32| *port != u32::MAX);
    port.map(Place::Vsock).ok_or_else(|| {
        format!(
            "`{authority}` has no vsock port: a number from 0 to 4294967294 is, 0 for a free one"
        )
    })
}

/// Digits and nothing else.
fn number<T: FromStr>(digits: &str) -> Option<T> {
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| digits.parse().ok()).flatten()
}

/// The one parameter that is known.
fn socket_of(query: &str) -> Result<Option<PathBuf>, String> {
    let mut socket = None;
    for word in query.split('&').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if key != "socket" {
            return Err(format!(
                "`{key}` is no parameter of an NBD server: `socket` is"
            ));
        }
        if value.is_empty() || socket.is_some() {
            return Err("`socket=` takes one path".into());
        }
        let path = PathBuf::from(OsString::from_vec(decoded(value)?));
        let path = std::path::absolute(path).map_err(words)?;
        socket = Some(path);
    }
    Ok(socket)
}

/// One slash belongs to the syntax; those behind it to the name.
fn export_of(path: &str) -> Result<String, String> {
    let name = text_of(path.strip_prefix('/').unwrap_or(path))?;
    if name.len() > NAME_MAX {
        let len = name.len();
        return Err(format!(
            "the export's name has {len} bytes: {NAME_MAX} are accepted"
        ));
    }
    Ok(name)
}

fn text_of(encoded: &str) -> Result<String, String> {
    String::from_utf8(decoded(encoded)?).map_err(|error| format!("`{encoded}`: {error}"))
}

/// `%41` is `A`.
fn decoded(encoded: &str) -> Result<Vec<u8>, String> {
    // The crate leaves a `%` that nothing right follows as it is.
    let is_whole = |behind: &str| {
        let digits = behind.as_bytes().first_chunk::<2>();
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !encoded.split('%').skip(1).all(is_whole) {
        return Err(format!("`{encoded}`: two hexadecimal digits follow a `%`"));
    }
    let bytes: Vec<u8> = percent_decode_str(encoded).collect();
    if bytes.contains(&0) {
        return Err(format!("`{encoded}`: a name has no zero byte"));
    }
    Ok(bytes)
}

impl Address {
    fn scheme(&self) -> &'static str {
        if self.tls { "nbds" } else { "nbd" }
    }

    fn tcp_uri(&self, f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
        write!(f, "{}://", self.scheme())?;
        if host.contains(':') {
            write!(f, "[{}]", utf8_percent_encode(host, ENCODED_IN_IPV6))?;
        } else {
            write!(f, "{}", utf8_percent_encode(host, ENCODED))?;
        }
        if port != DEFAULT_PORT {
            write!(f, ":{port}")?;
        }
        if self.export.is_empty() {
            return Ok(());
        }
        write!(f, "/{}", utf8_percent_encode(&self.export, ENCODED_IN_PATH))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme();
        let export = utf8_percent_encode(&self.export, ENCODED_IN_PATH);
        match &self.place {
            Place::Tcp { host, port } => {
                self.tcp_uri(f, host.as_deref().unwrap_or("localhost"), *port)
            }
            Place::Everywhere { port } => self.tcp_uri(f, "localhost", *port),
            Place::Unix(socket) => {
                write!(f, "{scheme}+unix:///{export}")?;
                match socket {
                    Some(path) => write!(f, "?socket={}", encoded_path(path)),
                    None => Ok(()),
                }
            }
            Place::Vsock(port) => write!(f, "{scheme}+vsock://1:{port}/{export}"),
            Place::Stdio => write!(f, "{scheme}+stdio:///{export}"),
            Place::Activation => write!(f, "{scheme}+systemd:///{export}"),
        }
    }
}

/// What is written as `%41`: all but letters, digits and what RFC 3986 calls unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The same for an IPv6 address in its brackets.
pub(super) const ENCODED_IN_IPV6: &AsciiSet = &ENCODED.remove(b':');

/// The same for the value of a parameter, such that a shell and every client take it.
pub(super) const ENCODED_IN_QUERY: &AsciiSet = &ENCODED.remove(b'/');

/// The same for a path.
const ENCODED_IN_PATH: &AsciiSet = &ENCODED_IN_QUERY
    .remove(b':')
    .remove(b'@')
    .remove(b'+')
    .remove(b',')
    .remove(b'=');

pub(super) fn encoded_path(path: &Path) -> PercentEncode<'_> {
    percent_encode(path.as_os_str().as_bytes(), ENCODED_IN_QUERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: Option<&str>, port: u16) -> Place {
        Place::Tcp {
            host: host.map(str::to_owned),
            port,
        }
    }

    fn unix(path: &str) -> Place {
        Place::Unix(Some(path.into()))
    }

    #[test]
    fn every_form_is_understood() {
        for (text, place, export, tls) in [
            ("nbd:", tcp(None, 10809), "", false),
            ("nbd://", tcp(None, 10809), "", false),
            ("nbd://localhost", tcp(None, 10809), "", false),
            ("nbd://localhost:0/", tcp(None, 0), "", false),
            ("nbds://:7/x", tcp(None, 7), "x", true),
            (
                "nbd://h.example:/x",
                tcp(Some("h.example"), 10809),
                "x",
                false,
            ),
            ("nbd://0.0.0.0:9", tcp(Some("0.0.0.0"), 9), "", false),
            ("nbd://[::]", tcp(Some("::"), 10809), "", false),
            (
                "nbd://[fe80::1%25eth0]:1",
                tcp(Some("fe80::1%eth0"), 1),
                "",
                false,
            ),
            ("nbd://h//a%20b/c", tcp(Some("h"), 10809), "/a b/c", false),
            ("nbd+unix:", Place::Unix(None), "", false),
            ("nbd+unix:///e", Place::Unix(None), "e", false),
            ("nbd+unix:///?socket=/a%3Fb", unix("/a?b"), "", false),
            ("nbds+unix:///%C3%A9?socket=/s", unix("/s"), "é", true),
            ("nbd+unix://?socket=/s", unix("/s"), "", false),
            ("nbd+vsock:", Place::Vsock(10809), "", false),
            ("nbd+vsock://:5/e", Place::Vsock(5), "e", false),
            ("nbd+vsock://1:70000", Place::Vsock(70_000), "", false),
            ("nbd+stdio:", Place::Stdio, "", false),
            ("nbds+systemd:///e", Place::Activation, "e", true),
        ] {
            let export = export.to_owned();
            let address = Address { place, export, tls };
            assert_eq!(text.parse(), Ok(address), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_wrong() {
        for (text, what) in [
            ("nbd", "begins with `nbd:`"),
            ("nbdx://h", "`nbdx:` is no kind"),
            ("nbd+tls://h", "`nbd+tls:` is no kind"),
            ("nbd:h", "`//` is missing"),
            ("nbd://h:x", "`x` is no port"),
            ("nbd://h:+1", "`+1` is no port"),
            ("nbd://h:65536", "`65536` is no port"),
            ("nbd://::1", "in brackets"),
            ("nbd://[::1", "`]` is missing"),
            ("nbd://[::1]9", "is no port"),
            ("nbd://[h]", "no IPv6 address"),
            ("nbd://me@h", "no user name"),
            ("nbd://h/%4", "two hexadecimal digits"),
            ("nbd://h/%zz", "two hexadecimal digits"),
            ("nbd://h/%00", "no zero byte"),
            ("nbd://h/\0", "no zero byte"),
            ("nbd://%3A%3A1", "in brackets"),
            ("nbd://a%3ab", "`a:b` is no name"),
            ("nbd://h/%ff", "invalid utf-8"),
            ("nbd://h/#x", "behind `#`"),
            ("nbd://h/?socket=/s", "belongs to `nbd+unix:`"),
            ("nbd+unix://e?socket=/s", "one slash short"),
            ("nbd+unix:///?sock=/s", "`sock` is no parameter"),
            ("nbd+unix:///?socket=", "takes one path"),
            ("nbd+unix:///?socket=/a&socket=/b", "takes one path"),
            ("nbd+vsock://3:1", "not on `3` only"),
            ("nbd+vsock://:4294967295", "no vsock port"),
            ("nbd+stdio://x", "one slash short"),
        ] {
            let refusal = text.parse::<Address>().unwrap_err().to_string();
            assert!(refusal.contains(what), "{text}: {refusal}");
        }
        let long = format!("nbd://h/{}", "x".repeat(4097));
        assert!(long.parse::<Address>().is_err());
    }

    #[test]
    fn what_is_shown_is_understood_again() {
        for text in [
            "nbd://localhost",
            "nbds://h.example:7/a%20b%23/c%25",
            "nbd://[fe80::1%25eth0]:1/",
            "nbd+unix:///%C3%A9?socket=/a%3F%26b%20c",
            "nbd+unix:///",
            "nbd+vsock://:5/e",
            "nbd+stdio:///x",
            "nbds+systemd:///",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string().parse(), Ok(address), "{text}");
        }
    }

    #[test]
    fn a_shown_address_is_what_clients_take() {
        let shown = |text: &str| text.parse::<Address>().unwrap().to_string();
        assert_eq!(shown("nbd:"), "nbd://localhost");
        assert_eq!(shown("nbd://[::1]:10809/x"), "nbd://[::1]/x");
        assert_eq!(
            shown("nbd+unix:///a?socket=/t%20t"),
            "nbd+unix:///a?socket=/t%20t"
        );
    }
}
