//! Class bytes to bit planes: bit n of a plane says something of byte n of a block.

use super::super::{BLOCK, portable};
use super::{LOOSE, LOWER, NEWLINE, NUMBER, OTHER, OWN, SPACE, UPPER};

/// The planes of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planes {
    pub(crate) lower: u64,
    pub(crate) upper: u64,
    pub(crate) other: u64,
    pub(crate) space: u64,
    pub(crate) newline: u64,
    pub(crate) number: u64,
    pub(crate) own: u64,
    pub(crate) loose: u64,
    /// The byte itself: U+0020, an apostrophe, a slash, above 0x7F, a continuation byte.
    pub(crate) blank: u64,
    pub(crate) quote: u64,
    pub(crate) slash: u64,
    pub(crate) high: u64,
    pub(crate) tail: u64,
}

/// Fills the planes of as many blocks as `out` has room for.
///
/// # Safety
/// So many blocks can be read at `src` and at `classes`; the processor has the tier's features.
pub(crate) unsafe fn portable(src: *const u8, classes: *const u8, out: &mut [Planes]) {
    for (at, planes) in out.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        let (bytes, class) = unsafe {
            (
                src.add(at * BLOCK).cast::<[u8; BLOCK]>().read(),
                classes.add(at * BLOCK).cast::<[u8; BLOCK]>().read(),
            )
        };
        let of_class = |bit: u8| bits_of(&class, |byte| byte & bit != 0);
        let of_byte = |is: fn(u8) -> bool| bits_of(&bytes, is);
        *planes = Planes {
            lower: of_class(LOWER),
            upper: of_class(UPPER),
            other: of_class(OTHER),
            space: of_class(SPACE),
            newline: of_class(NEWLINE),
            number: of_class(NUMBER),
            own: of_class(OWN),
            loose: of_class(LOOSE),
            blank: of_byte(|byte| byte == b' '),
            quote: of_byte(|byte| byte == b'\''),
            slash: of_byte(|byte| byte == b'/'),
            high: of_byte(|byte| byte >= 0x80),
            tail: of_byte(|byte| byte & 0xC0 == 0x80),
        };
    }
}

fn bits_of(bytes: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    bytes.iter().rev().fold(0, |bits, &byte| bits << 1 | u64::from(is(byte)))
}

/// Writes the positions of the set bits of `bits`, a word per block, plus `base`; returns how many.
///
/// # Safety
/// `out` has room for them, and for seven more.
pub(crate) unsafe fn flatten_portable(bits: &[u64], base: u32, out: *mut u32) -> usize {
    let mut n = 0;
    for (at, &bits) in bits.iter().enumerate() {
        // SAFETY: as the caller promises.
        n += unsafe { portable::flatten(bits, base + (at * BLOCK) as u32, out.add(n)) };
    }
    n
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{avx2, flatten_avx2};

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(
        clippy::wildcard_imports,
        clippy::cast_possible_wrap,
        clippy::cast_ptr_alignment,
        reason = "intrinsics by name; their lanes are signed by convention and their loads unaligned where said"
    )]

    use std::arch::x86_64::*;

    use super::super::super::avx2::flatten;
    use super::{BLOCK, Planes};

    /// See [`super::portable`].
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx2")]
    pub(crate) unsafe fn avx2(src: *const u8, classes: *const u8, out: &mut [Planes]) {
        for (at, planes) in out.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            let (low, high, class_low, class_high) = unsafe {
                let load = |from: *const u8| _mm256_loadu_si256(from.add(at * BLOCK).cast());
                (load(src), load(src.add(32)), load(classes), load(classes.add(32)))
            };
            let equal = |byte: u8| {
                let byte = _mm256_set1_epi8(byte as i8);
                mask(_mm256_cmpeq_epi8(low, byte), _mm256_cmpeq_epi8(high, byte))
            };
            // The bit moves to the top of its byte; what crosses from byte to byte is below it.
            macro_rules! bit {
                ($up:literal) => {
                    mask(_mm256_slli_epi16::<$up>(class_low), _mm256_slli_epi16::<$up>(class_high))
                };
            }
            // As signed numbers: continuation bytes are below -64.
            let lead = _mm256_set1_epi8(-64);
            *planes = Planes {
                lower: bit!(7),
                upper: bit!(6),
                other: bit!(5),
                space: bit!(4),
                newline: bit!(3),
                number: bit!(2),
                own: bit!(1),
                loose: mask(class_low, class_high),
                blank: equal(b' '),
                quote: equal(b'\''),
                slash: equal(b'/'),
                high: mask(low, high),
                tail: mask(_mm256_cmpgt_epi8(lead, low), _mm256_cmpgt_epi8(lead, high)),
            };
        }
    }

    /// See [`super::flatten_portable`].
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) unsafe fn flatten_avx2(bits: &[u64], base: u32, out: *mut u32) -> usize {
        let mut n = 0;
        for (at, &bits) in bits.iter().enumerate() {
            // SAFETY: as the caller promises.
            n += unsafe { flatten(bits, base + (at * BLOCK) as u32, out.add(n)) };
        }
        n
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn mask(low: __m256i, high: __m256i) -> u64 {
        u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
    }
}
