//! How the text of a parameter becomes a size, a yes or no, a probability, a delay or a choice: nbdkit's rules,
//! which hold for every parameter of pydisk and for the functions of the `nbdkit` module.
//!
//! Pure functions; a refusal says what was given and what is accepted.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Refusal;

/// Which errno the failure of a callback has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrnoSource {
    /// Only what `nbdkit.set_error` chose, as in nbdkit.
    #[default]
    Nbdkit,
    /// Also that of an `OSError` which the callback raised, unless `set_error` chose one.
    Native,
}

impl FromStr for ErrnoSource {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "nbdkit" => Ok(Self::Nbdkit),
            "native" => Ok(Self::Native),
            _ => Err("`native` and `nbdkit` are accepted".to_owned()),
        }
    }
}

/// Parse a size in bytes: a number with an optional suffix.
///
/// The number is decimal, hexadecimal behind `0x` or octal behind `0`. The suffixes are `b`, `k`, `m`,
/// `g`, `t`, `p`, `e` (each 1024 times the one before) and `s` (sectors of 512 bytes), in either case; a
/// `_` may stand before them, which `b` and `e` need behind a hexadecimal number. As in
/// `nbdkit_parse_size` since 1.48, blanks and a `+` may lead, and the result is at most `i64::MAX`.
///
/// # Errors
/// One sentence with the text and what is accepted.
pub fn parse_size(text: &str) -> Result<u64, Refusal> {
    let refused = |why: &str| {
        Refusal::about(format_args!("size `{text}`"), why)
            .hint("give a number with an optional suffix b, k, m, g, t, p, e or s (512)")
    };
    let (negative, rest) = sign(text);
    let (radix, digits) = radix(rest);
    let end = digits
        .find(|digit: char| !digit.is_digit(radix))
        .unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    if number.is_empty() {
        return Err(refused("not a number"));
    }
    let scale: u64 = match scaled_by(suffix).as_str() {
        "" | "b" => 1,
        "s" => 512,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        "p" => 1 << 50,
        "e" => 1 << 60,
        _ => return Err(refused(&format!("unknown suffix `{suffix}`"))),
    };
    // All digits, so the only way to fail is to be too large.
    let size = u64::from_str_radix(number, radix)
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| refused("larger than 9223372036854775807 bytes"))?;
    if negative && size != 0 {
        return Err(refused("negative"));
    }
    Ok(size)
}

/// Parse a yes or no: `1`, `true`, `t`, `yes`, `y`, `on` or `0`, `false`, `f`, `no`, `n`, `off`, in
/// either case.
///
/// # Errors
/// One sentence with the text and what is accepted.
pub fn parse_bool(text: &str) -> Result<bool, Refusal> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err(Refusal::about(
            format_args!("`{text}`"),
            "neither yes nor no (1, true, yes, on or 0, false, no, off)",
        )),
    }
}

/// Parse a probability: `0.1`, `1e-1`, `10%`, `1:10` or `1/10`. It may exceed 1, as in nbdkit.
///
/// `what` names the parameter in the refusal.
///
/// # Errors
/// One sentence for anything negative, infinite, not a number, or divided by zero (0/0 is 0).
pub fn parse_probability(what: &str, text: &str) -> Result<f64, Refusal> {
    let refused = |why: &str| {
        Refusal::about(format_args!("{what} `{text}`"), why)
            .hint("give a probability such as 0.1, 10%, 1:10 or 1/10")
    };
    let probability = if let Some((above, below)) = text.split_once([':', '/']) {
        let above = decimal(above).ok_or_else(|| refused("not a number"))?;
        let below = decimal(below).ok_or_else(|| refused("not a number"))?;
        if above == 0.0 && below == 0.0 {
            return Ok(0.0);
        }
        if below == 0.0 {
            return Err(refused("division by zero"));
        }
        above / below
    } else if let Some(percent) = text.strip_suffix('%') {
        decimal(percent).ok_or_else(|| refused("not a number"))? / 100.0
    } else {
        decimal(text).ok_or_else(|| refused("not a number"))?
    };
    if !probability.is_finite() || probability < 0.0 {
        return Err(refused("not a number of at least 0"));
    }
    Ok(probability)
}

/// Parse a delay: a number with the suffix `s` (or none), `ms`, `us`, `μs` or `ns`.
///
/// `what` names the parameter in the refusal.
///
/// # Errors
/// One sentence for anything negative, not a number, or longer than `u32::MAX` seconds.
pub fn parse_delay(what: &str, text: &str) -> Result<Duration, Refusal> {
    let refused = |why: &str| {
        Refusal::about(format_args!("{what} `{text}`"), why)
            .hint("give a delay such as 2, 0.5s, 100ms, 20us or 50ns")
    };
    // Longest first: `ms` ends in `s` too. Both characters that look like a mu are in use.
    let units = [
        ("ms", 1e-3),
        ("us", 1e-6),
        ("\u{3bc}s", 1e-6),
        ("\u{b5}s", 1e-6),
        ("ns", 1e-9),
        ("s", 1.0),
    ];
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1.0));
    let seconds = decimal(number).ok_or_else(|| refused("not a number with a unit"))? * unit;
    if seconds.is_nan() || seconds < 0.0 {
        return Err(refused("not a number of at least 0"));
    }
    if seconds > f64::from(u32::MAX) {
        return Err(refused("too long"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| refused(&error.to_string()))
}

/// How the number at the head of this is written, and the number without the `0x` that says so. The `0`
/// of an octal number is a digit as well.
fn radix(text: &str) -> (u32, &str) {
    let behind = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    match behind {
        Some(digits) if digits.starts_with(|first: char| first.is_ascii_hexdigit()) => (16, digits),
        _ if text.starts_with('0') => (8, text),
        _ => (10, text),
    }
}

/// The suffix in lower case, without the `_` that may stand before it.
fn scaled_by(suffix: &str) -> String {
    let word = suffix.strip_prefix('_').filter(|word| !word.is_empty());
    word.unwrap_or(suffix).to_ascii_lowercase()
}

/// Skip what C's number parsers skip: leading blanks and one sign.
fn sign(text: &str) -> (bool, &str) {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// A decimal floating point number, with the blanks and sign that C allows in front.
fn decimal(text: &str) -> Option<f64> {
    let (negative, rest) = sign(text);
    // Rust would take a second sign.
    if rest.starts_with(['+', '-']) {
        return None;
    }
    let number = rest.parse::<f64>().ok()?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_nbdkit_takes() {
        for (text, size) in [
            ("0", 0),
            ("-0", 0),
            ("  42", 42),
            ("\t+7", 7),
            ("1b", 1),
            ("3S", 1536),
            ("1k", 1024),
            ("2K", 2048),
            ("1M", 1 << 20),
            ("1g", 1 << 30),
            ("1T", 1 << 40),
            ("1p", 1 << 50),
            ("7E", 7 << 60),
            ("9223372036854775807", i64::MAX as u64),
            ("0x10", 16),
            ("0X1f", 31),
            ("+0x10k", 16384),
            ("0xfG", 15 << 30),
            ("0x1E", 30),
            ("0x1B", 27),
            ("0x1_E", 1 << 60),
            ("0x2s", 1024),
            ("0x7fffffffffffffff", i64::MAX as u64),
            ("-0x0", 0),
            ("010", 8),
            ("0777", 511),
            ("017_s", 7680),
            ("00", 0),
            ("0b", 0),
            ("0_K", 0),
            ("1_K", 1024),
            ("1_b", 1),
            ("7_E", 7 << 60),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
    }

    #[test]
    fn sizes_that_nbdkit_refuses() {
        for text in [
            "",
            " ",
            "k",
            "1KiB",
            "1kB",
            "1.5M",
            "0x",
            "0xg",
            "0xS",
            "0x_K",
            "0x 1",
            "0x+1",
            "-0x1",
            "0x1_000",
            "0x8000000000000000",
            "0xffffffffffffffffff",
            "08",
            "0o17",
            "_1",
            "_K",
            "1_",
            "1k_",
            "1__K",
            "1_Kb",
            "8_E",
            "１",
            "1 ",
            "1 k",
            "-1",
            "--0",
            "+-1",
            "8E",
            "9223372036854775808",
            "99999999999999999999999",
            "1_000",
            "1é",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_refused_size_names_the_text_and_what_is_accepted() {
        assert_eq!(
            parse_size("1KiB").unwrap_err().to_string(),
            "size `1KiB`: unknown suffix `KiB`\n\
             hint: give a number with an optional suffix b, k, m, g, t, p, e or s (512)"
        );
    }

    #[test]
    fn booleans() {
        for text in ["1", "true", "T", "YES", "y", "On"] {
            assert_eq!(parse_bool(text), Ok(true), "{text}");
        }
        for text in ["0", "False", "f", "no", "N", "oFF"] {
            assert_eq!(parse_bool(text), Ok(false), "{text}");
        }
        for text in ["", " 1", "2", "yess", "-1"] {
            assert!(parse_bool(text).is_err(), "{text}");
        }
    }

    #[test]
    fn probabilities() {
        for (text, expected) in [
            ("0", 0.0),
            ("0.1", 0.1),
            ("1e-1", 0.1),
            ("10%", 0.1),
            ("1:10", 0.1),
            ("1/10", 0.1),
            ("0/0", 0.0),
            ("0:5", 0.0),
            ("300%", 3.0),
        ] {
            let found = parse_probability("error-rate", text).unwrap();
            assert!((found - expected).abs() < 1e-12, "{text}: {found}");
        }
        for text in [
            "", "x", "1/0", "nan", "inf", "-0.1", "1/-2", "1:", "%", "1%%", "1 /", "+-1",
        ] {
            assert!(parse_probability("error-rate", text).is_err(), "{text}");
        }
    }

    #[test]
    fn delays() {
        for (text, nanos) in [
            ("0", 0),
            ("2", 2_000_000_000),
            ("2s", 2_000_000_000),
            ("0.5", 500_000_000),
            ("100ms", 100_000_000),
            ("20us", 20_000),
            ("20\u{3bc}s", 20_000),
            ("20\u{b5}s", 20_000),
            ("50ns", 50),
        ] {
            let found = parse_delay("delay", text).unwrap();
            assert_eq!(found, Duration::from_nanos(nanos), "{text}");
        }
        for text in [
            "",
            "s",
            "-1",
            "nan",
            "inf",
            "1m",
            "1 ms ",
            "5000000000",
            "1e300",
        ] {
            assert!(parse_delay("delay", text).is_err(), "{text}");
        }
    }
}
