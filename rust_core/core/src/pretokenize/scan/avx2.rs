//! The scanner's kernels with AVX2: a block is two registers of 32 bytes.
//!
//! `vpshufb` looks up 16 entries at a time, so ASCII classes take one look-up per row of 16 characters.
//! Outside ASCII, lead bytes are looked up by their low nibble, once for each of their three rows;
//! mixed blocks go by last byte, all characters of a block at once, or one by one. Continuation bytes then
//! take the nearest class before them, up to three bytes back.

#![allow(
    clippy::wildcard_imports,
    clippy::cast_possible_wrap,
    clippy::cast_ptr_alignment,
    clippy::similar_names,
    reason = "intrinsics by name; their lanes are signed by convention and their loads unaligned where said"
)]

use std::arch::x86_64::*;

use super::repair::{contractions, wide_spaces};
use super::tables::{NO_GROUP, Table64};
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
/// As there, with `READ_AHEAD` readable behind the blocks.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn classify(t: &ScanTables, src: *const u8, n_blocks: usize, classes: *mut u8) -> u64 {
    let mut wide = 0;
    let rows = ascii_rows(t);
    // SAFETY: the byte before the classes is valid. Of the half before only its last three bytes matter,
    // and before a text's first block they do not: it begins with a whole character.
    let mut before = splat(unsafe { *classes.sub(1) });
    for block in 0..n_blocks {
        // SAFETY: inside the blocks, as the caller promises.
        unsafe {
            let (src, classes) = (src.add(block * BLOCK), classes.add(block * BLOCK));
            let bytes = load(src);
            wide |= u64::from(!is_ascii(bytes)) << block;
            let own = classify_block(t, &rows, src, bytes, before);
            _mm256_storeu_si256(classes.cast(), own.0);
            _mm256_storeu_si256(classes.add(HALF).cast(), own.1);
            before = own.1;
        }
    }
    wide
}

/// The two halves of a block.
pub(super) type Halves = (__m256i, __m256i);

/// # Safety
/// 64 bytes can be read at `src`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load(src: *const u8) -> Halves {
    // SAFETY: as the caller promises.
    unsafe { (_mm256_loadu_si256(src.cast()), _mm256_loadu_si256(src.add(HALF).cast())) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn is_ascii(bytes: Halves) -> bool {
    _mm256_movemask_epi8(_mm256_or_si256(bytes.0, bytes.1)) == 0
}

/// The classes of ASCII by row, in both lanes of each register.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn ascii_rows(t: &ScanTables) -> [__m256i; 8] {
    // (What the library calls would not be inlined here.)
    let row = |at: usize| row(&t.ascii, at);
    [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]
}

/// Classes of a block, the `bytes` at `src`; `before` holds those of the half block before.
///
/// # Safety
/// As for [`classify`], for one block.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) unsafe fn classify_block(
    t: &ScanTables,
    rows: &[__m256i; 8],
    src: *const u8,
    bytes: Halves,
    before: __m256i,
) -> Halves {
    let ascii = |bytes: __m256i| {
        // Rows by bits 4, 5 and 6, with a blend for each bit.
        let entry = |at: usize| _mm256_shuffle_epi8(rows[at], bytes);
        let (bit4, bit5, bit6) =
            (_mm256_slli_epi16::<3>(bytes), _mm256_slli_epi16::<2>(bytes), _mm256_slli_epi16::<1>(bytes));
        let pair = |at: usize| _mm256_blendv_epi8(entry(at), entry(at + 1), bit4);
        let four = |at: usize| _mm256_blendv_epi8(pair(at), pair(at + 2), bit5);
        _mm256_blendv_epi8(four(0), four(4), bit6)
    };
    let own = (ascii(bytes.0), ascii(bytes.1));
    if is_ascii(bytes) {
        return own;
    }
    // SAFETY: what the caller promises.
    unsafe { classify_wide(t, src, bytes, own, before) }
}

/// Classes of a block with bytes outside ASCII; `before` holds those of the half block before.
///
/// All of it happens in registers: a byte stored and then loaded as part of a vector would have to wait
/// until the store has reached the cache, and the same goes for loads that begin a byte earlier.
///
/// # Safety
/// As for [`classify`], for one block.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn classify_wide(
    t: &ScanTables,
    src: *const u8,
    bytes: Halves,
    ascii: Halves,
    before: __m256i,
) -> Halves {
    let zero = _mm256_setzero_si256();
    // SAFETY: READ_AHEAD is more than two bytes.
    let (second, third) = unsafe { (load(src.add(1)), load(src.add(2))) };
    // As signed numbers: lead bytes are -64 to -1, continuation bytes below -64.
    let is_wide = |bytes: __m256i| _mm256_cmpgt_epi8(zero, bytes);
    let is_lead = |bytes: __m256i| _mm256_and_si256(is_wide(bytes), _mm256_cmpgt_epi8(bytes, splat(0xBF)));
    let uniform = |bytes: __m256i| _mm256_and_si256(look_up_64(&t.uniform, bytes), is_lead(bytes));
    let unknown = |bytes: __m256i, uniform: __m256i, second: __m256i| {
        let exception = _mm256_cmpeq_epi8(look_up_64(&t.exception, bytes), second);
        _mm256_and_si256(is_lead(bytes), _mm256_or_si256(_mm256_cmpeq_epi8(uniform, zero), exception))
    };
    let known = (uniform(bytes.0), uniform(bytes.1));
    let mut open = mask(unknown(bytes.0, known.0, second.0), unknown(bytes.1, known.1, second.1));
    // Continuation bytes have 0 so far.
    let mut own = (
        _mm256_blendv_epi8(ascii.0, known.0, is_wide(bytes.0)),
        _mm256_blendv_epi8(ascii.1, known.1, is_wide(bytes.1)),
    );
    while open != 0 {
        let at = open.trailing_zeros() as usize;
        // SAFETY: a lead byte's character ends at most three bytes later.
        let character = unsafe { src.add(at).cast::<[u8; 4]>().read() };
        let [lead, then, ..] = character;
        let group = t.group_of[usize::from(lead & 0x3F)][usize::from(then & 0x3F)];
        if lead < 0xF0 && group != NO_GROUP {
            // Every character of the group at once.
            let equal = |bytes: __m256i, byte: u8| _mm256_cmpeq_epi8(bytes, splat(byte));
            let alike = (equal(bytes.0, lead), equal(bytes.1, lead));
            let (alike, last) = if lead < 0xE0 {
                (alike, second)
            } else {
                let also = (equal(second.0, then), equal(second.1, then));
                ((_mm256_and_si256(alike.0, also.0), _mm256_and_si256(alike.1, also.1)), third)
            };
            let table = &t.groups[usize::from(group)];
            own.0 = _mm256_blendv_epi8(own.0, look_up_64(table, last.0), alike.0);
            own.1 = _mm256_blendv_epi8(own.1, look_up_64(table, last.1), alike.1);
            open &= !mask(alike.0, alike.1);
        } else {
            // (A place in the other half is no lane number.)
            let class = splat(t.class(character));
            let here = |half: usize| _mm256_cmpeq_epi8(iota(), splat((at as u8).wrapping_sub(half as u8)));
            own.0 = _mm256_blendv_epi8(own.0, class, here(0));
            own.1 = _mm256_blendv_epi8(own.1, class, here(HALF));
            open &= open - 1;
        }
    }
    // A continuation byte takes the nearest class of the three bytes before it.
    let or_else =
        |this: __m256i, other: __m256i| _mm256_blendv_epi8(this, other, _mm256_cmpeq_epi8(this, zero));
    let filled = |before: __m256i, own: __m256i| {
        let across = _mm256_permute2x128_si256::<0x21>(before, own);
        let nearest = or_else(
            _mm256_alignr_epi8::<15>(own, across),
            or_else(_mm256_alignr_epi8::<14>(own, across), _mm256_alignr_epi8::<13>(own, across)),
        );
        or_else(own, nearest)
    };
    let low = filled(before, own.0);
    (low, filled(low, own.1))
}

/// Lane numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn iota() -> __m256i {
    _mm256_setr_epi8(
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
        28, 29, 30, 31,
    )
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
        // SAFETY: inside the blocks, three bytes before and a byte behind, as the caller promises.
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
                    let inert = _mm256_and_si256(inert, _mm256_and_si256(is_lead, is_tail));
                    _mm256_or_si256(inert, t.cuts.edges.half(src.add(at)))
                };
                bits |= mask(cuts(0), cuts(HALF));
            }
            n += flatten(bits, rel + (block * BLOCK) as u32, out.add(n));
        }
    }
    n
}

/// Positions of the set bits of each byte value, lowest first.
static POSITIONS: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut n) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte] |= bit << (8 * n);
                n += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// Writes the positions of the set bits, plus `base`; returns how many.
///
/// Eight bits at a time, from a table, with one store of eight whether there are eight or not. (Taking
/// bit by bit off the mask, even eight without a branch, was a third slower.)
///
/// # Safety
/// `out` has room for them, and for seven more.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) unsafe fn flatten(bits: u64, base: u32, out: *mut u32) -> usize {
    let mut n = 0;
    for at in 0..8 {
        let byte = bits >> (8 * at) & 0xFF;
        let positions = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(POSITIONS[byte as usize] as i64));
        let positions = _mm256_add_epi32(positions, _mm256_set1_epi32((base + 8 * at) as i32));
        // SAFETY: n <= 8 * at, and eight are stored.
        unsafe { _mm256_storeu_si256(out.add(n).cast(), positions) };
        n += byte.count_ones() as usize;
    }
    n
}
