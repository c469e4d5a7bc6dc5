//! GPT-2's vocabulary, carried as its merge list: 50,000 pairs of little-endian uint16 ids.
//!
//! Ids 0..255 are the bytes in the order of GPT-2's printable alphabet, the k-th merge makes id
//! 256 + k, and `<|endoftext|>` is 50256. `tools/pack_gpt2.py` made the file and checked all of that
//! against the published vocabulary. Its merge list and its ranks give the same ids (the tests
//! compare with tiktoken), so it is kept as a list, which needs no work at load.

use std::collections::BTreeMap;

use super::{KnownParts, Merges, Parts, Reference, SpecialOrder, SpecialToken, Vocabulary};
use crate::pretokenize::gpt2::PATTERN;

static MERGES: &[u8; 200_000] = include_bytes!("../../data/gpt2_merges.u16");

/// What is found out of other vocabularies when they are loaded; a test finds it out of this one.
const KNOWN: KnownParts = KnownParts {
    fingerprint: "3cea5dccc716d3f6fbf632f212d92742e3bf5f4df7fb04512364e35f2231a458",
    reaches_all: true,
};

/// The text of GPT-2's end-of-text token.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";

/// GPT-2's printable alphabet: the character that stands for each byte in `vocab.json`.
///
/// Bytes that print stand for themselves; the others, in order, for U+0100 and on.
pub(super) fn alphabet() -> [char; 256] {
    let mut shifted = 0x100;
    std::array::from_fn(|byte| {
        if printable(byte) {
            return char::from(byte as u8);
        }
        shifted += 1;
        char::from_u32(shifted - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

fn printable(byte: usize) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The bytes in the order of their ids: printable ones first.
fn bytes_by_id() -> impl Iterator<Item = u8> {
    let of = |wanted: bool| (0..=255_u8).filter(move |&byte| printable(usize::from(byte)) == wanted);
    of(true).chain(of(false))
}

pub(super) fn bundled() -> Vocabulary {
    let mut tokens: Vec<Vec<u8>> = bytes_by_id().map(|byte| vec![byte]).collect();
    let (pairs, _) = MERGES.as_chunks::<4>();
    let mut list = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let left = u16::from_le_bytes([pair[0], pair[1]]);
        let right = u16::from_le_bytes([pair[2], pair[3]]);
        list.push((u32::from(left), u32::from(right), tokens.len() as u32));
        tokens.push([&tokens[usize::from(left)][..], &tokens[usize::from(right)]].concat());
    }
    let eot = SpecialToken { text: END_OF_TEXT.to_owned(), id: tokens.len() as u32 };
    let parts = Parts {
        name: "gpt2".to_owned(),
        tokens: (0..).zip(tokens).collect(),
        merges: Merges::List(list),
        specials: vec![eot],
        special_order: SpecialOrder::Longest,
        pattern: PATTERN.to_owned(),
        reference: Reference::Tiktoken,
    };
    match parts.build_knowing(Some(KNOWN), None, BTreeMap::new()) {
        Ok(vocab) => vocab,
        Err(error) => unreachable!("the bundled vocabulary is fixed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::merge::{MergeScratch, merge};
    use crate::bpe::pairs::PairTable;

    #[test]
    fn the_bundled_vocabulary_is_gpt2() {
        let vocab = bundled();
        assert_eq!((vocab.len_ids(), vocab.n_tokens(), vocab.eot_id()), (50_257, 50_257, Some(50_256)));
        assert_eq!(vocab.token(0), Some(&b"!"[..]));
        assert_eq!(vocab.token(188), Some(&b"\0"[..]));
        assert_eq!(vocab.token(15_496), Some(&b"Hello"[..]));
        assert_eq!(vocab.token(50_256), Some(END_OF_TEXT.as_bytes()));
        assert!(!vocab.is_wide());
        assert_eq!(vocab.fingerprint(), vocab.compute_fingerprint());
        let (pairs, mut scratch) = (PairTable::new(&vocab), MergeScratch::default());
        for (id, token) in vocab.ordinary() {
            let mut ids = Vec::new();
            merge(&pairs, token, &mut scratch, &mut ids);
            assert_eq!(ids, [id], "merging the bytes of a token gives it");
        }
        assert_eq!(alphabet()[usize::from(b' ')], 'Ġ');
        assert_eq!(alphabet()[usize::from(b'\n')], 'Ċ');
    }
}
