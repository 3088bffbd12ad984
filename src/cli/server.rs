//! What `pydisk attach` is told about a server: TLS, limits, and descriptors that its caller passed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pydisk_kernel::activation;

use crate::attachment::Passing;
use crate::frontends::Target;
use crate::frontends::nbd::{Address, Bounds, Place, ServerOptions, TlsMode, TlsSetup};
use crate::{Refusal, ResultExt, params};

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of a server")]
pub(super) struct ServerArgs {
    /// Whether the clients of a server encrypt [default: off; nbds: means required]
    #[arg(long, value_name = "WHEN")]
    tls: Option<Tls>,
    /// Folder with server-cert.pem, server-key.pem and, to verify clients, ca-cert.pem
    #[arg(long, value_name = "DIR")]
    tls_certificates: Option<PathBuf>,
    /// Accept only clients with a certificate that ca-cert.pem has signed
    #[arg(long)]
    tls_verify_peer: bool,
    /// Change what clients may ask for: payload=64M, option=64k, requests=16 (with `async def`
    /// 64), clients=256, handshake=10 (seconds); repeatable
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tls {
    /// Clients cannot encrypt
    Off,
    /// Clients may encrypt
    Allowed,
    /// Nothing is answered before a client encrypts
    Required,
}

impl ServerArgs {
    /// What the words mean for `target`, which is changed where an option says more than its URI.
    /// `requests` is how many of one client's are served at the same time unless a limit says so; none
    /// leaves it to the plugin.
    ///
    /// # Errors
    /// One sentence: an option that does not go with the target or with another one.
    pub(super) fn options(
        &self,
        target: &mut Option<Target>,
        requests: Option<u16>,
    ) -> Result<ServerOptions, Refusal> {
        let Some(address) = target.as_mut().and_then(Target::address_mut) else {
            return self.nothing(target.as_ref());
        };
        let tls = self.tls(address)?;
        address.tls = tls.mode == TlsMode::Required;
        let mut options = ServerOptions {
            bounds: Bounds::default(),
            requests,
            tls,
            ..ServerOptions::default()
        };
        for limit in &self.limits {
            set(&mut options, limit)?;
        }
        Ok(options)
    }

    /// Where there is no server there are no options for it.
    fn nothing(&self, target: Option<&Target>) -> Result<ServerOptions, Refusal> {
        let given = [
            ("--tls", self.tls.is_some()),
            ("--tls-certificates", self.tls_certificates.is_some()),
            ("--tls-verify-peer", self.tls_verify_peer),
            ("--limit", !self.limits.is_empty()),
        ];
        let Some((option, _)) = given.iter().find(|(_, given)| *given) else {
            return Ok(ServerOptions::default());
        };
        let target = target.map_or_else(
            || "no target is given".to_owned(),
            |target| format!("the target is `{target}`"),
        );
        Err(
            Refusal::about(option, format_args!("it is for a server, and {target}"))
                .hint("a server's target begins with `nbd`, such as nbd://localhost:10809"),
        )
    }

    fn tls(&self, address: &Address) -> Result<TlsSetup, Refusal> {
        let mode = match (self.tls, address.tls) {
            (None | Some(Tls::Required), true) | (Some(Tls::Required), false) => TlsMode::Required,
            (None | Some(Tls::Off), false) => TlsMode::Off,
            (Some(Tls::Allowed), false) => TlsMode::Allowed,
            (Some(Tls::Off | Tls::Allowed), true) => {
                return Err(Refusal::about(
                    "--tls",
                    "the target begins with `nbds`, which means that TLS is required",
                ));
            }
        };
        if mode == TlsMode::Off {
            let given = [
                ("--tls-certificates", self.tls_certificates.is_some()),
                ("--tls-verify-peer", self.tls_verify_peer),
            ];
            if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
                return Err(Refusal::about(option, "TLS is off")
                    .hint("add --tls required, or --tls allowed"));
            }
            return Ok(TlsSetup::default());
        }
        let Some(folder) = &self.tls_certificates else {
            return Err(
                Refusal::about("--tls", "the server needs a certificate").hint(
                    "add --tls-certificates DIR, a folder with server-cert.pem and server-key.pem",
                ),
            );
        };
        let folder = std::path::absolute(folder)
            .refuse(format_args!("--tls-certificates `{}`", folder.display()))?;
        Ok(TlsSetup {
            mode,
            certificates: Some(folder),
            verify_peer: self.tls_verify_peer,
        })
    }
}

/// What the limits are called and which values they take.
const LIMITS: &str = "payload (bytes, 4k to 64M), option (bytes, 8k to 1M), requests (1 to 256), \
                      clients (1 to 1000000), handshake (seconds, 0.1 to 86400)";

/// Change the limit that `NAME=VALUE` names.
fn set(options: &mut ServerOptions, limit: &str) -> Result<(), Refusal> {
    let refused = |why: &str| {
        Refusal::about(format_args!("--limit `{limit}`"), why)
            .hint(format!("accepted are {LIMITS}"))
    };
    let (name, value) = limit
        .split_once('=')
        .ok_or_else(|| refused("NAME=VALUE is expected"))?;
    let out_of_range = || refused("the value is not in the range that is accepted");
    let bytes = |range: std::ops::RangeInclusive<u32>| {
        let bytes = params::parse_size(value).map_err(|_unsaid| refused("the value is no size"))?;
        let bytes = u32::try_from(bytes).ok();
        bytes
            .filter(|bytes| range.contains(bytes))
            .ok_or_else(out_of_range)
    };
    let count = |range: std::ops::RangeInclusive<u32>| {
        let count = value.parse::<u32>().ok();
        let count = count.ok_or_else(|| refused("the value is no number"))?;
        Some(count)
            .filter(|count| range.contains(count))
            .ok_or_else(out_of_range)
    };
    let bounds = &mut options.bounds;
    match name {
        "payload" => bounds.payload = bytes(4 << 10..=64 << 20)?,
        "option" => bounds.option = bytes(8 << 10..=1 << 20)?,
        "requests" => {
            options.requests = Some(count(1..=256)?.try_into().unwrap_or(u16::MAX));
        }
        "clients" => bounds.clients = count(1..=1_000_000)?,
        "handshake" => {
            let time = params::parse_delay("handshake", value)
                .map_err(|_unsaid| refused("the value is no time"))?;
            let range = Duration::from_millis(100)..=Duration::from_secs(86_400);
            bounds.handshake = Some(time)
                .filter(|time| range.contains(time))
                .ok_or_else(out_of_range)?;
        }
        _ => return Err(refused("there is no such limit")),
    }
    Ok(())
}

/// The descriptors that the worker of a server at `address` needs from the caller of this process. Standard input
/// and output lead nowhere near a client afterwards.
///
/// # Errors
/// One sentence, if they are not there.
pub(super) fn passing(address: &Address) -> Result<Passing, Refusal> {
    let about = format!("target `{address}`");
    match &address.place {
        Place::Stdio => stdio().map(Passing::new).refuse(about),
        Place::Activation => {
            let sockets = activation::sockets().refuse(&about)?;
            if sockets.is_empty() {
                return Err(
                    Refusal::about(about, "systemd has passed no socket to this process")
                        .hint("start pydisk from a .service with a .socket beside it"),
                );
            }
            Ok(Passing::new(sockets))
        }
        _ => Ok(Passing::default()),
    }
}

/// What is standard input and output until now, which become nothing and standard error.
fn stdio() -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
    use rustix::io::fcntl_dupfd_cloexec;
    use rustix::stdio;

    let both = vec![
        fcntl_dupfd_cloexec(stdio::stdin(), 3)?,
        fcntl_dupfd_cloexec(stdio::stdout(), 3)?,
    ];
    stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    stdio::dup2_stdout(stdio::stderr())?;
    Ok(both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ServerArgs {
        ServerArgs {
            tls: None,
            tls_certificates: None,
            tls_verify_peer: false,
            limits: Vec::new(),
        }
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    fn limited(limits: &[&str]) -> Result<(Bounds, Option<u16>), Refusal> {
        let mut args = args();
        args.limits = limits.iter().map(|limit| (*limit).to_owned()).collect();
        let options = args.options(&mut Some(target("nbd://localhost")), Some(7))?;
        Ok((options.bounds, options.requests))
    }

    #[test]
    fn limits_have_defaults_and_each_can_be_changed() {
        assert_eq!(limited(&[]), Ok((Bounds::default(), Some(7))));
        let expected = Bounds {
            payload: 1 << 20,
            option: 8 << 10,
            clients: 1,
            handshake: Duration::from_millis(500),
            ..Bounds::default()
        };
        let all = [
            "payload=1M",
            "option=8k",
            "requests=3",
            "clients=1",
            "handshake=500ms",
        ];
        assert_eq!(limited(&all), Ok((expected, Some(3))));
    }

    #[test]
    fn limits_that_make_no_sense_are_refused_with_what_is_accepted() {
        for (limit, why) in [
            ("payload", "NAME=VALUE is expected"),
            ("speed=1", "there is no such limit"),
            ("payload=1", "not in the range"),
            ("payload=65M", "not in the range"),
            ("payload=8G", "not in the range"),
            ("payload=x", "no size"),
            ("option=2M", "not in the range"),
            ("requests=0", "not in the range"),
            ("requests=-1", "no number"),
            ("requests=70000", "not in the range"),
            ("clients=", "no number"),
            ("handshake=0", "not in the range"),
            ("handshake=soon", "no time"),
        ] {
            let refusal = limited(&[limit]).unwrap_err().to_string();
            let begin = format!("--limit `{limit}`: ");
            assert!(
                refusal.starts_with(&begin) && refusal.contains(why),
                "{refusal}"
            );
            assert!(refusal.contains("hint: accepted are payload"), "{refusal}");
        }
    }

    #[test]
    fn the_uri_and_the_option_agree_about_tls() {
        for (tls, uri, mode) in [
            (None, "nbd://h", Some(TlsMode::Off)),
            (Some(Tls::Off), "nbd://h", Some(TlsMode::Off)),
            (Some(Tls::Allowed), "nbd://h", Some(TlsMode::Allowed)),
            (Some(Tls::Required), "nbd://h", Some(TlsMode::Required)),
            (None, "nbds://h", Some(TlsMode::Required)),
            (Some(Tls::Required), "nbds://h", Some(TlsMode::Required)),
            (Some(Tls::Off), "nbds://h", None),
            (Some(Tls::Allowed), "nbds://h", None),
        ] {
            let args = ServerArgs {
                tls,
                tls_certificates: (mode != Some(TlsMode::Off)).then(|| "/certificates".into()),
                ..args()
            };
            let mut target = Some(target(uri));
            let options = args.options(&mut target, None).ok();
            assert_eq!(
                options.map(|options| options.tls.mode),
                mode,
                "{tls:?} {uri}"
            );
            let address = target.as_ref().and_then(Target::address);
            let address = address.expect("a server stays one");
            let required = mode == Some(TlsMode::Required) || uri.starts_with("nbds");
            assert_eq!(address.tls, required, "{tls:?} {uri}");
        }
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let verify = ServerArgs {
            tls_verify_peer: true,
            ..args()
        };
        let refused = |args: &ServerArgs, mut target: Option<Target>| {
            args.options(&mut target, None).unwrap_err().to_string()
        };
        let off = refused(&verify, Some(target("nbd://h")));
        assert!(off.starts_with("--tls-verify-peer: TLS is off"), "{off}");
        let device = refused(&verify, Some(target("/dev/loop3")));
        assert!(
            device.starts_with(
                "--tls-verify-peer: it is for a server, and the target is `/dev/loop3`"
            ),
            "{device}"
        );
        assert!(refused(&verify, None).contains("no target is given"));
        let required = ServerArgs {
            tls: Some(Tls::Required),
            ..args()
        };
        let bare = refused(&required, Some(target("nbd://h")));
        assert!(bare.contains("--tls-certificates DIR"), "{bare}");
        assert!(args().options(&mut None, None).is_ok());
    }
}
