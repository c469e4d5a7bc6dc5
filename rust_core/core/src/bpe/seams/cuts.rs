//! Which places of a block are seams or edges.
//!
//! Of most text outside ASCII both characters have three bytes, or both two. Their code points are computed
//! for every byte of the block at once, as if a character began there; what begins none is not looked at.
//! What is left beside those (characters of four bytes, of different lengths) goes one by one.

use super::{Seams, code_point, len_of};
use crate::pretokenize::scan::BLOCK;

/// Bytes before a block at which the left character of its first place may begin.
const BEFORE: usize = 4;
/// Code points from there on, in vectors of 16.
const POINTS: usize = 80;

/// Code points of the characters that begin at each byte from [`BEFORE`] before the block on.
#[repr(C, align(32))]
struct Points([u16; POINTS]);

/// Which of the `candidates` of a block are seams: first bytes of characters of several bytes, behind such
/// characters. And which places are edges, candidates or not.
///
/// # Safety
/// Four bytes before `src` and 78 from there on can be read; the processor has the tier's features.
pub(crate) unsafe fn portable(seams: &Seams, src: *const u8, candidates: u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { one_by_one(seams, src, candidates) | seams.edges.portable(src) }
}

/// Which of the candidates are seams.
///
/// # Safety
/// As for [`portable`].
unsafe fn one_by_one(seams: &Seams, src: *const u8, mut places: u64) -> u64 {
    let mut found = 0;
    while places != 0 {
        let at = places.trailing_zeros() as usize;
        places &= places - 1;
        // SAFETY: `at` < 64, as the caller promises.
        found |= unsafe { seam(seams, src.add(at)) } << at;
    }
    found
}

/// 1 if the place between two characters of several bytes is a seam.
///
/// # Safety
/// Four bytes before `src`, which end a character, and four from there on, which begin one, can be read.
#[inline]
unsafe fn seam(seams: &Seams, src: *const u8) -> u64 {
    // SAFETY: as the caller promises.
    let (left, right) = unsafe { (src.sub(4).cast::<[u8; 4]>().read(), src.cast::<[u8; 4]>().read()) };
    let lead = left.iter().rposition(|&byte| byte >= 0xC0).unwrap_or(0);
    let first = u32::from(right[0]) & 0x3F;
    seams.look_up(code_point(&left[lead..]), code_point(&right[..len_of(right[0])]), first) & 1
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(
        clippy::wildcard_imports,
        clippy::cast_possible_wrap,
        clippy::cast_ptr_alignment,
        reason = "intrinsics by name; their lanes are signed by convention and their loads unaligned where said"
    )]

    use std::arch::x86_64::*;

    use super::{BEFORE, BLOCK, POINTS, Points, Seams, one_by_one};

    /// See [`super::portable`].
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) unsafe fn avx2(seams: &Seams, src: *const u8, candidates: u64) -> u64 {
        // SAFETY: as the caller promises; each function reads the block, and from four bytes before it on.
        unsafe {
            let three = candidates & begins(src, 0xE0, 0xF0) & begins(src.sub(3), 0xE0, 0xF0);
            let two = candidates & begins(src, 0xC0, 0xE0) & begins(src.sub(2), 0xC0, 0xE0);
            let others = candidates & !(three | two);
            let mut found = seams.edges.avx2(src);
            if three != 0 {
                found |= among_three(seams, src, three);
            }
            if two != 0 {
                found |= among_two(seams, src, two);
            }
            if others != 0 {
                found |= one_by_one(seams, src, others);
            }
            found
        }
    }

    /// A bit for each of 64 bytes that is `lead` under a mask.
    ///
    /// # Safety
    /// They can be read.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn begins(src: *const u8, lead: u8, mask: u8) -> u64 {
        let (lead, mask) = (_mm256_set1_epi8(lead as i8), _mm256_set1_epi8(mask as i8));
        // SAFETY: as the caller promises.
        let (low, high) =
            unsafe { (_mm256_loadu_si256(src.cast()), _mm256_loadu_si256(src.add(BLOCK / 2).cast())) };
        let low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_and_si256(low, mask), lead));
        let high = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_and_si256(high, mask), lead));
        u64::from(low as u32) | u64::from(high as u32) << 32
    }

    /// Sixteen bytes, each in 16 bits.
    ///
    /// # Safety
    /// They can be read.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn widened(src: *const u8) -> __m256i {
        // SAFETY: as the caller promises.
        _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(src.cast()) })
    }

    /// Those between two characters of three bytes.
    ///
    /// # Safety
    /// As for [`avx2`].
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn among_three(seams: &Seams, src: *const u8, mut places: u64) -> u64 {
        let mut points = Points([0; POINTS]);
        let low = _mm256_set1_epi16(0x3F);
        for at in (0..POINTS).step_by(16) {
            // SAFETY: `at` is at most 64, so that the last byte read is the 82nd.
            unsafe {
                let src = src.sub(BEFORE).add(at);
                let (a, b, c) = (widened(src), widened(src.add(1)), widened(src.add(2)));
                let b = _mm256_slli_epi16::<6>(_mm256_and_si256(b, low));
                let c = _mm256_and_si256(c, low);
                let point = _mm256_or_si256(_mm256_slli_epi16::<12>(a), _mm256_or_si256(b, c));
                _mm256_store_si256(points.0.as_mut_ptr().add(at).cast(), point);
            }
        }
        let mut found = 0;
        while places != 0 {
            let at = places.trailing_zeros() as usize;
            places &= places - 1;
            let (left, right) = (u32::from(points.0[BEFORE + at - 3]), u32::from(points.0[BEFORE + at]));
            found |= (seams.look_up(left, right, 0x20 | right >> 12) & 1) << at;
        }
        found
    }

    /// Those between two characters of two bytes.
    ///
    /// # Safety
    /// As for [`avx2`].
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn among_two(seams: &Seams, src: *const u8, mut places: u64) -> u64 {
        let mut points = Points([0; POINTS]);
        for at in (0..POINTS).step_by(16) {
            // SAFETY: `at` is at most 64, so that the last byte read is the 81st.
            unsafe {
                let src = src.sub(BEFORE).add(at);
                let (a, b) = (widened(src), widened(src.add(1)));
                let a = _mm256_slli_epi16::<6>(_mm256_and_si256(a, _mm256_set1_epi16(0x1F)));
                let point = _mm256_or_si256(a, _mm256_and_si256(b, _mm256_set1_epi16(0x3F)));
                _mm256_store_si256(points.0.as_mut_ptr().add(at).cast(), point);
            }
        }
        let mut found = 0;
        while places != 0 {
            let at = places.trailing_zeros() as usize;
            places &= places - 1;
            let (left, right) = (u32::from(points.0[BEFORE + at - 2]), u32::from(points.0[BEFORE + at]));
            found |= (seams.look_up(left, right, right >> 6) & 1) << at;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier;
    use crate::vocab::{Vocabulary, named, rank_file};

    /// Every kind of token that spans a place: both characters, part of the one, of the other, of both.
    fn vocabulary() -> Vocabulary {
        let bytes = (0..=255_u8).map(|byte| vec![byte]);
        let more: [&[u8]; 9] = [
            "中国".as_bytes(),
            b"\xAD\xE5\x9B\xBD",
            "国\u{e9}".as_bytes(),
            b"\xE5\x9B\xBD\xE3",
            b"\xBD\xF0",
            b"\xB6\xD0",
            "жи".as_bytes(),
            "и😀".as_bytes(),
            "a中b".as_bytes(),
        ];
        let pattern = named::published("cl100k_base").expect("known").0;
        rank_file::of_tokens(bytes.chain(more.map(<[u8]>::to_vec)), pattern)
    }

    #[test]
    fn tiers_agree_and_no_token_spans_a_cut() {
        let vocab = vocabulary();
        let tokens: Vec<&[u8]> =
            vocab.ordinary().map(|(_, token)| token).filter(|token| token.len() > 1).collect();
        let units = ["a", " ", "é", "ж", "и", "中", "国", "の", "，", "한", "\u{fffd}", "😀", "𠀀"];
        let (mut state, mut n_cuts, mut n_spanned) = (1_u64, 0, 0);
        for whole in [None, Some("中".as_bytes())] {
            let seams = Seams::new(&vocab, whole.into_iter());
            for _ in 0..tier::n_cases(2000) {
                let mut text = "    ".to_owned();
                while text.len() < 160 {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    text.push_str(units[(state >> 33) as usize % units.len()]);
                }
                let bytes = text.as_bytes();
                let candidates = (0..BLOCK).fold(0, |bits, at| {
                    let is = bytes[4 + at] >= 0xC0 && bytes[3 + at] & 0xC0 == 0x80;
                    bits | u64::from(is) << at
                });
                // SAFETY: four bytes before, and more than 78 behind.
                let found = unsafe { portable(&seams, bytes.as_ptr().add(4), candidates) };
                for kernels in tier::tested() {
                    // SAFETY: the same, and the processor has the tier's features.
                    let cuts = unsafe { (kernels.cuts)(&seams, bytes.as_ptr().add(4), candidates) };
                    assert_eq!(cuts, found, "{}: {text:?}", kernels.name);
                }
                for at in 0..BLOCK {
                    let (left, right) = bytes.split_at(4 + at);
                    let spanned = tokens.iter().any(|token| {
                        (1..token.len())
                            .any(|k| left.ends_with(&token[..k]) && right.starts_with(&token[k..]))
                    });
                    let closed = whole.is_some_and(|whole| left.ends_with(whole) || right.starts_with(whole));
                    let is_cut = found >> at & 1 == 1;
                    assert!(!(is_cut && (spanned || closed)), "{text:?} at {at}");
                    n_cuts += usize::from(is_cut);
                    n_spanned += usize::from(spanned && candidates >> at & 1 == 1);
                }
            }
        }
        assert!(n_cuts > 5000 && n_spanned > 1000, "{n_cuts} {n_spanned}");
    }
}
