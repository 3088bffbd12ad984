//! Text that came from outside (clients, plugins, parameters), as it is shown to people: nothing in it may move a
//! cursor, and nothing may look like a line that pydisk wrote.

use std::borrow::Cow;

/// `text` for a place of one line: control characters are written as Rust writes them, `\n` and `\u{1b}`.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, char::is_control)
}

/// `text` for a place of several lines: as [`one_line`], but for line feeds and tabs.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| {
        letter.is_control() && !matches!(letter, '\n' | '\t')
    })
}

fn escaped(text: &str, odd: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&odd) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if odd(letter) {
            shown.extend(letter.escape_default());
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
}
