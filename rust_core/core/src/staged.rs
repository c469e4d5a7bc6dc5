//! Text of a `tokenizer.json` with a normalizer, or with added tokens that look around themselves.
//!
//! ```text
//! text ─► tokens found as they are ─► the rest normalized ─► tokens found there ─► space in front ─► pretokens
//! ```
//!
//! Both searches are the reference's: leftmost, longest, on from the end of what was found; a token
//! that is found but does not count (a special one as ordinary text, a `single_word` one inside a
//! word) still hides those that overlap it. Other vocabularies do without: see `documents`.
//!
//! What follows may change how the end of a text is normalized and which tokens count in it. A text
//! whose rest is still to come is therefore encoded up to a cut: a border of the splitter at which
//! nothing reaches over. Where there is none, the text waits until it is complete.

use crate::documents::MAX_CONTEXT_BYTES;
use crate::encode::Encoder;
use crate::encode::splitter::Splitter;
use crate::error::Result;
use crate::lane::Lane;
use crate::normalize::Normalizer;
use crate::pretokenize::unicode::is_word;
use crate::special::{Found, SpecialFinder, SpecialPolicy};
use crate::vocab::{SpecialOrder, Vocabulary};

/// What happens to text before it is split.
pub(crate) struct Stage {
    /// Tokens found in the text as it is.
    plain: Option<SpecialFinder>,
    normalizer: Option<Normalizer>,
    /// Tokens found in the normalized text.
    normalized: Option<SpecialFinder>,
    prefix_space: bool,
}

impl Stage {
    /// The stage of a vocabulary; `None` where finding special tokens is all there is to do.
    pub(crate) fn new(vocab: &Vocabulary) -> Result<Option<Self>> {
        let Some(pipeline) = vocab.pipeline() else { return Ok(None) };
        let changes = Normalizer::new(&pipeline.changes)?;
        let any = |wanted: bool| pipeline.flags.iter().any(|flags| flags.normalized == wanted);
        let in_both = any(true) && any(false);
        let look_around = pipeline.flags.iter().any(|flags| flags.looks_around());
        if changes.is_none() && !pipeline.prefix_space && !in_both && !look_around {
            return Ok(None);
        }
        let finder = |wanted: bool| -> Result<Option<SpecialFinder>> {
            let mut tokens = Vec::new();
            for (special, flags) in vocab.specials().iter().zip(&pipeline.flags) {
                if flags.normalized != wanted {
                    continue;
                }
                let text = match changes.as_ref().filter(|_| wanted) {
                    Some(changes) => changes.apply(&special.text)?.into_owned(),
                    None => special.text.clone(),
                };
                tokens.push((text, special.id, *flags));
            }
            tokens.retain(|(text, ..)| !text.is_empty());
            Ok((!tokens.is_empty()).then(|| SpecialFinder::of(SpecialOrder::Longest, tokens)))
        };
        Ok(Some(Self {
            plain: finder(false)?,
            normalized: finder(true)?,
            normalizer: changes,
            prefix_space: pipeline.prefix_space,
        }))
    }

    /// Whether text may be cut at `at`, a border of the splitter.
    pub(crate) fn permits(&self, text: &[u8], at: usize) -> bool {
        if let Some(normalizer) = &self.normalizer {
            let is_stable = |c: Option<char>| c.is_some_and(|c| normalizer.is_stable(c));
            let (before, after) = (chars_before(text, at), chars_after(text, at));
            if !normalizer.has_cuts()
                || self.normalized.is_some()
                || !(is_stable(before) && is_stable(after[0]) && is_stable(after[1]))
            {
                return false;
            }
        }
        // Text that starts with a space gets none, whether it is the beginning or not.
        (!self.prefix_space || text.get(at) == Some(&b' '))
            && [&self.plain, &self.normalized].into_iter().flatten().all(|finder| !finder.bridges(text, at))
    }

    /// Encodes text; returns the bytes used. See `documents::encode_segments`.
    pub(crate) fn encode<L: Lane>(
        &self,
        encoder: &mut Encoder<'_>,
        policy: SpecialPolicy,
        text: &str,
        certain: Option<usize>,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<usize> {
        let end = certain.map_or(text.len(), |limit| self.last_cut(&encoder.model.splitter, text, limit));
        let text = &text[..end];
        let tokens = find_tokens(self.plain.as_ref(), policy, text, offset)?;
        let mut at = 0;
        for found in tokens {
            if at < found.start {
                self.normalize(encoder, policy, &text[at..found.start], offset + at as u64, out)?;
            }
            out.push(L::from_id(found.id));
            at = found.end;
        }
        if at < end {
            self.normalize(encoder, policy, &text[at..], offset + at as u64, out)?;
        }
        Ok(end)
    }

    fn normalize<L: Lane>(
        &self,
        encoder: &mut Encoder<'_>,
        policy: SpecialPolicy,
        text: &str,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<()> {
        let changed = match &self.normalizer {
            Some(normalizer) => normalizer.apply(text)?,
            None => text.into(),
        };
        let mut at = 0;
        for found in find_tokens(self.normalized.as_ref(), policy, &changed, offset)? {
            if at < found.start {
                self.split(encoder, &changed[at..found.start], offset + at as u64, out)?;
            }
            out.push(L::from_id(found.id));
            at = found.end;
        }
        if at < changed.len() {
            self.split(encoder, &changed[at..], offset + at as u64, out)?;
        }
        Ok(())
    }

    fn split<L: Lane>(
        &self,
        encoder: &mut Encoder<'_>,
        text: &str,
        offset: u64,
        out: &mut Vec<L>,
    ) -> Result<()> {
        if self.prefix_space && !text.starts_with(' ') {
            encoder.encode(&[" ", text].concat(), true, offset, out)?;
        } else {
            encoder.encode(text, true, offset, out)?;
        }
        Ok(())
    }

    /// The last place at which incomplete text can be cut, or 0.
    fn last_cut(&self, splitter: &Splitter, text: &str, limit: usize) -> usize {
        let holdback =
            [&self.plain, &self.normalized].into_iter().flatten().map(SpecialFinder::max_len).max();
        let limit = limit.min(text.len().saturating_sub(holdback.unwrap_or(0).max(MAX_CONTEXT_BYTES)));
        let cuts = |&at: &usize| {
            text.is_char_boundary(at)
                && splitter.is_border(text.as_bytes(), at)
                && self.permits(text.as_bytes(), at)
        };
        (1..=limit).rev().find(cuts).unwrap_or(0)
    }
}

/// The tokens of a complete text that count, in their order. Refuses special ones under `raise`;
/// `offset` is where the text starts.
fn find_tokens(
    finder: Option<&SpecialFinder>,
    policy: SpecialPolicy,
    text: &str,
    offset: u64,
) -> Result<Vec<Found>> {
    let Some(finder) = finder else { return Ok(Vec::new()) };
    let (mut tokens, mut from, mut last) = (Vec::new(), 0, 0);
    while let Some(mut found) = finder.find(text.as_bytes(), from) {
        from = found.end;
        let (before, after) = (&text[..found.start], &text[found.end..]);
        if found.flags.special && policy == SpecialPolicy::Text {
            continue;
        }
        if found.flags.single_word
            && (before.chars().next_back().is_some_and(is_word) || after.chars().next().is_some_and(is_word))
        {
            continue;
        }
        found.check(policy, text, offset)?;
        if found.flags.lstrip {
            found.start = before.trim_end().len().max(last);
        }
        if found.flags.rstrip {
            found.end += after.len() - after.trim_start().len();
        }
        last = found.end;
        tokens.push(found);
    }
    Ok(tokens)
}

fn chars_before(text: &[u8], at: usize) -> Option<char> {
    let start = (at.saturating_sub(4)..at).rev().find(|&start| text[start] & 0xC0 != 0x80)?;
    std::str::from_utf8(&text[start..at]).ok()?.chars().next()
}

fn chars_after(text: &[u8], at: usize) -> [Option<char>; 2] {
    let window = &text[at..(at + 8).min(text.len())];
    let valid = window.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let mut chars = valid.chars();
    [chars.next(), chars.next()]
}
