//! A server's URI as nbdkit writes it, whose users compare it with what they expect: with every port, without
//! the slash before an export that has no name, and with the folder of certificates that clients need.

use std::path::Path;

use percent_encoding::utf8_percent_encode;

use super::address::{Address, ENCODED_IN_IPV6, ENCODED_IN_QUERY, Place, encoded_path};

impl Address {
    /// Its URI in nbdkit's spelling. `certificates` is the folder that was given, if clients must encrypt.
    #[must_use]
    pub fn as_nbdkit_spells_it(&self, certificates: Option<&Path>) -> String {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        let mut parameters = Vec::new();
        let place = match &self.place {
            Place::Tcp { host, port } => {
                let host = host.as_deref().unwrap_or("localhost");
                let encoded = utf8_percent_encode(host, ENCODED_IN_IPV6);
                match host.contains(':') {
                    true => format!("://[{encoded}]:{port}"),
                    false => format!("://{encoded}:{port}"),
                }
            }
            Place::Everywhere { port } => format!("://localhost:{port}"),
            Place::Vsock(port) => format!("+vsock://1:{port}"),
            Place::Unix(Some(socket)) => {
                parameters.push(format!("socket={}", encoded_path(socket)));
                "+unix://".to_owned()
            }
            Place::Unix(None) | Place::Stdio | Place::Activation => return self.to_string(),
        };
        if self.tls
            && let Some(folder) = certificates
        {
            parameters.push(format!("tls-certificates={}", encoded_path(folder)));
        }
        let export = match self.export.as_str() {
            "" => String::new(),
            name => format!("/{}", utf8_percent_encode(name, ENCODED_IN_QUERY)),
        };
        let query = match parameters.is_empty() {
            true => String::new(),
            false => format!("?{}", parameters.join("&")),
        };
        format!("{scheme}{place}{export}{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As nbdkit 1.48 wrote them, but for hosts and sockets.
    #[test]
    fn a_uri_is_spelled_as_nbdkit_does() {
        let folder = Path::new("./ce rt/");
        for (ours, theirs) in [
            ("nbd://localhost", "nbd://localhost:10809"),
            ("nbd://localhost:7/x/y%20z", "nbd://localhost:7/x/y%20z"),
            ("nbd://[::1]:7", "nbd://[::1]:7"),
            (
                "nbd+vsock://:7/a:@+,=~",
                "nbd+vsock://1:7/a%3A%40%2B%2C%3D~",
            ),
            ("nbd+unix:///?socket=/s", "nbd+unix://?socket=/s"),
            ("nbd+unix:///x?socket=/a%3Db", "nbd+unix:///x?socket=/a%3Db"),
            (
                "nbds+unix:///?socket=/s",
                "nbds+unix://?socket=/s&tls-certificates=./ce%20rt/",
            ),
            (
                "nbds://localhost:7/x",
                "nbds://localhost:7/x?tls-certificates=./ce%20rt/",
            ),
        ] {
            let address: Address = ours.parse().unwrap();
            assert_eq!(address.as_nbdkit_spells_it(Some(folder)), theirs);
            let bare = theirs
                .split(['?', '&'])
                .filter(|part| !part.starts_with("tls-"));
            let bare: Vec<_> = bare.collect();
            assert_eq!(address.as_nbdkit_spells_it(None), bare.join("?"));
        }
    }
}
