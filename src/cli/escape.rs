//! Making foreign text harmless where a person or a terminal reads it.

use std::{borrow::Cow, fmt::Write as _};

use crate::domain::text::is_deceptive;

/// `text` with control characters, and characters that reorder or hide their neighbours, written as `\u{1b}`.
///
/// The service refuses them in names and labels; whoever answers on its address may not.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_deceptive) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_deceptive(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// `json` with the same characters written as `\u001b`, which means the same to every reader of JSON.
///
/// Line feeds are kept: outside of strings they lay the text out, and inside they are escaped already.
pub(crate) fn escaped_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_deceptive(c) && c != '\n' {
            // All of them are in the Basic Multilingual Plane. Writing to a String does not fail.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_sees_no_escape_sequence_and_no_forged_line() {
        assert_eq!(escaped("a\u{1b}[31m\nb\u{9b}c\u{202e}d"), "a\\u{1b}[31m\\u{a}b\\u{9b}c\\u{202e}d");
        assert_eq!(escaped("Müller & Söhne 🦀"), "Müller & Söhne 🦀");
    }

    #[test]
    fn escaped_json_reads_the_same() {
        let text = "a\u{1b}\u{7f}\u{9b}\u{202e}\n\"b\"";
        let json = escaped_json(&serde_json::to_string_pretty(&[text]).unwrap());
        assert!(!json.chars().any(|c| is_deceptive(c) && c != '\n'), "{json:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [text]);
    }
}
