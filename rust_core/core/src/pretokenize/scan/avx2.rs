//! The scanner's kernels with AVX2: a block is two registers of 32 bytes.
//!
//! `vpshufb` looks up 16 entries at a time, so ASCII classes take one look-up per row of 16 characters.
//! Outside ASCII, lead bytes are looked up by their low nibble, once for each of their three rows;
//! mixed blocks go one by one. Continuation bytes then take the nearest class before them: up to three
//! bytes back, from the class buffer itself.

use std::arch::x86_64::*;

use super::portable::flatten;
use super::repair::{contractions, wide_spaces};
use super::tables::Table64;
use super::{APOSTROPHE, BLOCK, GLUES, NIBBLE, SPACE, ScanTables, WIDE_SPACE};

const HALF: usize = 32;

#[inline]
#[target_feature(enable = "avx2")]
fn splat(byte: u8) -> __m256i {
    _mm256_set1_epi8(byte as i8)
}

/// The 16 table entries from `row * 16` on, in both lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn row(table: &[u8], row: usize) -> __m256i {
    let entries = &table[16 * row..16 * row + 16];
    // SAFETY: 16 bytes, checked by the slice.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(entries.as_ptr().cast())) }
}

/// `table[bytes & 0x3F]` for bytes from 0xC0 (or, with the other bit, 0x80) on: four rows, chosen by
/// bits 4 and 5.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up_64(table: &Table64, bytes: __m256i) -> __m256i {
    let low = _mm256_and_si256(bytes, splat(0x0F));
    // A blend looks at the top bit of each byte: bit 4 and bit 5 moved there.
    let (bit4, bit5) = (_mm256_slli_epi16::<3>(bytes), _mm256_slli_epi16::<2>(bytes));
    let entry = |at: usize| _mm256_shuffle_epi8(row(&table.0, at), low);
    let lower = _mm256_blendv_epi8(entry(0), entry(1), bit4);
    let upper = _mm256_blendv_epi8(entry(2), entry(3), bit4);
    _mm256_blendv_epi8(lower, upper, bit5)
}

#[inline]
#[target_feature(enable = "avx2")]
fn mask(low: __m256i, high: __m256i) -> u64 {
    u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
}

/// A bit for each byte of a block that has a bit of `flag` set in its class.
///
/// # Safety
/// 64 bytes are valid at `classes`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn flagged(classes: *const u8, flag: u8) -> u64 {
    let none = |at: usize| {
        // SAFETY: `at` is 0 or 32.
        let own = unsafe { _mm256_loadu_si256(classes.add(at).cast()) };
        _mm256_cmpeq_epi8(_mm256_and_si256(own, splat(flag)), _mm256_setzero_si256())
    };
    !mask(none(0), none(HALF))
}

/// See [`super::portable::classify`].
///
/// # Safety
/// As there, with READ_AHEAD readable behind the blocks.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn classify(t: &ScanTables, src: *const u8, n_blocks: usize, classes: *mut u8) -> u64 {
    let mut wide = 0;
    let rows: [__m256i; 8] = std::array::from_fn(|at| row(&t.ascii, at));
    for half in 0..2 * n_blocks {
        // SAFETY: inside the blocks, as the caller promises.
        unsafe {
            let (src, classes) = (src.add(half * HALF), classes.add(half * HALF));
            let bytes = _mm256_loadu_si256(src.cast());
            // Rows by bits 4, 5 and 6, with a blend for each bit.
            let entry = |at: usize| _mm256_shuffle_epi8(rows[at], bytes);
            let (bit4, bit5, bit6) =
                (_mm256_slli_epi16::<3>(bytes), _mm256_slli_epi16::<2>(bytes), _mm256_slli_epi16::<1>(bytes));
            let pair = |at: usize| _mm256_blendv_epi8(entry(at), entry(at + 1), bit4);
            let four = |at: usize| _mm256_blendv_epi8(pair(at), pair(at + 2), bit5);
            let ascii = _mm256_blendv_epi8(four(0), four(4), bit6);
            let outside = _mm256_movemask_epi8(bytes) as u32;
            if outside == 0 {
                _mm256_storeu_si256(classes.cast(), ascii);
            } else {
                wide |= 1 << (half / 2);
                classify_wide(t, src, classes, bytes, ascii);
            }
        }
    }
    wide
}

/// Classes of half a block with bytes outside ASCII.
///
/// # Safety
/// As for [`classify`], for half a block.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn classify_wide(t: &ScanTables, src: *const u8, classes: *mut u8, bytes: __m256i, ascii: __m256i) {
    let zero = _mm256_setzero_si256();
    // As signed numbers: lead bytes are -64 to -1, continuation bytes below -64.
    let is_wide = _mm256_cmpgt_epi8(zero, bytes);
    let is_lead = _mm256_and_si256(is_wide, _mm256_cmpgt_epi8(bytes, splat(0xBF)));
    // SAFETY: READ_AHEAD is more than a byte.
    let second = unsafe { _mm256_loadu_si256(src.add(1).cast()) };
    let uniform = _mm256_and_si256(look_up_64(&t.uniform, bytes), is_lead);
    let exception = _mm256_cmpeq_epi8(look_up_64(&t.exception, bytes), second);
    let none = _mm256_or_si256(_mm256_cmpeq_epi8(uniform, zero), exception);
    let mut open = _mm256_movemask_epi8(_mm256_and_si256(is_lead, none)) as u32;
    let leads = _mm256_blendv_epi8(ascii, uniform, is_wide);
    // SAFETY: half a block is valid at `classes`, and at least three bytes before it.
    unsafe {
        _mm256_storeu_si256(classes.cast(), leads);
        while open != 0 {
            let at = open.trailing_zeros() as usize;
            open &= open - 1;
            *classes.add(at) = t.class(src.add(at).cast::<[u8; 4]>().read());
        }
        // Continuation bytes hold 0 so far. A byte of the same character that is nearer has the same
        // class or 0, and bytes before `classes` are finished.
        let at = |distance: usize| _mm256_loadu_si256(classes.sub(distance).cast());
        let (own, one, two, three) = (at(0), at(1), at(2), at(3));
        let or_else =
            |this: __m256i, other: __m256i| _mm256_blendv_epi8(this, other, _mm256_cmpeq_epi8(this, zero));
        let nearest = or_else(one, or_else(two, three));
        _mm256_storeu_si256(classes.cast(), or_else(own, nearest));
    }
}

/// See [`super::portable::starts`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn starts(
    t: &ScanTables,
    src: *const u8,
    classes: *mut u8,
    n_blocks: usize,
    wide: u64,
    rel: u32,
    out: *mut u32,
) -> usize {
    let zero = _mm256_setzero_si256();
    let mut n = 0;
    for block in 0..n_blocks {
        // SAFETY: inside the blocks, a byte before and a byte behind, as the caller promises.
        unsafe {
            let (src, classes) = (src.add(block * BLOCK), classes.add(block * BLOCK));
            let marks = flagged(classes, APOSTROPHE);
            if marks != 0 {
                contractions(src, classes, marks);
            }
            let half = |at: usize| {
                let load = |at: *const u8| _mm256_loadu_si256(at.cast());
                let own = load(classes.add(at));
                let before = load(classes.add(at).sub(1));
                let behind = load(classes.add(at + 1));
                let none =
                    |class: __m256i, flag: u8| _mm256_cmpeq_epi8(_mm256_and_si256(class, splat(flag)), zero);
                let same = none(_mm256_xor_si256(own, before), NIBBLE);
                let no_space = none(own, SPACE);
                let not_glued = none(before, GLUES);
                let no_space_behind = none(behind, SPACE);
                let word = _mm256_andnot_si256(same, _mm256_and_si256(no_space, not_glued));
                let space = _mm256_andnot_si256(
                    no_space,
                    _mm256_or_si256(no_space_behind, _mm256_cmpeq_epi8(same, zero)),
                );
                _mm256_or_si256(word, space)
            };
            let mut bits = mask(half(0), half(HALF));
            if wide >> block & 1 == 1 {
                let spaces = flagged(classes, WIDE_SPACE);
                if spaces != 0 {
                    bits = wide_spaces(src, classes, spaces, bits);
                }
                let cuts = |at: usize| {
                    let bytes = _mm256_loadu_si256(src.add(at).cast());
                    let before = _mm256_loadu_si256(src.add(at).sub(1).cast());
                    let is_lead = _mm256_and_si256(
                        _mm256_cmpgt_epi8(zero, bytes),
                        _mm256_cmpgt_epi8(bytes, splat(0xBF)),
                    );
                    let is_tail = _mm256_cmpgt_epi8(splat(0xC0), before);
                    let bridged =
                        _mm256_and_si256(look_up_64(&t.cuts.before, before), look_up_64(&t.cuts.lead, bytes));
                    let inert = _mm256_cmpeq_epi8(bridged, zero);
                    _mm256_and_si256(inert, _mm256_and_si256(is_lead, is_tail))
                };
                bits |= mask(cuts(0), cuts(HALF));
            }
            n += flatten(bits, rel + (block * BLOCK) as u32, out.add(n));
        }
    }
    n
}
