//! Where a disk shall appear: what the user wrote, parsed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::endpoint::{is_same_path, is_server};
use super::nbd::Address;
use super::{FrontEnd, fuse, loopback, nbd_kernel, ublk};
use crate::{Refusal, ResultExt};

/// Where a disk shall appear. Its form chooses the front end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// `/dev/ublkbN`, or any free one.
    Ublk(Option<u32>),
    /// `/dev/nbdN`, or any free one: the kernel's own NBD client, served by this process.
    Nbd(Option<u32>),
    /// `/dev/loopN` on a hidden FUSE file, or any free one.
    Loop(Option<u32>),
    /// A file that appears at this absolute path, by FUSE.
    File(PathBuf),
    /// An NBD server.
    Server(Address),
}

impl Target {
    /// The front end, and what it knows of this place.
    #[must_use]
    pub fn front_end(&self) -> Box<dyn FrontEnd> {
        match self {
            Self::Ublk(index) => Box::new(ublk::DEVICES.at(*index)),
            Self::Nbd(index) => Box::new(nbd_kernel::DEVICES.at(*index)),
            Self::Loop(index) => Box::new(loopback::DEVICES.at(*index)),
            Self::File(path) => Box::new(fuse::At(path.clone())),
            Self::Server(address) => Box::new(address.clone()),
        }
    }

    /// Where a server listens, if this is one.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Server(address) => Some(address),
            _ => None,
        }
    }

    /// As [`Target::address`], to change it.
    #[must_use]
    pub fn address_mut(&mut self) -> Option<&mut Address> {
        match self {
            Self::Server(address) => Some(address),
            _ => None,
        }
    }

    /// The path that a user gave, if this is one; the others are made of text.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            _ => None,
        }
    }

    /// Whether the user can mean by `which` what appears here.
    #[must_use]
    pub fn is(&self, which: &str) -> bool {
        let shown = self.to_string();
        match self {
            Self::Server(_) => is_server(which, &shown),
            _ => is_same_path(Path::new(which), Path::new(&shown)),
        }
    }
}

impl From<Address> for Target {
    fn from(address: Address) -> Self {
        Self::Server(address)
    }
}

impl FromStr for Target {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        if let Some(index) = numbered(text, "/dev/ublkb")? {
            return Ok(Self::Ublk(Some(index)));
        }
        if let Some(index) = numbered(text, "/dev/loop")? {
            return Ok(Self::Loop(Some(index)));
        }
        if let Some(index) = numbered(text, "/dev/nbd")? {
            return Ok(Self::Nbd(Some(index)));
        }
        if ["nbd:", "nbd+", "nbds:", "nbds+"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
        {
            return text.parse().map(Self::Server);
        }
        if text.is_empty() {
            return Err(Refusal::about(
                "target",
                "a path is needed, not an empty word",
            ));
        }
        if is_device(text) {
            return Err(Refusal::about(
                format_args!("target `{text}`"),
                "no front end makes this device",
            )
            .hint("use /dev/ublkbN, /dev/nbdN, /dev/loopN or a file path"));
        }
        refuse_address(text)?;
        let path = std::path::absolute(Path::new(text)).refuse(format_args!("target `{text}`"))?;
        // `/./dev/sda`, or `sda` in that folder, is no file either.
        match path.to_str() {
            Some(path) if is_device(path) => path.parse(),
            _ => Ok(Self::File(path)),
        }
    }
}

fn is_device(path: &str) -> bool {
    path.starts_with("/dev/") && !path.starts_with("/dev/shm/")
}

/// Whoever writes `localhost:10809` hardly means a file of that name.
fn refuse_address(text: &str) -> Result<(), Refusal> {
    let first = text.split('/').next().unwrap_or_default();
    if !first.contains(':') {
        return Ok(());
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(Refusal::about(format_args!("target `{text}`"), format_args!("no front end serves `{scheme}`"))
        .hint("use nbd://HOST, nbd+unix:///?socket=PATH, /dev/ublkbN, /dev/nbdN, /dev/loopN or a file path"));
    }
    Err(Refusal::about(
        format_args!("target `{text}`"),
        "it looks like an address without `nbd://`",
    )
    .hint(format!("`nbd://{text}` is a server, `./{text}` a file")))
}

/// The number behind `prefix`, if `text` begins with it and digits follow.
fn numbered(text: &str, prefix: &str) -> Result<Option<u32>, Refusal> {
    let Some(rest) = text.strip_prefix(prefix) else {
        return Ok(None);
    };
    // The kernel numbers block devices with at most 20 bits of minor.
    match rest.parse::<u32>() {
        Ok(index) if index < 1 << 20 && rest == index.to_string() => Ok(Some(index)),
        _ => Err(Refusal::about(
            format_args!("target `{text}`"),
            format_args!("`{prefix}` takes a number from 0 to 1048575, not `{rest}`"),
        )),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ublk(Some(index)) => write!(f, "/dev/ublkb{index}"),
            Self::Ublk(None) => f.write_str("/dev/ublkb*"),
            Self::Nbd(Some(index)) => write!(f, "/dev/nbd{index}"),
            Self::Nbd(None) => f.write_str("/dev/nbd*"),
            Self::Loop(Some(index)) => write!(f, "/dev/loop{index}"),
            Self::Loop(None) => f.write_str("/dev/loop*"),
            Self::File(path) => path.display().fmt(f),
            Self::Server(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_target_chooses_the_front_end() {
        assert_eq!("/dev/ublkb7".parse(), Ok(Target::Ublk(Some(7))));
        assert_eq!("/dev/loop0".parse(), Ok(Target::Loop(Some(0))));
        assert_eq!("/tmp/x.img".parse(), Ok(Target::File("/tmp/x.img".into())));
        assert_eq!("/./dev//loop0".parse(), Ok(Target::Loop(Some(0))));
    }

    #[test]
    fn an_address_without_a_scheme_is_refused_and_a_path_with_colons_is_a_file() {
        for text in [
            "localhost:10809",
            "[::1]:10809",
            "10.0.0.1:10809/disk",
            "a:b",
            ":10809",
        ] {
            let refusal = text.parse::<Target>().unwrap_err().to_string();
            let hint = format!("hint: `nbd://{text}` is a server, `./{text}` a file");
            assert!(refusal.ends_with(&hint), "{refusal}");
        }
        for text in ["http://x/y", "vhost-user:///x"] {
            let other = text.parse::<Target>().unwrap_err().to_string();
            assert!(other.contains("no front end serves"), "{other}");
            assert!(
                other.contains("hint: use nbd://HOST") && !other.contains("`./"),
                "{other}"
            );
        }
        for path in [
            "./a:b",
            "/tmp/a:b",
            "folder/a:b",
            "../localhost:10809",
            "nbdsomething",
        ] {
            assert!(matches!(path.parse(), Ok(Target::File(_))), "{path}");
        }
    }

    #[test]
    fn devices_that_nobody_makes_are_refused() {
        for text in [
            "/dev/ublkb",
            "/dev/ublkb-1",
            "/dev/ublkb01",
            "/dev/loop9999999",
            "/dev/sda",
            "/./dev/sda",
            "///dev//sda",
            "",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
