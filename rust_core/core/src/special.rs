//! Special tokens in text: what to do about them, and finding them.

mod beginnings;

use aho_corasick::{AhoCorasick, Anchored, Input, MatchKind, StartKind};
use beginnings::Beginnings;
use memchr::memmem;

use crate::error::{Error, Result};
use crate::vocab::pipeline::TokenFlags;
use crate::vocab::{SpecialOrder, Vocabulary};

/// What a special token's text inside a document means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialPolicy {
    /// An error.
    Raise,
    /// Ordinary text.
    Text,
    /// The token's id.
    Token,
}

impl SpecialPolicy {
    /// The option's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raise => "raise",
            Self::Text => "text",
            Self::Token => "token",
        }
    }

    /// Reads the option's value: `raise`, `text` or `token`.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "raise" => Self::Raise,
            "text" => Self::Text,
            "token" => Self::Token,
            _ => {
                let what = format!("{text:?} is none of raise, text, token");
                return Err(Error::BadOption { option: "special", what });
            }
        })
    }
}

/// A special or added token in a text: its bytes `start..end`, its id, and how it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub start: usize,
    pub end: usize,
    pub id: u32,
    pub flags: TokenFlags,
}

impl Found {
    /// Refuses a special token under the policy `raise`; `offset` is where `text` starts.
    pub(crate) fn check(&self, policy: SpecialPolicy, text: &str, offset: u64) -> Result<()> {
        if !self.flags.special || policy != SpecialPolicy::Raise {
            return Ok(());
        }
        let token = text[self.start..self.end].to_owned();
        Err(Error::SpecialToken { path: None, token, offset: offset + self.start as u64 })
    }
}

/// Finds special and added tokens: leftmost first, then by the vocabulary's [`SpecialOrder`].
pub struct SpecialFinder {
    search: Search,
    tokens: Vec<(u32, TokenFlags)>,
    max_len: usize,
    has_ordinary: bool,
    has_context: bool,
}

enum Search {
    None,
    One(Box<memmem::Finder<'static>>),
    Many(AhoCorasick),
    /// Where all begin with one of a few rare characters.
    Beginning(Beginnings, AhoCorasick),
}

impl SpecialFinder {
    /// Builds the search for all special tokens of a vocabulary.
    #[must_use]
    pub fn new(vocab: &Vocabulary) -> Self {
        let tokens = vocab.specials().iter().enumerate();
        Self::of(
            vocab.special_order(),
            tokens.map(|(at, special)| (special.text.clone(), special.id, vocab.flags(at))).collect(),
        )
    }

    /// Builds the search for tokens: text, id and flags.
    #[must_use]
    pub fn of(order: SpecialOrder, tokens: Vec<(String, u32, TokenFlags)>) -> Self {
        let search = match &tokens[..] {
            [] => Search::None,
            [(one, ..)] => Search::One(Box::new(memmem::Finder::new(one).into_owned())),
            _ => {
                let kind = match order {
                    SpecialOrder::Listed => MatchKind::LeftmostFirst,
                    SpecialOrder::Longest => MatchKind::LeftmostLongest,
                };
                let texts = tokens.iter().map(|(text, ..)| text);
                let beginnings = Beginnings::new(tokens.iter().map(|(text, ..)| &text[..]));
                let start = if beginnings.is_some() { StartKind::Anchored } else { StartKind::Unanchored };
                // Building fails only above 2^31 states, one per byte: far more than a vocabulary has.
                let automaton = AhoCorasick::builder().match_kind(kind).start_kind(start).build(texts);
                let automaton = automaton.unwrap_or_else(|error| unreachable!("special tokens: {error}"));
                match beginnings {
                    Some(beginnings) => Search::Beginning(beginnings, automaton),
                    None => Search::Many(automaton),
                }
            }
        };
        Self {
            search,
            max_len: tokens.iter().map(|(text, ..)| text.len()).max().unwrap_or(0),
            has_ordinary: tokens.iter().any(|(.., flags)| !flags.special),
            has_context: tokens.iter().any(|(.., flags)| flags.looks_around()),
            tokens: tokens.into_iter().map(|(_, id, flags)| (id, flags)).collect(),
        }
    }

    /// Whether it has tokens that are found under any policy.
    #[must_use]
    pub fn has_ordinary(&self) -> bool {
        self.has_ordinary
    }

    /// Whether text cut at `at` would be read differently, because a token reaches over the cut, or one
    /// that looks around itself may touch it.
    #[must_use]
    pub fn bridges(&self, text: &[u8], at: usize) -> bool {
        if self.has_context && last_char(&text[..at]).is_none_or(char::is_whitespace) {
            return true;
        }
        let from = at.saturating_sub(self.max_len);
        let window = &text[from..(at + self.max_len).min(text.len())];
        let mut next = 0;
        while let Some(found) = self.find(window, next) {
            let (start, end) = (from + found.start, from + found.end);
            if (start < at && at < end) || (found.flags.looks_around() && start <= at && at <= end) {
                return true;
            }
            next = found.start + 1;
        }
        false
    }

    /// The first special token that starts at or after byte `from`.
    ///
    /// # Panics
    /// If `from` is beyond the end of `text`.
    #[must_use]
    pub fn find(&self, text: &[u8], from: usize) -> Option<Found> {
        match &self.search {
            Search::None => None,
            Search::One(finder) => {
                let start = from + finder.find(&text[from..])?;
                Some(self.found(start, start + self.max_len, 0))
            }
            Search::Many(automaton) => {
                let found = automaton.find(Input::new(text).range(from..))?;
                Some(self.found(found.start(), found.end(), found.pattern().as_usize()))
            }
            Search::Beginning(beginnings, automaton) => beginnings.find(text, from, |at| {
                let found = automaton.find(Input::new(text).range(at..).anchored(Anchored::Yes))?;
                Some(self.found(found.start(), found.end(), found.pattern().as_usize()))
            }),
        }
    }

    fn found(&self, start: usize, end: usize, at: usize) -> Found {
        let (id, flags) = self.tokens[at];
        Found { start, end, id, flags }
    }

    /// Length in bytes of the longest special token; 0 if there is none.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.max_len
    }
}

/// The last character of a text that may be broken.
fn last_char(text: &[u8]) -> Option<char> {
    let start = (0..text.len()).rev().find(|&at| text[at] & 0xC0 != 0x80)?;
    std::str::from_utf8(&text[start..]).ok()?.chars().next_back()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::SpecialToken;
    use std::collections::BTreeMap;

    fn finder(texts: &[&str]) -> SpecialFinder {
        let specials =
            (0..).zip(texts).map(|(id, text)| SpecialToken { text: (*text).to_owned(), id }).collect();
        SpecialFinder::new(&Vocabulary::from_merges(BTreeMap::new(), vec![], specials, "x").unwrap())
    }

    fn found(start: usize, end: usize, id: u32) -> Found {
        Found { start, end, id, flags: TokenFlags::SPECIAL }
    }

    #[test]
    fn leftmost_then_longest() {
        let finder = finder(&["<a", "<a>", "b<a"]);
        assert_eq!(finder.find(b"x<a>", 0), Some(found(1, 4, 1)));
        assert_eq!(finder.find(b"b<a>", 0), Some(found(0, 3, 2)));
        assert_eq!(finder.find(b"b<a>", 1), Some(found(1, 4, 1)));
        assert_eq!(finder.find(b"b<a>", 2), None);
        assert_eq!(finder.find(b"b<a>", 4), None);
        assert_eq!(finder.max_len(), 3);
    }

    #[test]
    fn tokens_that_begin_alike_are_found_as_others_are() {
        let finder = finder(&["<a", "<a>", "<<", "<｜b｜>", "｜b｜"]);
        assert!(matches!(finder.search, Search::Beginning(..)));
        assert_eq!(finder.find("x<<a>".as_bytes(), 0), Some(found(1, 3, 2)));
        assert_eq!(finder.find("x<<a>".as_bytes(), 2), Some(found(2, 5, 1)));
        assert_eq!(finder.find("<｜b<｜b｜>".as_bytes(), 0), Some(found(5, 14, 3)));
        assert_eq!(finder.find("<｜b<".as_bytes(), 0), None);
        assert_eq!(finder.find("x<｜｜b｜<a".as_bytes(), 0), Some(found(5, 12, 4)));
        assert_eq!(finder.find(b"", 0), None);
    }

    #[test]
    fn one_token_and_policies() {
        let finder = finder(&["<|endoftext|>"]);
        let text = b"a<|endoftext|><|endoftext|>";
        assert_eq!(finder.find(text, 2), Some(found(14, 27, 0)));
        assert_eq!(finder.find(text, 27), None);
        assert_eq!(SpecialPolicy::parse("token").unwrap(), SpecialPolicy::Token);
        assert_eq!(SpecialPolicy::parse("all").unwrap_err().code(), "BAD_REQUEST");
    }
}
