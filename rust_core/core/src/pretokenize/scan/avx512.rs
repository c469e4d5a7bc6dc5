//! The scanner's kernels with AVX-512 (VBMI and VBMI2): a block is one register.
//!
//! Classes of ASCII are one `vpermi2b`. Outside ASCII the class is found at the lead bytes, by lead
//! byte where all its characters are alike (`uniform`), by last byte in the frequent mixed blocks
//! (`groups`), one by one for the rest, and is then moved to the continuation bytes by permutations:
//! nothing passes through memory. Starts come from three overlapping loads of the class bytes, and
//! `vpcompressb` turns their mask into positions.

#![allow(
    clippy::wildcard_imports,
    clippy::cast_possible_wrap,
    clippy::cast_ptr_alignment,
    clippy::similar_names,
    reason = "intrinsics by name; their lanes are signed by convention and their loads unaligned where said"
)]

use std::arch::asm;
use std::arch::x86_64::*;

use super::repair::{contractions, wide_spaces};
use super::tables::{GROUPS, Table64};
use super::{APOSTROPHE, BLOCK, GLUES, NIBBLE, SPACE, ScanTables, WIDE_SPACE};

/// Lane numbers, minus a distance.
const fn lanes_before(distance: u8) -> Table64 {
    let mut lanes = [0; 64];
    let mut at = 0;
    while at < 64 {
        lanes[at] = (at as u8).wrapping_sub(distance);
        at += 1;
    }
    Table64(lanes)
}
static IOTA: Table64 = lanes_before(0);
static ONE_BEFORE: Table64 = lanes_before(1);
static TWO_BEFORE: Table64 = lanes_before(2);
static THREE_BEFORE: Table64 = lanes_before(3);

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn load(table: &Table64) -> __m512i {
    // SAFETY: a Table64 is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(table.0.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn splat(byte: u8) -> __m512i {
    _mm512_set1_epi8(byte as i8)
}

/// As [`splat`], for a byte that is then put into some lanes of another vector. The compiler would make
/// one instruction of both, a broadcast from memory under a mask, which Bochs 2.7 takes for no operation;
/// and Bochs is where this tier is tested when no processor has it (`make avx512`).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn splat_from_register(byte: u8) -> __m512i {
    let mut wide = u32::from(byte);
    // SAFETY: does nothing to a value that is in a register.
    unsafe { asm!("/* {0:e} */", inout(reg) wide, options(pure, nomem, nostack, preserves_flags)) };
    _mm512_set1_epi8(wide as i8)
}

/// See [`super::portable::classify`].
///
/// # Safety
/// As there, with `READ_AHEAD` readable behind the blocks; `classes` is aligned to 64.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn classify(t: &ScanTables, src: *const u8, n_blocks: usize, classes: *mut u8) -> u64 {
    // SAFETY: `ascii` is 128 bytes, aligned to 64 as the first field.
    let (low, high) = unsafe {
        let ascii = t.ascii.as_ptr();
        (_mm512_loadu_si512(ascii.cast()), _mm512_loadu_si512(ascii.add(64).cast()))
    };
    let mut wide = 0;
    for block in 0..n_blocks {
        // SAFETY: inside the blocks, as the caller promises.
        unsafe {
            let (src, classes) = (src.add(block * BLOCK), classes.add(block * BLOCK));
            let bytes = _mm512_loadu_si512(src.cast());
            let outside = _mm512_movepi8_mask(bytes);
            let ascii = _mm512_permutex2var_epi8(low, bytes, high);
            if outside == 0 {
                _mm512_store_si512(classes.cast(), ascii);
            } else {
                wide |= 1 << block;
                classify_wide(t, src, classes, bytes, ascii, outside);
            }
        }
    }
    wide
}

/// Classes of one block with bytes outside ASCII; `ascii` holds those of the others.
///
/// # Safety
/// As for [`classify`], for one block.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn classify_wide(
    t: &ScanTables,
    src: *const u8,
    classes: *mut u8,
    bytes: __m512i,
    ascii: __m512i,
    outside: u64,
) {
    let leads = _mm512_cmpge_epu8_mask(bytes, splat(0xC0));
    // SAFETY: READ_AHEAD is more than one byte.
    let second = unsafe { _mm512_loadu_si512(src.add(1).cast()) };
    let mut found = _mm512_maskz_permutexvar_epi8(leads, bytes, load(&t.uniform));
    let exception = _mm512_maskz_permutexvar_epi8(leads, bytes, load(&t.exception));
    let mut open = leads & (_mm512_testn_epi8_mask(found, found) | _mm512_cmpeq_epi8_mask(exception, second));
    if open != 0 {
        // SAFETY: READ_AHEAD is more than two bytes.
        let third = unsafe { _mm512_loadu_si512(src.add(2).cast()) };
        for (&(lead, then), table) in GROUPS.iter().zip(&t.groups) {
            let own = _mm512_mask_cmpeq_epi8_mask(open, bytes, splat(lead));
            let (own, last) = if then == 0 {
                (own, second)
            } else {
                (_mm512_mask_cmpeq_epi8_mask(own, second, splat(then)), third)
            };
            found = _mm512_mask_permutexvar_epi8(found, own, last, load(table));
            open &= !own;
        }
        while open != 0 {
            let at = open.trailing_zeros() as usize;
            let bit = open & open.wrapping_neg();
            open ^= bit;
            // SAFETY: a lead byte's character ends at most three bytes later.
            let class = t.class(unsafe { src.add(at).cast::<[u8; 4]>().read() });
            found = _mm512_mask_mov_epi8(found, bit, splat_from_register(class));
        }
    }
    // A continuation byte one, two or three behind a lead byte; the others belong to a character that
    // began in the block before.
    let tails = outside & !leads;
    let one = tails & leads << 1;
    let two = tails & leads << 2 & !one;
    let three = tails & leads << 3 & !(one | two);
    let mut own = _mm512_mask_mov_epi8(ascii, leads, found);
    own = _mm512_mask_permutexvar_epi8(own, one, load(&ONE_BEFORE), found);
    own = _mm512_mask_permutexvar_epi8(own, two, load(&TWO_BEFORE), found);
    own = _mm512_mask_permutexvar_epi8(own, three, load(&THREE_BEFORE), found);
    // SAFETY: a byte before the block's classes is valid, and so is the block.
    unsafe {
        let before = splat_from_register(*classes.sub(1));
        own = _mm512_mask_mov_epi8(own, tails & !(one | two | three), before);
        _mm512_store_si512(classes.cast(), own);
    }
}

/// See [`super::portable::starts`].
///
/// # Safety
/// As there; `classes` is aligned to 64, and `out` has room for 64 more than a start per byte.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) unsafe fn starts(
    t: &ScanTables,
    src: *const u8,
    classes: *mut u8,
    n_blocks: usize,
    wide: u64,
    rel: u32,
    out: *mut u32,
) -> usize {
    let (nibble, space, glues) = (splat(NIBBLE), splat(SPACE), splat(GLUES));
    let (iota, cut_before, cut_lead) = (load(&IOTA), load(&t.cuts.before), load(&t.cuts.lead));
    let mut n = 0;
    for block in 0..n_blocks {
        // SAFETY: inside the blocks, three bytes before and a byte behind, as the caller promises.
        unsafe {
            let (src, classes) = (src.add(block * BLOCK), classes.add(block * BLOCK));
            let mut own = _mm512_load_si512(classes.cast());
            let marks = _mm512_test_epi8_mask(own, splat(APOSTROPHE));
            if marks != 0 {
                contractions(src, classes, marks);
                own = _mm512_load_si512(classes.cast());
            }
            let before = _mm512_loadu_si512(classes.sub(1).cast());
            let behind = _mm512_loadu_si512(classes.add(1).cast());
            let same = _mm512_testn_epi8_mask(_mm512_xor_si512(own, before), nibble);
            let is_space = _mm512_test_epi8_mask(own, space);
            let space_behind = _mm512_test_epi8_mask(behind, space);
            let glued = _mm512_test_epi8_mask(before, glues);
            let mut bits = !(is_space | same | glued) | (is_space & !(same & space_behind));
            if wide >> block & 1 == 1 {
                let spaces = _mm512_test_epi8_mask(own, splat(WIDE_SPACE));
                if spaces != 0 {
                    bits = wide_spaces(src, classes, spaces, bits);
                }
                let bytes = _mm512_loadu_si512(src.cast());
                let bytes_before = _mm512_loadu_si512(src.sub(1).cast());
                let leads = _mm512_cmpge_epu8_mask(bytes, splat(0xC0));
                // As signed numbers continuation bytes are those below -64.
                let tails = _mm512_cmplt_epi8_mask(bytes_before, splat(0xC0));
                let inert = _mm512_testn_epi8_mask(
                    _mm512_permutexvar_epi8(bytes_before, cut_before),
                    _mm512_permutexvar_epi8(bytes, cut_lead),
                );
                bits |= leads & tails & inert | t.cuts.edges.avx2(src);
            }
            n += flatten(bits, rel + (block * BLOCK) as u32, iota, out.add(n));
        }
    }
    n
}

/// Writes the positions of the set bits, plus `base`; returns how many.
///
/// # Safety
/// `out` has room for 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
unsafe fn flatten(bits: u64, base: u32, iota: __m512i, out: *mut u32) -> usize {
    let packed = _mm512_maskz_compress_epi8(bits, iota);
    let base = _mm512_set1_epi32(base as i32);
    let n = bits.count_ones() as usize;
    let store = |quarter: __m128i, at: usize| {
        let positions = _mm512_add_epi32(base, _mm512_cvtepu8_epi32(quarter));
        // SAFETY: `at` is 0, 16, 32 or 48, and there is room for 64.
        unsafe { _mm512_storeu_si512(out.add(at).cast(), positions) };
    };
    store(_mm512_castsi512_si128(packed), 0);
    store(_mm512_extracti32x4_epi32::<1>(packed), 16);
    if n > 32 {
        store(_mm512_extracti32x4_epi32::<2>(packed), 32);
        store(_mm512_extracti32x4_epi32::<3>(packed), 48);
    }
    n
}
