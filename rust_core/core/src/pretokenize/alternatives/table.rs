//! Which sets of a pattern a character is in: a table look-up.
//!
//! Between two code points that a set names, membership depends on the general category and on being
//! whitespace alone. Each stretch between named code points therefore asks the sets once per category,
//! and filling the table takes a few milliseconds, however the sets are nested.
//!
//! ```text
//! value   bits 0 to 15: the sets; bits 16 to 31: the fragments that may begin with the character
//! ```
//!
//! Runs are found 16 bytes at a time where the processor can shuffle bytes: a set's ASCII part is 16
//! bytes, indexed by the low nibble, of 8 bits, indexed by the high one. That spares the branch per
//! byte whose last, at the end of each word, no processor foresees.

use rustc_hash::FxHashMap;

use crate::pretokenize::pattern::Set;
use crate::pretokenize::unicode::Classes;

/// Characters per row of the table.
const ROW: usize = 64;
const N_CODES: u32 = 0x11_0000;

/// The table.
pub(super) struct SetTable {
    ascii: [u32; 128],
    /// Code point / 64 → row.
    index: Box<[u16]>,
    rows: Box<[[u32; ROW]]>,
    /// By set: which high nibbles go with each low nibble.
    nibbles: Box<[[u8; 16]]>,
    has_shuffle: bool,
}

impl SetTable {
    /// Fills the table: bit n of a value is set n; `upper` gives the upper half for the lower one.
    pub(super) fn new(sets: &[Set], classes: &Classes, upper: impl Fn(u32) -> u32) -> Self {
        let mut named = vec![0, N_CODES];
        for set in sets {
            name_edges(set, &mut named);
        }
        named.sort_unstable();
        named.dedup();
        let mut flat = vec![0_u32; N_CODES as usize];
        for stretch in named.windows(2) {
            let mut known = [None; 256];
            for code in stretch[0]..stretch[1] {
                let Some(c) = char::from_u32(code) else { continue };
                let value = *known[usize::from(classes.class(c))].get_or_insert_with(|| {
                    let bits = sets.iter().enumerate().filter(|(_, set)| set.has(classes, c));
                    let bits = bits.fold(0, |bits, (at, _)| bits | 1 << at);
                    bits | upper(bits) << 16
                });
                flat[code as usize] = value;
            }
        }
        let mut rows: Vec<[u32; ROW]> = Vec::new();
        let mut known = FxHashMap::default();
        let (chunks, _) = flat.as_chunks::<ROW>();
        let index = chunks
            .iter()
            .map(|row| {
                *known.entry(*row).or_insert_with(|| {
                    rows.push(*row);
                    (rows.len() - 1) as u16
                })
            })
            .collect();
        let ascii: [u32; 128] = std::array::from_fn(|byte| flat[byte]);
        let nibbles = (0..sets.len()).map(|set| {
            let high = |low: usize| (0..8).filter(move |high| ascii[high << 4 | low] >> set & 1 != 0);
            std::array::from_fn(|low| high(low).fold(0, |bits, high| bits | 1 << high))
        });
        let nibbles = nibbles.collect();
        Self { ascii, index, rows: rows.into_boxed_slice(), nibbles, has_shuffle: has_shuffle() }
    }

    /// All values that occur.
    pub(super) fn values(&self) -> impl Iterator<Item = u32> + '_ {
        // Rows of surrogates, which no text contains.
        let is_text = |row: &usize| !(0xD800 / ROW..0xE000 / ROW).contains(row);
        let mut rows: Vec<u16> = (0..self.index.len()).filter(is_text).map(|row| self.index[row]).collect();
        rows.sort_unstable();
        rows.dedup();
        rows.into_iter().flat_map(|row| self.rows[usize::from(row)])
    }

    /// Value of a character.
    pub(super) fn of(&self, c: char) -> u32 {
        self.rows[usize::from(self.index[c as usize / ROW])][c as usize % ROW]
    }

    /// Value and length in bytes of the character at `at`; the text is UTF-8.
    #[inline]
    pub(super) fn at(&self, text: &[u8], at: usize) -> (u32, usize) {
        let byte = text[at];
        if byte < 0x80 { (self.ascii[usize::from(byte)], 1) } else { self.wide(text, at) }
    }

    #[inline]
    fn wide(&self, text: &[u8], at: usize) -> (u32, usize) {
        let tail = |k: usize| u32::from(text[at + k] & 0x3F);
        let byte = text[at];
        let (code, len) = match byte {
            0..0xE0 => (u32::from(byte & 0x1F) << 6 | tail(1), 2),
            0xE0..0xF0 => (u32::from(byte & 0x0F) << 12 | tail(1) << 6 | tail(2), 3),
            _ => (u32::from(byte & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4),
        };
        (self.rows[usize::from(self.index[(code >> 6) as usize])][(code & 63) as usize], len)
    }

    /// The end of the run of characters of a set (one bit) that starts at `at`.
    #[inline]
    pub(super) fn run(&self, text: &[u8], at: usize, set: u32) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.has_shuffle {
            // SAFETY: the processor has SSSE3.
            return unsafe { self.run_shuffled(text, at, set) };
        }
        self.run_scalar(text, at, set)
    }

    #[inline]
    fn run_scalar(&self, text: &[u8], mut at: usize, set: u32) -> usize {
        while at < text.len() {
            let (value, len) = self.at(text, at);
            if value & set == 0 {
                break;
            }
            at += len;
        }
        at
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "ssse3")]
    fn run_shuffled(&self, text: &[u8], mut at: usize, set: u32) -> usize {
        use std::arch::x86_64::{
            __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
            _mm_setr_epi8, _mm_setzero_si128, _mm_shuffle_epi8, _mm_srli_epi16,
        };
        let nibbles = &self.nibbles[set.trailing_zeros() as usize];
        let powers = _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0);
        while let Some(window) = text.get(at..at + 16) {
            #[expect(clippy::cast_ptr_alignment, reason = "unaligned loads")]
            // SAFETY: both are 16 bytes.
            let (bytes, low) = unsafe {
                let load = |from: *const u8| _mm_loadu_si128(from.cast::<__m128i>());
                (load(window.as_ptr()), load(nibbles.as_ptr()))
            };
            // A byte above 0x7F finds 0 in the shuffle and counts as none of the set.
            let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), _mm_set1_epi8(0x0F));
            let both = _mm_and_si128(_mm_shuffle_epi8(low, bytes), _mm_shuffle_epi8(powers, high));
            let others = _mm_movemask_epi8(_mm_cmpeq_epi8(both, _mm_setzero_si128()));
            if others == 0 {
                at += 16;
                continue;
            }
            at += others.trailing_zeros() as usize;
            if text[at] < 0x80 {
                return at;
            }
            // Runs of characters of several bytes: one by one.
            while at < text.len() && text[at] >= 0x80 {
                let (value, len) = self.wide(text, at);
                if value & set == 0 {
                    return at;
                }
                at += len;
            }
        }
        self.run_scalar(text, at, set)
    }
}

fn has_shuffle() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("ssse3");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Code points at which membership may change.
fn name_edges(set: &Set, edges: &mut Vec<u32>) {
    for &(first, last) in &set.ranges {
        edges.extend([first as u32, last as u32 + 1]);
    }
    for inner in set.nested.iter().chain(set.and.as_deref()) {
        name_edges(inner, edges);
    }
}
