//! Text that people type, made fit for a mail.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer};

/// The text without control characters and line breaks, white space collapsed: what a header or a heading can hold.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text
        .split_whitespace()
        .filter(|word| !word.chars().all(char::is_control))
    {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.split(char::is_control));
    }
    line
}

/// The first `max` characters.
pub(super) fn cut(mut line: String, max: usize) -> String {
    if let Some((end, _)) = line.char_indices().nth(max) {
        line.truncate(line[..end].trim_end().len());
    }
    line
}

/// The text without trailing spaces and with at most one blank line in a row, so that a text template may be laid
/// out like its source.
pub(super) fn paragraphs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = false;
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            blank = true;
            continue;
        }
        if blank && !out.is_empty() {
            out.push('\n');
        }
        blank = false;
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// A variable that is shown on one line: a name, a title, a number.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Line(String);

/// The name by which a mail greets its reader; "there" where none is known.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Name(Line);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(one_line(&text)))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Option::<Line>::deserialize(deserializer)?;
        Ok(name.filter(|name| !name.is_empty()).map_or_else(Self::default, Self))
    }
}

impl Default for Name {
    fn default() -> Self {
        Self(Line("there".to_owned()))
    }
}

impl Deref for Line {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn one_line_is_one_line() {
        for (text, line) in [
            ("Hello", "Hello"),
            ("  two\t words \r\n here ", "two words here"),
            ("a\u{2028}b\u{85}c\u{a0}d", "a b c d"),
            ("be\u{7}ll\0", "bell"),
            ("a \u{1b} b", "a b"),
            ("Bcc: x@y.z\r\nBcc: z@y.x", "Bcc: x@y.z Bcc: z@y.x"),
            ("\u{0} \n\t", ""),
            ("", ""),
        ] {
            assert_eq!(one_line(text), line, "{text:?}");
        }
    }

    #[test]
    fn the_cut_counts_characters_and_leaves_no_space_at_the_end() {
        assert_eq!(cut("é".repeat(300), 200), "é".repeat(200));
        assert_eq!(cut("abc def".to_owned(), 4), "abc");
        assert_eq!(cut("abc def".to_owned(), 5), "abc d");
        assert_eq!(cut("abc def".to_owned(), 7), "abc def");
    }

    #[test]
    fn paragraphs_keep_one_blank_line() {
        assert_eq!(paragraphs("\n\n a \n\n\n\nb\nc\n\n"), " a\n\nb\nc\n");
        assert_eq!(paragraphs(""), "");
    }

    #[test]
    fn whoever_has_no_name_is_called_there() {
        for value in [json!(null), json!(""), json!(" \n ")] {
            assert_eq!(from_value::<Name>(value).unwrap().to_string(), "there");
        }
        assert_eq!(
            from_value::<Name>(json!(" Ada\nLovelace")).unwrap().to_string(),
            "Ada Lovelace"
        );
        assert!(from_value::<Name>(Value::from(3)).is_err());
    }
}
