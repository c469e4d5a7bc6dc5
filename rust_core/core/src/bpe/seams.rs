//! Seams: places between two characters of several bytes that no token spans.
//!
//! `inert` asks whether two *bytes* stand together in some token. For a vocabulary that knows Chinese nearly
//! all do; so here it is asked whether a token could span the place between two given *characters*. A token
//! that spans it has on each side either the whole character, or, if it begins or ends inside a character,
//! a part of it:
//!
//! ```text
//! token     .. left | right ..     known by   both characters
//!                 x | right ..                the last one or two bytes, and the character
//!           .. left | y                       the character, and its first one or two bytes
//!                 x | y                       the last byte and the first
//! ```
//!
//! Each is a bit in a table by hash. Two with one bit forbid a cut that would be possible; a bit that is not
//! set means that there is no such token, so that no merge can cross the place, as in `inert`.
//!
//! **Tokens that are found whole only** (see `encode::Model::whole`) are what they are as a pretoken, not as a
//! part of one. No part may be equal to one: beside their first and last characters nothing is cut.

use crate::vocab::Vocabulary;

/// 128 KiB: for a vocabulary with 50,000 Chinese tokens one bit in twenty is set.
const BITS: u32 = 20;

/// Kinds of entries; those that a vocabulary has none of are not looked up.
const BOTH: usize = 0;
const LAST_1: usize = 1;
const LAST_2: usize = 2;
const FIRST_1: usize = 3;
const FIRST_2: usize = 4;
const BYTES: usize = 5;
const AFTER: usize = 6;
const BEFORE: usize = 7;
const N_KINDS: usize = 8;

/// The table.
pub(crate) struct Seams {
    bits: Box<[u64]>,
    has: [bool; N_KINDS],
}

impl Seams {
    /// Collects the places inside every ordinary token; `whole` are the tokens that are found whole only.
    pub(crate) fn new<'t>(vocab: &Vocabulary, whole: impl Iterator<Item = &'t [u8]>) -> Self {
        let mut seams = Self { bits: vec![0; (1 << BITS) / 64].into(), has: [false; N_KINDS] };
        for (_, token) in vocab.ordinary() {
            for at in 1..token.len() {
                if token[at] >= 0xC0 && token[at - 1] & 0xC0 == 0x80 {
                    seams.add(&token[..at], &token[at..]);
                }
            }
        }
        for token in whole {
            if let Some(first) = whole_first(token) {
                seams.set(BEFORE, 0, first);
            }
            if let Some(last) = whole_last(token) {
                seams.set(AFTER, last, 0);
            }
        }
        seams
    }

    /// Of a vocabulary that has a token for everything: nothing is cut.
    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Self { bits: vec![u64::MAX; (1 << BITS) / 64].into(), has: [true; N_KINDS] }
    }

    fn add(&mut self, left: &[u8], right: &[u8]) {
        match (whole_last(left), whole_first(right)) {
            (Some(last), Some(first)) => self.set(BOTH, last, first),
            (None, Some(first)) if left.len() == 1 => self.set(LAST_1, number(left), first),
            (None, Some(first)) => self.set(LAST_2, number(&left[left.len() - 2..]), first),
            (Some(last), None) if right.len() == 1 => self.set(FIRST_1, last, number(right)),
            (Some(last), None) => self.set(FIRST_2, last, number(&right[..2])),
            (None, None) => self.set(BYTES, u32::from(left[left.len() - 1]), u32::from(right[0])),
        }
    }

    fn set(&mut self, kind: usize, left: u32, right: u32) {
        self.has[kind] = true;
        let at = place(kind, left, right);
        self.bits[at / 64] |= 1 << (at % 64);
    }

    #[inline]
    fn get(&self, kind: usize, left: u32, right: u32) -> bool {
        let at = place(kind, left, right);
        self.has[kind] && self.bits[at / 64] >> (at % 64) & 1 == 1
    }

    /// Whether nothing can merge across the place between two characters, given as numbers of their bytes,
    /// the first one lowest; both have several.
    #[inline]
    fn is_seam(&self, left: u32, right: u32) -> bool {
        // Its last byte, which is above 0x7F, and its last two.
        let n_bits = 32 - left.leading_zeros();
        let (last, last_2) = (left >> (n_bits - 8), left >> (n_bits - 16));
        !(self.get(BOTH, left, right)
            || self.get(FIRST_1, left, right & 0xFF)
            || self.get(FIRST_2, left, right & 0xFFFF)
            || self.get(LAST_1, last, right)
            || self.get(LAST_2, last_2, right)
            || self.get(BYTES, last, right & 0xFF)
            || self.get(AFTER, left, 0)
            || self.get(BEFORE, 0, right))
    }

    /// Which of the `candidates` of a block are seams: first bytes of characters of several bytes, behind
    /// such characters.
    ///
    /// # Safety
    /// Four bytes before `src` and 67 from there on can be read.
    #[inline]
    pub(crate) unsafe fn cuts(&self, src: *const u8, mut candidates: u64) -> u64 {
        let mut cuts = 0;
        while candidates != 0 {
            let at = candidates.trailing_zeros() as usize;
            candidates &= candidates - 1;
            // SAFETY: `at` < 64, as the caller promises.
            let (before, after) = unsafe {
                let at = src.add(at);
                (at.sub(4).cast::<u32>().read_unaligned(), at.cast::<u32>().read_unaligned())
            };
            let (before, after) = (u32::from_le(before), u32::from_le(after));
            let left = if before >> 16 & 0xFF >= 0xC0 {
                before >> 16
            } else if before >> 8 & 0xFF >= 0xC0 {
                before >> 8
            } else {
                before
            };
            let right = match after & 0xFF {
                0..0xE0 => after & 0xFFFF,
                0xE0..0xF0 => after & 0xFF_FFFF,
                _ => after,
            };
            cuts |= u64::from(self.is_seam(left, right)) << at;
        }
        cuts
    }
}

#[inline]
fn place(kind: usize, left: u32, right: u32) -> usize {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let key = (u64::from(left) | u64::from(right) << 32) ^ (kind as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let product = key.wrapping_mul(FACTOR);
    ((product ^ product >> 32).wrapping_mul(FACTOR) >> (64 - BITS)) as usize
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

/// The character of several bytes that the bytes end with, if all of it is there.
fn whole_last(bytes: &[u8]) -> Option<u32> {
    let n_tail = bytes.iter().rev().take_while(|&&byte| byte & 0xC0 == 0x80).count();
    let start = bytes.len().checked_sub(n_tail + 1)?;
    (n_tail > 0 && len_of(bytes[start]) == n_tail + 1).then(|| number(&bytes[start..]))
}

/// The character of several bytes that the bytes begin with, if all of it is there.
fn whole_first(bytes: &[u8]) -> Option<u32> {
    let len = len_of(*bytes.first()?);
    (len > 1 && bytes.len() >= len).then(|| number(&bytes[..len]))
}

fn len_of(lead: u8) -> usize {
    match lead {
        0..0xC0 => 1,
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    }
}
