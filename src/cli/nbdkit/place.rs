//! Where a command line of nbdkit's wants the server: which options choose it, and which of them do
//! not go together.

use std::fs::OpenOptions;
use std::net::IpAddr;

use pydisk_kernel::activation;
use rustix::fs::{FileType, fstat};
use rustix::stdio::{dup2_stderr, stderr, stdin};

use super::options::Options;
use super::warn;
use crate::attachment::Passing;
use crate::cli::server;
use crate::frontends::nbd::{Address, DEFAULT_PORT, Family, Place};
use crate::{Refusal, ResultExt};

/// The longest name of an export, in bytes.
const NAME_MAX: usize = 4096;

/// Where the server is.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) address: Address,
    pub(super) family: Family,
    /// The descriptors that it needs from whoever started this process.
    pub(super) passing: Passing,
}

/// Where the options want the server; `tls` is whether its URI requires TLS.
///
/// # Errors
/// One sentence that names the options.
pub(super) fn placed(options: &Options, tls: bool) -> Result<Placed, Refusal> {
    let sockets = passed_sockets()?;
    let place = match sockets {
        Some(_) => activated(options)?,
        None => chosen(options)?,
    };
    let export = options.export.clone().unwrap_or_default();
    if export.len() > NAME_MAX {
        return Err(Refusal::about(
            "-e",
            format_args!(
                "the export's name has {} bytes: {NAME_MAX} are accepted",
                export.len()
            ),
        ));
    }
    let family = family(options, &place);
    let address = Address { place, export, tls };
    let passing = match sockets {
        Some(passing) => passing,
        None => server::passing(&address)?,
    };
    Ok(Placed {
        address,
        family,
        passing,
    })
}

/// Under inetd standard error is the client's connection as well, and no place for messages: let go of
/// it. Whether that was so.
///
/// # Errors
/// One sentence, if it cannot be let go of.
pub(super) fn leave_connection() -> Result<bool, Refusal> {
    let (Ok(client), Ok(messages)) = (fstat(stdin()), fstat(stderr())) else {
        return Ok(false);
    };
    let socket = FileType::from_raw_mode(client.st_mode) == FileType::Socket;
    if !socket || (client.st_dev, client.st_ino) != (messages.st_dev, messages.st_ino) {
        return Ok(false);
    }
    let nowhere = OpenOptions::new().write(true).open("/dev/null");
    dup2_stderr(nowhere.refuse("-s")?).refuse("-s")?;
    Ok(true)
}

/// What systemd, or whoever does as it does, has passed to this process.
fn passed_sockets() -> Result<Option<Passing>, Refusal> {
    let given = |name| std::env::var_os(name).is_some();
    if !given("LISTEN_FDS") || !given("LISTEN_PID") {
        return Ok(None);
    }
    let sockets = activation::sockets().refuse("socket activation")?;
    if sockets.is_empty() {
        if std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string()) {
            return Err(Refusal::about(
                "socket activation",
                "LISTEN_FDS is 0, a socket is needed",
            ));
        }
        warn("LISTEN_PID was not for us (ignored)");
        return Ok(None);
    }
    Ok(Some(Passing::new(sockets)))
}

/// With sockets that are open already nothing is left to choose.
fn activated(options: &Options) -> Result<Place, Refusal> {
    let given = [
        ("-i", options.address.is_some()),
        ("-p", options.port.is_some()),
        ("--run", options.run.is_some()),
        ("-s", options.single),
        ("-U", options.unix.is_some()),
        ("--vsock", options.vsock),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Refusal::about(
            option,
            "it cannot be used with socket activation (LISTEN_FDS and LISTEN_PID)",
        )),
        None => Ok(Place::Activation),
    }
}

fn chosen(options: &Options) -> Result<Place, Refusal> {
    if options.single {
        return Ok(Place::Stdio);
    }
    if options.vsock {
        let port = options
            .port
            .as_deref()
            .map(|port| number(port, u32::MAX - 1));
        let port = port.transpose()?.unwrap_or_else(|| u32::from(DEFAULT_PORT));
        return Ok(Place::Vsock(port));
    }
    if let Some(path) = &options.unix {
        if path.as_os_str() == "-" {
            return Ok(Place::Unix(None));
        }
        return std::path::absolute(path)
            .map(|path| Place::Unix(Some(path)))
            .refuse(format_args!("-U `{}`", path.display()));
    }
    // Nobody but the command is to find its server.
    if options.run.is_some() && options.port.is_none() && options.address.is_none() {
        return Ok(Place::Unix(None));
    }
    let port = match options.port.as_deref() {
        Some(port) => u16::try_from(number(port, u32::from(u16::MAX))?).unwrap_or(u16::MAX),
        None => DEFAULT_PORT,
    };
    Ok(match &options.address {
        Some(host) => Place::Tcp {
            host: Some(host.clone()),
            port,
        },
        None => Place::Everywhere { port },
    })
}

/// Options of which each says where the client is, or what becomes of it.
///
/// # Errors
/// One sentence that names two which are given.
pub(super) fn exclude(options: &Options) -> Result<(), Refusal> {
    let (port, unix) = (options.port.is_some(), options.unix.is_some());
    let (single, run) = (options.single, options.run.is_some());
    let pairs = [
        ("-p", "-U", port && unix),
        ("-p", "-s", port && single),
        ("-U", "-s", unix && single),
        ("--run", "-s", run && single),
        ("--vsock", "-U", options.vsock && unix),
        ("--vsock", "-s", options.vsock && single),
        ("--dump-plugin", "-s", options.dump_plugin && single),
    ];
    match pairs.iter().find(|(_, _, both)| *both) {
        Some((one, other, _)) => Err(Refusal::new(format!(
            "{one} and {other} cannot be used together"
        ))),
        None => Ok(()),
    }
}

fn number(port: &str, most: u32) -> Result<u32, Refusal> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| port.parse().ok()).flatten();
    number.filter(|number| *number <= most).ok_or_else(|| {
        Refusal::about(
            format_args!("-p `{port}`"),
            format_args!("a number from 0 to {most} is a port, 0 for a free one"),
        )
    })
}

/// Which addresses are meant; what says so in vain is warned of.
fn family(options: &Options, place: &Place) -> Family {
    let asked = match (options.ipv4_only, options.ipv6_only) {
        (true, _) => Family::V4,
        (_, true) => Family::V6,
        _ => Family::Any,
    };
    match place {
        Place::Everywhere { .. } => asked,
        Place::Tcp { host, .. } => {
            // `::` is for IPv6, as in nbdkit.
            let v6 = host.as_ref().and_then(|host| host.parse().ok());
            match asked {
                Family::Any if v6.is_some_and(|host: IpAddr| host.is_ipv6()) => Family::V6,
                asked => asked,
            }
        }
        _ => {
            if asked != Family::Any {
                warn("-4 and -6 are for TCP, and there is none here");
            }
            if options.address.is_some() {
                warn("-i is for TCP, and there is none here");
            }
            Family::Any
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn options(words: &str) -> Options {
        let words = words.split(' ').filter(|word| !word.is_empty());
        Options::try_parse_from(["nbdkit"].into_iter().chain(words)).unwrap()
    }

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp {
            host: Some(host.to_owned()),
            port,
        }
    }

    #[test]
    fn the_options_choose_the_place() {
        for (words, place, family) in [
            ("", Place::Everywhere { port: 10809 }, Family::Any),
            ("-p 0 -4", Place::Everywhere { port: 0 }, Family::V4),
            ("-6", Place::Everywhere { port: 10809 }, Family::V6),
            ("-i ::1", tcp("::1", 10809), Family::V6),
            ("-i localhost -p 7 -4", tcp("localhost", 7), Family::V4),
            ("-i localhost", tcp("localhost", 10809), Family::Any),
            ("-U /s", Place::Unix(Some("/s".into())), Family::Any),
            ("-U -", Place::Unix(None), Family::Any),
            ("--run x", Place::Unix(None), Family::Any),
            ("--run x -p 7", Place::Everywhere { port: 7 }, Family::Any),
            ("--run x -i h", tcp("h", 10809), Family::Any),
            ("--vsock", Place::Vsock(10809), Family::Any),
            ("--vsock -p 70000", Place::Vsock(70000), Family::Any),
            ("-s", Place::Stdio, Family::Any),
        ] {
            let options = options(words);
            let found = chosen(&options).unwrap();
            assert_eq!(found, place, "{words}");
            assert_eq!(super::family(&options, &found), family, "{words}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        for (words, what) in [
            ("-p 1 -U /s", "-p and -U"),
            ("-p 1 -s", "-p and -s"),
            ("-U /s -s", "-U and -s"),
            ("-s --run x", "--run and -s"),
            ("--vsock -U /s", "--vsock and -U"),
            ("--vsock -s", "--vsock and -s"),
            ("-p x", "-p `x`"),
            ("-p 65536", "-p `65536`"),
            ("-p -1", "-p `-1`"),
            ("-p +1", "-p `+1`"),
            ("--vsock -p 4294967295", "-p `4294967295`"),
        ] {
            let options = options(words);
            let refused = exclude(&options).and_then(|()| chosen(&options).map(drop));
            let refusal = refused.unwrap_err().to_string();
            assert!(refusal.starts_with(what), "{words}: {refusal}");
        }
        for words in ["-i h", "-p 1", "--run x", "-s", "-U /s", "--vsock"] {
            let refusal = activated(&options(words)).unwrap_err().to_string();
            let option = words.split(' ').next().unwrap();
            assert!(refusal.starts_with(option), "{words}: {refusal}");
        }
        assert_eq!(activated(&options("-f -t 1")).unwrap(), Place::Activation);
    }
}
