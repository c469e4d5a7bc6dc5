//! The scanner's kernels without vector instructions: the twin of the others, and what runs where
//! they do not.
//!
//! Classes come from a table, a byte at a time; starts are found eight bytes at a time in a 64-bit
//! word. `SPREAD` has the low bit of each byte set; a product gathers one bit per byte into a byte.

use super::{
    APOSTROPHE, BLOCK, GLUES, NIBBLE, SPACE, ScanTables, WIDE_SPACE,
    repair::{contractions, wide_spaces},
};

const SPREAD: u64 = 0x0101_0101_0101_0101;

/// Writes the class bytes of `n_blocks` blocks; returns a bit per block that has bytes outside ASCII.
///
/// # Safety
/// The blocks and four bytes behind them can be read at `src`, the blocks and a byte before them are
/// valid at `classes`.
pub(crate) unsafe fn classify(t: &ScanTables, src: *const u8, n_blocks: usize, classes: *mut u8) -> u64 {
    let mut wide = 0;
    for block in 0..n_blocks {
        // SAFETY: inside the blocks, as the caller promises.
        unsafe {
            let (src, classes) = (src.add(block * BLOCK), classes.add(block * BLOCK));
            let bytes = src.cast::<[u8; BLOCK]>().read();
            let mut high = 0;
            for (at, &byte) in bytes.iter().enumerate() {
                *classes.add(at) = t.ascii[usize::from(byte & 0x7F)];
                high |= byte;
            }
            if high >= 0x80 {
                wide |= 1 << block;
                characters(t, src, classes, high_bits(src));
            }
        }
    }
    wide
}

/// A bit for each byte of a block that is outside ASCII.
///
/// # Safety
/// 64 bytes can be read at `src`.
pub(super) unsafe fn high_bits(src: *const u8) -> u64 {
    // SAFETY: as the caller promises.
    let words = unsafe { src.cast::<[u64; 8]>().read_unaligned() };
    words.iter().enumerate().fold(0, |bits, (at, word)| bits | gather(word >> 7 & SPREAD) << (8 * at))
}

/// Classes of the characters outside ASCII of one block, one by one.
///
/// # Safety
/// As for [`classify`], for one block.
pub(super) unsafe fn characters(t: &ScanTables, src: *const u8, classes: *mut u8, mut bits: u64) {
    while bits != 0 {
        let at = bits.trailing_zeros() as usize;
        bits &= bits - 1;
        // SAFETY: `at` < 64; a lead byte's character ends at most three bytes later.
        unsafe {
            let bytes = src.add(at).cast::<[u8; 4]>().read();
            // A continuation byte has the class of the byte before it.
            *classes.add(at) = if bytes[0] < 0xC0 { *classes.add(at).sub(1) } else { t.class(bytes) };
        }
    }
}

/// Finds the starts of `n_blocks` blocks and writes them, plus `rel`, to `out`; returns how many.
///
/// # Safety
/// The blocks and `READ_AHEAD` can be read at `src`, and three bytes before them; the blocks and one before
/// and behind them are valid at `classes`; `out` has room for a start per byte.
pub(crate) unsafe fn starts(
    t: &ScanTables,
    src: *const u8,
    classes: *mut u8,
    n_blocks: usize,
    wide: u64,
    rel: u32,
    out: *mut u32,
) -> usize {
    let mut n = 0;
    for block in 0..n_blocks {
        // SAFETY: inside the blocks, as the caller promises; the words read reach one byte over them.
        unsafe {
            let (src, classes) = (src.add(block * BLOCK), classes.add(block * BLOCK));
            let mut marks = block_bits(classes, APOSTROPHE);
            if marks != 0 {
                contractions(src, classes, marks);
            }
            let mut bits = 0;
            for at in (0..BLOCK).step_by(8) {
                bits |= word_starts(classes.add(at)) << at;
            }
            if wide >> block & 1 == 1 {
                let spaces = block_bits(classes, WIDE_SPACE);
                if spaces != 0 {
                    bits = wide_spaces(src, classes, spaces, bits);
                }
                bits |= t.cuts.edges.portable(src);
                marks = high_bits(src);
                while marks != 0 {
                    let at = marks.trailing_zeros() as usize;
                    marks &= marks - 1;
                    let (before, lead) = (*src.add(at).sub(1), *src.add(at));
                    if lead >= 0xC0 && (0x80..0xC0).contains(&before) && t.cuts.allow(before, lead) {
                        bits |= 1 << at;
                    }
                }
            }
            n += flatten(bits, rel + (block * BLOCK) as u32, out.add(n));
        }
    }
    n
}

/// Writes the positions of the set bits, plus `base`; returns how many.
///
/// # Safety
/// `out` has room for them, and for seven more.
#[inline]
pub(super) unsafe fn flatten(mut bits: u64, base: u32, out: *mut u32) -> usize {
    let n = bits.count_ones() as usize;
    let mut at = 0;
    // Eight at a time, whether there are eight or not: a branch per start would be mispredicted.
    while at < n {
        for k in 0..8 {
            // SAFETY: at most seven more than there are bits. (Without bits left 64 is written.)
            unsafe { *out.add(at + k) = base + bits.trailing_zeros() };
            bits &= bits.wrapping_sub(1);
        }
        at += 8;
    }
    n
}

/// The starts in eight bytes, a bit each.
///
/// # Safety
/// Eight bytes, one before and one behind are valid at `classes`.
#[inline]
unsafe fn word_starts(classes: *const u8) -> u64 {
    let byte = |bits: u8| u64::from(bits) * SPREAD;
    // SAFETY: as the caller promises.
    let [before, own, behind] =
        unsafe { [classes.sub(1), classes, classes.add(1)].map(|at| at.cast::<u64>().read_unaligned()) };
    // Nibbles are below 0x10, so adding 0x0F carries into bit 4 exactly where they differ.
    let differs = ((before ^ own) & byte(NIBBLE)) + byte(NIBBLE);
    let differs = differs >> 4 & SPREAD;
    let space = own >> 3 & SPREAD;
    let glued = before >> 4 & SPREAD;
    let no_space_behind = !(behind >> 3) & SPREAD;
    const { assert!(SPACE == 8 && GLUES == 16) };
    gather((!space & differs & !glued) | (space & (differs | no_space_behind)))
}

/// A bit for each byte of a block that has `flag` in its class.
///
/// # Safety
/// 64 bytes are valid at `classes`.
unsafe fn block_bits(classes: *const u8, flag: u8) -> u64 {
    let shift = flag.trailing_zeros();
    // SAFETY: as the caller promises.
    let words = unsafe { classes.cast::<[u64; 8]>().read_unaligned() };
    words.iter().enumerate().fold(0, |bits, (at, word)| bits | gather(word >> shift & SPREAD) << (8 * at))
}

/// Bit 8·k of `word` becomes bit k; no other bits may be set.
#[inline]
fn gather(word: u64) -> u64 {
    word.wrapping_mul(0x0102_0408_1020_4080) >> 56
}
