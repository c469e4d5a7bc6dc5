//! Edges: borders between an ASCII letter and a character of three bytes that no token crosses.
//!
//! `inert` and `seams` cut between characters outside ASCII. What stays whole in Chinese and Japanese text
//! are the words of other languages in it: the letters of `在Linux上` are one pretoken, which is seldom seen
//! twice, while its three parts are known. Most vocabularies have no token with a Chinese character, or a part
//! of one, beside a letter of the alphabet. So it is asked by the first byte of the character only:
//!
//! ```text
//! token   .. a | lead ..             a letter before the first byte             0x80 of the lead's entry
//!         .. lead tail tail | a ..   a letter behind a whole character          0x40
//!               ( tail ) tail | a .. the same, where the token begins inside it 0x40 of every entry
//! ```
//!
//! A border that is in no token is crossed by no merge (see `inert`). Vocabularies with tokens that are found
//! whole only (see `encode::Model::whole`) have no edges: a part may not be equal to one.

use crate::pretokenize::scan::BLOCK;
use crate::vocab::Vocabulary;

const BEFORE: u8 = 0x80;
const BEHIND: u8 = 0x40;

/// Whether a border before and behind characters of three bytes is an edge, by the low four bits of the lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Edges([u8; 16]);

impl Edges {
    /// Collects what the ordinary tokens cross.
    pub(crate) fn new(vocab: &Vocabulary) -> Self {
        let mut edges = Self([BEFORE | BEHIND; 16]);
        for (_, token) in vocab.ordinary() {
            for at in 1..token.len() {
                let (left, right) = token.split_at(at);
                if left[at - 1].is_ascii_alphabetic() && is_lead(right[0]) {
                    edges.0[usize::from(right[0] & 0x0F)] &= !BEFORE;
                }
                if !right[0].is_ascii_alphabetic() || left[at - 1] & 0xC0 != 0x80 {
                    continue;
                }
                let n_tail = left.iter().rev().take_while(|&&byte| byte & 0xC0 == 0x80).count();
                match at.checked_sub(n_tail + 1).map(|lead| left[lead]) {
                    Some(lead) if is_lead(lead) => edges.0[usize::from(lead & 0x0F)] &= !BEHIND,
                    None if n_tail < 3 => edges.0 = edges.0.map(|entry| entry & !BEHIND),
                    // Of a character of two or four bytes.
                    _ => {}
                }
            }
        }
        edges
    }

    /// Whether there is an edge at `at`, inside of text.
    #[cfg(test)]
    pub(crate) fn is_edge(self, text: &[u8], at: usize) -> bool {
        let entry = |lead: u8| if is_lead(lead) { self.0[usize::from(lead & 0x0F)] } else { 0 };
        text[at - 1].is_ascii_alphabetic() && entry(text[at]) & BEFORE != 0
            || at >= 3 && text[at].is_ascii_alphabetic() && entry(text[at - 3]) & BEHIND != 0
    }

    /// Which bytes of a block stand behind edges.
    ///
    /// # Safety
    /// The block and three bytes before it can be read at `src`.
    pub(crate) unsafe fn portable(self, src: *const u8) -> u64 {
        // SAFETY: as the caller promises.
        let bytes = unsafe { src.sub(3).cast::<[u8; BLOCK + 3]>().read() };
        let mut found = 0;
        // Letters are rare where characters of three bytes are not.
        for at in 3..bytes.len() {
            let (behind, before, own) = (bytes[at - 3], bytes[at - 1], bytes[at]);
            let is_edge = if own >= 0x80 {
                is_lead(own) && before.is_ascii_alphabetic() && self.0[usize::from(own & 0x0F)] & BEFORE != 0
            } else {
                before >= 0x80
                    && own.is_ascii_alphabetic()
                    && is_lead(behind)
                    && self.0[usize::from(behind & 0x0F)] & BEHIND != 0
            };
            found |= u64::from(is_edge) << (at - 3);
        }
        found
    }
}

/// Of a character of three bytes.
fn is_lead(byte: u8) -> bool {
    byte & 0xF0 == 0xE0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(
        clippy::wildcard_imports,
        clippy::cast_possible_wrap,
        clippy::cast_ptr_alignment,
        reason = "intrinsics by name; their lanes are signed by convention and their loads unaligned where said"
    )]

    use std::arch::x86_64::*;

    use super::{BLOCK, Edges};

    impl Edges {
        /// See [`Edges::portable`].
        ///
        /// # Safety
        /// As there.
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(crate) unsafe fn avx2(self, src: *const u8) -> u64 {
            // SAFETY: the two halves of what the caller promises.
            unsafe {
                let (low, high) = (self.half(src), self.half(src.add(BLOCK / 2)));
                let (low, high) = (_mm256_movemask_epi8(low), _mm256_movemask_epi8(high));
                u64::from(low as u32) | u64::from(high as u32) << 32
            }
        }

        /// The same for half a block: the top bit of each byte.
        ///
        /// # Safety
        /// 32 bytes and three before them can be read at `src`.
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(crate) unsafe fn half(self, src: *const u8) -> __m256i {
            let splat = |byte: u8| _mm256_set1_epi8(byte as i8);
            // SAFETY: as the caller promises; the table has 16 bytes.
            let (own, before, behind, table) = unsafe {
                (
                    _mm256_loadu_si256(src.cast()),
                    _mm256_loadu_si256(src.sub(1).cast()),
                    _mm256_loadu_si256(src.sub(3).cast()),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(self.0.as_ptr().cast())),
                )
            };
            // 0xE0 to 0xEF become 0x70 to 0x7F, of which a shuffle takes the low nibble, and all others at least
            // 0x80, for which it gives 0.
            let entry = |bytes: __m256i| {
                let lead = _mm256_xor_si256(bytes, splat(0xE0));
                _mm256_shuffle_epi8(table, _mm256_adds_epu8(lead, splat(0x70)))
            };
            // Small letters become 0x66 to 0x7F, the highest numbers with a sign.
            let is_letter = |bytes: __m256i| {
                let small = _mm256_or_si256(bytes, splat(0x20));
                _mm256_cmpgt_epi8(_mm256_add_epi8(small, splat(0x7F - b'z')), splat(0x65))
            };
            let begins = _mm256_and_si256(entry(own), is_letter(before));
            // The bit moves to the top of its byte; what comes there from another byte is below it.
            let ends = _mm256_and_si256(_mm256_slli_epi16::<1>(entry(behind)), is_letter(own));
            _mm256_or_si256(begins, ends)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens that cross borders of both kinds, and one that begins inside a character.
    fn vocabularies() -> [Vocabulary; 3] {
        let pattern = crate::vocab::named::published("cl100k_base").expect("known").0;
        let with = |more: &[&[u8]]| {
            let bytes = (0..=255_u8).map(|byte| vec![byte]).chain(more.iter().map(|token| token.to_vec()));
            crate::vocab::rank_file::of_tokens(bytes, pattern)
        };
        let crossing = with(&["中".as_bytes(), b"a\xE5", "国b".as_bytes(), "中国".as_bytes()]);
        [Vocabulary::gpt2(), crossing, with(&[b"\xAD\xE5", b"\xADz"])]
    }

    #[test]
    fn no_token_crosses_an_edge_and_tiers_agree() {
        let units =
            ["a", "b", "z", "A", "@", "[", "`", "{", "1", " ", "é", "中", "国", "の", "。", "“", "한", "😀"];
        let mut n_edges = 0;
        for vocab in vocabularies() {
            let edges = Edges::new(&vocab);
            let tokens: Vec<&[u8]> = vocab.ordinary().map(|(_, token)| token).collect();
            for (number, left) in units.iter().enumerate() {
                for right in units {
                    let text = format!("{}{left}{right}x", units[(number + right.len()) % units.len()]);
                    let text = [[b' '; 8].as_slice(), text.as_bytes(), &[b' '; 80]].concat();
                    // SAFETY: 8 bytes before and more than a block behind.
                    let found = unsafe { edges.portable(text.as_ptr().add(8)) };
                    #[cfg(target_arch = "x86_64")]
                    if is_x86_feature_detected!("avx2") {
                        // SAFETY: the same, and the processor has it.
                        assert_eq!(found, unsafe { edges.avx2(text.as_ptr().add(8)) }, "{left}{right}");
                    }
                    for at in 0..BLOCK {
                        let is_edge = edges.is_edge(&text, 8 + at);
                        assert_eq!(found >> at & 1 == 1, is_edge, "{left}{right}, {at}");
                        let (before, behind) = text.split_at(8 + at);
                        let crosses = |token: &&[u8]| {
                            (1..token.len())
                                .any(|k| before.ends_with(&token[..k]) && behind.starts_with(&token[k..]))
                        };
                        assert!(!is_edge || !tokens.iter().any(crosses), "{left}{right}, {at}");
                        n_edges += usize::from(is_edge);
                    }
                }
            }
        }
        assert!(n_edges > 300, "{n_edges}");
    }
}
