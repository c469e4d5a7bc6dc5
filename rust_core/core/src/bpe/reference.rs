//! The naive twin: the definition of what a text's ids are, written to be read.
//!
//! Every fast path of the crate is tested against these functions. They share nothing with the fast
//! paths but the vocabulary and the pretokenizer: no pair table, no cache, no special-token search.
//!
//! The rules, for both kinds of [`Merges`]: start with single bytes; of all neighbours that merge
//! take the pair of the lowest priority number, the leftmost of equals; replace it; repeat. Under
//! [`Merges::Ranks`] a piece that is a token is that token at once, and any neighbours whose joined
//! bytes are a token merge, with its id as priority: parts are stretches of bytes there, so bytes
//! without a token of their own may still be merged away.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::pretokenize::Pretokenizer;
use crate::special::SpecialPolicy;
use crate::vocab::{Merges, SpecialOrder, SpecialToken, Vocabulary};

/// The ids of one pretoken, in time quadratic in its length (and linear in the vocabulary).
///
/// # Errors
/// [`Error::NoToken`], with the offset in `piece`, if a byte without a token is left after merging.
pub fn encode_pretoken(vocab: &Vocabulary, piece: &[u8]) -> Result<Vec<u32>> {
    Tables::new(vocab).encode_pretoken(piece)
}

/// The naive encoder of a vocabulary, for more than one text.
pub struct Naive<'v> {
    vocab: &'v Vocabulary,
    tables: Tables<'v>,
}

impl<'v> Naive<'v> {
    /// Collects what the rules look things up in.
    #[must_use]
    pub fn new(vocab: &'v Vocabulary) -> Self {
        Self { vocab, tables: Tables::new(vocab) }
    }

    /// The ids of a text: special tokens by policy, pretokens, merges. Text that the split pattern does
    /// not match is dropped, as Python's `findall` does.
    ///
    /// # Errors
    /// [`Error::SpecialToken`] under [`SpecialPolicy::Raise`], [`Error::NoToken`], and what the
    /// pretokenizer raises; offsets count from the start of `text`.
    pub fn encode(
        &self,
        pretokenizer: &dyn Pretokenizer,
        text: &str,
        policy: SpecialPolicy,
    ) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut segment_start = 0;
        let mut at = 0;
        while at < text.len() {
            let special = if policy == SpecialPolicy::Text { None } else { special_at(self.vocab, text, at) };
            let Some(special) = special else {
                at += 1;
                continue;
            };
            if policy == SpecialPolicy::Raise {
                let token = special.text.clone();
                return Err(Error::SpecialToken { path: None, token, offset: at as u64 });
            }
            let segment = &text[segment_start..at];
            self.tables.encode_segment(pretokenizer, segment, segment_start, &mut ids)?;
            ids.push(special.id);
            at += special.text.len();
            segment_start = at;
        }
        self.tables.encode_segment(pretokenizer, &text[segment_start..], segment_start, &mut ids)?;
        Ok(ids)
    }
}

/// The ids of one text; see [`Naive::encode`].
///
/// # Errors
/// As there.
pub fn encode(
    vocab: &Vocabulary,
    pretokenizer: &dyn Pretokenizer,
    text: &str,
    policy: SpecialPolicy,
) -> Result<Vec<u32>> {
    Naive::new(vocab).encode(pretokenizer, text, policy)
}

/// The special token that starts at byte `at`, if any does.
fn special_at<'v>(vocab: &'v Vocabulary, text: &str, at: usize) -> Option<&'v SpecialToken> {
    let mut candidates =
        vocab.specials().iter().filter(|special| text.as_bytes()[at..].starts_with(special.text.as_bytes()));
    match vocab.special_order() {
        SpecialOrder::Listed => candidates.next(),
        SpecialOrder::Longest => candidates.max_by_key(|special| special.text.len()),
    }
}

/// What the rules look things up in.
enum Tables<'v> {
    /// Token bytes to id.
    Ranks(HashMap<&'v [u8], u32>),
    /// Pair of ids to priority and result.
    List(&'v Vocabulary, HashMap<(u32, u32), (usize, u32)>),
}

impl<'v> Tables<'v> {
    fn new(vocab: &'v Vocabulary) -> Self {
        match vocab.merges() {
            Merges::Ranks => Self::Ranks(vocab.ordinary().map(|(id, token)| (token, id)).collect()),
            Merges::List(list) => {
                let entry = |(at, &(left, right, id)): (usize, &(u32, u32, u32))| ((left, right), (at, id));
                Self::List(vocab, list.iter().enumerate().map(entry).collect())
            }
        }
    }

    fn encode_segment(
        &self,
        pretokenizer: &dyn Pretokenizer,
        segment: &str,
        offset: usize,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let mut start = 0;
        while start < segment.len() {
            let split = pretokenizer.next(segment, start)?;
            if split.matched {
                let piece = &segment.as_bytes()[start..split.end];
                ids.extend(self.encode_pretoken(piece).map_err(|error| match error {
                    Error::NoToken { path, byte, offset: at } => {
                        Error::NoToken { path, byte, offset: at + (offset + start) as u64 }
                    }
                    other => other,
                })?);
            }
            start = split.end;
        }
        Ok(())
    }

    fn encode_pretoken(&self, piece: &[u8]) -> Result<Vec<u32>> {
        match self {
            Self::Ranks(ranks) => by_ranks(ranks, piece),
            Self::List(vocab, list) => by_list(vocab, list, piece),
        }
    }
}

fn by_ranks(ranks: &HashMap<&[u8], u32>, piece: &[u8]) -> Result<Vec<u32>> {
    if let Some(&id) = ranks.get(piece) {
        return Ok(vec![id]);
    }
    // Where the parts begin, and the end of the last one.
    let mut borders: Vec<usize> = (0..=piece.len()).collect();
    let rank = |start: usize, end: usize| ranks.get(&piece[start..end]);
    // `min_by_key` gives the first of equal minima, which is the leftmost.
    while let Some((_, at)) = (0..borders.len().saturating_sub(2))
        .filter_map(|at| Some((rank(borders[at], borders[at + 2])?, at)))
        .min_by_key(|(rank, _)| *rank)
    {
        borders.remove(at + 1);
    }
    borders
        .windows(2)
        .map(|part| rank(part[0], part[1]).copied().ok_or_else(|| no_token(piece[part[0]], part[0])))
        .collect()
}

fn by_list(vocab: &Vocabulary, list: &HashMap<(u32, u32), (usize, u32)>, piece: &[u8]) -> Result<Vec<u32>> {
    // `None`: a byte without a token, which merges with nothing.
    let mut parts: Vec<Option<u32>> = piece.iter().map(|byte| vocab.byte_id(*byte)).collect();
    while let Some((_, id, at)) = (1..parts.len())
        .filter_map(|at| {
            let (priority, id) = list.get(&(parts[at - 1]?, parts[at]?))?;
            Some((*priority, *id, at - 1))
        })
        .min_by_key(|(priority, ..)| *priority)
    {
        parts[at] = Some(id);
        parts.remove(at + 1);
    }
    let mut offset = 0;
    parts
        .into_iter()
        .map(|part| {
            let id = part.ok_or_else(|| no_token(piece[offset], offset))?;
            offset += vocab.token(id).map_or(0, <[u8]>::len);
            Ok(id)
        })
        .collect()
}

fn no_token(byte: u8, offset: usize) -> Error {
    Error::NoToken { path: None, byte, offset: offset as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn gpt2_words() {
        let vocab = Vocabulary::gpt2();
        assert_eq!(encode_pretoken(&vocab, b"Hello").unwrap(), [15496]);
        assert_eq!(encode_pretoken(&vocab, b" tokenization").unwrap(), [11241, 1634]);
        assert_eq!(encode_pretoken(&vocab, b"").unwrap(), [0_u32; 0]);
    }

    #[test]
    fn equal_priorities_merge_from_the_left_and_missing_bytes_raise() {
        let vocab: BTreeMap<u32, Vec<u8>> = [(7, b"a".to_vec()), (3, b"aa".to_vec())].into();
        let merges = vec![(b"a".to_vec(), b"a".to_vec())];
        let vocab = Vocabulary::from_merges(vocab, merges, vec![], "x").unwrap();
        assert_eq!(encode_pretoken(&vocab, b"aaaaa").unwrap(), [3, 3, 7]);
        let error = encode_pretoken(&vocab, b"aaab").unwrap_err();
        assert!(matches!(error, Error::NoToken { byte: b'b', offset: 3, .. }), "{error}");
    }
}
