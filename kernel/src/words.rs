//! What the system says of an error, for sentences that users read.

use std::io;

/// Without the ` (os error 2)` that Rust puts behind the words of every system error.
pub(crate) fn words(error: impl Into<io::Error>) -> String {
    let error = error.into();
    let mut said = error.to_string();
    if let Some(number) = error.raw_os_error()
        && let Some(words) = said.strip_suffix(&format!(" (os error {number})"))
    {
        said.truncate(words.len());
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_is_left_out() {
        let missing = rustix::io::Errno::NOENT;
        assert_eq!(words(missing), "No such file or directory");
        let odd = io::Error::other("odd (os error 2)");
        assert_eq!(words(odd), "odd (os error 2)");
    }
}
