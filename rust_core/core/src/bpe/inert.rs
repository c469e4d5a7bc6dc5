//! Inert cuts: byte pairs that no token contains.
//!
//! If bytes `x`, `y` stand next to each other inside no token of a vocabulary, no merge can ever
//! join the symbols on both sides of a border between them, because its result would be a token
//! that contains the pair. Merges left and right of the border then do not interact, and the ids of
//! the whole are the ids of the parts, one after the other. This holds for every merge rule in use,
//! for any vocabulary, and whatever the split pattern is.
//!
//! It turns the long pretokens of scripts without spaces (a Chinese clause is one pretoken of 30 to
//! 200 bytes, seen once) into short pieces that the word cache knows.

use super::edges::Edges;
use crate::vocab::Vocabulary;

/// Which byte pairs occur inside some token: 65,536 bits.
pub struct Bridges {
    bits: Box<[u64; 1024]>,
    /// What else can be cut.
    pub(crate) edges: Edges,
}

impl Bridges {
    /// Collects the pairs of every ordinary token.
    #[must_use]
    pub fn new(vocab: &Vocabulary) -> Self {
        let mut bits = Box::new([0_u64; 1024]);
        for (_, token) in vocab.ordinary() {
            for pair in token.windows(2) {
                let at = index(pair[0], pair[1]);
                bits[at / 64] |= 1 << (at % 64);
            }
        }
        Self { bits, edges: Edges::new(vocab) }
    }

    /// Whether a border between `left` and `right` can be crossed by no merge.
    #[inline]
    #[must_use]
    pub fn inert(&self, left: u8, right: u8) -> bool {
        let at = index(left, right);
        self.bits[at / 64] >> (at % 64) & 1 == 0
    }

    /// The end of the part that starts at `start`: the next inert border, or the end of `piece`.
    #[must_use]
    pub fn part_end(&self, piece: &[u8], start: usize) -> usize {
        piece[start..]
            .windows(2)
            .position(|pair| self.inert(pair[0], pair[1]))
            .map_or(piece.len(), |at| start + at + 1)
    }
}

fn index(left: u8, right: u8) -> usize {
    usize::from(left) << 8 | usize::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpt2_cuts_between_chinese_characters_but_not_inside_words() {
        let bridges = Bridges::new(&Vocabulary::gpt2());
        let text = "国際".as_bytes();
        assert_eq!(bridges.part_end(text, 0), text.len().min(bridges.part_end(text, 0)));
        assert_eq!(bridges.part_end(b"hello", 0), 5);
        // A NUL stands beside nothing in GPT-2's vocabulary.
        assert_eq!(bridges.part_end(b"a\0b", 0), 1);
        assert_eq!(bridges.part_end(b"a\0b", 1), 2);
    }
}
