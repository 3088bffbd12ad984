//! Text that came from outside (clients, plugins, parameters), as it is shown to people: nothing in it may move a
//! cursor, and nothing may look like a line that pydisk wrote.

use std::borrow::Cow;

/// `text` for a place of one line: what is [`odd`] is written as Rust writes it, `\n` and `\u{1b}`.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, odd, char::escape_default)
}

/// `text` for a place of several lines: as [`one_line`], but for line feeds and tabs.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, odd_in_lines, char::escape_default)
}

/// As [`one_line`], of what may be no text: bytes that are none are written as `\xe9`.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        shown.push_str(&one_line(chunk.valid()));
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// JSON that says the same: what is odd in its strings is written as JSON writes it, `\u009b`.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    escaped(text, odd_in_lines, |letter| {
        // None of them is beyond the letters that take four digits.
        format!("\\u{:04x}", u32::from(letter))
            .chars()
            .collect::<Vec<_>>()
    })
}

/// What moves a cursor, ends a line, or has what follows shown from right to left (Unicode's Bidi_Control).
fn odd(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

fn odd_in_lines(letter: char) -> bool {
    odd(letter) && !matches!(letter, '\n' | '\t')
}

fn escaped<I: IntoIterator<Item = char>>(
    text: &str,
    odd: impl Fn(char) -> bool,
    written: impl Fn(char) -> I,
) -> Cow<'_, str> {
    if !text.contains(&odd) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if odd(letter) {
            shown.extend(written(letter));
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_cursor_is_written_out() {
        let odd = "a\x1b[2Jb\r\0\u{85}\x07\n\tc\u{fffd}\u{e9}";
        assert_eq!(
            lines(odd),
            "a\\u{1b}[2Jb\\r\\u{0}\\u{85}\\u{7}\n\tc\u{fffd}\u{e9}"
        );
        assert_eq!(
            one_line(odd),
            "a\\u{1b}[2Jb\\r\\u{0}\\u{85}\\u{7}\\n\\tc\u{fffd}\u{e9}"
        );
        assert!(matches!(one_line("plain `\u{e9}`"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_turns_the_order_of_letters_round_is_written_out() {
        for odd in [
            '\u{61c}', '\u{85}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}',
            '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}',
            '\u{2069}',
        ] {
            let text = format!("a{odd}b");
            let written = format!("a\\u{{{:x}}}b", u32::from(odd));
            assert_eq!(lines(&text), written);
            assert_eq!(one_line(&text), written);
        }
        let plain = "\u{e4}\u{5d0}\u{627} \u{200d}\u{2027}\u{202f}\u{2065}\u{206a}\u{1f600}";
        assert!(matches!(one_line(plain), Cow::Borrowed(_)));
    }

    #[test]
    fn bytes_that_are_no_text_are_numbers() {
        assert_eq!(bytes(b"caf\xe9\n.py"), "caf\\xe9\\n.py");
        assert_eq!(bytes("\u{e9}".as_bytes()), "\u{e9}");
    }

    #[test]
    fn json_means_the_same_and_moves_no_cursor() {
        let odd = serde_json::json!({ "a\u{9b}": "\x1b\u{7f}\u{202e}\u{e4}\n" });
        let text = format!("{odd:#}");
        let shown = json(&text);
        assert_eq!(
            shown,
            "{\n  \"a\\u009b\": \"\\u001b\\u007f\\u202e\u{e4}\\n\"\n}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            odd
        );
    }
}
