//! Seams: places between two characters of several bytes that no token spans.
//!
//! `inert` asks whether two *bytes* stand together in some token. For a vocabulary that knows Chinese nearly
//! all do; so here it is asked whether a token could span the place between two given *characters*. A token
//! that spans it has on each side either the whole character, or, if it begins or ends inside a character,
//! a part of it:
//!
//! ```text
//! token     .. left | right ..     known by   both characters
//!                 x | right ..                the last byte, and the character
//!           .. left | y                       the character, and the first byte
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

/// Kinds of entries, added to the hash.
const BOTH: u64 = 0;
const LAST: u64 = 0x243F_6A88_85A3_08D3;
const FIRST: u64 = 0x1319_8A2E_0370_7344;
const BYTES: u64 = 0x4528_21E6_38D0_1377;
const AFTER: u64 = 0x3E54_66CF_34E9_0C6C;
const BEFORE: u64 = 0xC0AC_29B7_C97C_50DD;

/// The table.
pub(crate) struct Seams {
    bits: Box<[u64]>,
    /// Whether there are tokens that are found whole only.
    has_whole: bool,
}

impl Seams {
    /// Collects the places inside every ordinary token; `whole` are the tokens that are found whole only.
    pub(crate) fn new<'t>(vocab: &Vocabulary, whole: impl Iterator<Item = &'t [u8]>) -> Self {
        let mut seams = Self { bits: vec![0; (1 << BITS) / 64].into(), has_whole: false };
        for (_, token) in vocab.ordinary() {
            for at in 1..token.len() {
                if token[at] >= 0xC0 && token[at - 1] & 0xC0 == 0x80 {
                    seams.add(&token[..at], &token[at..]);
                }
            }
        }
        for token in whole {
            seams.has_whole = true;
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
        Self { bits: vec![u64::MAX; (1 << BITS) / 64].into(), has_whole: false }
    }

    fn add(&mut self, left: &[u8], right: &[u8]) {
        match (whole_last(left), whole_first(right)) {
            (Some(last), Some(first)) => self.set(BOTH, last, first),
            (None, Some(first)) => self.set(LAST, u32::from(left[left.len() - 1]), first),
            (Some(last), None) => self.set(FIRST, last, u32::from(right[0])),
            (None, None) => self.set(BYTES, u32::from(left[left.len() - 1]), u32::from(right[0])),
        }
    }

    fn set(&mut self, kind: u64, left: u32, right: u32) {
        let at = place(kind, left, right);
        self.bits[at / 64] |= 1 << (at % 64);
    }

    #[inline]
    fn get(&self, kind: u64, left: u32, right: u32) -> u64 {
        let at = place(kind, left, right);
        // SAFETY: a place is below 2^BITS, and there are so many bits.
        unsafe { self.bits.get_unchecked(at / 64) >> (at % 64) & 1 }
    }

    /// 1 if nothing can merge across the place between two characters, given as numbers of their bytes, the
    /// first one lowest, and the last byte of the left one; both have several.
    #[inline]
    fn is_seam(&self, left: u32, last: u32, right: u32) -> u64 {
        let first = right & 0xFF;
        // All looked up, whatever the first ones say: no branch that could be mispredicted.
        let mut spans = self.get(BOTH, left, right)
            | self.get(FIRST, left, first)
            | self.get(LAST, last, right)
            | self.get(BYTES, last, first);
        if self.has_whole {
            spans |= self.get(AFTER, left, 0) | self.get(BEFORE, 0, right);
        }
        spans ^ 1
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
            // Shifts instead of branches: where the lead byte is depends on the text.
            let not_2 = u32::from(before >> 16 & 0xFF < 0xC0);
            let not_3 = not_2 & u32::from(before >> 8 & 0xFF < 0xC0);
            let left = before >> (16 - 8 * (not_2 + not_3));
            let lead = after & 0xFF;
            let n_bits = 16 + 8 * (u32::from(lead >= 0xE0) + u32::from(lead >= 0xF0));
            let right = after & (u64::MAX >> (64 - n_bits)) as u32;
            cuts |= self.is_seam(left, before >> 24, right) << at;
        }
        cuts
    }
}

#[inline]
fn place(kind: u64, left: u32, right: u32) -> usize {
    let left = u64::from(left).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let right = u64::from(right).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (left.wrapping_add(right).wrapping_add(kind) >> (64 - BITS)) as usize
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
