//! The fuzz target `words`: what may stand on a command line, and for `may_be_at` what a worker says.

use std::path::Path;

use super::words::{Words, parse};
use crate::attachment::check_name;
use crate::frontends::Target;
use crate::frontends::nbd::{Address, Place, may_be_at};
use crate::params::{parse_bool, parse_delay, parse_probability, parse_size};
use crate::{Refusal, escape};

/// Take all but the first byte of `input` for a word, or for several lines of them; the first byte
/// chooses what they are to be.
///
/// # Panics
/// If a word that is shown again means something else, or a number is out of bounds.
pub fn words(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else {
        return;
    };
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    match kind % 8 {
        0 => target(text),
        1 => address(text),
        2 => place(text),
        3 => size(text),
        4 => delay(text),
        5 => number(text),
        6 => several(text),
        _ => name(text),
    }
}

/// A refusal names what it refuses, where `Ok` is for the caller to look at.
fn taken<T>(text: &str, result: Result<T, Refusal>) -> Option<T> {
    match result {
        Ok(taken) => Some(taken),
        Err(refusal) => {
            let named = refusal.to_string().contains(&*escape::lines(text));
            assert!(named, "{refusal}");
            None
        }
    }
}

fn target(text: &str) {
    let Ok(target) = text.parse::<Target>() else {
        return;
    };
    let shown = target.to_string();
    assert_eq!(shown.parse(), Ok(target), "{text} is shown as {shown}");
}

fn address(text: &str) {
    let Some(address) = taken(text, text.parse::<Address>()) else {
        return;
    };
    let shown = address.to_string();
    let plain = |byte: u8| byte.is_ascii_graphic();
    assert!(shown.bytes().all(plain), "{shown}");
    assert!(address.export.len() <= 4096 && !address.export.contains('\0'));
    assert_eq!(shown.parse(), Ok(address), "{text} is shown as {shown}");
}

/// An address that was asked for, on a line, what the server calls itself, and its Unix socket.
fn place(text: &str) {
    let mut lines = text.splitn(3, '\n');
    let (asked, uri, socket) = (lines.next(), lines.next(), lines.next());
    let (Some(Ok(asked)), Some(uri)) = (asked.map(str::parse::<Address>), uri) else {
        return;
    };
    if !may_be_at(&asked, Path::new("/run/x"), uri, socket.map(Path::new)) {
        return;
    }
    let found: Address = uri.parse().expect("what is believed is an address");
    assert_eq!((&found.export, found.tls), (&asked.export, asked.tls));
    match (&asked.place, found.place) {
        (Place::Tcp { host, port }, Place::Tcp { host: at, port: to }) => {
            assert!(*host == at && (*port == to || *port == 0));
        }
        (Place::Vsock(port), Place::Vsock(to)) => assert!(*port == to || *port == 0),
        (Place::Unix(path), Place::Unix(Some(at))) => {
            assert!(path.as_ref().is_none_or(|path| *path == at));
            assert_eq!(socket.map(Path::new), Some(&*at));
        }
        (Place::Activation, place) => assert!(place != Place::Stdio),
        (asked, found) => assert_eq!(*asked, found),
    }
}

fn size(text: &str) {
    if let Some(size) = taken(text, parse_size(text)) {
        assert!(i64::try_from(size).is_ok());
        assert_eq!(parse_size(&size.to_string()), Ok(size));
    }
}

fn delay(text: &str) {
    if let Some(delay) = taken(text, parse_delay("delay", text)) {
        assert!(delay.as_secs() <= u64::from(u32::MAX));
        let again = parse_delay("delay", &format!("{}ns", delay.as_nanos()));
        assert!(again.is_ok(), "{again:?}");
    }
}

fn number(text: &str) {
    if let Some(probability) = taken(text, parse_probability("probability", text)) {
        assert!(probability.is_finite() && probability >= 0.0);
        let again = parse_probability("probability", &probability.to_string());
        assert_eq!(again, Ok(probability));
    }
    taken(text, parse_bool(text));
}

fn several(text: &str) {
    let words: Vec<_> = text.split('\n').map(str::to_owned).collect();
    if let Ok(Words { target, parameters }) = parse(&words) {
        let shown = parameters
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        // The target may stand anywhere.
        let mut left = words.clone();
        if let Some(target) = target {
            let place = left.iter().position(|word| *word == target);
            left.remove(place.expect("the target is one of the words"));
        }
        assert_eq!(shown.collect::<Vec<_>>(), left);
    }
}

/// It becomes a folder and stands in the names of threads, mounts and logs.
fn name(text: &str) {
    if taken(text, check_name(text)).is_some() {
        assert!((1..=64).contains(&text.len()));
        assert!(Path::new(text).file_name() == Some(text.as_ref()));
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'/')
        );
    }
}
