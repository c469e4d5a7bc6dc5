//! GPT-2's split pattern as a hand-written scanner.
//!
//! ```text
//! '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```
//!
//! Every character is a letter, a number, whitespace or *other*. Read as a program, the pattern says:
//!
//! 1. an apostrophe that starts a pretoken takes a contraction suffix if one follows (lower case only);
//! 2. a run of letters, of numbers or of others is a pretoken, with one space (U+0020) before it if
//!    there is one;
//! 3. a run of whitespace is a pretoken, but if anything follows it gives its last character away:
//!    to the next pretoken when that is a space (rule 2), else as a pretoken of its own.
//!
//! Where a pretoken ends depends only on the text from its start. *Borders* (see [`Gpt2::is_border`])
//! are places where a pretoken starts whatever comes before them, so that a file can be cut there and
//! the parts split on their own.

use super::unicode::{Classes, is_letter, is_number};
use super::{Pretokenizer, Split};
use crate::error::Result;

/// The pattern, as tiktoken and the model files spell it.
pub const PATTERN: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Spellings that split every text the same way: `OpenAI`'s first one, and tiktoken's present one.
const SPELLINGS: [&str; 3] = [
    PATTERN,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
];

const LETTER: u8 = 0;
const NUMBER: u8 = 1;
const OTHER: u8 = 2;
const SPACE: u8 = 3;
const MULTIBYTE: u8 = 4;

/// The scanner with the class tables of one reference.
pub struct Gpt2 {
    /// Class by byte; [`MULTIBYTE`] from 0x80 on.
    bytes: [u8; 256],
    /// Code point / 64 → row of `rows`.
    index: Box<[u16]>,
    rows: Vec<[u8; 64]>,
}

impl Gpt2 {
    /// Whether `pattern` is one of GPT-2's spellings.
    #[must_use]
    pub fn accepts(pattern: &str) -> bool {
        SPELLINGS.contains(&pattern)
    }

    /// Builds the class tables.
    #[must_use]
    pub fn new(classes: &Classes) -> Self {
        let class = |category, is_space| match category {
            category if is_letter(category) => LETTER,
            category if is_number(category) => NUMBER,
            _ if is_space => SPACE,
            _ => OTHER,
        };
        let (index, rows) = classes.rows(class);
        let ascii = |byte: usize| rows[usize::from(index[byte / 64])][byte % 64];
        let bytes = std::array::from_fn(|byte| if byte < 128 { ascii(byte) } else { MULTIBYTE });
        Self { bytes, index, rows }
    }

    /// Class and length in bytes of the character at `at`; the text is UTF-8.
    #[inline]
    fn class_at(&self, text: &[u8], at: usize) -> (u8, usize) {
        let byte = text[at];
        let class = self.bytes[usize::from(byte)];
        if class != MULTIBYTE {
            return (class, 1);
        }
        let tail = |k: usize| u32::from(text[at + k] & 0x3F);
        let (code, len) = match byte {
            0..0xE0 => (u32::from(byte & 0x1F) << 6 | tail(1), 2),
            0xE0..0xF0 => (u32::from(byte & 0x0F) << 12 | tail(1) << 6 | tail(2), 3),
            _ => (u32::from(byte & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4),
        };
        (self.rows[usize::from(self.index[(code >> 6) as usize])][(code & 63) as usize], len)
    }

    /// The end of the run of `class` that has begun before `at`.
    #[inline]
    fn run_end(&self, text: &[u8], mut at: usize, class: u8) -> usize {
        while at < text.len() {
            let ascii = self.bytes[usize::from(text[at])];
            if ascii == class {
                at += 1;
                continue;
            }
            if ascii != MULTIBYTE {
                break;
            }
            let (wide, len) = self.class_at(text, at);
            if wide != class {
                break;
            }
            at += len;
        }
        at
    }

    /// The pretoken that starts at `start`: its end, and whether the end of `text` had a say in it.
    #[inline]
    #[must_use]
    pub fn pretoken(&self, text: &[u8], start: usize) -> (usize, bool) {
        let (mut class, mut len) = self.class_at(text, start);
        let mut at = start + len;
        match text[start] {
            b'\'' => match contraction(&text[at..]) {
                Suffix::Len(suffix) => return (at + suffix, false),
                // Without more text the apostrophe is an "other" that starts a run.
                Suffix::NeedsMore => return (self.run_end(text, at, OTHER), true),
                Suffix::None => {}
            },
            b' ' if at < text.len() => {
                let (next, next_len) = self.class_at(text, at);
                if next != SPACE {
                    (class, len) = (next, next_len);
                    at += len;
                }
            }
            _ => {}
        }
        let end = self.run_end(text, at, class);
        if class != SPACE || end == text.len() {
            return (end, end == text.len());
        }
        // Something follows: the run gives its last character away, unless that is all of it.
        let last = char_start(text, end - 1);
        (if last == start { end } else { last }, false)
    }

    /// Whether a pretoken starts at `at` whatever stands further left, and whether what stands left
    /// of it splits as if the text ended there.
    ///
    /// True where whitespace begins after something else, and between two multi-byte characters of
    /// which neither is whitespace and which differ in class: no contraction, no space prefix and no
    /// trailing whitespace can be involved. `text` need not be valid UTF-8 as a whole; both
    /// neighbours must be.
    #[must_use]
    pub fn is_border(&self, text: &[u8], at: usize) -> bool {
        let (Some(before), Some(after)) = (last_char(&text[..at]), first_char(&text[at..])) else {
            return false;
        };
        let (left, _) = self.class_at(before, 0);
        let (right, _) = self.class_at(after, 0);
        left != SPACE && (right == SPACE || (before.len() > 1 && after.len() > 1 && left != right))
    }
}

enum Suffix {
    Len(usize),
    NeedsMore,
    None,
}

fn contraction(rest: &[u8]) -> Suffix {
    match rest {
        [b's' | b'd' | b'm' | b't', ..] => Suffix::Len(1),
        [b'l', b'l', ..] | [b'v' | b'r', b'e', ..] => Suffix::Len(2),
        [] | [b'l' | b'v' | b'r'] => Suffix::NeedsMore,
        _ => Suffix::None,
    }
}

/// Start of the character that `at` lies in.
fn char_start(text: &[u8], mut at: usize) -> usize {
    while at > 0 && text[at] & 0xC0 == 0x80 {
        at -= 1;
    }
    at
}

/// The last character of `text`, if it is a whole and valid one.
pub(super) fn last_char(text: &[u8]) -> Option<&[u8]> {
    let start = char_start(text, text.len().checked_sub(1)?);
    let last = &text[start..];
    (last.len() <= 4 && std::str::from_utf8(last).is_ok_and(|c| c.chars().count() == 1)).then_some(last)
}

/// The first character of `text`, if it is a whole and valid one.
pub(super) fn first_char(text: &[u8]) -> Option<&[u8]> {
    let len = match *text.first()? {
        0..0x80 => 1,
        0xC2..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0..0xF5 => 4,
        _ => return None,
    };
    let first = text.get(..len)?;
    std::str::from_utf8(first).is_ok().then_some(first)
}

impl Pretokenizer for Gpt2 {
    fn next(&self, text: &str, start: usize) -> Result<Split> {
        let (end, hit_end) = self.pretoken(text.as_bytes(), start);
        Ok(Split { end, matched: true, hit_end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretokenize::unicode::classes;
    use crate::vocab::Reference;

    fn split(text: &str) -> Vec<&str> {
        let scanner = Gpt2::new(classes(Reference::Tiktoken));
        let (mut parts, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let (end, _) = scanner.pretoken(text.as_bytes(), at);
            parts.push(&text[at..end]);
            at = end;
        }
        parts
    }

    #[test]
    fn whitespace_gives_its_last_character_away() {
        assert_eq!(split("a  b"), ["a", " ", " b"]);
        assert_eq!(split("a \nb"), ["a", " ", "\n", "b"]);
        assert_eq!(split("a\n b"), ["a", "\n", " b"]);
        assert_eq!(split("a \u{3000}\u{a0}b"), ["a", " \u{3000}", "\u{a0}", "b"]);
        assert_eq!(split("a  \n"), ["a", "  \n"]);
        assert_eq!(split(" "), [" "]);
    }

    #[test]
    fn contractions_are_lower_case_and_start_a_pretoken() {
        assert_eq!(split("y'all'd've'S"), ["y", "'", "all", "'d", "'ve", "'", "S"]);
        assert_eq!(split(" 's .'s ''s"), [" '", "s", " .'", "s", " ''", "s"]);
        assert_eq!(split("'sx'lx"), ["'s", "x", "'", "lx"]);
    }

    #[test]
    fn the_end_of_the_text_is_noticed() {
        let scanner = Gpt2::new(classes(Reference::Tiktoken));
        for (text, hit_end) in
            [("ab", true), ("ab ", false), ("  ", true), ("'", true), ("'l", true), ("'s", false)]
        {
            assert_eq!(scanner.pretoken(text.as_bytes(), 0).1, hit_end, "{text:?}");
        }
    }

    #[test]
    fn borders_are_where_whitespace_begins_or_wide_classes_change() {
        let scanner = Gpt2::new(classes(Reference::Tiktoken));
        let is = |text: &str, at: usize| scanner.is_border(text.as_bytes(), at);
        assert!(is("a b", 1) && !is("a  b", 2) && !is("a b", 2) && !is("ab", 1));
        assert!(is("中。", 3) && !is("中国", 3) && !is("中'", 3) && !is("'中", 1));
        assert!(!is("a", 0) && !is("a", 1));
        assert!(!scanner.is_border(b"\xE4\xB8 x", 2), "a broken character is no neighbour");
    }
}
