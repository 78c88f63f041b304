//! Texts that people wrote: which are plain, and how they are shown in messages.

/// `text` in backquotes, for a message: control and foreign characters escaped, cut after 64 characters.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut out = String::from("`");
    out.extend(text.chars().take(SHOWN).flat_map(|c| {
        let plain = c.is_ascii() && !c.is_ascii_control();
        let escaped = (!plain).then(|| c.escape_unicode());
        plain.then_some(c).into_iter().chain(escaped.into_iter().flatten())
    }));
    out.push_str(if text.chars().nth(SHOWN).is_some() { "…`" } else { "`" });
    out
}

/// Reads a text for people: at most `most` characters, none of them a control character.
///
/// Characters that reorder or hide their neighbours (bidirectional marks, zero-width characters) are refused with the
/// control characters, since they make a log or a table lie.
///
/// # Errors
/// What is wrong and what would be right.
pub fn plain_text(text: &str, most: usize) -> Result<String, String> {
    let length = text.chars().count();
    if length > most {
        return Err(format!("has {length} characters; at most {most} are possible"));
    }
    match text.chars().find(|c| is_deceptive(*c)) {
        Some(c) => Err(format!("holds the control character U+{:04X}; write it without", u32::from(c))),
        None => Ok(text.to_owned()),
    }
}

/// Control characters, and those that change how their neighbours are shown or are not seen at all.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_cannot_change_what_a_terminal_shows() {
        assert_eq!(quoted("a\x1b[31m\nb"), "`a\\u{1b}[31m\\u{a}b`");
        assert_eq!(quoted(&"x".repeat(65)), format!("`{}…`", "x".repeat(64)));
    }

    #[test]
    fn a_text_for_people_has_no_control_characters() {
        assert_eq!(plain_text("Müller & Söhne 🦀", 63), Ok("Müller & Söhne 🦀".to_owned()));
        for text in ["\u{1b}[2J", "a\nlevel=ERROR forged", "\u{202E}cod", "\u{85}", "\u{200B}"] {
            assert!(plain_text(text, 63).is_err(), "{text:?}");
        }
    }
}
