//! Merging short words with vector registers; see the module above.

#![allow(
    clippy::wildcard_imports,
    clippy::cast_possible_wrap,
    clippy::cast_ptr_alignment,
    clippy::similar_names,
    reason = "intrinsics by name; their lanes are signed by convention and their loads unaligned where said"
)]

use std::arch::x86_64::*;

use super::{NEVER, ShortPairs, Word};

/// Words that a kernel has in work at a time.
const SIDE_BY_SIDE: usize = 4;

/// From entry `at` on: lane numbers with which a window of three begins one before lane `at`; before
/// lane 0 comes lane 15, which is always empty.
static NEIGHBOURS: [u16; 32] = {
    let mut lanes = [0; 32];
    let mut at = 0;
    while at < 32 {
        lanes[at] = (at as u16).wrapping_sub(1) & 15;
        at += 1;
    }
    lanes
};

/// From entry `16 - at` on: a mask of lane `at`. (So `17 - at` gives the lane before, if there is one.)
static LANE: [u16; 33] = {
    let mut lanes = [0; 33];
    lanes[16] = u16::MAX;
    lanes
};

/// From entry `16 - at` on: a mask of the lanes behind lane `at`.
static BEHIND: [u16; 33] = {
    let mut lanes = [0; 33];
    let mut at = 17;
    while at < 33 {
        lanes[at] = u16::MAX;
        at += 1;
    }
    lanes
};

/// Symbols and priorities of a word in work.
#[derive(Clone, Copy)]
struct State {
    symbols: __m256i,
    priorities: __m256i,
    n: u32,
}

/// Priorities of the pairs of neighbouring bytes, [`NEVER`] behind the last.
#[inline]
#[target_feature(enable = "avx2")]
fn byte_priorities(pairs: &ShortPairs, word: &Word) -> __m256i {
    let bytes = u128::from_le_bytes(word.bytes);
    let pair = |at: u32| pairs.of_bytes((bytes >> (8 * at)) as u16) as i16;
    let all = _mm256_setr_epi16(
        pair(0),
        pair(1),
        pair(2),
        pair(3),
        pair(4),
        pair(5),
        pair(6),
        pair(7),
        pair(8),
        pair(9),
        pair(10),
        pair(11),
        pair(12),
        pair(13),
        -1,
        -1,
    );
    // Lanes from the last byte on have no pair.
    let last = _mm256_set1_epi16(word.n_bytes as i16 - 1);
    let lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm256_or_si256(all, _mm256_xor_si256(_mm256_cmpgt_epi16(last, lane), _mm256_set1_epi16(-1)))
}

/// The bytes as symbols, [`NEVER`] behind the last.
#[inline]
#[target_feature(enable = "avx2")]
fn byte_symbols(word: &Word) -> __m256i {
    // SAFETY: 16 bytes.
    let bytes = unsafe { _mm_loadu_si128(word.bytes.as_ptr().cast()) };
    let n = _mm256_set1_epi16(word.n_bytes as i16);
    let lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let behind = _mm256_xor_si256(_mm256_cmpgt_epi16(n, lane), _mm256_set1_epi16(-1));
    _mm256_or_si256(_mm256_cvtepu8_epi16(bytes), behind)
}

/// The least of 16 priorities (lower half of the result) and its lane (upper half), the leftmost of
/// equals.
#[inline]
#[target_feature(enable = "avx2,sse4.1")]
fn least(priorities: __m256i) -> u32 {
    let low = _mm_cvtsi128_si32(_mm_minpos_epu16(_mm256_castsi256_si128(priorities))) as u32;
    let high = _mm_cvtsi128_si32(_mm_minpos_epu16(_mm256_extracti128_si256::<1>(priorities))) as u32;
    let high = high + (8 << 16);
    if (high as u16) < low as u16 { high } else { low }
}

/// Merges the pair at `place` of a word in work.
///
/// # Safety
/// `place` is at most 13.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,avx2,sse4.1,bmi1,bmi2")]
unsafe fn step_avx512(pairs: &ShortPairs, state: State, priority: u16, place: u32) -> State {
    let last_lane = _mm256_setr_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1);
    let here = 1_u16 << place;
    let kept = !(2_u32 << place) as u16;
    let symbols = _mm256_mask_set1_epi16(state.symbols, here, priority as i16);
    let symbols = _mm256_or_si256(_mm256_maskz_compress_epi16(kept, symbols), last_lane);
    let priorities = _mm256_maskz_compress_epi16(kept, state.priorities);
    // SAFETY: 16 of 32 entries.
    let window = unsafe { _mm256_loadu_si256(NEIGHBOURS.as_ptr().add(place as usize).cast()) };
    let three = _mm_cvtsi128_si64(_mm256_castsi256_si128(_mm256_permutexvar_epi16(window, symbols))) as u64;
    let left = pairs.get(three as u32);
    let right = pairs.get((three >> 16) as u32);
    let priorities = _mm256_mask_set1_epi16(priorities, here, right as i16);
    // Without a left neighbour this is lane 15, and NEVER, as the pair with nothing is.
    let priorities = _mm256_mask_set1_epi16(priorities, here.rotate_right(1), left as i16);
    State { symbols, priorities: _mm256_or_si256(priorities, last_lane), n: state.n - 1 }
}

/// See [`step_avx512`]. A gap is closed by a blend with the same lanes moved by one; neighbours are read
/// back from a store, which processors forward to loads that lie inside it.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2,sse4.1,bmi1,bmi2")]
unsafe fn step_avx2(pairs: &ShortPairs, state: State, priority: u16, place: u32) -> State {
    let place = place as usize;
    // SAFETY: 16 of 33 entries, from 2 to 17 on.
    let mask = |table: &[u16; 33], from: usize| unsafe {
        _mm256_loadu_si256(table.as_ptr().add(from).cast::<__m256i>())
    };
    let (here, behind) = (mask(&LANE, 16 - place), mask(&BEHIND, 16 - place));
    let never = _mm256_set1_epi16(-1);
    let close = |lanes: __m256i| {
        // The upper half and then nothing; with `lanes` before it, moved down by one lane.
        let upper = _mm256_permute2x128_si256::<0x31>(lanes, never);
        _mm256_blendv_epi8(lanes, _mm256_alignr_epi8::<2>(upper, lanes), behind)
    };
    let symbols = _mm256_blendv_epi8(state.symbols, _mm256_set1_epi16(priority as i16), here);
    let symbols = close(symbols);
    let mut stored = [0_u16; 16];
    // SAFETY: 16 lanes; two from `place` <= 13 on, or from the one before, are inside.
    let (left, right) = unsafe {
        _mm256_storeu_si256(stored.as_mut_ptr().cast(), symbols);
        let pair = |from: usize| stored.as_ptr().add(from).cast::<u32>().read_unaligned();
        (pairs.get(pair(place.saturating_sub(1))), pairs.get(pair(place)))
    };
    let priorities = close(state.priorities);
    let priorities = _mm256_blendv_epi8(priorities, _mm256_set1_epi16(right as i16), here);
    // Without a left neighbour the mask is empty.
    let before = mask(&LANE, 17 - place);
    let priorities = _mm256_blendv_epi8(priorities, _mm256_set1_epi16(left as i16), before);
    State { symbols, priorities, n: state.n - 1 }
}

macro_rules! side_by_side {
    ($(#[$attribute:meta])* $name:ident, $step:ident) => {
        $(#[$attribute])*
        pub(crate) unsafe fn $name(pairs: &ShortPairs, words: &mut [Word]) {
            let never = _mm256_set1_epi16(-1);
            let empty = State { symbols: never, priorities: never, n: 0 };
            let start = |word: &Word| State {
                symbols: byte_symbols(word),
                priorities: byte_priorities(pairs, word),
                n: word.n_bytes,
            };
            let mut states = [empty; SIDE_BY_SIDE];
            let mut at = [usize::MAX; SIDE_BY_SIDE];
            let mut next = SIDE_BY_SIDE.min(words.len());
            for lane in 0..next {
                (states[lane], at[lane]) = (start(&words[lane]), lane);
            }
            let mut in_work = next;
            while in_work > 0 {
                let mut found = [0; SIDE_BY_SIDE];
                for lane in 0..SIDE_BY_SIDE {
                    found[lane] = least(states[lane].priorities);
                }
                for lane in 0..SIDE_BY_SIDE {
                    let (priority, place) = (found[lane] as u16, found[lane] >> 16);
                    if priority != NEVER {
                        // SAFETY: of at most 15 symbols only 14 begin a pair.
                        states[lane] = unsafe { $step(pairs, states[lane], priority, place) };
                        continue;
                    }
                    let Some(word) = words.get_mut(at[lane]) else { continue };
                    // SAFETY: 16 lanes of 16 bits.
                    unsafe { _mm256_storeu_si256(word.symbols.as_mut_ptr().cast(), states[lane].symbols) };
                    word.n_symbols = states[lane].n;
                    if next < words.len() {
                        (states[lane], at[lane]) = (start(&words[next]), next);
                        next += 1;
                    } else {
                        (states[lane], at[lane]) = (empty, usize::MAX);
                        in_work -= 1;
                    }
                }
            }
        }
    };
}

side_by_side! {
    /// See [`super::portable`].
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW, VL and VBMI2; words have 1 to 15 bytes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,avx2,sse4.1,bmi1,bmi2")]
    avx512, step_avx512
}

side_by_side! {
    /// See [`super::portable`].
    ///
    /// # Safety
    /// The processor has AVX2; words have 1 to 15 bytes.
    #[target_feature(enable = "avx2,sse4.1,bmi1,bmi2")]
    avx2, step_avx2
}
