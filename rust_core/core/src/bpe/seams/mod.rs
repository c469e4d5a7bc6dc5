//! Seams: places between two characters of several bytes that no token spans.
//!
//! `inert` asks whether two *bytes* stand together in some token. For a vocabulary that knows Chinese nearly
//! all do; so here it is asked whether a token could span the place between two given *characters*. A token
//! that spans it has on each side either the whole character, or, if it begins or ends inside a character,
//! a part of it:
//!
//! ```text
//! token     .. left | right ..     known by   both characters              a bit in a table, by hash
//!                 x | right ..                the last byte, and the right   a bit in the right one's row
//!           .. left | y                       the left, and the first byte   a bit in the left one's row
//!                 x | y                       the last byte and the first    the rows of all such right ones
//! ```
//!
//! The first kind is frequent and stands in a table by hash, up to 128 KiB: two pairs with one bit forbid a
//! cut that would be possible; for a vocabulary with 30,000 such pairs three places in a hundred. The others
//! are rare, a hundred or two in a vocabulary. So the characters that have any differ in few ways, and each
//! has the number of its *row*: a byte for a character, rows of two words. A bit is cleared for what is in a
//! token; where all three are set there is no such token, so that no merge can cross the place, as in `inert`.
//!
//! **Tokens that are found whole only** (see `encode::Model::whole`) are what they are as a pretoken, not as a
//! part of one. No part may be equal to one: beside their first and last characters nothing is cut.

pub(crate) mod cuts;

use rustc_hash::FxHashMap;

use super::edges::Edges;
use crate::vocab::Vocabulary;

/// Bits of the table by hash for each pair, if they fit; and of all of it.
const BITS_PER_PAIR: usize = 64;
const BITS_MIN: usize = 1 << 12;
const BITS_MAX: usize = 1 << 20;

/// What stands for all characters of four bytes, in the table of rows.
const SUPPLEMENT: usize = 0x1_0000;

/// Where nothing spans the place beside a character, but for tokens that have the characters on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Row {
    /// Before it: a bit per last byte of the left character (its low six bits).
    before: u64,
    /// Behind it: a bit per first byte of the right character (its low six bits).
    after: u64,
}

const OPEN: Row = Row { before: u64::MAX, after: u64::MAX };
/// Nothing is cut beside the character.
const CLOSED: Row = Row { before: 0, after: 0 };
/// Number of the row for characters that got none of their own, if there are more kinds than a byte has values.
const LAST_ROW: u8 = u8::MAX;

/// The tables.
pub(crate) struct Seams {
    /// By [`Seams::place`]; the number of bits is a power of two, and `shift` what makes places of hashes.
    both: Box<[u64]>,
    shift: u32,
    /// By code point.
    row_of: Box<[u8; SUPPLEMENT + 1]>,
    before: Box<[u64; 256]>,
    after: Box<[u64; 256]>,
    edges: Edges,
}

impl Seams {
    /// Collects the places inside every ordinary token; `whole` are the tokens that are found whole only.
    pub(crate) fn new<'t>(vocab: &Vocabulary, whole: impl Iterator<Item = &'t [u8]>) -> Self {
        let mut pairs = Vec::new();
        let mut rows = vec![OPEN; SUPPLEMENT + 1];
        for (_, token) in vocab.ordinary() {
            for at in 1..token.len() {
                if token[at] < 0xC0 || token[at - 1] & 0xC0 != 0x80 {
                    continue;
                }
                let (left, right) = token.split_at(at);
                let last = 1 << (left[left.len() - 1] & 0x3F);
                let first = 1 << (right[0] & 0x3F);
                match (whole_last(left), whole_first(right)) {
                    (Some(left), Some(right)) => pairs.push((left, right)),
                    (None, Some(right)) => rows[row_index(right)].before &= !last,
                    (Some(left), None) => rows[row_index(left)].after &= !first,
                    (None, None) => {
                        for row in &mut rows[characters(right[0])] {
                            row.before &= !last;
                        }
                    }
                }
            }
        }
        let mut edges = Edges::new(vocab);
        for token in whole {
            edges = Edges::default();
            if let Some(first) = whole_first(token) {
                rows[row_index(first)].before = 0;
            }
            if let Some(last) = whole_last(token) {
                rows[row_index(last)].after = 0;
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        Self::from_parts(&pairs, &rows, edges)
    }

    /// Of a vocabulary that has a token for everything: nothing is cut.
    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Self::from_parts(&[], &vec![CLOSED; SUPPLEMENT + 1], Edges::default())
    }

    fn from_parts(pairs: &[(u32, u32)], rows: &[Row], edges: Edges) -> Self {
        let n_bits = (pairs.len() * BITS_PER_PAIR).next_power_of_two().clamp(BITS_MIN, BITS_MAX);
        let (row_of, before, after) = numbered(rows);
        let shift = 64 - n_bits.trailing_zeros();
        let mut seams =
            Self { both: vec![u64::MAX; n_bits / 64].into(), shift, row_of, before, after, edges };
        for &(left, right) in pairs {
            let at = seams.place(left, right);
            seams.both[at / 64] &= !(1 << (at % 64));
        }
        seams
    }

    /// Where a pair of characters has its bit.
    #[inline]
    fn place(&self, left: u32, right: u32) -> usize {
        let pair = u64::from(left) << 21 | u64::from(right);
        (pair.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// Bit 0: whether no token spans the place between two characters of several bytes, of which the right
    /// one's first byte has the low six bits `first`; other bits say nothing.
    ///
    /// All is looked up, whatever the first one says: no branch that could be mispredicted.
    #[inline]
    fn look_up(&self, left: u32, right: u32, first: u32) -> u64 {
        let at = self.place(left, right);
        // SAFETY: a hash shifted by `shift` is below the number of bits.
        let both = unsafe { self.both.get_unchecked(at / 64) }.wrapping_shr(at as u32);
        let row = |character: u32| usize::from(self.row_of[row_index(character)]);
        // Shifts take the low six bits of their count: of `left`, those of its last byte.
        both & self.before[row(right)].wrapping_shr(left) & self.after[row(left)].wrapping_shr(first)
    }
}

/// Numbers the rows that differ, from that of characters at which nothing is closed.
#[expect(clippy::type_complexity, reason = "three fields of `Seams`")]
fn numbered(open: &[Row]) -> (Box<[u8; SUPPLEMENT + 1]>, Box<[u64; 256]>, Box<[u64; 256]>) {
    let (mut before, mut after) = (Box::new([CLOSED.before; 256]), Box::new([CLOSED.after; 256]));
    let mut row_of: Box<[u8; SUPPLEMENT + 1]> =
        vec![0; SUPPLEMENT + 1].try_into().unwrap_or_else(|_| unreachable!("made with this length"));
    let mut known = FxHashMap::from_iter([(OPEN, 0)]);
    (before[0], after[0]) = (OPEN.before, OPEN.after);
    for (number, row) in row_of.iter_mut().zip(open) {
        let next = known.len().min(usize::from(LAST_ROW)) as u8;
        *number = *known.entry(*row).or_insert(next);
        if *number != LAST_ROW {
            (before[usize::from(*number)], after[usize::from(*number)]) = (row.before, row.after);
        }
    }
    (row_of, before, after)
}

#[inline]
fn row_index(character: u32) -> usize {
    (character as usize).min(SUPPLEMENT)
}

/// The characters that begin with a byte, as indices of rows.
fn characters(lead: u8) -> std::ops::Range<usize> {
    let from = |at: usize, n: usize| at..at + n;
    match lead {
        0..0xE0 => from(usize::from(lead & 0x1F) << 6, 1 << 6),
        0xE0..0xF0 => from(usize::from(lead & 0x0F) << 12, 1 << 12),
        _ => from(SUPPLEMENT, 1),
    }
}

/// The code point of a character of several bytes, whole. (In a token it may be one that is none.)
#[inline]
fn code_point(bytes: &[u8]) -> u32 {
    let lead = u32::from(bytes[0]) & (0x7F >> bytes.len());
    bytes[1..].iter().fold(lead, |code, &byte| code << 6 | u32::from(byte & 0x3F))
}

/// The character of several bytes that the bytes end with, if all of it is there.
fn whole_last(bytes: &[u8]) -> Option<u32> {
    let n_tail = bytes.iter().rev().take_while(|&&byte| byte & 0xC0 == 0x80).count();
    let start = bytes.len().checked_sub(n_tail + 1)?;
    (n_tail > 0 && len_of(bytes[start]) == n_tail + 1).then(|| code_point(&bytes[start..]))
}

/// The character of several bytes that the bytes begin with, if all of it is there.
fn whole_first(bytes: &[u8]) -> Option<u32> {
    let len = len_of(*bytes.first()?);
    (len > 1 && bytes.len() >= len).then(|| code_point(&bytes[..len]))
}

#[inline]
fn len_of(lead: u8) -> usize {
    match lead {
        0..0xC0 => 1,
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    }
}
