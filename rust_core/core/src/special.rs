//! Special tokens in text: what to do about them, and finding them.

use aho_corasick::{AhoCorasick, Input, MatchKind};
use memchr::memmem;

use crate::error::{Error, Result};
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

/// A special token in a text: its bytes `start..end`, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub start: usize,
    pub end: usize,
    pub id: u32,
}

/// Finds special tokens: leftmost first, then by the vocabulary's [`SpecialOrder`].
pub struct SpecialFinder {
    search: Search,
    /// In the order of the vocabulary's list.
    ids: Vec<u32>,
    max_len: usize,
}

enum Search {
    None,
    One(Box<memmem::Finder<'static>>),
    Many(AhoCorasick),
}

impl SpecialFinder {
    /// Builds the search for a vocabulary's special tokens.
    #[must_use]
    pub fn new(vocab: &Vocabulary) -> Self {
        let texts: Vec<&str> = vocab.specials().iter().map(|special| special.text.as_str()).collect();
        let search = match texts[..] {
            [] => Search::None,
            [one] => Search::One(Box::new(memmem::Finder::new(one).into_owned())),
            _ => {
                let kind = match vocab.special_order() {
                    SpecialOrder::Listed => MatchKind::LeftmostFirst,
                    SpecialOrder::Longest => MatchKind::LeftmostLongest,
                };
                // Building fails only above 2^31 states, one per byte: far more than a vocabulary has.
                let automaton = AhoCorasick::builder().match_kind(kind).build(&texts);
                Search::Many(automaton.unwrap_or_else(|error| unreachable!("special tokens: {error}")))
            }
        };
        let max_len = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        Self { search, ids: vocab.specials().iter().map(|special| special.id).collect(), max_len }
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
                Some(Found { start, end: start + self.max_len, id: self.ids[0] })
            }
            Search::Many(automaton) => {
                let found = automaton.find(Input::new(text).range(from..))?;
                let id = self.ids[found.pattern().as_usize()];
                Some(Found { start: found.start(), end: found.end(), id })
            }
        }
    }

    /// Length in bytes of the longest special token; 0 if there is none.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.max_len
    }
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

    #[test]
    fn leftmost_then_longest() {
        let finder = finder(&["<a", "<a>", "b<a"]);
        assert_eq!(finder.find(b"x<a>", 0), Some(Found { start: 1, end: 4, id: 1 }));
        assert_eq!(finder.find(b"b<a>", 0), Some(Found { start: 0, end: 3, id: 2 }));
        assert_eq!(finder.find(b"b<a>", 1), Some(Found { start: 1, end: 4, id: 1 }));
        assert_eq!(finder.find(b"b<a>", 2), None);
        assert_eq!(finder.find(b"b<a>", 4), None);
        assert_eq!(finder.max_len(), 3);
    }

    #[test]
    fn one_token_and_policies() {
        let finder = finder(&["<|endoftext|>"]);
        let text = b"a<|endoftext|><|endoftext|>";
        assert_eq!(finder.find(text, 2), Some(Found { start: 14, end: 27, id: 0 }));
        assert_eq!(finder.find(text, 27), None);
        assert_eq!(SpecialPolicy::parse("token").unwrap(), SpecialPolicy::Token);
        assert_eq!(SpecialPolicy::parse("all").unwrap_err().code(), "BAD_REQUEST");
    }
}
