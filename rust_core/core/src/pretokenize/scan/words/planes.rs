//! Bytes to bit planes: bit n of a plane says something of byte n of a block.
//!
//! Of a block that is all ASCII they are made of the bytes themselves ([`columns`](super::columns)); of others class
//! bytes are made first, by the kernel that GPT-2's scanner has. Neither goes through memory in the vector tiers.

use super::super::{BLOCK, ScanTables, portable};
use super::columns::Columns;
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

impl Planes {
    /// Leaves the first `n` bytes; what follows is whitespace.
    pub(crate) fn end_at(&mut self, n: usize) {
        let rest = u64::MAX.checked_shl(n as u32).unwrap_or(0);
        let Self { lower, upper, other, newline, number, own, loose, .. } = self;
        for plane in [lower, upper, other, newline, number, own, loose] {
            *plane &= !rest;
        }
        let Self { blank, quote, slash, high, tail, .. } = self;
        for plane in [blank, quote, slash, high, tail] {
            *plane &= !rest;
        }
        self.space |= rest;
    }
}

/// What planes are made with.
pub(crate) struct PlaneTables {
    pub(crate) classes: ScanTables,
    /// None if the classes of ASCII are not as usual.
    pub(crate) columns: Option<Columns>,
}

impl PlaneTables {
    pub(crate) fn new(classes: ScanTables) -> Self {
        let columns = Columns::new(&classes);
        Self { classes, columns }
    }

    /// The class of the character to which the byte before `src` belongs.
    ///
    /// # Safety
    /// Four bytes before `src` and three from there on can be read.
    unsafe fn class_before(&self, src: *const u8) -> u8 {
        // SAFETY: as the caller promises; the lead byte is at most four bytes before.
        unsafe {
            let n_before = (1..4).find(|&n| *src.sub(n) & 0xC0 != 0x80).unwrap_or(4);
            let lead = src.sub(n_before);
            match *lead {
                ascii @ 0..0x80 => self.classes.ascii[usize::from(ascii)],
                _ => self.classes.class(lead.cast::<[u8; 4]>().read()),
            }
        }
    }
}

/// Fills the planes of as many blocks as `out` has room for; returns a bit for each that has bytes outside ASCII.
///
/// # Safety
/// So many blocks can be read at `src`, four bytes before them, and `READ_AHEAD` behind them; the processor
/// has the tier's features.
pub(crate) unsafe fn portable(tables: &PlaneTables, src: *const u8, out: &mut [Planes]) -> u64 {
    let mut wide = 0;
    // Class bytes of a block, behind one of the block before.
    let mut classes = [0; 1 + BLOCK];
    // SAFETY: as the caller promises.
    classes[0] = unsafe { tables.class_before(src) };
    for (at, planes) in out.iter_mut().enumerate() {
        // SAFETY: as the caller promises; a byte before the classes is valid.
        let bytes = unsafe {
            let src = src.add(at * BLOCK);
            wide |= portable::classify(&tables.classes, src, 1, classes[1..].as_mut_ptr()) << at;
            src.cast::<[u8; BLOCK]>().read()
        };
        let of_class = |bit: u8| bits_of(&classes[1..], |byte| byte & bit != 0);
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
        classes[0] = classes[BLOCK];
    }
    wide
}

fn bits_of(bytes: &[u8], is: impl Fn(u8) -> bool) -> u64 {
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

    use super::super::super::avx2::{ascii_rows, classify_block, flatten, is_ascii, load};
    use super::super::columns::{Column, Columns, ROWS};
    use super::{BLOCK, PlaneTables, Planes, ScanTables};

    /// See [`super::portable`].
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) unsafe fn avx2(tables: &PlaneTables, src: *const u8, out: &mut [Planes]) -> u64 {
        // SAFETY: passed on.
        unsafe {
            match &tables.columns {
                Some(columns) if columns.is_simple() => blocks::<true>(tables, src, out),
                _ => blocks::<false>(tables, src, out),
            }
        }
    }

    /// As [`avx2`]; `SIMPLE` if there are columns, and they are simple. (Such choices are made out here, and `wide` is
    /// not inlined, because of masks that two branches have in common the compiler makes single bits, one by one.)
    ///
    /// # Safety
    /// As there.
    #[inline(never)]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn blocks<const SIMPLE: bool>(tables: &PlaneTables, src: *const u8, out: &mut [Planes]) -> u64 {
        let mut wide_blocks = 0;
        // SAFETY: as the caller promises. Of what stands before a half only the last three bytes matter.
        let mut before = unsafe { splat(tables.class_before(src)) };
        for (at, planes) in out.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            unsafe {
                let src = src.add(at * BLOCK);
                let (low, high) = load(src);
                let is_narrow = is_ascii((low, high));
                if let Some(columns) = &tables.columns
                    && is_narrow
                {
                    *planes = narrow::<SIMPLE>(columns, low, high);
                } else {
                    wide_blocks |= u64::from(!is_narrow) << at;
                    wide(&tables.classes, src, &mut before, planes);
                }
            }
        }
        wide_blocks
    }

    /// The planes of a block of ASCII.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn narrow<const SIMPLE: bool>(columns: &Columns, low: __m256i, high: __m256i) -> Planes {
        let row = |bytes: __m256i| entry(&ROWS, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), splat(0x0F)));
        let (row_low, row_high) = (row(low), row(high));
        let of = |column: &Column| {
            let is = |bytes: __m256i, row: __m256i| {
                _mm256_cmpeq_epi8(_mm256_and_si256(entry(column, bytes), row), row)
            };
            mask(is(low, row_low), is(high, row_high))
        };
        let lower = of(&columns.lower);
        let upper = if SIMPLE { lower } else { of(&columns.upper) };
        let loose = if SIMPLE { 0 } else { of(&columns.loose) };
        let (space, newline, number) = (of(&columns.space), of(&columns.newline), of(&columns.number));
        Planes {
            lower,
            upper,
            other: !(lower | upper | space | number | loose),
            space,
            newline,
            number,
            own: 0,
            loose,
            blank: equal(low, high, b' '),
            quote: equal(low, high, b'\''),
            slash: equal(low, high, b'/'),
            high: 0,
            tail: 0,
        }
    }

    /// What each byte's low nibble finds in a column; nothing outside ASCII.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn entry(column: &Column, bytes: __m256i) -> __m256i {
        // SAFETY: a column is 16 bytes, aligned.
        let column = unsafe { _mm256_broadcastsi128_si256(_mm_load_si128(column.0.as_ptr().cast())) };
        _mm256_shuffle_epi8(column, bytes)
    }

    /// The planes of any block; `before` holds the classes of the half block before it, and then those of its own
    /// second half.
    ///
    /// # Safety
    /// As for [`avx2`], for one block.
    #[inline(never)]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn wide(classes: &ScanTables, src: *const u8, before: &mut __m256i, planes: &mut Planes) {
        let rows = ascii_rows(classes);
        // SAFETY: as the caller promises.
        let (low, high, class_low, class_high) = unsafe {
            let (low, high) = load(src);
            let (class_low, class_high) = classify_block(classes, &rows, src, (low, high), *before);
            (low, high, class_low, class_high)
        };
        *before = class_high;
        // The bit moves to the top of its byte; what crosses from byte to byte is below it.
        macro_rules! bit {
            ($up:literal) => {
                mask(_mm256_slli_epi16::<$up>(class_low), _mm256_slli_epi16::<$up>(class_high))
            };
        }
        // As signed numbers: continuation bytes are below -64.
        let lead = splat(0xC0);
        *planes = Planes {
            lower: bit!(7),
            upper: bit!(6),
            other: bit!(5),
            space: bit!(4),
            newline: bit!(3),
            number: bit!(2),
            own: bit!(1),
            loose: mask(class_low, class_high),
            blank: equal(low, high, b' '),
            quote: equal(low, high, b'\''),
            slash: equal(low, high, b'/'),
            high: mask(low, high),
            tail: mask(_mm256_cmpgt_epi8(lead, low), _mm256_cmpgt_epi8(lead, high)),
        };
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
    fn splat(byte: u8) -> __m256i {
        _mm256_set1_epi8(byte as i8)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn equal(low: __m256i, high: __m256i, byte: u8) -> u64 {
        mask(_mm256_cmpeq_epi8(low, splat(byte)), _mm256_cmpeq_epi8(high, splat(byte)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn mask(low: __m256i, high: __m256i) -> u64 {
        u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
    }
}
